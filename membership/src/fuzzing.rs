//! Datagrams, for `fuzz/`: a member without a socket, which is given bytes and moments.
//!
//! Owns: putting seal, message and protocol together as the actor does, and what has to be so of all that they want sent.
//! Does not own: what follows from a message (`protocol`), files, waiting.
//!
//! Invariant: the same bytes and moments have the same outcome, whenever they are given.

use crate::config::{ClusterFacts, ClusterKey, MembershipConfig, Timing};
use crate::message::Envelope;
use crate::protocol::{Command, Now, Protocol};
use crate::seal::{MAX_SEALED_BYTES, Opener, SEAL_BYTES, Sealer};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_rollup::member::{Incarnation, MemberState, NodeId, Role};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardCount;
use tokio::time::Instant;

/// A message without the fingerprint of facts that it begins with.
pub const HEAD_BYTES: usize = 8;

/// A member that hears.
pub struct Ear {
    opener: Opener,
    /// Of a life that has the key, too.
    sealer: Sealer,
    protocol: Protocol,
    fingerprint: u64,
    began: Instant,
    passed: Duration,
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ear")
    }
}

/// A datagram that a member wants sent: to whom, and the message in it, fingerprint and all.
pub type Sent = (SocketAddr, Vec<u8>);

impl Ear {
    /// The node `name` at port `port`, at the beginning of its first life; it knows a seed at port 2.
    pub fn new(name: &str, port: u16) -> Option<Self> {
        let key = ClusterKey::of("secret");
        let facts = ClusterFacts {
            cluster: "test".into(),
            shards: ShardCount::DEFAULT,
            replication: Replication::DEFAULT,
            schema: Schema::default().outline(),
        };
        let fingerprint = facts.fingerprint();
        let config = MembershipConfig {
            id: NodeId::new(name).ok()?,
            role: Role::Node,
            zone: None,
            address: format!("{name}:1"),
            gossip: SocketAddr::from(([10, 0, 0, 1], port)),
            seeds: vec!["10.0.0.1:2".to_owned()],
            facts,
            key: key.clone(),
            timing: Timing::default(),
            folder: None,
            version: String::new(),
        };
        let began = Instant::now();
        Some(Self {
            opener: Opener::new(&key),
            sealer: Sealer::new(&key, [7; 16]),
            protocol: Protocol::new(&config, Incarnation(1), Vec::new(), [port as u8; 32], began),
            fingerprint,
            began,
            passed: Duration::ZERO,
        })
    }

    /// A datagram came; whether it could be opened and read.
    ///
    /// # Panics
    /// Where what was read is not what is written again, or the member wants sent what cannot be.
    pub fn datagram(&mut self, datagram: &[u8], from: SocketAddr) -> bool {
        let opened = self.opener.open(datagram).ok();
        let Some(envelope) = opened.and_then(|message| Envelope::decode(&message)) else { return false };
        assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Some(&envelope));
        let now = self.now();
        self.protocol.receive(&envelope, from, now);
        true
    }

    /// A message came from somebody who has the key, under the same facts: its kind, and its body.
    pub fn message(&mut self, message: &[u8], from: SocketAddr) -> bool {
        let message = [&self.fingerprint.to_le_bytes()[..], message].concat();
        self.sealed(&message, from)
    }

    /// The same under whatever facts it begins with.
    pub fn sealed(&mut self, message: &[u8], from: SocketAddr) -> bool {
        let sealed = self.sealer.seal(message);
        sealed.is_some_and(|sealed| self.datagram(&sealed, from))
    }

    /// Time passes; what is due is done.
    pub fn pass(&mut self, time: Duration) {
        self.passed = self.passed.saturating_add(time);
        let now = self.now();
        self.protocol.tick(now);
    }

    /// The member is complete, or goes away.
    pub fn become_state(&mut self, leave: bool) {
        let now = self.now().instant;
        match leave {
            true => self.protocol.leave(now),
            false => _ = self.protocol.set_state(MemberState::Active, None, now),
        }
    }

    /// What it wants sent by now.
    ///
    /// # Panics
    /// Where a message is too large to be sent, or does not mean the same to who receives it.
    pub fn sends(&mut self) -> Vec<Sent> {
        let commands = self.protocol.take_commands(self.now().instant);
        let sends = commands.into_iter().filter_map(|command| match command {
            Command::Send { to, envelope } => Some((to, envelope)),
            _ => None,
        });
        let sends = sends.map(|(to, envelope)| {
            let bytes = envelope.encode();
            assert!(bytes.len() + SEAL_BYTES <= MAX_SEALED_BYTES, "{} bytes cannot be sent", bytes.len());
            assert_eq!(Envelope::decode(&bytes).as_ref(), Some(&envelope));
            (to, bytes)
        });
        sends.collect()
    }

    /// How many members are in its view, itself among them.
    pub fn members(&self) -> usize {
        self.protocol.view().members().len()
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.protocol.own().gossip
    }

    fn now(&self) -> Now {
        // Half an hour after the epoch is as good as any time.
        let unix_ms = 1_800_000 + u64::try_from(self.passed.as_millis()).unwrap_or(u64::MAX / 2);
        Now { instant: self.began + self.passed, unix_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_members_hear_each_other_and_meet() {
        let (mut a, mut b) = (Ear::new("a", 1).unwrap(), Ear::new("b", 2).unwrap());
        for _ in 0..10 {
            a.pass(Duration::from_millis(100));
            b.pass(Duration::from_millis(100));
            let (of_a, of_b) = (a.sends(), b.sends());
            of_a.iter().for_each(|(_, message)| _ = b.sealed(message, a.address()));
            of_b.iter().for_each(|(_, message)| assert!(a.message(&message[HEAD_BYTES..], b.address())));
        }
        assert_eq!((a.members(), b.members()), (2, 2));
        assert!(!a.datagram(b"no datagram", b.address()));
    }
}
