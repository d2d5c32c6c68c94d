//! Who is in a cluster.
//!
//! Owns: names, members and what they are about to do, and a view of a cluster as one member has it.
//! Does not own: how a member learns who the others are (`tidemark-membership`), what follows from it (`placement`).

use std::fmt;
use std::str::FromStr;
use tidemark_proto::v1;

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

    /// The name as a number, for lists of names that travel with every block: `xxh3_64` of it.
    pub fn key(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0.as_bytes())
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(name: &str) -> Result<Self, NodeIdError> {
        Self::new(name)
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

/// Where a member stands: a rack, a building, a region. Members of one zone tend to fail together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(NodeId);

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(name: &str) -> Result<Self, ZoneError> {
        NodeId::new(name).map(Self).map_err(|_| ZoneError(name.to_owned()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that names no zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no zone: use 1 to 64 letters, digits, -, _, . and :")]
pub struct ZoneError(String);

/// What a member is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It owns shards.
    Node,
    /// It answers queries, and owns nothing.
    Coordinator,
}

impl Role {
    /// The name on the wire and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Coordinator => "coordinator",
        }
    }
}

/// What a member is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// It is written to and not read from: it has yet to get what others have.
    Joining,
    /// It is written to and read from.
    Active,
    /// Others take over what it has; until they have it, it is written to and read from.
    Leaving,
}

impl MemberState {
    /// The name on the wire and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Leaving => "leaving",
        }
    }
}

/// Tells a member's life from its earlier ones; the later one is larger. It begins another one whenever it starts, and when it
/// hears that others had given it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// What it is there for.
    pub role: Role,
    /// What it is about to do.
    pub state: MemberState,
    /// Its address, `host:port`: gRPC of a node, HTTP and gRPC of a coordinator.
    pub address: String,
    /// Where it stands, if that was said.
    pub zone: Option<Zone>,
    /// Which of its lives this is.
    pub incarnation: Incarnation,
    /// The version of the program it runs.
    pub version: String,
    /// It was given up a moment ago, and is counted as present until it is clear that it does not come back: it is asked last.
    pub doubtful: bool,
}

impl Member {
    /// An active node of this name at this address, in its first life.
    pub fn node(id: NodeId, address: impl Into<String>) -> Self {
        Self {
            id,
            role: Role::Node,
            state: MemberState::Active,
            address: address.into(),
            zone: None,
            incarnation: Incarnation::default(),
            version: String::new(),
            doubtful: false,
        }
    }

    /// The same for others, without how it is doing.
    pub fn to_wire(&self) -> v1::Member {
        v1::Member {
            id: self.id.to_string(),
            address: self.address.clone(),
            role: self.role.name().to_owned(),
            state: self.state.name().to_owned(),
            zone: self.zone.as_ref().map(ToString::to_string).unwrap_or_default(),
            incarnation: self.incarnation.0,
            version: self.version.clone(),
            doubtful: self.doubtful,
            status: None,
        }
    }
}

/// A cluster as one member sees it. A value: made anew for every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    members: Vec<Member>,
    missing: Vec<NodeId>,
}

impl View {
    /// A view of these members.
    ///
    /// # Errors
    /// Where two have one name.
    pub fn new(mut members: Vec<Member>) -> Result<Self, DuplicateMember> {
        members.sort();
        match members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            Some(pair) => Err(DuplicateMember(pair[0].id.clone())),
            None => Ok(Self { members, missing: Vec::new() }),
        }
    }

    /// The same, and these nodes went without leaving: they may hold blocks that nobody else has.
    #[must_use]
    pub fn with_missing(self, mut missing: Vec<NodeId>) -> Self {
        missing.sort_unstable();
        missing.dedup();
        Self { missing, ..self }
    }

    /// The members that are present, by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The nodes among them.
    pub fn nodes(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members.iter().filter(|member| member.role == Role::Node)
    }

    /// The member of this name, where it is present.
    pub fn member(&self, id: &NodeId) -> Option<&Member> {
        self.members.binary_search_by(|member| member.id.cmp(id)).ok().map(|at| &self.members[at])
    }

    /// Nodes that went without leaving, by name. Those that are back stay among them until they are active.
    pub fn missing(&self) -> &[NodeId] {
        &self.missing
    }
}

/// Two members of one name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two members are called {0}: every member needs a name of its own")]
pub struct DuplicateMember(NodeId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let member = Member::node(NodeId::new("a").unwrap(), "h:1");
        assert!(View::new(vec![member.clone(), member]).is_err());
        for name in ["", "a b", &"a".repeat(65)] {
            assert!(NodeId::new(name).is_err());
            assert!(name.parse::<Zone>().is_err());
        }
    }

    #[test]
    fn a_member_is_found_by_its_name() {
        let node = |name: &str| Member::node(NodeId::new(name).unwrap(), "h:1");
        let view = View::new(vec![node("c"), node("a"), node("b")]).unwrap();
        assert_eq!(view.member(&NodeId::new("b").unwrap()), Some(&node("b")));
        assert_eq!(view.member(&NodeId::new("d").unwrap()), None);
    }
}
