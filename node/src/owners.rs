//! Who owns what, as this node sees it at the moment.
//!
//! Owns: the placement of the newest view, and which shards the node answers for; both for many readers.
//! Does not own: placement and readiness themselves (`tidemark_rollup::{placement, ownership}`), keeping them up to date
//! (`repair`).

use crate::planted::{Bug, Planted};
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::member::{MemberState, NodeId, View};
use tidemark_rollup::ownership::{Met, Ownership};
use tidemark_rollup::placement::{Placement, Replication};
use tidemark_rollup::sharding::{ShardCount, ShardId};

/// Who owns what. A value: made anew for every change.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    pub(crate) me: NodeId,
    pub(crate) view: Arc<View>,
    pub(crate) placement: Arc<Placement>,
    /// Per shard the keys of those who are written to.
    writers: Arc<Vec<Arc<[u64]>>>,
    /// Per shard whether this node answers for it.
    ready: Vec<bool>,
    /// The nodes that are taken into account there, the node itself among them.
    met: Arc<Met>,
    /// Nodes that may have taken what is not here.
    owed: Arc<BTreeSet<NodeId>>,
    /// The node joins, and knows where others should be, but sees none of them.
    waits: bool,
}

impl Owners {
    /// `expects_others`: this node knows where there should be some.
    pub(crate) fn of(
        me: NodeId,
        view: Arc<View>,
        expects_others: bool,
        shards: ShardCount,
        replication: Replication,
    ) -> Self {
        let placement = Placement::of(&view, shards, replication);
        let keys = |shard: ShardId| placement.writers(shard).map(|node| node.id.key()).collect();
        let writers = Arc::new(placement.shards().map(keys).collect());
        let ready = vec![false; shards.get() as usize];
        let (met, owed) = (Arc::default(), Arc::default());
        let joins = view.member(&me).is_none_or(|me| me.state == MemberState::Joining);
        let waits = expects_others && joins && is_alone(&view);
        Self { me, view, placement: Arc::new(placement), writers, ready, met, owed, waits }
    }

    /// The same with what is ready by now.
    pub(crate) fn with_ready(&self, ownership: &Ownership, planted: Planted) -> Self {
        let at_once = planted.has(Bug::ReadyAtOnce);
        let is_ready = |shard| ownership.is_ready(shard) || at_once && ownership.is_writer(shard);
        let ready = self.placement.shards().map(is_ready).collect();
        let (met, owed) = (Arc::clone(ownership.met()), Arc::new(ownership.owed()));
        Self { ready, met, owed, ..self.clone() }
    }

    /// The keys of those who are written to for a shard.
    pub(crate) fn writers(&self, shard: ShardId) -> Arc<[u64]> {
        self.writers.get(shard.index()).cloned().unwrap_or_default()
    }

    /// Whether everybody who is written to for a shard is among those of these keys.
    pub(crate) fn are_all_among(&self, shard: ShardId, keys: &[u64]) -> bool {
        self.writers
            .get(shard.index())
            .is_some_and(|writers| writers.iter().all(|writer| keys.contains(writer)))
    }

    /// Whether this node answers for a shard. `now` is the newest view: who joins answers for nothing, and who was given up meanwhile
    /// joins again.
    pub(crate) fn is_ready(&self, shard: ShardId, now: &View) -> bool {
        let joins = now.member(&self.me).is_some_and(|me| me.state == MemberState::Joining);
        !joins && self.ready.get(shard.index()).copied().unwrap_or_default()
    }

    /// Whether this node has met all of these, in the lives that they are in. One that it has not met may have what it lacks.
    pub(crate) fn has_met(&self, nodes: &[v1::SeenNode]) -> bool {
        let is_met = |of: &v1::SeenNode| self.met.get(&of.key).is_some_and(|up_to| of.incarnation <= up_to.0);
        nodes.iter().all(is_met)
    }

    /// Nodes that may have taken events which are not here yet: answers are not complete as long as there are some.
    pub(crate) fn owed(&self) -> &BTreeSet<NodeId> {
        &self.owed
    }

