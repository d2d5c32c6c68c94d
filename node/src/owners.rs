//! Who owns what, as this node sees it at the moment.
//!
//! Owns: the placement of the newest view, and which shards the node answers for; both for many readers.
//! Does not own: placement and readiness themselves (`tidemark_rollup::{placement, ownership}`), keeping them up to date
//! (`repair`).

use crate::planted::{Bug, Planted};
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_rollup::member::{MemberState, NodeId, View};
use tidemark_rollup::ownership::Ownership;
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
    /// Keys of the nodes that are taken into account there, the node itself among them.
    met: Arc<BTreeSet<u64>>,
    /// Nodes that may have taken what is not here.
    owed: Arc<BTreeSet<NodeId>>,
}

impl Owners {
    pub(crate) fn of(me: NodeId, view: Arc<View>, shards: ShardCount, replication: Replication) -> Self {
        let placement = Placement::of(&view, shards, replication);
        let keys = |shard: ShardId| placement.writers(shard).map(|node| node.id.key()).collect();
        let writers = Arc::new(placement.shards().map(keys).collect());
        let ready = vec![false; shards.get() as usize];
        let (met, owed) = (Arc::default(), Arc::default());
        Self { me, view, placement: Arc::new(placement), writers, ready, met, owed }
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

    /// Whether this node has met all nodes of these keys. One that it has not met may have what it lacks.
    pub(crate) fn has_met(&self, keys: &[u64]) -> bool {
        keys.iter().all(|key| self.met.contains(key))
    }

    /// Nodes that may have taken events which are not here yet: answers are not complete as long as there are some.
    pub(crate) fn owed(&self) -> &BTreeSet<NodeId> {
        &self.owed
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
