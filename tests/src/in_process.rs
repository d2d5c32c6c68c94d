//! A cluster inside the test's own process.

use crate::http::Http;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tidemark_coordinator::{Coordinator, CoordinatorConfig, CoordinatorMetrics};
use tidemark_history::store::{Location, Store};
use tidemark_node::{Node, NodeConfig, NodeMetrics};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::{Member, NodeId, View};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{Clock, EventTime};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A clock that the test sets.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// A clock that stands at this moment.
    pub fn at(now: EventTime) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(now.as_unix_ms())))
    }

    /// Moves the clock.
    pub fn set(&self, now: EventTime) {
        self.0.store(now.as_unix_ms(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> EventTime {
        EventTime::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
}

/// Nodes and a coordinator in this process.
pub struct Cluster {
    nodes: Vec<Option<(Node, CancellationToken)>>,
    configs: Vec<NodeConfig>,
    members: Vec<Member>,
    clock: Arc<dyn Clock>,
    metrics: NodeMetrics,
    registry: Arc<Mutex<Registry>>,
    store: Option<Store>,
    starts: u64,
    /// Holds each node's folder, `n0`, `n1`, ..., and the history of all, `history`.
    pub folder: TempDir,
    /// The coordinator.
    pub http: Http,
    /// The coordinator's address, `host:port`.
    pub http_address: String,
    stop: CancellationToken,
}

impl Cluster {
    /// Starts nodes `n0`, `n1`, ... and a coordinator, with settings as `change` leaves them and history in a folder.
    pub async fn start(
        nodes: usize,
        shards: u32,
        clock: Arc<dyn Clock>,
        change: impl Fn(&mut NodeConfig, &mut CoordinatorConfig),
    ) -> Self {
        Self::start_on(None, nodes, shards, clock, change).await
    }

    /// The same on a store that is open.
    pub async fn start_on(
        store: Option<Store>,
        nodes: usize,
        shards: u32,
        clock: Arc<dyn Clock>,
        change: impl Fn(&mut NodeConfig, &mut CoordinatorConfig),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Arc::new(Mutex::new(Registry::default()));
        let (metrics, coordinator_metrics) = {
            let registry = &mut registry.lock().unwrap();
            (NodeMetrics::new(registry), CoordinatorMetrics::new(registry))
        };
        let stop = CancellationToken::new();
        let mut listeners = Vec::new();
        for node in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            listeners.push((Member { id: NodeId::new(format!("n{node}")).unwrap(), address }, listener));
        }
        let members: Vec<Member> = listeners.iter().map(|(member, _)| member.clone()).collect();
        let shards = ShardCount::new(shards).unwrap();
        let mut coordinator_config = CoordinatorConfig {
            http: "127.0.0.1:0".parse().unwrap(),
            shards,
            ..CoordinatorConfig::default()
        };
        let (mut nodes, mut configs) = (Vec::new(), Vec::new());
        for (me, listener) in listeners {
            let data = folder.path().join(me.id.as_str());
            let mut config = NodeConfig::new(me.id.clone(), me.address.parse().unwrap(), data);
            config.store = Some(Location::Folder(folder.path().join("history")));
            config.peers = members.clone();
            config.shards = shards;
            change(&mut config, &mut coordinator_config);
            let parts = tidemark_node::Parts {
                clock: Arc::clone(&clock),
                metrics: metrics.clone(),
                registry: Arc::clone(&registry),
                listener: Some(listener),
                store: store.clone(),
                seed: nodes.len() as u64 + 1,
            };
            let token = stop.child_token();
            nodes.push(Some((Node::start(config.clone(), parts, token.clone()).await.unwrap(), token)));
            configs.push(config);
        }
        let parts = tidemark_coordinator::Parts {
            clock: Arc::clone(&clock),
            view: watch::Sender::new(View::new(members.clone()).unwrap()).subscribe(),
            producer: ProducerId::from_u128(0xC0),
            metrics: coordinator_metrics,
            registry: Arc::clone(&registry),
        };
        let coordinator = Coordinator::start(coordinator_config, parts, stop.clone()).await.unwrap();
        let http_address = coordinator.address().to_string();
        let http = Http::new(&http_address);
        let starts = nodes.len() as u64;
        Self {
            nodes,
            configs,
            members,
            clock,
            metrics,
            registry,
            store,
            starts,
            folder,
            http,
            http_address,
            stop,
        }
    }

    /// Where a node serves gRPC.
    pub fn url(&self, node: usize) -> String {
        format!("http://{}", self.members[node].address)
    }

    /// What all nodes together tell of themselves under this name: the sum.
    pub fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock().unwrap()).unwrap();
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values =
            text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }

    /// Waits until `condition` holds.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        self.until_within(crate::PATIENCE, what, condition).await;
    }

    /// Waits until `condition` holds, so long at most.
    pub async fn until_within(&self, within: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + within;
        while !condition(self) {
            assert!(tokio::time::Instant::now() < deadline, "still not: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops a node and waits until it is gone.
    pub async fn stop_node(&mut self, node: usize) {
        let (node, token) = self.nodes[node].take().expect("the node runs");
        token.cancel();
        node.stopped().await;
    }
}

impl Cluster {
    /// Starts a node again that was stopped, at its old address and in its old folder, with settings as `change` leaves
    /// them.
    pub async fn start_node_with(&mut self, node: usize, change: impl FnOnce(&mut NodeConfig)) {
        change(&mut self.configs[node]);
        self.start_node(node).await;
    }

    /// Starts a node again that was stopped, at its old address and in its old folder.
    pub async fn start_node(&mut self, node: usize) {
        assert!(self.nodes[node].is_none(), "the node runs");
        let parts = tidemark_node::Parts {
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            registry: Arc::clone(&self.registry),
            listener: None,
            store: self.store.clone(),
            seed: self.starts + 1,
        };
        self.starts += 1;
        let token = self.stop.child_token();
        let started = Node::start(self.configs[node].clone(), parts, token.clone()).await.unwrap();
        self.nodes[node] = Some((started, token));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
