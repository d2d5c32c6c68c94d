//! What a shard's buckets held at a mark, and what was counted since, is what they hold now.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

mod common;

use common::{Plain, batches, now, parse, plain, rows};
use proptest::prelude::*;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::answer::answer;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::scan::{ScanContext, Scanned, scan_lasting};
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};

fn shard() -> Shard {
    let shards = ShardCount::new(1).unwrap();
    let rules = ShardRules {
        schema: Arc::new(Schema::default()),
        shards,
        times: TimeRules::default(),
        dimension_values: 1_000,
    };
    Shard::new(shards.shards().next().unwrap(), rules)
}

fn blocks(events: &[Plain]) -> Vec<v1::Block> {
    let (schema, keep_params) = (Schema::default(), KeepParams::default());
    let rules = Rules {
        schema: Some(&schema),
        keep_params: &keep_params,
        times: TimeRules::default(),
        shards: ShardCount::new(1).unwrap(),
    };
    let batches = batches(events, 5);
    batches.iter().flat_map(|batch| split(batch, &rules, now()).unwrap().blocks).collect()
}

fn query() -> v1::Query {
    let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
    v1::Query {
        site: "*".into(),
        from: "-3d".into(),
        granularity: "5m".into(),
        measures: texts(&["views", "visitors", "load_ms.p95", "bytes"]),
        group_by: texts(&["url", "country"]),
        ..v1::Query::default()
    }
}

fn scanned(buckets: &[Arc<Bucket>]) -> Scanned {
    let refs: Vec<&Bucket> = buckets.iter().map(Arc::as_ref).collect();
    scan_lasting(&refs, &parse(&query()), &ScanContext { share: 1_000, ..ScanContext::default() })
}

/// Rows and facts, but how many rollups were read for them.
fn told(scanned: Scanned) -> (Vec<Vec<String>>, v1::Facts) {
    let answer = answer(scanned.partial, &parse(&query()), now());
    (rows(&answer), v1::Facts { from_memory: 0, ..answer.facts.unwrap() })
}

fn all(shard: &Shard) -> Scanned {
    let buckets: Vec<Arc<Bucket>> = shard.buckets().cloned().collect();
    scanned(&buckets)
}

proptest! {
    #[test]
    fn a_mark_and_what_came_since_are_what_there_is(
        events in prop::collection::vec(plain(), 1..200),
        asks in prop::collection::vec(any::<bool>(), 40),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let mut shard = shard();
        let mut blocks = blocks(&events);
        let repeated: Vec<v1::Block> = repeats.iter().map(|at| blocks[at.index(blocks.len())].clone()).collect();
        blocks.extend(repeated);
        let mut mark = shard.mark(|| 1);
        let mut held = all(&shard);
        for (block, asks) in blocks.iter().zip(asks.iter().cycle()) {
            shard.apply(block).unwrap();
            if *asks {
                let next = shard.mark(|| panic!("a mark is known"));
                held.merge(&scanned(&shard.since(mark).unwrap()));
                mark = next;
                prop_assert_eq!(told(held.clone()), told(all(&shard)));
            }
        }
    }
}

#[test]
fn what_was_made_anew_knows_no_marks() {
    let mut shard = shard();
    let blocks = blocks(&[sample()]);
    let mark = shard.mark(|| 1);
    assert_eq!(shard.since(mark).map(|since| since.len()), Some(0));
    shard.restore(&blocks[0], &|_| true).unwrap();
    assert!(shard.since(mark).is_none());
    let next = shard.mark(|| 2);
    assert!(shard.since(mark).is_none());
    assert!(shard.since(next).is_some());
}

fn sample() -> Plain {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    plain().new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

#[test]
fn marks_of_long_ago_are_forgotten_and_cost_nothing() {
    let mut shard = shard();
    let first = shard.mark(|| 1);
    for seq in 1..200 {
        let events = vec![common::to_wire(&sample())];
        let batch = common::batch(1, seq, events);
        let (schema, keep_params) = (Schema::default(), KeepParams::default());
        let shards = ShardCount::new(1).unwrap();
        let rules =
            Rules { schema: Some(&schema), keep_params: &keep_params, times: TimeRules::default(), shards };
        split(&batch, &rules, now()).unwrap().blocks.iter().for_each(|block| _ = shard.apply(block).unwrap());
        shard.mark(|| 2);
    }
    assert!(shard.since(first).is_none());
}
