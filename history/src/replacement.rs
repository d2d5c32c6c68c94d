//! Replacements: what puts other segments in the place of whole days' commits.
//!
//! Owns: writing a replacement under the next number, checking what it says, and the coverage object that it names.
//! Does not own: what replacements and commits mean together (`catalog`).
//!
//! Invariant: under one number there is one replacement, for ever, and everybody reads the same.

use crate::day::DayStart;
use crate::packed::PackedCoverage;
use crate::paths::ObjectPath;
use crate::record::{self, RecordError, RecordFault, RecordKind};
use crate::retry::Retryable;
use crate::store::{Created, Store, StoreError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::BucketStart;
use xxhash_rust::xxh3::xxh3_64;

/// A replacement that was checked, with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplacementRecord {
    number: u64,
    message: v1::Replacement,
}

impl ReplacementRecord {
    /// A replacement from its message, where that makes sense.
    ///
    /// # Errors
    /// Says what does not.
    pub fn new(number: u64, mut message: v1::Replacement) -> Result<Self, RecordFault> {
        check(number, &mut message).map_err(RecordFault::Nonsense)?;
        Ok(Self { number, message })
    }

    /// Reads the replacement of a number.
    ///
    /// # Errors
    /// Says what is wrong with the object.
    pub fn decode(number: u64, bytes: &[u8]) -> Result<Self, RecordFault> {
        Self::new(number, record::decode(RecordKind::Replacement, bytes)?)
    }

    /// Counts from 1. For each day the replacement with the highest number holds.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Its path.
    pub fn path(&self) -> ObjectPath {
        ObjectPath::Replacement { number: self.number }
    }

    /// What it says; buckets ascend.
    pub const fn message(&self) -> &v1::Replacement {
        &self.message
    }

    /// The days that it names.
    pub fn days(&self) -> impl Iterator<Item = DayStart> + '_ {
        self.message.days.iter().filter_map(|day| DayStart::from_unix_seconds(day.day_start_s))
    }

    /// Whether both are the same attempt of the same writer.
    pub fn is_same_attempt(&self, other: &Self) -> bool {
        (self.message.attempt, &self.message.writer) == (other.message.attempt, &other.message.writer)
    }
}

fn check(number: u64, message: &mut v1::Replacement) -> Result<(), String> {
    if number == 0 {
        return Err("replacements are numbered from 1".into());
    }
    NodeId::new(&*message.writer).map_err(|error| format!("its writer: {error}"))?;
    if ShardCount::new(message.shard_count).is_none() {
        return Err(format!("no cluster has {} shards", message.shard_count));
    }
    let mut days = BTreeSet::new();
    for day in &mut message.days {
        let start = DayStart::from_unix_seconds(day.day_start_s);
        let start = start.ok_or_else(|| format!("no day starts at second {}", day.day_start_s))?;
        if !days.insert(start) {
            return Err(format!("it names {start} twice"));
        }
        check_day(start, day)?;
    }
    Ok(())
}

