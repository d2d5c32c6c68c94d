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
use tidemark_rollup::placement::{Member, NodeId, Placement, View};
use tidemark_rollup::shard::ShardRules;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::{Clock, EventTime};
use tokio::net::TcpListener;
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

/// Settings for tests: any port, and no patience.
pub(super) fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        query_timeout: Duration::from_millis(600),
        ingest_timeout: Duration::from_secs(2),
        ..CoordinatorConfig::default()
    }
}

pub(super) struct World {
    pub(super) nodes: Vec<FakeNode>,
    pub(super) address: SocketAddr,
    pub(super) view: watch::Sender<View>,
    pub(super) stop: CancellationToken,
    pub(super) running: Option<Running>,
    rules: ShardRules,
}

impl World {
    /// `nodes` nodes and a coordinator.
    pub(super) async fn of(nodes: usize) -> Self {
        Self::with(nodes, Vec::new(), config()).await
    }

    /// The same with further members that are no fake nodes, and other settings.
    pub(super) async fn with(nodes: usize, others: Vec<Member>, config: CoordinatorConfig) -> Self {
        let rules = ShardRules {
            schema: Arc::clone(&config.schema),
            shards: config.shards,
            times: TimeRules::default(),
            dimension_values: config.dimension_values,
        };
        let mut started = Vec::new();
        for at in 0..nodes {
            started.push(FakeNode::start(&format!("n{at}"), &rules, now()).await);
        }
        let members = started.iter().map(|node| node.member.clone()).chain(others);
        let (view, receiver) = watch::channel(View::new(members.collect()).unwrap());
        let stop = CancellationToken::new();
        let running = Coordinator::start(config, parts(receiver), stop.clone()).await.unwrap();
        Self { nodes: started, address: running.address(), view, stop, running: Some(running), rules }
    }

    /// Counts events on the nodes that own their shards.
    pub(super) fn feed(&self, events: Vec<v1::Event>) {
        let keep_params = KeepParams::default();
        let Self { rules, .. } = self;
        let rules = Rules {
            schema: Some(&rules.schema),
            keep_params: &keep_params,
            times: rules.times,
            shards: rules.shards,
        };
        let batch =
            v1::EventBatch { producer: ProducerId::from_u128(1).to_wire(), seq: 1, sealed_at_ms: 0, events };
        let split = split(&batch, &rules, now()).unwrap();
        let placement = Placement::of(&self.view.borrow(), rules.shards);
        for block in &split.blocks {
            let owner = placement.owner(rules.shards.shard(block.shard).unwrap()).unwrap();
            // What another member owns is lost.
            if let Some(node) = self.nodes.iter().find(|node| node.member.id == owner.id) {
                node.apply(block);
            }
        }
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

    /// How many shards the plan gives to a member.
    pub(super) fn shards_of(&self, id: &NodeId) -> usize {
        Placement::of(&self.view.borrow(), self.rules.shards).shards_of(id, self.rules.shards).count()
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

/// What a coordinator needs beside its settings.
pub(super) fn parts(view: watch::Receiver<View>) -> Parts {
    let mut registry = Registry::default();
    Parts {
        clock: Arc::new(FixedClock(now())),
        view,
        producer: ProducerId::from_u128(42),
        metrics: CoordinatorMetrics::new(&mut registry),
        registry: Arc::new(Mutex::new(registry)),
    }
}

/// A member at an address where nobody listens.
pub(super) async fn dead_member(name: &str) -> Member {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Member { id: NodeId::new(name).unwrap(), address: listener.local_addr().unwrap().to_string() }
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
