//! `tidemark node` and `tidemark coordinator`.
//!
//! Owns: putting the parts of a process together, and errors that say which flag to change.
//! Does not own: nodes and coordinators, settings, signals.

use crate::settings::coordinator::CoordinatorSettings;
use crate::settings::gossip::GossipSettings;
use crate::settings::node::NodeSettings;
use crate::shutdown::served;
use anyhow::Context as _;
use prometheus_client::registry::Registry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_coordinator::{Coordinator, CoordinatorConfig, CoordinatorMetrics, Running, StartError};
use tidemark_membership::{Membership, MembershipConfig, MembershipMetrics, Timing};
use tidemark_node::clock::SystemClock;
use tidemark_node::planted::Planted;
use tidemark_node::{Node, NodeConfig, NodeMetrics};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::{NodeId, Role, View};
use tidemark_rollup::time::Clock;
use tidemark_shell::link::Tcp;
use tidemark_shell::port::Port;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What members say that they run.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

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

    /// The metrics of membership of all members of this process. To be made once.
    pub(crate) fn membership_metrics(&self) -> MembershipMetrics {
        MembershipMetrics::new(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts looking for the other members. `socket` is where gossip listens.
    pub(crate) fn join(
        &self,
        config: MembershipConfig,
        metrics: &MembershipMetrics,
        socket: UdpSocket,
        stop: &CancellationToken,
    ) -> anyhow::Result<Membership> {
        let parts = tidemark_membership::Parts {
            clock: Arc::clone(&self.clock),
            datagrams: Arc::new(socket),
            meter: metrics.of(&config.id),
            seed: random_seed()?,
        };
        Ok(Membership::start(config, parts, stop.clone())?)
    }

    /// Starts a node on an open port.
    pub(crate) async fn start_node(
        &self,
        config: NodeConfig,
        metrics: NodeMetrics,
        listener: TcpListener,
        membership: Membership,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Node> {
        let parts = tidemark_node::Parts {
            clock: Arc::clone(&self.clock),
            metrics,
            registry: Arc::clone(&self.registry),
            port: Port::Open(listener),
            membership,
            connect: Arc::new(Tcp),
            journal: None,
            store: None,
            seed: random_seed()?,
            planted: Planted::default(),
        };
        Ok(Node::start(config, parts, shutdown.clone()).await?)
    }

    /// Starts the coordinator of this process.
    pub(crate) async fn start_coordinator(
        &self,
        config: CoordinatorConfig,
        port: Port,
        view: watch::Receiver<Arc<View>>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Running> {
        let parts = tidemark_coordinator::Parts {
            clock: Arc::clone(&self.clock),
            view,
            connect: Arc::new(Tcp),
            port,
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

/// Where somebody on this machine reaches who listens on `address`.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Opens the port of gossip: this one, or another one where that will do.
pub(crate) async fn listen_gossip((address, any): (SocketAddr, bool)) -> anyhow::Result<UdpSocket> {
    match UdpSocket::bind(address).await {
        Err(error) if any && error.kind() == std::io::ErrorKind::AddrInUse => {
            let anywhere = SocketAddr::new(address.ip(), 0);
            UdpSocket::bind(anywhere).await.map_err(|error| cannot_listen(anywhere, &error, "--gossip"))
        }
        bound => bound.map_err(|error| cannot_listen(address, &error, "--gossip")),
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

/// Runs a node, with `single` a coordinator as well, until `shutdown` or until it is drained.
pub(crate) async fn run_node(settings: &NodeSettings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let coordinator_config = settings.coordinator_config()?;
    let listener = listen(settings.listen, "--listen").await?;
    let address = listener.local_addr()?;
    let config = settings.node_config(address)?;
    let advertised = settings.gossip.advertised(address)?;
    let socket = listen_gossip(settings.gossip.listens(address, settings.listen.port() == 0)).await?;
    let process = Process::new();
    let membership = MembershipConfig {
        id: config.id.clone(),
        role: Role::Node,
        zone: settings.zone.clone(),
        address: advertised.to_string(),
        gossip: GossipSettings::advertised_gossip(advertised, socket.local_addr()?),
        seeds: settings.gossip.seeds.clone(),
        facts: settings.gossip.facts(&settings.cluster)?,
        key: settings.gossip.key(),
        timing: Timing::default(),
        folder: Some(config.data.join("membership")),
        version: VERSION.to_owned(),
    };
    // Gossip outlives the node: that it leaves is the last thing it says.
    let gossip_stop = CancellationToken::new();
    let _stop = gossip_stop.clone().drop_guard();
    let membership = process.join(membership, &process.membership_metrics(), socket, &gossip_stop)?;
    let node =
        process.start_node(config, process.node_metrics(), listener, membership.clone(), &shutdown).await?;
    let coordinator = match coordinator_config {
        Some(config) => {
            let port = Port::At(config.http);
            Some(process.start_coordinator(config, port, node.view(), &shutdown).await?)
        }
        None => None,
    };
    let coordinator_stopped = async {
        match coordinator {
            Some(coordinator) => served("the coordinator", coordinator.stopped(), &shutdown).await,
            None => Ok(()),
        }
    };
    let node_stopped = async {
        let drained = node.drained();
        let served = served("the node", node.stopped(), &shutdown).await;
        // Whoever drained it wanted it to stop.
        if drained.is_cancelled() { Ok(()) } else { served }
    };
    let failed = fail_with(&membership, &shutdown);
    let (node, coordinator, failed) = tokio::join!(node_stopped, coordinator_stopped, failed);
    failed?;
    node.and(coordinator)?;
    tracing::info!("stopped");
    Ok(())
}

/// Runs a coordinator until `shutdown`.
pub(crate) async fn run_coordinator(
    settings: &CoordinatorSettings,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = settings.config()?;
    let listener = listen(config.http, "--http").await?;
    let address = listener.local_addr()?;
    let advertised = settings.gossip.advertised(address)?;
    let socket = listen_gossip(settings.gossip.listens(address, config.http.port() == 0)).await?;
    let process = Process::new();
    let made_up =
        || NodeId::new(format!("coordinator-{:08x}", random_seed()? as u32)).map_err(anyhow::Error::from);
    let membership = MembershipConfig {
        id: settings.id.clone().map_or_else(made_up, Ok)?,
        role: Role::Coordinator,
        zone: None,
        address: advertised.to_string(),
        gossip: GossipSettings::advertised_gossip(advertised, socket.local_addr()?),
        seeds: settings.gossip.seeds.clone(),
        facts: settings.gossip.facts(&settings.cluster)?,
        key: settings.gossip.key(),
        timing: Timing::default(),
        folder: None,
        version: VERSION.to_owned(),
    };
    let gossip_stop = CancellationToken::new();
    let _stop = gossip_stop.clone().drop_guard();
    let membership = process.join(membership, &process.membership_metrics(), socket, &gossip_stop)?;
    let running =
        process.start_coordinator(config, Port::Open(listener), membership.view(), &shutdown).await?;
    let failed = fail_with(&membership, &shutdown);
    let (running, failed) = tokio::join!(served("the coordinator", running.stopped(), &shutdown), failed);
    failed?;
    running?;
    membership.leave().await;
    tracing::info!("stopped");
    Ok(())
}

/// Stops everything where others do not take this process for a member; returns when everything is to stop anyway.
async fn fail_with(membership: &Membership, shutdown: &CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        failure = membership.failed() => {
            shutdown.cancel();
            Err(anyhow::Error::new(failure))
        }
    }
}
