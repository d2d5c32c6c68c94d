//! The way of events through this node, in numbers.
//!
//! Owns: the counters of what producers sent here and what became of it, of flushing and of verifying; and telling them to
//! coordinators and to `/metrics`.
//! Does not own: what the shards counted, which includes what other nodes passed on (`metrics`); how numbers are judged
//! (`tidemark-coordinator`).
//!
//! Counting takes no lock: each counter is found once, when the node starts. Metrics of a process outlive a node that is started
//! again in it; what is told to coordinators counts from the start.

use crate::committed::Committed;
use crate::metrics::{NodeLabel, ReasonLabels};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_journal::Journal;
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;
use tidemark_rollup::time::{BucketStart, EventTime};

type Seconds<N> = Family<NodeLabel, Gauge<N, AtomicU64>>;

/// What nodes tell of the way of events, in `/metrics`.
#[derive(Clone, Debug, Default)]
pub(crate) struct FlowMetrics {
    received: Family<NodeLabel, Counter>,
    counted: Family<NodeLabel, Counter>,
    duplicate: Family<NodeLabel, Counter>,
    refused: Family<NodeLabel, Counter>,
    rejected: Family<ReasonLabels, Counter>,
    journaled: Family<NodeLabel, Counter>,
    journal_lag: Seconds<f64>,
    flush_due_since: Family<NodeLabel, Gauge>,
    committed: Family<NodeLabel, Gauge>,
    newest_committed: Family<NodeLabel, Gauge>,
    verified: Family<NodeLabel, Counter>,
    differing: Family<NodeLabel, Counter>,
    verify_failures: Family<NodeLabel, Counter>,
    verify_seconds: Family<NodeLabel, Counter<f64, AtomicU64>>,
    unverified_since: Family<NodeLabel, Gauge>,
}

impl FlowMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let m = self;
        registry.register(
            "ingest_events_received",
            "Events that producers sent to this node",
            m.received.clone(),
        );
        registry.register("ingest_events_counted", "Of these, events that were counted", m.counted.clone());
        registry.register(
            "ingest_events_duplicate",
            "Of these, events that had been counted before",
            m.duplicate.clone(),
        );
        registry.register(
            "ingest_events_refused",
            "Of these, events of batches and blocks that were refused as a whole",
            m.refused.clone(),
        );
        registry.register(
            "ingest_events_rejected",
            "Of these, events that are not counted, by reason",
            m.rejected.clone(),
        );
        registry.register("journal_blocks_written", "Blocks that the journal took", m.journaled.clone());
        registry.register_with_unit(
            "journal_lag",
            "How long the oldest block waits for the journal's disk",
            Unit::Seconds,
            m.journal_lag.clone(),
        );
        registry.register(
            "flush_due_since_timestamp_seconds",
            "Since when the oldest bucket is due that is not flushed; 0: none is",
            m.flush_due_since.clone(),
        );
        registry.register("committed_buckets", "Buckets known to be committed", m.committed.clone());
        registry.register(
            "newest_committed_timestamp_seconds",
            "End of the newest bucket known to be committed; 0: there is none",
            m.newest_committed.clone(),
        );
        m.register_verify(registry);
    }

    fn register_verify(&self, registry: &mut Registry) {
        let m = self;
        registry.register(
            "verified_buckets",
            "Commits of this node that were counted anew from raw events",
            m.verified.clone(),
        );
        registry.register(
            "verify_differing_buckets",
            "Of these, commits that differ from their raw events",
            m.differing.clone(),
        );
        registry.register(
            "verify_failures",
            "Commits that could not be read to be verified; they are tried again",
            m.verify_failures.clone(),
        );
        registry.register_with_unit(
            "verify",
            "Time taken by verifying, reading included",
            Unit::Seconds,
            m.verify_seconds.clone(),
        );
        registry.register(
            "unverified_since_timestamp_seconds",
            "Since when the oldest commit of this node waits to be verified; 0: none does",
            m.unverified_since.clone(),
        );
    }

    pub(crate) fn of_node(&self, node: &str) -> FlowMeter {
        let label = NodeLabel { node: node.to_owned() };
        let count = |family: &Family<NodeLabel, Counter>| Count::of(family.get_or_create(&label).clone());
        let gauge = |family: &Family<NodeLabel, Gauge>| family.get_or_create(&label).clone();
        let rejected = Reason::ALL.map(|reason| {
            let labels = ReasonLabels { node: node.to_owned(), reason: reason.name() };
            (reason, Count::of(self.rejected.get_or_create(&labels).clone()))
        });
        FlowMeter {
            received: count(&self.received),
            counted: count(&self.counted),
            duplicate: count(&self.duplicate),
            refused: count(&self.refused),
            rejected,
            journaled: count(&self.journaled),
            journal_lag: self.journal_lag.get_or_create(&label).clone(),
            flushed: AtomicU64::new(0),
            flush_failures: AtomicU64::new(0),
            due: Mutex::default(),
            flush_due_since: gauge(&self.flush_due_since),
            committed: gauge(&self.committed),
            newest_committed: gauge(&self.newest_committed),
            verifies: AtomicBool::new(false),
            verified: count(&self.verified),
            differing: count(&self.differing),
            verify_failures: count(&self.verify_failures),
            verify_seconds: self.verify_seconds.get_or_create(&label).clone(),
            newest_verified: AtomicU32::new(0),
            oldest_unverified: AtomicU32::new(0),
            unverified_since: gauge(&self.unverified_since),
        }
    }
}

