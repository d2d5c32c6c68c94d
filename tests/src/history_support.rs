//! What tests of history share: numbered events, what they come to, and proof that a store holds each of them once.

use crate::http::Http;
use crate::in_process::{Cluster, TestClock};
use futures::StreamExt as _;
use object_store::memory::InMemory;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidemark_client::{Producer, ProducerConfig, Totals};
use tidemark_coordinator::CoordinatorConfig;
use tidemark_history::catalog::{Catalog, CatalogSettings};
use tidemark_history::compact::CompactorSettings;
use tidemark_history::faults::FaultyStore;
use tidemark_history::store::Store;
use tidemark_history::verify::{Report, Verifier};
use tidemark_node::NodeConfig;
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::{BucketStart, Clock as _, EventTime};
use tokio::time::Instant;

/// Whose events these are.
pub const SITE: &str = "history.example";
/// Numbered events have these many URLs.
pub const URLS: u64 = 200;
/// How long a test waits for the store to have everything: a store that was away is asked again after 15 s at the latest.
const PATIENCE: Duration = Duration::from_secs(120);
/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);

/// Views by URL.
pub type Counts = BTreeMap<String, u64>;

/// 2026-03-10T12:00:00Z. Before the day on which tests run: whatever is in a store is younger than that, so that nothing
/// looks like garbage.
pub fn noon() -> Arc<TestClock> {
    TestClock::at(EventTime::from_unix_ms(1_773_144_000_000))
}

/// Moves a clock.
pub fn advance(clock: &TestClock, by: Duration) {
    clock.set(clock.now().plus(by));
}

/// The seeds of a test: `TIDEMARK_SEED`, or three new ones. Printed.
pub fn seeds(test: &str) -> Vec<u64> {
    let given = std::env::var("TIDEMARK_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemClock.now().as_unix_ms() as u64;
    let seeds = given.map_or_else(|| (0..3).map(|n| now + n).collect(), |seed| vec![seed]);
    // Straight to the terminal: the test runner hides what passing tests print.
    let _ = writeln!(std::io::stderr().lock(), "{test}: TIDEMARK_SEED is one of {seeds:?}");
    seeds
}

/// A store in memory that fails as it is told.
pub fn faulty_store(seed: u64) -> (FaultyStore, Store) {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), seed);
    let store = Store::of(Arc::new(faulty.clone()));
    (faulty, store)
}

/// Settings for a slow machine: what is due is flushed at once, what a user waits for may take its time, and days are
/// compacted when a test says so.
pub fn quick(node: &mut NodeConfig, coordinator: &mut CoordinatorConfig) {
    node.settle = Duration::from_millis(100);
    node.query_timeout = Duration::from_secs(30);
    node.forward_timeout = Duration::from_secs(20);
    coordinator.query_timeout = Duration::from_secs(60);
    node.compact_after = 365 * DAY;
}

/// Event number `n`.
pub fn event(n: u64, time: EventTime) -> v1::Event {
    v1::Event {
        site: SITE.into(),
        url: format!("/{}", n % URLS).into(),
        time_ms: time.as_unix_ms(),
        visitor_hash: n + 1,
        ..v1::Event::default()
    }
}

/// What these events come to.
pub fn counts<'a>(events: impl IntoIterator<Item = &'a v1::Event>) -> Counts {
    let mut counts = Counts::new();
    for event in events {
        *counts.entry(String::from_utf8(event.url.to_vec()).unwrap()).or_default() += 1;
    }
    counts
}

/// Sends numbered events, and knows what was acknowledged.
pub struct Stream {
    producer: Producer,
    id: u128,
    clock: Arc<TestClock>,
    batches: Vec<(Vec<v1::Event>, EventTime)>,
    events: u64,
}

impl Stream {
    /// A producer that is connected to a node.
    pub async fn connect(to: &str, id: u128, clock: &Arc<TestClock>) -> Self {
        let producer = connect(to, id).await;
        Self { producer, id, clock: Arc::clone(clock), batches: Vec::new(), events: 0 }
    }

    /// Sends events that are so old, by turns.
    pub async fn send(&mut self, events: u64, ages: &[Duration]) {
        let now = self.clock.now();
        let all = self.events..self.events + events;
        let batch: Vec<v1::Event> =
            all.map(|n| event(n, now.minus(ages[(n % ages.len() as u64) as usize]))).collect();
        self.producer.send(batch.clone(), now).await.unwrap();
        self.batches.push((batch, now));
        self.events += events;
    }

