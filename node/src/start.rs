//! Puts a node together and takes it down.
//!
//! Owns: the order of starting and stopping.
//! Does not own: what the parts do.

use crate::admission::Admission;
use crate::changes::Changes;
use crate::chores::Chores;
use crate::config::NodeConfig;
use crate::grpc::{Inner, Services};
use crate::history::{NodeHistory, StoreRefused};
use crate::http;
use crate::metrics::{NodeMeter, NodeMetrics};
use crate::owners::Owners;
use crate::peers::{PeerSettings, Peers};
use crate::planted::Planted;
use crate::query::Queries;
use crate::quotas::Quotas;
use crate::remembered::Remembered;
use crate::repair::{Repair, RepairParts};
use crate::router::Router;
use crate::serve::{limits, open_port, routes, serve};
use crate::shard::{ShardParts, Supervisor};
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_access::Access;
use tidemark_history::reader::{Reader, ReaderConfig};
use tidemark_history::retry::{Backoff, Retry, RetryError};
use tidemark_history::store::{Location, Store};
use tidemark_journal::{Journal, JournalConfig};
use tidemark_membership::Membership;
use tidemark_rollup::member::{NodeId, View};
use tidemark_rollup::shard::{Rooms, ShardRules};
use tidemark_rollup::time::{Clock, EventTime};
use tidemark_shell::link::Connect;
use tidemark_shell::port::Port;
use tidemark_shell::tls::MemberTls;
use tidemark_telemetry::seldom::Seldom;
use tidemark_telemetry::{Server as Served, Telemetry};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Waits between tries to read a part of a segment for a query, which is waiting.
const READ_BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_millis(500) };
/// How long closed buckets may take to be flushed when the node stops; what is not flushed is in the journal.
const FLUSH_WITHIN: Duration = Duration::from_secs(10);
/// How long the node waits for its store before it starts without.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What a node needs beside its settings.
pub struct Parts {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where the node reports.
    pub metrics: NodeMetrics,
    /// What `/metrics` shows.
    pub registry: Arc<Mutex<Registry>>,
    /// Where its calls, requests and connections are counted.
    pub telemetry: Telemetry,
    /// Where to serve; `Port::At` is where the settings say.
    pub port: Port,
    /// Who is in the cluster. Its id is the node's.
    pub membership: Membership,
    /// Makes connections to other nodes.
    pub connect: Arc<dyn Connect>,
    /// Who may call.
    pub access: Access,
    /// Secures the port.
    pub tls: Option<MemberTls>,
    /// An open journal; otherwise it is opened in `data` of the settings. A simulation has a disk of its own.
    pub journal: Option<Journal>,
    /// An open store, where several nodes of a process share one; otherwise `store` of the settings is opened.
    pub store: Option<Store>,
    /// Random: makes names of segments unique, and waits random. Each start takes another one.
    pub seed: u64,
    /// How much memory the process has in use, where this node is all that the process is there for.
    pub resident_bytes: Option<fn() -> Option<u64>>,
    /// The node's defect, in a simulation that has to find it.
    pub planted: Planted,
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
    /// Report it.
    #[error("cannot start the shards: {0}")]
    Shards(#[from] ractor::SpawnErr),
    /// See to the folder, or give each node one of its own.
    #[error(transparent)]
    Journal(#[from] tidemark_journal::OpenError),
    /// Correct `store`.
    #[error("cannot open the store {location}: {error}")]
    Store {
        /// Where.
        location: Location,
        /// What is wrong.
        error: tidemark_history::store::OpenError,
    },
    /// Use another store.
    #[error(transparent)]
    Refused(#[from] StoreRefused),
    /// Report it.
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    address: SocketAddr,
    view: watch::Receiver<Arc<View>>,
    serving: JoinHandle<()>,
    drain: CancellationToken,
    #[cfg_attr(not(test), allow(dead_code, reason = "tests make shards fail through these"))]
    pub(crate) shards: Vec<crate::shard::ShardHandle>,
}

impl Node {
    /// Starts a node; it serves until `shutdown`, or until it is told to drain. Then it hands over what it has not committed,
    /// leaves the cluster, and stops.
    ///
    /// # Errors
    /// Where it cannot start; nothing of it is left running then.
    pub async fn start(
        config: NodeConfig,
        parts: Parts,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let listen_error = |error| StartError::Listen { address: config.listen, error };
        let (port, address) = open_port(parts.port).await.map_err(listen_error)?;
        let meter = parts.metrics.of_node(&config.id);
        let journal = match parts.journal {
            Some(journal) => journal,
            None => open_journal(&config, &meter).await?,
        };
        let stop = CancellationToken::new();
        // History outlives the services: what is closed is flushed when the last stream has ended.
        let history_stop = CancellationToken::new();
        let history =
            open_history(&config, parts.store, parts.seed, &meter, &history_stop).await.map(Arc::new)?;
        connect(&history, &config, parts.clock.now(), &stop).await?;

        let view = parts.membership.view();
        let first = Arc::clone(&view.borrow());
        let expects_others = parts.membership.expects_others();
        let owners = Owners::of(config.id.clone(), first, expects_others, config.shards, config.replication);
        let owners = watch::Sender::new(Arc::new(owners));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let shard_parts = Arc::new(ShardParts {
            rooms: Rooms::for_threads(threads),
            rules: ShardRules {
                schema: Arc::clone(&config.schema),
                shards: config.shards,
                times: config.times,
                dimension_values: config.dimension_values.max(1),
            },
            remembered: config.shards.shards().map(|_| Remembered::default()).collect(),
            journal,
            committed: history.watch(),
            in_journal: AtomicUsize::new(0),
            owners: owners.subscribe(),
            planted: parts.planted,
            rebuilding: Semaphore::new(threads),
            epochs: AtomicU64::new(0),
            changes: Changes::default(),
            metrics: meter.clone(),
        });
        // All shards, those of others too: an actor without blocks costs little, and owners come and go.
        let all = config.shards.shards().collect();
        let (supervisor, shards) =
            Supervisor::start(all, Arc::clone(&shard_parts), Arc::clone(&parts.clock)).await?;
        let settings =
            PeerSettings { shards: config.shards, timeout: config.forward_timeout, bytes: config.peer_bytes };
        let peers = Arc::new(Peers::new(
            settings,
            parts.telemetry.connect(Served::node, parts.connect),
            meter.clone(),
        ));
        let router = Arc::new(Router {
            shards: config.shards,
            owners: owners.subscribe(),
            local: shards.clone(),
            peers: Arc::clone(&peers),
            min_owners: config.min_owners,
            timeout: config.forward_timeout,
            runtime: tokio::runtime::Handle::current(),
            metrics: meter.clone(),
            planted: parts.planted,
        });
        let repair = Arc::new(Repair::new(RepairParts {
            shards: config.shards,
            replication: config.replication,
            membership: parts.membership,
            owners,
            parts: Arc::clone(&shard_parts),
            local: shards.clone(),
            peers: Arc::clone(&peers),
            router: Arc::clone(&router),
            history: Arc::clone(&history),
            check_every: config.check_every,
            meter: meter.clone(),
            planted: parts.planted,
        }));
        repair.take_in(Arc::clone(&view.borrow()));
        let following = tokio::spawn(Arc::clone(&repair).follow(history_stop.clone()));
        tokio::spawn(Changes::tell(Arc::clone(&shard_parts), stop.clone()));

        let admission = Arc::new(Admission::new(config.in_flight_bytes, config.memory_budget_bytes));
        let quotas = Arc::new(Quotas::new(config.site_quotas.clone()));
        let drain = shutdown.child_token();
        let recovered = Arc::new(AtomicBool::new(false));
        let services = Services::new(Inner {
            id: config.id.clone(),
            view: view.clone(),
            router,
            peers,
            repair: Arc::clone(&repair),
            admission: Arc::clone(&admission),
            quotas: Arc::clone(&quotas),
            queries: Queries::new(
                config.max_queries.get(),
                config.query_timeout,
                config.keep,
                meter.clone(),
                Arc::clone(&history),
                Arc::clone(&shard_parts),
                parts.clock.now(),
            ),
            parts: Arc::clone(&shard_parts),
            history: Arc::clone(&history),
            replication: config.replication,
            recovered: Arc::clone(&recovered),
            rules: shard_parts.rules.clone(),
            keep_params: config.keep_params.clone(),
            clock: Arc::clone(&parts.clock),
            metrics: meter.clone(),
            timeout: config.query_timeout,
            overloaded: Seldom::default(),
            shutdown: stop.clone(),
            drain: drain.clone(),
        });
        let pages = http::Pages {
            registry: parts.registry,
            shards: shards.clone(),
            recovered: Arc::clone(&recovered),
            drain: drain.clone(),
            owners: shard_parts.owners.clone(),
        };
        let telemetry = parts.telemetry;
        let grpc = routes(services).await?.into_axum_router();
        // Refused calls are counted like others.
        let grpc = telemetry.grpc(Served::node, parts.access.guard(grpc));
        let routes = telemetry.http(Served::node, pages.add_to(grpc, &parts.access));
        tracing::info!(node = %config.id, %address, shards = config.shards.get(), "the node serves");
        let (id, drain_timeout) = (config.id.clone(), config.drain_timeout);
        let limits = limits(config.max_connections);
        let chores = Chores {
            config,
            clock: parts.clock,
            parts: shard_parts,
            shards: shards.clone(),
            repair: Arc::clone(&repair),
            history,
            admission,
            quotas,
            resident_bytes: parts.resident_bytes,
            meter,
        };
        let serving = tokio::spawn({
            let drain = drain.clone();
            async move {
                let running = chores.start(recovered, &stop);
                let leaving = async {
                    tokio::select! {
                        biased;
                        // It ended by itself: there is nobody left who could hand over.
                        () = stop.cancelled() => return,
                        () = drain.cancelled() => {}
                    }
                    repair.leave(drain_timeout).await;
                    stop.cancel();
                };
                let serving = async {
                    serve(port, routes, limits, (telemetry, parts.tls), stop.clone()).await;
                    stop.cancel();
                };
                tokio::join!(leaving, serving);
                running.finish(FLUSH_WITHIN).await;
                history_stop.cancel();
                following.abort();
                supervisor.stop().await;
                chores.close().await;
            }
        });
        Ok(Self { id, address, view, serving, drain, shards })
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
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Is cancelled as soon as the node is told to hand over and stop, by `shutdown` or by somebody who drains it.
    pub fn drained(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// Returns once the node has stopped.
    pub async fn stopped(self) {
        if let Err(error) = self.serving.await {
            tracing::error!(node = %self.id, %error, "the node did not stop cleanly");
        }
    }
}

/// Opens the journal and says what became of it.
async fn open_journal(config: &NodeConfig, meter: &NodeMeter) -> Result<Journal, StartError> {
    let settings = JournalConfig {
        sync: config.sync,
        limit_bytes: config.journal_limit_bytes,
        ..JournalConfig::new(config.data.join("journal"))
    };
    let shards = config.shards;
    let (journal, recovered) = tidemark_shell::work::run(move || Journal::open(settings, shards)).await?;
    for cut in &recovered.cut {
        tracing::warn!(file = %cut.file.display(), bytes = cut.bytes, "cut off the torn end of the journal; nothing in it was acknowledged");
    }
    for damage in &recovered.damaged {
        // How many it were cannot be told: one at least.
        meter.block_lost();
        tracing::error!(file = %damage.file.display(), offset = damage.offset, bytes = damage.bytes, "set damaged bytes of the journal aside; blocks in them are lost here");
    }
    tracing::info!(node = %config.id, blocks = recovered.blocks, bytes = recovered.bytes, took = ?recovered.took, "opened the journal");
    Ok(journal)
}

async fn open_history(
    config: &NodeConfig,
    store: Option<Store>,
    seed: u64,
    meter: &NodeMeter,
    stop: &CancellationToken,
) -> Result<NodeHistory, StartError> {
    let location = config.store.clone().unwrap_or_else(|| Location::Folder(config.data.join("history")));
    let is_distant = matches!(location, Location::S3 { .. });
    let store = match store {
        Some(store) => store,
        None => Store::open(&location).map_err(|error| StartError::Store { location, error })?,
    };
    let reader = Reader::open(
        store.clone(),
        ReaderConfig {
            disk_dir: is_distant.then(|| config.data.join("cache")),
            disk_bytes: config.cache_disk_bytes,
            memory_bytes: config.cache_memory_bytes,
            limit: config.dimension_values.max(1),
            shards: config.shards,
            retry: Retry { backoff: READ_BACKOFF, give_up: Some(config.query_timeout), seed },
        },
    )
    .await;
    Ok(NodeHistory::new(store, config.shards, reader, seed, meter.clone(), stop.clone()))
}

/// Waits for the store, but not for long: a node takes events without it, too.
async fn connect(
    history: &Arc<NodeHistory>,
    config: &NodeConfig,
    now: EventTime,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let accept_late = config.times.accept_late;
    let first = tokio::time::timeout(CONNECT_WITHIN, history.connect(now, accept_late, Some(CONNECT_WITHIN)));
    match first.await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(RetryError::Failed(refused))) => return Err(refused.into()),
        Ok(Err(error)) => {
            history.store_fails(&error);
            tracing::warn!("starting without the store; answers lack history until it is back");
        }
        Err(_) => {
            history.store_fails(&format!("no answer within {CONNECT_WITHIN:?}"));
            tracing::warn!("starting without the store; answers lack history until it is back");
        }
    }
    let (history, stop) = (Arc::clone(history), stop.clone());
    tokio::spawn(async move {
        match history.connect(now, accept_late, None).await {
            Ok(()) => {}
            Err(RetryError::Failed(refused)) => {
                tracing::error!(error = %refused, "stopping: the store must not be used");
                stop.cancel();
            }
            Err(error) => tracing::info!(%error, "stopped looking for the store"),
        }
    });
    Ok(())
}