/// A counter of the process, and where it stood when the node started.
#[derive(Debug)]
struct Count {
    counter: Counter,
    at_start: u64,
}

impl Count {
    fn of(counter: Counter) -> Self {
        let at_start = counter.get();
        Self { counter, at_start }
    }

    fn add(&self, more: u64) {
        self.counter.inc_by(more);
    }

    fn since_start(&self) -> u64 {
        self.counter.get().saturating_sub(self.at_start)
    }

    /// For what is counted elsewhere.
    fn set_since_start(&self, count: u64) {
        self.counter.inner().fetch_max(self.at_start + count, Ordering::Relaxed);
    }
}

/// What one node did since it started.
#[derive(Debug)]
pub(crate) struct FlowMeter {
    received: Count,
    counted: Count,
    duplicate: Count,
    refused: Count,
    rejected: [(Reason, Count); Reason::ALL.len()],
    journaled: Count,
    journal_lag: Gauge<f64, AtomicU64>,
    flushed: AtomicU64,
    flush_failures: AtomicU64,
    /// Buckets that are due and not flushed, and since when. Touched when there is something to flush.
    due: Mutex<BTreeMap<BucketStart, EventTime>>,
    flush_due_since: Gauge,
    committed: Gauge,
    newest_committed: Gauge,
    verifies: AtomicBool,
    verified: Count,
    differing: Count,
    verify_failures: Count,
    verify_seconds: Counter<f64, AtomicU64>,
    newest_verified: AtomicU32,
    oldest_unverified: AtomicU32,
    unverified_since: Gauge,
}

impl FlowMeter {
    /// A producer was told what became of a batch of so many events.
    pub(crate) fn batch(&self, events: usize, ack: &v1::BatchAck) {
        self.received.add(events as u64);
        if ack.refused.is_some() {
            return self.refused.add(events as u64);
        }
        self.accepted(ack.accepted, ack.duplicate);
        ack.rejected.iter().for_each(|rejection| self.rejected(rejection.reason(), 1));
    }

    /// A producer was told what became of a block, which says that it has so many events.
    pub(crate) fn block(&self, event_count: u32, ack: &v1::BlockAck) {
        let rejected = |ack: &v1::BlockAck| ack.rejected.iter().map(|of| u64::from(of.events)).sum::<u64>();
        match &ack.refused {
            // What it says it has is all there is to go by.
            Some(_) => {
                self.received.add(event_count.into());
                self.refused.add(event_count.into());
            }
            None => {
                self.received.add(u64::from(ack.accepted) + rejected(ack));
                self.accepted(ack.accepted, ack.duplicate);
                ack.rejected.iter().for_each(|of| self.rejected(of.reason(), of.events.into()));
            }
        }
    }

