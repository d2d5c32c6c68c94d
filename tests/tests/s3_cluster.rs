//! Clusters whose history is on a real S3 server.
//!
//! The server is the Python program moto, installed by the first test that needs it. Where that cannot be, tests say
//! `SKIPPED` and pass.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tidemark_coordinator::CoordinatorConfig;
use tidemark_history::moto::Moto;
use tidemark_history::retention::Retention;
use tidemark_history::store::{Location, Store};
use tidemark_node::NodeConfig;
use tidemark_tests::history_support::{assert_sound, files, noon, quick};
use tidemark_tests::http::Http;
use tidemark_tests::in_process::Cluster;
use tidemark_tests::logs::{ACCEPT_LATE, KnownLog, assert_answers};
use tidemark_tests::processes::{free_port, program, run};
use tokio::process::{Child, Command};
use tokio::time::Instant;

const SITE: &str = "example.com";
const NODES: usize = 3;
const SHARDS: u32 = 16;

async fn moto(what: &str) -> Option<Moto> {
    let starting = tokio::task::spawn_blocking(|| {
        Moto::start(Path::new(env!("CARGO_TARGET_TMPDIR")))
            .and_then(|moto| moto.create_bucket("tide").map(|()| moto))
    });
    match starting.await.unwrap() {
        Ok(moto) => Some(moto),
        Err(error) => {
            // Straight to the terminal: the test runner hides what passing tests print.
            let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {what}: {error}");
            None
        }
    }
}

/// The log is of years ago.
fn patient(node: &mut NodeConfig, coordinator: &mut CoordinatorConfig) {
    quick(node, coordinator);
    node.times.accept_late = ACCEPT_LATE;
    node.retention = Retention { five_minutes: ACCEPT_LATE, raw: ACCEPT_LATE, days: ACCEPT_LATE };
    node.compact_after = ACCEPT_LATE;
}

async fn restart(cluster: &mut Cluster, change: impl Fn(&mut NodeConfig)) {
    for node in 0..NODES {
        cluster.stop_node(node).await;
        cluster.start_node_with(node, &change).await;
    }
    cluster.until_history_is_read().await;
}

