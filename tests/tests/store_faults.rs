//! Stores that fail: nothing is lost, nothing is counted twice, and answers say what they lack.
//!
//! Whole nodes over a store that fails as a seed says; the seeds are printed, and `TIDEMARK_SEED` sets one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::sync::Arc;
use std::time::Duration;
use tidemark_history::faults::Faults;
use tidemark_history::store::Operation;
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::history_support::{
    DAY, MINUTE, Stream, advance, ask, ask_until, assert_sound, faulty_store, noon, quick, seeds,
    until_all_is_history,
};
use tidemark_tests::in_process::{Cluster, TestClock};

/// Events of now, of a bucket that closes, and of others that closed long ago.
const AGES: [Duration; 4] = [Duration::ZERO, Duration::from_secs(420), Duration::from_secs(3 * 3600), DAY];

fn everything(clock: &Arc<TestClock>) -> (EventTime, EventTime) {
    (clock.now().minus(3 * DAY), clock.now().plus(MINUTE))
}

async fn restart_without_memory(cluster: &mut Cluster, nodes: usize) {
    for node in 0..nodes {
        cluster.stop_node(node).await;
        cluster.start_node_with(node, |config| config.keep = Duration::ZERO).await;
    }
}

async fn survives_faults(seed: u64, nodes: usize, shards: u32, keep: Duration) {
    let (faulty, store) = faulty_store(seed);
    let clock = noon();
    let mut cluster =
        Cluster::start_on(Some(store.clone()), nodes, shards, clock.clone(), |node, coordinator| {
            quick(node, coordinator);
            node.keep = keep;
        })
        .await;
    faulty.set(Faults {
        error_share: 0.3,
        lost_reply_share: 0.2,
        already_exists_after_success: 0.1,
        slow: Some(Duration::ZERO..Duration::from_millis(20)),
        away: false,
    });
    let mut stream = Stream::connect(&cluster.url(0), seed.into(), &clock).await;
    for phase in 0..6 {
        let commits = cluster.metric("tidemark_commits_total");
        for _ in 0..10 {
            stream.send(40, &AGES).await;
            advance(&clock, Duration::from_secs(20));
        }
        stream.acknowledged().await;
        let (from, to) = everything(&clock);
        ask(&cluster.http, from, to).await.assert_honest(&stream.all());
        if phase == 3 {
            // Blocks of which commits have a part come again, while the store fails.
            let totals = stream.send_again(&cluster.url(nodes - 1)).await;
            assert_eq!(totals.duplicate, stream.len(), "seed {seed}");
        }
        let more = |cluster: &Cluster| cluster.metric("tidemark_commits_total") > commits;
        cluster.until("more is committed although calls fail", more).await;
    }
    assert!(cluster.metric("tidemark_store_failures_total") > 0, "the store never failed");
    assert!(faulty.calls(Operation::Create) > 10);

    faulty.set(Faults::default());
    advance(&clock, 10 * MINUTE);
    cluster.until("all is flushed", |cluster| cluster.metric("tidemark_unflushed_buckets") == 0).await;
    restart_without_memory(&mut cluster, nodes).await;
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
    assert_sound(&store, shards, stream.len()).await;
    // What comes again is known, although memory never had it.
    let totals = stream.send_again(&cluster.url(0)).await;
    assert_eq!(totals.duplicate, stream.len(), "seed {seed}");
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_store_fails_all_the_time_loses_nothing_and_counts_nothing_twice() {
    for seed in seeds("a node and a failing store") {
        survives_faults(seed, 1, 8, Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_whose_store_fails_all_the_time_lose_nothing_and_count_nothing_twice() {
    for seed in seeds("three nodes and a failing store") {
        survives_faults(seed, 3, 16, DAY).await;
    }
}

/// A node alone with something in history, of which memory has nothing.
async fn with_history(
    store: &tidemark_history::store::Store,
    clock: &Arc<TestClock>,
    shards: u32,
    budget_bytes: u64,
) -> (Cluster, Stream) {
    let cluster = Cluster::start_on(Some(store.clone()), 1, shards, clock.clone(), |node, coordinator| {
        quick(node, coordinator);
        node.keep = Duration::ZERO;
        // Who asks for history that is away waits so long.
        node.query_timeout = Duration::from_secs(4);
        node.memory_budget_bytes = budget_bytes;
    })
    .await;
    let mut stream = Stream::connect(&cluster.url(0), 7, clock).await;
    for _ in 0..10 {
        stream.send(40, &AGES).await;
        advance(clock, MINUTE);
    }
    stream.acknowledged().await;
    advance(clock, 10 * MINUTE);
    cluster.until("all is flushed", |cluster| cluster.metric("tidemark_commits_total") > 0).await;
    cluster.until("all is flushed", |cluster| cluster.metric("tidemark_unflushed_buckets") == 0).await;
    cluster.until("memory is empty", |cluster| cluster.metric("tidemark_buckets_in_memory") == 0).await;
    (cluster, stream)
}

/// Room for five buckets of 200 URLs; an hour has twelve.
const BUDGET_BYTES: u64 = 250_000;

const AWAY: Faults = Faults {
    error_share: 0.0,
    lost_reply_share: 0.0,
    already_exists_after_success: 0.0,
    slow: None,
    away: true,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_for_an_hour_events_are_taken_and_answers_say_what_they_lack() {
    const SHARDS: u32 = 4;
    let (faulty, store) = faulty_store(1);
    let clock = noon();
    let (mut cluster, mut stream) = with_history(&store, &clock, SHARDS, BUDGET_BYTES).await;
    faulty.set(AWAY);
    let since = clock.now();
    let mut in_journal = cluster.metric("tidemark_journal_blocks");
    for _ in 0..12 {
        advance(&clock, 5 * MINUTE);
        for _ in 0..4 {
            stream.send(200, &[Duration::ZERO, 2 * MINUTE, 4 * MINUTE]).await;
        }
        stream.acknowledged().await;
        let to = clock.now().plus(MINUTE);
        // History has no part in that: it is complete.
        ask(&cluster.http, since, to).await.assert_right(&stream.counts(since, to));
        cluster.until("the journal grows", |now| now.metric("tidemark_journal_blocks") > in_journal).await;
        in_journal = cluster.metric("tidemark_journal_blocks");
    }
    let away = |cluster: &Cluster| cluster.metric("tidemark_unflushed_buckets") >= 12;
    cluster.until("the gauge says that an hour is not flushed", away).await;

    // Each bucket has rows of every shard.
    let evicted = |cluster: &Cluster| cluster.metric("tidemark_buckets_in_memory") < u64::from(8 * SHARDS);
    cluster.until("what only the journal has is evicted", evicted).await;
    let to = clock.now().plus(MINUTE);
    ask(&cluster.http, since, to).await.assert_right(&stream.counts(since, to));
    // Late events of buckets that were evicted.
    stream.send(200, &[30 * MINUTE, 50 * MINUTE]).await;
    stream.acknowledged().await;
    ask(&cluster.http, since, to).await.assert_right(&stream.counts(since, to));
    // Everything: history is needed, was never read, and cannot be.
    let (from, to) = everything(&clock);
    let views = ask(&cluster.http, from, to).await;
    views.assert_honest(&stream.all());
    assert!(!views.is_complete() && views.missing().contains("rollup/5m/"), "{}", views.facts);

    faulty.set(Faults::default());
    ask_until("history is back", &cluster.http, (from, to), &stream.all(), |views| views.is_complete()).await;
    // What ended less than six minutes ago stays in memory, for `active`.
    advance(&clock, 15 * MINUTE);
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
    restart_without_memory(&mut cluster, 1).await;
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
    assert_sound(&store, SHARDS, stream.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_started_while_the_store_is_away_takes_events_and_is_complete_when_it_is_back() {
    const SHARDS: u32 = 4;
    let (faulty, store) = faulty_store(2);
    let clock = noon();
    let (mut cluster, mut stream) = with_history(&store, &clock, SHARDS, 1 << 30).await;
    cluster.stop_node(0).await;
    faulty.set(AWAY);
    cluster.start_node(0).await;
    // Nobody can tell yet that these are committed.
    stream.send_again(&cluster.url(0)).await;
    for _ in 0..6 {
        stream.send(40, &AGES).await;
        advance(&clock, 2 * MINUTE);
    }
    stream.acknowledged().await;
    let (from, to) = everything(&clock);
    let views = ask(&cluster.http, from, to).await;
    views.assert_honest(&stream.all());
    assert!(
        !views.is_complete() && views.missing().contains("history cannot be read yet"),
        "{}",
        views.facts
    );
    // Restarted once more: what it took in comes from the journal.
    cluster.stop_node(0).await;
    cluster.start_node(0).await;
    let views = ask(&cluster.http, from, to).await;
    views.assert_honest(&stream.all());
    assert!(!views.is_complete(), "{}", views.facts);

    faulty.set(Faults::default());
    ask_until("history is back", &cluster.http, (from, to), &stream.all(), |views| views.is_complete()).await;
    // What ended less than six minutes ago stays in memory, for `active`.
    advance(&clock, 15 * MINUTE);
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
    restart_without_memory(&mut cluster, 1).await;
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
    assert_sound(&store, SHARDS, stream.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_started_while_the_store_is_away_knows_what_is_committed_when_it_is_back() {
    const SHARDS: u32 = 4;
    let (faulty, store) = faulty_store(4);
    let clock = noon();
    let (mut cluster, mut stream) = with_history(&store, &clock, SHARDS, 1 << 30).await;
    cluster.stop_node(0).await;
    faulty.set(AWAY);
    cluster.start_node(0).await;
    faulty.set(Faults::default());
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
    let totals = stream.send_again(&cluster.url(0)).await;
    assert_eq!((totals.accepted, totals.duplicate), (stream.len(), stream.len()));
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
    assert_sound(&store, SHARDS, stream.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_started_while_the_store_is_away_keeps_its_memory_budget_and_goes_on_taking_events() {
    const SHARDS: u32 = 4;
    let (faulty, store) = faulty_store(3);
    let clock = noon();
    let (mut cluster, mut stream) = with_history(&store, &clock, SHARDS, BUDGET_BYTES).await;
    cluster.stop_node(0).await;
    faulty.set(AWAY);
    cluster.start_node(0).await;
    // Refusals would end this after two minutes.
    for _ in 0..12 {
        let in_journal = cluster.metric("tidemark_journal_blocks");
        advance(&clock, 5 * MINUTE);
        for _ in 0..4 {
            stream.send(200, &[Duration::ZERO, 2 * MINUTE, 4 * MINUTE]).await;
        }
        stream.acknowledged().await;
        // The node has measured itself since.
        cluster.until("the journal grows", |now| now.metric("tidemark_journal_blocks") > in_journal).await;
        let bytes = cluster.metric("tidemark_memory_bytes");
        assert!(bytes <= 2 * BUDGET_BYTES, "{bytes} bytes");
    }
    faulty.set(Faults::default());
    // What ended less than six minutes ago stays in memory, for `active`.
    advance(&clock, 15 * MINUTE);
    until_all_is_history(&cluster, everything(&clock), &stream.all()).await;
    assert_sound(&store, SHARDS, stream.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_right_while_buckets_go_from_memory_to_history() {
    const SHARDS: u32 = 16;
    let (faulty, store) = faulty_store(4);
    let clock = noon();
    let cluster = Cluster::start_on(Some(store.clone()), 1, SHARDS, clock.clone(), |node, coordinator| {
        quick(node, coordinator);
        node.keep = Duration::ZERO;
    })
    .await;
    // A question takes longer than a commit.
    faulty.set(Faults { slow: Some(Duration::ZERO..Duration::from_millis(5)), ..Faults::default() });
    // What ended less than six minutes ago stays in memory, for `active`.
    let ages: Vec<Duration> = (3..15).map(|n| n * 5 * MINUTE).collect();
    let mut stream = Stream::connect(&cluster.url(0), 1, &clock).await;
    let (from, to) = everything(&clock);
    for _ in 0..6 {
        let commits = cluster.metric("tidemark_commits_total");
        stream.send(400, &ages).await;
        stream.acknowledged().await;
        let expected = stream.all();
        // Until all are committed and out of memory, at every moment of it.
        ask_until("all is history", &cluster.http, (from, to), &expected, |views| {
            views.assert_right(&expected);
            views.is_from_history()
        })
        .await;
        assert!(cluster.metric("tidemark_commits_total") > commits);
    }
    assert_sound(&store, SHARDS, stream.len()).await;
}
