//! Nodes and coordinators, on hosts.
//!
//! Owns: their settings, and putting them together from what a host gives.
//! Does not own: when they start and end (`run`).

use crate::context::HostContext;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_coordinator::{Coordinator, CoordinatorConfig, CoordinatorMetrics};
use tidemark_journal::JournalConfig;
use tidemark_membership::{
    ClusterFacts, ClusterKey, Membership, MembershipConfig, MembershipMetrics, Timing,
};
use tidemark_node::planted::Planted;
use tidemark_node::{Node, NodeConfig, NodeMetrics};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::{NodeId, Role};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::EventTime;
use tidemark_telemetry::Telemetry;
use tokio_util::sync::CancellationToken;

pub(crate) const NODE_PORT: u16 = 7100;
pub(crate) const COORDINATOR_PORT: u16 = 8100;
const GOSSIP_PORT: u16 = 7101;
/// How long a node that leaves may take to hand over.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What is wrong with a cluster on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defect {
    /// In its nodes.
    pub(crate) planted: Planted,
    /// A producer that is started again goes on under its old name, with numbers that begin anew.
    pub(crate) reuses_numbers: bool,
}

/// All defects that can be planted, with their names: none without the feature `planted-bugs`.
pub fn defects() -> Vec<(String, Defect)> {
    #[cfg(feature = "planted-bugs")]
    {
        let of_nodes = tidemark_node::planted::Bug::ALL
            .map(|bug| (format!("{bug:?}"), Defect { planted: Planted::bug(bug), reuses_numbers: false }));
        let of_producers = Defect { planted: Planted::default(), reuses_numbers: true };
        of_nodes.into_iter().chain([("ReuseSequenceNumbers".to_owned(), of_producers)]).collect()
    }
    #[cfg(not(feature = "planted-bugs"))]
    Vec::new()
}

/// What all members of a cluster are told.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) shards: ShardCount,
    pub(crate) replication: Replication,
    pub(crate) settle: Duration,
    pub(crate) backup_flush: Duration,
    pub(crate) keep: Duration,
    /// Addresses of the nodes that are there from the start, without port.
    pub(crate) nodes: Vec<String>,
    /// Addresses of coordinators.
    pub(crate) coordinators: Vec<String>,
    /// How many producers there are.
    pub(crate) producers: usize,
    pub(crate) start: EventTime,
    pub(crate) defect: Defect,
}

impl Setup {
    /// What has passed since the start.
    pub(crate) fn elapsed(&self, context: &HostContext) -> Duration {
        context.net.time.now()
    }

    /// Everything that is sent is within.
    pub(crate) fn range(&self) -> (EventTime, EventTime) {
        super::probe::range(self.start)
    }

    fn membership(
        &self,
        context: &HostContext,
        id: &NodeId,
        role: Role,
        registry: &mut Registry,
    ) -> Membership {
        let port = if role == Role::Node { NODE_PORT } else { COORDINATOR_PORT };
        let config = MembershipConfig {
            id: id.clone(),
            role,
            zone: None,
            address: context.address(port).to_string(),
            gossip: context.address(GOSSIP_PORT),
            seeds: self.nodes.iter().map(|node| format!("{node}:{GOSSIP_PORT}")).collect(),
            facts: ClusterFacts {
                cluster: "simulated".to_owned(),
                shards: self.shards,
                replication: self.replication,
                schema: Schema::default().outline(),
            },
            key: ClusterKey::of("simulated"),
            timing: Timing::default(),
            folder: (role == Role::Node).then(|| context.folder().join("membership")),
            version: "simulated".to_owned(),
        };
        let parts = tidemark_membership::Parts {
            clock: context.clock(),
            datagrams: context.datagrams(GOSSIP_PORT).unwrap(),
            meter: MembershipMetrics::new(registry).of(id),
            seed: context.seed(),
        };
        Membership::start(config, parts, CancellationToken::new()).unwrap()
    }

    fn node(&self, context: &HostContext, id: NodeId) -> NodeConfig {
        let mut config = NodeConfig::new(id, context.address(NODE_PORT), context.folder().join("data"));
        config.shards = self.shards;
        config.replication = self.replication;
        config.settle = self.settle;
        config.backup_flush = self.backup_flush;
        config.keep = self.keep;
        config.check_every = Duration::from_secs(3);
        config.drain_timeout = DRAIN_TIMEOUT;
        config.compact_after = Duration::from_secs(365 * 86_400);
        // The end of a run verifies all of history at once.
        config.verify_every = None;
        config
    }
}

/// How long a node took to leave, in milliseconds; 0 while it has not left.
pub(crate) type Left = Arc<AtomicU64>;

/// A node, until it has left.
pub(crate) async fn node(context: HostContext, setup: Arc<Setup>, leave: CancellationToken, left: Left) {
    let id = NodeId::new(context.name()).unwrap();
    let mut registry = Registry::default();
    let metrics = NodeMetrics::new(&mut registry);
    let journal = JournalConfig { min_free_bytes: 0, ..JournalConfig::new(context.folder().join("journal")) };
    let journal = match context.open_journal(journal, setup.shards) {
        Ok((journal, _)) => journal,
        Err(error) => return context.note(format_args!("does not start: {error}")),
    };
    let membership = setup.membership(&context, &id, Role::Node, &mut registry);
    let parts = tidemark_node::Parts {
        access: tidemark_access::Access::OPEN,
        tls: None,
        clock: context.clock(),
        metrics,
        registry: Arc::new(Mutex::new(registry)),
        telemetry: Telemetry::default(),
        port: context.port(NODE_PORT),
        membership,
        connect: context.connect(),
        journal: Some(journal),
        store: Some(context.store()),
        seed: context.seed(),
        resident_bytes: None,
        planted: setup.defect.planted,
    };
    let started = Node::start(setup.node(&context, id), parts, leave.clone()).await;
    let node = match started {
        Ok(node) => node,
        Err(error) => return context.note(format_args!("does not start: {error}")),
    };
    let draining = node.drained();
    let stopped = node.stopped();
    draining.cancelled().await;
    let begun = tokio::time::Instant::now();
    stopped.await;
    let took = begun.elapsed().as_millis().max(1) as u64;
    context.note(format_args!("has left within {took} ms"));
    left.store(took, Ordering::Relaxed);
}

/// A coordinator.
pub(crate) async fn coordinator(context: HostContext, setup: Arc<Setup>) {
    let id = NodeId::new(context.name()).unwrap();
    let mut registry = Registry::default();
    let metrics = CoordinatorMetrics::new(&mut registry);
    let membership = setup.membership(&context, &id, Role::Coordinator, &mut registry);
    let config = CoordinatorConfig {
        http: context.address(COORDINATOR_PORT),
        shards: setup.shards,
        replication: setup.replication,
        ..CoordinatorConfig::default()
    };
    let parts = tidemark_coordinator::Parts {
        access: tidemark_access::Access::OPEN,
        tls: None,
        clock: context.clock(),
        view: membership.view(),
        connect: context.connect(),
        port: context.port(COORDINATOR_PORT),
        producer: ProducerId::from_u128(u128::from(context.seed())),
        metrics,
        registry: Arc::new(Mutex::new(registry)),
        telemetry: Telemetry::default(),
    };
    let _running = Coordinator::start(config, parts, CancellationToken::new()).await.unwrap();
    std::future::pending().await
}
