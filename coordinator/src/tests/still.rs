//! A coordinator before fake nodes without sockets, for tests in which time only passes while everybody waits: what takes no
//! time takes none.

use super::fake_node::FakeNode;
use super::world::{feed, now, parts, rules};
use crate::{Coordinator, CoordinatorConfig, Running};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_rollup::member::View;
use tidemark_rollup::placement::{Placement, Replication};
use tidemark_rollup::shard::ShardRules;
use tidemark_shell::link::{AddressError, Connect, Link, LinkError};
use tidemark_shell::port::Port;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Connects to services by their address.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<BTreeMap<String, Router>>>);

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Net")
    }
}

impl Connect for Net {
    fn connect(&self, address: &str) -> Result<Link, AddressError> {
        let (net, address) = (Arc::clone(&self.0), address.to_owned());
        Ok(Link::new(tower::service_fn(move |request: Request<tonic::body::Body>| {
            let router = net.lock().unwrap().get(&address).cloned();
            async move {
                let Some(router) = router else {
                    return Err(LinkError::new(io::Error::from(io::ErrorKind::ConnectionRefused)));
                };
                let reply = router.oneshot(request.map(Body::new)).await.map_err(LinkError::new)?;
                Ok(reply.map(tonic::body::Body::new))
            }
        })))
    }
}

/// Nodes and a coordinator.
pub(super) struct Still {
    pub(super) nodes: Vec<FakeNode>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) running: Running,
    pub(super) stop: CancellationToken,
    feeds: AtomicU64,
    net: Net,
    router: Router,
    rules: ShardRules,
    replication: Replication,
}

/// Two owners per shard, and two seconds for a query.
pub(super) fn still_config() -> CoordinatorConfig {
    CoordinatorConfig {
        replication: Replication::DEFAULT,
        query_timeout: Duration::from_secs(2),
        ..CoordinatorConfig::default()
    }
}

impl Still {
    pub(super) async fn of(nodes: usize) -> Self {
        Self::with(nodes, still_config()).await
    }

    pub(super) async fn with(nodes: usize, config: CoordinatorConfig) -> Self {
        let (net, rules, replication) = (Net::default(), rules(&config), config.replication);
        let node = |at| FakeNode::new(&format!("n{at}"), format!("n{at}:1"), &rules, now());
        let nodes: Vec<FakeNode> = (0..nodes).map(node).collect();
        let (view, receiver) = watch::channel(Arc::new(view_of(&nodes)));
        let taken = Arc::new(Mutex::new(None));
        let taker = Arc::clone(&taken);
        let port = Port::Handed {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8100)),
            take: Box::new(move |router| *taker.lock().unwrap() = Some(router)),
        };
        let stop = CancellationToken::new();
        let parts = parts(receiver, port, Arc::new(net.clone()));
        let running = Coordinator::start(config, parts, stop.clone()).await.unwrap();
        let router = taken.lock().unwrap().take().expect("given away");
        let feeds = AtomicU64::new(0);
        let still = Self { nodes, view, running, stop, feeds, net, router, rules, replication };
        (0..still.nodes.len()).for_each(|node| still.revive(node));
        still
    }

    /// Nobody reaches a node any more; others do not know yet.
    pub(super) fn kill(&self, node: usize) {
        self.net.0.lock().unwrap().remove(&self.nodes[node].member.address);
    }

    pub(super) fn revive(&self, node: usize) {
        let node = &self.nodes[node];
        self.net.0.lock().unwrap().insert(node.member.address.clone(), node.routes().into_axum_router());
    }

    pub(super) fn placement(&self) -> Placement {
        Placement::of(&self.view.borrow(), self.rules.shards, self.replication)
    }

    /// The shards that a node is asked for first.
    pub(super) fn first_of(&self, node: usize) -> Vec<u32> {
        let (placement, id) = (self.placement(), &self.nodes[node].member.id);
        let is_first = |&shard: &_| placement.readers(shard).next().is_some_and(|reader| reader.id == *id);
        placement.shards().filter(is_first).map(|shard| shard.get()).collect()
    }

    pub(super) fn feed(&self, events: Vec<v1::Event>) {
        let seq = self.feeds.fetch_add(1, Ordering::Relaxed) + 1;
        feed(&self.nodes, &self.placement(), &self.rules, seq, events);
    }

    /// Another coordinator before the same nodes.
    pub(super) async fn another_coordinator(&self) -> AnalyticsClient<Link> {
        let taken = Arc::new(Mutex::new(None));
        let taker = Arc::clone(&taken);
        let port = Port::Handed {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8101)),
            take: Box::new(move |router| *taker.lock().unwrap() = Some(router)),
        };
        let parts = parts(self.view.subscribe(), port, Arc::new(self.net.clone()));
        Coordinator::start(still_config(), parts, self.stop.clone()).await.unwrap();
        client_of(taken.lock().unwrap().take().expect("given away"))
    }

    /// A reply whose body comes bit by bit.
    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> axum::response::Response {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    pub(super) async fn request(&self, method: Method, path: &str, body: String) -> (StatusCode, Vec<u8>) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
        let reply = self.router.clone().oneshot(request).await.unwrap();
        (reply.status(), to_bytes(reply.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    /// The answer to a question.
    pub(super) async fn ask(&self, question: &Value) -> Value {
        let (status, body) = self.request(Method::POST, "/v1/query", question.to_string()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    pub(super) fn analytics(&self) -> AnalyticsClient<Link> {
        client_of(self.router.clone())
    }

    /// A metric's value.
    pub(super) async fn metric(&self, name: &str) -> u64 {
        let (_, body) = self.request(Method::GET, "/metrics", String::new()).await;
        let text = String::from_utf8(body).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).expect(name);
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn client_of(router: Router) -> AnalyticsClient<Link> {
    let net = Net::default();
    net.0.lock().unwrap().insert("here:1".to_owned(), router);
    AnalyticsClient::new(net.connect("here:1").unwrap())
}

/// All of these nodes.
pub(super) fn view_of(nodes: &[FakeNode]) -> View {
    View::new(nodes.iter().map(|node| node.member.clone()).collect()).unwrap()
}