    /// Waits until all is acknowledged, as counted.
    pub async fn acknowledged(&mut self) {
        self.producer.flush().await.unwrap();
        let totals = self.producer.totals();
        assert_eq!(totals.accepted, self.events, "{totals:?}");
    }

    /// What the events of a range come to.
    pub fn counts(&self, from: EventTime, to: EventTime) -> Counts {
        let range = from.as_unix_ms()..to.as_unix_ms();
        counts(
            self.batches.iter().flat_map(|(batch, _)| batch).filter(|event| range.contains(&event.time_ms)),
        )
    }

    /// What all events come to.
    pub fn all(&self) -> Counts {
        counts(self.batches.iter().flat_map(|(batch, _)| batch))
    }

    /// How many events there are.
    pub fn len(&self) -> u64 {
        self.events
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Sends all blocks once more, as who never saw an acknowledgement does. Further events go to this node, too.
    pub async fn send_again(&mut self, to: &str) -> Totals {
        let mut producer = connect(to, self.id).await;
        for (batch, sealed_at) in &self.batches {
            producer.send(batch.clone(), *sealed_at).await.unwrap();
        }
        producer.flush().await.unwrap();
        let totals = producer.totals().clone();
        assert_eq!(totals.accepted, self.events, "{totals:?}");
        self.producer = producer;
        totals
    }
}

async fn connect(to: &str, id: u128) -> Producer {
    let config = ProducerConfig { retry_for: PATIENCE, ..ProducerConfig::new(to) };
    Producer::connect(config, ProducerId::from_u128(id)).await.unwrap()
}

/// Sends blocks as they are; all of them have to be acknowledged.
pub async fn send_blocks(to: &str, blocks: Vec<v1::Block>) {
    let sent = blocks.len();
    let mut client = IngestClient::connect(to.to_owned()).await.unwrap();
    let acks = client.send_blocks(futures::stream::iter(blocks)).await.unwrap().into_inner();
    let acks: Vec<v1::BlockAck> = acks.map(Result::unwrap).collect().await;
    assert_eq!(acks.len(), sent);
    assert_eq!(acks.iter().find_map(|ack| ack.refused.clone()), None);
}

/// An answer: views by URL, and the facts about them.
#[derive(Clone, Debug)]
pub struct Views {
    /// Views by URL, over all steps of time.
    pub by_url: Counts,
    /// The facts.
    pub facts: Value,
}

impl Views {
    /// Whether the answer says that nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.facts["complete"] == true
    }

    /// Whether nothing of it came from memory or from the journal.
    pub fn is_from_history(&self) -> bool {
        self.facts["fromMemory"].as_u64().unwrap_or(0) == 0 && self.facts["fromHistory"].as_u64() > Some(0)
    }

    /// What it says that is missing.
    pub fn missing(&self) -> String {
        self.facts["missing"].to_string()
    }

    /// Fails where the answer says that it is complete and is not right, or says neither who nor what is missing, or counts
    /// anything twice.
    pub fn assert_honest(&self, expected: &Counts) {
        if self.is_complete() {
            assert_eq!(&self.by_url, expected, "{}", self.facts);
        } else {
            assert!(self.facts["missing"].as_array().is_some_and(|all| !all.is_empty()), "{}", self.facts);
            for (url, views) in &self.by_url {
                assert!(views <= &expected[url], "{views} views of {url}: {}", self.facts);
            }
        }
    }

    /// Fails where the answer is not complete and right.
    pub fn assert_right(&self, expected: &Counts) {
        assert!(self.is_complete(), "{}", self.facts);
        assert_eq!(&self.by_url, expected, "{}", self.facts);
    }
}

/// Asks for views by URL.
pub async fn ask(http: &Http, from: EventTime, to: EventTime) -> Views {
    ask_in_steps(http, from, to, "all").await
}

/// Asks for views by URL, in steps of time.
pub async fn ask_in_steps(http: &Http, from: EventTime, to: EventTime, granularity: &str) -> Views {
    let answer = http
        .query(json!({
            "site": SITE, "from": from.to_string(), "to": to.to_string(), "granularity": granularity,
            "measures": ["views"], "groupBy": ["url"], "limit": 10_000,
        }))
        .await;
    let url = usize::from(granularity != "all");
    let mut by_url = Counts::new();
    for row in answer["rows"].as_array().unwrap() {
        *by_url.entry(row[url].as_str().unwrap().to_owned()).or_default() += row[url + 1].as_u64().unwrap();
    }
    Views { by_url, facts: answer["facts"].clone() }
}

