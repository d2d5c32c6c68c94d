//! What the reader remembers: footers, and parts that were loaded.
//!
//! Owns: what a part is known by, what each takes, and that all together take no more than they may.
//! Does not own: loading (`load`).

use super::keep::Filter;
use super::load::{Opened, Part};
use super::lru::Lru;
use super::want::Want;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemark_proto::v1;
use tidemark_rollup::time::BucketStart;

/// What an entry takes beside its key and its value, about: places in two maps.
const ENTRY_BYTES: usize = 256;

/// What a segment is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SegmentKey {
    path: String,
    checksum: u64,
}

/// What a loaded part is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PartKey {
    segment: SegmentKey,
    /// With times that are within the segment's.
    want: Want,
    filter: Option<Filter>,
}

/// A key that borrows, because most find what they ask for.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) segment: &'a v1::Segment,
    pub(super) want: &'a Want,
    /// Stand for those of the want.
    pub(super) times: (BucketStart, BucketStart),
    pub(super) filter: Option<&'a Filter>,
}

impl SegmentKey {
    pub(super) fn of(segment: &v1::Segment) -> Self {
        Self { path: segment.path.clone(), checksum: segment.checksum }
    }

    fn is(&self, segment: &v1::Segment) -> bool {
        self.checksum == segment.checksum && self.path == segment.path
    }
}

impl Question<'_> {
    pub(super) fn to_key(&self) -> PartKey {
        PartKey {
            segment: SegmentKey::of(self.segment),
            want: self.want.at(self.times),
            filter: self.filter.cloned(),
        }
    }

    fn is(&self, key: &PartKey) -> bool {
        key.segment.is(self.segment)
            && (key.want.from, key.want.to) == self.times
            && key.filter.as_ref() == self.filter
            && self.want.is_like(&key.want)
    }
}

impl Hash for Question<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.segment.path, self.segment.checksum, self.times, self.filter).hash(state);
        self.want.hash_likeness(state);
    }
}

impl PartKey {
    fn heap_bytes(&self) -> usize {
        let filter = self.filter.as_ref().map_or(0, Filter::heap_bytes);
        size_of::<Self>() + self.segment.path.len() + self.want.heap_bytes() + filter
    }
}

/// Footers and parts, by the hash of what they are known by. Of two with one hash, which hardly ever are, one stays.
#[derive(Debug)]
pub(super) struct Memory {
    held: Mutex<Lru<u64, Held>>,
    hasher: RandomState,
}

#[derive(Debug)]
enum Held {
    Opened(SegmentKey, Arc<Opened>),
    Part(PartKey, Part),
}

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        Self { held: Mutex::new(Lru::new(limit)), hasher: RandomState::new() }
    }

    /// Bytes of all that is held.
    pub(super) fn bytes(&self) -> u64 {
        self.held().bytes()
    }

    pub(super) fn opened(&self, segment: &v1::Segment) -> Option<Arc<Opened>> {
        match self.held().get(&self.hash_of(segment))? {
            Held::Opened(key, opened) if key.is(segment) => Some(Arc::clone(opened)),
            _ => None,
        }
    }

    pub(super) fn hold_opened(&self, segment: &v1::Segment, opened: &Arc<Opened>) {
        let bytes = opened.heap_bytes() + segment.path.len() + ENTRY_BYTES;
        let held = Held::Opened(SegmentKey::of(segment), Arc::clone(opened));
        self.hold(self.hash_of(segment), held, bytes);
    }

    pub(super) fn part(&self, question: &Question<'_>) -> Option<Part> {
        match self.held().get(&self.hasher.hash_one(question))? {
            Held::Part(key, part) if question.is(key) => Some(Part::clone(part)),
            _ => None,
        }
    }

    pub(super) fn hold_part(&self, question: &Question<'_>, part: &Part) {
        let key = question.to_key();
        let buckets = part.iter().map(|bucket| bucket.heap_bytes() + size_of_val(bucket.as_ref()) + 32);
        let bytes = buckets.sum::<usize>() + key.heap_bytes() + ENTRY_BYTES;
        self.hold(self.hasher.hash_one(question), Held::Part(key, Part::clone(part)), bytes);
    }

    fn hold(&self, hash: u64, held: Held, bytes: usize) {
        let gone = self.held().insert(hash, held, bytes as u64);
        // Freed without the lock: parts may be large.
        drop(gone);
    }

    fn hash_of(&self, segment: &v1::Segment) -> u64 {
        self.hasher.hash_one((&segment.path, segment.checksum))
    }

    fn held(&self) -> MutexGuard<'_, Lru<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
