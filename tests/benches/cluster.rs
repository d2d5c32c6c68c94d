//! Figures of several nodes: what an event costs with more nodes and more owners, and how long a node takes to join.
//!
//! `cargo build --release && cargo bench -p tidemark-tests --bench cluster [-- cost|join|kill]`. All processes run on one
//! machine. Nothing here is asserted: it prints what it measured, on the machine it ran on.
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidemark_client::{Producer, ProducerConfig};
use tidemark_history::retry::SplitMix64;
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::Clock as _;
use tidemark_tests::http::Http;
use tidemark_tests::processes::{Process, free_port, until_ready};

const SITES: u64 = 50;
const URLS: u64 = 200_000;
/// Events that are made before anything is measured, and sent again and again under new identities.
const PREPARED: usize = 40;
const BATCH: u64 = 8_192;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|wanted| name.contains(wanted));
    println!("{} cores", std::thread::available_parallelism().map_or(1, usize::from));
    if is_wanted("cost") {
        for (nodes, replication) in [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (8, 2)] {
            cost(nodes, replication).await;
        }
    }
    if is_wanted("kill") {
        kill().await;
    }
    if is_wanted("join") {
        join().await;
    }
}

/// Nodes, and a coordinator in the first one's neighbourhood.
struct Cluster {
    folder: TempDir,
    addresses: Vec<String>,
    nodes: Vec<Option<Process>>,
    coordinator: String,
    _coordinator: Process,
    replication: u32,
}

impl Cluster {
    async fn start(nodes: usize, replication: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addresses: Vec<String> = (0..nodes).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let coordinator = format!("127.0.0.1:{}", free_port());
        let owners = replication.to_string();
        let arguments =
            ["coordinator", "--http", &coordinator, "--seeds", &addresses[0], "--replication", &owners];
        let process = Process::start(&arguments, "coordinator is listening").await.unwrap();
        let mut cluster =
            Self { folder, addresses, nodes: Vec::new(), coordinator, _coordinator: process, replication };
        for _ in 0..nodes {
            cluster.start_node().await;
        }
        until_ready(&cluster.addresses).await;
        cluster
    }

    async fn start_node(&mut self) {
        let at = self.nodes.len();
        if at == self.addresses.len() {
            self.addresses.push(format!("127.0.0.1:{}", free_port()));
        }
        let folder = |name: String| self.folder.path().join(name).to_str().unwrap().to_owned();
        let (data, store) = (folder(format!("n{at}")), folder("history".into()));
        let (id, owners) = (format!("n{at}"), self.replication.to_string());
        let arguments = [
            "node",
            "--id",
            &id,
            "--listen",
            &self.addresses[at],
            "--seeds",
            &self.addresses[0],
            "--data",
            &data,
            "--store",
            &store,
            "--replication",
            &owners,
            "--log",
            "warn,tidemark_node::start=info",
        ];
        self.nodes.push(Some(Process::start(&arguments, "the node serves").await.unwrap()));
    }

    async fn producer(&self, number: u128) -> Producer {
        let config = ProducerConfig {
            max_in_flight: 4_096,
            ..ProducerConfig::new(format!("http://{}", self.addresses[0]))
        };
        let id = SystemClock.now().as_unix_ms() as u128 * 1_000 + number;
        Producer::connect(config, ProducerId::from_u128(id)).await.unwrap()
    }

    fn cpu_seconds(&self) -> f64 {
        self.nodes.iter().flatten().map(|node| cpu_seconds(node.id())).sum()
    }

    async fn views(&self) -> (bool, u64) {
        let question = json!({"site": "*", "from": "-1h", "to": "now", "measures": ["views"]});
        let (status, answer) = Http::new(&self.coordinator).post("/v1/query", question.to_string()).await;
        let views = answer["rows"][0][0].as_u64().unwrap_or(0);
        (status == 200 && answer["facts"]["complete"] == true, views)
    }
}

fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(Path::new(&format!("/proc/{pid}/stat"))).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Batches of events of many pages and visitors, without times: they are of the moment of sealing.
fn prepared() -> Vec<Vec<v1::Event>> {
    let mut random = SplitMix64::new(1);
    let mut pick = |of: u64| random.next() % of;
    let dimension = |key: &'static str, value: String| v1::event::DimensionsEntry {
        key: Bytes::from_static(key.as_bytes()),
        value: value.into(),
    };
    let mut event = || v1::Event {
        site: format!("site{}.example", pick(SITES)).into(),
        url: format!("/articles/{}/a-title-of-some-words", (pick(URLS) * pick(URLS)) / URLS).into(),
        visitor_hash: pick(1 << 40) + 1,
        dimensions: vec![
            dimension("country", format!("C{}", pick(20))),
            dimension("device", format!("device{}", pick(3))),
            dimension("browser", format!("browser{}", pick(6))),
            dimension("referrer", format!("referrer{}.example", pick(40))),
        ],
        values: vec![v1::event::ValuesEntry {
            key: Bytes::from_static(b"load_ms"),
            value: 50 + pick(3000) as i64,
        }],
        ..Default::default()
    };
    (0..PREPARED).map(|_| (0..BATCH).map(|_| event()).collect()).collect()
}

