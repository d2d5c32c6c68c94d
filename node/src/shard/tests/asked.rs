//! Who goes first before a shard: queries or blocks.

use super::world::{Cluster, NOW_MS, PATIENCE, batch, event};
use crate::admission::Admission;
use crate::committed::Committed;
use crate::query::Question;
use crate::shard::{OpenPass, ShardHandle};
use crate::told::Told;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::value::Kind;
use tidemark_rollup::answer::answer;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::ScanContext;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::EventTime;

const SHARDS: u32 = 8;

fn now() -> EventTime {
    EventTime::from_unix_ms(NOW_MS)
}

/// A block of one event.
fn block(seq: u64) -> v1::Block {
    let (keep_params, shards) = (KeepParams::default(), ShardCount::new(SHARDS).unwrap());
    let times = TimeRules { accept_late: Duration::MAX };
    let rules = Rules { schema: None, keep_params: &keep_params, times, shards };
    let block = split(&batch(seq, vec![event("/")]), &rules, now()).unwrap().blocks.remove(0);
    v1::Block { seq, ..block }
}

/// How many views a shard shows.
async fn views(shard: &ShardHandle) -> u64 {
    let wire = v1::Query { site: "example.com".into(), from: "-2h".into(), ..v1::Query::default() };
    let question = Question {
        query: Query::parse(&wire, &Schema::default(), now()).unwrap(),
        context: ScanContext::default(),
        now: now(),
        // Nothing, and that is known later than what the shard knows.
        committed: Arc::new((0..10).fold(Committed::default(), |committed, _| committed.read())),
        days: BTreeSet::new(),
        untold: BTreeMap::new(),
        outdated: Arc::default(),
    };
    let query = question.query.clone();
    let view = shard.view(Arc::new(question), OpenPass::Everything, PATIENCE).await.unwrap();
    let Some(open) = view.open else { return 0 };
    let answer = answer(open.partial, &query, now());
    answer.rows.first().map_or(0, |row| match row.values[0].kind {
        Some(Kind::Integer(views)) => views,
        _ => panic!("views are a number"),
    })
}

/// A shard that is up, and has so many blocks before it. On one thread, nothing is counted before somebody waits.
async fn shard_that_has_to_count(blocks: u64) -> (Cluster, ShardHandle) {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    let shard = cluster.nodes[0].shards[block(1).shard as usize].clone();
    assert_eq!(views(&shard).await, 0);
    let admission = Admission::new(1 << 20, 1 << 30);
    let apply = |seq| shard.apply(block(seq), None, admission.admit(1).unwrap(), Told::by(|_| ()));
    (1..=blocks).for_each(apply);
    (cluster, shard)
}

#[tokio::test]
async fn a_query_goes_before_blocks_that_are_not_counted_yet() {
    const BLOCKS: u64 = 50;
    let (_cluster, shard) = shard_that_has_to_count(BLOCKS).await;
    let counted = views(&shard).await;
    assert_eq!(counted, 0, "blocks went first");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while views(&shard).await < BLOCKS {
        assert!(tokio::time::Instant::now() < deadline, "blocks wait for queries for ever");
    }
}

#[tokio::test]
async fn where_many_ask_a_block_is_counted_after_every_second_query() {
    let (_cluster, shard) = shard_that_has_to_count(20).await;
    let counted = futures::future::join_all((0..6).map(|_| views(&shard))).await;
    assert_eq!(counted, [0, 0, 1, 1, 2, 2]);
}

#[tokio::test]
async fn what_was_told_to_be_counted_is_seen() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    let at = block(1).shard as usize;
    let shard = cluster.nodes[0].shards[at].clone();
    let admission = Admission::new(1 << 20, 1 << 30);
    for seq in 1..=20 {
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = move |what: Option<_>| tell.send(what.is_some()).unwrap();
        shard.apply(block(seq), None, admission.admit(1).unwrap(), Told::by(tell));
        assert!(told.await.unwrap());
        assert_eq!(views(&shard).await, seq);
    }
}
