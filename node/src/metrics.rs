//! What a node tells about itself.
//!
//! Owns: the node's metrics, all of them labelled with the node's name, so that several nodes of one process can share a
//! registry.
//! Does not own: the registry; it is given.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tidemark_proto::v1::{IgnoredWhy, Reason, RefusalReason};
use tidemark_rollup::placement::NodeId;
use tidemark_rollup::shard::Applied;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabel {
    node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    node: String,
    reason: String,
}

/// The metrics of all nodes of a process. Made once per registry.
#[derive(Clone, Debug, Default)]
pub struct NodeMetrics {
    counted: Family<NodeLabel, Counter>,
    duplicate: Family<NodeLabel, Counter>,
    rejected: Family<ReasonLabels, Counter>,
    ignored: Family<ReasonLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    forwarded: Family<NodeLabel, Counter>,
    restarts: Family<NodeLabel, Counter>,
    quarantined: Family<NodeLabel, Counter>,
    queries: Family<NodeLabel, Counter>,
    memory: Family<NodeLabel, Gauge>,
    rows: Family<NodeLabel, Gauge>,
    in_flight: Family<NodeLabel, Gauge>,
    shards: Family<NodeLabel, Gauge>,
}

impl NodeMetrics {
    /// Metrics that `registry` shows.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("tidemark");
        let m = &metrics;
        registry.register("events_counted", "Events counted by the shards of this node", m.counted.clone());
        registry.register(
            "events_duplicate",
            "Events that came again and were not counted again",
            m.duplicate.clone(),
        );
        registry.register(
            "events_rejected",
            "Events received and not counted, by reason",
            m.rejected.clone(),
        );
        registry.register(
            "fields_ignored",
            "Fields of events that were left out, by reason",
            m.ignored.clone(),
        );
        registry.register(
            "batches_refused",
            "Batches and blocks refused as a whole, by reason",
            m.refused.clone(),
        );
        registry.register("blocks_forwarded", "Blocks passed on to other owners", m.forwarded.clone());
        registry.register("shard_restarts", "Shards that failed and were started again", m.restarts.clone());
        registry.register(
            "blocks_quarantined",
            "Blocks set aside: a shard failed on them",
            m.quarantined.clone(),
        );
        registry.register("partial_queries", "Parts of queries answered", m.queries.clone());
        registry.register_with_unit("memory", "Rollups and journal", Unit::Bytes, m.memory.clone());
        registry.register("rollup_rows", "Rows of rollups in memory", m.rows.clone());
        registry.register_with_unit(
            "in_flight",
            "Taken in, not acknowledged",
            Unit::Bytes,
            m.in_flight.clone(),
        );
        registry.register("shards_up", "Shards of this node that are up", m.shards.clone());
        metrics
    }

    /// The metrics of one node. Reasons are there from the start, at zero.
    pub fn of_node(&self, node: &NodeId) -> NodeMeter {
        let meter = NodeMeter { metrics: self.clone(), node: node.to_string() };
        Reason::ALL.iter().for_each(|&reason| meter.rejected(reason, 0));
        meter
    }
}

/// The metrics of one node.
#[derive(Clone, Debug)]
pub struct NodeMeter {
    metrics: NodeMetrics,
    node: String,
}

impl NodeMeter {
    fn label(&self) -> NodeLabel {
        NodeLabel { node: self.node.clone() }
    }

    fn labels(&self, reason: String) -> ReasonLabels {
        ReasonLabels { node: self.node.clone(), reason }
    }

    pub(crate) fn applied(&self, applied: &Applied) {
        self.metrics.counted.get_or_create(&self.label()).inc_by(u64::from(applied.counted));
        self.metrics.duplicate.get_or_create(&self.label()).inc_by(u64::from(applied.duplicate));
        applied.rejected.iter().for_each(|(&reason, &events)| self.rejected(reason, u64::from(events)));
    }

    pub(crate) fn rejected(&self, reason: Reason, events: u64) {
        self.metrics.rejected.get_or_create(&self.labels(reason.name())).inc_by(events);
    }

    pub(crate) fn ignored(&self, why: IgnoredWhy, fields: u64) {
        self.metrics.ignored.get_or_create(&self.labels(why.name())).inc_by(fields);
    }

    pub(crate) fn refused(&self, reason: RefusalReason) {
        self.metrics.refused.get_or_create(&self.labels(reason.name())).inc();
    }

    pub(crate) fn forwarded(&self, blocks: u64) {
        self.metrics.forwarded.get_or_create(&self.label()).inc_by(blocks);
    }

    pub(crate) fn shard_restarted(&self) {
        self.metrics.restarts.get_or_create(&self.label()).inc();
    }

    pub(crate) fn block_quarantined(&self) {
        self.metrics.quarantined.get_or_create(&self.label()).inc();
    }

    pub(crate) fn query_answered(&self) {
        self.metrics.queries.get_or_create(&self.label()).inc();
    }

    pub(crate) fn usage(&self, memory_bytes: u64, rows: u64, in_flight_bytes: usize, shards_up: usize) {
        let gauge = |family: &Family<NodeLabel, Gauge>, value: u64| {
            family.get_or_create(&self.label()).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge(&self.metrics.memory, memory_bytes);
        gauge(&self.metrics.rows, rows);
        gauge(&self.metrics.in_flight, in_flight_bytes as u64);
        gauge(&self.metrics.shards, shards_up as u64);
    }
}
