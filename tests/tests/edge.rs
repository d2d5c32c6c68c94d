//! An edge as a process of its own, with its cluster there and away, killed and started again.
//!
//! Owns: that what an edge said is taken is counted, once; and that it says so at once.
//! Does not own: browsers (`tracker.rs`), who may post what (`edge_http.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_tests::PATIENCE;
use tidemark_tests::http::Http;
use tidemark_tests::processes::{Process, free_port, until_ready};

const NODE_READY: &str = "coordinator is listening";
const EDGE_READY: &str = "the edge is listening";
const SITE: &str = "edge.example";
/// Who posts at a time.
const CLIENTS: u64 = 16;
/// One test after the other: one of them measures time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct World {
    folder: tempfile::TempDir,
    node: String,
    http: String,
    edge: String,
}

impl World {
    fn new() -> Self {
        let [node, http, edge] = [0; 3].map(|_| format!("127.0.0.1:{}", free_port()));
        Self { folder: tempfile::tempdir().unwrap(), node, http, edge }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    async fn start_node(&self) -> Process {
        let data = self.path("node");
        let at = [
            "node", "--single", "--listen", &self.node, "--http", &self.http, "--data", &data, "--shards",
            "16",
        ];
        Process::start(&at, NODE_READY).await.unwrap_or_else(|seen| panic!("{seen}"))
    }

    async fn start_edge(&self) -> Process {
        self.start_edge_with(&[]).await
    }

    async fn start_edge_with(&self, settings: &[&str]) -> Process {
        let (to, spool) = (format!("http://{}", self.node), self.path("edge"));
        let at = ["edge", "--listen", &self.edge, "--to", &to, "--spool", &spool, "--sites", SITE];
        let arguments: Vec<&str> =
            at.iter().chain(&["--address-rate", "0"]).chain(settings).copied().collect();
        let edge = Process::start(&arguments, EDGE_READY).await.unwrap_or_else(|seen| panic!("{seen}"));
        until_ready(std::slice::from_ref(&self.edge)).await;
        edge
    }

    /// Views per URL.
    async fn views(&self) -> BTreeMap<String, u64> {
        let question = json!({"site": SITE, "from": "-1h", "groupBy": ["url"], "limit": 10_000});
        let rows = Http::new(&self.http).rows(question).await;
        rows.iter().map(|row| (row[0].as_str().unwrap().to_owned(), row[1].as_u64().unwrap())).collect()
    }
}

/// Posts one event after the other, each of a URL of its own, until the edge is gone; returns those that the edge said it took, and
/// how long each took.
async fn post(edge: String, next: Arc<AtomicU64>, stop: Arc<AtomicU64>) -> (Vec<u64>, Vec<Duration>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (mut taken, mut times) = (Vec::new(), Vec::new());
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= stop.load(Ordering::Relaxed) {
            return (taken, times);
        }
        let body = json!({"site": SITE, "events": [{"url": format!("/{number}")}]}).to_string();
        let started = Instant::now();
        let sent = client.post(format!("http://{edge}/v1/collect")).body(body).timeout(PATIENCE).send().await;
        // Killed in the middle: nobody was told anything.
        let Ok(reply) = sent else { return (taken, times) };
        assert_eq!(reply.status(), 204, "{}", reply.text().await.unwrap());
        taken.push(number);
        times.push(started.elapsed());
    }
}

/// Has many clients post at once.
async fn post_all(edge: &str, next: &Arc<AtomicU64>, stop: &Arc<AtomicU64>) -> (Vec<u64>, Vec<Duration>) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(post(edge.to_owned(), Arc::clone(next), Arc::clone(stop))))
        .collect();
    let (mut taken, mut times) = (Vec::new(), Vec::new());
    for client in clients {
        let (its, took) = client.await.unwrap();
        taken.extend(its);
        times.extend(took);
    }
    (taken, times)
}

