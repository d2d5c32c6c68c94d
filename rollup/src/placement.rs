//! Which members own a shard.
//!
//! Owns: the pure function from a view to owners.
//! Does not own: members and views (`member`), how a member learns who the others are (`tidemark-membership`).
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each node ranks all shards, and the nodes that rank a shard highest own
//! it. Every member computes the same placement from the same view, and a node that comes or goes moves only its own shards.
//! A node's ranks are a random permutation instead of random numbers, so that no node has better ranks than another: half of
//! what makes plain rendezvous hashing uneven goes away.
//!
//! While nodes come and go, a shard has two sets of owners: those who have its blocks (*settled*: nodes that are active or
//! leaving) and those who are to have them (*target*: nodes that are joining or active). Both are written to, so that who
//! is read from never lacks what was acknowledged, and so that who takes over need not hurry.

use crate::member::{Member, MemberState, NodeId, View};
use crate::sharding::{ShardCount, ShardId};
use std::collections::BTreeSet;
use std::fmt;
use tidemark_proto::v1;
use xxhash_rust::xxh3::xxh3_64;

/// How many owners a shard has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication(u8);

impl Replication {
    /// The default: one owner may fail.
    pub const DEFAULT: Self = Self(2);
    /// One owner: what it has not committed is nowhere else.
    pub const ONE: Self = Self(1);
    /// The most.
    pub const MAX: u8 = 7;

    /// A number of owners, where `owners` can be one.
    pub fn new(owners: u8) -> Option<Self> {
        (1..=Self::MAX).contains(&owners).then_some(Self(owners))
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A shard's owners, as positions among the nodes of the placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Owners {
    /// Settled ones first, then those that are only target.
    writers: Vec<u32>,
    /// How many of them are settled.
    settled: usize,
    target: Vec<u32>,
}

/// Who owns each shard. A value: made anew for every view, never patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    nodes: Vec<Member>,
    replication: Replication,
    owners: Vec<Owners>,
}

