//! What members tell one another.
//!
//! Owns: the kinds of messages and their form: `fingerprint of the facts (8) | kind (1) | body`.
//! Does not own: the seal around it (`seal`), what `foca` puts into its packets, what follows from a message (`protocol`).

use crate::config::ClusterFacts;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use tidemark_rollup::member::{Incarnation, NodeId};

/// How many names are asked for at a time.
pub(crate) const MAX_NAMES: usize = 12;
/// What stands before the body.
pub(crate) const HEAD_BYTES: usize = 9;

/// A message, and whose facts it was sent under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) fingerprint: u64,
    pub(crate) message: Message,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A packet of `foca`, to a member it knows.
    Gossip(Vec<u8>),
    /// A packet of `foca` by which a member tells that it is there, to whoever is at an address.
    Announce(Vec<u8>),
    /// The receiver has gone by a larger incarnation: what it says is not heard until it takes a still larger one.
    Outdated { id: NodeId, incarnation: Incarnation, gossip: SocketAddr },
    /// The receiver is not heard, as its facts are not known here: it should tell them. These are the sender's own. Where they do not
    /// agree, the receiver is refused.
    Challenge(Stranger),
    /// An answer to a challenge: the sender's facts, so that who challenged it hears it from now on, or can say why not.
    Facts(Stranger),
    /// The receiver is suspected in this life; it should object with a number above this one.
    Suspected { life: Incarnation, rumour: u16 },
    /// Which of these nodes have left for good?
    Missing(Vec<NodeId>),
    /// These have left for good.
    Left(Vec<NodeId>),
}

/// A member with facts of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) id: NodeId,
    pub(crate) facts: ClusterFacts,
}

#[derive(Serialize, Deserialize)]
struct WireOutdated {
    id: String,
    incarnation: u64,
    gossip: SocketAddr,
}

#[derive(Serialize, Deserialize)]
struct WireStranger {
    id: String,
    facts: Vec<u8>,
}

impl Envelope {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, body) = match &self.message {
            Message::Gossip(packet) => (0, packet.clone()),
            Message::Announce(packet) => (1, packet.clone()),
            Message::Outdated { id, incarnation, gossip } => (
                2,
                bytes_of(&WireOutdated { id: id.to_string(), incarnation: incarnation.0, gossip: *gossip }),
            ),
            Message::Challenge(stranger) => (3, stranger.encode()),
            Message::Facts(stranger) => (4, stranger.encode()),
            Message::Missing(ids) => (5, bytes_of(&names(ids))),
            Message::Left(ids) => (6, bytes_of(&names(ids))),
            Message::Suspected { life, rumour } => (7, bytes_of(&(life.0, rumour))),
        };
        [&self.fingerprint.to_le_bytes()[..], &[kind], &body].concat()
    }

    /// The message in these bytes, where there is one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fingerprint, rest) = bytes.split_first_chunk::<8>()?;
        let (kind, body) = rest.split_first()?;
        let message = match kind {
            0 => Message::Gossip(body.to_vec()),
            1 => Message::Announce(body.to_vec()),
            2 => {
                let wire: WireOutdated = postcard::from_bytes(body).ok()?;
                if wire.incarnation > u64::MAX / 2 {
                    return None;
                }
                let id = NodeId::new(wire.id).ok()?;
                Message::Outdated { id, incarnation: Incarnation(wire.incarnation), gossip: wire.gossip }
            }
            3 => Message::Challenge(Stranger::decode(body)?),
            4 => Message::Facts(Stranger::decode(body)?),
            5 => Message::Missing(ids(body)?),
            6 => Message::Left(ids(body)?),
            7 => {
                let (life, rumour) = postcard::from_bytes(body).ok()?;
                Message::Suspected { life: Incarnation(life), rumour }
            }
            _ => return None,
        };
        Some(Self { fingerprint: u64::from_le_bytes(*fingerprint), message })
    }
}

impl Stranger {
    fn encode(&self) -> Vec<u8> {
        bytes_of(&WireStranger { id: self.id.to_string(), facts: self.facts.to_bytes() })
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let wire: WireStranger = postcard::from_bytes(body).ok()?;
        Some(Self { id: NodeId::new(wire.id).ok()?, facts: ClusterFacts::from_bytes(&wire.facts)? })
    }
}

fn bytes_of(wire: &impl Serialize) -> Vec<u8> {
    // Only a writer that is full fails, and a vector never is.
    postcard::to_stdvec(wire).unwrap_or_default()
}

fn names(ids: &[NodeId]) -> Vec<&str> {
    ids.iter().take(MAX_NAMES).map(NodeId::as_str).collect()
}

fn ids(body: &[u8]) -> Option<Vec<NodeId>> {
    let names: Vec<String> = postcard::from_bytes(body).ok()?;
    (names.len() <= MAX_NAMES).then_some(())?;
    names.into_iter().map(|name| NodeId::new(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_CLUSTER_BYTES;
    use crate::facts::tests::facts;
    use crate::seal::{MAX_SEALED_BYTES, SEAL_BYTES};
    use proptest::prelude::*;
    use tidemark_rollup::schema::{MAX_DIMENSIONS, MAX_MEASURES, Schema};

    /// As long as facts can be.
    fn largest_facts() -> ClusterFacts {
        let dimensions = (0..MAX_DIMENSIONS).map(|at| format!("d{at}"));
        let measures = (0..MAX_MEASURES).map(|at| format!("m{at}=count()").parse().unwrap());
        let schema = Schema::new(dimensions.collect(), measures.collect()).unwrap();
        ClusterFacts { cluster: "c".repeat(MAX_CLUSTER_BYTES), schema: schema.outline(), ..facts() }
    }

    fn all() -> Vec<Message> {
        let id = |name: &str| NodeId::new(name).unwrap();
        let stranger = || Stranger { id: id(&"n".repeat(64)), facts: largest_facts() };
        vec![
            Message::Gossip(vec![1, 2, 3]),
            Message::Announce(vec![]),
            Message::Outdated {
                id: id("n1"),
                incarnation: Incarnation(7),
                gossip: "[::1]:7000".parse().unwrap(),
            },
            Message::Challenge(stranger()),
            Message::Facts(stranger()),
            Message::Missing(vec![id(&"n".repeat(64)); MAX_NAMES]),
            Message::Left(vec![]),
            Message::Suspected { life: Incarnation(7), rumour: 3 },
        ]
    }

    #[test]
    fn messages_come_back_from_their_bytes_and_fit() {
        for message in all() {
            let envelope = Envelope { fingerprint: 42, message };
            let bytes = envelope.encode();
            assert!(bytes.len() + SEAL_BYTES <= MAX_SEALED_BYTES);
            assert_eq!(Envelope::decode(&bytes), Some(envelope));
        }
    }

    proptest! {
        #[test]
        fn bytes_that_nobody_meant_never_panic(kind in 0_u8..9, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Envelope::decode(&bytes);
            Envelope::decode(&[&[0; 8][..], &[kind], &bytes].concat());
        }
    }
}
