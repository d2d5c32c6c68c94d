//! Three nodes and a coordinator in one process.
//!
//! Owns: their names, ports and folders.
//! Does not own: what is sent to them and asked of them.

use crate::serve::{Process, VERSION, listen, listen_gossip, reachable};
use crate::settings::access::AccessSettings;
use crate::settings::history::history_in;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidemark_coordinator::{CoordinatorConfig, Running};
use tidemark_membership::{ClusterFacts, ClusterKey, MembershipConfig, Timing};
use tidemark_node::{Node, NodeConfig};
use tidemark_rollup::member::{MemberState, NodeId, Role, View};
use tidemark_shell::port::Port;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The nodes' names.
const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// How long the nodes may take to find one another.
const MEET_WITHIN: Duration = Duration::from_secs(20);

/// A running cluster.
pub(super) struct DemoCluster {
    nodes: Vec<Node>,
    coordinator: Running,
    /// Gossip ends with the cluster.
    _gossip: DropGuard,
}

/// Where a cluster is reached from this machine.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) coordinator: SocketAddr,
}

impl DemoCluster {
    /// Starts a cluster with the first node on `first` and the coordinator on `http`.
    pub(super) async fn start(
        first: SocketAddr,
        http: SocketAddr,
        folder: &Path,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let process = Process::new();
        let nothing = AccessSettings::default();
        nothing.check("--http", http)?;
        let secured = process.secured(&nothing, true)?;
        let (metrics, membership_metrics) = (process.node_metrics(), process.membership_metrics());
        let gossip = CancellationToken::new();
        let mut nodes = Vec::new();
        let mut seeds = Vec::new();
        for (at, name) in NAMES.into_iter().enumerate() {
            let address = if at == 0 { first } else { SocketAddr::new(first.ip(), 0) };
            let listener = listen(address, "--listen").await?;
            let address = reachable(listener.local_addr()?);
            let socket = listen_gossip((SocketAddr::new(address.ip(), 0), false)).await?;
            let config = NodeConfig {
                store: Some(history_in(folder)),
                // Nobody waits for the others of a cluster that goes away as a whole.
                drain_timeout: Duration::ZERO,
                ..NodeConfig::new(NodeId::new(name)?, address, folder.join(name))
            };
            let membership = MembershipConfig {
                id: config.id.clone(),
                role: Role::Node,
                zone: None,
                address: address.to_string(),
                gossip: socket.local_addr()?,
                seeds: seeds.clone(),
                facts: ClusterFacts {
                    cluster: "demo".to_owned(),
                    shards: config.shards,
                    replication: config.replication,
                    schema: config.schema.outline(),
                },
                // Others on this machine may run a demo as well.
                key: ClusterKey::of(&folder.to_string_lossy()),
                timing: Timing::default(),
                folder: None,
                version: VERSION.to_owned(),
            };
            seeds.push(membership.gossip.to_string());
            let membership = process.join(membership, &membership_metrics, socket, &gossip)?;
            let node =
                process.start_node(config, metrics.clone(), listener, membership, &secured, shutdown).await?;
            nodes.push(node);
        }
        let config = CoordinatorConfig { http, ..CoordinatorConfig::default() };
        let view = nodes[0].view();
        let coordinator =
            process.start_coordinator(config, Port::At(http), view.clone(), &secured, shutdown).await?;
        let all = |view: &Arc<View>| {
            view.nodes().filter(|node| node.state == MemberState::Active).count() == NAMES.len()
        };
        let mut view = view;
        let met = tokio::time::timeout(MEET_WITHIN, view.wait_for(all)).await;
        if met.is_err() {
            anyhow::bail!("the demo's nodes did not find one another within {MEET_WITHIN:?}");
        }
        Ok(Self { nodes, coordinator, _gossip: gossip.drop_guard() })
    }

    /// Where it is reached.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            nodes: self.nodes.iter().map(|node| reachable(node.address())).collect(),
            coordinator: reachable(self.coordinator.address()),
        }
    }

    /// Waits until all of it has stopped.
    pub(super) async fn stopped(self) {
        self.coordinator.stopped().await;
        for node in self.nodes {
            node.stopped().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn who_listens_everywhere_is_reached_here() {
        for (address, expected) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), expected);
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_that_names_the_flag() {
        let any = "127.0.0.1:0".parse().unwrap();
        let holder = TcpListener::bind(any).await.unwrap();
        let taken = holder.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let folder = tempfile::tempdir().unwrap();
        let error = DemoCluster::start(taken, any, folder.path(), &shutdown).await.err().unwrap();
        assert!(error.to_string().contains("--listen"), "{error}");
        let error = DemoCluster::start(any, taken, folder.path(), &shutdown).await.err().unwrap();
        assert!(error.to_string().contains("--http"), "{error}");
        shutdown.cancel();
    }
}
