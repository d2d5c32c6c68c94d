//! Figures of what is durable: what the journal costs, how long a start takes, and what answers from history take.
//!
//! `cargo bench -p tidemark-tests --bench history [-- journal|recovery|week|days]`. Needs `cargo build --release` for the
//! first. Nothing here is asserted: it prints what it measured, on the machine it ran on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark may stop where it is"
)]

use bytes::Bytes;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_client::{Producer, ProducerConfig};
use tidemark_history::retention::Retention;
use tidemark_history::retry::SplitMix64;
use tidemark_node::NodeConfig;
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::processes::{Process, free_port};

const DAY_MS: i64 = 86_400_000;
/// A midnight.
const TODAY_MS: i64 = 20_820 * DAY_MS;
const LONG: Duration = Duration::from_secs(20 * 366 * 86_400);
const SITES: u64 = 50;
const SHARDS: u32 = 64;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|wanted| name.contains(wanted));
    println!("{} cores", std::thread::available_parallelism().map_or(1, usize::from));
    if is_wanted("journal") {
        journal().await;
    }
    if is_wanted("recovery") {
        recovery().await;
    }
    if is_wanted("week") {
        week().await;
    }
    if is_wanted("days") {
        days().await;
    }
}

/// An event of one of many pages, visitors and devices.
fn event(random: &mut SplitMix64, time_ms: i64, urls: u64) -> v1::Event {
    let pick = |random: &mut SplitMix64, of: u64| random.next() % of;
    // Few pages get most views.
    let url = (pick(random, urls) * pick(random, urls)) / urls;
    let dimension = |key: &'static str, value: String| v1::event::DimensionsEntry {
        key: Bytes::from_static(key.as_bytes()),
        value: value.into(),
    };
    let value = |key: &'static str, value: u64| v1::event::ValuesEntry {
        key: Bytes::from_static(key.as_bytes()),
        value: value as i64,
    };
    v1::Event {
        site: format!("site{}.example", pick(random, SITES)).into(),
        url: format!("/articles/{url}/a-title-of-some-words").into(),
        time_ms,
        visitor_hash: random.next().max(1),
        dimensions: vec![
            dimension("country", format!("C{}", pick(random, 20))),
            dimension("device", format!("device{}", pick(random, 3))),
            dimension("browser", format!("browser{}", pick(random, 6))),
            dimension("referrer", format!("referrer{}.example", pick(random, 40))),
        ],
        values: vec![value("load_ms", 50 + pick(random, 3000)), value("bytes", pick(random, 100_000))],
        ..Default::default()
    }
}

fn settings(config: &mut NodeConfig) {
    config.times.accept_late = LONG;
    config.retention = Retention { five_minutes: LONG, raw: LONG, days: LONG };
    config.settle = Duration::from_secs(2);
    config.compact_after = LONG;
    config.keep = Duration::ZERO;
    config.query_timeout = Duration::from_secs(60);
}

async fn cluster() -> (Arc<TestClock>, Cluster) {
    let clock = TestClock::at(EventTime::from_unix_ms(TODAY_MS + 3_600_000));
    let cluster = Cluster::start(1, SHARDS, clock.clone(), |node, coordinator| {
        settings(node);
        coordinator.query_timeout = Duration::from_secs(60);
    })
    .await;
    (clock, cluster)
}

async fn send(to: String, batches: impl Iterator<Item = Vec<v1::Event>>) -> u64 {
    let mut producer = Producer::connect(ProducerConfig::new(to), ProducerId::from_u128(7)).await.unwrap();
    let now = EventTime::from_unix_ms(TODAY_MS + 3_600_000);
    for batch in batches {
        producer.send(batch, now).await.unwrap();
    }
    producer.finish().await.unwrap().accepted
}

/// CPU seconds of a process, and of its thread of this name.
fn cpu_seconds(pid: u32, thread: &str) -> (f64, f64) {
    let seconds = |stat: &Path| -> f64 {
        let text = std::fs::read_to_string(stat).unwrap_or_default();
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    };
    let folder = std::path::PathBuf::from(format!("/proc/{pid}"));
    let tasks = std::fs::read_dir(folder.join("task")).unwrap().flatten();
    let named = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == thread)
    });
    (seconds(&folder.join("stat")), named.map(|task| seconds(&task.path().join("stat"))).sum())
}

