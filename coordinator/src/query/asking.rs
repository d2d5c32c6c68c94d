//! Whom to ask for which shards next, and which replies count.
//!
//! Owns: for each shard, its readers' turns: the first one, a hedge to the next one where it is slow, the next one where it
//! fails or is not ready, and all of them anew after a pause; and the choice among replies that overlap.
//! Does not own: sending, waiting and replies themselves (`round`), the time (an argument), who reads a shard (`plan`).
//!
//! A reply is one merged piece over several shards, of which none can be taken out. So it counts as a whole or not at all.
//!
//! Invariants:
//! * No two replies that count have a shard in common: a shard counts once, however often it was asked for.
//! * Shards that count never become fewer.
//! * No node is asked for a shard while it is being asked for it already.
//! * A shard that does not count is being asked for, or waits for the next round, or has no reader, or none whose schema fits.

#[cfg(test)]
mod tests;

use crate::fanout::{Failure, Refusal};
use crate::plan::{Peer, Plan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The shortest pause before a hedge: what takes less is not worth a second request.
const HEDGE_FLOOR: Duration = Duration::from_millis(20);
/// Pause before readers that all failed are asked anew; it doubles from round to round,
const PAUSE: Duration = Duration::from_millis(50);
/// up to this.
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// A request: its number, in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Call(usize);

/// Why a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Nobody was asked for these shards yet.
    First,
    /// Who was asked for these shards failed, or is not ready.
    Next,
    /// This request takes long.
    Hedge(Call),
}

/// A request to be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) call: Call,
    pub(super) peer: Arc<Peer>,
    /// Ascending, never empty.
    pub(super) shards: Vec<u32>,
    pub(super) why: Why,
}

/// What is to be done with a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts; these replies do not any more.
    Counts { instead_of: Vec<Call> },
    /// It does not count: others have its shards.
    Dropped,
}

/// Why a shard is not in the answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lost {
    /// Nobody reads it.
    NoReader,
    /// This was the last thing that happened to it.
    Failed { peer: Arc<Peer>, reason: Arc<str> },
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Before a request is hedged, as far as the time that is left allows.
    pub(super) hedge_after: Duration,
    /// For all.
    pub(super) until: Instant,
}

#[derive(Debug, Default)]
struct Shard {
    /// Asked before all others.
    preferred: Option<Arc<Peer>>,
    readers: Vec<Arc<Peer>>,
    in_flight: Vec<Call>,
    /// Readers that failed, or were not ready, in this round.
    tried: Vec<Arc<Peer>>,
    /// Readers whose schema does not fit the question: they are not asked again.
    unfit: Vec<Arc<Peer>>,
    counts_by: Option<Call>,
    was_asked: bool,
    last: Option<(Arc<Peer>, Arc<str>)>,
}

#[derive(Debug)]
struct Request {
    peer: Arc<Peer>,
    /// Until it is over.
    shards: Vec<u32>,
    sent: Instant,
    hedge_at: Instant,
    is_over: bool,
    /// The shards that it makes count.
    counting: Vec<u32>,
}

/// A question on its way to all shards.
#[derive(Debug)]
pub(super) struct Asking {
    waiting: Waiting,
    shards: BTreeMap<u32, Shard>,
    requests: Vec<Request>,
    /// When readers that all failed are asked anew.
    resume_at: Option<Instant>,
    rounds: u32,
    refusals: BTreeMap<Arc<Peer>, Refusal>,
    /// A node did something else than to refuse.
    is_taken_up: bool,
}

impl Asking {
    /// Asks for all shards.
    pub(super) fn all(plan: &Plan, waiting: Waiting) -> Self {
        Self::of(plan, plan.shards().map(|shard| (shard, None)), waiting)
    }

    /// Asks for some shards once more, first of all those who answered for them.
    pub(super) fn again(plan: &Plan, shards: &BTreeMap<u32, Arc<Peer>>, waiting: Waiting) -> Self {
        Self::of(plan, shards.iter().map(|(&shard, peer)| (shard, Some(Arc::clone(peer)))), waiting)
    }

    fn of(plan: &Plan, shards: impl Iterator<Item = (u32, Option<Arc<Peer>>)>, waiting: Waiting) -> Self {
        let shards = shards.map(|(shard, preferred)| (shard, Shard { preferred, ..Shard::default() }));
        let mut asking = Self {
            waiting,
            shards: shards.collect(),
            requests: Vec::new(),
            resume_at: None,
            rounds: 0,
            refusals: BTreeMap::new(),
            is_taken_up: false,
        };
        asking.follow(plan);
        asking
    }