    /// Whether this node has all there is of what it owns, as far as is known. Not for a moment after shards were given to it.
    pub(crate) fn has_all(&self, now: &View) -> bool {
        let has = |shard: ShardId| !self.placement.is_writer(shard, &self.me) || self.is_ready(shard, now);
        self.owed.is_empty() && self.placement.shards().all(has)
    }

    /// Whether this node joins and sees no other node, though there should be some. What it took now, they would not know of.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// This node's place among the owners of a shard: 0 flushes, the others see to it that it did.
    pub(crate) fn rank(&self, shard: ShardId) -> Option<usize> {
        self.placement.rank(shard, &self.me)
    }

    /// Whether this node does for the cluster what one has to do: compaction and retention.
    pub(crate) fn maintains(&self) -> bool {
        let mut shards = self.placement.shards();
        shards.next().is_some_and(|first| self.rank(first) == Some(0))
    }

    /// What this node is about to do.
    pub(crate) fn state(&self) -> MemberState {
        self.view.member(&self.me).map_or(MemberState::Joining, |me| me.state)
    }
}

/// Whether no other node is in view. A coordinator may be heard of sooner than those who have the blocks: a node that took it for
/// company would begin at once with nothing, and be asked as if it had everything.
fn is_alone(view: &View) -> bool {
    view.nodes().count() <= 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_rollup::member::{Incarnation, Member, Role};

    #[test]
    fn a_coordinator_is_no_company_for_a_node_that_joins() {
        let node = |name: &str| Member::node(NodeId::new(name).unwrap(), format!("{name}:1"));
        let coordinator = Member { role: Role::Coordinator, ..node("c0") };
        let is_alone = |members: Vec<Member>| is_alone(&View::new(members).unwrap());
        assert!(is_alone(vec![node("n5")]));
        assert!(is_alone(vec![node("n5"), coordinator.clone()]));
        assert!(!is_alone(vec![node("n5"), coordinator, node("n0")]));
    }

    #[test]
    fn a_node_is_met_in_no_later_life_than_it_was_seen_in_and_has_all_only_after_comparing() {
        let (shards, id) = (ShardCount::new(8).unwrap(), |name: &str| NodeId::new(name).unwrap());
        let node = |name: &str, state, incarnation| Member {
            state,
            incarnation: Incarnation(incarnation),
            ..Member::node(id(name), format!("{name}:1"))
        };
        let mut ownership = Ownership::new(id("a"), shards);
        let mut owners = |members: Vec<Member>, compares: bool| {
            let view = Arc::new(View::new(members).unwrap());
            let owners = Owners::of(id("a"), Arc::clone(&view), true, shards, Replication::DEFAULT);
            ownership.update(&view, &owners.placement);
            for (with, of) in ownership.to_compare().into_iter().filter(|_| compares) {
                let comparison = ownership.begin(&with, &of);
                ownership.compared(&comparison, &of.into_iter().collect());
            }
            (owners.with_ready(&ownership, Planted::default()), view)
        };
        let b_joins = || node("b", MemberState::Joining, 5);
        let seen = |incarnation| [v1::SeenNode { key: id("b").key(), incarnation }];

        let (joining, view) = owners(vec![node("a", MemberState::Joining, 1), b_joins()], true);
        assert!(!joining.has_all(&view), "it joins");
        assert!(joining.has_met(&seen(4)) && joining.has_met(&seen(5)) && !joining.has_met(&seen(6)));
        let (active, view) = owners(vec![node("a", MemberState::Active, 2), b_joins()], false);
        assert!(active.has_all(&view));
        let b_is_active = || vec![node("a", MemberState::Active, 2), node("b", MemberState::Active, 6)];
        let (owing, view) = owners(b_is_active(), false);
        assert!(!owing.has_all(&view), "b did not ask");
        let (active, view) = owners(b_is_active(), true);
        assert!(active.has_all(&view));
    }
}
