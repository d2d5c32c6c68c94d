//! Whether the coordinator can answer completely.
//!
//! Owns: probing every member of the view, and remembering the outcome for a moment.
//! Does not own: what makes a node healthy (its own health service says).

use crate::fanout::{Deadline, Failure, ask_all};
use crate::peers::Peers;
use crate::plan::node_name;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::member::Member;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long a probe of all members may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long its outcome is good for: however often somebody asks, nodes are probed once in this time.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// A member that does not answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NotReady {
    node: String,
    reason: String,
}

/// What the last probe found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) members: usize,
    pub(crate) not_ready: Vec<NotReady>,
}

impl Report {
    /// A cluster without members answers nothing.
    pub(crate) fn is_ready(&self) -> bool {
        self.members > 0 && self.not_ready.is_empty()
    }
}

/// Probes the members, at most once per [`GOOD_FOR`].
pub(crate) struct Readiness {
    peers: Arc<Peers>,
    last: Mutex<Option<(Instant, Report)>>,
}

impl Readiness {
    pub(crate) fn new(peers: Arc<Peers>) -> Self {
        Self { peers, last: Mutex::new(None) }
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
        let members = plan.view().members();
        let probes = members.iter().map(|member| probe_member(&self.peers, member));
        let replies = ask_all(probes, Deadline::after(PROBE_TIMEOUT)).await;
        let failed = members.iter().zip(replies).filter_map(|(member, reply)| {
            let reason = reply.err()?.reason;
            Some(NotReady { node: node_name(member), reason })
        });
        Report { members: members.len(), not_ready: failed.collect() }
    }
}

async fn probe_member(peers: &Peers, member: &Member) -> Result<(), Failure> {
    let mut client = HealthClient::new(peers.channel(&member.address)?);
    let reply = client.check(HealthCheckRequest::default()).await?.into_inner();
    match reply.status() {
        ServingStatus::Serving => Ok(()),
        status => Err(Failure::new(format!("says {}", status.as_str_name()))),
    }
}
