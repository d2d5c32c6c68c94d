//! What an edge tells about itself.
//!
//! Owns: the edge's metrics and the words their labels take.
//! Does not own: the registry; it is given.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_client::Totals;
use tidemark_proto::v1::Reason;

/// Upper bounds of the buckets of times until events are safe, in seconds.
const SAFE_SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

/// Why a request brought no event, though it was to bring one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The site is not among those that the edge takes events for.
    UnknownSite,
    /// Pages of this origin may not send events of the site.
    Origin,
    /// The browser asks not to be tracked.
    DoNotTrack,
    /// The client sends more than one may.
    AddressRate,
    /// The site's pages send more than they may.
    SiteRate,
    /// The body is larger than a post may be.
    TooLarge,
    /// The body did not come in time.
    Slow,
    /// The body is no post.
    Malformed,
    /// The edge or its disk has no room, or it has not begun.
    Unavailable,
    /// The events could not be kept, and are lost.
    Lost,
    /// The same post came before: it counts once.
    Repeated,
}

impl Refused {
    const ALL: [Self; 11] = [
        Self::UnknownSite,
        Self::Origin,
        Self::DoNotTrack,
        Self::AddressRate,
        Self::SiteRate,
        Self::TooLarge,
        Self::Slow,
        Self::Malformed,
        Self::Unavailable,
        Self::Lost,
        Self::Repeated,
    ];

    /// Its name in JSON and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::UnknownSite => "unknown_site",
            Self::Origin => "origin",
            Self::DoNotTrack => "do_not_track",
            Self::AddressRate => "address_rate",
            Self::SiteRate => "site_rate",
            Self::TooLarge => "too_large",
            Self::Slow => "slow",
            Self::Malformed => "malformed",
            Self::Unavailable => "unavailable",
            Self::Lost => "lost",
            Self::Repeated => "repeated",
        }
    }
}

/// The metrics of an edge. Made once per registry.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    taken: Counter,
    safe_seconds: Histogram,
    refused: Family<WhyLabel, Counter>,
    unreadable: Counter,
    delivered: Counter,
    duplicate: Counter,
    rejected: Family<ReasonLabel, Counter>,
    lost: Counter,
    retries: Counter,
    spooled: Gauge,
    connections: Gauge,
    /// What was shown last.
    shown: Arc<Mutex<Totals>>,
}

impl EdgeMetrics {
    /// Metrics that `registry` shows. Reasons are there from the start, at zero.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            taken: Counter::default(),
            safe_seconds: Histogram::new(SAFE_SECONDS),
            refused: Family::default(),
            unreadable: Counter::default(),
            delivered: Counter::default(),
            duplicate: Counter::default(),
            rejected: Family::default(),
            lost: Counter::default(),
            retries: Counter::default(),
            spooled: Gauge::default(),
            connections: Gauge::default(),
            shown: Arc::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("tidemark_edge"));
        Refused::ALL
            .iter()
            .for_each(|&why| _ = metrics.refused.get_or_create(&WhyLabel { reason: why.name() }));
        Reason::ALL
            .iter()
            .for_each(|&reason| _ = metrics.rejected.get_or_create(&ReasonLabel { reason: reason.name() }));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("events_taken", "Events that senders were told are taken", self.taken.clone());
        registry.register_with_unit(
            "safe",
            "Time until the events of a request are on disk or acknowledged",
            Unit::Seconds,
            self.safe_seconds.clone(),
        );
        registry.register(
            "requests_refused",
            "Requests whose events do not count, by reason",
            self.refused.clone(),
        );
        registry.register(
            "events_unreadable",
            "Elements of posts that are no events",
            self.unreadable.clone(),
        );
        registry.register(
            "events_delivered",
            "Events that nodes acknowledged, duplicates included",
            self.delivered.clone(),
        );
        registry.register(
            "events_duplicate",
            "Events that nodes acknowledged and had counted before: a block was sent again",
            self.duplicate.clone(),
        );
        registry.register("events_rejected", "Events that are not counted, by reason", self.rejected.clone());
        registry.register(
            "events_lost",
            "Events of blocks that nodes refused for good, or that cannot be read",
            self.lost.clone(),
        );
        registry.register("blocks_sent_again", "Blocks that were sent again", self.retries.clone());
        registry.register(
            "events_spooled",
            "Events on disk that no node has acknowledged",
            self.spooled.clone(),
        );
        registry.register("connections", "Connections that are open", self.connections.clone());
    }

    pub(crate) fn taken(&self, events: usize, after: Duration) {
        self.taken.inc_by(events as u64);
        self.safe_seconds.observe(after.as_secs_f64());
    }

    pub(crate) fn refused(&self, why: Refused) {
        self.refused.get_or_create(&WhyLabel { reason: why.name() }).inc();
    }

    pub(crate) fn unreadable(&self, events: usize) {
        self.unreadable.inc_by(events as u64);
    }

    pub(crate) fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Shows what the producer knows by now.
    pub(crate) fn show_totals(&self, totals: &Totals) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.delivered.inc_by(totals.accepted - shown.accepted);
        self.duplicate.inc_by(totals.duplicate - shown.duplicate);
        self.lost.inc_by(totals.refused + totals.given_up - shown.refused - shown.given_up);
        self.retries.inc_by(totals.retries - shown.retries);
        self.spooled.set(i64::try_from(totals.spooled).unwrap_or(i64::MAX));
        for (reason, events) in &totals.rejected {
            let before = shown.rejected.get(reason).copied().unwrap_or_default();
            self.rejected.get_or_create(&ReasonLabel { reason: reason.name() }).inc_by(events - before);
        }
        shown.clone_from(totals);
    }
}
/// A connection's part of the number of those that are open.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Open {
    pub(crate) fn of(connections: &Gauge) -> Self {
        connections.inc();
        Self(connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