/// What the journal costs a node that takes blocks as fast as it can.
async fn journal() {
    let folder = tempfile::tempdir().unwrap();
    let [listen, http] = [0, 1].map(|_| format!("127.0.0.1:{}", free_port()));
    let data = folder.path().to_str().unwrap();
    let arguments = [
        "node",
        "--single",
        "--listen",
        &listen,
        "--http",
        &http,
        "--data",
        data,
        "--accept-late",
        "20years",
        "--memory-budget",
        "8GiB",
    ];
    let node = Process::start(&arguments, "coordinator is listening").await.unwrap();
    let mut random = SplitMix64::new(1);
    let now = SystemClock.now().as_unix_ms();
    let batches: Vec<Vec<v1::Event>> =
        (0..200).map(|_| (0..10_000).map(|_| event(&mut random, now, 2_000)).collect()).collect();
    let mut producer =
        Producer::connect(ProducerConfig::new(format!("http://{listen}")), ProducerId::from_u128(7))
            .await
            .unwrap();
    let before = cpu_seconds(node.id(), "journal");
    let started = Instant::now();
    for batch in batches {
        producer.send(batch, EventTime::from_unix_ms(now)).await.unwrap();
    }
    let events = producer.finish().await.unwrap().accepted as f64;
    let wall = started.elapsed().as_secs_f64();
    let after = cpu_seconds(node.id(), "journal");
    let (all, thread) = (after.0 - before.0, after.1 - before.1);
    println!(
        "journal: {events} events in {wall:.1} s ({:.0}/s), {:.2} CPU-s, of these {thread:.2} in the journal's thread: {:.2} M events per CPU-second, {:.2} M without that thread ({:.0} %)",
        events / wall,
        all,
        events / all / 1e6,
        events / (all - thread) / 1e6,
        100.0 * (all - thread) / all,
    );
}

/// How long a start takes with ten million events in the journal.
async fn recovery() {
    let (_, mut cluster) = cluster().await;
    let mut random = SplitMix64::new(2);
    // A bucket that has not closed, and that a query up to now includes.
    let open = TODAY_MS + 3_600_000 - 60_000;
    let batches = (0..1_000).map(|_| (0..10_000).map(|_| event(&mut random, open, 500)).collect());
    let events = send(cluster.url(0), batches).await;
    let bytes = cluster.metric("tidemark_journal_bytes");
    cluster.stop_node(0).await;
    let started = Instant::now();
    cluster.start_node(0).await;
    let serving = started.elapsed();
    let question = json!({"site": "*", "from": "-1h", "to": "now"});
    loop {
        let (status, answer) = cluster.http.post("/v1/query", question.to_string()).await;
        if status == 200 && answer["rows"][0][0] == events {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!(
        "recovery: {events} events, {} MB of journal: serves after {serving:.2?}, answers with all after {:.2?}",
        bytes >> 20,
        started.elapsed()
    );
}

async fn ask(cluster: &Cluster, question: &serde_json::Value) -> (Duration, serde_json::Value) {
    let started = Instant::now();
    let (status, answer) = cluster.http.post("/v1/query", question.to_string()).await;
    assert_eq!((status, &answer["facts"]["complete"]), (200, &json!(true)), "{answer}");
    (started.elapsed(), answer)
}

/// Asks a node that has just started, and then again.
async fn cold_and_warm(cluster: &mut Cluster, what: &str, question: serde_json::Value) {
    let mut cold = Vec::new();
    for _ in 0..3 {
        cluster.stop_node(0).await;
        cluster.start_node(0).await;
        ask(cluster, &json!({"site": "nobody.example"})).await;
        cold.push(ask(cluster, &question).await.0);
    }
    let mut warm = Vec::new();
    for _ in 0..20 {
        warm.push(ask(cluster, &question).await.0);
    }
    let answer = ask(cluster, &question).await.1;
    warm.sort();
    println!(
        "{what}: cold {:?} (of 3: {cold:.0?}), warm median {:.1?}, worst of 20 {:.1?}; {} rows, {} rollups from history",
        cold.iter().min().unwrap(),
        warm[10],
        warm[19],
        answer["rows"].as_array().unwrap().len(),
        answer["facts"]["fromHistory"],
    );
}

fn history_bytes(folder: &Path, of: &str) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder.join(of)) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.path().is_dir() {
        true => history_bytes(&entry.path(), ""),
        false => entry.metadata().map_or(0, |metadata| metadata.len()),
    });
    sizes.sum()
}

