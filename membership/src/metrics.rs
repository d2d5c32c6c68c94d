//! What membership tells about itself.
//!
//! Owns: the metrics of gossip, labelled with the member's name, so that several members of one process can share a registry.
//! Does not own: the registry; it is given.

use crate::seal::Dropped;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tidemark_rollup::member::{MemberState, NodeId, View};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabel {
    node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    node: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    node: String,
    state: &'static str,
}

/// The metrics of all members of a process. Made once per registry.
#[derive(Clone, Debug, Default)]
pub struct MembershipMetrics {
    members: Family<StateLabels, Gauge>,
    missing: Family<NodeLabel, Gauge>,
    suspected: Family<NodeLabel, Gauge>,
    sent: Family<NodeLabel, Counter>,
    sent_bytes: Family<NodeLabel, Counter>,
    unsent: Family<NodeLabel, Counter>,
    received: Family<NodeLabel, Counter>,
    received_bytes: Family<NodeLabel, Counter>,
    dropped: Family<ReasonLabels, Counter>,
    view_changes: Family<NodeLabel, Counter>,
    rejoins: Family<NodeLabel, Counter>,
    suspicions: Family<NodeLabel, Counter>,
}

impl MembershipMetrics {
    /// Metrics that `registry` shows.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("tidemark");
        let m = &metrics;
        registry.register("members", "Members in view, by state", m.members.clone());
        registry.register(
            "members_missing",
            "Nodes that went without leaving, and are not active again",
            m.missing.clone(),
        );
        registry.register("members_suspected", "Members that did not answer lately", m.suspected.clone());
        registry.register("gossip_sent", "Datagrams sent", m.sent.clone());
        registry.register_with_unit("gossip_sent", "Sent, sealed", Unit::Bytes, m.sent_bytes.clone());
        registry.register("gossip_unsent", "Datagrams that the system did not take", m.unsent.clone());
        registry.register("gossip_received", "Datagrams received", m.received.clone());
        registry.register_with_unit(
            "gossip_received",
            "Received, sealed",
            Unit::Bytes,
            m.received_bytes.clone(),
        );
        registry.register("gossip_dropped", "Datagrams received and dropped, by reason", m.dropped.clone());
        registry.register("view_changes", "Changes of the view", m.view_changes.clone());
        registry.register(
            "gossip_rejoins",
            "Times this member had been given up, and joined again",
            m.rejoins.clone(),
        );
        registry.register(
            "gossip_suspicions",
            "Times this member heard that it is suspected, and objected",
            m.suspicions.clone(),
        );
        metrics
    }

    /// The metrics of one member. Counters and reasons are there from the start, at zero.
    pub fn of(&self, node: &NodeId) -> MembershipMeter {
        let meter = MembershipMeter { metrics: self.clone(), node: node.to_string() };
        for reason in Dropped::ALL {
            meter.metrics.dropped.get_or_create(&meter.reason(reason)).inc_by(0);
        }
        let m = &meter.metrics;
        let counters = [
            &m.sent,
            &m.sent_bytes,
            &m.unsent,
            &m.received,
            &m.received_bytes,
            &m.view_changes,
            &m.rejoins,
            &m.suspicions,
        ];
        for counter in counters {
            counter.get_or_create(&meter.label()).inc_by(0);
        }
        meter.suspects(0);
        meter
    }
}

/// The metrics of one member.
#[derive(Clone, Debug)]
pub struct MembershipMeter {
    metrics: MembershipMetrics,
    node: String,
}

impl MembershipMeter {
    fn label(&self) -> NodeLabel {
        NodeLabel { node: self.node.clone() }
    }

    fn reason(&self, reason: Dropped) -> ReasonLabels {
        ReasonLabels { node: self.node.clone(), reason: reason.name() }
    }

    fn gauge(&self, gauge: &Family<NodeLabel, Gauge>, value: usize) {
        gauge.get_or_create(&self.label()).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.metrics.sent.get_or_create(&self.label()).inc();
        self.metrics.sent_bytes.get_or_create(&self.label()).inc_by(bytes as u64);
    }

    pub(crate) fn unsent(&self) {
        self.metrics.unsent.get_or_create(&self.label()).inc();
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.metrics.received.get_or_create(&self.label()).inc();
        self.metrics.received_bytes.get_or_create(&self.label()).inc_by(bytes as u64);
    }

    pub(crate) fn dropped(&self, reason: Dropped) {
        self.metrics.dropped.get_or_create(&self.reason(reason)).inc();
    }

    /// What was received and dropped so far, by reason.
    pub(crate) fn dropped_so_far(&self) -> Vec<(&'static str, u64)> {
        let count = |reason: Dropped| self.metrics.dropped.get_or_create(&self.reason(reason)).get();
        Dropped::ALL.into_iter().map(|reason| (reason.name(), count(reason))).collect()
    }

    pub(crate) fn rejoined(&self) {
        self.metrics.rejoins.get_or_create(&self.label()).inc();
    }

    pub(crate) fn suspected(&self) {
        self.metrics.suspicions.get_or_create(&self.label()).inc();
    }

    pub(crate) fn suspects(&self, members: usize) {
        self.gauge(&self.metrics.suspected, members);
    }

    pub(crate) fn view(&self, view: &View) {
        self.metrics.view_changes.get_or_create(&self.label()).inc();
        self.gauge(&self.metrics.missing, view.missing().len());
        let state = |state| {
            let members = view.members().iter().filter(|member| !member.doubtful && member.state == state);
            (state.name(), members.count())
        };
        let doubtful = view.members().iter().filter(|member| member.doubtful).count();
        let states = [MemberState::Joining, MemberState::Active, MemberState::Leaving].map(state);
        for (state, members) in states.into_iter().chain([("doubtful", doubtful)]) {
            let labels = StateLabels { node: self.node.clone(), state };
            self.metrics.members.get_or_create(&labels).set(i64::try_from(members).unwrap_or(i64::MAX));
        }
    }
}
