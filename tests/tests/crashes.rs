//! Nodes that are killed: what was acknowledged is there, once.
//!
//! Real processes and SIGKILL. When a kill happens is random; the seed is printed, and `TIDEMARK_SEED` sets it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use bytes::Bytes;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_client::{Producer, ProducerConfig};
use tidemark_history::retry::SplitMix64;
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::PATIENCE;
use tidemark_tests::http::Http;
use tidemark_tests::processes::{Process, free_port};

const READY: &str = "coordinator is listening";
const SITE: &str = "crash.example";
/// Numbered events have these many URLs.
const URLS: u64 = 500;

struct Node {
    data: PathBuf,
    listen: String,
    http: String,
    process: Option<Process>,
}

impl Node {
    async fn start(data: &Path) -> Self {
        let [listen, http] = [0, 1].map(|_| format!("127.0.0.1:{}", free_port()));
        let mut node = Self { data: data.to_owned(), listen, http, process: None };
        node.run().await;
        node
    }

    async fn run(&mut self) {
        let data = self.data.to_str().unwrap().to_owned();
        let arguments = ["node", "--single", "--listen", &self.listen, "--http", &self.http, "--data", &data];
        let settings = ["--settle", "100ms", "--keep", "0s", "--shards", "8"];
        let arguments: Vec<&str> = arguments.into_iter().chain(settings).collect();
        self.process = Some(Process::start(&arguments, READY).await.unwrap_or_else(|seen| panic!("{seen}")));
    }

    async fn kill(&mut self) {
        self.process.take().expect("it runs").kill().await;
    }

    fn http(&self) -> Http {
        Http::new(&self.http)
    }

    /// Views per URL, by all that the node has.
    async fn views(&self) -> BTreeMap<String, u64> {
        let question = json!({"site": SITE, "from": "-3d", "to": "now", "groupBy": ["url"], "limit": 10_000});
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.http().post("/v1/query", question.to_string()).await;
            if status == 200 && answer["facts"]["complete"] == true {
                let rows = answer["rows"].as_array().unwrap();
                return rows
                    .iter()
                    .map(|row| (row[0].as_str().unwrap().to_owned(), row[1].as_u64().unwrap()))
                    .collect();
            }
            assert!(Instant::now() < deadline, "{status}: {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn objects(&self, folder: &str) -> usize {
        count_files(&self.data.join("history").join(folder))
    }
}

fn count_files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

fn seed() -> u64 {
    let given = std::env::var("TIDEMARK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| SystemClock.now().as_unix_ms() as u64);
    // Straight to the terminal: the test runner hides what passing tests print.
    let _ = writeln!(std::io::stderr().lock(), "crashes: TIDEMARK_SEED={seed}");
    seed
}

/// Event number `n`: of now, or of a past bucket, which every 400 events is another one. So buckets settle and are flushed
/// all the time, and the present one stays in the journal.
fn event(n: u64, now: EventTime) -> v1::Event {
    let ago_ms = match n % 2 {
        0 => 0,
        _ => (1 + n / 400 % 500) as i64 * 300_000,
    };
    v1::Event {
        site: Bytes::from_static(SITE.as_bytes()),
        url: format!("/{}", n % URLS).into(),
        time_ms: now.as_unix_ms() - ago_ms,
        visitor_hash: n + 1,
        ..Default::default()
    }
}

/// Sends numbered events until told to stop; returns how many, all of them acknowledged.
async fn stream(mut producer: Producer, stop: Arc<AtomicBool>) -> u64 {
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = SystemClock.now();
        producer.send((next..next + 40).map(|n| event(n, now)).collect(), now).await.unwrap();
        next += 40;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let totals = producer.finish().await.unwrap();
    assert_eq!(totals.accepted, next, "{totals:?}");
    next
}

fn expected(events: u64) -> BTreeMap<String, u64> {
    let mut expected = BTreeMap::new();
    (0..events).for_each(|n| *expected.entry(format!("/{}", n % URLS)).or_default() += 1);
    expected
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_event_is_counted_once_after_thirty_kills() {
    let mut random = SplitMix64::new(seed());
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path()).await;
    let stop = Arc::new(AtomicBool::new(false));
    // Before the first kill, which may come at once: a producer begins where somebody answers.
    let to = format!("http://{}", node.listen);
    let config = ProducerConfig { retry_for: Duration::from_secs(120), ..ProducerConfig::new(to) };
    let producer = Producer::connect(config, ProducerId::from_u128(1)).await.unwrap();
    let producing = tokio::spawn(stream(producer, Arc::clone(&stop)));
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(random.next() % 1_500)).await;
        node.kill().await;
        node.run().await;
    }
    stop.store(true, Ordering::Relaxed);
    let events = producing.await.unwrap();
    assert!(events > 1_000, "{events} events are too few to tell anything");
    assert_eq!(node.views().await, expected(events));
    // Killed once more, with nothing on its way: from the journal and from history.
    node.kill().await;
    node.run().await;
    assert_eq!(node.views().await, expected(events));
    assert!(node.objects("commits") > 0, "nothing was flushed between the kills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_upload_and_commit_and_one_between_commit_and_trim_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path()).await;
    let mut events = 0;
    for round in 0..6_u64 {
        // A file where the folder of commits belongs: segments are uploaded, and no commit can be made.
        let history = folder.path().join("history");
        let (commits, aside) = (history.join("commits"), history.join("aside"));
        if commits.exists() {
            std::fs::rename(&commits, &aside).unwrap();
        }
        std::fs::write(&commits, "in the way").unwrap();
        let before = node.objects("raw");
        let config = ProducerConfig::new(format!("http://{}", node.listen));
        let mut producer =
            Producer::connect(config, ProducerId::from_u128(100 + u128::from(round))).await.unwrap();
        let now = SystemClock.now();
        producer.send((events..events + 1_000).map(|n| event(n, now)).collect(), now).await.unwrap();
        assert_eq!(producer.finish().await.unwrap().accepted, 1_000);
        events += 1_000;
        until("segments are uploaded", || node.objects("raw") > before).await;
        node.kill().await;
        std::fs::remove_file(&commits).unwrap();
        if aside.exists() {
            std::fs::rename(&aside, &commits).unwrap();
        }
        let before = node.objects("commits");
        node.run().await;
        // As soon as a commit is there: the journal has its blocks still.
        until("something is committed", || node.objects("commits") > before).await;
        node.kill().await;
        assert!(count_files(&folder.path().join("journal")) > 0);
        node.run().await;
        assert_eq!(node.views().await, expected(events), "round {round}");
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
