//! What was counted lately, apart from the buckets that count it.
//!
//! Owns: rollups of what a shard counted between two moments at which somebody asked, for a while.
//! Does not own: counting (`bucket`), who asks and what for (`node`).
//!
//! Who has everything up to a mark needs only what came after it, because rollups merge. That is far less to read than a bucket in
//! which minutes have gathered. But it takes far more memory by event, most of it for tables of one row each: so what nobody will ask
//! for is dropped. A mark is held from when it is given until its holder asks again and gets the next one, or is taken to have gone:
//! where it stays away for long, given how it asked before, and holding the mark is not cheap.
//!
//! Invariant: what a shard's buckets hold is what they held at a mark and what there is since; where that is not so (a bucket was
//! made anew), the marks before are not known any more.

use crate::bucket::{Bucket, Origin};
use crate::schema::Schema;
use crate::time::{BucketStart, EventTime};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// At most so many marks are known, also where older ones are held: who has one of these reads everything again.
const MAX_MARKS: usize = 64;
/// At most so many events are kept twice for them.
const MAX_EVENTS: usize = 200_000;
/// Who stays away so many times as long as the time before is taken to have gone.
const STAYS_AWAY: u32 = 4;
/// But not sooner,
const MIN_AWAY: Duration = Duration::from_secs(5);
/// nor later: a node forgets its part of an answer when it was not asked for so long.
const MAX_AWAY: Duration = Duration::from_secs(90);
/// Who asked once is waited for so long.
const NEW_STAYS_AWAY: Duration = Duration::from_secs(15);
/// So many marks and events are kept for who stays away all the same: where little happens, questions are seldom asked.
const FEW_MARKS: u64 = 8;
const FEW_EVENTS: usize = 512;

/// A moment in what a shard counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Moments of different epochs cannot be compared.
    epoch: u64,
    number: u64,
    /// When its holder asked.
    given: EventTime,
    /// Its holder is expected until then.
    until: EventTime,
}

impl Mark {
    /// How long its holder, who asks now, may stay away from here on: more than it did this time, and not suddenly less than before.
    fn patience(self, now: EventTime) -> Duration {
        let before = self.until.since(self.given);
        if now == self.given {
            // It asks for the rest of one answer.
            return before;
        }
        now.since(self.given).saturating_mul(STAYS_AWAY).max(before / 2).clamp(MIN_AWAY, MAX_AWAY)
    }
}

/// What was counted between two marks.
type Delta = (usize, Vec<Arc<Bucket>>);

/// What was counted since some marks.
#[derive(Debug)]
pub(crate) struct Deltas {
    epoch: u64,
    /// Of the last mark.
    last: u64,
    /// Up to the last mark, oldest first; nothing from before the oldest mark that is held.
    sealed: VecDeque<Delta>,
    /// By number and until when its holder is expected: how many hold it.
    held: BTreeMap<(u64, EventTime), usize>,
    /// Since the last mark.
    fresh: BTreeMap<BucketStart, Bucket>,
    fresh_events: usize,
}

impl Deltas {
    /// Begins here; `epoch` is another one than ever before.
    pub(crate) fn new(epoch: u64) -> Self {
        let (sealed, held) = (VecDeque::new(), BTreeMap::new());
        Self { epoch, last: 0, sealed, held, fresh: BTreeMap::new(), fresh_events: 0 }
    }

    /// Where something is counted a second time.
    pub(crate) fn bucket(&mut self, start: BucketStart, schema: &Arc<Schema>, events: usize) -> &mut Bucket {
        self.fresh_events += events;
        self.fresh.entry(start).or_insert_with(|| {
            let mut bucket = Bucket::new(start, Arc::clone(schema));
            bucket.origin = Origin::Delta;
            bucket
        })
    }

    /// Whether nobody has asked for so long that it costs too much.
    pub(crate) fn is_too_much(&self) -> bool {
        self.fresh_events > MAX_EVENTS
    }

    /// The mark of now, which is held from here on, and what was counted since `known`, which is not held any more: `None` where
    /// that is not known.
    pub(crate) fn follow(&mut self, known: Option<Mark>, now: EventTime) -> (Mark, Option<Vec<Arc<Bucket>>>) {
        if !self.fresh.is_empty() {
            let fresh = std::mem::take(&mut self.fresh).into_values().map(Arc::new).collect();
            self.sealed.push_back((std::mem::take(&mut self.fresh_events), fresh));
            self.last += 1;
        }
        let away = known.map_or(NEW_STAYS_AWAY, |mark| mark.patience(now));
        let known = known.filter(|mark| mark.epoch == self.epoch);
        let since = known.and_then(|mark| self.since(mark));
        let mark = Mark { epoch: self.epoch, number: self.last, given: now, until: now.plus(away) };
        *self.held.entry((mark.number, mark.until)).or_default() += 1;
        known.into_iter().for_each(|mark| self.let_go(mark));
        self.drop_what_nobody_needs();
        (mark, since)
    }

    fn since(&self, mark: Mark) -> Option<Vec<Arc<Bucket>>> {
        let behind = self.last.checked_sub(mark.number)?;
        let newest = self.sealed.len().checked_sub(usize::try_from(behind).ok()?)?;
        Some(self.sealed.iter().skip(newest).flat_map(|(_, buckets)| buckets.iter().cloned()).collect())
    }

    fn let_go(&mut self, mark: Mark) {
        if let Entry::Occupied(mut held) = self.held.entry((mark.number, mark.until)) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }

    /// Lets go of marks whose holders have gone. Returns whether there are others.
    pub(crate) fn let_go_of_the_absent(&mut self, now: EventTime) -> bool {
        let absent = self.held.keys().filter(|&&(_, until)| until < now);
        let absent: Vec<u64> = absent.map(|&(number, _)| number).collect();
        self.held.retain(|&(_, until), _| until >= now);
        for number in absent {
            if self.last - number <= FEW_MARKS && self.events_since(number) <= FEW_EVENTS {
                // For all who hold it, however many they are.
                self.held.insert((number, EventTime::EPOCH), 1);
            }
        }
        self.drop_what_nobody_needs();
        !self.held.is_empty()
    }

    fn events_since(&self, number: u64) -> usize {
        let behind = (self.last - number) as usize;
        self.fresh_events + self.sealed.iter().rev().take(behind).map(|(events, _)| events).sum::<usize>()
    }

    fn drop_what_nobody_needs(&mut self) {
        let oldest = self.held.first_key_value().map_or(self.last, |(&(number, _), _)| number);
        let needed = usize::try_from(self.last - oldest).unwrap_or(usize::MAX);
        let mut events: usize = self.sealed.iter().map(|(events, _)| events).sum();
        while self.sealed.len() > needed.min(MAX_MARKS) || events > MAX_EVENTS {
            events -= self.sealed.pop_front().map_or(0, |(events, _)| events);
        }
        // Who holds older marks reads everything again.
        self.held = self.held.split_off(&(self.last - self.sealed.len() as u64, EventTime::EPOCH));
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let sealed = self.sealed.iter().flat_map(|(_, buckets)| buckets).map(Arc::as_ref);
        let rollups =
            sealed.chain(self.fresh.values()).map(|bucket| size_of::<Bucket>() + bucket.heap_bytes());
        rollups.sum::<usize>() + self.held.len() * size_of::<((u64, EventTime), usize)>()
    }
}
