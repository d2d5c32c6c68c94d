//! What a coordinator tells about itself.
//!
//! Owns: the coordinator's metrics and the words their labels take.
//! Does not own: the registry; it is given.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;
use tidemark_proto::v1::Reason;

/// Upper bounds of the buckets of query times, in seconds.
const QUERY_SECONDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueryOutcome {
    /// Every shard is in the answer.
    Complete,
    /// The answer lacks shards, and says so.
    Partial,
    /// The question cannot be answered, or not now.
    Refused,
    /// The coordinator is at fault.
    Failed,
}

impl QueryOutcome {
    const ALL: [Self; 4] = [Self::Complete, Self::Partial, Self::Refused, Self::Failed];

    const fn label(self) -> OutcomeLabel {
        let outcome = match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Refused => "refused",
            Self::Failed => "failed",
        };
        OutcomeLabel { outcome }
    }
}

/// How a post of events ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostOutcome {
    /// A node acknowledged it, or nothing in it was an event.
    Taken,
    /// It was at fault: malformed, too large, empty.
    Invalid,
    /// The cluster could not take it now.
    Unavailable,
}

impl PostOutcome {
    const ALL: [Self; 3] = [Self::Taken, Self::Invalid, Self::Unavailable];

    const fn label(self) -> OutcomeLabel {
        let outcome = match self {
            Self::Taken => "taken",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
        };
        OutcomeLabel { outcome }
    }
}

/// The metrics of a coordinator. Made once per registry.
#[derive(Clone, Debug)]
pub struct CoordinatorMetrics {
    queries: Family<OutcomeLabel, Counter>,
    query_seconds: Histogram,
    census_rounds: Counter,
    hedges: Counter,
    hedges_won: Counter,
    asked_next: Counter,
    shards_missing: Counter,
    subscriptions: Gauge,
    answered_anew: Family<OutcomeLabel, Counter>,
    flow_watchers: Gauge,
    posts: Family<OutcomeLabel, Counter>,
    accepted: Counter,
    duplicate: Counter,
    rejected: Family<ReasonLabel, Counter>,
}

impl CoordinatorMetrics {
    /// Metrics that `registry` shows. Outcomes and reasons are there from the start, at zero.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            queries: Family::default(),
            query_seconds: Histogram::new(QUERY_SECONDS),
            census_rounds: Counter::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
            asked_next: Counter::default(),
            shards_missing: Counter::default(),
            subscriptions: Gauge::default(),
            answered_anew: Family::default(),
            flow_watchers: Gauge::default(),
            posts: Family::default(),
            accepted: Counter::default(),
            duplicate: Counter::default(),
            rejected: Family::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("tidemark"));
        QueryOutcome::ALL.iter().for_each(|outcome| _ = metrics.queries.get_or_create(&outcome.label()));
        [true, false].iter().for_each(|&changed| metrics.answered_anew_times(changed, 0));
        PostOutcome::ALL.iter().for_each(|&outcome| metrics.posted_times(outcome, 0));
        Reason::ALL.iter().for_each(|&reason| metrics.rejected(reason, 0));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("queries", "Queries, by how they ended", self.queries.clone());
        registry.register_with_unit("query", "Time to answer", Unit::Seconds, self.query_seconds.clone());
        registry.register(
            "query_census_rounds",
            "Queries for which nodes had to agree on values beyond the limit",
            self.census_rounds.clone(),
        );
        self.register_owners(registry);
        registry.register("subscriptions", "Subscriptions that are open", self.subscriptions.clone());
        registry.register(
            "subscription_answers",
            "Answers to questions left open, by whether there was anything new in them",
            self.answered_anew.clone(),
        );
        registry.register("flow_watchers", "Who watches the way of events", self.flow_watchers.clone());
        registry.register("http_posts", "Posts of events, by how they ended", self.posts.clone());
        registry.register(
            "http_events_accepted",
            "Events posted that are counted, duplicates included",
            self.accepted.clone(),
        );
        registry.register(
            "http_events_duplicate",
            "Events posted that an earlier copy of the post had brought",
            self.duplicate.clone(),
        );
        registry.register(
            "http_events_rejected",
            "Events posted that are not counted, by reason",
            self.rejected.clone(),
        );
    }

    fn register_owners(&self, registry: &mut Registry) {
        registry.register(
            "query_hedges",
            "Requests for shards that another node was slow to answer for",
            self.hedges.clone(),
        );
        registry.register(
            "query_hedges_won",
            "Of these, requests that were answered before the slow node",
            self.hedges_won.clone(),
        );
        registry.register(
            "query_asked_next",
            "Requests for shards that another node failed or was not ready to answer for",
            self.asked_next.clone(),
        );
        registry.register(
            "query_shards_missing",
            "Shards that no node answered for in time, over all queries",
            self.shards_missing.clone(),
        );
    }

    pub(crate) fn query_ended(&self, outcome: QueryOutcome, took: Duration) {
        self.queries.get_or_create(&outcome.label()).inc();
        self.query_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn subscriptions(&self) -> &Gauge {
        &self.subscriptions
    }

    pub(crate) fn answered_anew(&self, changed: bool) {
        self.answered_anew_times(changed, 1);
    }

    fn answered_anew_times(&self, changed: bool, times: u64) {
        let outcome = if changed { "changed" } else { "unchanged" };
        self.answered_anew.get_or_create(&OutcomeLabel { outcome }).inc_by(times);
    }

    pub(crate) fn flow_watchers(&self) -> &Gauge {
        &self.flow_watchers
    }

    pub(crate) fn census_round(&self) {
        self.census_rounds.inc();
    }

    pub(crate) fn hedged(&self) {
        self.hedges.inc();
    }

    pub(crate) fn hedge_won(&self) {
        self.hedges_won.inc();
    }

    pub(crate) fn asked_next(&self) {
        self.asked_next.inc();
    }

    pub(crate) fn shards_missing(&self, shards: usize) {
        self.shards_missing.inc_by(shards as u64);
    }

    pub(crate) fn posted(&self, outcome: PostOutcome) {
        self.posted_times(outcome, 1);
    }

    fn posted_times(&self, outcome: PostOutcome, times: u64) {
        self.posts.get_or_create(&outcome.label()).inc_by(times);
    }

    pub(crate) fn accepted(&self, accepted: u32, duplicate: u32) {
        self.accepted.inc_by(u64::from(accepted));
        self.duplicate.inc_by(u64::from(duplicate));
    }

    pub(crate) fn rejected(&self, reason: Reason, events: u64) {
        self.rejected.get_or_create(&ReasonLabel { reason: reason.name() }).inc_by(events);
    }
}