    /// From now on, this is the plan. What is under way goes on.
    pub(super) fn follow(&mut self, plan: &Plan) {
        for (&number, shard) in &mut self.shards {
            let others =
                plan.readers(number).iter().filter(|reader| shard.preferred.as_ref() != Some(reader));
            shard.readers = shard.preferred.iter().chain(others).cloned().collect();
        }
    }

    /// What to ask whom now.
    pub(super) fn step(&mut self, now: Instant) -> Vec<Ask> {
        self.begin_anew(now);
        // One request per node; but hedges of two requests are two requests, so that each of their replies has shards of one
        // of the slow replies only. Otherwise two replies could overlap without one of them making up for the other.
        let mut asks: BTreeMap<(Why, Arc<Peer>), Vec<u32>> = BTreeMap::new();
        let mut exhausted = false;
        for (&number, shard) in &self.shards {
            if !self.needs_another(shard, now) {
                continue;
            }
            match shard.next_reader(&self.requests) {
                Some(reader) => {
                    asks.entry((shard.why(), Arc::clone(reader))).or_default().push(number);
                }
                None => exhausted |= !shard.tried.is_empty(),
            }
        }
        if exhausted && self.resume_at.is_none() {
            let pause = PAUSE.saturating_mul(1 << self.rounds.min(16)).min(MAX_PAUSE);
            self.resume_at = Some(now + pause);
        }
        asks.into_iter().map(|((why, peer), shards)| self.ask(why, peer, shards, now)).collect()
    }

    /// Where all readers of a shard failed a moment ago, they all get another chance.
    fn begin_anew(&mut self, now: Instant) {
        if self.resume_at.is_none_or(|at| at > now) {
            return;
        }
        self.resume_at = None;
        self.rounds += 1;
        for shard in self.shards.values_mut() {
            if shard.next_reader(&self.requests).is_none() {
                shard.tried.clear();
            }
        }
    }

    /// Whether nobody who is being asked for a shard can be expected to answer soon.
    fn needs_another(&self, shard: &Shard, now: Instant) -> bool {
        let is_slow = |call: &Call| self.requests[call.0].hedge_at <= now;
        shard.counts_by.is_none() && shard.in_flight.iter().all(is_slow)
    }

    fn ask(&mut self, why: Why, peer: Arc<Peer>, shards: Vec<u32>, now: Instant) -> Ask {
        let call = Call(self.requests.len());
        for number in &shards {
            if let Some(shard) = self.shards.get_mut(number) {
                shard.in_flight.push(call);
                shard.was_asked = true;
            }
        }
        let half = self.waiting.until.saturating_duration_since(now) / 2;
        let hedge_at = now + self.waiting.hedge_after.max(HEDGE_FLOOR).min(half);
        self.requests.push(Request {
            peer: Arc::clone(&peer),
            shards: shards.clone(),
            sent: now,
            hedge_at,
            is_over: false,
            counting: Vec::new(),
        });
        Ask { call, peer, shards, why }
    }

    /// Notes that a request is over, and returns its shards.
    fn end(&mut self, call: Call) -> Vec<u32> {
        let request = &mut self.requests[call.0];
        assert!(!request.is_over, "a request ends once");
        request.is_over = true;
        let shards = std::mem::take(&mut request.shards);
        for number in &shards {
            if let Some(shard) = self.shards.get_mut(number) {
                shard.in_flight.retain(|&other| other != call);
            }
        }
        shards
    }

    /// A node replied, for these of the shards that it was asked for (ascending); it is not ready for the others.
    pub(super) fn replied(&mut self, call: Call, answered: &[u32]) -> Verdict {
        let asked = self.end(call);
        assert!(answered.iter().all(|shard| asked.binary_search(shard).is_ok()), "replies are checked");
        self.is_taken_up = true;
        let others = asked.iter().filter(|shard| answered.binary_search(shard).is_err());
        self.note_tried(call, others, "is not ready to answer for these shards yet");

        let overlapping: BTreeSet<Call> =
            answered.iter().filter_map(|shard| self.shards.get(shard)?.counts_by).collect();
        let counted: usize = overlapping.iter().map(|other| self.requests[other.0].counting.len()).sum();
        // More shards count with it than with those that it would replace.
        if answered.len() <= counted {
            return Verdict::Dropped;
        }
        for other in &overlapping {
            for number in std::mem::take(&mut self.requests[other.0].counting) {
                if let Some(shard) = self.shards.get_mut(&number) {
                    shard.counts_by = None;
                }
            }
        }
        for number in answered {
            if let Some(shard) = self.shards.get_mut(number) {
                shard.counts_by = Some(call);
            }
        }
        self.requests[call.0].counting = answered.to_vec();
        Verdict::Counts { instead_of: overlapping.into_iter().collect() }
    }

