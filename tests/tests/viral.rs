//! A URL with half of all events, through its whole life: it is spread over shards and nodes, and every answer is that of one URL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidemark_client::{Producer, ProducerConfig};
use tidemark_coordinator::CoordinatorConfig;
use tidemark_node::NodeConfig;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::EventTime;
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::processes::run;

/// Before the objects that the test writes, as the store sees it: what is younger than a day is no garbage.
const NOW_MS: i64 = 1_773_100_860_000;
const SITE: &str = "example.com";
const NODES: usize = 3;
const SHARDS: u32 = 32;
/// Of one batch, half of these of the viral URL: more than four shards' worth.
const BATCH: u32 = 2_400;

/// Event `n`: at one of three buckets of an hour ago; every second one is of `/viral`.
fn event(n: u32) -> v1::Event {
    let entry = |key: &'static str, value: String| v1::event::DimensionsEntry {
        key: key.into(),
        value: value.into(),
    };
    v1::Event {
        site: SITE.into(),
        url: url_of(n).into(),
        time_ms: NOW_MS - 3_600_000 + i64::from(n % 3) * 300_000,
        visitor_hash: 1 + u64::from(n % 700),
        dimensions: vec![entry("device", device_of(n))],
        ..v1::Event::default()
    }
}

fn url_of(n: u32) -> String {
    if n.is_multiple_of(2) { "/viral".to_owned() } else { format!("/page/{}", n * 13 % 300) }
}

fn device_of(n: u32) -> String {
    format!("device{}", n % 5)
}

/// What the events of these numbers answer by `key`: most views first, with their visitors.
fn expected(
    events: &[u32],
    key: impl Fn(u32) -> String,
    passes: impl Fn(u32) -> bool,
    limit: usize,
) -> Vec<Vec<Value>> {
    let mut groups: BTreeMap<String, (u64, BTreeSet<u32>)> = BTreeMap::new();
    for &n in events.iter().filter(|&&n| passes(n)) {
        let (views, visitors) = groups.entry(key(n)).or_default();
        *views += 1;
        visitors.insert(n % 700);
    }
    let mut rows: Vec<(String, u64, usize)> =
        groups.into_iter().map(|(group, (views, visitors))| (group, views, visitors.len())).collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    rows.into_iter()
        .take(limit)
        .map(|(group, views, visitors)| vec![json!(group), json!(views), json!(visitors)])
        .collect()
}

fn query(change: Value) -> Value {
    let at = |ms: i64| EventTime::from_unix_ms(ms).to_string();
    let mut query = json!({
        "site": SITE, "from": at(NOW_MS - 3_660_000), "to": at(NOW_MS - 1_860_000), "measures": ["views", "visitors"],
    });
    query.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    query
}

async fn assert_counts(cluster: &Cluster, events: &[u32]) {
    let all = |_: u32| true;
    for limit in [1, 3, 400] {
        let rows = cluster.http.rows(query(json!({"groupBy": ["url"], "limit": limit}))).await;
        // Visitors over 256 are estimated: theirs of the first row are left out.
        let known = |rows: Vec<Vec<Value>>| -> Vec<Vec<Value>> {
            rows.into_iter().map(|row| if row[0] == "/viral" { row[..2].to_vec() } else { row }).collect()
        };
        assert_eq!(known(rows), known(expected(events, url_of, all, limit)), "the first {limit}");
    }
    let of_two = json!([{"dimension": "url", "in": ["/viral", "/page/13"]}]);
    let rows = cluster
        .http
        .rows(query(json!({"groupBy": ["device"], "filters": of_two, "measures": ["views"]})))
        .await;
    let of_two = expected(events, device_of, |n| ["/viral", "/page/13"].contains(&url_of(n).as_str()), 10);
    assert_eq!(rows, of_two.into_iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>());
    let but_viral = json!([{"dimension": "url", "notIn": ["/viral"]}]);
    let rows = cluster.http.rows(query(json!({"filters": but_viral, "measures": ["views"]}))).await;
    assert_eq!(rows, [[json!(events.iter().filter(|&&n| url_of(n) != "/viral").count())]]);
    let prefix = json!([{"dimension": "url", "prefix": "/vi"}]);
    let rows = cluster
        .http
        .rows(query(json!({"granularity": "5m", "filters": prefix, "measures": ["views"]})))
        .await;
    assert_eq!(
        rows.iter().map(|row| row[1].as_u64().unwrap()).sum::<u64>() as usize,
        events.iter().filter(|&&n| url_of(n) == "/viral").count()
    );
    assert_eq!(rows.len(), 3);
}

fn patient(config: &mut NodeConfig, coordinator: &mut CoordinatorConfig) {
    config.query_timeout = Duration::from_secs(30);
    coordinator.query_timeout = Duration::from_secs(30);
    config.settle = Duration::from_millis(100);
}

async fn restart(cluster: &mut Cluster, change: impl Fn(&mut NodeConfig)) {
    for node in 0..NODES {
        cluster.stop_node(node).await;
        cluster.start_node_with(node, &change).await;
    }
    cluster.until_history_is_read().await;
}

async fn verify(cluster: &Cluster) {
    let (store, shards) = (cluster.folder.path().join("history"), SHARDS.to_string());
    let range = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-12-31T00:00:00Z"];
    let place = ["--store", store.to_str().unwrap(), "--shards", &shards];
    let output = run(&[&["verify", "--json"][..], &range, &place].concat()).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["equal"], json!(true), "{report}");
    assert!(report["events"].as_u64().unwrap() > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viral_url_is_one_url_in_memory_in_the_journal_in_segments_and_in_days() {
    let clock = TestClock::at(EventTime::from_unix_ms(NOW_MS));
    let mut cluster = Cluster::start(NODES, SHARDS, clock.clone(), patient).await;
    let send = async |events: std::ops::Range<u32>, batch: usize, producer: u128| {
        let config = ProducerConfig::new(cluster.url(0));
        let mut producer = Producer::connect(config, ProducerId::from_u128(producer)).await.unwrap();
        let all: Vec<u32> = events.collect();
        for part in all.chunks(batch) {
            let events = part.iter().map(|&n| event(n)).collect();
            producer.send(events, EventTime::from_unix_ms(NOW_MS)).await.unwrap();
        }
        assert_eq!(producer.finish().await.unwrap().accepted, all.len() as u64);
        all
    };
    // Before it was viral, all of it was in one shard.
    let mut events = send(0..600, 60, 1).await;
    events.extend(send(600..600 + 2 * BATCH, BATCH as usize, 2).await);
    assert_counts(&cluster, &events).await;

    restart(&mut cluster, |_| {}).await;
    assert_counts(&cluster, &events).await;

    restart(&mut cluster, |node| node.keep = Duration::ZERO).await;
    cluster.until("all is committed", |cluster| cluster.metric("tidemark_unflushed_buckets") == 0).await;
    cluster.until("memory is empty", |cluster| cluster.metric("tidemark_buckets_in_memory") == 0).await;
    assert_counts(&cluster, &events).await;
    verify(&cluster).await;

    restart(&mut cluster, |node| node.compact_after = Duration::ZERO).await;
    cluster
        .until("the day is compacted", |cluster| cluster.metric("tidemark_replaced_days_total") >= 1)
        .await;
    assert_counts(&cluster, &events).await;
    verify(&cluster).await;
}
