//! Three nodes and a coordinator in one process.
//!
//! Owns: their names, ports and folders.
//! Does not own: what is sent to them and asked of them.

use crate::serve::{Process, listen};
use crate::settings::history::history_in;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use tidemark_coordinator::{CoordinatorConfig, Running};
use tidemark_node::{Node, NodeConfig};
use tidemark_rollup::member::{Member, NodeId};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The nodes' names.
const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// A running cluster.
pub(super) struct DemoCluster {
    nodes: Vec<Node>,
    coordinator: Running,
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
        // All ports are open before any node starts, so that every node knows where the others are.
        let members = open(first).await?;
        let process = Process::new();
        let metrics = process.node_metrics();
        let all: Vec<Member> = members.iter().map(|(member, _)| member.clone()).collect();
        let mut nodes = Vec::new();
        for (member, listener) in members {
            let config = NodeConfig {
                peers: all.iter().filter(|other| other.id != member.id).cloned().collect(),
                store: Some(history_in(folder)),
                ..NodeConfig::new(member.id.clone(), listener.local_addr()?, folder.join(member.id.as_str()))
            };
            nodes.push(process.start_node(config, metrics.clone(), listener, shutdown).await?);
        }
        let config = CoordinatorConfig { http, ..CoordinatorConfig::default() };
        let coordinator = process.start_coordinator(config, nodes[0].view(), shutdown).await?;
        Ok(Self { nodes, coordinator })
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

async fn open(first: SocketAddr) -> anyhow::Result<Vec<(Member, TcpListener)>> {
    let mut members = Vec::new();
    for (at, name) in NAMES.into_iter().enumerate() {
        let address = if at == 0 { first } else { SocketAddr::new(first.ip(), 0) };
        let listener = listen(address, "--listen").await?;
        let member =
            Member { id: NodeId::new(name)?, address: reachable(listener.local_addr()?).to_string() };
        members.push((member, listener));
    }
    Ok(members)
}

/// Where somebody on this machine reaches who listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

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
