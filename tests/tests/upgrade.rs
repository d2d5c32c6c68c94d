//! A dimension and a measure are added while events stream: the cluster is changed member by member, and nobody notices but who asks
//! for what is new.
//!
//! Real processes with real signals: three nodes with two owners for each shard, a coordinator as old as they are, and one that knows
//! the new names from the start.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_client::{Producer, ProducerConfig, Totals};
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::change::apply;
use tidemark_rollup::schema::{DEFAULT_DIMENSIONS, DEFAULT_MEASURES};
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::PATIENCE;
use tidemark_tests::churn::members::{Member, unrest, until};
use tidemark_tests::http::{Http, rows_of};
use tidemark_tests::processes::{free_port, run, until_ready};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use v1::update::Kind;

/// Events of an hour ago, which are committed before anything is changed.
const OLD: &str = "old.example";
/// Events that stream all the while.
const ROLLING: &str = "rolling.example";
/// Events after everything is changed.
const NEW: &str = "new.example";
/// How many each of the two sites has that do not stream.
const EVENTS: u64 = 600;
const HOUR_MS: i64 = 3_600_000;
const COLOURS: [&str; 3] = ["red", "green", ""];

/// What events count by a colour: all of them, likes, and the sum of `read_ms`.
type Counts = BTreeMap<String, [u64; 3]>;

/// Event number `n`. The old schema has no measure of likes and of `read_ms`, and no dimension `colour`; every event has one byte, so
/// that `bytes` counts them all.
fn event(site: &'static str, n: u64, time: EventTime) -> v1::Event {
    let value = |key: &'static str, value: u64| v1::event::ValuesEntry {
        key: Bytes::from_static(key.as_bytes()),
        value: value as i64,
    };
    let colour = v1::event::DimensionsEntry {
        key: Bytes::from_static(b"colour"),
        value: Bytes::from_static(COLOURS[n as usize % 3].as_bytes()),
    };
    v1::Event {
        site: Bytes::from_static(site.as_bytes()),
        url: format!("/{}", n % 97).into(),
        kind: Bytes::from_static(if n.is_multiple_of(5) { b"like" } else { b"view" }),
        time_ms: time.as_unix_ms(),
        dimensions: vec![colour],
        values: vec![value("bytes", 1), value("read_ms", n % 1000)],
        ..Default::default()
    }
}

/// What so many events count by colour under the new schema.
fn counts(events: u64) -> Counts {
    let mut counts = Counts::new();
    for n in 0..events {
        let [all, likes, read_ms] = counts.entry(COLOURS[n as usize % 3].to_owned()).or_default();
        (*all, *likes, *read_ms) = (*all + 1, *likes + u64::from(n.is_multiple_of(5)), *read_ms + n % 1000);
    }
    counts
}

fn total(counts: &Counts) -> [u64; 3] {
    counts.values().fold([0; 3], |sum, of| [sum[0] + of[0], sum[1] + of[1], sum[2] + of[2]])
}

fn now() -> EventTime {
    SystemClock.now()
}

/// The flags of the new schema.
fn new_schema() -> [String; 4] {
    let dimensions = DEFAULT_DIMENSIONS.iter().chain(&["colour"]).copied().collect::<Vec<_>>().join(",");
    let measures = DEFAULT_MEASURES.iter().chain(&["likes=count(like)", "read_ms=sum(read_ms)"]).copied();
    let measures = measures.collect::<Vec<_>>().join(", ");
    ["--dimensions".to_owned(), dimensions, "--measures".to_owned(), measures]
}

