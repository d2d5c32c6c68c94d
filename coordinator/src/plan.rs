//! Who is asked for what.
//!
//! Owns: the split of all shards over the nodes of a view.
//! Does not own: the view and connections (`peers`), asking (`fanout`).

use tidemark_proto::v1;
use tidemark_rollup::placement::{Member, Placement, View};
use tidemark_rollup::sharding::ShardCount;

/// One node and the shards it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) member: Member,
    /// Ascending, never empty.
    pub(crate) shards: Vec<u32>,
}

impl Part {
    /// What answers call the node.
    pub(crate) fn name(&self) -> String {
        node_name(&self.member)
    }
}

/// What answers and errors call a node: `id (address)`.
pub(crate) fn node_name(member: &Member) -> String {
    format!("{} ({})", member.id, member.address)
}

/// Every shard exactly once, in one part per node that owns any. A value: made anew for every view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    view: View,
    shards: ShardCount,
    parts: Vec<Part>,
}

impl Plan {
    pub(crate) fn of(view: &View, shards: ShardCount) -> Self {
        let placement = Placement::of(view, shards);
        let members = placement.members().iter();
        let mut parts: Vec<Part> =
            members.map(|member| Part { member: member.clone(), shards: Vec::new() }).collect();
        for (shard, &owner) in (0..).zip(placement.owners()) {
            parts[owner as usize].shards.push(shard);
        }
        parts.retain(|part| !part.shards.is_empty());
        Self { view: view.clone(), shards, parts }
    }

    /// The view it was made for.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The nodes to ask, by name.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
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
    use tidemark_rollup::member::NodeId;

    fn view(members: usize) -> View {
        let member = |at| Member { id: NodeId::new(format!("n{at}")).unwrap(), address: format!("h{at}:1") };
        View::new((0..members).map(member).collect()).unwrap()
    }

    #[test]
    fn every_shard_is_asked_for_exactly_once() {
        let shards = ShardCount::new(64).unwrap();
        for members in 1..5 {
            let plan = Plan::of(&view(members), shards);
            let mut asked: Vec<u32> = plan.parts().iter().flat_map(|part| part.shards.clone()).collect();
            asked.sort_unstable();
            assert_eq!(asked, (0..64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_member_without_shards_is_not_asked() {
        let plan = Plan::of(&view(8), ShardCount::new(1).unwrap());
        assert_eq!(plan.parts().len(), 1);
        assert_eq!(plan.view().members().len(), 8);
    }

    #[test]
    fn without_members_nobody_is_asked() {
        assert!(Plan::of(&View::default(), ShardCount::DEFAULT).parts().is_empty());
    }
}
