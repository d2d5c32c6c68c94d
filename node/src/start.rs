//! Puts a node together and takes it down.
//!
//! Owns: the order of starting and stopping, and the task that measures the node every second.

use crate::admission::Admission;
use crate::config::NodeConfig;
use crate::grpc::{Inner, Services};
use crate::http;
use crate::journal::ShardJournal;
use crate::membership::Membership;
use crate::metrics::{NodeMeter, NodeMetrics};
use crate::peers::Peers;
use crate::query::Queries;
use crate::router::Router;
use crate::shard::{ShardHandle, ShardParts, Supervisor};
use futures::future::join_all;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_proto::v1::admin_server::AdminServer;
use tidemark_proto::v1::cluster_server::ClusterServer;
use tidemark_proto::v1::ingest_server::IngestServer;
use tidemark_proto::{DESCRIPTORS, MAX_MEMBER_MESSAGE_BYTES, MAX_MESSAGE_BYTES};
use tidemark_rollup::placement::{DuplicateMember, NodeId, View};
use tidemark_rollup::shard::ShardRules;
use tidemark_rollup::time::Clock;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// How often the node measures itself.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// How long open streams may take to end when the node stops.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// What a node needs beside its settings.
pub struct Parts {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where the node reports.
    pub metrics: NodeMetrics,
    /// What `/metrics` shows.
    pub registry: Arc<Mutex<Registry>>,
    /// An open port, where the caller had to know the address first; otherwise `listen` is opened.
    pub listener: Option<TcpListener>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Choose another address, or stop who has it.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// Give each node a name of its own.
    #[error(transparent)]
    Members(#[from] DuplicateMember),
    /// Report it.
    #[error("cannot start the shards: {0}")]
    Shards(#[from] ractor::SpawnErr),
    /// Report it.
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    address: SocketAddr,
    membership: Membership,
    serving: JoinHandle<()>,
    #[cfg_attr(not(test), allow(dead_code, reason = "tests make shards fail through these"))]
    pub(crate) shards: Vec<ShardHandle>,
}

impl Node {
    /// Starts a node; it serves until `shutdown`.
    ///
    /// # Errors
    /// Where it cannot start; nothing of it is left running then.
    pub async fn start(
        config: NodeConfig,
        parts: Parts,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let listen_error = |error| StartError::Listen { address: config.listen, error };
        let listener = match parts.listener {
            Some(listener) => listener,
            None => TcpListener::bind(config.listen).await.map_err(listen_error)?,
        };
        let address = listener.local_addr().map_err(listen_error)?;
        let membership = Membership::fixed(&config, address)?;
        let meter = parts.metrics.of_node(&config.id);

        let shard_parts = Arc::new(ShardParts {
            rules: ShardRules {
                schema: Arc::clone(&config.schema),
                shards: config.shards,
                times: config.times,
                dimension_values: config.dimension_values.max(1),
            },
            journals: config.shards.shards().map(|_| ShardJournal::default()).collect(),
            metrics: meter.clone(),
        });
        let placement = Arc::clone(&membership.placement().borrow());
        let mine: Vec<_> = placement.shards_of(&config.id, config.shards).collect();
        let (supervisor, shards) =
            Supervisor::start(mine, Arc::clone(&shard_parts), Arc::clone(&parts.clock)).await?;

        let admission = Arc::new(Admission::new(config.in_flight_bytes, config.memory_budget_bytes));
        let services = Services::new(Inner {
            router: Arc::new(router(&config, &membership, &shards, &meter)),
            admission: Arc::clone(&admission),
            queries: Queries::new(config.max_queries.get(), config.query_timeout, meter.clone()),
            rules: shard_parts.rules.clone(),
            keep_params: config.keep_params.clone(),
            clock: Arc::clone(&parts.clock),
            metrics: meter.clone(),
            timeout: config.query_timeout,
            shutdown: shutdown.clone(),
        });
        let routes = http::pages(routes(services).await?.into_axum_router(), parts.registry, shards.clone());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder()
            .accept_http1(true)
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .add_routes(Routes::from(routes))
            .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());

        let measuring = measure(shards.clone(), shard_parts, admission, meter, shutdown.clone());
        let id = config.id.clone();
        tracing::info!(node = %id, %address, shards = shards.len(), members = placement.members().len(), "the node serves");
        let serving = tokio::spawn(async move {
            let measuring = tokio::spawn(measuring);
            let deadline = async {
                shutdown.cancelled().await;
                tokio::time::sleep(STOP_WITHIN).await;
            };
            tokio::select! {
                served = server => if let Err(error) = served {
                    tracing::error!(node = %id, %error, "the node stopped serving");
                },
                () = deadline => tracing::info!(node = %id, "closed the streams that were still open"),
            }
            measuring.abort();
            supervisor.stop().await;
        });
        Ok(Self { id: config.id, address, membership, serving, shards })
    }

    /// The node's name.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whom it sees.
    pub fn view(&self) -> watch::Receiver<View> {
        self.membership.view()
    }

    /// Returns once the node has stopped.
    pub async fn stopped(self) {
        if let Err(error) = self.serving.await {
            tracing::error!(node = %self.id, %error, "the node did not stop cleanly");
        }
    }
}

fn router(config: &NodeConfig, membership: &Membership, shards: &[ShardHandle], meter: &NodeMeter) -> Router {
    let mut local = vec![None; config.shards.get() as usize];
    for shard in shards {
        local[shard.id().index()] = Some(shard.clone());
    }
    Router {
        me: config.id.clone(),
        shards: config.shards,
        placement: membership.placement(),
        local,
        peers: Peers::default(),
        timeout: config.forward_timeout,
        metrics: meter.clone(),
    }
}

async fn routes(services: Services) -> Result<Routes, tonic_reflection::server::Error> {
    let ingest = IngestServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let cluster = ClusterServer::new(services.clone())
        .max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MEMBER_MESSAGE_BYTES);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<IngestServer<Services>>().await;
    reporter.set_serving::<ClusterServer<Services>>().await;
    Ok(Routes::new(ingest)
        .add_service(cluster)
        .add_service(AdminServer::new(services))
        .add_service(reflection)
        .add_service(health))
}

/// Keeps the memory budget and the gauges up to date.
async fn measure(
    shards: Vec<ShardHandle>,
    parts: Arc<ShardParts>,
    admission: Arc<Admission>,
    meter: NodeMeter,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let usages = join_all(shards.iter().map(|shard| shard.measure(MEASURE_EVERY))).await;
        let answered: Vec<_> = usages.into_iter().flatten().collect();
        let rollup_bytes: u64 = answered.iter().map(|usage| usage.rollup_bytes).sum();
        let rows = answered.iter().map(|usage| usage.rows).sum();
        let journal_bytes: u64 = parts.journals.iter().map(ShardJournal::size_bytes).sum();
        // A shard that is too busy to answer keeps its share: better to count it low for a second than to refuse.
        admission.set_memory_used(rollup_bytes + journal_bytes);
        let up = shards.iter().filter(|shard| shard.is_up()).count();
        meter.usage(rollup_bytes + journal_bytes, rows, admission.in_flight_bytes(), up);
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}