fn borrowed(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Nodes and coordinators, and how to ask them.
struct Cluster {
    nodes: Vec<Member>,
    /// Of the old schema until the end.
    coordinator: Member,
    /// Of the new schema from the start.
    ahead: Member,
}

impl Cluster {
    async fn start(folder: &Path) -> Self {
        let address = || format!("127.0.0.1:{}", free_port());
        let addresses: Vec<String> = (0..3).map(|_| address()).collect();
        let seeds = addresses.join(",");
        let small = ["--shards", "16"];
        let node = |at: usize| {
            let member = Member::node(&format!("n{at}"), &addresses[at], &seeds, folder);
            // What is late is committed at once, and then leaves memory: what is committed is read from there.
            member.with(&small).with(&["--settle", "200ms", "--keep", "0s"])
        };
        let coordinator = |id: &str| Member::coordinator(id, &address(), &seeds).with(&small);
        let mut cluster = Self {
            nodes: (0..3).map(node).collect(),
            coordinator: coordinator("c-old"),
            ahead: coordinator("c-new").with(&borrowed(&new_schema())),
        };
        for member in cluster.nodes.iter_mut().chain([&mut cluster.coordinator, &mut cluster.ahead]) {
            member.start().await;
        }
        cluster.until_peace("the start").await;
        cluster
    }

    async fn until_peace(&self, after: &str) {
        let nodes = self.nodes.iter().map(|node| (node.id.clone(), node.address.clone())).collect();
        until(&format!("peace after {after}"), PATIENCE, || unrest(&nodes)).await;
        until_ready(&[self.coordinator.address.clone(), self.ahead.address.clone()]).await;
    }

    async fn change_node(&mut self, at: usize) {
        self.nodes[at].terminate().await;
        self.nodes[at].add(&borrowed(&new_schema()));
        self.nodes[at].start().await;
        self.until_peace(&format!("n{at} is changed")).await;
    }
}

/// Asks for measures of a site over three hours, or of an hour ago.
fn question(site: &str, measures: &[&str], by: &[&str]) -> Value {
    json!({"site": site, "from": "-3h", "to": "now", "measures": measures, "groupBy": by})
}

/// What is counted by colour.
async fn by_colour(coordinator: &Member, site: &str) -> Counts {
    let measures = ["bytes", "likes", "read_ms"];
    let rows = Http::new(&coordinator.address).rows(question(site, &measures, &["colour"])).await;
    let number = |value: &Value| value.as_u64().unwrap();
    let counts = |row: &Vec<Value>| [1, 2, 3].map(|at| number(&row[at]));
    rows.iter().map(|row| (row[0].as_str().unwrap().to_owned(), counts(row))).collect()
}

/// Sends events from number 0 on, each with the time that `at` has for it, and waits until all are acknowledged.
async fn send(to: &Member, site: &'static str, events: u64, at: impl Fn(u64) -> EventTime) {
    let (config, id) = (ProducerConfig::new(format!("http://{}", to.address)), site.len() as u128);
    let mut producer = Producer::connect(config, ProducerId::from_u128(id)).await.unwrap();
    producer.send((0..events).map(|n| event(site, n, at(n))).collect(), now()).await.unwrap();
    assert_eq!(producer.finish().await.unwrap().accepted, events);
}

/// Sends events as rows, which the nodes make blocks of under their own schema.
async fn post(coordinator: &Member, site: &str, events: u64, time: EventTime) {
    let line = |n: u64| {
        let (url, colour) = (format!("/{}", n % 97), COLOURS[n as usize % 3]);
        let kind = if n.is_multiple_of(5) { "like" } else { "view" };
        let values = json!({"bytes": 1, "read_ms": n % 1000});
        let dimensions = json!({"colour": colour});
        let time = time.as_unix_ms();
        json!({"site": site, "url": url, "kind": kind, "time": time, "dimensions": dimensions, "values": values})
    };
    let body = Value::Array((0..events).map(line).collect()).to_string();
    let (status, told) = Http::new(&coordinator.address).post("/v1/events", body).await;
    assert_eq!((status, &told["accepted"]), (200, &json!(events)), "{told}");
    // Who has not changed yet says that it leaves these out of what it counts.
    let ignored = told["ignored"].to_string();
    assert!(ignored.contains("colour") && ignored.contains("read_ms"), "{ignored}");
}

/// Waits until an answer is complete and from history alone.
async fn until_committed(coordinator: &Member, site: &str, to: &str) {
    let question = json!({"site": site, "from": "-3h", "to": to, "measures": ["bytes"]});
    until(&format!("{site} is committed"), PATIENCE, || async {
        let answer = Http::new(&coordinator.address).query(question.clone()).await;
        let facts = &answer["facts"];
        let is_committed = facts["complete"] == true && facts["fromMemory"] == 0 && facts["fromHistory"] != 0;
        (!is_committed).then(|| answer.to_string())
    })
    .await;
}

/// Events that stream without a pause.
struct Streaming {
    sent: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    stop: CancellationToken,
    producing: JoinHandle<Totals>,
}

impl Streaming {
    async fn to(nodes: &[Member]) -> Self {
        let mut urls = nodes.iter().map(|node| format!("http://{}", node.address));
        let config = ProducerConfig { retry_for: PATIENCE, ..ProducerConfig::new(urls.next().unwrap()) };
        let config = ProducerConfig { more_addresses: urls.collect(), ..config };
        let producer = Producer::connect(config, ProducerId::from_u128(7)).await.unwrap();
        let (sent, acknowledged) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let stop = CancellationToken::new();
        let producing = stream(producer, Arc::clone(&sent), Arc::clone(&acknowledged), stop.clone());
        Self { producing: tokio::spawn(producing), sent, acknowledged, stop }
    }

    /// Stops it; returns how many events there were, all of them acknowledged.
    async fn finish(self) -> u64 {
        self.stop.cancel();
        let totals = self.producing.await.unwrap();
        assert_eq!(totals.accepted, totals.events, "{totals:?}");
        totals.events
    }
}

/// Mostly events of now. Every fourth is of a past bucket, another one every three seconds: so commits are made all the time, by nodes
/// of both schemas.
async fn stream(
    mut producer: Producer,
    sent: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    stop: CancellationToken,
) -> Totals {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let (first, now) = (sent.fetch_add(60, Ordering::SeqCst), now());
        let ago_ms =
            |n: u64| if n.is_multiple_of(4) { (2 + now.as_unix_ms() / 3_000 % 8) * 300_000 } else { 0 };
        let at = |n| EventTime::from_unix_ms(now.as_unix_ms() - ago_ms(n));
        producer.send((first..first + 60).map(|n| event(ROLLING, n, at(n))).collect(), now).await.unwrap();
        producer.settle_ready().await.unwrap();
        acknowledged.store(producer.totals().accepted, Ordering::SeqCst);
    }
    producer.finish().await.unwrap()
}

