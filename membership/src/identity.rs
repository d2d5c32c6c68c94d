//! Who a member is, as gossip tells it.
//!
//! Owns: a member's identity, its form on the wire, and which of two identities of one name stands.
//! Does not own: who is present (`view`).
//!
//! Invariants:
//! * The name is what `foca` calls the address: a member that starts again elsewhere replaces its former self.
//! * An identity never changes. A member that says something new of itself takes a new one, with a larger incarnation.
//! * Nothing that comes off the wire is believed before `try_from` has looked at it.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use tidemark_rollup::member::{Incarnation, Member, MemberState, NodeId, Role, Zone};

/// The most bytes of a member's address.
pub(crate) const MAX_ADDRESS_BYTES: usize = 128;
/// The most bytes of a program's version.
pub(crate) const MAX_VERSION_BYTES: usize = 32;

/// Whether a text is short and has only visible ASCII, so that it can stand in a log.
pub(crate) fn is_plain(text: &str, most: usize) -> bool {
    text.len() <= most && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a member is about to do, and whether it has done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Is(MemberState),
    /// It has left for good. A phase of its own, and no custom message: whoever hears anything of the last identity of a
    /// member, from whomever, knows that it left; and a member that crashes while it is leaving has not said this yet.
    Gone,
}

/// A member, in one of the phases of one of its lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub(crate) struct Identity {
    // First, so that larger means later.
    pub(crate) incarnation: Incarnation,
    pub(crate) gossip: SocketAddr,
    pub(crate) id: NodeId,
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    pub(crate) zone: Option<Zone>,
    pub(crate) address: String,
    pub(crate) version: String,
}

impl Identity {
    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// The state others see; one who has left is leaving to itself.
    pub(crate) fn state(&self) -> MemberState {
        match self.phase {
            Phase::Is(state) => state,
            Phase::Gone => MemberState::Leaving,
        }
    }

    /// The state in which a life begins: a node has yet to get what others have, a coordinator has nothing to get.
    pub(crate) fn first_state(role: Role) -> MemberState {
        match role {
            Role::Node => MemberState::Joining,
            Role::Coordinator => MemberState::Active,
        }
    }

    /// The same member, in a later identity.
    pub(crate) fn at(&self, incarnation: Incarnation, phase: Phase) -> Self {
        Self { incarnation, phase, ..self.clone() }
    }

    pub(crate) fn next(&self, phase: Phase) -> Self {
        self.at(Incarnation(self.incarnation.0.saturating_add(1)), phase)
    }

    pub(crate) fn member(&self, doubtful: bool) -> Member {
        Member {
            id: self.id.clone(),
            role: self.role,
            state: self.state(),
            address: self.address.clone(),
            zone: self.zone.clone(),
            incarnation: self.incarnation,
            version: self.version.clone(),
            doubtful,
        }
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    /// Others have given this member up: it begins again. One that has left stays away.
    fn renew(&self) -> Option<Self> {
        (!self.is_gone()).then(|| self.next(Phase::Is(Self::first_state(self.role))))
    }

    fn addr(&self) -> NodeId {
        self.id.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self > adversary
    }
}

/// An identity as bytes.
#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    id: String,
    incarnation: u64,
    role: u8,
    phase: u8,
    gossip: SocketAddr,
    address: String,
    zone: Option<String>,
    version: String,
}

impl From<Identity> for Wire {
    fn from(of: Identity) -> Self {
        Self {
            id: of.id.to_string(),
            incarnation: of.incarnation.0,
            role: match of.role {
                Role::Node => 0,
                Role::Coordinator => 1,
            },
            phase: match of.phase {
                Phase::Is(MemberState::Joining) => 0,
                Phase::Is(MemberState::Active) => 1,
                Phase::Is(MemberState::Leaving) => 2,
                Phase::Gone => 3,
            },
            gossip: of.gossip,
            address: of.address,
            zone: of.zone.map(|zone| zone.to_string()),
            version: of.version,
        }
    }
}

/// Bytes that are no identity.
#[derive(Debug, thiserror::Error)]
#[error("no identity")]
pub(crate) struct NoIdentity;

impl TryFrom<Wire> for Identity {
    type Error = NoIdentity;

