//! Making a day's segments, some shards at a time.
//!
//! Owns: how many rows are in memory at once, in which passes inputs are read, writing the segments.
//! Does not own: what the inputs are (`day`, `rebuild`), putting the segments in the place of others (`replacing`).
//!
//! Invariant: what is made is a function of the inputs; the number of rows at once changes only how it is cut into segments.

use super::cuts::{Cuts, suspects};
use super::layout;
use super::load::{Group, Loaded, Loader};
use super::{CompactError, Compactor};
use crate::day::{DAY_SECONDS, DayStart};
use crate::paths::{DaySegment, ObjectPath};
use crate::segment::{RowGroup, Written, write_rollup};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::scan::{DimensionOfBucket, Folds};
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::{BUCKET_SECONDS, BucketStart};
use tidemark_shell::work;

/// Censuses in memory at once; each has as many hashes as the limit, and one.
const CENSUSES: usize = 256;

/// A day's new segments, stored.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) five_minutes: Vec<v1::Segment>,
    pub(crate) days: Vec<v1::Segment>,
}

/// Some shards of one group of inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) group: usize,
    pub(crate) shards: Range<u32>,
}

/// Shards in ranges, so that each has about `rows_at_once` of `rows` rows at most.
pub(crate) fn ranges(rows: u64, rows_at_once: u64, shards: ShardCount) -> impl Iterator<Item = Range<u32>> {
    let parts = rows.div_ceil(rows_at_once.max(1)).clamp(1, u64::from(shards.get()));
    let parts = parts.next_power_of_two().min(u64::from(shards.get())) as u32;
    let width = shards.get() / parts;
    (0..parts).map(move |part| part * width..(part + 1) * width)
}

/// Reads tasks, and keeps the one read last: nearly always there is only one.
pub(crate) struct Tasks<'a> {
    loader: &'a Loader,
    groups: &'a [Group],
    tasks: Vec<Task>,
    last: Option<(usize, Arc<Loaded>)>,
}

impl<'a> Tasks<'a> {
    pub(crate) fn new(loader: &'a Loader, groups: &'a [Group], rows_at_once: u64) -> Self {
        let mut tasks = Vec::new();
        for (group, inputs) in groups.iter().enumerate() {
            let rows = inputs.rollups.iter().map(|rollup| rollup.rows).sum::<u64>() + inputs.raw_rows;
            let ranges = ranges(rows, rows_at_once, loader.objects.shards);
            tasks.extend(ranges.map(|shards| Task { group, shards }));
        }
        Self { loader, groups, tasks, last: None }
    }

    async fn load(&mut self, at: usize) -> Result<Arc<Loaded>, CompactError> {
        if let Some((last, loaded)) = &self.last
            && *last == at
        {
            return Ok(Arc::clone(loaded));
        }
        // What was read before leaves memory first.
        self.last = None;
        let task = &self.tasks[at];
        let loaded = Arc::new(self.loader.load(&self.groups[task.group], &task.shards).await?);
        self.last = Some((at, Arc::clone(&loaded)));
        Ok(loaded)
    }

