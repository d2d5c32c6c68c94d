//! What history is made of: slices of blocks, and rows that rollups become and come from.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

mod common;

use common::{Cluster, Plain, batches, plain};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Arrival, Relation, Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::slice::slice;
use tidemark_rollup::time::BucketStart;

fn rules(shards: u32, limit: u32) -> ShardRules {
    ShardRules {
        schema: Arc::new(Schema::default()),
        shards: ShardCount::new(shards).unwrap(),
        times: TimeRules::default(),
        dimension_values: limit,
    }
}

fn blocks_of(events: &[Plain], size: usize, shards: u32, limit: u32) -> (Cluster, Vec<v1::Block>) {
    let mut cluster = Cluster::new(1, shards, limit);
    let mut blocks = Vec::new();
    for batch in batches(events, size) {
        blocks.extend(cluster.split(&batch).blocks);
    }
    blocks.iter().for_each(|block| cluster.apply(block));
    (cluster, blocks)
}

/// All buckets of all shards as rows, which are equal where the rollups are.
fn rows_of<'a>(buckets: impl Iterator<Item = &'a Bucket>, schema: &Arc<Schema>) -> SegmentRows {
    let shard = ShardCount::DEFAULT.shard(0).unwrap();
    let parts: Vec<RollupPart<'_>> =
        buckets.map(|bucket| RollupPart { shard, bucket, start: bucket.start() }).collect();
    SegmentRows::of(schema, &parts, &Folds::default())
}