fn check_day(start: DayStart, day: &mut v1::ReplacedDay) -> Result<(), String> {
    let mut buckets = BTreeSet::new();
    for bucket in &day.buckets {
        let parsed = BucketStart::from_unix_seconds(bucket.bucket_start_s);
        if parsed.is_none_or(|bucket| DayStart::of(bucket) != start) {
            return Err(format!("no bucket of {start} starts at second {}", bucket.bucket_start_s));
        }
        if !buckets.insert(bucket.bucket_start_s) {
            return Err(format!("it names the bucket at second {} twice", bucket.bucket_start_s));
        }
    }
    day.buckets.sort_unstable_by_key(|bucket| bucket.bucket_start_s);
    let raw = day.buckets.iter().flat_map(|bucket| &bucket.raw);
    for segment in raw.chain(&day.five_minutes).chain(&day.days).chain(&day.coverage) {
        segment.path.parse::<ObjectPath>().map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What came of a replacement.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplaceOutcome {
    /// The number is ours. The record is what history holds.
    Committed(Arc<ReplacementRecord>),
    /// The number is somebody else's. Look at history again and plan anew: they may have replaced what ours was made of, and
    /// ours under a higher number would undo theirs.
    Taken(Arc<ReplacementRecord>),
}

/// A replacement that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Ours makes no sense, or what is under the number cannot be read. Restore the latter.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Where [`StoreError::may_have_happened`], it may be made or may yet be: try again with the same number and message
    /// until there is an answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Retryable for ReplaceError {
    fn retry_may_help(&self) -> bool {
        match self {
            Self::Record(_) => false,
            Self::Store(error) => error.retry_may_help(),
        }
    }
}

/// Replaces days' commits by other segments, which are in the store already, under the number after the highest.
///
/// # Errors
/// See [`ReplaceError`].
pub async fn replace(
    store: &Store,
    number: u64,
    message: &v1::Replacement,
) -> Result<ReplaceOutcome, ReplaceError> {
    let ours = ReplacementRecord::new(number, message.clone())
        .map_err(|fault| fault.at(format_args!("replacement {number}")))?;
    let path = ours.path().to_string();
    match store.create(&path, record::encode(RecordKind::Replacement, message)).await? {
        Created::Yes => Ok(ReplaceOutcome::Committed(Arc::new(ours))),
        Created::Taken(bytes) => {
            let theirs = ReplacementRecord::decode(number, &bytes).map_err(|fault| fault.at(path))?;
            Ok(match theirs.is_same_attempt(&ours) {
                true => ReplaceOutcome::Committed(Arc::new(theirs)),
                false => ReplaceOutcome::Taken(Arc::new(theirs)),
            })
        }
    }
}

/// Which blocks a day's replacement covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayCoverage {
    buckets: BTreeMap<BucketStart, PackedCoverage>,
}

impl DayCoverage {
    /// The object of a day's coverage, and how a replacement names it.
    pub fn encode(path: &ObjectPath, message: &v1::DayCoverage) -> (Bytes, v1::Segment) {
        let bytes = record::encode(RecordKind::Coverage, message);
        let segment = v1::Segment {
            path: path.to_string(),
            size_bytes: bytes.len() as u64,
            rows: message.buckets.len() as u64,
            checksum: xxh3_64(&bytes),
            ..v1::Segment::default()
        };
        (bytes, segment)
    }

    /// Reads the object that a replacement names.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(shard_count: u32, segment: &v1::Segment, bytes: &[u8]) -> Result<Self, RecordFault> {
        let (found, expected) = (bytes.len() as u64, segment.size_bytes);
        if found < expected {
            return Err(RecordFault::Truncated { expected, found });
        }
        if found != expected || xxh3_64(bytes) != segment.checksum {
            return Err(RecordFault::Checksum);
        }
        let message: v1::DayCoverage = record::decode(RecordKind::Coverage, bytes)?;
        let bucket = |bucket: v1::BucketCoverage| {
            let start = BucketStart::from_unix_seconds(bucket.bucket_start_s);
            let start =
                start.ok_or_else(|| format!("no bucket starts at second {}", bucket.bucket_start_s))?;
            Ok((start, PackedCoverage::new(shard_count, &bucket.shards)?))
        };
        let buckets = message.buckets.into_iter().map(bucket).collect::<Result<_, String>>();
        Ok(Self { buckets: buckets.map_err(RecordFault::Nonsense)? })
    }

    /// The blocks of a shard that are covered in a bucket.
    pub fn of(&self, bucket: BucketStart, shard: ShardId) -> Coverage {
        self.buckets.get(&bucket).map_or_else(Coverage::default, |packed| packed.of(shard))
    }

    /// The buckets, ascending, each with the coverage of its shards.
    pub fn buckets(&self) -> impl Iterator<Item = (BucketStart, &PackedCoverage)> {
        self.buckets.iter().map(|(&bucket, packed)| (bucket, packed))
    }
}