/// Ten million rows of 50 sites in the 2,016 buckets of a week, as flushed and as compacted.
async fn week() {
    let (_, mut cluster) = cluster().await;
    let mut random = SplitMix64::new(3);
    let started = Instant::now();
    let batches = (0..2_016_i64).map(|bucket| {
        let start = TODAY_MS - 7 * DAY_MS + bucket * 300_000;
        (0..5_000).map(|at| event(&mut random, start + at * 59, 300)).collect()
    });
    let events = send(cluster.url(0), batches).await;
    cluster.until("all is committed", |cluster| cluster.metric("tidemark_unflushed_buckets") == 0).await;
    let rows = cluster.metric("tidemark_committed_rows_total");
    let bytes = history_bytes(&cluster.folder.path().join("history"), "rollup");
    println!(
        "week: {events} events became {rows} rows in {:.0?}; {:.1} bytes per row as flushed",
        started.elapsed(),
        bytes as f64 / rows as f64
    );
    let at = |ms: i64| EventTime::from_unix_ms(ms).to_string();
    let (from, to) = (at(TODAY_MS - 7 * DAY_MS), at(TODAY_MS));
    let site = json!({"site": "site7.example", "from": from, "to": to, "granularity": "5m", "measures": ["views", "visitors"], "limit": 10_000});
    let url = json!({"site": "site7.example", "from": from, "to": to, "granularity": "5m", "measures": ["views", "visitors"],
        "filters": [{"dimension": "url", "in": ["/articles/30/a-title-of-some-words"]}], "limit": 10_000});
    let top = json!({"site": "site7.example", "from": from, "to": to, "groupBy": ["url"], "measures": ["views", "visitors", "load_ms.p95"], "limit": 10});
    cold_and_warm(&mut cluster, "a site's week, as flushed", site.clone()).await;
    cold_and_warm(&mut cluster, "a URL's week, as flushed", url.clone()).await;

    cluster.stop_node(0).await;
    let started = Instant::now();
    cluster.start_node_with(0, |node| node.compact_after = Duration::ZERO).await;
    cluster
        .until_within(Duration::from_secs(900), "days are compacted", |cluster| {
            cluster.metric("tidemark_replaced_days_total") >= 7
        })
        .await;
    println!("week: compacted 7 days in {:.1?}", started.elapsed());
    cold_and_warm(&mut cluster, "a site's week, compacted", site).await;
    cold_and_warm(&mut cluster, "a URL's week, compacted", url).await;
    cold_and_warm(&mut cluster, "a site's top URLs of the week, compacted", top).await;
}

/// Two years of days.
async fn days() {
    let (_, mut cluster) = cluster().await;
    let mut random = SplitMix64::new(4);
    let batches = (0..730_i64).map(|day| {
        let start = TODAY_MS - (730 - day) * DAY_MS;
        (0..10_000).map(|at| event(&mut random, start + at % 12 * 300_000, 100)).collect()
    });
    let events = send(cluster.url(0), batches).await;
    cluster
        .until_within(Duration::from_secs(900), "all is committed", |cluster| {
            cluster.metric("tidemark_unflushed_buckets") == 0
        })
        .await;
    cluster.stop_node(0).await;
    cluster.start_node_with(0, |node| node.compact_after = Duration::ZERO).await;
    cluster
        .until_within(Duration::from_secs(900), "days are compacted", |cluster| {
            cluster.metric("tidemark_replaced_days_total") >= 730
        })
        .await;
    println!("days: {events} events in 730 days");
    let at = |ms: i64| EventTime::from_unix_ms(ms).to_string();
    let (from, to) = (at(TODAY_MS - 730 * DAY_MS), at(TODAY_MS));
    let question = json!({"site": "site7.example", "from": from, "to": to, "granularity": "1d", "measures": ["views", "visitors"], "limit": 10_000});
    cold_and_warm(&mut cluster, "a site's two years of days", question).await;
}
