//! The stateless front of a Tidemark cluster: questions in, answers out; events in, acknowledgements out.
//!
//! Owns: fan-out to the nodes, merging their parts, the limit on dimension values over all of them, and the JSON
//! and gRPC interfaces for users.
//! Does not own: what numbers mean and how they merge (`tidemark-rollup`), events and shards (`tidemark-node`), who the
//! nodes are (a view is given), time and randomness (given).
//!
//! ```text
//!          server (one port: HTTP/1, HTTP/2)
//!         /            |            \
//!    service         http            \
//!    (gRPC)         (JSON)         readiness
//!         \         /    \
//!          query       events, posts
//!    rounds, limit, merge   |
//!              \            |
//!              fanout --- peers (plan, connections) --- nodes
//! ```
//!
//! Any number of coordinators can stand before one cluster, and in one process: nothing here is global, and nothing is
//! remembered from one question to the next.
#![forbid(unsafe_code)]

pub mod config;
pub mod metrics;

mod error;
mod events;
mod fanout;
mod http;
mod json;
mod peers;
mod plan;
mod posts;
mod query;
mod readiness;
mod server;
mod service;
mod sites;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, CoordinatorConfig};
pub use json::answer_to_json;
pub use metrics::CoordinatorMetrics;

use crate::http::App;
use crate::peers::Peers;
use crate::posts::Posts;
use crate::query::Queries;
use crate::readiness::Readiness;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::View;
use tidemark_rollup::time::Clock;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a coordinator is given beside its settings.
pub struct Parts {
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// The members of the cluster, now and later. A change takes effect with the next question or post.
    pub view: watch::Receiver<View>,
    /// 128 random bits, fresh at every start: events that come without an identity are passed on under this one, with
    /// sequence numbers that begin anew.
    pub producer: ProducerId,
    /// The coordinator's metrics, made with [`CoordinatorMetrics::new`] from the registry that is to show them.
    pub metrics: CoordinatorMetrics,
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
    /// Listens, and serves until `shutdown` is cancelled; requests then have five seconds to end.
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
        let bind_error = |source| StartError::Bind { address: config.http, source };
        let listener = TcpListener::bind(config.http).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;

        let peers = Arc::new(Peers::new(parts.view, config.shards));
        let clock = Arc::clone(&parts.clock);
        let queries = Arc::new(Queries::new(&config, Arc::clone(&peers), clock, parts.metrics.clone()));
        let (grpc, health) = service::routes(Arc::clone(&queries), Arc::clone(&peers)).await?;
        let app = App {
            queries,
            posts: Posts::new(&config, Arc::clone(&peers), parts.clock, parts.producer),
            readiness: Readiness::new(peers),
            reading: Semaphore::new(http::MAX_READING),
            metrics: parts.metrics,
            registry: parts.registry,
        };
        let router = http::router(Arc::new(app), grpc.into_axum_router());
        tracing::info!(%address, "coordinator is listening");
        let serving = tokio::spawn(async move {
            let leaving = async {
                shutdown.cancelled().await;
                service::set_not_serving(&health).await;
            };
            let serving = server::serve(listener, router, config.max_connections.get(), shutdown.clone());
            tokio::join!(serving, leaving);
        });
        Ok(Running { address, serving })
    }
}

/// A coordinator that serves. Dropping this does not stop it; its token does.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Running {
    /// Where it listens.
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
