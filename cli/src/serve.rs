//! `tidemark node` and `tidemark coordinator`.
//!
//! Owns: putting the parts of a process together, and errors that say which flag to change.
//! Does not own: nodes and coordinators, settings, signals.

use crate::settings::coordinator::CoordinatorSettings;
use crate::settings::node::NodeSettings;
use crate::shutdown::served;
use anyhow::Context as _;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_coordinator::{Coordinator, CoordinatorConfig, CoordinatorMetrics, Running, StartError};
use tidemark_node::clock::SystemClock;
use tidemark_node::{Node, NodeConfig, NodeMetrics};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::View;
use tidemark_rollup::time::Clock;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What all nodes and coordinators of a process share.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) clock: Arc<dyn Clock>,
    registry: Arc<Mutex<Registry>>,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self { clock: Arc::new(SystemClock), registry: Arc::default() }
    }

    /// The metrics of all nodes of this process. To be made once.
    pub(crate) fn node_metrics(&self) -> NodeMetrics {
        NodeMetrics::new(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a node on an open port.
    pub(crate) async fn start_node(
        &self,
        config: NodeConfig,
        metrics: NodeMetrics,
        listener: TcpListener,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Node> {
        let parts = tidemark_node::Parts {
            clock: Arc::clone(&self.clock),
            metrics,
            registry: Arc::clone(&self.registry),
            listener: Some(listener),
            store: None,
            seed: random_seed()?,
        };
        Ok(Node::start(config, parts, shutdown.clone()).await?)
    }

    /// Starts the coordinator of this process.
    pub(crate) async fn start_coordinator(
        &self,
        config: CoordinatorConfig,
        view: watch::Receiver<View>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Running> {
        let parts = tidemark_coordinator::Parts {
            clock: Arc::clone(&self.clock),
            view,
            producer: random_producer()?,
            metrics: CoordinatorMetrics::new(
                &mut self.registry.lock().unwrap_or_else(PoisonError::into_inner),
            ),
            registry: Arc::clone(&self.registry),
        };
        Coordinator::start(config, parts, shutdown.clone()).await.map_err(|error| match error {
            StartError::Bind { address, source } => cannot_listen(address, &source, "--http"),
            error => error.into(),
        })
    }
}

/// Opens a port; `flag` is what to change where that cannot be.
pub(crate) async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error, flag))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error, flag: &str) -> anyhow::Error {
    let why = match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program has it".to_owned(),
        _ => error.to_string(),
    };
    anyhow::anyhow!("cannot listen on {address}: {why}; choose another address with {flag}")
}

/// A seed that nobody had before.
pub(crate) fn random_seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("the system has no randomness")?;
    Ok(u64::from_be_bytes(bytes))
}

/// A producer id that nobody had before.
pub(crate) fn random_producer() -> anyhow::Result<ProducerId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("the system has no randomness")?;
    Ok(ProducerId::from_u128(u128::from_be_bytes(bytes)))
}

/// Runs a node, with `single` a coordinator as well, until `shutdown`.
pub(crate) async fn run_node(settings: &NodeSettings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let coordinator_config = settings.coordinator_config()?;
    let listener = listen(settings.listen, "--listen").await?;
    let config = settings.node_config(listener.local_addr()?)?;
    let process = Process::new();
    let node = process.start_node(config, process.node_metrics(), listener, &shutdown).await?;
    let coordinator = match coordinator_config {
        Some(config) => Some(process.start_coordinator(config, node.view(), &shutdown).await?),
        None => None,
    };
    let coordinator_stopped = async {
        match coordinator {
            Some(coordinator) => served("the coordinator", coordinator.stopped(), &shutdown).await,
            None => Ok(()),
        }
    };
    let (node, coordinator) =
        tokio::join!(served("the node", node.stopped(), &shutdown), coordinator_stopped);
    node.and(coordinator)?;
    tracing::info!("stopped");
    Ok(())
}

/// Runs a coordinator until `shutdown`.
pub(crate) async fn run_coordinator(
    settings: &CoordinatorSettings,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (config, view) = (settings.config()?, settings.view()?);
    // Views are static: nothing is ever sent.
    let (_sender, view) = watch::channel(view);
    let running = Process::new().start_coordinator(config, view, &shutdown).await?;
    served("the coordinator", running.stopped(), &shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}
