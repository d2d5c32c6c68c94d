//! Who can be asked for what.
//!
//! Owns: the nodes as they are asked, and for each shard those that can answer, in the order to ask them.
//! Does not own: the view and connections (`peers`), whom to ask next (`query::asking`), asking (`fanout`).

use std::fmt;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::member::{Member, MemberState, NodeId, View};
use tidemark_rollup::placement::{Placement, Replication};
use tidemark_rollup::sharding::ShardCount;

/// What to do about a cluster that has no nodes.
pub(crate) const NO_NODES: &str =
    "the cluster has no members: start a node, or tell the coordinator where the nodes are";

/// A node as it is asked. One that comes back elsewhere is another one: what failed there says nothing about here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) address: String,
}

impl Peer {
    pub(crate) fn of(member: &Member) -> Self {
        Self { id: member.id.clone(), address: member.address.clone() }
    }
}

/// What answers and errors call a node: `id (address)`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.address)
    }
}

/// Whom to ask for each shard. A value: made anew for every view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    view: Arc<View>,
    shards: ShardCount,
    replication: Replication,
    /// Per shard.
    readers: Vec<Vec<Arc<Peer>>>,
    /// The nodes that have something to answer with.
    settled: Vec<v1::SeenNode>,
}

impl Plan {
    pub(crate) fn of(view: &Arc<View>, shards: ShardCount, replication: Replication) -> Self {
        let placement = Placement::of(view, shards, replication);
        let peers: Vec<Arc<Peer>> = placement.nodes().iter().map(|node| Arc::new(Peer::of(node))).collect();
        // Nodes are in the order of their names.
        let peer_of = |node: &Member| peers.binary_search_by(|peer| peer.id.cmp(&node.id)).ok();
        let readers = shards.shards().map(|shard| {
            let positions = placement.readers(shard).filter_map(peer_of);
            positions.map(|at| Arc::clone(&peers[at])).collect()
        });
        let readers = readers.collect();
        let is_settled = |node: &&Member| node.state != MemberState::Joining && !node.doubtful;
        let seen = |node: &Member| v1::SeenNode { key: node.id.key(), incarnation: node.incarnation.0 };
        let settled = view.nodes().filter(is_settled).map(seen).collect();
        Self { view: Arc::clone(view), shards, replication, readers, settled }
    }

    /// The view it was made for.
    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Whom to ask for a shard, in this order.
    pub(crate) fn readers(&self, shard: u32) -> &[Arc<Peer>] {
        self.readers.get(shard as usize).map_or(&[], Vec::as_slice)
    }

    /// The nodes that are active or leaving, and not in doubt: whoever is asked has to have met them all.
    pub(crate) fn settled(&self) -> &[v1::SeenNode] {
        &self.settled
    }

    /// All shards.
    pub(crate) fn shards(&self) -> impl Iterator<Item = u32> + Clone + use<> {
        0..self.shards.get()
    }

    /// How many owners a shard is to have.
    pub(crate) fn replication(&self) -> Replication {
        self.replication
    }

    pub(crate) fn shard_count(&self) -> u32 {
        self.shards.get()
    }

    /// The entry in the facts for `shards` shards that `node` did not answer for.
    pub(crate) fn missing(&self, node: String, shards: usize, reason: String) -> v1::Missing {
        let share = shards as f64 / f64::from(self.shards.get());
        v1::Missing { node, shards: shards as u32, share, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_rollup::member::Incarnation;

    fn member(at: usize) -> Member {
        Member::node(NodeId::new(format!("n{at}")).unwrap(), format!("h{at}:1"))
    }

    fn plan(members: Vec<Member>) -> Plan {
        let view = Arc::new(View::new(members).unwrap());
        Plan::of(&view, ShardCount::DEFAULT, Replication::DEFAULT)
    }

    #[test]
    fn every_shard_has_as_many_readers_as_there_are_owners() {
        for (members, readers) in [(1, 1), (2, 2), (5, 2)] {
            let plan = plan((0..members).map(member).collect());
            assert!(plan.shards().all(|shard| plan.readers(shard).len() == readers));
        }
    }

    #[test]
    fn who_has_yet_to_get_the_blocks_is_not_asked_and_who_is_in_doubt_is_asked_last() {
        let joining = Member { state: MemberState::Joining, ..member(0) };
        let doubtful = Member { doubtful: true, ..member(1) };
        let plan = plan(vec![joining, doubtful, member(2)]);
        for shard in plan.shards() {
            let names: Vec<&str> = plan.readers(shard).iter().map(|peer| peer.id.as_str()).collect();
            assert_eq!(names, ["n2", "n1"]);
        }
    }

    #[test]
    fn who_is_asked_has_to_have_met_all_nodes_but_those_that_join_or_are_in_doubt() {
        let joining = Member { state: MemberState::Joining, ..member(0) };
        let doubtful = Member { doubtful: true, ..member(1) };
        let leaving = Member { state: MemberState::Leaving, incarnation: Incarnation(7), ..member(2) };
        let expected = [(2, 7), (3, member(3).incarnation.0)]
            .map(|(at, incarnation)| v1::SeenNode { key: member(at).id.key(), incarnation });
        assert_eq!(plan(vec![joining, doubtful, leaving, member(3)]).settled(), expected);
    }

    #[test]
    fn without_members_nobody_is_asked() {
        let plan = plan(Vec::new());
        assert!(plan.shards().all(|shard| plan.readers(shard).is_empty()));
    }
}
