//! One shard's buckets in memory.
//!
//! Owns: judging the events of a block, finding their buckets, counting a block once, and how what is in memory relates
//! to what is committed.
//! Does not own: the journal, messages and threads (`node`), commits (`tidemark-history`), the time (events are judged by
//! when they were sealed).
//!
//! Invariants:
//! * The shard's numbers are a function of the set of blocks applied: any order, any number of times.
//! * Events of a bad block are not counted at all; events of a good block are each counted or rejected with a reason.
//! * A block that is known to be counted, here or in commits, is not counted again.

mod rooms;

pub use rooms::Rooms;

use crate::block::{BlockError, BlockId, DecodedBlock};
use crate::bucket::Bucket;
use crate::coverage::Coverage;
use crate::deltas::{Deltas, Mark};
use crate::event::{GRACE, MAX_VALUE, TimeRules};
use crate::schema::Schema;
use crate::sharding::{ShardCount, ShardId};
use crate::table::SiteFacts;
use crate::time::{BucketStart, EventTime};
use rooms::{CountingRoom, Room};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;

/// Repeated events are told for so many buckets; those of the oldest are forgotten first.
const MAX_DUPLICATE_BUCKETS: usize = 10_000;

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

/// How a bucket in memory relates to what is committed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It is not in memory: commits answer alone.
    Absent,
    /// It includes all that commits cover: it answers alone.
    Whole,
    /// It shares no block with the commits: both together answer.
    Remainder,
    /// Neither: it must be made anew from the journal, without what commits cover.
    Mixed,
}

/// What became of a block's events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// An earlier copy of the block was counted before.
    pub repeated: bool,
    /// The buckets in which something of the block is counted or rejected; of a repeated block those of its first copy where
    /// both are alike.
    pub buckets: Vec<BucketStart>,
    /// Counted now.
    pub counted: u32,
    /// Counted before, when an earlier copy of the block came.
    pub duplicate: u32,
    /// Never counted.
    pub rejected: BTreeMap<Reason, u32>,
}

/// How a block comes to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// From whoever made it. One that was here before came again, and receipts say so.
    Sent,
    /// From another member that has it, or for a second time out of one delivery. That it was here before is no news.
    Copied,
}

/// One shard's rollups.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    rules: ShardRules,
    /// Every block that is known to be counted. A bucket covers those that have something for it.
    coverage: Coverage,
    buckets: BTreeMap<BucketStart, Arc<Bucket>>,
    /// Events that came again, by bucket and site.
    duplicates: BTreeMap<BucketStart, BTreeMap<String, u64>>,
    /// What was counted lately, where somebody asks for that.
    deltas: Option<Deltas>,
    rooms: Rooms,
    /// The sites of the block that was read last, end to end, and where each ends.
    last_sites: (String, Vec<u32>),
}

impl Shard {
    /// A shard without blocks.
    pub fn new(id: ShardId, rules: ShardRules) -> Self {
        Self {
            id,
            rules,
            coverage: Coverage::default(),
            buckets: BTreeMap::new(),
            duplicates: BTreeMap::new(),
            deltas: None,
            rooms: Rooms::for_threads(1),
            last_sites: Default::default(),
        }
    }

