//! What was counted lately, apart from the buckets that count it.
//!
//! Owns: rollups of what a shard counted between two moments at which somebody asked, for a while.
//! Does not own: counting (`bucket`), who asks and what for (`node`).
//!
//! Who has everything up to a mark needs only what came after it, because rollups merge. That is far less to read than a bucket in
//! which minutes have gathered.
//!
//! Invariant: what a shard's buckets hold is what they held at a mark and what there is since; where that is not so (a bucket was
//! made anew), the marks before are not known any more.

use crate::bucket::{Bucket, Origin};
use crate::schema::Schema;
use crate::time::BucketStart;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// At most so many marks are known.
const MAX_MARKS: usize = 64;
/// At most so many events are kept twice for them.
const MAX_EVENTS: usize = 200_000;

/// A moment in what a shard counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Moments of different epochs cannot be compared.
    epoch: u64,
    number: u64,
}

/// What was counted between two marks.
type Delta = (usize, Vec<Arc<Bucket>>);

/// What was counted since some marks.
#[derive(Debug)]
pub(crate) struct Deltas {
    last: Mark,
    /// Up to the last mark, oldest first.
    sealed: VecDeque<Delta>,
    /// Since then.
    fresh: BTreeMap<BucketStart, Bucket>,
    fresh_events: usize,
}

impl Deltas {
    /// Begins here; `epoch` is another one than ever before.
    pub(crate) fn new(epoch: u64) -> Self {
        let last = Mark { epoch, number: 0 };
        Self { last, sealed: VecDeque::new(), fresh: BTreeMap::new(), fresh_events: 0 }
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

    /// The mark of now.
    pub(crate) fn mark(&mut self) -> Mark {
        if !self.fresh.is_empty() {
            let fresh = std::mem::take(&mut self.fresh).into_values().map(Arc::new).collect();
            self.sealed.push_back((std::mem::take(&mut self.fresh_events), fresh));
            self.last.number += 1;
        }
        let mut events: usize = self.sealed.iter().map(|(events, _)| events).sum();
        while self.sealed.len() > MAX_MARKS || events > MAX_EVENTS {
            events -= self.sealed.pop_front().map_or(0, |(events, _)| events);
        }
        self.last
    }

    /// What was counted from `mark` to the last one; `None` where that is not known.
    pub(crate) fn since(&self, mark: Mark) -> Option<Vec<Arc<Bucket>>> {
        let behind = self.last.number.checked_sub(mark.number)?;
        let known = self.last.epoch == mark.epoch && behind <= self.sealed.len() as u64;
        let newest = self.sealed.iter().skip(self.sealed.len().saturating_sub(behind as usize));
        known.then(|| newest.flat_map(|(_, buckets)| buckets.iter().cloned()).collect())
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let sealed = self.sealed.iter().flat_map(|(_, buckets)| buckets).map(|bucket| bucket.heap_bytes());
        sealed.chain(self.fresh.values().map(Bucket::heap_bytes)).sum()
    }
}
