//! `tidemark node` and `tidemark coordinator`.
//!
//! Owns: putting the parts of a process together, and errors that say which flag to change.
//! Does not own: nodes and coordinators, settings, signals.

use crate::failure::Misuse;
use crate::settings::TraceSettings;
use crate::settings::access::AccessSettings;
use crate::settings::coordinator::CoordinatorSettings;
use crate::settings::gossip::GossipSettings;
use crate::settings::node::NodeSettings;
use crate::shutdown::served;
use anyhow::Context as _;
use prometheus_client::registry::Registry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_access::Access;
use tidemark_access::keyring::Keyring;
use tidemark_access::metrics::AccessMetrics;
use tidemark_coordinator::{Coordinator, CoordinatorConfig, CoordinatorMetrics, Running, StartError};
use tidemark_edge::EdgeMetrics;
use tidemark_membership::{Membership, MembershipConfig, MembershipMetrics, Timing};
use tidemark_node::clock::SystemClock;
use tidemark_node::planted::Planted;
use tidemark_node::{Node, NodeConfig, NodeMetrics};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::{NodeId, Role, View};
use tidemark_rollup::time::Clock;
use tidemark_shell::link::{Connect, Credential, Dial};
use tidemark_shell::port::Port;
use tidemark_shell::tls::MemberTls;
use tidemark_telemetry::Telemetry;
use tidemark_telemetry::otlp::{Otlp, OtlpConfig};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What members say that they run.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What all parts of a process share.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) clock: Arc<dyn Clock>,
    registry: Arc<Mutex<Registry>>,
    telemetry: Telemetry,
    /// Tells the memory of the process, where its node is what takes it.
    resident_bytes: Option<fn() -> Option<u64>>,
}

