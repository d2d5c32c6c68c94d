//! Commits and replacements for tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses some of it")]

use std::sync::Arc;
use tidemark_history::commit::CommitRecord;
use tidemark_history::day::DayStart;
use tidemark_history::paths::{BucketSegment, ObjectPath};
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::BucketStart;

pub const SHARDS: u32 = 4;

pub fn day(text: &str) -> DayStart {
    DayStart::parse(text).unwrap()
}

/// A bucket of 2026-11-21.
pub fn bucket(index: usize) -> BucketStart {
    day("2026-11-21").buckets().nth(index).unwrap()
}

pub fn shard(number: u32) -> ShardId {
    ShardCount::new(SHARDS).unwrap().shard(number).unwrap()
}

pub fn blocks(seqs: impl IntoIterator<Item = u64>) -> Coverage {
    let mut coverage = Coverage::default();
    for seq in seqs {
        coverage.insert(ProducerId::from_u128(7), seq);
    }
    coverage
}

pub fn segment(path: &ObjectPath) -> v1::Segment {
    v1::Segment { path: path.to_string(), size_bytes: 100, rows: 3, ..v1::Segment::default() }
}

/// A commit by `writer` that covers the blocks `seqs` of shard 1.
pub fn commit(
    bucket: BucketStart,
    writer: &str,
    attempt: u64,
    seqs: impl IntoIterator<Item = u64>,
) -> v1::Commit {
    let of = BucketSegment { bucket, writer: NodeId::new(writer).unwrap(), attempt };
    v1::Commit {
        bucket_start_s: bucket.as_unix_seconds(),
        shard_count: SHARDS,
        writer: writer.to_owned(),
        attempt,
        committed_at_ms: 1_000,
        rollup: Some(segment(&ObjectPath::BucketRollup(of.clone()))),
        raw: Some(segment(&ObjectPath::Raw(of))),
        coverage: vec![v1::ShardCoverage { shard: 1, coverage: Some(blocks(seqs).to_wire()) }],
        sites: vec![format!("{writer}.example.com")],
    }
}

pub fn commit_record(number: u64, message: v1::Commit) -> Arc<CommitRecord> {
    Arc::new(CommitRecord::new(number, message).unwrap())
}

/// A replacement of some buckets' commits up to some numbers.
pub fn replacement(attempt: u64, replaced: &[(BucketStart, u64)]) -> v1::Replacement {
    let mut days: Vec<v1::ReplacedDay> = Vec::new();
    for &(bucket, through) in replaced {
        let start = DayStart::of(bucket);
        let bucket = v1::ReplacedBucket { bucket_start_s: bucket.as_unix_seconds(), through, raw: vec![] };
        match days.iter_mut().find(|day| day.day_start_s == start.as_unix_seconds()) {
            Some(day) => day.buckets.push(bucket),
            None => days.push(v1::ReplacedDay {
                day_start_s: start.as_unix_seconds(),
                buckets: vec![bucket],
                five_minutes: vec![],
                days: vec![],
                coverage: Some(segment(&ObjectPath::Coverage { day: start, attempt })),
            }),
        }
    }
    v1::Replacement {
        shard_count: SHARDS,
        writer: "compactor".into(),
        attempt,
        committed_at_ms: 2_000,
        reason: "compaction".into(),
        days,
    }
}
