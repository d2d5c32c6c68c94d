//! From bytes of a segment to rollups. All of it is work for a processor, none of it waits.
//!
//! Owns: what is known of a segment once its footer is read, and making rollups of its rows.
//! Does not own: where bytes come from (`fetch`), who remembers what comes out (`memory`).

use super::keep::{Filter, Keep, Kept};
use super::shards::ShardSet;
use super::want::Want;
use crate::day::{DAY_SECONDS, DayStart};
use crate::paths::ObjectPath;
use crate::segment::{Footer, Plan, SegmentError, Selection};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::{BUCKET_SECONDS, BucketStart, EventTime};
use xxhash_rust::xxh3::xxh3_64;

/// Rollups that were loaded, by bucket.
pub(super) type Part = Arc<[Arc<Bucket>]>;

/// A segment whose footer is read.
#[derive(Debug)]
pub(super) struct Opened {
    footer: Footer,
    /// Those that rows may be of.
    shards: ShardSet,
    /// All rows are of buckets from the first one on and before the second, where that is known.
    span: Option<(BucketStart, BucketStart)>,
}

impl Opened {
    /// Reads the footer out of the segment's last bytes, or out of all of them: then they are verified.
    pub(super) fn read(
        segment: &v1::Segment,
        bytes: &Bytes,
        shards: ShardCount,
    ) -> Result<Self, SegmentError> {
        if bytes.len() as u64 == segment.size_bytes {
            check_whole(segment, bytes)?;
        }
        let body = bytes.len().saturating_sub(usize::try_from(segment.footer_bytes).unwrap_or(usize::MAX));
        let footer = Footer::parse(segment, &bytes.slice(body..))?;
        if footer.shard_count() != shards {
            let what = format!(
                "it is of a cluster of {} shards, and this one has {}",
                footer.shard_count().get(),
                shards.get()
            );
            return Err(SegmentError::Unreadable { path: segment.path.clone(), what });
        }
        Ok(Self { shards: footer.shards().collect(), span: span_of(&footer), footer })
    }

    fn is_of_days(&self) -> bool {
        self.footer.row_seconds() == DAY_SECONDS
    }

    /// The buckets that are wanted, as far as the segment may have them; none where it has none of them. A want of more than
    /// the segment has is the same as one of all of it: what is known by these times stays the same as time goes by.
    pub(super) fn times(&self, want: &Want) -> Option<(BucketStart, BucketStart)> {
        let (mut from, mut to) = (want.from, want.to);
        if from >= to {
            return None;
        }
        if self.is_of_days() {
            (from, to) = (day_of(from), end_of_days(to));
        }
        if let Some((first, end)) = self.span {
            (from, to) = (from.max(first), to.min(end));
        }
        (from < to).then_some((from, to))
    }

    /// What is kept of it; none where nothing is.
    pub(super) fn kept<'a>(&self, keep: &'a Keep, times: (BucketStart, BucketStart)) -> Option<Kept<'a>> {
        match self.is_of_days() {
            true => Kept::of_days(&self.shards, keep, times),
            false => Kept::of(&self.shards, keep, times),
        }
    }

    /// What is to be read of it.
    pub(super) fn plan(&self, want: &Want, filter: Option<&Filter>) -> Plan {
        let mine = |filter: &Filter| -> Vec<ShardId> {
            self.footer.shards().filter(|&shard| filter.shards().contains(shard)).collect()
        };
        self.footer.plan(&want.selection(filter, filter.map(mine)))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.footer.heap_bytes() + self.shards.heap_bytes()
    }
}

/// How rows become rollups.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) opened: Arc<Opened>,
    pub(super) plan: Plan,
    pub(super) filter: Option<Filter>,
    /// Distinct values per site, dimension and bucket that rows of five minutes were made under.
    pub(super) limit: u32,
}

impl Recipe {
    /// The rollups, from the bytes that were planned.
    pub(super) fn read(&self, parts: Vec<Bytes>) -> Result<Part, SegmentError> {
        let rows = self.plan.read(parts)?;
        // Those of days were cut when they were made.
        let limit = (!self.opened.is_of_days()).then_some(self.limit);
        let shards = self.opened.footer.shard_count();
        let buckets = match &self.filter {
            None => rows.to_buckets(shards, limit, None),
            Some(filter) => {
                rows.to_buckets(shards, limit, Some(&|bucket, shard| filter.keeps(bucket, shard)))
            }
        };
        Ok(buckets.into_iter().map(Arc::new).collect())
    }

    /// The same from all bytes of the segment, which must have been verified.
    pub(super) fn read_whole(&self, bytes: &Bytes) -> Result<Part, SegmentError> {
        let slice = |range: &Range<u64>| {
            let (from, to) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
            (to <= bytes.len()).then(|| bytes.slice(from..to))
        };
        let parts: Option<Vec<Bytes>> = self.plan.ranges().iter().map(slice).collect();
        self.read(parts.ok_or_else(|| SegmentError::Fetched {
            path: self.opened.footer.path().to_owned(),
            what: "a column lies outside of what came".to_owned(),
        })?)
    }
}

/// Checks that these are all bytes that were committed.
pub(super) fn check_whole(segment: &v1::Segment, bytes: &[u8]) -> Result<(), SegmentError> {
    if xxh3_64(bytes) == segment.checksum {
        return Ok(());
    }
    let what = "the checksum of all its bytes does not match".to_owned();
    Err(SegmentError::Damaged { path: segment.path.clone(), what })
}

/// The bucket or day that the path names, where the footer says the same.
fn span_of(footer: &Footer) -> Option<(BucketStart, BucketStart)> {
    let after = |start: BucketStart, seconds: u32| {
        BucketStart::from_unix_seconds(start.as_unix_seconds().checked_add(seconds)?)
    };
    let (first, seconds) = match footer.path().parse().ok()? {
        ObjectPath::BucketRollup(segment) => (segment.bucket, BUCKET_SECONDS),
        ObjectPath::DayFiveMinutes(segment) | ObjectPath::DayRollup(segment) => {
            (BucketStart::from_unix_seconds(segment.day.as_unix_seconds())?, DAY_SECONDS)
        }
        _ => return None,
    };
    let end = after(first, seconds)?;
    let has_none = |from, to| footer.plan(&all_between(from, to)).is_empty();
    let epoch = BucketStart::containing(EventTime::EPOCH);
    let last = BucketStart::containing(EventTime::MAX);
    (has_none(epoch, first) && has_none(end, last)).then_some((first, end))
}

fn all_between(from: BucketStart, to: BucketStart) -> Selection {
    Selection {
        sites: None,
        urls: None,
        url_prefix: None,
        from,
        to,
        dimensions: Vec::new(),
        measures: Vec::new(),
        with_urls: false,
        shards: None,
        facts: true,
        rows: true,
    }
}

fn day_of(bucket: BucketStart) -> BucketStart {
    BucketStart::containing(DayStart::of(bucket).time())
}

/// The first day that does not begin before `to`.
fn end_of_days(to: BucketStart) -> BucketStart {
    match DayStart::of(to).time() == to.time() {
        true => to,
        false => BucketStart::containing(DayStart::of(to).end()),
    }
}
