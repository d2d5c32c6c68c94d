//! What a node tells about itself.
//!
//! Owns: the node's metrics, all of them labelled with the node's name, so that several nodes of one process can share a
//! registry.
//! Does not own: the registry; it is given.

use crate::flow::{FlowMeter, FlowMetrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_proto::v1::{IgnoredWhy, Reason, RefusalReason};
use tidemark_rollup::member::NodeId;
use tidemark_rollup::shard::Applied;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct NodeLabel {
    pub(crate) node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabels {
    pub(crate) node: String,
    pub(crate) reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LiveLabels {
    node: String,
    read: &'static str,
}

/// What may be read for a query that is asked again and again.
const READ_FOR_LIVE: [&str; 3] = ["everything", "since", "nothing"];

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
    live: Family<LiveLabels, Counter>,
    memory: Family<NodeLabel, Gauge>,
    memory_budget: Family<NodeLabel, Gauge>,
    rows: Family<NodeLabel, Gauge>,
    rollup_bytes: Family<NodeLabel, Gauge>,
    in_flight: Family<NodeLabel, Gauge>,
    in_flight_limit: Family<NodeLabel, Gauge>,
    shards: Family<NodeLabel, Gauge>,
    journal: Family<NodeLabel, Gauge>,
    journal_blocks: Family<NodeLabel, Gauge>,
    journal_accepting: Family<NodeLabel, Gauge>,
    journal_limit: Family<NodeLabel, Gauge>,
    disk_free: Family<NodeLabel, Gauge>,
    store_up: Family<NodeLabel, Gauge>,
    blocks_lost: Family<NodeLabel, Counter>,
    unflushed: Family<NodeLabel, Gauge>,
    commits: Family<NodeLabel, Counter>,
    committed_rows: Family<NodeLabel, Counter>,
    committed_blocks: Family<NodeLabel, Counter>,
    flush_failures: Family<NodeLabel, Counter>,
    store_failures: Family<NodeLabel, Counter>,
    buckets: Family<NodeLabel, Gauge>,
    replaced_days: Family<NodeLabel, Counter>,
    repair: RepairMetrics,
    flow: FlowMetrics,
    cache_bytes: Family<NodeLabel, Gauge>,
    cache_hits: Family<NodeLabel, Gauge>,
    cache_misses: Family<NodeLabel, Gauge>,
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
        registry.register(
            "live_queries",
            "Parts of queries that are asked again and again, by what was read for them: everything, what came since, or nothing",
            m.live.clone(),
        );
        registry.register_with_unit("memory", "What is used of the budget", Unit::Bytes, m.memory.clone());
        registry.register_with_unit(
            "memory_budget",
            "What events may take",
            Unit::Bytes,
            m.memory_budget.clone(),
        );
        registry.register("rollup_rows", "Rows of rollups in memory", m.rows.clone());
        registry.register_with_unit(
            "rollup",
            "What rollups in memory take",
            Unit::Bytes,
            m.rollup_bytes.clone(),
        );
        registry.register_with_unit(
            "in_flight",
            "Taken in, not acknowledged",
            Unit::Bytes,
            m.in_flight.clone(),
        );
        registry.register_with_unit(
            "in_flight_limit",
            "How much may be taken in and not acknowledged",
            Unit::Bytes,
            m.in_flight_limit.clone(),
        );
        registry.register("shards_up", "Shards of this node that are up", m.shards.clone());
        registry.register(
            "buckets_in_memory",
            "Rollups in memory, one per shard and bucket",
            m.buckets.clone(),
        );
        m.register_journal(registry);
        m.repair.register(registry);
        m.flow.register(registry);
        m.register_history(registry);
        metrics
    }

    fn register_journal(&self, registry: &mut Registry) {
        let m = self;
        registry.register_with_unit("journal", "Files of the journal", Unit::Bytes, m.journal.clone());
        registry.register("journal_blocks", "Blocks that no commit covers", m.journal_blocks.clone());
        registry.register(
            "journal_accepting",
            "1 while the journal takes blocks, 0 while its disk or limit is full",
            m.journal_accepting.clone(),
        );
        registry.register_with_unit(
            "journal_limit",
            "What the journal's files may take; 0: as much as the disk has",
            Unit::Bytes,
            m.journal_limit.clone(),
        );
        registry.register_with_unit(
            "disk_free",
            "Free on the journal's disk",
            Unit::Bytes,
            m.disk_free.clone(),
        );
        registry.register(
            "journal_blocks_lost",
            "Acknowledged blocks that the journal could not read back",
            m.blocks_lost.clone(),
        );
    }

    fn register_history(&self, registry: &mut Registry) {
        let m = self;
        registry.register(
            "unflushed_buckets",
            "Buckets of which no commit has everything",
            m.unflushed.clone(),
        );
        registry.register("commits", "Commits made", m.commits.clone());
        registry.register("committed_rows", "Rollup rows committed", m.committed_rows.clone());
        registry.register("committed_blocks", "Blocks committed", m.committed_blocks.clone());
        registry.register(
            "flush_failures",
            "Flushes that failed and are tried again",
            m.flush_failures.clone(),
        );
        registry.register(
            "store_failures",
            "Calls to the object store that failed",
            m.store_failures.clone(),
        );
        registry.register(
            "store_up",
            "1 while the object store answers, 0 since it last failed to",
            m.store_up.clone(),
        );
        registry.register(
            "replaced_days",
            "Days whose segments were replaced, by compaction or retention",
            m.replaced_days.clone(),
        );
        registry.register_with_unit(
            "segment_cache",
            "What parts of segments take that are in memory",
            Unit::Bytes,
            m.cache_bytes.clone(),
        );
        registry.register(
            "segment_cache_hits",
            "Parts of segments that were in memory",
            m.cache_hits.clone(),
        );
        registry.register("segment_cache_misses", "Parts of segments that were read", m.cache_misses.clone());
    }

    /// The metrics of one node. All counters are there from the start, at zero: an alert sees the first accident, too.
    pub fn of_node(&self, node: &NodeId) -> NodeMeter {
        let flow = Arc::new(self.flow.of_node(node.as_str()));
        let label = NodeLabel { node: node.to_string() };
        let (counted, duplicate) =
            (self.counted.get_or_create_owned(&label), self.duplicate.get_or_create_owned(&label));
        let meter = NodeMeter { metrics: self.clone(), node: label.node, flow, counted, duplicate };
        Reason::ALL.iter().for_each(|&reason| meter.rejected(reason, 0));
        IgnoredWhy::ALL.iter().for_each(|&why| meter.ignored(why, 0));
        READ_FOR_LIVE.iter().for_each(|read| meter.live_query_answered_times(read, 0));
        let refusals = (1..).map_while(|number| RefusalReason::try_from(number).ok());
        refusals.for_each(|reason| meter.refused_times(reason, 0));
        for counter in self.counters() {
            counter.get_or_create(&meter.label()).inc_by(0);
        }
        meter
    }

    fn counters(&self) -> [&Family<NodeLabel, Counter>; 19] {
        let (m, repair) = (self, &self.repair);
        [
            &m.counted,
            &m.duplicate,
            &m.forwarded,
            &m.restarts,
            &m.quarantined,
            &m.queries,
            &m.blocks_lost,
            &m.commits,
            &m.committed_rows,
            &m.committed_blocks,
            &m.flush_failures,
            &m.store_failures,
            &m.replaced_days,
            &repair.peer_failures,
            &repair.owners_differed,
            &repair.given,
            &repair.taken,
            &repair.pulled,
            &repair.handed_over,
        ]
    }
}

/// What nodes tell of replication and repair.
#[derive(Clone, Debug, Default)]
struct RepairMetrics {
    peer_failures: Family<NodeLabel, Counter>,
    owners_differed: Family<NodeLabel, Counter>,
    given: Family<NodeLabel, Counter>,
    taken: Family<NodeLabel, Counter>,
    owned: Family<NodeLabel, Gauge>,
    ready: Family<NodeLabel, Gauge>,
    behind: Family<NodeLabel, Gauge>,
    pulled: Family<NodeLabel, Counter>,
    handed_over: Family<NodeLabel, Counter>,
}

impl RepairMetrics {
    fn register(&self, registry: &mut Registry) {
        let m = self;
        registry.register("peer_failures", "Calls to other owners that failed", m.peer_failures.clone());
        registry.register(
            "owners_differed",
            "Blocks brought again because members did not agree about their owners",
            m.owners_differed.clone(),
        );
        registry.register("shards_given", "Shards that this node was made an owner of", m.given.clone());
        registry.register("shards_taken", "Shards that this node is no longer an owner of", m.taken.clone());
        registry.register("shards_owned", "Shards that this node is written to for", m.owned.clone());
        registry.register("shards_ready", "Shards that this node answers for", m.ready.clone());
        registry.register(
            "repair_blocks_behind",
            "Blocks that others are known to have and this node lacks",
            m.behind.clone(),
        );
        registry.register("repair_blocks_pulled", "Blocks pulled from other owners", m.pulled.clone());
        registry.register(
            "repair_shards_handed_over",
            "Shards of which others have all that this node held",
            m.handed_over.clone(),
        );
    }
}

/// The metrics of one node.
#[derive(Clone, Debug)]
pub struct NodeMeter {
    metrics: NodeMetrics,
    node: String,
    flow: Arc<FlowMeter>,
    /// Found once: these two are counted with each block.
    counted: Counter,
    duplicate: Counter,
}

impl NodeMeter {
    fn label(&self) -> NodeLabel {
        NodeLabel { node: self.node.clone() }
    }

    fn labels(&self, reason: String) -> ReasonLabels {
        ReasonLabels { node: self.node.clone(), reason }
    }

    /// The way of events through the node.
    pub(crate) fn flow(&self) -> &FlowMeter {
        &self.flow
    }

    pub(crate) fn applied(&self, applied: &Applied) {
        self.counted.inc_by(u64::from(applied.counted));
        self.duplicate.inc_by(u64::from(applied.duplicate));
        applied.rejected.iter().for_each(|(&reason, &events)| self.rejected(reason, u64::from(events)));
    }

    pub(crate) fn rejected(&self, reason: Reason, events: u64) {
        self.metrics.rejected.get_or_create(&self.labels(reason.name())).inc_by(events);
    }

    pub(crate) fn ignored(&self, why: IgnoredWhy, fields: u64) {
        self.metrics.ignored.get_or_create(&self.labels(why.name())).inc_by(fields);
    }

    pub(crate) fn refused(&self, reason: RefusalReason) {
        self.refused_times(reason, 1);
    }

    fn refused_times(&self, reason: RefusalReason, times: u64) {
        self.metrics.refused.get_or_create(&self.labels(reason.name())).inc_by(times);
    }

    pub(crate) fn forwarded(&self, blocks: u64) {
        self.metrics.forwarded.get_or_create(&self.label()).inc_by(blocks);
    }

    pub(crate) fn peer_failed(&self) {
        self.metrics.repair.peer_failures.get_or_create(&self.label()).inc();
    }

    pub(crate) fn owners_differed(&self) {
        self.metrics.repair.owners_differed.get_or_create(&self.label()).inc();
    }

    pub(crate) fn shards_moved(&self, given: usize, taken: usize) {
        self.metrics.repair.given.get_or_create(&self.label()).inc_by(given as u64);
        self.metrics.repair.taken.get_or_create(&self.label()).inc_by(taken as u64);
    }

    pub(crate) fn ownership(&self, owned: usize, ready: usize, blocks_behind: u64) {
        self.gauge(&self.metrics.repair.owned, owned as u64);
        self.gauge(&self.metrics.repair.ready, ready as u64);
        self.gauge(&self.metrics.repair.behind, blocks_behind);
    }

    pub(crate) fn pulled(&self, blocks: u64) {
        self.metrics.repair.pulled.get_or_create(&self.label()).inc_by(blocks);
    }

    pub(crate) fn handed_over(&self, shards: u64) {
        self.metrics.repair.handed_over.get_or_create(&self.label()).inc_by(shards);
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

    /// `read` is what was read for a query that is asked again and again.
    pub(crate) fn live_query_answered(&self, read: &'static str) {
        self.live_query_answered_times(read, 1);
    }

    fn live_query_answered_times(&self, read: &'static str, times: u64) {
        self.metrics.live.get_or_create(&LiveLabels { node: self.node.clone(), read }).inc_by(times);
    }

    pub(crate) fn block_lost(&self) {
        self.metrics.blocks_lost.get_or_create(&self.label()).inc();
    }

    pub(crate) fn flush_failed(&self) {
        self.metrics.flush_failures.get_or_create(&self.label()).inc();
        self.flow.flush_failed();
    }

    pub(crate) fn store_failed(&self) {
        self.metrics.store_failures.get_or_create(&self.label()).inc();
    }

    pub(crate) fn days_replaced(&self, days: usize) {
        self.metrics.replaced_days.get_or_create(&self.label()).inc_by(days as u64);
    }

    pub(crate) fn flushed(&self, commit: &v1::Commit) {
        let rows = |segment: &Option<v1::Segment>| segment.as_ref().map_or(0, |segment| segment.rows);
        self.flow.flushed();
        self.metrics.commits.get_or_create(&self.label()).inc();
        self.metrics.committed_rows.get_or_create(&self.label()).inc_by(rows(&commit.rollup));
        self.metrics.committed_blocks.get_or_create(&self.label()).inc_by(rows(&commit.raw));
    }

    pub(crate) fn unflushed(&self, buckets: &[(BucketStart, ShardId, usize)]) {
        let distinct = buckets.chunk_by(|a, b| a.0 == b.0).count();
        self.gauge(&self.metrics.unflushed, distinct as u64);
    }

    pub(crate) fn journal(&self, usage: &tidemark_journal::Usage) {
        self.gauge(&self.metrics.journal, usage.disk_bytes);
        self.gauge(&self.metrics.journal_blocks, usage.blocks as u64);
        self.gauge(&self.metrics.journal_accepting, u64::from(usage.accepting.is_ok()));
        self.gauge(&self.metrics.journal_limit, usage.limit_bytes.unwrap_or(0));
        if let Some(free_bytes) = usage.free_bytes {
            self.gauge(&self.metrics.disk_free, free_bytes);
        }
    }

    pub(crate) fn store_up(&self, is_up: bool) {
        self.gauge(&self.metrics.store_up, u64::from(is_up));
    }

    pub(crate) fn limits(&self, memory_budget_bytes: u64, in_flight_bytes: usize) {
        self.gauge(&self.metrics.memory_budget, memory_budget_bytes);
        self.gauge(&self.metrics.in_flight_limit, in_flight_bytes as u64);
    }

    pub(crate) fn segment_cache(&self, cache: tidemark_history::reader::Usage) {
        self.gauge(&self.metrics.cache_bytes, cache.memory_bytes);
        self.gauge(&self.metrics.cache_hits, cache.hits);
        self.gauge(&self.metrics.cache_misses, cache.misses);
    }

    pub(crate) fn buckets_in_memory(&self, buckets: usize) {
        self.gauge(&self.metrics.buckets, buckets as u64);
    }

    fn gauge(&self, family: &Family<NodeLabel, Gauge>, value: u64) {
        family.get_or_create(&self.label()).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub(crate) fn rollups(&self, rows: u64, bytes: u64) {
        self.gauge(&self.metrics.rows, rows);
        self.gauge(&self.metrics.rollup_bytes, bytes);
    }

    pub(crate) fn usage(&self, memory_bytes: u64, in_flight_bytes: usize, shards_up: usize) {
        self.gauge(&self.metrics.memory, memory_bytes);
        self.gauge(&self.metrics.in_flight, in_flight_bytes as u64);
        self.gauge(&self.metrics.shards, shards_up as u64);
    }
}
