//! What is committed of a day, as what replaces it names it.
//!
//! Owns: which commits are replaced, which raw segments stay, the day's coverage, and the inputs of a compaction.
//! Does not own: making segments (`make`).
//!
//! Invariant: of a bucket all raw segments stay, or none: a part of them would make wrong numbers.

use super::load::{Group, Rollup};
use super::{CompactError, Compactor};
use crate::catalog::{Day, History};
use crate::day::DayStart;
use crate::paths::ObjectPath;
use crate::replacement::DayCoverage;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// Coverage by bucket and shard.
pub(crate) type ByBucket = BTreeMap<BucketStart, BTreeMap<ShardId, Coverage>>;

/// Whether the day has only rows of days: its five-minute rows are no longer kept.
pub(crate) fn is_expired(day: &Day) -> bool {
    day.replacement().is_some_and(|holds| holds.day.five_minutes.is_empty() && !holds.day.days.is_empty())
}

/// The buckets of a day that anything is committed of, with all of their commits replaced.
pub(crate) fn replaced_buckets(day: &Day) -> Vec<v1::ReplacedBucket> {
    let replaced = day.replacement().map(|holds| &holds.day.buckets).into_iter().flatten();
    let replaced = replaced.filter_map(|bucket| BucketStart::from_unix_seconds(bucket.bucket_start_s));
    let buckets: BTreeSet<BucketStart> = replaced.chain(day.open_buckets()).collect();
    let bucket = |bucket: BucketStart| v1::ReplacedBucket {
        bucket_start_s: bucket.as_unix_seconds(),
        through: day.next_number(bucket).saturating_sub(1),
        raw: raw_segments(day, bucket),
    };
    buckets.into_iter().map(bucket).collect()
}

/// The raw segments that have all blocks of a bucket; none where some are no longer kept.
pub(crate) fn raw_segments(day: &Day, bucket: BucketStart) -> Vec<v1::Segment> {
    let of = day.bucket(bucket);
    let replaced = day.replacement().and_then(|holds| holds.bucket(bucket));
    let before = replaced.map(|replaced| &replaced.raw);
    if before.is_some_and(Vec::is_empty) {
        return Vec::new();
    }
    let since: Option<Vec<v1::Segment>> =
        of.commits.iter().map(|commit| commit.message().raw.clone()).collect();
    let Some(since) = since else { return Vec::new() };
    before.into_iter().flatten().cloned().chain(since).collect()
}

impl Compactor {
    /// Which blocks a day's commits cover, replaced or not.
    pub(crate) async fn coverage(&self, history: &History, day: &Day) -> Result<ByBucket, CompactError> {
        let mut coverage = ByBucket::new();
        let before = match day.replacement() {
            Some(_) => self.catalog.day_coverage(day.start()).await?,
            None => None,
        };
        for (bucket, packed) in before.iter().flat_map(|before| before.buckets()) {
            let shards = coverage.entry(bucket).or_default();
            packed.shards().for_each(|shard| shards.entry(shard).or_default().merge(&packed.of(shard)));
        }
        let commits = history.day(day.start()).into_iter().flat_map(|day| day.commits());
        for commit in commits {
            let shards = coverage.entry(commit.bucket()).or_default();
            commit.shards().for_each(|shard| shards.entry(shard).or_default().merge(&commit.coverage(shard)));
        }
        Ok(coverage)
    }

    /// Stores a day's coverage.
    pub(crate) async fn put_coverage(
        &self,
        day: DayStart,
        coverage: &ByBucket,
    ) -> Result<v1::Segment, CompactError> {
        let shard = |(shard, coverage): (&ShardId, &Coverage)| v1::ShardCoverage {
            shard: shard.get(),
            coverage: Some(coverage.to_wire()),
        };
        let bucket = |(bucket, shards): (&BucketStart, &BTreeMap<ShardId, Coverage>)| v1::BucketCoverage {
            bucket_start_s: bucket.as_unix_seconds(),
            shards: shards.iter().map(shard).collect(),
        };
        let message = v1::DayCoverage { buckets: coverage.iter().map(bucket).collect() };
        let path = ObjectPath::Coverage { day, attempt: self.attempt() };
        let (bytes, segment) = DayCoverage::encode(&path, &message);
        self.loader.objects.put(&segment.path, bytes).await?;
        Ok(segment)
    }

    /// The rollup segments that a day's answers come from, the oldest first. Where they are `optional`, without those that
    /// are damaged.
    pub(crate) async fn rollups(&self, day: &Day, optional: bool) -> Result<Vec<Rollup>, CompactError> {
        let holds = day.replacement();
        let of_days = is_expired(day);
        let before = holds.map(|holds| if of_days { &holds.day.days } else { &holds.day.five_minutes });
        let before = before.into_iter().flatten().map(|segment| (segment, of_days));
        let mut commits: Vec<_> = day.commits().collect();
        commits.sort_by_key(|commit| (commit.message().committed_at_ms, commit.bucket(), commit.number()));
        let since = commits.into_iter().filter_map(|commit| Some((commit.message().rollup.as_ref()?, false)));
        let segments: Vec<(v1::Segment, bool)> =
            before.chain(since).map(|(segment, of_days)| (segment.clone(), of_days)).collect();
        let objects = &self.loader.objects;
        let open = |(segment, of_days): (v1::Segment, bool)| async move {
            match objects.footer(&segment).await {
                Ok(footer) => Ok(Some(Rollup { optional, ..Rollup::whole(footer, segment.rows, of_days) })),
                Err(error) if optional && error.is_damage() => {
                    tracing::warn!(%error, "a damaged segment is left out");
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        };
        let opened: Vec<Option<Rollup>> =
            stream::iter(segments).map(open).buffered(self.loader.parallel).try_collect().await?;
        Ok(opened.into_iter().flatten().collect())
    }
}

/// Inputs by schema. The newest one's order of names stands for all that name the same.
pub(crate) fn by_schema(rollups: Vec<Rollup>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for rollup in rollups {
        let schema = Arc::clone(rollup.footer.schema());
        let group = group_of(&mut groups, &schema);
        group.schema = schema;
        group.rollups.push(rollup);
    }
    groups
}

/// The group of a schema, which is added where it is new.
pub(crate) fn group_of<'a>(groups: &'a mut Vec<Group>, schema: &Arc<Schema>) -> &'a mut Group {
    let at = groups.iter().position(|group| is_same(&group.schema, schema)).unwrap_or_else(|| {
        groups.push(Group::new(Arc::clone(schema)));
        groups.len() - 1
    });
    &mut groups[at]
}

/// Whether both name the same dimensions and measures, in any order.
fn is_same(a: &Schema, b: &Schema) -> bool {
    let names = |schema: &Schema| -> (BTreeSet<String>, BTreeSet<String>) {
        let measures = schema.measures().iter().map(ToString::to_string);
        (schema.dimensions().iter().cloned().collect(), measures.collect())
    };
    a == b || names(a) == names(b)
}
