//! One shard's buckets in memory.
//!
//! Owns: judging the events of a block, finding their buckets, and counting a block once.
//! Does not own: the journal, messages and threads (`node`), the time (events are judged by when they were sealed).
//!
//! Invariants:
//! * The shard's numbers are a function of the set of blocks applied: any order, any number of times.
//! * Events of a bad block are not counted at all; events of a good block are each counted or rejected with a reason.

use crate::block::{BlockError, BlockId, DecodedBlock};
use crate::bucket::{Bucket, Scratch};
use crate::coverage::Coverage;
use crate::event::{GRACE, MAX_VALUE, TimeRules};
use crate::schema::Schema;
use crate::sharding::{ShardCount, ShardId};
use crate::time::{BucketStart, EventTime};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;

/// What all shards of a cluster go by.
#[derive(Clone, Debug)]
pub struct ShardRules {
    /// What is counted.
    pub schema: Arc<Schema>,
    /// How many shards there are.
    pub shards: ShardCount,
    /// Which times are acceptable.
    pub times: TimeRules,
    /// Distinct values per site, dimension and bucket.
    pub dimension_values: u32,
}

/// What became of a block's events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// An earlier copy of the block was counted before.
    pub repeated: bool,
    /// Counted now.
    pub counted: u32,
    /// Counted before, when an earlier copy of the block came.
    pub duplicate: u32,
    /// Never counted.
    pub rejected: BTreeMap<Reason, u32>,
}

/// One shard's rollups.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    rules: ShardRules,
    /// Every block applied. A bucket covers those that have something for it.
    coverage: Coverage,
    buckets: BTreeMap<BucketStart, Arc<Bucket>>,
    decoded: DecodedBlock,
    scratch: Scratch,
    /// Per event of the block at hand, in order of bucket.
    placed: Vec<(BucketStart, u32)>,
    events: Vec<u32>,
}

impl Shard {
    /// A shard without blocks.
    pub fn new(id: ShardId, rules: ShardRules) -> Self {
        Self {
            id,
            rules,
            coverage: Coverage::default(),
            buckets: BTreeMap::new(),
            decoded: DecodedBlock::default(),
            scratch: Scratch::default(),
            placed: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The buckets, oldest first.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = &Arc<Bucket>> {
        self.buckets.values()
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        let buckets: usize =
            self.buckets.values().map(|bucket| bucket.heap_bytes() + size_of::<Bucket>()).sum();
        buckets + self.coverage.heap_bytes()
    }

    /// How many rows the buckets have.
    pub fn row_count(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.row_count()).sum()
    }

    /// The blocks applied.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Counts a block, if none of its identity is counted yet: of two copies that differ, the first one counts.
    ///
    /// # Errors
    /// Where the block cannot be read; nothing of it is counted then.
    pub fn apply(&mut self, block: &v1::Block) -> Result<Applied, BlockError> {
        let id = BlockId::of(block, self.rules.shards)?;
        if id.shard != self.id {
            return Err(BlockError::NoSuchShard(block.shard));
        }
        let mut decoded = std::mem::take(&mut self.decoded);
        let read = decoded.read(block, self.rules.shards);
        let applied = read.map(|()| self.apply_decoded(&decoded, id));
        self.decoded = decoded;
        applied
    }

    fn apply_decoded(&mut self, block: &DecodedBlock, id: BlockId) -> Applied {
        let mut applied = Applied::default();
        let mut rejections: Vec<(BucketStart, &str, Reason, u32)> = Vec::new();
        for rejected in &block.rejected {
            rejections.push((rejected.bucket, &rejected.site, rejected.reason, rejected.events));
        }
        self.placed.clear();
        for event in 0..block.len() {
            match self.judge(block, event) {
                Ok(bucket) => self.placed.push((bucket, event as u32)),
                Err((bucket, reason)) => {
                    *applied.rejected.entry(reason).or_default() += 1;
                    let site = block.pages[block.page[event] as usize].site;
                    rejections.push((bucket, block.text(site), reason, 1));
                }
            }
        }
        if !self.coverage.insert(id.producer, id.seq) {
            applied.repeated = true;
            applied.duplicate = self.placed.len() as u32;
            return applied;
        }
        // Nearly always one bucket; the sort is stable so that rows come in the order of events.
        if !self.placed.is_sorted_by_key(|&(bucket, _)| bucket) {
            self.placed.sort_by_key(|&(bucket, _)| bucket);
        }
        let mut starts: BTreeSet<BucketStart> = rejections.iter().map(|&(bucket, ..)| bucket).collect();
        starts.extend(self.placed.chunk_by(|a, b| a.0 == b.0).map(|chunk| chunk[0].0));

        let sealed_at = EventTime::from_unix_ms(block.sealed_at_ms);
        self.scratch.feeds.find(&self.rules.schema, block);
        for start in starts {
            let bucket = self
                .buckets
                .entry(start)
                .or_insert_with(|| Arc::new(Bucket::new(start, Arc::clone(&self.rules.schema))));
            let range = self.placed.partition_point(|&(bucket, _)| bucket < start)
                ..self.placed.partition_point(|&(bucket, _)| bucket <= start);
            // Copies the bucket only where a query is reading it outside the actor right now, which is never the open one.
            let bucket = Arc::make_mut(bucket);
            let covered = bucket.cover(id.producer, id.seq);
            assert!(covered, "a bucket covers only blocks that the shard covers");
            applied.counted += range.len() as u32;
            self.events.clear();
            self.events.extend(self.placed[range].iter().map(|&(_, event)| event));
            let late = sealed_at > start.end().plus(GRACE);
            bucket.count(block, &self.events, late, self.rules.dimension_values, &mut self.scratch);
            for &(_, site, reason, events) in rejections.iter().filter(|rejection| rejection.0 == start) {
                bucket.reject(site, reason, events);
            }
        }
        applied
    }

    /// The bucket of an event; or why it is rejected, and the bucket whose receipt says so.
    fn judge(&self, block: &DecodedBlock, event: usize) -> Result<BucketStart, (BucketStart, Reason)> {
        let sealed_at = EventTime::from_unix_ms(block.sealed_at_ms);
        let time = EventTime::from_unix_ms(block.time_ms[event]);
        let bucket = block.bucket_of(event);
        self.rules.times.judge(time, sealed_at).map_err(|reason| {
            let holdable = (EventTime::EPOCH..=EventTime::MAX).contains(&time);
            (if holdable { bucket } else { BucketStart::containing(sealed_at) }, reason)
        })?;
        let too_large = |plus_one: u64| plus_one > MAX_VALUE as u64 + 1;
        if block.values.iter().any(|value| too_large(value.plus_one[event])) {
            return Err((bucket, Reason::ValueTooLarge));
        }
        Ok(bucket)
    }
}