    /// The cuts that all tasks together agree on.
    pub(crate) async fn folds(&mut self) -> Result<Folds, CompactError> {
        let limit = self.loader.limit;
        // Where all are over the limit together, one of them has more than its share.
        let share = u64::from(limit) / (self.tasks.len().max(1) as u64);
        let mut found: BTreeSet<DimensionOfBucket> = BTreeSet::new();
        for at in 0..self.tasks.len() {
            let loaded = self.load(at).await?;
            found.append(&mut work::run_apart(move || suspects(&loaded.buckets, share)).await);
        }
        let found: Vec<DimensionOfBucket> = found.into_iter().collect();
        let mut folds = Folds::default();
        for some in found.chunks(CENSUSES) {
            let mut cuts = Cuts::new(some.to_vec(), limit);
            for at in 0..self.tasks.len() {
                let loaded = self.load(at).await?;
                cuts = work::run_apart(move || {
                    cuts.add(&loaded.buckets);
                    cuts
                })
                .await;
            }
            cuts.finish(&mut folds);
        }
        Ok(folds)
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn task(&self, at: usize) -> &Task {
        &self.tasks[at]
    }

    /// What a task has, its schema, and its shards.
    pub(crate) async fn get(
        &mut self,
        at: usize,
    ) -> Result<(Arc<Loaded>, Arc<Schema>, Vec<ShardId>), CompactError> {
        let loaded = self.load(at).await?;
        let task = &self.tasks[at];
        let shards = self.loader.objects.shards;
        let of = task.shards.clone().filter_map(|shard| shards.shard(shard)).collect();
        Ok((loaded, Arc::clone(&self.groups[task.group].schema), of))
    }
}

/// The first bucket of a day: rows of the day are of it.
pub(crate) fn first_bucket(day: DayStart) -> BucketStart {
    BucketStart::containing(day.time())
}

impl Compactor {
    /// Makes and stores the segments of a day.
    pub(crate) async fn make(
        &self,
        day: DayStart,
        groups: &[Group],
        keep_five_minutes: bool,
    ) -> Result<Made, CompactError> {
        let mut tasks = Tasks::new(&self.loader, groups, self.settings.rows_at_once);
        let folds = Arc::new(tasks.folds().await?);
        let mut made = Made::default();
        let attempt = self.attempt();
        for at in 0..tasks.len() {
            let (loaded, schema, shards) = tasks.get(at).await?;
            let writing =
                Writing { schema, shards, count: self.settings.shards, rows: self.settings.group_rows };
            let name = |n| DaySegment { day, writer: self.settings.writer.clone(), attempt, n };
            if keep_five_minutes {
                let (writing, loaded) = (writing.clone(), Arc::clone(&loaded));
                let written = work::run_apart(move || writing.five_minutes(&loaded)).await?;
                let path = ObjectPath::DayFiveMinutes(name(made.five_minutes.len() as u32));
                self.store(&mut made.five_minutes, path, written).await?;
            }
            let folds = Arc::clone(&folds);
            let written = work::run_apart(move || writing.days(&loaded, &folds, first_bucket(day))).await?;
            let path = ObjectPath::DayRollup(name(made.days.len() as u32));
            self.store(&mut made.days, path, written).await?;
        }
        Ok(made)
    }

    async fn store(
        &self,
        segments: &mut Vec<v1::Segment>,
        path: ObjectPath,
        written: Option<Written>,
    ) -> Result<(), CompactError> {
        let Some(written) = written else { return Ok(()) };
        let path = path.to_string();
        segments.push(written.to_segment(&path));
        self.loader.objects.put(&path, written.bytes).await?;
        Ok(())
    }
}

/// What a segment is written by.
#[derive(Clone)]
struct Writing {
    schema: Arc<Schema>,
    shards: Vec<ShardId>,
    count: ShardCount,
    /// Rows of a row group, at most.
    rows: usize,
}

impl Writing {
    fn five_minutes(&self, loaded: &Loaded) -> Result<Option<Written>, CompactError> {
        let Some(&shard) = self.shards.first() else { return Ok(None) };
        self.write(&layout::five_minutes(&self.schema, loaded, shard), BUCKET_SECONDS)
    }

    fn days(
        &self,
        loaded: &Loaded,
        folds: &Folds,
        first: BucketStart,
    ) -> Result<Option<Written>, CompactError> {
        let Some(&shard) = self.shards.first() else { return Ok(None) };
        self.write(&layout::days(&self.schema, loaded, folds, (first, shard, self.count)), DAY_SECONDS)
    }

    fn write(&self, rows: &SegmentRows, row_seconds: u32) -> Result<Option<Written>, CompactError> {
        if rows.is_empty() {
            return Ok(None);
        }
        let parts: Vec<SegmentRows> =
            layout::cuts(rows, self.rows).iter().map(|cut| layout::part_of(rows, cut)).collect();
        let groups: Vec<RowGroup<'_>> =
            parts.iter().map(|rows| RowGroup { shards: &self.shards, rows }).collect();
        Ok(Some(write_rollup(&groups, row_seconds, self.count)?))
    }
}

/// Every rollup, whatever its bucket: for those who compare.
pub(crate) fn by_bucket(buckets: &[Arc<Bucket>]) -> BTreeMap<BucketStart, Vec<Arc<Bucket>>> {
    let mut by_bucket: BTreeMap<BucketStart, Vec<Arc<Bucket>>> = Default::default();
    for bucket in buckets {
        by_bucket.entry(bucket.start()).or_default().push(Arc::clone(bucket));
    }
    by_bucket
}