impl Process {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let telemetry = Telemetry::new(&mut registry, VERSION);
        Self {
            clock: Arc::new(SystemClock),
            registry: Arc::new(Mutex::new(registry)),
            telemetry,
            resident_bytes: None,
        }
    }

    /// The same, of a node that has the process for itself: its memory is what the node's budget is about.
    fn of_one_node(self) -> Self {
        Self { resident_bytes: Some(tidemark_telemetry::process::resident_bytes), ..self }
    }

    /// The same, exporting spans where there is a collector; to be [finished](Otlp::finish) in the end.
    fn traced(
        self,
        settings: &TraceSettings,
        service: &str,
        member: &NodeId,
    ) -> anyhow::Result<(Self, Option<Otlp>)> {
        let Some(endpoint) = settings.otlp.clone() else { return Ok((self, None)) };
        let (otlp, tracing) = Otlp::begin(OtlpConfig {
            endpoint,
            one_in: settings.otlp_one_in,
            service: service.to_owned(),
            instance: member.to_string(),
            version: VERSION.to_owned(),
        })?;
        Ok((Self { telemetry: self.telemetry.traced(tracing), ..self }, Some(otlp)))
    }

    /// The metrics of all nodes of this process. To be made once.
    pub(crate) fn node_metrics(&self) -> NodeMetrics {
        NodeMetrics::new(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The metrics of the edge of this process. To be made once.
    pub(crate) fn edge_metrics(&self) -> EdgeMetrics {
        EdgeMetrics::new(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where calls, requests and connections are counted.
    pub(crate) fn telemetry(&self) -> Telemetry {
        self.telemetry.clone()
    }

    /// What `/metrics` shows.
    pub(crate) fn registry(&self) -> Arc<Mutex<Registry>> {
        Arc::clone(&self.registry)
    }

    /// The metrics of membership of all members of this process. To be made once.
    pub(crate) fn membership_metrics(&self) -> MembershipMetrics {
        MembershipMetrics::new(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes certificates and tokens where there are some. `is_alone`: there are no members beyond this process.
    pub(crate) fn secured(&self, settings: &AccessSettings, is_alone: bool) -> anyhow::Result<Secured> {
        let tls = settings.tls.as_deref().map(MemberTls::open).transpose()?;
        let client = tls.as_ref().map(MemberTls::client);
        let Some(file) = &settings.tokens else {
            let connect = Arc::new(Dial { tls: client, credential: None });
            return Ok(Secured { access: Access::OPEN, tls, connect });
        };
        if tls.is_none() && !is_alone {
            return Err(Misuse::new(
                "tokens is set without tls: members know each other by their certificates; give --tls DIR as well",
            )
            .into());
        }
        let secret = if tls.is_none() { Some(random_producer()?.to_string()) } else { None };
        let credential = secret.as_deref().and_then(Credential::member);
        let keyring = Keyring::open(file, Arc::clone(&self.clock))?;
        let metrics = AccessMetrics::new(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        let access = Access::with_tokens(keyring, Arc::clone(&self.clock), metrics, secret);
        Ok(Secured { access, tls, connect: Arc::new(Dial { tls: client, credential }) })
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
        secured: &Secured,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Node> {
        let parts = tidemark_node::Parts {
            clock: Arc::clone(&self.clock),
            metrics,
            registry: Arc::clone(&self.registry),
            telemetry: self.telemetry.clone(),
            port: Port::Open(listener),
            membership,
            connect: Arc::clone(&secured.connect),
            access: secured.access.clone(),
            tls: secured.tls.clone(),
            journal: None,
            store: None,
            seed: random_seed()?,
            resident_bytes: self.resident_bytes,
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
        secured: &Secured,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Running> {
        let parts = tidemark_coordinator::Parts {
            clock: Arc::clone(&self.clock),
            view,
            connect: Arc::clone(&secured.connect),
            access: secured.access.clone(),
            tls: secured.tls.clone(),
            port,
            producer: random_producer()?,
            metrics: CoordinatorMetrics::new(
                &mut self.registry.lock().unwrap_or_else(PoisonError::into_inner),
            ),
            registry: Arc::clone(&self.registry),
            telemetry: self.telemetry.clone(),
        };
        Coordinator::start(config, parts, shutdown.clone()).await.map_err(|error| match error {
            StartError::Bind { address, source } => cannot_listen(address, &source, "--http"),
            error => error.into(),
        })
    }
}

/// Who may call, what secures ports, and how other members are reached.
pub(crate) struct Secured {
    pub(crate) access: Access,
    pub(crate) tls: Option<MemberTls>,
    pub(crate) connect: Arc<dyn Connect>,
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
    settings.access.check("--listen", settings.listen)?;
    if let Some(config) = &coordinator_config {
        settings.access.check("--http", config.http)?;
    }
    settings.gossip.check(settings.listen)?;
    let listener = listen(settings.listen, "--listen").await?;
    let address = listener.local_addr()?;
    let config = settings.node_config(address)?;
    let advertised = settings.gossip.advertised(address)?;
    let socket = listen_gossip(settings.gossip.listens(address, settings.listen.port() == 0)).await?;
    let (process, otlp) =
        Process::new().of_one_node().traced(&settings.trace, "tidemark-node", &config.id)?;
    let is_alone = coordinator_config.is_some() && settings.gossip.seeds.is_empty();
    let secured = process.secured(&settings.access, is_alone)?;
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
    let node = process
        .start_node(config, process.node_metrics(), listener, membership.clone(), &secured, &shutdown)
        .await?;
    let coordinator = match coordinator_config {
        Some(config) => {
            let port = Port::At(config.http);
            Some(process.start_coordinator(config, port, node.view(), &secured, &shutdown).await?)
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
    finish(otlp).await;
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
    settings.access.check("--http", config.http)?;
    settings.gossip.check(config.http)?;
    let listener = listen(config.http, "--http").await?;
    let address = listener.local_addr()?;
    let advertised = settings.gossip.advertised(address)?;
    let socket = listen_gossip(settings.gossip.listens(address, config.http.port() == 0)).await?;
    let made_up =
        || NodeId::new(format!("coordinator-{:08x}", random_seed()? as u32)).map_err(anyhow::Error::from);
    let id = settings.id.clone().map_or_else(made_up, Ok)?;
    let (process, otlp) = Process::new().traced(&settings.trace, "tidemark-coordinator", &id)?;
    let secured = process.secured(&settings.access, false)?;
    let membership = MembershipConfig {
        id,
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
    let running = process
        .start_coordinator(config, Port::Open(listener), membership.view(), &secured, &shutdown)
        .await?;
    let failed = fail_with(&membership, &shutdown);
    let (running, failed) = tokio::join!(served("the coordinator", running.stopped(), &shutdown), failed);
    finish(otlp).await;
    failed?;
    running?;
    membership.leave().await;
    tracing::info!("stopped");
    Ok(())
}

/// Exports the last spans.
async fn finish(otlp: Option<Otlp>) {
    if let Some(otlp) = otlp {
        otlp.finish().await;
    }
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