    fn try_from(wire: Wire) -> Result<Self, NoIdentity> {
        let plain = is_plain(&wire.address, MAX_ADDRESS_BYTES) && is_plain(&wire.version, MAX_VERSION_BYTES);
        // The last incarnations are nobody's: there has to be a later one.
        if !plain || wire.gossip.port() == 0 || wire.incarnation > u64::MAX / 2 {
            return Err(NoIdentity);
        }
        Ok(Self {
            id: NodeId::new(wire.id).map_err(|_| NoIdentity)?,
            incarnation: Incarnation(wire.incarnation),
            role: match wire.role {
                0 => Role::Node,
                1 => Role::Coordinator,
                _ => return Err(NoIdentity),
            },
            phase: match wire.phase {
                0 => Phase::Is(MemberState::Joining),
                1 => Phase::Is(MemberState::Active),
                2 => Phase::Is(MemberState::Leaving),
                3 => Phase::Gone,
                _ => return Err(NoIdentity),
            },
            gossip: wire.gossip,
            address: wire.address,
            zone: wire.zone.map(|zone| zone.parse().map_err(|_| NoIdentity)).transpose()?,
            version: wire.version,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use foca::Identity as _;
    use proptest::prelude::*;

    /// A node for tests.
    pub(crate) fn node(name: &str, incarnation: u64, phase: Phase) -> Identity {
        Identity {
            incarnation: Incarnation(incarnation),
            gossip: "10.0.0.1:7000".parse().unwrap(),
            id: NodeId::new(name).unwrap(),
            role: Role::Node,
            phase,
            zone: None,
            address: format!("{name}:7100"),
            version: "0.1.0".into(),
        }
    }

    const ACTIVE: Phase = Phase::Is(MemberState::Active);

    #[test]
    fn who_was_given_up_is_joining_in_a_later_life_and_who_left_stays_away() {
        let renewed = node("a", 7, ACTIVE).renew().unwrap();
        assert_eq!((renewed.incarnation.0, renewed.state()), (8, MemberState::Joining));
        assert!(renewed.win_addr_conflict(&node("a", 7, ACTIVE)));
        assert_eq!(node("a", 7, Phase::Gone).renew(), None);
        let coordinator = Identity { role: Role::Coordinator, ..node("a", 7, ACTIVE) };
        assert_eq!(coordinator.renew().unwrap().state(), MemberState::Active);
    }

    #[test]
    fn a_common_identity_is_small_and_the_largest_fits_three_times_into_a_datagram() {
        assert!(postcard::to_stdvec(&node("node-1", 1_700_000_000_000, ACTIVE)).unwrap().len() <= 48);
        let largest = Identity {
            id: NodeId::new("n".repeat(64)).unwrap(),
            zone: Some("z".repeat(64).parse().unwrap()),
            address: "a".repeat(MAX_ADDRESS_BYTES),
            version: "v".repeat(MAX_VERSION_BYTES),
            gossip: "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
            ..node("a", u64::MAX / 2, ACTIVE)
        };
        assert!(postcard::to_stdvec(&largest).unwrap().len() * 3 + 16 < crate::protocol::MAX_PACKET_BYTES);
    }

    proptest! {
        #[test]
        fn an_identity_comes_back_from_its_bytes(
            name in "[a-z0-9._:-]{1,64}", incarnation in 0..u64::MAX / 2, zone in proptest::option::of("[a-z]{1,64}"),
            address in "[!-~]{0,128}", version in "[!-~]{0,32}", phase in 0_usize..4, port in 1_u16..,
        ) {
            let phases = [Phase::Is(MemberState::Joining), ACTIVE, Phase::Is(MemberState::Leaving), Phase::Gone];
            let identity = Identity {
                zone: zone.map(|zone| zone.parse().unwrap()), address, version,
                gossip: SocketAddr::from(([1, 2, 3, 4], port)), ..node(&name, incarnation, phases[phase])
            };
            let bytes = postcard::to_stdvec(&identity).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Identity>(&bytes).unwrap(), identity);
        }

        #[test]
        fn bytes_that_nobody_meant_are_an_error_or_a_valid_identity(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(identity) = postcard::from_bytes::<Identity>(&bytes) {
                prop_assert!(is_plain(&identity.address, MAX_ADDRESS_BYTES));
            }
        }
    }
}