/// Asks for old names again and again, of a coordinator that runs.
struct Asking {
    stop: CancellationToken,
    asking: JoinHandle<u64>,
}

impl Asking {
    fn of(coordinator: &Member, streaming: &Streaming) -> Self {
        let stop = CancellationToken::new();
        let http = Http::new(&coordinator.address);
        let counters = (Arc::clone(&streaming.sent), Arc::clone(&streaming.acknowledged));
        let asking = tokio::spawn(ask_all_the_time(http, counters, stop.clone()));
        Self { stop, asking }
    }

    /// Stops asking; returns how many answers there were, all of them complete and right.
    async fn finish(self) -> u64 {
        self.stop.cancel();
        self.asking.await.unwrap()
    }
}

async fn ask_all_the_time(
    http: Http,
    (sent, acknowledged): (Arc<AtomicU64>, Arc<AtomicU64>),
    stop: CancellationToken,
) -> u64 {
    let (mut answers, mut most) = (0, 0);
    let (views, likes) = (EVENTS * 4 / 5, EVENTS / 5);
    while !stop.is_cancelled() {
        let least = acknowledged.load(Ordering::SeqCst).max(most);
        let answer = http.query(question(ROLLING, &["bytes"], &[])).await;
        assert_eq!(answer["facts"]["complete"], true, "{answer}");
        let told = answer["rows"][0][0].as_u64().unwrap_or(0);
        let sent = sent.load(Ordering::SeqCst);
        assert!((least..=sent).contains(&told), "{told} are not {least} to {sent}: {answer}");
        let old = http.rows(question(OLD, &["views", "bytes"], &["device"])).await;
        assert_eq!(old, [[json!(""), json!(views), json!(views + likes)]]);
        (answers, most) = (answers + 1, told);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answers
}

/// A subscriber to likes; it keeps the newest answer.
fn subscribe(coordinator: &Member) -> (Arc<std::sync::Mutex<v1::Answer>>, JoinHandle<()>) {
    let newest = Arc::new(std::sync::Mutex::new(v1::Answer::default()));
    let (kept, url) = (Arc::clone(&newest), format!("http://{}", coordinator.address));
    let listening = tokio::spawn(async move {
        let likes = v1::Query {
            site: ROLLING.into(),
            from: "-3h".into(),
            measures: vec!["likes".into()],
            ..v1::Query::default()
        };
        let subscription =
            v1::Subscription { query: Some(likes), every_ms: 200, ..v1::Subscription::default() };
        let request = v1::SubscribeRequest { subscriptions: vec![subscription] };
        let mut client = AnalyticsClient::connect(url).await.unwrap();
        let mut updates = client.subscribe(request).await.unwrap().into_inner();
        while let Some(update) = updates.message().await.unwrap() {
            match update.kind.unwrap() {
                Kind::Answer(answer) => *kept.lock().unwrap() = answer,
                Kind::Change(change) => apply(&mut kept.lock().unwrap(), change).unwrap(),
            }
        }
    });
    (newest, listening)
}

/// Whether an answer for the new measure is complete; where it is not, asserts that it names who lacks it, of these nodes, and why.
fn knows_likes(facts: &Value, lacking: &[&str]) -> bool {
    if facts["complete"] == true {
        assert_eq!(facts["missing"], json!([]));
        return true;
    }
    let missing = facts["missing"].as_array().unwrap();
    assert!(!missing.is_empty(), "{facts}");
    for entry in missing {
        let id = entry["node"].as_str().unwrap().split(' ').next().unwrap();
        assert!(lacking.contains(&id), "{facts}");
        assert_eq!(entry["reason"], format!("the schema of node {id} has no measure likes yet"));
    }
    false
}

async fn likes_of(coordinator: &Member, lacking: &[&str]) -> bool {
    let begun = Instant::now();
    let answer = Http::new(&coordinator.address).query(question(OLD, &["likes"], &[])).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "it is known at once who lacks what");
    knows_likes(&answer["facts"], lacking)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dimension_and_a_measure_are_added_node_by_node_while_events_stream() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path()).await;
    let an_hour_ago = EventTime::from_unix_ms(now().as_unix_ms() - HOUR_MS);
    post(&cluster.coordinator, OLD, EVENTS, an_hour_ago).await;
    until_committed(&cluster.coordinator, OLD, "now").await;

    let streaming = Streaming::to(&cluster.nodes).await;
    let asking = Asking::of(&cluster.coordinator, &streaming);
    let (live, listening) = subscribe(&cluster.ahead);
    assert!(!likes_of(&cluster.ahead, &["n0", "n1", "n2"]).await, "nobody knows it");
    cluster.change_node(0).await;
    assert!(!likes_of(&cluster.ahead, &["n1", "n2"]).await, "two nodes own some shards alone");
    cluster.change_node(1).await;
    assert!(likes_of(&cluster.ahead, &[]).await, "each shard has an owner that knows it");
    cluster.change_node(2).await;

    let answers = asking.finish().await;
    assert!(answers > 20, "{answers} answers tell little");
    cluster.coordinator.terminate().await;
    cluster.coordinator.add(&borrowed(&new_schema()));
    cluster.coordinator.start().await;
    cluster.until_peace("the coordinator is changed").await;
    let asking = Asking::of(&cluster.coordinator, &streaming);
    send(&cluster.nodes[0], NEW, EVENTS, |n| if n % 2 == 0 { now() } else { an_hour_ago }).await;
    let events = streaming.finish().await;
    assert!(asking.finish().await > 0);

    assert_new_data_has_the_new_columns(&cluster).await;
    assert_old_history_reads_as_empty_in_them(&cluster).await;
    // What was committed by nodes of the old schema lacks them; nothing else does, and nothing is counted too often.
    let (told, sent) = (by_colour(&cluster.coordinator, ROLLING).await, total(&counts(events)));
    let [all, likes, read_ms] = total(&told);
    assert_eq!(all, events, "sums by the new dimension are the total: {told:?}");
    assert!(likes > 0 && likes <= sent[1] && read_ms <= sent[2] && told.len() == 3, "{told:?} of {sent:?}");
    until("the live answer is that of now", PATIENCE, || async {
        let answer = live.lock().unwrap().clone();
        let json = tidemark_coordinator::answer_to_json(&answer);
        let is_whole = knows_likes(&json["facts"], &["n0", "n1", "n2"]);
        let fresh = Http::new(&cluster.ahead.address).rows(question(ROLLING, &["likes"], &[])).await;
        (!is_whole || rows_of(&json) != fresh).then(|| format!("{json}, not {fresh:?}"))
    })
    .await;
    listening.abort();
    assert_the_past_can_have_them(&cluster, folder.path(), &counts(events)).await;
}