    /// A node did not reply, and will not.
    pub(super) fn failed(&mut self, call: Call, failure: Failure) {
        let asked = self.end(call);
        self.note_tried(call, asked.iter(), &failure.reason);
        if failure.is_unfit {
            self.note_unfit(call, &asked);
        }
        match failure.refusal {
            Some(refusal) => _ = self.refusals.insert(Arc::clone(&self.requests[call.0].peer), refusal),
            None => self.is_taken_up = true,
        }
    }

    fn note_tried<'a>(&mut self, call: Call, shards: impl Iterator<Item = &'a u32>, reason: &str) {
        let (peer, reason): (_, Arc<str>) = (&self.requests[call.0].peer, reason.into());
        for number in shards {
            if let Some(shard) = self.shards.get_mut(number) {
                shard.tried.push(Arc::clone(peer));
                shard.last = Some((Arc::clone(peer), Arc::clone(&reason)));
            }
        }
    }

    fn note_unfit(&mut self, call: Call, shards: &[u32]) {
        let peer = &self.requests[call.0].peer;
        for number in shards {
            if let Some(shard) = self.shards.get_mut(number) {
                shard.tried.retain(|tried| tried != peer);
                shard.unfit.push(Arc::clone(peer));
            }
        }
    }

    /// When to [`step`](Self::step) again, where nothing happens before; `None`: never.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let pending = self.requests.iter().filter(|request| !request.is_over);
        let hedges = pending.map(|request| request.hedge_at).filter(|&at| at > now);
        hedges.chain(self.resume_at).min()
    }

    /// Whether there is nothing to wait for: every shard counts, or cannot be answered for by any of its readers.
    pub(super) fn is_settled(&self) -> bool {
        self.shards.values().all(|shard| shard.counts_by.is_some() || shard.is_hopeless())
    }

    /// The nodes' "no" to the question itself: from all of them, or one that no other reply makes up for.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        if let Some(refusal) = self.refusals.values().find(|refusal| refusal.is_too_many_rows()) {
            return Some(refusal);
        }
        let is_exhausted =
            |shard: &Shard| shard.in_flight.is_empty() && shard.next_reader(&self.requests).is_none();
        let by_all = !self.is_taken_up && self.shards.values().all(is_exhausted);
        self.refusals.values().next().filter(|_| by_all)
    }

    /// The shards that do not count, and why; `silence` is what is said of a node that has not answered.
    pub(super) fn lost(&self, now: Instant, silence: &Arc<str>) -> BTreeMap<u32, Lost> {
        let lost = self.shards.iter().filter(|(_, shard)| shard.counts_by.is_none());
        lost.map(|(&number, shard)| (number, self.why_lost(shard, now, silence))).collect()
    }

    fn why_lost(&self, shard: &Shard, now: Instant, silence: &Arc<str>) -> Lost {
        let in_flight = shard.in_flight.first().map(|call| &self.requests[call.0]);
        let (peer, reason) = match (in_flight, &shard.last) {
            // Who was asked again at the very end has had no time: what happened before says more.
            (Some(request), last) if last.is_none() || request.hedge_at <= now => (&request.peer, silence),
            (_, Some((peer, reason))) => (peer, reason),
            (_, None) => return Lost::NoReader,
        };
        Lost::Failed { peer: Arc::clone(peer), reason: Arc::clone(reason) }
    }

    /// How long ago a request was made.
    pub(super) fn age(&self, call: Call, now: Instant) -> Duration {
        now.saturating_duration_since(self.requests[call.0].sent)
    }
}

impl Shard {
    /// The first reader that is not being asked, and has not failed.
    fn next_reader(&self, requests: &[Request]) -> Option<&Arc<Peer>> {
        let is_being_asked =
            |reader: &Peer| self.in_flight.iter().any(|call| *requests[call.0].peer == *reader);
        let is_out = |reader| self.tried.contains(reader) || self.unfit.contains(reader);
        self.readers.iter().find(|reader| !is_out(reader) && !is_being_asked(reader))
    }

    /// Whether no reader's schema fits the question, of those that there are at the moment.
    fn is_hopeless(&self) -> bool {
        let is_unfit = |reader: &Arc<Peer>| self.unfit.contains(reader);
        self.in_flight.is_empty() && !self.readers.is_empty() && self.readers.iter().all(is_unfit)
    }

    fn why(&self) -> Why {
        match self.in_flight.last() {
            Some(&slow) => Why::Hedge(slow),
            None if self.was_asked => Why::Next,
            None => Why::First,
        }
    }
}
