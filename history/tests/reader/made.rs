//! Segments of real rollups, and readers of them.

use crate::common::{Cluster, NOW_MS, Plain, batches};
use bytes::Bytes;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::faults::FaultyStore;
use tidemark_history::reader::{Keep, Reader, ReaderConfig, Want};
use tidemark_history::retry::{Backoff, Retry};
use tidemark_history::segment::{RowGroup, write_rollup};
use tidemark_history::store::Store;
use tidemark_proto::v1;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{BucketStart, EventTime};

pub(crate) const LIMIT: u32 = 10_000;
pub(crate) const DAY: u32 = 86_400;

/// A segment, and the rows in it by row group.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) segment: v1::Segment,
    pub(crate) bytes: Bytes,
    pub(crate) groups: Vec<SegmentRows>,
    pub(crate) shards: ShardCount,
}

/// A segment of these events, with a row group for so many shards each.
pub(crate) fn made(path: &str, events: &[Plain], shards: u32, of_a_group: usize, row_seconds: u32) -> Made {
    let schema = Arc::new(Schema::default());
    let mut cluster = Cluster::new(1, shards, LIMIT);
    for batch in batches(events, 1000) {
        let blocks = cluster.split(&batch).blocks;
        blocks.iter().for_each(|block| cluster.apply(block));
    }
    let start = |bucket: BucketStart| match row_seconds {
        DAY => seconds(bucket.as_unix_seconds() / DAY * DAY),
        _ => bucket,
    };
    let groups: Vec<(Vec<_>, SegmentRows)> = cluster
        .shards
        .chunks(of_a_group)
        .map(|of_group| {
            let buckets = of_group.iter().flat_map(|shard| shard.buckets());
            let parts: Vec<RollupPart<'_>> = buckets
                .map(|bucket| RollupPart { shard: of_group[0].id(), bucket, start: start(bucket.start()) })
                .collect();
            let ids = of_group.iter().map(|shard| shard.id()).collect();
            (ids, SegmentRows::of(&schema, &parts, &Folds::default()))
        })
        .collect();
    let row_groups: Vec<RowGroup<'_>> =
        groups.iter().map(|(shards, rows)| RowGroup { shards, rows }).collect();
    let shards = ShardCount::new(shards).unwrap();
    let written = write_rollup(&row_groups, row_seconds, shards).unwrap();
    Made {
        segment: written.to_segment(path),
        bytes: written.bytes.clone(),
        groups: groups.into_iter().map(|(_, rows)| rows).collect(),
        shards,
    }
}

/// A segment of one bucket with so many rows, none like another, in four row groups.
pub(crate) fn large(path: &str, rows: u32) -> Made {
    of_one_bucket(path, rows, 1)
}

/// A segment of one bucket with a hundred rows, in one row group.
pub(crate) fn small(path: &str) -> Made {
    of_one_bucket(path, 100, 4)
}

fn of_one_bucket(path: &str, rows: u32, of_a_group: usize) -> Made {
    let mut random = StdRng::seed_from_u64(u64::from(rows));
    let event = |_| Plain {
        site: format!("site{}.com", random.random_range(0..4)),
        url: format!("/page/{:016x}", random.random::<u64>()),
        time_ms: NOW_MS - 1000,
        kind: "view".to_owned(),
        visitor: Some(random.random()),
        dimensions: BTreeMap::from([("country", format!("country{}", random.random_range(0..50)))]),
        values: BTreeMap::from([("bytes", random.random_range(0..1_000_000))]),
    };
    let events: Vec<Plain> = (0..rows).map(event).collect();
    made(path, &events, 4, of_a_group, 300)
}

pub(crate) fn seconds(seconds: u32) -> BucketStart {
    BucketStart::from_unix_seconds(seconds).unwrap()
}

pub(crate) fn bucket_of_now() -> BucketStart {
    BucketStart::containing(EventTime::from_unix_ms(NOW_MS - 1000))
}

/// A path as flushes make them.
pub(crate) fn path(n: u32) -> String {
    format!("rollup/5m/2015-05-17/10-00/a-{n:016x}.parquet")
}

/// All that there is.
pub(crate) fn all() -> Want {
    let schema = Schema::default();
    Want {
        site: None,
        urls: None,
        url_prefix: None,
        from: BucketStart::containing(EventTime::EPOCH),
        to: BucketStart::containing(EventTime::MAX),
        dimensions: schema.dimensions().to_vec(),
        measures: schema.measures().to_vec(),
        with_urls: true,
        rows: true,
        facts: true,
    }
}

/// One site's numbers, without URLs.
pub(crate) fn of_site(site: &str) -> Want {
    Want { site: Some(site.to_owned()), with_urls: false, ..all() }
}

/// Rows of all shards.
pub(crate) fn keep_all(shards: ShardCount) -> Keep {
    Keep { shards: shards.shards().collect(), whole: BTreeMap::new() }
}

pub(crate) fn config(shards: ShardCount) -> ReaderConfig {
    let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(1) };
    ReaderConfig {
        disk_dir: None,
        disk_bytes: 64 << 20,
        memory_bytes: 64 << 20,
        limit: LIMIT,
        shards,
        retry: Retry { backoff, give_up: Some(Duration::from_secs(20)), seed: 1 },
    }
}

/// A store with these segments.
pub(crate) async fn store_of(segments: &[&Made]) -> (FaultyStore, Store) {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), 7);
    let store = Store::of(Arc::new(faulty.clone()));
    for made in segments {
        store.put(&made.segment.path, made.bytes.clone()).await.unwrap();
    }
    (faulty, store)
}

/// A reader without a disk.
pub(crate) async fn reader_of(store: &Store, made: &Made) -> Reader {
    Reader::open(store.clone(), config(made.shards)).await
}