    /// The shard with room that it shares with others.
    #[must_use]
    pub fn sharing(mut self, rooms: &Rooms) -> Self {
        self.rooms = rooms.clone();
        self
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The buckets, oldest first.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = &Arc<Bucket>> {
        self.buckets.values()
    }

    /// One bucket, where it is in memory.
    pub fn bucket(&self, start: BucketStart) -> Option<&Arc<Bucket>> {
        self.buckets.get(&start)
    }

    /// How a bucket relates to its commits, of which this is the coverage.
    pub fn relation(&self, start: BucketStart, committed: &Coverage) -> Relation {
        let Some(bucket) = self.buckets.get(&start) else { return Relation::Absent };
        if bucket.coverage().is_disjoint(committed) {
            Relation::Remainder
        } else if bucket.coverage().includes(committed) {
            Relation::Whole
        } else {
            Relation::Mixed
        }
    }

    /// Takes a bucket out of memory. Its blocks stay known: they are not counted again.
    pub fn forget(&mut self, start: BucketStart) -> Option<Arc<Bucket>> {
        self.buckets.remove(&start)
    }

    /// Counts what a block has for some buckets, without asking whether the shard knows the block: they were forgotten, or are
    /// made from the journal or the archive.
    ///
    /// # Errors
    /// Where the block cannot be read; nothing of it is counted then.
    pub fn restore(
        &mut self,
        block: &v1::Block,
        buckets: &dyn Fn(BucketStart) -> bool,
    ) -> Result<Applied, BlockError> {
        // Buckets are made anew: they are no longer what they were and what came since.
        self.deltas = None;
        self.read_and(block, |shard, decoded, room, id| {
            shard.apply_where(decoded, room, id, Arrival::Copied, Some(buckets), &|_| false)
        })
    }

    /// Drops who was active when in the buckets before this one, which no window touches any more.
    pub fn forget_slices(&mut self, before: BucketStart) {
        for (_, bucket) in self.buckets.range_mut(..before).filter(|(_, bucket)| bucket.has_slices) {
            // One that is being read right now is left for the next time, and not copied. Who only remembers it is no reader.
            if Arc::strong_count(bucket) == 1 {
                Arc::make_mut(bucket).forget_slices();
            }
        }
    }

    /// Events that came again, by site: those noted since this was last asked for.
    pub fn take_duplicates(&mut self, start: BucketStart) -> BTreeMap<String, u64> {
        self.duplicates.remove(&start).unwrap_or_default()
    }

    /// Notes events that came again.
    pub fn add_duplicates(&mut self, start: BucketStart, by_site: BTreeMap<String, u64>) {
        for (site, events) in by_site {
            *self.duplicates.entry(start).or_default().entry(site).or_default() += events;
        }
    }

    /// Events that came again and were not taken yet, by bucket and site.
    pub fn duplicates(
        &self,
        from: BucketStart,
        to: BucketStart,
    ) -> impl Iterator<Item = (BucketStart, &str, u64)> {
        let buckets = self.duplicates.range(from..to);
        buckets.flat_map(|(&start, sites)| {
            sites.iter().map(move |(site, &events)| (start, site.as_str(), events))
        })
    }

    /// What happened to events, by bucket and site, as far as it is in memory.
    pub fn receipts(&self, from: BucketStart, to: BucketStart) -> Vec<(BucketStart, String, SiteFacts)> {
        let mut receipts: BTreeMap<(BucketStart, String), SiteFacts> = BTreeMap::new();
        for (&start, bucket) in self.buckets.range(from..to) {
            for site in bucket.sites() {
                let facts = bucket.facts(site).cloned().unwrap_or_default();
                receipts.insert((start, site.to_owned()), facts);
            }
        }
        for (&start, sites) in self.duplicates.range(from..to) {
            for (site, events) in sites {
                receipts.entry((start, site.clone())).or_default().duplicate += events;
            }
        }
        receipts.into_iter().map(|((start, site), facts)| (start, site, facts)).collect()
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes_by_bucket().map(|(_, bytes)| bytes).sum::<usize>() + self.heap_bytes_beside()
    }

    /// The same for each bucket, with what it takes in the shard.
    pub fn heap_bytes_by_bucket(&self) -> impl Iterator<Item = (BucketStart, usize)> {
        self.buckets.iter().map(|(&start, bucket)| (start, bucket.heap_bytes() + size_of::<Bucket>()))
    }

    /// The same for what is known beside the buckets.
    pub fn heap_bytes_beside(&self) -> usize {
        self.coverage.heap_bytes() + self.deltas.as_ref().map_or(0, Deltas::heap_bytes)
    }

    /// How many rows the buckets have.
    pub fn row_count(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.row_count()).sum()
    }

