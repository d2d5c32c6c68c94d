//! A coordinator before some fake nodes, at a fixed time.

use super::fake_node::FakeNode;
use super::http_client::{self, Reply};
use crate::{Coordinator, CoordinatorConfig, CoordinatorMetrics, Parts, Running};
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::member::{Member, NodeId, View};
use tidemark_rollup::placement::{Placement, Replication};
use tidemark_rollup::shard::ShardRules;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::{Clock, EventTime};
use tidemark_shell::link::{Connect, Dial};
use tidemark_shell::port::Port;
use tidemark_telemetry::Telemetry;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

struct FixedClock(EventTime);

impl Clock for FixedClock {
    fn now(&self) -> EventTime {
        self.0
    }
}

/// 2026-11-22T12:02:30Z.
pub(super) fn now() -> EventTime {
    EventTime::parse_rfc3339("2026-11-22T12:02:30Z").unwrap()
}

/// Longer than any answer may take with these settings, on a machine that is busy with other tests.
pub(super) const PATIENCE: Duration = Duration::from_millis(2500);

/// Settings for tests: any port, one owner per shard, and no patience.
pub(super) fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        replication: Replication::ONE,
        query_timeout: Duration::from_millis(600),
        ingest_timeout: Duration::from_secs(2),
        ..CoordinatorConfig::default()
    }
}

pub(super) struct World {
    pub(super) nodes: Vec<FakeNode>,
    pub(super) address: SocketAddr,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) stop: CancellationToken,
    pub(super) running: Option<Running>,
    rules: ShardRules,
    replication: Replication,
}

impl World {
    /// `nodes` nodes and a coordinator.
    pub(super) async fn of(nodes: usize) -> Self {
        Self::with(nodes, Vec::new(), config()).await
    }

    /// The same with further members that are no fake nodes, and other settings.
    pub(super) async fn with(nodes: usize, others: Vec<Member>, config: CoordinatorConfig) -> Self {
        let (rules, replication) = (rules(&config), config.replication);
        let mut started = Vec::new();
        for at in 0..nodes {
            started.push(FakeNode::start(&format!("n{at}"), &rules, now()).await);
        }
        let members = started.iter().map(|node| node.member.clone()).chain(others);
        let (view, receiver) = watch::channel(Arc::new(View::new(members.collect()).unwrap()));
        let stop = CancellationToken::new();
        let parts = parts(receiver, Port::At(config.http), Arc::new(Dial::default()));
        let running = Coordinator::start(config, parts, stop.clone()).await.unwrap();
        let address = running.address();
        Self { nodes: started, address, view, stop, running: Some(running), rules, replication }
    }

    /// Counts events on the nodes that own their shards.
    pub(super) fn feed(&self, events: Vec<v1::Event>) {
        feed(&self.nodes, &self.placement(), &self.rules, 1, events);
    }

    fn placement(&self) -> Placement {
        Placement::of(&self.view.borrow(), self.rules.shards, self.replication)
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        http_client::get(self.address, path).await
    }

    pub(super) async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        http_client::post(self.address, path, body).await
    }

    /// The answer to a question.
    pub(super) async fn ask(&self, question: &Value) -> Value {
        let reply = self.post("/v1/query", question.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// How many shards a member is asked for first.
    pub(super) fn shards_of(&self, id: &NodeId) -> usize {
        let placement = self.placement();
        let is_first = |&shard: &_| placement.readers(shard).next().is_some_and(|node| node.id == *id);
        placement.shards().filter(is_first).count()
    }

    pub(super) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(super) async fn analytics(&self) -> AnalyticsClient<Channel> {
        AnalyticsClient::new(self.channel().await)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What nodes hold that suit these settings.
pub(super) fn rules(config: &CoordinatorConfig) -> ShardRules {
    ShardRules {
        schema: Arc::clone(&config.schema),
        shards: config.shards,
        times: TimeRules::default(),
        dimension_values: config.dimension_values,
    }
}

/// Counts events on all nodes that own their shards.
pub(super) fn feed(
    nodes: &[FakeNode],
    placement: &Placement,
    rules: &ShardRules,
    seq: u64,
    events: Vec<v1::Event>,
) {
    let keep_params = KeepParams::default();
    let shards = rules.shards;
    let rules = Rules { schema: Some(&rules.schema), keep_params: &keep_params, times: rules.times, shards };
    let batch = v1::EventBatch { producer: ProducerId::from_u128(1).to_wire(), seq, sealed_at_ms: 0, events };
    for block in &split(&batch, &rules, now()).unwrap().blocks {
        for owner in placement.writers(shards.shard(block.shard).unwrap()) {
            // What another member owns is lost.
            if let Some(node) = nodes.iter().find(|node| node.member.id == owner.id) {
                node.apply(block);
            }
        }
    }
}

/// What a coordinator needs beside its settings.
pub(super) fn parts(view: watch::Receiver<Arc<View>>, port: Port, connect: Arc<dyn Connect>) -> Parts {
    let mut registry = Registry::default();
    Parts {
        access: tidemark_access::Access::OPEN,
        tls: None,
        clock: Arc::new(FixedClock(now())),
        view,
        connect,
        port,
        producer: ProducerId::from_u128(42),
        metrics: CoordinatorMetrics::new(&mut registry),
        telemetry: Telemetry::default(),
        registry: Arc::new(Mutex::new(registry)),
    }
}

/// A member at an address where nobody listens, nor any other test can until all have ended.
pub(super) fn dead_member(name: &str) -> Member {
    let held = TcpSocket::new_v4().unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = held.local_addr().unwrap().to_string();
    std::mem::forget(held);
    Member::node(NodeId::new(name).unwrap(), address)
}

/// A view of `site`/`url` five minutes ago.
pub(super) fn event(site: &str, url: &str, visitor: &str, dimensions: &[(&str, &str)]) -> v1::Event {
    let entry = |&(key, value): &(&str, &str)| v1::event::DimensionsEntry {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
    };
    v1::Event {
        site: site.to_owned().into(),
        url: url.to_owned().into(),
        time_ms: now().as_unix_ms() - 300_000,
        visitor: visitor.to_owned().into(),
        dimensions: dimensions.iter().map(entry).collect(),
        ..v1::Event::default()
    }
}
