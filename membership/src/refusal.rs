//! Members whose facts differ.
//!
//! Owns: who is told that it is refused, how often, and when being refused is the end of this member.
//! Does not own: the facts (`facts`), sending (`protocol`).
//!
//! A member that others refuse ends, if it has met nobody whom it agrees with. It waits a moment before it does: where a cluster
//! starts with one member that has it wrong, those that have it right have yet to meet.

use crate::change::Change;
use crate::config::ClusterFacts;
use crate::facts::Difference;
use crate::message::{Message, Stranger};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_rollup::member::NodeId;
use tokio::time::Instant;

/// How long a member that is refused looks for others.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How often an address is told the same.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often the log is told the same of an address.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Of how many addresses is known when they were told.
const MAX_ADDRESSES: usize = 256;

/// Why a member cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Give one of them another name, or stop the other one. The other one, which began later, goes on.
    #[error("another member is called {id} at {address}: every member needs a name of its own")]
    Duplicate {
        /// The name of both.
        id: NodeId,
        /// Where the other one is.
        address: SocketAddr,
    },
    /// Give this member the cluster's value, or look for another cluster.
    #[error(
        "{by} ({address}) refuses this member: its {} is {}, and here it is {}",
        difference.fact, difference.theirs, difference.ours
    )]
    Refused {
        /// Who refused it.
        by: NodeId,
        /// Where that one is.
        address: SocketAddr,
        /// What they do not agree on.
        difference: Difference,
    },
}

/// Lets one thing through per address and period, for a bounded number of addresses.
#[derive(Debug)]
pub(crate) struct Limiter {
    every: Duration,
    last: BTreeMap<SocketAddr, Instant>,
}

impl Limiter {
    pub(crate) fn every(every: Duration) -> Self {
        Self { every, last: BTreeMap::new() }
    }

    pub(crate) fn allows(&mut self, address: SocketAddr, now: Instant) -> bool {
        let every = self.every;
        if self.last.len() >= MAX_ADDRESSES {
            self.last.retain(|_, last| now.duration_since(*last) < every);
        }
        let recent = self.last.get(&address).is_some_and(|last| now.duration_since(*last) < every);
        if recent || (self.last.len() >= MAX_ADDRESSES && !self.last.contains_key(&address)) {
            return false;
        }
        self.last.insert(address, now);
        true
    }
}

/// What has been said to and heard from members with other facts.
#[derive(Debug)]
pub(crate) struct Refusals {
    own: Stranger,
    fingerprint: u64,
    told: Limiter,
    said: Limiter,
    failing: Option<(Instant, Failure)>,
}

impl Refusals {
    pub(crate) fn new(id: NodeId, facts: ClusterFacts) -> Self {
        Self {
            fingerprint: facts.fingerprint(),
            own: Stranger { id, facts },
            told: Limiter::every(TELL_EVERY),
            said: Limiter::every(SAY_EVERY),
            failing: None,
        }
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What to answer to a message that was sent under other facts, and what to say of it.
    pub(crate) fn hear(
        &mut self,
        message: &Message,
        from: SocketAddr,
        joined: bool,
        now: Instant,
    ) -> (Option<Message>, Option<Change>) {
        match message {
            Message::Refusal(stranger) => {
                let Some(difference) = self.own.facts.difference(&stranger.facts) else {
                    return (None, None);
                };
                let by = stranger.id.clone();
                if !joined && self.failing.is_none() {
                    let failure =
                        Failure::Refused { by: by.clone(), address: from, difference: difference.clone() };
                    self.failing = Some((now + PATIENCE, failure));
                }
                let change = Change::RefusedBy { from, id: by, difference };
                let answer = Message::Facts(self.own.clone());
                (self.told.allows(from, now).then_some(answer), self.said.allows(from, now).then_some(change))
            }
            Message::Facts(stranger) => {
                let difference = self.own.facts.difference(&stranger.facts);
                let said = difference.filter(|_| self.said.allows(from, now));
                (None, said.map(|difference| Change::Refused { from, id: stranger.id.clone(), difference }))
            }
            _ => (self.told.allows(from, now).then(|| Message::Refusal(self.own.clone())), None),
        }
    }

    /// Somebody was met who agrees: those who refuse this member are not its cluster.
    pub(crate) fn joined(&mut self) {
        self.failing = None;
    }

    /// When patience ends.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.failing.as_ref().map(|(at, _)| *at)
    }

    /// Why this member cannot go on, where patience has ended.
    pub(crate) fn over(&mut self, now: Instant) -> Option<Failure> {
        self.failing.take_if(|(at, _)| *at <= now).map(|(_, failure)| failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::facts;

    #[tokio::test]
    async fn an_address_is_told_once_in_a_while_and_the_table_is_bounded() {
        let (mut limiter, now) = (Limiter::every(Duration::from_secs(1)), Instant::now());
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        assert!(limiter.allows(address(1), now));
        assert!(!limiter.allows(address(1), now + Duration::from_millis(999)));
        assert!(limiter.allows(address(1), now + Duration::from_secs(1)));
        for port in 2..2000 {
            limiter.allows(address(port), now + Duration::from_secs(1));
        }
        assert_eq!(limiter.last.len(), MAX_ADDRESSES);
        assert!(limiter.allows(address(3000), now + Duration::from_secs(2)));
    }

    #[tokio::test]
    async fn a_refusal_is_the_end_only_of_one_who_meets_nobody_else() {
        let id = |name: &str| NodeId::new(name).unwrap();
        let (now, from) = (Instant::now(), SocketAddr::from(([10, 0, 0, 1], 7)));
        let theirs = ClusterFacts { schema: 8, ..facts() };
        let refusal = Message::Refusal(Stranger { id: id("n1"), facts: theirs });
        let refused = |joined| {
            let mut refusals = Refusals::new(id("n2"), facts());
            let (answer, said) = refusals.hear(&refusal, from, joined, now);
            assert!(matches!(answer, Some(Message::Facts(_))));
            assert!(said.unwrap().to_string().contains("schema is 0000000000000008"));
            assert_eq!(refusals.over(now), None);
            refusals
        };
        let failure = refused(false).over(now + PATIENCE).unwrap();
        assert_eq!(
            failure.to_string(),
            "n1 (10.0.0.1:7) refuses this member: its schema is 0000000000000008, and here it is 0000000000000007"
        );
        assert_eq!(refused(true).over(now + PATIENCE), None);
        let mut met = refused(false);
        met.joined();
        assert_eq!(met.over(now + PATIENCE), None);
    }
}
