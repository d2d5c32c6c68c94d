//! Whole nodes in one process, with a view that does not change, at a time that stands still.

use crate::metrics::NodeMetrics;
use crate::planted::Planted;
use crate::{Node, NodeConfig, Parts};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_history::store::Location;
use tidemark_membership::Membership;
use tidemark_proto::codec::FastCodec;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::member::{Member, NodeId, View};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{Clock, EventTime};
use tidemark_shell::link::Dial;
use tidemark_shell::port::Port;
use tidemark_telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

pub(super) const NOW_MS: i64 = 1_700_000_000_000;
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> EventTime {
        EventTime::from_unix_ms(NOW_MS)
    }
}

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    registry: Arc<Mutex<Registry>>,
    _folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl Cluster {
    pub(super) async fn of(names: &[&str], change: impl Fn(&mut NodeConfig)) -> Self {
        Self::with(names, Vec::new(), change).await
    }

    /// The same with further members that are not there.
    pub(super) async fn with(names: &[&str], others: Vec<Member>, change: impl Fn(&mut NodeConfig)) -> Self {
        let registry = Arc::new(Mutex::new(Registry::default()));
        let metrics = NodeMetrics::new(&mut registry.lock().unwrap());
        let stop = CancellationToken::new();
        let mut listeners = Vec::new();
        for name in names {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            listeners.push((Member::node(NodeId::new(*name).unwrap(), address), listener));
        }
        let members = listeners.iter().map(|(member, _)| member.clone()).chain(others);
        let view = View::new(members.collect()).unwrap();
        let mut nodes = Vec::new();
        let folder = tempfile::tempdir().unwrap();
        for (me, listener) in listeners {
            let data = folder.path().join(me.id.as_str());
            let mut config = NodeConfig::new(me.id.clone(), "127.0.0.1:0".parse().unwrap(), data);
            config.store = Some(Location::Folder(folder.path().join("history")));
            config.replication = Replication::ONE;
            config.shards = ShardCount::new(8).unwrap();
            change(&mut config);
            let parts = Parts {
                resident_bytes: None,
                access: tidemark_access::Access::OPEN,
                tls: None,
                clock: Arc::new(FixedClock),
                metrics: metrics.clone(),
                registry: Arc::clone(&registry),
                telemetry: Telemetry::default(),
                port: Port::Open(listener),
                membership: Membership::fixed(me.id.clone(), view.clone()),
                connect: Arc::new(Dial::default()),
                journal: None,
                store: None,
                seed: nodes.len() as u64,
                planted: Planted::default(),
            };
            nodes.push(Node::start(config, parts, stop.clone()).await.unwrap());
        }
        Self { nodes, registry, _folder: folder, _stop: stop.drop_guard() }
    }

    pub(super) fn url(&self, node: usize) -> String {
        format!("http://{}", self.nodes[node].address())
    }

    pub(super) async fn rows(&self, node: usize, batches: Vec<v1::EventBatch>) -> Vec<v1::BatchAck> {
        let mut client = IngestClient::connect(self.url(node)).await.unwrap();
        let acks = client.send_rows(futures::stream::iter(batches)).await.unwrap().into_inner();
        futures::TryStreamExt::try_collect(acks).await.unwrap()
    }

    /// The same of batches whose events need not be any.
    pub(super) async fn encoded_rows(&self, node: usize, batches: Vec<EncodedBatch>) -> Vec<v1::BatchAck> {
        let channel = Channel::from_shared(self.url(node)).unwrap().connect().await.unwrap();
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/tidemark.v1.Ingest/SendRows");
        let codec = FastCodec::<EncodedBatch, v1::BatchAck>::default();
        let request = tonic::Request::new(futures::stream::iter(batches));
        let acks = grpc.streaming(request, path, codec).await.unwrap().into_inner();
        futures::TryStreamExt::try_collect(acks).await.unwrap()
    }

    pub(super) async fn blocks(&self, node: usize, blocks: Vec<v1::Block>) -> Vec<v1::BlockAck> {
        let mut client = IngestClient::connect(self.url(node)).await.unwrap();
        let acks = client.send_blocks(futures::stream::iter(blocks)).await.unwrap().into_inner();
        futures::TryStreamExt::try_collect(acks).await.unwrap()
    }

    /// Views over all nodes, asked one by one.
    pub(super) async fn views(&self) -> u64 {
        let mut views = 0;
        for node in 0..self.nodes.len() {
            let mut client = ClusterClient::connect(self.url(node)).await.unwrap();
            let query = v1::Query { site: "example.com".into(), from: "-2h".into(), ..Default::default() };
            let request = v1::PartialRequest {
                query: Some(query),
                shards: (0..8).collect(),
                shard_count: 8,
                ..v1::PartialRequest::default()
            };
            let reply = client.query_partial(request).await.unwrap().into_inner();
            let integers = reply.partial.unwrap().measures.remove(0).integers;
            let mut bytes = [0; 8];
            bytes[..integers.len()].copy_from_slice(&integers);
            views += u64::from_le_bytes(bytes);
        }
        views
    }

    pub(super) async fn views_become(&self, expected: u64) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let views = self.views().await;
            if views == expected {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{views} views instead of {expected}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn metric(&self, line_start: &str) -> Option<u64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock().unwrap()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(line_start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).reduce(|a, b| a + b)
    }
}

pub(super) fn event(url: &str) -> v1::Event {
    v1::Event {
        site: Bytes::from_static(b"example.com"),
        url: Bytes::copy_from_slice(url.as_bytes()),
        ..Default::default()
    }
}

pub(super) fn batch(seq: u64, events: Vec<v1::Event>) -> v1::EventBatch {
    v1::EventBatch { producer: Bytes::from_static(&[7; 16]), seq, sealed_at_ms: NOW_MS, events }
}

pub(super) fn pages(n: usize) -> Vec<v1::Event> {
    (0..n).map(|page| event(&format!("/{page}"))).collect()
}