impl Placement {
    /// The placement of all shards over the nodes of `view`.
    pub fn of(view: &View, shards: ShardCount, replication: Replication) -> Self {
        let nodes: Vec<Member> = view.nodes().cloned().collect();
        let ranks: Vec<Ranks> = nodes.iter().map(|node| Ranks::of(&node.id, shards)).collect();
        let zones = zones(&nodes);
        let owners = shards.shards().map(|shard| {
            let mut order: Vec<u32> = (0..nodes.len() as u32).collect();
            // Names break ties: nodes are in their order, and the sort is stable.
            order.sort_by_key(|&node| std::cmp::Reverse(ranks[node as usize].rank(shard)));
            let pick = |states: [MemberState; 2]| {
                let eligible = order.iter().filter(|&&node| states.contains(&nodes[node as usize].state));
                spread(eligible.copied(), &zones, usize::from(replication.get()))
            };
            let mut writers = pick([MemberState::Active, MemberState::Leaving]);
            let (settled, target) = (writers.len(), pick([MemberState::Joining, MemberState::Active]));
            writers.extend(
                target.iter().filter(|node| !writers[..settled].contains(node)).copied().collect::<Vec<_>>(),
            );
            Owners { writers, settled, target }
        });
        let owners = owners.collect();
        Self { nodes, replication, owners }
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> &[Member] {
        &self.nodes
    }

    /// The same for others.
    pub fn to_wire(&self) -> v1::PlacementReply {
        let owners = self
            .owners
            .iter()
            .map(|of| v1::Owners { writers: of.writers.clone(), settled: of.settled as u32 });
        v1::PlacementReply {
            shard_count: self.owners.len() as u32,
            replication: u32::from(self.replication.get()),
            nodes: self.nodes.iter().map(Member::to_wire).collect(),
            owners: owners.collect(),
        }
    }

    /// How many owners a shard is to have.
    pub fn replication(&self) -> Replication {
        self.replication
    }

    fn owners(&self, shard: ShardId) -> &Owners {
        &self.owners[shard.index()]
    }

    fn at<'a>(&'a self, positions: &'a [u32]) -> impl DoubleEndedIterator<Item = &'a Member> + Clone {
        positions.iter().map(|&node| &self.nodes[node as usize])
    }

    /// Whom a block of the shard goes to: everybody who is read from, and everybody who is going to be. None where there is no
    /// node at all.
    pub fn writers(&self, shard: ShardId) -> impl DoubleEndedIterator<Item = &Member> + Clone {
        self.at(&self.owners(shard).writers)
    }

    /// Who is asked for the shard, in this order; who was given up a moment ago comes last.
    pub fn readers(&self, shard: ShardId) -> impl Iterator<Item = &Member> + Clone {
        let owners = self.owners(shard);
        let settled = self.at(&owners.writers[..owners.settled]);
        settled.clone().filter(|node| !node.doubtful).chain(settled.filter(|node| node.doubtful))
    }

    /// Who is to own the shard when all nodes have what they are to have.
    pub fn target(&self, shard: ShardId) -> impl DoubleEndedIterator<Item = &Member> + Clone {
        self.at(&self.owners(shard).target)
    }

    /// Whether a node is written to for this shard.
    pub fn is_writer(&self, shard: ShardId, id: &NodeId) -> bool {
        self.writers(shard).any(|node| node.id == *id)
    }

    /// Whether a node is to own this shard.
    pub fn is_target(&self, shard: ShardId, id: &NodeId) -> bool {
        self.target(shard).any(|node| node.id == *id)
    }

    /// A node's place among those that are written to; `None` where it is none of them. The first one flushes.
    pub fn rank(&self, shard: ShardId, id: &NodeId) -> Option<usize> {
        self.writers(shard).position(|node| node.id == *id)
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + Clone + use<> {
        // There are as many as the count has that this was made for.
        ShardCount::new(self.owners.len() as u32).into_iter().flat_map(ShardCount::shards)
    }

    /// The shards that a node is written to for.
    pub fn shards_of<'a>(&'a self, id: &'a NodeId) -> impl Iterator<Item = ShardId> + 'a {
        self.shards().filter(move |&shard| self.is_writer(shard, id))
    }
}

/// The zone of each node, as numbers; a node without a zone is one by itself.
fn zones(nodes: &[Member]) -> Vec<usize> {
    let alike = |node: &Member| match &node.zone {
        Some(zone) => nodes.iter().position(|other| other.zone.as_ref() == Some(zone)),
        None => nodes.iter().position(|other| other.id == node.id),
    };
    nodes.iter().map(|node| alike(node).unwrap_or_default()).collect()
}

/// The first `count` nodes of an order, of as many zones as there are.
fn spread(order: impl Iterator<Item = u32> + Clone, zones: &[usize], count: usize) -> Vec<u32> {
    let mut used = BTreeSet::new();
    let mut picked: Vec<u32> =
        order.clone().filter(|&node| used.insert(zones[node as usize])).take(count).collect();
    let others = order.filter(|node| !picked.contains(node)).take(count - picked.len()).collect::<Vec<_>>();
    picked.extend(others);
    picked
}

/// How a node ranks the shards.
struct Ranks {
    hash: u64,
    ranks: Vec<u32>,
}

impl Ranks {
    fn of(id: &NodeId, shards: ShardCount) -> Self {
        let hash = xxh3_64(id.as_str().as_bytes());
        let mut ranks: Vec<u32> = (0..shards.get()).collect();
        // Fisher and Yates' shuffle. The modulus is uneven by less than one in 2^50.
        for at in (1..ranks.len()).rev() {
            let other = (hashed(hash, at as u64) % (at as u64 + 1)) as usize;
            ranks.swap(at, other);
        }
        Self { hash, ranks }
    }

    /// Larger is better. Nodes that rank a shard alike are told apart by a hash.
    fn rank(&self, shard: ShardId) -> (u32, u64) {
        (self.ranks[shard.index()], hashed(self.hash, !u64::from(shard.get())))
    }
}

fn hashed(hash: u64, number: u64) -> u64 {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&hash.to_le_bytes());
    key[8..].copy_from_slice(&number.to_le_bytes());
    xxh3_64(&key)
}

#[cfg(test)]
mod tests;
