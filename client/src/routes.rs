//! Which nodes a block is brought to, in which order.
//!
//! Owns: the order of nodes for each shard, from a placement as a cluster tells it.
//! Does not own: how the placement is learnt (`watch`), which nodes answer at the moment (`desk`).

use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::sharding::ShardCount;

/// A placement that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RoutesError {
    #[error("the cluster says that it has {0} shards")]
    NoCount(u32),
    #[error(
        "the cluster has {found} shards, and this producer makes blocks for {ours}: another cluster answers here"
    )]
    OtherCount { found: u32, ours: u32 },
}

/// Where blocks go. A value: made anew for every placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    addresses: Vec<Arc<str>>,
    /// Per shard: positions in `addresses`, whom to turn to first. Empty where no placement is known.
    orders: Vec<Vec<u32>>,
    shards: u32,
}

impl Routes {
    /// Before a placement is known: any of the nodes that were configured.
    pub(crate) fn unknown(configured: &[Arc<str>]) -> Self {
        Self { addresses: configured.to_vec(), orders: Vec::new(), shards: 0 }
    }

    /// By a placement: a shard's settled owners, then its other writers, then any node, then what was configured, because nodes
    /// may have addresses that only they can reach.
    pub(crate) fn of(
        reply: &v1::PlacementReply,
        configured: &[Arc<str>],
        ours: Option<ShardCount>,
    ) -> Result<Self, RoutesError> {
        let shards = ShardCount::new(reply.shard_count).ok_or(RoutesError::NoCount(reply.shard_count))?;
        if let Some(ours) = ours.filter(|&ours| ours != shards) {
            return Err(RoutesError::OtherCount { found: shards.get(), ours: ours.get() });
        }
        let mut addresses: Vec<Arc<str>> =
            reply.nodes.iter().map(|node| Arc::from(node.address.as_str())).collect();
        let nodes = addresses.len();
        for address in configured {
            if !addresses.contains(address) {
                addresses.push(Arc::clone(address));
            }
        }
        let doubtful = |node: u32| reply.nodes.get(node as usize).is_some_and(|node| node.doubtful);
        let orders = shards.shards().map(|shard| {
            let mut order = Vec::with_capacity(addresses.len());
            let mut add = |node: u32| {
                if (node as usize) < addresses.len() && !order.contains(&node) {
                    order.push(node);
                }
            };
            if let Some(owners) = reply.owners.get(shard.index()) {
                let settled = (owners.settled as usize).min(owners.writers.len());
                let (settled, joining) = owners.writers.split_at(settled);
                let real = |node: &u32| (*node as usize) < nodes;
                settled.iter().copied().filter(|node| real(node) && !doubtful(*node)).for_each(&mut add);
                settled.iter().copied().filter(real).for_each(&mut add);
                joining.iter().copied().filter(real).for_each(&mut add);
            }
            // Not always the same one, so that those without an owner at hand spread.
            (0..nodes).for_each(|at| add(((at + shard.index()) % nodes) as u32));
            (nodes..addresses.len()).for_each(|at| add(at as u32));
            order
        });
        let orders = orders.collect();
        Ok(Self { addresses, orders, shards: shards.get() })
    }

    /// How many shards the cluster has, where that is known.
    pub(crate) fn shards(&self) -> Option<ShardCount> {
        ShardCount::new(self.shards)
    }

    /// All nodes.
    pub(crate) fn addresses(&self) -> &[Arc<str>] {
        &self.addresses
    }

    /// How many nodes a shard's blocks can be brought to.
    pub(crate) fn count(&self) -> usize {
        self.addresses.len()
    }

    /// The one to turn to at the place `at` of a shard's order, `at` below [`count`](Self::count).
    pub(crate) fn at(&self, shard: u32, at: usize) -> Option<&Arc<str>> {
        match self.orders.get(shard as usize) {
            Some(order) => self.addresses.get(*order.get(at)? as usize),
            None => self.addresses.get(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(address: &str, doubtful: bool) -> v1::Member {
        v1::Member { id: address.to_owned(), address: address.to_owned(), doubtful, ..Default::default() }
    }

    fn order(routes: &Routes, shard: u32) -> Vec<&str> {
        (0..routes.count()).filter_map(|at| routes.at(shard, at)).map(|address| &**address).collect()
    }

    #[test]
    fn settled_owners_come_first_doubtful_ones_after_them_then_joining_ones_then_anybody() {
        let reply = v1::PlacementReply {
            shard_count: 2,
            replication: 2,
            nodes: vec![node("a:1", false), node("b:1", true), node("c:1", false), node("d:1", false)],
            owners: vec![
                v1::Owners { writers: vec![1, 2, 3], settled: 2 },
                v1::Owners { writers: vec![3, 0], settled: 2 },
            ],
        };
        let configured = [Arc::from("a:1"), Arc::from("proxy:1")];
        let routes = Routes::of(&reply, &configured, None).unwrap();
        assert_eq!(order(&routes, 0), ["c:1", "b:1", "d:1", "a:1", "proxy:1"]);
        assert_eq!(order(&routes, 1), ["d:1", "a:1", "b:1", "c:1", "proxy:1"]);
    }

    #[test]
    fn without_a_placement_blocks_go_to_what_was_configured() {
        let routes = Routes::unknown(&[Arc::from("a:1"), Arc::from("b:1")]);
        assert_eq!(order(&routes, 40), ["a:1", "b:1"]);
        assert_eq!(routes.shards(), None);
    }

    #[test]
    fn the_placement_of_another_cluster_is_not_used() {
        let reply = |shard_count| v1::PlacementReply { shard_count, ..Default::default() };
        let ours = ShardCount::new(8);
        assert_eq!(Routes::of(&reply(16), &[], ours), Err(RoutesError::OtherCount { found: 16, ours: 8 }));
        assert_eq!(Routes::of(&reply(7), &[], ours), Err(RoutesError::NoCount(7)));
        assert!(Routes::of(&reply(8), &[], ours).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_a_placement_says_each_shard_can_go_to_each_node_once(
            nodes in 0..5_u32,
            owners in prop::collection::vec((prop::collection::vec(0..8_u32, 0..5), 0..8_u32), 0..6),
        ) {
            let reply = v1::PlacementReply {
                shard_count: 4,
                replication: 2,
                nodes: (0..nodes).map(|n| node(&format!("n{n}:1"), n == 1)).collect(),
                owners: owners.into_iter().map(|(writers, settled)| v1::Owners { writers, settled }).collect(),
            };
            let routes = Routes::of(&reply, &[Arc::from("x:1")], None).unwrap();
            for shard in 0..4 {
                let mut order = order(&routes, shard);
                order.sort_unstable();
                order.dedup();
                prop_assert_eq!(order.len(), nodes as usize + 1);
            }
        }
    }
}
