//! Whether the coordinator can answer completely.
//!
//! Owns: probing the nodes of the view, whether those that answer have all shards between them, remembering the outcome
//! for a moment, and that a coordinator which stops is not ready whatever nodes answer.
//! Does not own: what makes a node healthy (its own health service says).

use crate::fanout::{Deadline, Failure, ask_all};
use crate::peers::Peers;
use crate::plan::Peer;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long a probe of all nodes may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long its outcome is good for: however often somebody asks, nodes are probed once in this time.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// A node that does not answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NotReady {
    node: String,
    reason: String,
}

/// What the last probe found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) nodes: usize,
    pub(crate) not_ready: Vec<NotReady>,
    /// Shards that no node that answers is read from.
    pub(crate) shards_lost: usize,
}

impl Report {
    /// Nodes that do not answer do no harm as long as others have their shards.
    pub(crate) fn is_ready(&self) -> bool {
        self.shards_lost == 0
    }
}

/// Probes the nodes, at most once per [`GOOD_FOR`].
pub(crate) struct Readiness {
    peers: Arc<Peers>,
    shutdown: CancellationToken,
    last: Mutex<Option<(Instant, Report)>>,
}

impl Readiness {
    pub(crate) fn new(peers: Arc<Peers>, shutdown: CancellationToken) -> Self {
        Self { peers, shutdown, last: Mutex::new(None) }
    }

    /// Whether the coordinator was told to stop: whoever balances load is to go elsewhere.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Held while probing, so that who asks meanwhile waits for that probe instead of making another.
    pub(crate) async fn report(&self) -> Report {
        let mut last = self.last.lock().await;
        if let Some((at, report)) = last.as_ref()
            && at.elapsed() < GOOD_FOR
        {
            return report.clone();
        }
        let report = self.probe().await;
        *last = Some((Instant::now(), report.clone()));
        report
    }

    async fn probe(&self) -> Report {
        let plan = self.peers.plan();
        let nodes: Vec<Peer> = plan.view().nodes().map(Peer::of).collect();
        let probes = nodes.iter().map(|node| probe_node(&self.peers, node));
        let replies = ask_all(probes, Deadline::after(PROBE_TIMEOUT), |_| false).await;
        let (mut well, mut not_ready) = (BTreeSet::new(), Vec::new());
        for (node, reply) in nodes.iter().zip(replies) {
            match reply {
                Ok(()) => _ = well.insert(node),
                Err(Failure { reason, .. }) => not_ready.push(NotReady { node: node.to_string(), reason }),
            }
        }
        let is_lost = |&shard: &u32| !plan.readers(shard).iter().any(|reader| well.contains(&**reader));
        Report { nodes: nodes.len(), not_ready, shards_lost: plan.shards().filter(is_lost).count() }
    }
}

async fn probe_node(peers: &Peers, node: &Peer) -> Result<(), Failure> {
    let mut client = HealthClient::new(peers.link(&node.address)?);
    let reply = client.check(HealthCheckRequest::default()).await?.into_inner();
    match reply.status() {
        ServingStatus::Serving => Ok(()),
        status => Err(Failure::new(format!("says {}", status.as_str_name()))),
    }
}