fn install_tls() {
    // The program's S3 client makes reqwest ask for one; plain HTTP needs none. Somebody else's is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_is_counted_once_though_the_cluster_is_away_and_the_edge_is_killed() {
    let _alone = ALONE.lock().await;
    install_tls();
    let world = World::new();
    let (next, never) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
    let node = world.start_node().await;
    let mut taken = BTreeSet::new();
    let mut node = Some(node);
    for life in 0..4 {
        let edge = world.start_edge().await;
        let (address, clients_next, clients_stop) =
            (world.edge.clone(), Arc::clone(&next), Arc::clone(&never));
        let posting = tokio::spawn(async move { post_all(&address, &clients_next, &clients_stop).await.0 });
        // Some go to a node that is there; then it is killed, and some more are taken all the same.
        let seen = next.load(Ordering::Relaxed);
        until("some are taken", || next.load(Ordering::Relaxed) > seen + 200).await;
        if life == 1 {
            node.take().unwrap().kill().await;
        }
        until("some more are taken", || next.load(Ordering::Relaxed) > seen + 500).await;
        edge.kill().await;
        taken.extend(posting.await.unwrap());
    }
    // Two lives of the edge have not seen the cluster.
    assert!(node.is_none() && taken.len() > 1_000, "{} were taken", taken.len());
    let _node = world.start_node().await;
    let _edge = world.start_edge().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let views = world.views().await;
        let missing = taken.iter().filter(|number| !views.contains_key(&format!("/{number}"))).count();
        if missing == 0 {
            assert!(views.values().all(|&views| views == 1), "an event counts twice");
            // The others were on disk, and the edge was killed before it could say so.
            assert!(views.len() <= taken.len() + 4 * CLIENTS as usize, "{} of {}", views.len(), taken.len());
            break;
        }
        assert!(Instant::now() < deadline, "{missing} of {} that were taken are not counted", taken.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_answers_at_once_whether_or_not_its_cluster_is_there_and_ends_without_losing_anything() {
    const EVENTS: u64 = 1_500;
    let _alone = ALONE.lock().await;
    install_tls();
    let world = World::new();
    let node = world.start_node().await;
    // A disk that stands still for a second, as disks do, says nothing of the cluster.
    let edge = world.start_edge_with(&["--sync", "interval:60000ms"]).await;
    let next = Arc::new(AtomicU64::new(0));
    let (with, mut present) = post_all(&world.edge, &next, &Arc::new(AtomicU64::new(EVENTS))).await;
    node.kill().await;
    next.store(EVENTS, Ordering::Relaxed);
    let (without, mut away) = post_all(&world.edge, &next, &Arc::new(AtomicU64::new(2 * EVENTS))).await;
    for (what, times) in [("there", &mut present), ("away", &mut away)] {
        times.sort();
        let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)];
        let (p50, p99) = (at(0.5), at(0.99));
        // Straight to the terminal: the test runner hides what passing tests print.
        let _ = writeln!(
            std::io::stderr().lock(),
            "an edge with its cluster {what}: {} replies to {CLIENTS} clients, p50 {p50:?}, p99 {p99:?}",
            times.len()
        );
        // A person does not notice this; a machine that runs all tests at once takes its time.
        assert!(p99 < Duration::from_secs(1), "p99 {p99:?} with the cluster {what}");
    }
    assert_eq!((with.len() + without.len()) as u64, 2 * EVENTS);
    // What is in the spool stays there when the edge is told to stop.
    assert_eq!(edge.terminate().await, Some(0));
    assert!(Path::new(&world.path("edge/salt")).exists());
    let _node = world.start_node().await;
    let _edge = world.start_edge().await;
    let deadline = Instant::now() + PATIENCE;
    while world.views().await.values().sum::<u64>() < 2 * EVENTS {
        assert!(Instant::now() < deadline, "{:?}", world.views().await.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(world.views().await.values().all(|&views| views == 1));
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
