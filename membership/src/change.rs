//! What changed in the view, in words.
//!
//! Owns: one sentence for each change, for whoever reads the log.
//! Does not own: when something changes (`view`, `protocol`).

use crate::facts::Difference;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_rollup::member::{Incarnation, MemberState, NodeId, Role};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Joined { id: NodeId, role: Role, address: String, state: MemberState },
    IsNow { id: NodeId, state: MemberState },
    BeganAgain { id: NodeId, address: String, state: MemberState },
    GivenUp { id: NodeId, role: Role, silent: Duration, doubt: Duration },
    Back { id: NodeId, state: MemberState },
    Missing { id: NodeId },
    RememberedMissing { id: NodeId },
    MissingNoMore { id: NodeId },
    Left { id: NodeId },
    TooMany { limit: usize },
    OwnState { state: MemberState },
    OwnRenewed { incarnation: Incarnation, state: MemberState },
    OwnOutdated { heard: Incarnation, incarnation: Incarnation },
    Refused { from: SocketAddr, id: NodeId, difference: Difference },
    Agrees { from: SocketAddr, id: NodeId },
    RefusedBy { from: SocketAddr, id: NodeId, difference: Difference },
}

impl Change {
    /// Whether somebody should look.
    pub(crate) fn is_bad(&self) -> bool {
        !matches!(
            self,
            Self::Joined { .. }
                | Self::IsNow { .. }
                | Self::BeganAgain { .. }
                | Self::Back { .. }
                | Self::MissingNoMore { .. }
                | Self::Left { .. }
                | Self::OwnState { .. }
                | Self::Agrees { .. }
        )
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { id, role: Role::Node, address, state } => {
                write!(f, "{id} ({address}) joined; it is {}", state.name())
            }
            Self::Joined { id, role: Role::Coordinator, address, .. } => {
                write!(f, "{id} ({address}) joined; it is a coordinator and owns nothing")
            }
            Self::IsNow { id, state } => write!(f, "{id} is {}", state.name()),
            Self::BeganAgain { id, address, state } => {
                write!(f, "{id} ({address}) began another life; it is {}", state.name())
            }
            Self::GivenUp { id, role: Role::Node, silent, doubt } => write!(
                f,
                "{id} was given up: it did not answer for {} s; its shards move in {} s unless it comes back",
                silent.as_secs_f64(),
                doubt.as_secs_f64()
            ),
            Self::GivenUp { id, role: Role::Coordinator, silent, .. } => {
                write!(f, "{id} was given up: it did not answer for {} s", silent.as_secs_f64())
            }
            Self::Back { id, state } => write!(f, "{id} is back; it is {}", state.name()),
            Self::Missing { id } => {
                write!(f, "{id} is missing: it did not come back, and may hold what nobody else has")
            }
            Self::RememberedMissing { id } => {
                write!(
                    f,
                    "{id} is missing: it was here before this member started, did not leave, and is not here now"
                )
            }
            Self::MissingNoMore { id } => write!(f, "{id} is missing no more: it is active again"),
            Self::Left { id } => write!(f, "{id} left"),
            Self::TooMany { limit } => {
                write!(f, "more than {limit} nodes were seen: further ones are not remembered when they go")
            }
            Self::OwnState { state } => write!(f, "this member is {}", state.name()),
            Self::OwnRenewed { state, .. } => {
                write!(f, "this member had been given up by others; it is {} again", state.name())
            }
            Self::OwnOutdated { heard, incarnation } => write!(
                f,
                "others remember a later life of this member ({}) than it began with: the clock went back; it goes on as {}",
                heard.0, incarnation.0
            ),
            Self::Agrees { from, id } => write!(
                f,
                "{id} ({from}) has another schema, and the two agree: one of them has dimensions or measures more"
            ),
            Self::Refused { from, id, difference: Difference { fact, ours, theirs } } => {
                write!(f, "{id} ({from}) is refused: its {fact} is {theirs}, and here it is {ours}")
            }
            Self::RefusedBy { from, id, difference: Difference { fact, ours, theirs } } => {
                write!(f, "{id} ({from}) refuses this member: its {fact} is {theirs}, and here it is {ours}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_was_given_up_is_told_of_in_one_sentence() {
        let given_up = Change::GivenUp {
            id: NodeId::new("n2").unwrap(),
            role: Role::Node,
            silent: Duration::from_millis(1600),
            doubt: Duration::from_secs(1),
        };
        assert_eq!(
            given_up.to_string(),
            "n2 was given up: it did not answer for 1.6 s; its shards move in 1 s unless it comes back"
        );
        assert!(given_up.is_bad());
    }
}
