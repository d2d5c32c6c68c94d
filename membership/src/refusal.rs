//! Members with other facts.
//!
//! Owns: who is challenged to tell its facts and who is told ours, how often, whom to hear from then on, and when being refused is
//! the end of this member.
//! Does not own: the facts (`facts`), sending (`protocol`).
//!
//! What is sent under facts that are not known is not heard, and its sender is told ours (a challenge). It answers with its own. Where
//! the two agree, both remember the other's fingerprint and hear each other from then on.
//!
//! A member that others refuse ends, if it has met nobody whom it agrees with. It waits a moment before it does: where a cluster
//! starts with one member that has it wrong, those that have it right have yet to meet. Schemas are different: two that both agree
//! with a third, older one may define a new name in two ways. Of such two, the one ends that came to the cluster just now.

use crate::agreeing::Agreeing;
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
/// For how long after it met others a member is the one that came later. It greets all it hears of in the meantime.
const NEW_FOR: Duration = Duration::from_secs(10);
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

impl Failure {
    fn is_of_schemas(&self) -> bool {
        matches!(self, Self::Refused { difference, .. } if difference.is_of_schemas())
    }
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

/// Whose facts a message was sent under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// They are the same as this member's.
    Own,
    /// They are other ones, and agree.
    Agreeing,
    /// They may or may not agree.
    Unknown,
}

/// What follows from a message of a member with other facts.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) answer: Option<Message>,
    pub(crate) said: Option<Change>,
    /// It has just been found out that the two agree.
    pub(crate) met: bool,
}

/// What has been said to and heard from members with other facts.
#[derive(Debug)]
pub(crate) struct Refusals {
    own: Stranger,
    fingerprint: u64,
    agreeing: Agreeing,
    told: Limiter,
    said: Limiter,
    /// Whether a member with the very same facts was met.
    is_in_company: bool,
    failing: Option<(Instant, Failure)>,
}