fn cached(cluster: &Cluster) -> usize {
    (0..NODES).map(|node| files(&cluster.folder.path().join(format!("n{node}/cache"))).len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_over_s3_give_the_answers_of_the_log_at_every_stage_of_its_life() {
    let Some(moto) = moto("three nodes over S3").await else { return };
    let location: Location = "s3://tide/three/nodes".parse().unwrap();
    let store = Store::open_with(&location, moto.options()).unwrap();
    let clock = noon();
    let mut cluster =
        Cluster::start_on(Some(store.clone()), NODES, SHARDS, clock.clone(), |node, coordinator| {
            patient(node, coordinator);
            node.store = Some(location.clone());
        })
        .await;
    let log = KnownLog::sample();
    let at = format!("http://{}", cluster.http_address);
    let report = log.replay(SITE, &cluster.url(0), 1, clock.as_ref()).await;
    let hits = log.number("totals.hits");
    assert_eq!(report.totals.accepted, hits);
    let facts = assert_answers(&log, SITE, &at).await;
    assert!(facts.from_memory > 0, "{facts:?}");

    // From segments alone; what is read goes to the disks' caches.
    cluster.until("it commits", |cluster| cluster.metric("tidemark_commits_total") > 0).await;
    until_flushed(&cluster).await;
    restart(&mut cluster, |node| node.keep = Duration::ZERO).await;
    until_flushed(&cluster).await;
    cluster.until("memory is empty", |cluster| cluster.metric("tidemark_buckets_in_memory") == 0).await;
    let facts = assert_answers(&log, SITE, &at).await;
    assert!(facts.from_memory == 0 && facts.from_history > 0, "{facts:?}");
    assert!(cached(&cluster) > 0, "nothing is cached on disk");
    assert_sound(&store, SHARDS, hits).await;
    let again = log.replay(SITE, &cluster.url(NODES - 1), 1, clock.as_ref()).await;
    assert_eq!((again.totals.duplicate, again.totals.accepted), (hits, hits));

    let days = log.answers["utc_days"].as_object().unwrap().len() as u64;
    restart(&mut cluster, |node| node.compact_after = Duration::ZERO).await;
    let compacted = |cluster: &Cluster| cluster.metric("tidemark_replaced_days_total") >= days;
    cluster.until("days are compacted", compacted).await;
    assert_answers(&log, SITE, &at).await;
    assert_sound(&store, SHARDS, hits).await;

    // Nodes that never saw the days as they were, and have almost no memory for segments.
    restart(&mut cluster, |node| node.cache_memory_bytes = 1).await;
    let facts = assert_answers(&log, SITE, &at).await;
    assert!(facts.from_memory == 0 && facts.from_history > 0, "{facts:?}");
    // What was asked for once is on the disks: it is answered without S3.
    drop(moto);
    let facts = assert_answers(&log, SITE, &at).await;
    assert!(facts.from_memory == 0 && facts.from_history > 0, "{facts:?}");
}

/// A minute may be too short: hundreds of buckets, each of them a dozen requests to a server that is no fast one.
async fn until_flushed(cluster: &Cluster) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while cluster.metric("tidemark_unflushed_buckets") > 0 {
        assert!(Instant::now() < deadline, "{} buckets", cluster.metric("tidemark_unflushed_buckets"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A node alone as a process of its own, whose store is S3 as its environment says.
struct Single {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    to: String,
    http: String,
    child: Child,
}

impl Single {
    async fn start(data: &Path, moto: &Moto) -> Self {
        for _ in 0..10 {
            let [listen, http] = [0, 1].map(|_| format!("127.0.0.1:{}", free_port()));
            let data = data.to_str().unwrap();
            let mut arguments =
                vec!["node", "--single", "--listen", &listen, "--http", &http, "--data", data];
            arguments.extend(["--store", "s3://tide/single/node", "--shards", "4", "--settle", "100ms"]);
            arguments.extend(["--query-timeout", "60s"]);
            arguments.extend(["--keep", "0s", "--accept-late", "50years", "--keep-five-minutes", "50years"]);
            arguments.extend(["--keep-raw", "50years", "--keep-days", "50years"]);
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            // The names that other programs use: `Moto::options` has the older one of the endpoint.
            let named = |(key, value): (String, String)| match key.as_str() {
                "AWS_ENDPOINT" => ("AWS_ENDPOINT_URL".to_owned(), value),
                _ => (key, value),
            };
            let environment: Vec<(String, String)> = moto.options().into_iter().map(named).collect();
            let child = spawn(&arguments, &environment);
            let mut single = Self { arguments, environment, to: format!("http://{listen}"), http, child };
            if single.is_ready().await {
                return single;
            }
        }
        panic!("somebody else takes every port");
    }

    /// Whether it serves; not where it ended, because somebody else has its ports.
    async fn is_ready(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if tokio::net::TcpStream::connect(&self.http).await.is_ok()
                && Http::new(&self.http).get("/readyz").await.0 == 200
            {
                return true;
            }
            assert!(Instant::now() < deadline, "{:?} does not serve", self.arguments);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn terminate(&mut self) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        assert_eq!(ended.expect("it ends when asked to").unwrap().code(), Some(0));
    }

    async fn start_again(&mut self) {
        self.child = spawn(&self.arguments, &self.environment);
        assert!(self.is_ready().await, "it does not start again");
    }
}

fn spawn(arguments: &[String], environment: &[(String, String)]) -> Child {
    Command::new(program())
        .args(arguments)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_environment_names_an_s3_has_its_history_there() {
    let Some(moto) = moto("a process over S3").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut node = Single::start(folder.path(), &moto).await;
    let log = KnownLog::sample();
    let path = log.path.to_str().unwrap();
    let replayed = run(&["replay", path, "--site", SITE, "--to", &node.to, "--keep-time", "--json"]).await;
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let at = format!("http://{}", node.http);
    assert_answers(&log, SITE, &at).await;

    // What is not flushed when it ends is in its journal.
    node.terminate().await;
    node.start_again().await;
    assert_answers(&log, SITE, &at).await;
    let hits = log.number("totals.hits");
    let location: Location = "s3://tide/single/node".parse().unwrap();
    let store = Store::open_with(&location, moto.options()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(300);
    while metric(&node.http_of_node(), "tidemark_unflushed_buckets").await > 0 {
        assert!(Instant::now() < deadline, "it is never flushed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.terminate().await;
    assert!(!folder.path().join("history").exists(), "history is not only on S3");
    assert_sound(&store, 4, hits).await;

    // Another folder: all that it knows, it knows from S3.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut node = Single::start(elsewhere.path(), &moto).await;
    let facts = assert_answers(&log, SITE, &format!("http://{}", node.http)).await;
    assert!(facts.from_memory == 0 && facts.from_history > 0, "{facts:?}");
    assert!(!files(&elsewhere.path().join("cache")).is_empty(), "nothing is cached on disk");
    node.terminate().await;
}

impl Single {
    fn http_of_node(&self) -> Http {
        Http::new(self.to.strip_prefix("http://").unwrap())
    }
}

/// A gauge of a node; as long as it is not told, 1.
async fn metric(http: &Http, name: &str) -> u64 {
    let (status, text) = http.get("/metrics").await;
    assert_eq!(status, 200);
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(1)
}