fn text_of(rows: &SegmentRows) -> String {
    let mut text = String::new();
    for row in 0..rows.len() {
        let dimensions: Vec<&str> = rows
            .dimensions
            .iter()
            .zip(&rows.values)
            .map(|(ids, values)| values[ids[row] as usize].as_str())
            .collect();
        let measures: Vec<String> = rows
            .measures
            .iter()
            .map(|column| match column {
                MeasureColumn::Integers(values) => values[row].to_string(),
                MeasureColumn::Uniques(values) => format!("{:?}", values[row]),
                MeasureColumn::Distributions(values) => {
                    let mut bytes = Vec::new();
                    values[row].encode(&mut bytes);
                    format!("{bytes:?}")
                }
            })
            .collect();
        text += &format!(
            "{:?} {} {} {dimensions:?} {measures:?}\n",
            rows.bucket[row], rows.sites[rows.site[row] as usize], rows.urls[rows.url[row] as usize],
        );
    }
    for facts in &rows.facts {
        text += &format!("{:?} {} {:?}\n", facts.bucket, rows.sites[facts.site as usize], facts.facts);
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn beside_commits_a_block_counts_in_the_buckets_that_they_do_not_have_and_once(
        events in prop::collection::vec(plain(), 1..60),
        size in 1_usize..20,
        committed in any::<u64>(),
    ) {
        let (_, blocks) = blocks_of(&events, size, 1, 100);
        let rules = rules(1, 100);
        let id = rules.shards.shard(0).unwrap();
        let is_committed = |start: BucketStart| committed >> (start.as_unix_seconds() / 300 % 64) & 1 == 1;
        let (mut whole, mut beside) = (Shard::new(id, rules.clone()), Shard::new(id, rules.clone()));
        for block in &blocks {
            let all = whole.apply(block).unwrap();
            let part = beside.apply_beside(block, Arrival::Sent, &is_committed).unwrap();
            prop_assert_eq!(part.counted + part.duplicate, all.counted);
            let again = beside.apply_beside(block, Arrival::Sent, &is_committed).unwrap();
            prop_assert_eq!((again.counted, again.duplicate), (0, all.counted));
        }
        let expected = rows_of(whole.buckets().map(Arc::as_ref).filter(|of| !is_committed(of.start())), &rules.schema);
        let found = rows_of(beside.buckets().map(Arc::as_ref), &rules.schema);
        prop_assert_eq!(text_of(&found), text_of(&expected));
    }

    #[test]
    fn the_slices_of_blocks_count_as_the_blocks_do(
        events in prop::collection::vec(plain(), 1..60),
        size in 1_usize..30,
        shards in prop::sample::select(vec![1_u32, 4]),
    ) {
        let rules = rules(shards, 3);
        let (cluster, blocks) = blocks_of(&events, size, shards, 3);
        let mut sliced: Vec<Shard> = rules.shards.shards().map(|id| Shard::new(id, rules.clone())).collect();
        // What is read back was judged before.
        let lenient = ShardRules { times: TimeRules { accept_late: std::time::Duration::MAX }, ..rules.clone() };
        let mut reader: Vec<Shard> = rules.shards.shards().map(|id| Shard::new(id, lenient.clone())).collect();
        for block in &blocks {
            let applied = sliced[block.shard as usize].apply(block).unwrap();
            for &bucket in &applied.buckets {
                let part = slice(block, bucket, &rules).unwrap();
                reader[block.shard as usize].restore(&part, &|start| start == bucket).unwrap();
            }
        }
        let schema = &rules.schema;
        let all = |shards: &[Shard]| {
            text_of(&rows_of(shards.iter().flat_map(Shard::buckets).map(Arc::as_ref), schema))
        };
        prop_assert_eq!(all(&reader), all(&cluster.shards));
    }

    #[test]
    fn rollups_read_back_from_rows_hold_the_same(
        events in prop::collection::vec(plain(), 1..80),
        shards in prop::sample::select(vec![1_u32, 4]),
        limit in prop::sample::select(vec![1_u32, 2, 10_000]),
    ) {
        let rules = rules(shards, limit);
        let (cluster, _) = blocks_of(&events, 7, shards, limit);
        let buckets: Vec<&Bucket> = cluster.shards.iter().flat_map(Shard::buckets).map(Arc::as_ref).collect();
        let rows = rows_of(buckets.iter().copied(), &rules.schema);
        let reversed = rows_of(buckets.iter().rev().copied(), &rules.schema);
        prop_assert_eq!(text_of(&rows), text_of(&reversed));
        let keys: Vec<_> = (0..rows.len())
            .map(|row| (rows.site[row], rows.url[row], rows.bucket[row], rows.dimensions.iter().map(|ids| ids[row]).collect::<Vec<_>>()))
            .collect();
        prop_assert!(keys.is_sorted_by(|a, b| a < b));
        let read = rows.to_buckets(rules.shards, Some(limit), None);
        prop_assert_eq!(text_of(&rows_of(read.iter(), &rules.schema)), text_of(&rows));

        // Only some shards, and no row of others.
        let first = rules.shards.shard(0).unwrap();
        let some = rows.to_buckets(rules.shards, Some(limit), Some(&|_, shard| shard == first));
        let mine = rows_of(cluster.shards[0].buckets().map(Arc::as_ref), &rules.schema);
        let mut some = rows_of(some.iter(), &rules.schema);
        some.facts.clear();
        prop_assert_eq!(text_of(&some), text_of(&SegmentRows { facts: Vec::new(), ..mine }));
    }
}

#[test]
fn a_bucket_in_memory_is_whole_a_remainder_or_mixed() {
    let event = Plain {
        site: "site0.com".into(),
        url: "/".into(),
        time_ms: common::NOW_MS - 1000,
        kind: "view".into(),
        visitor: Some(1),
        dimensions: BTreeMap::new(),
        values: BTreeMap::new(),
    };
    let events = vec![event; 4];
    let (mut cluster, blocks) = blocks_of(&events, 1, 1, 100);
    let shard = &mut cluster.shards[0];
    let start = shard.buckets().next().unwrap().start();
    let coverage = |blocks: &[v1::Block]| {
        let mut part = Shard::new(shard.id(), rules(1, 100));
        blocks
            .iter()
            .for_each(|block| assert_eq!(part.restore(block, &|of| of == start).unwrap().counted, 1));
        part.bucket(start).unwrap().coverage().clone()
    };
    let (two, three) = (coverage(&blocks[..2]), coverage(&blocks[1..]));
    assert_eq!(shard.relation(start, &two), Relation::Whole);
    let mut late = Shard::new(shard.id(), rules(1, 100));
    blocks[2..].iter().for_each(|block| assert_eq!(late.apply(block).unwrap().counted, 1));
    assert_eq!(late.relation(start, &two), Relation::Remainder);
    assert_eq!(late.relation(start, &three), Relation::Mixed);
    // Known from commits: it does not count, and its receipt says so.
    late.know(&two);
    let again = late.apply(&blocks[0]).unwrap();
    assert_eq!((again.repeated, again.counted, again.duplicate), (true, 0, 1));
    let receipts = late.receipts(start, BucketStart::containing(start.end()));
    assert_eq!((receipts[0].2.counted, receipts[0].2.duplicate), (2, 1));
    // A copy that another member sends is no event that came again.
    let copied = late.apply_beside(&blocks[0], Arrival::Copied, &|_| false).unwrap();
    assert_eq!((copied.repeated, copied.duplicate), (true, 1));
    let receipts = late.receipts(start, BucketStart::containing(start.end()));
    assert_eq!((receipts[0].2.counted, receipts[0].2.duplicate), (2, 1));
    assert!(late.forget(start).is_some());
    assert_eq!(late.relation(start, &two), Relation::Absent);
    assert!(late.apply(&blocks[3]).unwrap().repeated, "a forgotten bucket's blocks stay known");
}