/// Asks until the answer is as it should be; meanwhile it has to be honest.
pub async fn ask_until(
    what: &str,
    http: &Http,
    (from, to): (EventTime, EventTime),
    expected: &Counts,
    good: impl Fn(&Views) -> bool,
) -> Views {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let views = ask(http, from, to).await;
        views.assert_honest(expected);
        if good(&views) {
            return views;
        }
        assert!(Instant::now() < deadline, "still not: {what}: {}", views.facts);
        // Often: wrong answers are seen only while something moves.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns when the cluster answers from history alone, completely and right.
pub async fn until_all_is_history(cluster: &Cluster, range: (EventTime, EventTime), expected: &Counts) {
    let is_there = |views: &Views| views.is_complete() && views.is_from_history();
    ask_until("all is history", &cluster.http, range, expected, is_there).await;
}

/// What is committed.
pub async fn catalog(store: &Store) -> Arc<Catalog> {
    Arc::new(Catalog::load(store.clone(), CatalogSettings::new(1)).await.unwrap())
}

/// Settings for who works on history by hand.
pub fn by_hand(shards: u32) -> CompactorSettings {
    let shards = ShardCount::new(shards).unwrap();
    CompactorSettings::new(
        shards,
        tidemark_rollup::census::DEFAULT_LIMIT,
        NodeId::new("by-hand").unwrap(),
        77,
    )
}

/// Holds all of history against raw events.
pub async fn verify(store: &Store, shards: u32) -> Report {
    let verifier = Verifier::new(store.clone(), catalog(store).await, &by_hand(shards));
    let (from, to) = (EventTime::EPOCH, EventTime::from_unix_ms(4_000_000_000_000));
    verifier.verify(BucketStart::containing(from), BucketStart::containing(to)).await.unwrap()
}

/// Fails where history is damaged, differs from raw events, has not so many events, or covers a block twice.
pub async fn assert_sound(store: &Store, shards: u32, events: u64) {
    let report = verify(store, shards).await;
    assert!(report.is_equal(), "{:#?}", report.differences);
    let history = catalog(store).await.current();
    assert_eq!(history.damaged(), []);
    // Rows of days count the events of their buckets once more.
    let compacted = history.all_days().any(|day| day.replacement().is_some());
    assert!(report.events == events || compacted && report.events > events, "{events} events: {report:?}");
    assert_covered_once(store, shards).await;
}

/// Fails where two commits cover one block of a bucket, or a commit one that a replacement has.
pub async fn assert_covered_once(store: &Store, shards: u32) {
    let catalog = catalog(store).await;
    let shards: Vec<ShardId> = ShardCount::new(shards).unwrap().shards().collect();
    for day in catalog.current().all_days() {
        let replaced = catalog.day_coverage(day.start()).await.unwrap();
        for bucket in day.open_buckets() {
            for &shard in &shards {
                let mut covered = replaced.as_ref().map_or_else(Coverage::default, |of| of.of(bucket, shard));
                for commit in day.bucket(bucket).commits {
                    let more = commit.coverage(shard);
                    assert!(covered.is_disjoint(&more), "{} covers blocks again", commit.path());
                    covered.merge(&more);
                }
            }
        }
    }
}

/// All files below a folder, with their paths in it, in order.
pub fn files(folder: &Path) -> Vec<String> {
    fn add(root: &Path, folder: &Path, out: &mut Vec<String>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            match path.is_dir() {
                true => add(root, &path, out),
                false => out.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    let mut all = Vec::new();
    add(folder, folder, &mut all);
    all.sort_unstable();
    all
}

/// A file that was damaged, and what it was.
#[derive(Debug)]
pub struct Damaged {
    path: PathBuf,
    before: Vec<u8>,
}

/// How a file is damaged.
#[derive(Clone, Copy, Debug)]
pub enum Harm {
    /// Half of it is gone.
    Truncate,
    /// A byte in the middle is another one.
    Flip,
    /// It is gone.
    Delete,
}

impl Damaged {
    /// Damages a file.
    pub fn new(path: PathBuf, harm: Harm) -> Self {
        let before = std::fs::read(&path).unwrap();
        let mut bytes = before.clone();
        match harm {
            Harm::Truncate => bytes.truncate(before.len() / 2),
            Harm::Flip => bytes[before.len() / 2] ^= 0x40,
            Harm::Delete => {}
        }
        match harm {
            Harm::Delete => std::fs::remove_file(&path).unwrap(),
            Harm::Truncate | Harm::Flip => std::fs::write(&path, bytes).unwrap(),
        }
        Self { path, before }
    }

    /// Makes the file what it was.
    pub fn restore(self) {
        std::fs::write(self.path, self.before).unwrap();
    }
}
