//! A cluster inside the test's own process.

use crate::http::Http;
use crate::muffled::Muffled;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tidemark_coordinator::{Coordinator, CoordinatorConfig, CoordinatorMetrics};
use tidemark_history::store::{Location, Store};
use tidemark_membership::{
    ClusterFacts, ClusterKey, Membership, MembershipConfig, MembershipMetrics, Timing,
};
use tidemark_node::planted::Planted;
use tidemark_node::{Node, NodeConfig, NodeMetrics};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::{MemberState, NodeId, Role, View};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{Clock, EventTime};
use tidemark_shell::link::Dial;
use tidemark_shell::port::Port;
use tidemark_telemetry::Telemetry;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What members say that they run.
const VERSION: &str = "test";

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

/// A node that runs.
struct Running {
    node: Node,
    token: CancellationToken,
    _gossip: DropGuard,
}

/// Nodes and a coordinator in this process; with one owner per shard, unless a test says otherwise.
pub struct Cluster {
    nodes: Vec<Option<Running>>,
    configs: Vec<NodeConfig>,
    /// Where each node gossips.
    gossip: Vec<SocketAddr>,
    clock: Arc<dyn Clock>,
    metrics: NodeMetrics,
    membership_metrics: MembershipMetrics,
    registry: Arc<Mutex<Registry>>,
    telemetry: Telemetry,
    store: Option<Store>,
    starts: u64,
    /// Holds each node's folder, `n0`, `n1`, ..., and the history of all, `history`.
    pub folder: TempDir,
    /// The coordinator.
    pub http: Http,
    /// The coordinator's address, `host:port`.
    pub http_address: String,
    /// Whom the coordinator sees.
    pub seen_by_coordinator: watch::Receiver<Arc<View>>,
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
        // The nodes share one, as in a process; the coordinator has its own, as if it were another process.
        let mut registry = Registry::default();
        let telemetry = Telemetry::new(&mut registry, VERSION);
        let (metrics, membership_metrics) =
            (NodeMetrics::new(&mut registry), MembershipMetrics::new(&mut registry));
        let registry = Arc::new(Mutex::new(registry));
        let stop = CancellationToken::new();
        let shards = ShardCount::new(shards).unwrap();
        let mut coordinator_config = CoordinatorConfig {
            http: "127.0.0.1:0".parse().unwrap(),
            shards,
            replication: Replication::ONE,
            ..CoordinatorConfig::default()
        };
        let mut cluster = Self {
            nodes: Vec::new(),
            configs: Vec::new(),
            gossip: Vec::new(),
            clock,
            metrics,
            membership_metrics,
            registry,
            telemetry,
            store,
            starts: 0,
            folder,
            http: Http::new(""),
            http_address: String::new(),
            seen_by_coordinator: watch::channel(Arc::default()).1,
            stop,
        };
        for node in 0..nodes {
            let id = NodeId::new(format!("n{node}")).unwrap();
            let data = cluster.folder.path().join(id.as_str());
            let mut config = NodeConfig::new(id, "127.0.0.1:0".parse().unwrap(), data);
            config.store = Some(Location::Folder(cluster.folder.path().join("history")));
            config.shards = shards;
            config.replication = Replication::ONE;
            change(&mut config, &mut coordinator_config);
            coordinator_config.replication = config.replication;
            cluster.nodes.push(None);
            cluster.configs.push(config);
            cluster.gossip.push("127.0.0.1:0".parse().unwrap());
            cluster.start_node(node).await;
        }
        let mut registry = Registry::default();
        let listener = listener(coordinator_config.http).await;
        let address = listener.local_addr().unwrap();
        let view = cluster.join_coordinator(address, &MembershipMetrics::new(&mut registry)).await;
        cluster.seen_by_coordinator = view.clone();
        let parts = tidemark_coordinator::Parts {
            access: tidemark_access::Access::OPEN,
            tls: None,
            clock: Arc::clone(&cluster.clock),
            view,
            connect: Arc::new(Dial::default()),
            port: Port::Open(listener),
            producer: ProducerId::from_u128(0xC0),
            metrics: CoordinatorMetrics::new(&mut registry),
            telemetry: Telemetry::new(&mut registry, VERSION),
            registry: Arc::new(Mutex::new(registry)),
        };
        let coordinator = Coordinator::start(coordinator_config, parts, cluster.stop.clone()).await.unwrap();
        cluster.http_address = coordinator.address().to_string();
        cluster.http = Http::new(&cluster.http_address);
        for node in 0..nodes {
            cluster.until_active(node, nodes).await;
        }
        until_all_active(cluster.seen_by_coordinator.clone(), nodes).await;
        cluster
    }

    /// Makes the coordinator a member, as which it outlives nodes; returns its view.
    async fn join_coordinator(
        &self,
        http: SocketAddr,
        metrics: &MembershipMetrics,
    ) -> watch::Receiver<Arc<View>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let gossip = socket.local_addr().unwrap();
        let id = NodeId::new("coordinator").unwrap();
        let config =
            self.membership(id.clone(), Role::Coordinator, http.to_string(), gossip, &self.configs[0]);
        let parts = tidemark_membership::Parts {
            clock: Arc::clone(&self.clock),
            datagrams: Arc::new(socket),
            meter: metrics.of(&id),
            seed: 0,
        };
        Membership::start(config, parts, self.stop.clone()).unwrap().view()
    }

    fn membership(
        &self,
        id: NodeId,
        role: Role,
        address: String,
        gossip: SocketAddr,
        config: &NodeConfig,
    ) -> MembershipConfig {
        MembershipConfig {
            id,
            role,
            zone: None,
            address,
            gossip,
            seeds: self.gossip.iter().filter(|gossip| gossip.port() > 0).map(ToString::to_string).collect(),
            facts: ClusterFacts {
                cluster: "in-process".to_owned(),
                shards: config.shards,
                replication: config.replication,
                schema: config.schema.outline(),
            },
            // Other tests run beside this one.
            key: ClusterKey::of(&self.folder.path().to_string_lossy()),
            timing: Timing::default(),
            folder: (role == Role::Node).then(|| config.data.join("membership")),
            version: VERSION.to_owned(),
        }
    }

    /// The view of a node.
    pub fn view(&self, node: usize) -> watch::Receiver<Arc<View>> {
        self.nodes[node].as_ref().expect("the node runs").node.view()
    }

    /// Waits until a node sees so many nodes, all of them active.
    pub async fn until_active(&self, node: usize, nodes: usize) {
        until_all_active(self.view(node), nodes).await;
    }

    /// Where a node serves gRPC.
    pub fn url(&self, node: usize) -> String {
        format!("http://{}", self.configs[node].listen)
    }

    /// A node's HTTP side, on the port of its gRPC.
    pub fn http_of(&self, node: usize) -> Http {
        Http::new(&self.configs[node].listen.to_string())
    }

    /// What all nodes together tell of themselves under this name: the sum.
    pub fn metric(&self, name: &str) -> u64 {
        self.metric_where(name, "")
    }

    /// The same of those whose labels have this text.
    pub fn metric_where(&self, name: &str, labels: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock().unwrap()).unwrap();
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = text
            .lines()
            .filter(is_it)
            .filter(|line| line.contains(labels))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
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

    /// Waits until every node has heard of its store, so that no answer lacks history.
    pub async fn until_history_is_read(&self) {
        let deadline = tokio::time::Instant::now() + crate::PATIENCE;
        loop {
            let facts = self.http.query(serde_json::json!({ "site": "*" })).await["facts"].clone();
            if facts["complete"] == true {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "history is not read: {facts}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops a node and waits until it is gone: it hands over what it can, and leaves.
    pub async fn stop_node(&mut self, node: usize) {
        let Running { node, token, _gossip } = self.nodes[node].take().expect("the node runs");
        token.cancel();
        node.stopped().await;
    }
}

impl Cluster {
    /// Has a node go without a word to the others, as far as that is possible within one process.
    pub async fn lose_node(&mut self, node: usize) {
        let Running { node, token, _gossip } = self.nodes[node].take().expect("the node runs");
        drop(_gossip);
        token.cancel();
        node.stopped().await;
    }

    /// Starts a node again that was stopped, at its old address and in its old folder, with settings as `change` leaves
    /// them.
    pub async fn start_node_with(&mut self, node: usize, change: impl FnOnce(&mut NodeConfig)) {
        change(&mut self.configs[node]);
        self.start_node(node).await;
    }

    /// Starts a node again that was stopped, at its old address and in its old folder; returns when it is active.
    pub async fn start_node(&mut self, node: usize) {
        self.begin_node(node).await;
        let running = self.nodes.iter().flatten().count();
        self.until_active(node, running).await;
    }

    /// A node that has never been started, with the settings of `n0`; returns its number.
    pub fn add_node(&mut self) -> usize {
        let node = self.configs.len();
        let id = NodeId::new(format!("n{node}")).unwrap();
        let mut config = self.configs[0].clone();
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.data = self.folder.path().join(id.as_str());
        config.id = id;
        self.nodes.push(None);
        self.configs.push(config);
        self.gossip.push("127.0.0.1:0".parse().unwrap());
        node
    }

    /// Starts a node, returning as soon as it serves.
    pub async fn begin_node(&mut self, node: usize) {
        self.begin(node, true, None).await;
    }

    /// The same of one whose gossip is lost until it is opened, and that tells others this address, if not its own.
    pub async fn begin_muffled(&mut self, node: usize, address: Option<&str>) -> Arc<Muffled> {
        self.begin(node, false, address).await
    }

    async fn begin(&mut self, node: usize, is_heard: bool, address: Option<&str>) -> Arc<Muffled> {
        assert!(self.nodes[node].is_none(), "the node runs");
        let listener = listener(self.configs[node].listen).await;
        self.configs[node].listen = listener.local_addr().unwrap();
        let config = self.configs[node].clone();
        let socket = socket(self.gossip[node]).await;
        self.gossip[node] = socket.local_addr().unwrap();
        let datagrams = Arc::new(Muffled::new(socket, is_heard));
        self.starts += 1;
        let address = address.map_or_else(|| config.listen.to_string(), str::to_owned);
        let membership = self.membership(config.id.clone(), Role::Node, address, self.gossip[node], &config);
        let parts = tidemark_membership::Parts {
            clock: Arc::clone(&self.clock),
            datagrams: datagrams.clone(),
            meter: self.membership_metrics.of(&config.id),
            seed: self.starts,
        };
        let gossip = CancellationToken::new();
        let membership = Membership::start(membership, parts, gossip.clone()).unwrap();
        let parts = tidemark_node::Parts {
            access: tidemark_access::Access::OPEN,
            tls: None,
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            registry: Arc::clone(&self.registry),
            telemetry: self.telemetry.clone(),
            port: Port::Open(listener),
            membership,
            connect: Arc::new(Dial::default()),
            journal: None,
            store: self.store.clone(),
            seed: self.starts,
            resident_bytes: None,
            planted: Planted::default(),
        };
        let token = self.stop.child_token();
        let started = Node::start(config, parts, token.clone()).await.unwrap();
        self.nodes[node] = Some(Running { node: started, token, _gossip: gossip.drop_guard() });
        datagrams
    }
}

/// Waits until a view has so many nodes, all of them active.
async fn until_all_active(mut view: watch::Receiver<Arc<View>>, nodes: usize) {
    let all = |view: &Arc<View>| {
        view.nodes().count() == nodes && view.nodes().all(|node| node.state == MemberState::Active)
    };
    let met = tokio::time::timeout(crate::PATIENCE, view.wait_for(all)).await.is_ok_and(|met| met.is_ok());
    assert!(met, "{:?}", view.borrow());
}

/// Opens a port; one that was in use a moment ago may take a moment to be free.
async fn listener(address: SocketAddr) -> TcpListener {
    let deadline = tokio::time::Instant::now() + crate::PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The same for gossip.
async fn socket(address: SocketAddr) -> UdpSocket {
    let deadline = tokio::time::Instant::now() + crate::PATIENCE;
    loop {
        match UdpSocket::bind(address).await {
            Ok(socket) => return socket,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
