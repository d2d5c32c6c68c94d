//! The same answers from memory, from the journal, from segments, from compacted days and after a rebuild.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::sync::Arc;
use std::time::Duration;
use tidemark_coordinator::CoordinatorConfig;
use tidemark_history::retention::Retention;
use tidemark_node::NodeConfig;
use tidemark_rollup::time::EventTime;
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::logs::{ACCEPT_LATE, KnownLog, assert_answers};

const NOW_MS: i64 = 1_800_000_060_000;
const SITE: &str = "example.com";

fn clock() -> Arc<TestClock> {
    TestClock::at(EventTime::from_unix_ms(NOW_MS))
}

/// The logs are of years ago; days are compacted when a test says so; a busy machine may take its time.
fn patient(config: &mut NodeConfig, coordinator: &mut CoordinatorConfig) {
    config.query_timeout = Duration::from_secs(30);
    coordinator.query_timeout = Duration::from_secs(30);
    config.times.accept_late = ACCEPT_LATE;
    config.retention = Retention { five_minutes: ACCEPT_LATE, raw: ACCEPT_LATE, days: ACCEPT_LATE };
    config.settle = Duration::from_millis(100);
    config.compact_after = ACCEPT_LATE;
}

async fn restart(cluster: &mut Cluster, nodes: usize, change: impl Fn(&mut NodeConfig)) {
    for node in 0..nodes {
        cluster.stop_node(node).await;
        cluster.start_node_with(node, &change).await;
    }
}

async fn through_all_stages(nodes: usize, shards: u32, log: &KnownLog) {
    let clock = clock();
    let mut cluster = Cluster::start(nodes, shards, clock.clone(), patient).await;
    let at = format!("http://{}", cluster.http_address);
    let report = log.replay(SITE, &cluster.url(0), 1, clock.as_ref()).await;
    assert_eq!(report.totals.accepted, log.number("totals.hits"));
    let facts = assert_answers(log, SITE, &at).await;
    assert!(facts.from_memory > 0, "{facts:?}");

    // From the journal, or from segments where they were flushed already.
    restart(&mut cluster, nodes, |_| {}).await;
    assert_answers(log, SITE, &at).await;

    // From segments alone.
    restart(&mut cluster, nodes, |node| node.keep = Duration::ZERO).await;
    cluster.until("all is committed", |cluster| cluster.metric("tidemark_unflushed_buckets") == 0).await;
    cluster.until("memory is empty", |cluster| cluster.metric("tidemark_buckets_in_memory") == 0).await;
    let facts = assert_answers(log, SITE, &at).await;
    assert!(facts.from_memory == 0 && facts.from_history > 0, "{facts:?}");
    // Blocks that are committed are known when they come again.
    let again = log.replay(SITE, &cluster.url(nodes - 1), 1, clock.as_ref()).await;
    assert_eq!(
        (again.totals.duplicate, again.totals.accepted),
        (report.totals.accepted, report.totals.accepted)
    );
    let facts = assert_answers(log, SITE, &at).await;
    assert_eq!(facts.from_memory, 0, "{facts:?}");

    // From compacted days.
    let days = log.answers["utc_days"].as_object().unwrap().len() as u64;
    restart(&mut cluster, nodes, |node| node.compact_after = Duration::ZERO).await;
    cluster
        .until("days are compacted", |cluster| cluster.metric("tidemark_replaced_days_total") >= days)
        .await;
    let facts = assert_answers(log, SITE, &at).await;
    assert!(facts.from_memory == 0 && facts.from_history > 0, "{facts:?}");
    let again = log.replay(SITE, &cluster.url(0), 1, clock.as_ref()).await;
    assert_eq!(again.totals.duplicate, report.totals.accepted);
    assert_answers(log, SITE, &at).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_log_gives_its_answers_at_every_stage_of_its_life() {
    through_all_stages(1, 8, &KnownLog::sample()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_log_gives_its_answers_at_every_stage_over_three_nodes() {
    through_all_stages(3, 64, &KnownLog::sample()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_logs_give_their_answers_at_every_stage_of_their_life() {
    for log in KnownLog::real() {
        through_all_stages(1, 64, &log).await;
    }
}
