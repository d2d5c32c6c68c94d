//! The stateless front of a Tidemark cluster: questions in, answers out; events in, acknowledgements out.
//!
//! Owns: fan-out to the nodes, which of a shard's owners is asked when, merging their parts, the limit on dimension values over
//! all of them, and the JSON and gRPC interfaces for users.
//! Does not own: what numbers mean and how they merge (`tidemark-rollup`), events and shards (`tidemark-node`), who the
//! nodes are (views are given, one after another), connections (`tidemark-shell`), time and randomness (given).
//!
//! ```text
//!          server (one port: HTTP/1, HTTP/2)
//!         /            |            \
//!    service         http            \
//!    (gRPC)         (JSON)         readiness
//!         \         /    \               |
//!   query <- subscr.  events, posts     |
//!    rounds, limit, merge   |            |
//!            |              |            |
//!    round --- asking       |            |
//!              \            |            |
//!               peers (plan, connections) --- nodes
//! ```
//!
//! A query asks one owner per shard, with one request per node. Owners that are slow, fail or are not ready are made up for by
//! the next ones while the query lasts; see `query/asking.rs`.
//!
//! Any number of coordinators can stand before one cluster, and in one process: nothing here is global, and nothing is
//! remembered from one question to the next, but how fast nodes answered, and what is watched.
//!
//! What happens is a function of what was given, on a runtime of one thread: a simulation gives the view, the connections, the
//! port and the time.
#![forbid(unsafe_code)]

pub mod config;
pub mod metrics;

mod csv;
mod describe;
mod error;
mod events;
mod fanout;
mod flow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod json;
mod peers;
mod place;
mod plan;
mod posts;
mod query;
pub mod quotas;
mod readiness;
mod service;
mod sites;
mod subscriptions;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, CoordinatorConfig};
pub use csv::answer_to_csv;
pub use json::{answer_to_json, change_to_json};
pub use metrics::CoordinatorMetrics;

use crate::flow::Flows;
use crate::http::App;
use crate::peers::Peers;
use crate::posts::Posts;
use crate::query::Queries;
use crate::readiness::Readiness;
use crate::subscriptions::Subscriptions;
use axum::Router;
use prometheus_client::registry::Registry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tidemark_access::Access;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::View;
use tidemark_rollup::time::Clock;
use tidemark_shell::link::Connect;
use tidemark_shell::port::Port;
use tidemark_shell::server::{self, Limits};
use tidemark_shell::tls::MemberTls;
use tidemark_telemetry::{Server, Telemetry};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a coordinator is given beside its settings.
pub struct Parts {
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// The members of the cluster, now and later. Also who is answering a question or passing on a post follows a change.
    pub view: watch::Receiver<Arc<View>>,
    /// Makes the connections to nodes.
    pub connect: Arc<dyn Connect>,
    /// Where to serve: [`Port::At`] the configured address, or somewhere else.
    pub port: Port,
    /// 128 random bits, fresh at every start: events that come without an identity are passed on under this one, with
    /// sequence numbers that begin anew.
    pub producer: ProducerId,
    /// The coordinator's metrics, made with [`CoordinatorMetrics::new`] from the registry that is to show them.
    pub metrics: CoordinatorMetrics,
    /// Where its calls, requests and connections are counted.
    pub telemetry: Telemetry,
    /// Who may call.
    pub access: Access,
    /// Secures the port.
    pub tls: Option<MemberTls>,
    /// What `/metrics` shows: the registry of the whole process. Locked only while it is written out.
    pub registry: Arc<Mutex<Registry>>,
}

/// Why a coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Change the setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Free the address or choose another one.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Report it: the descriptors that the program was built with are damaged.
    #[error("gRPC reflection cannot be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Starts coordinators.
#[derive(Debug)]
pub struct Coordinator;

