//! Clusters of processes whose costs are measured.
//!
//! Owns: starting them from the release build, what their processors did, and traffic made before anything is measured.
//! Does not own: what is measured (`benches/`).

use crate::http::Http;
use crate::processes::{Process, free_port, until_ready};
use bytes::Bytes;
use serde_json::json;
use std::path::Path;
use tempfile::TempDir;
use tidemark_client::{Producer, ProducerConfig};
use tidemark_history::retry::SplitMix64;
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::Clock as _;

/// Of a cluster, where nothing else is said: the default.
const SHARDS: u32 = 64;
const URLS: u64 = 200_000;
/// Events that are made before anything is measured, and sent again and again under new identities.
const PREPARED: usize = 40;
const BATCH: u64 = 8_192;

/// Nodes, and a coordinator in the first one's neighbourhood.
pub struct Cluster {
    folder: TempDir,
    addresses: Vec<String>,
    nodes: Vec<Option<Process>>,
    coordinator: String,
    coordinator_process: Process,
    replication: u32,
    shards: u32,
    settings: Vec<String>,
}

impl Cluster {
    /// Starts so many nodes, with so many owners for each shard.
    pub async fn start(nodes: usize, replication: u32) -> Self {
        Self::start_with(nodes, replication, &[]).await
    }

    /// The same, with these settings for each node.
    pub async fn start_with(nodes: usize, replication: u32, settings: &[&str]) -> Self {
        Self::start_sharded(nodes, replication, SHARDS, settings).await
    }

    /// The same, with so many shards, a power of two.
    pub async fn start_sharded(nodes: usize, replication: u32, shards: u32, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addresses: Vec<String> = (0..nodes).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let coordinator = format!("127.0.0.1:{}", free_port());
        let (owners, count) = (replication.to_string(), shards.to_string());
        let of_cluster = ["--seeds", &addresses[0], "--replication", &owners, "--shards", &count];
        let arguments = [&["coordinator", "--http", &coordinator][..], &of_cluster].concat();
        let process = Process::start(&arguments, "coordinator is listening").await.unwrap();
        let mut cluster = Self {
            folder,
            addresses,
            nodes: Vec::new(),
            coordinator,
            coordinator_process: process,
            replication,
            shards,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        };
        for _ in 0..nodes {
            cluster.start_node().await;
        }
        until_ready(&cluster.addresses).await;
        cluster
    }

    /// Starts one more node.
    pub async fn start_node(&mut self) {
        let at = self.nodes.len();
        if at == self.addresses.len() {
            self.addresses.push(format!("127.0.0.1:{}", free_port()));
        }
        let folder = |name: String| self.folder.path().join(name).to_str().unwrap().to_owned();
        let (data, store) = (folder(format!("n{at}")), folder("history".into()));
        let (id, owners, shards) = (format!("n{at}"), self.replication.to_string(), self.shards.to_string());
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
            "--shards",
            &shards,
            "--log",
            "warn,tidemark_node::start=info",
        ];
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let arguments = [&arguments[..], &settings].concat();
        self.nodes.push(Some(Process::start(&arguments, "the node serves").await.unwrap()));
    }

    /// A producer of its own identity.
    pub async fn producer(&self, number: u128) -> Producer {
        let config = ProducerConfig {
            max_in_flight: 4_096,
            ..ProducerConfig::new(format!("http://{}", self.addresses[0]))
        };
        let id = SystemClock.now().as_unix_ms() as u128 * 1_000 + number;
        Producer::connect(config, ProducerId::from_u128(id)).await.unwrap()
    }

    /// CPU time of all nodes together.
    pub fn cpu_seconds(&self) -> f64 {
        self.nodes.iter().flatten().map(|node| cpu_seconds(node.id())).sum()
    }

    /// Resident memory of all nodes together.
    pub fn memory_bytes(&self) -> u64 {
        self.nodes.iter().flatten().map(|node| resident_bytes(node.id())).sum()
    }

    /// CPU time of the coordinator.
    pub fn coordinator_cpu_seconds(&self) -> f64 {
        cpu_seconds(self.coordinator_process.id())
    }

    /// Where the coordinator is, `host:port`.
    pub fn coordinator(&self) -> &str {
        &self.coordinator
    }

    /// Where a node is, `host:port`.
    pub fn node(&self, at: usize) -> &str {
        &self.addresses[at]
    }

    /// Takes a node out, to do something to it.
    ///
    /// # Panics
    /// Where it is not there.
    pub fn take_node(&mut self, at: usize) -> Process {
        self.nodes[at].take().expect("it runs")
    }

    /// Whether a fresh answer is complete, and how many views it has.
    pub async fn views(&self) -> (bool, u64) {
        let question = json!({"site": "*", "from": "-1h", "to": "now", "measures": ["views"]});
        let (status, answer) = Http::new(&self.coordinator).post("/v1/query", question.to_string()).await;
        let views = answer["rows"][0][0].as_u64().unwrap_or(0);
        (status == 200 && answer["facts"]["complete"] == true, views)
    }
}

/// CPU time of a process, user and system; 0 where there is none.
pub fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(Path::new(&format!("/proc/{pid}/stat"))).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Batches of events of many pages and visitors on so many sites, without times: they are of the moment of sealing.
pub fn prepared(sites: u64) -> Vec<Vec<v1::Event>> {
    let mut random = SplitMix64::new(1);
    let mut pick = |of: u64| random.next() % of;
    let dimension = |key: &'static str, value: String| v1::event::DimensionsEntry {
        key: Bytes::from_static(key.as_bytes()),
        value: value.into(),
    };
    let mut event = || v1::Event {
        site: format!("site{}.example", pick(sites)).into(),
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
