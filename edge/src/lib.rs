//! The edge: takes events from browsers and servers, and brings them to nodes.
//!
//! Owns: one HTTP port with a pixel, a collector and the tracker; who may send; what an event is made of a request; and that an
//! event is on disk, or acknowledged by nodes, before its sender is told that it is taken.
//! Does not own: blocks, their spool and their way to nodes (`tidemark-client`), what counts (`tidemark-rollup`), settings from flags
//! and files (`cli`).
//!
//! ```text
//! browsers, servers ──> server.rs ──> http.rs: site, origin, rate     sites.rs, rates.rs, address.rs
//!                                        │ post.rs ──> event.rs: canonical, device, country, visitor
//!                                     intake.rs: batches ──> tidemark-client: blocks ──> disk, nodes
//! ```
#![forbid(unsafe_code)]

mod address;
mod config;
mod event;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod geo;
mod http;
mod intake;
mod metrics;
mod post;
mod recent;
mod refusal;
mod sites;
mod tracker;
mod visitor;

pub use config::{ConfigError, EdgeConfig};
pub use geo::{Geo, GeoError};
pub use metrics::EdgeMetrics;
pub use sites::{SiteError, Sites};
pub use visitor::{Entropy, VisitorMode};

use crate::event::Making;
use crate::http::App;
use crate::intake::{Intake, Work};
use crate::metrics::Open;
use crate::recent::Recent;
use crate::tracker::Tracker;
use crate::visitor::Visitors;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_access::Access;
use tidemark_client::ClientError;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::rates::{Rate, Rates};
use tidemark_rollup::time::Clock;
use tidemark_shell::link::Connect;
use tidemark_shell::server::{self, Limits};
use tidemark_shell::tls::MemberTls;
use tidemark_telemetry::{Server, Telemetry};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Addresses whose rates are known at a time; further ones share one rate. Each takes some 64 bytes.
const MAX_ADDRESSES: usize = 65_536;
/// Seconds of an address's rate that may come at once: a page is opened after a pause, and many people have one address.
const ADDRESS_BURST_SECONDS: u32 = 10;
/// And of a site's.
const SITE_BURST_SECONDS: u32 = 2;
/// Posts whose names are remembered.
const MAX_RECENT: usize = 100_000;

/// What an edge is given beside its settings.
pub struct Parts {
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// Where to serve.
    pub listener: TcpListener,
    /// Who may see the edge's metrics; events are taken from everybody, as sites allow.
    pub access: Access,
    /// Secures the port.
    pub tls: Option<MemberTls>,
    /// Makes the connections to nodes.
    pub connect: Arc<dyn Connect>,
    /// 128 random bits: the producer of events, where the spool is new.
    pub producer: ProducerId,
    /// Draws the salts of days.
    pub entropy: Entropy,
    /// Countries of addresses, where a file has them.
    pub geo: Option<Geo>,
    /// The edge's metrics, made with [`EdgeMetrics::new`] from the registry that is to show them.
    pub metrics: EdgeMetrics,
    /// Where its requests are counted.
    pub telemetry: Telemetry,
    /// What `/metrics` shows. Locked only while it is written out.
    pub registry: Arc<Mutex<Registry>>,
}

/// Why an edge does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Change the setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See to the folder's disk and rights.
    #[error("the folder {} cannot be made: {source}", folder.display())]
    Folder {
        /// Which one.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// See to the listener.
    #[error("the listener has no address: {0}")]
    Listener(std::io::Error),
}

/// Starts edges.
#[derive(Debug)]
pub struct Edge;

impl Edge {
    /// Serves until `shutdown` is cancelled; requests then have five seconds to end, and what nodes have not acknowledged stays on
    /// disk for the next edge with the same folder.
    ///
    /// The nodes need not be there: events are kept on disk until they are. Only a folder that was never used needs one to begin
    /// with; until then `/readyz` says so, and senders are told to come back.
    ///
    /// # Errors
    /// Where a setting cannot be. Nothing is left running then.
    pub async fn start(
        config: EdgeConfig,
        parts: Parts,
        shutdown: CancellationToken,
    ) -> Result<Running, StartError> {
        config.validate()?;
        let address = parts.listener.local_addr().map_err(StartError::Listener)?;
        let folder = config.spool.clone();
        let made = tidemark_shell::work::run({
            let folder = folder.clone();
            move || std::fs::create_dir_all(&folder)
        });
        made.await.map_err(|source| StartError::Folder { folder: folder.clone(), source })?;
        let visitors = Arc::new(Visitors::new(config.visitor.clone(), &folder, parts.entropy));
        let turn = intake::turning(Arc::clone(&visitors), Arc::clone(&parts.clock));
        let work = Work {
            clock: Arc::clone(&parts.clock),
            connect: parts.connect,
            producer: parts.producer,
            metrics: parts.metrics.clone(),
        };
        let (intake, bringing) = Intake::new(&config, work, turn, shutdown.clone());
        let connections = parts.metrics.connections().clone();
        let app = App {
            sites: config.sites,
            trusted_proxies: config.trusted_proxies,
            ignore_do_not_track: config.ignore_do_not_track,
            max_body_bytes: config.max_body_bytes,
            making: Making { keep_params: config.keep_params, geo: parts.geo, visitors },
            intake,
            address_rates: Rates::new(
                Rate::new(config.address_rate.into(), ADDRESS_BURST_SECONDS),
                MAX_ADDRESSES,
            ),
            site_rates: Rates::new(Rate::new(config.site_rate, SITE_BURST_SECONDS), usize::MAX),
            recent: Arc::new(Recent::new(MAX_RECENT)),
            reading: Semaphore::new(http::MAX_READING),
            clock: parts.clock,
            tracker: Tracker::new(),
            metrics: parts.metrics,
            registry: parts.registry,
        };
        let guarded = parts.access.guard(http::router(Arc::new(app)));
        let router = parts.telemetry.http(Server::edge, guarded);
        tracing::info!(%address, "the edge is listening");
        // Browsers open connections ahead; and of `GET /t.gif` the head is most of the request.
        let limits =
            Limits { head: Duration::from_secs(15), streams: 64, ..Limits::of(config.max_connections) };
        let opened = move || Open::of(&connections);
        let serving = server::serve(parts.listener, router, limits, parts.tls, opened, shutdown.clone());
        let serving = tokio::spawn(async move {
            // The intake ends when the routes are gone, or where it cannot begin; then there is nothing to serve.
            let bringing = async {
                let ended = bringing.await;
                shutdown.cancel();
                ended
            };
            tokio::join!(bringing, serving).0
        });
        Ok(Running { address, serving })
    }
}

/// An edge that serves. Dropping this does not stop it; its token does.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    serving: JoinHandle<Result<(), ClientError>>,
}

impl Running {
    /// Where it is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped.
    ///
    /// # Errors
    /// Where the spool cannot be opened, or no address of a node is one.
    ///
    /// # Panics
    /// Where the edge itself panicked.
    pub async fn stopped(self) -> Result<(), ClientError> {
        match self.serving.await {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down.
                Err(_) => Ok(()),
            },
        }
    }
}