    /// The blocks known to be counted.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// A mark of this moment, and rollups of what was counted since `known`, a mark that this gave before: `None` where that is not
    /// known any more, and without `known`.
    ///
    /// What came after a mark is kept for its holder for a while, until it is given here as `known`: a mark serves once. `epoch` is
    /// asked for where no mark is known; it must be another one each time.
    pub fn follow(
        &mut self,
        known: Option<Mark>,
        now: EventTime,
        epoch: impl FnOnce() -> u64,
    ) -> (Mark, Option<Vec<Arc<Bucket>>>) {
        self.deltas.get_or_insert_with(|| Deltas::new(epoch())).follow(known, now)
    }

    /// Keeps nothing more for holders of marks who do not come back. To be called now and then.
    pub fn let_go_of_the_absent(&mut self, now: EventTime) {
        self.deltas.take_if(|deltas| !deltas.let_go_of_the_absent(now));
    }

    /// The sites of the block that was read last; some of them repeatedly.
    pub fn last_sites(&self) -> impl Iterator<Item = &str> {
        let (names, ends) = &self.last_sites;
        let starts = [0].iter().chain(ends);
        starts.zip(ends).map(|(&start, &end)| &names[start as usize..end as usize])
    }

    /// Counts a block, if none of its identity is counted yet: of two copies that differ, the first one counts.
    ///
    /// # Errors
    /// Where the block cannot be read; nothing of it is counted then.
    pub fn apply(&mut self, block: &v1::Block) -> Result<Applied, BlockError> {
        self.apply_beside(block, Arrival::Sent, &|_| false)
    }