impl Coordinator {
    /// Listens, and serves until `shutdown` is cancelled; requests then have five seconds to end. Where the services are given
    /// away ([`Port::Handed`]), whoever took them serves.
    ///
    /// The nodes need not be there yet: connections are made when they are first needed.
    ///
    /// # Errors
    /// Where a setting cannot be, or the address cannot be listened on. Nothing is left running then.
    pub async fn start(
        config: CoordinatorConfig,
        parts: Parts,
        shutdown: CancellationToken,
    ) -> Result<Running, StartError> {
        config.validate()?;
        let (opened, address) = Opened::of(parts.port).await?;
        let connect = parts.telemetry.connect(Server::coordinator, parts.connect);
        let peers = Arc::new(Peers::new(parts.view, config.shards, config.replication, connect));
        let clock = Arc::clone(&parts.clock);
        let access = parts.access;
        let metrics = parts.metrics.clone();
        let queries = Queries::new(&config, Arc::clone(&peers), clock, metrics, access.clone());
        let queries = Arc::new(queries);
        let subscriptions = Arc::new(Subscriptions::new(
            Arc::clone(&queries),
            Arc::clone(&peers),
            config.max_subscriptions,
            parts.metrics.clone(),
            shutdown.clone(),
        ));
        let flows = Arc::new(Flows::new(
            Arc::clone(&peers),
            Arc::clone(&parts.clock),
            (config.shards, config.replication),
            parts.metrics.clone(),
            shutdown.clone(),
        ));
        let schema = Arc::clone(&config.schema);
        let service = service::AnalyticsService {
            queries: Arc::clone(&queries),
            subscriptions: Arc::clone(&subscriptions),
            flows: Arc::clone(&flows),
            schema: Arc::clone(&schema),
            peers: Arc::clone(&peers),
        };
        let telemetry = parts.telemetry;
        let (grpc, health) = service::routes(service, &telemetry, &access).await?;
        let app = App {
            queries,
            subscriptions,
            flows,
            schema,
            posts: Posts::new(&config, Arc::clone(&peers), parts.clock, parts.producer),
            readiness: Readiness::new(peers, shutdown.clone()),
            reading: Semaphore::new(http::MAX_READING),
            metrics: parts.metrics,
            registry: parts.registry,
        };
        let router = telemetry.http(Server::coordinator, http::router(Arc::new(app), grpc, &access));
        tracing::info!(%address, "coordinator is listening");
        let leaving = {
            let shutdown = shutdown.clone();
            async move {
                shutdown.cancelled().await;
                service::set_not_serving(&health).await;
            }
        };
        let serving = match opened {
            Opened::Listening(listener) => tokio::spawn(async move {
                let limits = Limits::of(config.max_connections);
                let opened = || telemetry.connection(Server::coordinator);
                let serving = server::serve(listener, router, limits, parts.tls, opened, shutdown);
                tokio::join!(serving, leaving);
            }),
            Opened::Handed(take) => {
                take(router);
                tokio::spawn(leaving)
            }
        };
        Ok(Running { address, serving })
    }
}

/// A port that can be served on.
enum Opened {
    Listening(TcpListener),
    Handed(Box<dyn FnOnce(Router) + Send>),
}

impl Opened {
    async fn of(port: Port) -> Result<(Self, SocketAddr), StartError> {
        match port {
            Port::At(address) => {
                let error = |source| StartError::Bind { address, source };
                let listener = TcpListener::bind(address).await.map_err(error)?;
                let address = listener.local_addr().map_err(error)?;
                Ok((Self::Listening(listener), address))
            }
            Port::Open(listener) => {
                let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let address =
                    listener.local_addr().map_err(|source| StartError::Bind { address: unknown, source })?;
                Ok((Self::Listening(listener), address))
            }
            Port::Handed { address, take } => Ok((Self::Handed(take), address)),
        }
    }
}

/// A coordinator that serves. Dropping this does not stop it; its token does.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Running {
    /// Where it is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped.
    ///
    /// # Panics
    /// Where the coordinator itself panicked.
    pub async fn stopped(self) {
        if let Err(error) = self.serving.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}