impl Refusals {
    pub(crate) fn new(id: NodeId, facts: ClusterFacts) -> Self {
        Self {
            fingerprint: facts.fingerprint(),
            own: Stranger { id, facts },
            agreeing: Agreeing::default(),
            told: Limiter::every(TELL_EVERY),
            said: Limiter::every(SAY_EVERY),
            is_in_company: false,
            failing: None,
        }
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whose facts have this fingerprint.
    pub(crate) fn whose(&mut self, fingerprint: u64) -> Whose {
        match fingerprint == self.fingerprint {
            true => Whose::Own,
            false if self.agreeing.includes(fingerprint) => Whose::Agreeing,
            false => Whose::Unknown,
        }
    }

    /// What follows from a message that tells facts, or that was sent under unknown ones. This member has known others since
    /// `established`.
    pub(crate) fn hear(
        &mut self,
        message: &Message,
        from: SocketAddr,
        established: Option<Instant>,
        now: Instant,
    ) -> Heard {
        match message {
            Message::Challenge(stranger) => self.hear_challenge(stranger, from, established, now),
            Message::Facts(stranger) => match self.own.facts.difference(&stranger.facts) {
                None => self.agree_with(stranger, from, now),
                Some(difference) => {
                    let refused = Change::Refused { from, id: stranger.id.clone(), difference };
                    Heard { said: self.said.allows(from, now).then_some(refused), ..Heard::default() }
                }
            },
            _ => {
                let challenge = || Message::Challenge(self.own.clone());
                Heard { answer: self.told.allows(from, now).then(challenge), ..Heard::default() }
            }
        }
    }

    fn hear_challenge(
        &mut self,
        stranger: &Stranger,
        from: SocketAddr,
        established: Option<Instant>,
        now: Instant,
    ) -> Heard {
        let answer = self.told.allows(from, now).then(|| Message::Facts(self.own.clone()));
        let Some(difference) = self.own.facts.difference(&stranger.facts) else {
            return Heard { answer, ..self.agree_with(stranger, from, now) };
        };
        let by = stranger.id.clone();
        if self.is_the_end(&difference, established, now) && self.failing.is_none() {
            let failure = Failure::Refused { by: by.clone(), address: from, difference: difference.clone() };
            self.failing = Some((now + PATIENCE, failure));
        }
        let refused = Change::RefusedBy { from, id: by, difference };
        Heard { answer, said: self.said.allows(from, now).then_some(refused), met: false }
    }

    fn agree_with(&mut self, stranger: &Stranger, from: SocketAddr, now: Instant) -> Heard {
        let fingerprint = stranger.facts.fingerprint();
        let met = fingerprint != self.fingerprint && self.agreeing.remember(fingerprint);
        let agrees = || Change::Agrees { from, id: stranger.id.clone() };
        Heard { said: (met && self.said.allows(from, now)).then(agrees), met, answer: None }
    }

    /// Whether a member that is refused for this has no place here.
    fn is_the_end(&self, difference: &Difference, established: Option<Instant>, now: Instant) -> bool {
        match difference.is_of_schemas() {
            // Whoever agrees with both knows neither of the names that they do not agree on. Who came later goes.
            true => {
                let is_new = established.is_none_or(|at| now.duration_since(at) < NEW_FOR);
                is_new && !self.is_in_company
            }
            false => established.is_none(),
        }
    }

    /// Somebody was met who agrees: those who refuse this member are not its cluster, unless it is for a name of the schema.
    pub(crate) fn joined(&mut self) {
        self.failing.take_if(|(_, failure)| !failure.is_of_schemas());
    }

    /// Somebody was met who has the very same facts: those who refuse this member are not its cluster.
    pub(crate) fn met_the_same(&mut self) {
        self.is_in_company = true;
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
    use crate::facts::tests::{facts, with_measures};
    use tidemark_rollup::sharding::ShardCount;

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

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn from() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 7))
    }

    fn challenge(facts: ClusterFacts) -> Message {
        Message::Challenge(Stranger { id: id("n1"), facts })
    }

    /// n2 after n1 challenged it, which has another number of shards.
    fn refused(established: Option<Instant>, now: Instant) -> Refusals {
        let theirs = ClusterFacts { shards: ShardCount::new(32).unwrap(), ..facts() };
        let mut refusals = Refusals::new(id("n2"), facts());
        let Heard { answer, said, met } = refusals.hear(&challenge(theirs), from(), established, now);
        assert!(matches!(answer, Some(Message::Facts(_))) && !met);
        assert!(said.unwrap().to_string().contains("shard count is 32"));
        assert_eq!(refusals.over(now), None);
        refusals
    }

    #[tokio::test]
    async fn a_refusal_is_the_end_only_of_one_who_meets_nobody_else() {
        let now = Instant::now();
        let failure = refused(None, now).over(now + PATIENCE).unwrap();
        assert_eq!(
            failure.to_string(),
            "n1 (10.0.0.1:7) refuses this member: its shard count is 32, and here it is 64"
        );
        assert_eq!(refused(Some(now), now).over(now + PATIENCE), None);
        let mut met = refused(None, now);
        met.joined();
        assert_eq!(met.over(now + PATIENCE), None);
    }

    /// n2, which counts likes, after n1 challenged it, which means something else by them.
    fn contradicted(established: Option<Instant>, now: Instant) -> Refusals {
        let mut refusals = Refusals::new(id("n2"), with_measures(&["likes=count(like)"]));
        let theirs = with_measures(&["likes=count(love)"]);
        refusals.hear(&challenge(theirs), from(), established, now);
        refusals
    }

    #[tokio::test]
    async fn of_two_that_define_a_new_name_in_two_ways_the_later_one_ends_whomever_else_it_met() {
        let now = Instant::now();
        let mut met = contradicted(None, now);
        met.joined();
        assert_eq!(
            met.over(now + PATIENCE).unwrap().to_string(),
            "n1 (10.0.0.1:7) refuses this member: its schema is one where likes means something else, \
             and here it is one with likes=count(like)"
        );
        assert!(contradicted(Some(now), now + NEW_FOR / 2).over(now + NEW_FOR).is_some());
        assert_eq!(contradicted(Some(now), now + NEW_FOR).over(now + NEW_FOR * 2), None);
        let mut company = contradicted(Some(now), now);
        company.met_the_same();
        assert_eq!(company.over(now + PATIENCE), None);
    }

    #[tokio::test]
    async fn facts_that_agree_are_heard_once_they_were_told_and_told_in_return() {
        let (mut refusals, now) = (Refusals::new(id("n2"), facts()), Instant::now());
        let theirs = with_measures(&["likes=count(like)"]);
        let fingerprint = theirs.fingerprint();
        assert_eq!(refusals.whose(fingerprint), Whose::Unknown);
        let unheard = refusals.hear(&Message::Gossip(vec![1]), from(), None, now);
        assert!(matches!(unheard.answer, Some(Message::Challenge(_))) && !unheard.met);
        assert_eq!(refusals.whose(fingerprint), Whose::Unknown);

        let later = now + TELL_EVERY;
        let first = refusals.hear(&challenge(theirs.clone()), from(), None, later);
        assert!(matches!(first.answer, Some(Message::Facts(_))) && first.met);
        assert!(first.said.unwrap().to_string().contains("the two agree"));
        assert_eq!(refusals.whose(fingerprint), Whose::Agreeing);
        // They had not heard the answer.
        let again = refusals.hear(&challenge(theirs.clone()), from(), None, later + TELL_EVERY);
        assert!(matches!(again.answer, Some(Message::Facts(_))) && !again.met);
        let told = Message::Facts(Stranger { id: id("n1"), facts: theirs });
        assert!(refusals.hear(&told, from(), None, later + TELL_EVERY).answer.is_none());
        assert_eq!(refusals.over(later + PATIENCE), None);
    }
}
