//! The same answers from memory, from the journal, from segments, from compacted days and after a rebuild.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::{Value, json};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_coordinator::CoordinatorConfig;
use tidemark_history::retention::Retention;
use tidemark_history::store::Location;
use tidemark_node::NodeConfig;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::time::EventTime;
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::logs::{ACCEPT_LATE, KnownLog, assert_answers};
use tidemark_tests::processes::run;

/// Before the objects that the tests write, as the store sees it: what is younger than a day is no garbage.
const NOW_MS: i64 = 1_773_100_860_000;
const SITE: &str = "example.com";

fn clock() -> Arc<TestClock> {
    TestClock::at(EventTime::from_unix_ms(NOW_MS))
}

/// The logs are of years ago; days are compacted when a test says so; a busy machine may take its time.
fn patient(config: &mut NodeConfig, coordinator: &mut CoordinatorConfig) {
    // Beside all that happens here: nodes that leave and come back do so while both cores are busy.
    config.verify_every = Some(Duration::from_millis(50));
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
    cluster.until_history_is_read().await;
}

/// A command on the history of a cluster, over all time.
async fn on_history(cluster: &Cluster, shards: u32, command: &[&str]) -> Output {
    let (store, shards) = (cluster.folder.path().join("history"), shards.to_string());
    let range = ["--from", "2010-01-01T00:00:00Z", "--to", "2026-01-01T00:00:00Z"];
    let store = ["--store", store.to_str().unwrap(), "--shards", &shards];
    let arguments: Vec<&str> = command.iter().copied().chain(range).chain(store).collect();
    run(&arguments).await
}

/// Counts raw events anew, and finds nothing that differs.
async fn verify(cluster: &Cluster, shards: u32, log: &KnownLog) -> Value {
    let output = on_history(cluster, shards, &["verify", "--json"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["equal"], &report["withoutRaw"]), (&json!(true), &json!(0)), "{report}");
    // Rows of days count the events of their buckets once more.
    let events = report["events"].as_u64().unwrap();
    assert!(events >= log.number("totals.hits"), "{report}");
    report
}

async fn receipt(cluster: &Cluster) -> Value {
    let url = cluster.url(0);
    let range = ["--from", "2010-01-01T00:00:00Z", "--to", "2026-01-01T00:00:00Z"];
    let arguments = ["receipt", "--site", SITE, "--node", &url, "--json"];
    let output = run(&arguments.into_iter().chain(range).collect::<Vec<_>>()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
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
    verify(&cluster, shards, log).await;
    let hits = log.number("totals.hits");
    let total = receipt(&cluster).await["total"].clone();
    assert_eq!((&total["received"], &total["counted"]), (&json!(hits), &json!(hits)), "{total}");
    // Blocks that are committed are known when they come again.
    let again = log.replay(SITE, &cluster.url(nodes - 1), 1, clock.as_ref()).await;
    assert_eq!(
        (again.totals.duplicate, again.totals.accepted),
        (report.totals.accepted, report.totals.accepted)
    );
    let facts = assert_answers(log, SITE, &at).await;
    assert_eq!(facts.from_memory, 0, "{facts:?}");
    let total = receipt(&cluster).await["total"].clone();
    let expected =
        json!({"received": 2 * hits, "counted": hits, "duplicate": hits, "late": hits, "rejected": {}});
    assert_eq!(total, expected);

    // From compacted days.
    let days = log.answers["utc_days"].as_object().unwrap().len() as u64;
    restart(&mut cluster, nodes, |node| node.compact_after = Duration::ZERO).await;
    cluster
        .until("days are compacted", |cluster| cluster.metric("tidemark_replaced_days_total") >= days)
        .await;
    let facts = assert_answers(log, SITE, &at).await;
    assert!(facts.from_memory == 0 && facts.from_history > 0, "{facts:?}");
    verify(&cluster, shards, log).await;
    let again = log.replay(SITE, &cluster.url(0), 1, clock.as_ref()).await;
    assert_eq!(again.totals.duplicate, report.totals.accepted);
    assert_answers(log, SITE, &at).await;

    // From what raw events say today.
    let rebuilt = on_history(&cluster, shards, &["rebuild", "--site", SITE]).await;
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    restart(&mut cluster, nodes, |_| {}).await;
    assert_answers(log, SITE, &at).await;
    verify(&cluster, shards, log).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_gives_the_past_a_dimension_and_a_measure_that_it_did_not_have() {
    let (clock, log) = (clock(), KnownLog::sample());
    let old = Schema::new(vec!["status".to_owned()], vec!["views=count(view)".parse().unwrap()]).unwrap();
    let old = Arc::new(old);
    let mut before = Cluster::start(1, 8, clock.clone(), |node, coordinator| {
        patient(node, coordinator);
        (node.schema, coordinator.schema) = (Arc::clone(&old), Arc::clone(&old));
    })
    .await;
    log.replay(SITE, &before.url(0), 1, clock.as_ref()).await;
    before.until("all is committed", |cluster| cluster.metric("tidemark_unflushed_buckets") == 0).await;
    before.stop_node(0).await;

    let history = Location::Folder(before.folder.path().join("history"));
    let after = Cluster::start(1, 8, clock.clone(), |node, coordinator| {
        patient(node, coordinator);
        node.store = Some(history.clone());
    })
    .await;
    let query = log.query(SITE, &["views", "visitors"]);
    let by_browser = json!({"site": SITE, "from": query.from, "to": query.to, "groupBy": ["browser"], "measures": ["views", "visitors"]});
    let rows = after.http.rows(by_browser.clone()).await;
    assert_eq!(rows, [[json!(""), json!(log.number("totals.hits")), json!(0)]], "nothing was kept of it");
    let rebuilt = on_history(&before, 8, &["rebuild", "--site", SITE]).await;
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let deadline = Instant::now() + tidemark_tests::PATIENCE;
    while after.http.rows(by_browser.clone()).await.len() < 3 {
        assert!(Instant::now() < deadline, "the node does not take up the rebuild");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_answers(&log, SITE, &format!("http://{}", after.http_address)).await;
    verify(&before, 8, &log).await;

    // A dry run says what would go, and nothing goes.
    let store = before.folder.path().join("history");
    let arguments = ["retain", "--store", store.to_str().unwrap(), "--shards", "8"];
    let listed = run(&arguments).await;
    let text = String::from_utf8(listed.stdout).unwrap();
    let days = log.answers["utc_days"].as_object().unwrap();
    assert!(days.keys().all(|day| text.contains(&format!("{day}: "))), "{text}");
    assert!(text.contains("would no longer be kept"), "{text}");
    verify(&before, 8, &log).await;
}