    /// Counts a block of which commits may have something: in the buckets where they do not have it, as
    /// [`apply`](Self::apply) does, and where they do, as repeated.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_beside(
        &mut self,
        block: &v1::Block,
        arrival: Arrival,
        is_committed: &dyn Fn(BucketStart) -> bool,
    ) -> Result<Applied, BlockError> {
        self.read_and(block, |shard, decoded, room, id| {
            let applied = shard.apply_where(decoded, room, id, arrival, None, is_committed);
            shard.coverage.insert(id.producer, id.seq);
            applied
        })
    }

    /// Notes that these blocks are counted already, in all their buckets: they count no more.
    pub fn know(&mut self, blocks: &Coverage) {
        self.coverage.merge(blocks);
    }

    fn read_and(
        &mut self,
        block: &v1::Block,
        act: impl FnOnce(&mut Self, &DecodedBlock, &mut CountingRoom, BlockId) -> Applied,
    ) -> Result<Applied, BlockError> {
        let id = BlockId::of(block, self.rules.shards)?;
        if id.shard != self.id {
            return Err(BlockError::NoSuchShard(block.shard));
        }
        let mut room = self.rooms.take();
        let Room { decoded, counting } = &mut *room;
        let read = decoded.read(block, self.rules.shards);
        let applied = read.map(|()| {
            self.note_sites(decoded);
            act(self, decoded, counting, id)
        });
        self.rooms.give_back(room);
        applied
    }

    fn note_sites(&mut self, block: &DecodedBlock) {
        let (names, ends) = &mut self.last_sites;
        names.clear();
        ends.clear();
        // Pages of one site mostly follow one another.
        for pages in block.pages.chunk_by(|a, b| a.site == b.site) {
            names.push_str(block.text(pages[0].site));
            ends.push(names.len() as u32);
        }
    }

    /// Counts a block in all buckets, or only in some.
    fn apply_where(
        &mut self,
        block: &DecodedBlock,
        room: &mut CountingRoom,
        id: BlockId,
        arrival: Arrival,
        only: Option<&dyn Fn(BucketStart) -> bool>,
        is_committed: &dyn Fn(BucketStart) -> bool,
    ) -> Applied {
        let CountingRoom { scratch, placed, events } = room;
        let mut applied = Applied::default();
        let mut rejections: Vec<(BucketStart, &str, Reason, u32)> = Vec::new();
        for rejected in &block.rejected {
            rejections.push((rejected.bucket, &rejected.site, rejected.reason, rejected.events));
        }
        placed.clear();
        for event in 0..block.len() {
            match judge(self.rules.times, block, event) {
                Ok(bucket) => placed.push((bucket, event as u32)),
                Err((bucket, reason)) => {
                    *applied.rejected.entry(reason).or_default() += 1;
                    let site = block.pages[block.page[event] as usize].site;
                    rejections.push((bucket, block.text(site), reason, 1));
                }
            }
        }
        let known = only.is_none() && self.coverage.contains(id.producer, id.seq);
        // Nearly always one bucket; the sort is stable so that rows come in the order of events.
        if !placed.is_sorted_by_key(|&(bucket, _)| bucket) {
            placed.sort_by_key(|&(bucket, _)| bucket);
        }
        let mut starts: BTreeSet<BucketStart> = rejections.iter().map(|&(bucket, ..)| bucket).collect();
        starts.extend(placed.chunk_by(|a, b| a.0 == b.0).map(|chunk| chunk[0].0));

        let sealed_at = EventTime::from_unix_ms(block.sealed_at_ms);
        scratch.feeds.find(&self.rules.schema, block);
        for start in starts.into_iter().filter(|&start| only.is_none_or(|only| only(start))) {
            let range = placed.partition_point(|&(bucket, _)| bucket < start)
                ..placed.partition_point(|&(bucket, _)| bucket <= start);
            if known || is_committed(start) {
                applied.repeated = true;
                applied.duplicate += range.len() as u32;
                if arrival == Arrival::Sent {
                    self.note_duplicates(start, block, &placed[range]);
                }
                applied.buckets.push(start);
                continue;
            }
            let bucket = self
                .buckets
                .entry(start)
                .or_insert_with(|| Arc::new(Bucket::new(start, Arc::clone(&self.rules.schema))));
            // Copies the bucket only where it is read as a whole outside the actor right now, which is never the open one.
            let bucket = Arc::make_mut(bucket);
            if !bucket.cover(id.producer, id.seq) {
                continue;
            }
            applied.buckets.push(start);
            applied.counted += range.len() as u32;
            events.clear();
            events.extend(placed[range].iter().map(|&(_, event)| event));
            let late = sealed_at > start.end().plus(GRACE);
            bucket.count(block, events, late, self.rules.dimension_values, scratch);
            for &(_, site, reason, events) in rejections.iter().filter(|rejection| rejection.0 == start) {
                bucket.reject(site, reason, events);
            }
            if let Some(deltas) = &mut self.deltas {
                let fresh = deltas.bucket(start, &self.rules.schema, events.len().max(1));
                fresh.count(block, events, late, self.rules.dimension_values, scratch);
                for &(_, site, reason, events) in rejections.iter().filter(|rejection| rejection.0 == start) {
                    fresh.reject(site, reason, events);
                }
            }
        }
        // Nobody has asked for long.
        self.deltas.take_if(|deltas| deltas.is_too_much());
        applied
    }

    fn note_duplicates(&mut self, start: BucketStart, block: &DecodedBlock, placed: &[(BucketStart, u32)]) {
        while self.duplicates.len() > MAX_DUPLICATE_BUCKETS {
            self.duplicates.pop_first();
        }
        for &(_, event) in placed {
            let site = block.text(block.pages[block.page[event as usize] as usize].site);
            let of_bucket = self.duplicates.entry(start).or_default();
            match of_bucket.get_mut(site) {
                Some(events) => *events += 1,
                None => _ = of_bucket.insert(site.to_owned(), 1),
            }
        }
    }
}

/// The bucket of an event; or why it is rejected, and the bucket whose receipt says so.
pub(crate) fn judge(
    times: TimeRules,
    block: &DecodedBlock,
    event: usize,
) -> Result<BucketStart, (BucketStart, Reason)> {
    let sealed_at = EventTime::from_unix_ms(block.sealed_at_ms);
    let time = EventTime::from_unix_ms(block.time_ms[event]);
    let bucket = block.bucket_of(event);
    times.judge(time, sealed_at).map_err(|reason| {
        let holdable = (EventTime::EPOCH..=EventTime::MAX).contains(&time);
        (if holdable { bucket } else { BucketStart::containing(sealed_at) }, reason)
    })?;
    let too_large = |plus_one: u64| plus_one > MAX_VALUE as u64 + 1;
    if block.values.iter().any(|value| too_large(value.plus_one[event])) {
        return Err((bucket, Reason::ValueTooLarge));
    }
    Ok(bucket)
}