async fn assert_new_data_has_the_new_columns(cluster: &Cluster) {
    for coordinator in [&cluster.coordinator, &cluster.ahead] {
        assert_eq!(by_colour(coordinator, NEW).await, counts(EVENTS));
    }
    until_committed(&cluster.coordinator, NEW, "-30m").await;
    assert_eq!(by_colour(&cluster.coordinator, NEW).await, counts(EVENTS));
}

async fn assert_old_history_reads_as_empty_in_them(cluster: &Cluster) {
    assert_eq!(by_colour(&cluster.coordinator, OLD).await, Counts::from([(String::new(), [EVENTS, 0, 0])]));
    let http = Http::new(&cluster.coordinator.address);
    let rows = http.rows(question(OLD, &["views", "bytes"], &[])).await;
    assert_eq!(rows, [[json!(EVENTS * 4 / 5), json!(EVENTS)]]);
}

/// Also nodes of the old schema kept what they did not know: counted anew, the past has it.
async fn assert_the_past_can_have_them(cluster: &Cluster, folder: &Path, rolling: &Counts) {
    let store = folder.join("history");
    let schema = new_schema();
    let on_store = ["--store", store.to_str().unwrap(), "--shards", "16"];
    let on_store: Vec<&str> = on_store.into_iter().chain(borrowed(&schema)).collect();
    let command = |name: &'static str, more: &[&'static str]| {
        let arguments: Vec<&str> =
            [name].into_iter().chain(more.iter().copied()).chain(on_store.clone()).collect();
        async move {
            let output = run(&arguments).await;
            let told = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&told));
        }
    };
    command("verify", &["--from", "-3h"]).await;
    command("rebuild", &["--site", "*", "--from", "-3h"]).await;
    command("verify", &["--from", "-3h"]).await;
    until("the past has the new columns", PATIENCE, || async {
        let old = by_colour(&cluster.coordinator, OLD).await;
        let streamed = by_colour(&cluster.coordinator, ROLLING).await;
        let is_so = old == counts(EVENTS) && streamed == *rolling;
        (!is_so).then(|| format!("{old:?}, {streamed:?} of {rolling:?}"))
    })
    .await;
}
