//! Which member owns a shard.
//!
//! Owns: members, views of the cluster, and the pure function from a view to owners.
//! Does not own: how a member learns who the others are (`node`, `coordinator`).
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each member scores each shard, and the highest score owns it. Every
//! member computes the same placement from the same view, and a member that comes or goes moves only its own shards.

use crate::sharding::{ShardCount, ShardId};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// The name of a member, unique in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(String);

impl NodeId {
    /// A member's name: 1 to 64 letters, digits, `-`, `_`, `.` or `:`.
    ///
    /// # Errors
    /// Where the text is no such name.
    pub fn new(name: impl Into<String>) -> Result<Self, NodeIdError> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        match (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
            true => Ok(Self(name)),
            false => Err(NodeIdError(name)),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that names no member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no node: use 1 to 64 letters, digits, -, _, . and :")]
pub struct NodeIdError(String);

/// A member that can own shards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Its gRPC address, `host:port`.
    pub address: String,
}

/// The members that one member sees, by name, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View(Vec<Member>);

impl View {
    /// A view of these members.
    ///
    /// # Errors
    /// Where two have one name.
    pub fn new(mut members: Vec<Member>) -> Result<Self, DuplicateMember> {
        members.sort();
        match members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            Some(pair) => Err(DuplicateMember(pair[0].id.clone())),
            None => Ok(Self(members)),
        }
    }

    /// The members by name.
    pub fn members(&self) -> &[Member] {
        &self.0
    }
}

/// Two members of one name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two members are called {0}: every node needs a name of its own")]
pub struct DuplicateMember(NodeId);

/// Who owns each shard. A value: made anew for every view, never patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    members: Vec<Member>,
    /// Per shard: position in `members`. Empty where there is no member.
    owners: Vec<u32>,
}

impl Placement {
    /// The placement of all shards over the members of `view`.
    pub fn of(view: &View, shards: ShardCount) -> Self {
        let members = view.0.clone();
        let hashes: Vec<u64> = members.iter().map(|member| xxh3_64(member.id.0.as_bytes())).collect();
        let owner = |shard: ShardId| {
            // Names break ties: members are in their order.
            (0..members.len()).max_by_key(|&member| (score(hashes[member], shard), std::cmp::Reverse(member)))
        };
        let owners = shards.shards().filter_map(|shard| owner(shard).map(|member| member as u32)).collect();
        Self { members, owners }
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The owner of a shard; `None` where there is no member at all.
    pub fn owner(&self, shard: ShardId) -> Option<&Member> {
        self.owners.get(shard.index()).map(|&member| &self.members[member as usize])
    }

    /// Per shard the position of its owner among the members.
    pub fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// The shards of a member.
    pub fn shards_of<'a>(&'a self, id: &'a NodeId, shards: ShardCount) -> impl Iterator<Item = ShardId> + 'a {
        shards.shards().filter(move |&shard| self.owner(shard).is_some_and(|owner| owner.id == *id))
    }
}

fn score(member_hash: u64, shard: ShardId) -> u64 {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&member_hash.to_le_bytes());
    key[8..].copy_from_slice(&shard.get().to_le_bytes());
    xxh3_64(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn view(names: impl IntoIterator<Item = u32>) -> View {
        let member = |name: u32| Member {
            id: NodeId::new(format!("n{name}")).unwrap(),
            address: format!("h{name}:1"),
        };
        View::new(names.into_iter().map(member).collect()).unwrap()
    }

    #[test]
    fn nobody_owns_anything_in_an_empty_view() {
        let shards = ShardCount::DEFAULT;
        let placement = Placement::of(&View::default(), shards);
        assert!(shards.shards().all(|shard| placement.owner(shard).is_none()));
    }

    #[test]
    fn names_are_unique_and_plain() {
        let member = Member { id: NodeId::new("a").unwrap(), address: "h:1".into() };
        assert!(View::new(vec![member.clone(), member]).is_err());
        for name in ["", "a b", &"a".repeat(65)] {
            assert!(NodeId::new(name).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_member_that_goes_moves_only_its_own_shards(mut names in prop::collection::btree_set(0_u32..1000, 2..16)) {
            let shards = ShardCount::new(256).unwrap();
            let before = Placement::of(&view(names.iter().copied()), shards);
            let gone = names.pop_first().unwrap();
            let after = Placement::of(&view(names), shards);
            for shard in shards.shards() {
                let owner = before.owner(shard).unwrap();
                if owner.id.as_str() != format!("n{gone}") {
                    prop_assert_eq!(Some(owner), after.owner(shard));
                }
            }
        }

        #[test]
        fn shards_are_spread_over_all_members(first in 0_u32..1000, count in 3_u32..16) {
            let shards = ShardCount::new(4096).unwrap();
            let view = view(first..first + count);
            let placement = Placement::of(&view, shards);
            let mean = 4096.0 / f64::from(count);
            for member in view.members() {
                let owned = placement.shards_of(&member.id, shards).count() as f64;
                prop_assert!((0.7..1.3).contains(&(owned / mean)), "{} owns {} of a mean {}", member.id, owned, mean);
            }
        }
    }
}