    fn accepted(&self, accepted: u32, duplicate: u32) {
        self.counted.add(accepted.saturating_sub(duplicate).into());
        self.duplicate.add(duplicate.into());
    }

    fn rejected(&self, reason: Reason, events: u64) {
        let of = self.rejected.iter().find(|(of, _)| *of == reason);
        of.iter().for_each(|(_, count)| count.add(events));
    }

    /// A bucket was flushed and committed.
    pub(crate) fn flushed(&self) {
        self.flushed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn flush_failed(&self) {
        self.flush_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// These buckets are due at `now`, and others that were are not.
    pub(crate) fn due(&self, buckets: &[BucketStart], now: EventTime) {
        let mut due = self.lock_due();
        due.retain(|bucket, _| buckets.contains(bucket));
        buckets.iter().for_each(|&bucket| _ = due.entry(bucket).or_insert(now));
        self.show_due(&due);
    }

    /// This bucket is no longer due.
    pub(crate) fn done(&self, bucket: BucketStart) {
        let mut due = self.lock_due();
        due.remove(&bucket);
        self.show_due(&due);
    }

    fn lock_due(&self) -> MutexGuard<'_, BTreeMap<BucketStart, EventTime>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show_due(&self, due: &BTreeMap<BucketStart, EventTime>) {
        self.flush_due_since.set(due.values().min().map_or(0, |since| since.as_unix_ms() / 1000));
    }

    /// Whether commits are verified here at all.
    pub(crate) fn verifies(&self, verifies: bool) {
        self.verifies.store(verifies, Ordering::Relaxed);
    }

    /// A commit was counted anew.
    pub(crate) fn verified(&self, bucket: BucketStart, is_equal: bool, took: Duration) {
        self.verified.add(1);
        self.differing.add(u64::from(!is_equal));
        self.verify_seconds.inc_by(took.as_secs_f64());
        self.newest_verified.fetch_max(seconds(bucket.end()), Ordering::Relaxed);
    }

    pub(crate) fn verify_failed(&self) {
        self.verify_failures.add(1);
    }

    /// The oldest commit of this node that is not verified waits since then.
    pub(crate) fn unverified_since(&self, since: Option<EventTime>) {
        let since = since.map_or(0, seconds);
        self.oldest_unverified.store(since, Ordering::Relaxed);
        self.unverified_since.set(since.into());
    }

    /// Has `/metrics` show what is counted elsewhere.
    pub(crate) fn measure(&self, journal: &Journal, committed: &Committed) {
        let progress = journal.progress();
        self.journaled.set_since_start(progress.kept);
        self.journal_lag.set(progress.lag.as_secs_f64());
        let (buckets, newest_end_s) = committed_buckets(committed);
        self.committed.set(i64::try_from(buckets).unwrap_or(i64::MAX));
        self.newest_committed.set(newest_end_s.into());
    }

    /// All of it, for who watches.
    pub(crate) fn to_wire(&self, journal: &Journal, committed: &Committed) -> v1::NodeFlow {
        let rejected = self.rejected.iter().map(|(reason, count)| (reason.name(), count.since_start()));
        let rejected = rejected.filter(|(_, count)| *count > 0);
        let progress = journal.progress();
        let (committed_buckets, newest_committed_s) = committed_buckets(committed);
        let refuses = journal.usage().accepting.err();
        let due_since = self.lock_due().values().min().copied();
        v1::NodeFlow {
            received_events: self.received.since_start(),
            counted_events: self.counted.since_start(),
            duplicate_events: self.duplicate.since_start(),
            rejected_events: rejected.map(|(name, count)| v1::StagePart { name, count }).collect(),
            journaled_blocks: progress.kept,
            journal_lag_ms: progress.lag.as_millis() as u64,
            journal_refuses: refuses.map(|full| full.to_string()).unwrap_or_default(),
            flushed_buckets: self.flushed.load(Ordering::Relaxed),
            oldest_unflushed_s: due_since.map_or(0, seconds),
            flush_failures: self.flush_failures.load(Ordering::Relaxed),
            committed_buckets,
            newest_committed_s,
            verified_buckets: self.verified.since_start(),
            differing_buckets: self.differing.since_start(),
            newest_verified_s: self.newest_verified.load(Ordering::Relaxed),
            oldest_unverified_s: self.oldest_unverified.load(Ordering::Relaxed),
            verifies: self.verifies.load(Ordering::Relaxed),
        }
    }
}

/// A moment as the wire has it, where 0 means that there is none.
fn seconds(at: EventTime) -> u32 {
    u32::try_from(at.as_unix_ms() / 1000).unwrap_or_default()
}

/// How many buckets are committed, and the end of the newest one. Takes as long as there are days, and buckets of days that are
/// not compacted.
fn committed_buckets(committed: &Committed) -> (u64, u32) {
    let Some(history) = committed.history() else { return (0, 0) };
    let (mut buckets, mut newest) = (0, None);
    for day in history.all_days() {
        let replaced = day.replacement();
        buckets += replaced.map_or(0, |replacement| replacement.day.buckets.len());
        let is_new = |&bucket: &BucketStart| replaced.is_none_or(|of| of.bucket(bucket).is_none());
        buckets += day.open_buckets().filter(is_new).count();
        let last = replaced.and_then(|of| of.day.buckets.last());
        let last = last.and_then(|last| BucketStart::from_unix_seconds(last.bucket_start_s));
        newest = newest.max(last).max(day.open_buckets().last());
    }
    (buckets as u64, newest.map_or(0, |bucket| seconds(bucket.end())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_proto::v1::RefusalReason;

    fn meter() -> FlowMeter {
        FlowMetrics::default().of_node("n1")
    }

    fn told(meter: &FlowMeter) -> (u64, u64, u64, u64, u64) {
        let rejected = meter.rejected.iter().map(|(_, count)| count.since_start()).sum();
        let of = |count: &Count| count.since_start();
        (of(&meter.received), of(&meter.counted), of(&meter.duplicate), rejected, of(&meter.refused))
    }

    #[test]
    fn what_is_received_is_counted_duplicate_rejected_or_refused() {
        let meter = meter();
        let rejection = v1::Rejection { index: 0, reason: Reason::TooLate.into() };
        let ack = v1::BatchAck {
            accepted: 7,
            duplicate: 2,
            rejected: vec![rejection; 3],
            ..v1::BatchAck::default()
        };
        meter.batch(10, &ack);
        assert_eq!(told(&meter), (10, 5, 2, 3, 0));

        let of = v1::ReasonCount { reason: Reason::BadUrl.into(), events: 4 };
        meter.block(20, &v1::BlockAck { accepted: 16, rejected: vec![of], ..v1::BlockAck::default() });
        assert_eq!(told(&meter), (30, 21, 2, 7, 0));

        let refused = v1::Refusal { reason: RefusalReason::Overloaded.into(), ..v1::Refusal::default() };
        meter.block(5, &v1::BlockAck { refused: Some(refused), ..v1::BlockAck::default() });
        assert_eq!(told(&meter), (35, 21, 2, 7, 5));
    }

    #[test]
    fn a_node_that_is_started_again_in_a_process_counts_from_its_start_and_metrics_go_on() {
        let metrics = FlowMetrics::default();
        metrics.of_node("n1").received.add(5);
        let again = metrics.of_node("n1");
        again.received.add(2);
        assert_eq!((again.received.since_start(), again.received.counter.get()), (2, 7));
        again.journaled.set_since_start(3);
        again.journaled.set_since_start(4);
        assert_eq!(again.journaled.counter.get(), 4);
    }

    #[test]
    fn a_bucket_is_due_since_it_was_first_found_due_until_it_is_flushed() {
        let meter = meter();
        let bucket = |seconds| BucketStart::from_unix_seconds(seconds).unwrap();
        let at = |seconds: i64| EventTime::from_unix_ms(seconds * 1000);
        meter.due(&[bucket(600)], at(1000));
        meter.due(&[bucket(600), bucket(900)], at(1300));
        assert_eq!(meter.flush_due_since.get(), 1000);
        meter.done(bucket(600));
        assert_eq!(meter.flush_due_since.get(), 1300);
        meter.due(&[], at(1400));
        assert_eq!(meter.flush_due_since.get(), 0);
    }
}
