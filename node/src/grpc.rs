//! The node's gRPC services: `Ingest`, `Cluster` and `Admin`.
//!
//! Owns: the wire: messages into calls, results into messages, errors into codes; one file per service.
//! Does not own: what the calls do.

mod admin;
mod cluster;
mod health;
mod ingest;
mod unlike;

use crate::admission::Admission;
use crate::history::NodeHistory;
use crate::metrics::NodeMeter;
use crate::peers::Peers;
use crate::query::Queries;
use crate::quotas::Quotas;
use crate::repair::Repair;
use crate::router::Router;
use crate::shard::ShardParts;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::member::{NodeId, View};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::shard::ShardRules;
use tidemark_rollup::time::Clock;
use tidemark_telemetry::seldom::Seldom;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the services share.
#[derive(Clone)]
pub(crate) struct Services(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) router: Arc<Router>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) repair: Arc<Repair>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) queries: Queries,
    pub(crate) parts: Arc<ShardParts>,
    pub(crate) history: Arc<NodeHistory>,
    pub(crate) replication: Replication,
    /// Whether the shards have all that the journal has.
    pub(crate) recovered: Arc<AtomicBool>,
    pub(crate) rules: ShardRules,
    pub(crate) keep_params: KeepParams,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: NodeMeter,
    pub(crate) timeout: Duration,
    pub(crate) overloaded: Seldom,
    /// Ends streams.
    pub(crate) shutdown: CancellationToken,
    /// Has the node hand over and stop.
    pub(crate) drain: CancellationToken,
}

impl Services {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}