/// CPU seconds of all nodes together for a million events.
async fn cost(nodes: usize, replication: u32) {
    let cluster = Cluster::start(nodes, replication).await;
    let batches = prepared();
    let mut producer = cluster.producer(1).await;
    // Connections, tables and the first files are no part of it.
    producer.send(batches[0].clone(), SystemClock.now()).await.unwrap();
    producer.flush().await.unwrap();
    let (before, started) = (cluster.cpu_seconds(), Instant::now());
    let mut events = 0;
    for _ in 0..5 {
        for batch in &batches {
            events += batch.len();
            producer.send(batch.clone(), SystemClock.now()).await.unwrap();
        }
    }
    producer.flush().await.unwrap();
    let (took, used) = (started.elapsed().as_secs_f64(), cluster.cpu_seconds() - before);
    let latency = producer.latency_us();
    println!(
        "cost: {nodes} nodes, R={replication}: {:.2} CPU-seconds per million events ({:.2} M events per CPU-second), {:.0} events/s with the sender on the same cores, block acknowledged after p50 {:.1} ms, p99 {:.1} ms",
        used / events as f64 * 1e6,
        events as f64 / used / 1e6,
        events as f64 / took,
        latency.value_at_quantile(0.5) as f64 / 1e3,
        latency.value_at_quantile(0.99) as f64 / 1e3,
    );
}

/// Kills one of three nodes with -9 while events stream; says how long answers are not complete, and when acknowledgements
/// come again.
async fn kill() {
    for round in 0..5 {
        let mut cluster = Cluster::start(3, 2).await;
        let mut producer = cluster.producer(round).await;
        let batch: Vec<v1::Event> = prepared().into_iter().next().unwrap();
        producer.send(batch.clone(), SystemClock.now()).await.unwrap();
        producer.flush().await.unwrap();
        let sent = batch.len() as u64;
        while cluster.views().await != (true, sent) {}
        let victim = 1 + (round as usize % 2);
        let process = cluster.nodes[victim].take().unwrap();
        let killed = Instant::now();
        process.kill().await;
        let (mut asked, mut incomplete, mut slowest) = (0, 0, Duration::ZERO);
        let first = loop {
            let began = Instant::now();
            let (is_complete, views) = cluster.views().await;
            asked += 1;
            slowest = slowest.max(began.elapsed());
            assert!(!is_complete || views == sent, "{views} of {sent}");
            if is_complete {
                break killed.elapsed();
            }
            incomplete += 1;
        };
        // Blocks of its shards wait until others have its place.
        producer.send(batch.clone(), SystemClock.now()).await.unwrap();
        producer.flush().await.unwrap();
        let taken = killed.elapsed();
        println!(
            "kill: round {round}: first complete answer {:.2} s after kill -9 ({incomplete} of {asked} before it incomplete, slowest {:.2} s); events of its shards acknowledged after {:.2} s",
            first.as_secs_f64(),
            slowest.as_secs_f64(),
            taken.as_secs_f64()
        );
    }
}

/// A third node joins two that have ten million events which no commit covers, while more come in.
async fn join() {
    let mut cluster = Cluster::start(2, 2).await;
    let batches = prepared();
    let mut producer = cluster.producer(1).await;
    let mut sent = 0;
    let started = Instant::now();
    while sent < 10_000_000 {
        for batch in &batches {
            sent += batch.len() as u64;
            producer.send(batch.clone(), SystemClock.now()).await.unwrap();
        }
    }
    producer.flush().await.unwrap();
    println!("join: {sent} events sent in {:.0} s", started.elapsed().as_secs_f64());
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                producer.send(batches[0][..1_000].to_vec(), SystemClock.now()).await.unwrap();
                sent += 1_000;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            producer.flush().await.unwrap();
            sent
        }
    });
    let joined = Instant::now();
    cluster.start_node().await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.addresses[0])).unwrap();
    let mut admin = AdminClient::new(channel.connect().await.unwrap());
    let (mut asked, mut incomplete, mut slowest) = (0, 0, Duration::ZERO);
    let took = loop {
        let began = Instant::now();
        let (is_complete, _) = cluster.views().await;
        slowest = slowest.max(began.elapsed());
        asked += 1;
        incomplete += u32::from(!is_complete);
        let reply = admin.members(v1::MembersRequest { with_status: false }).await.unwrap().into_inner();
        if reply.members.iter().any(|member| member.id == "n2" && member.state == "active") {
            break joined.elapsed();
        }
    };
    stop.store(true, Ordering::Relaxed);
    sent += load.await.unwrap();
    let (is_complete, views) = cluster.views().await;
    println!(
        "join: the third node was active after {:.1} s; {incomplete} of {asked} answers meanwhile were not complete, the slowest took {:.2} s; {views} of {sent} events in a complete answer: {is_complete}",
        took.as_secs_f64(),
        slowest.as_secs_f64()
    );
}
