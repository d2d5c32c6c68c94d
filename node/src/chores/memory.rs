//! How much memory the shards take, and what goes when it is too much.

use super::Chores;
use crate::admission::Admission;
use crate::history::NodeHistory;
use crate::metrics::NodeMeter;
use crate::quotas::{Quotas, SiteUsage};
use crate::shard::{Eviction, ShardHandle, ShardParts, Usage};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_rollup::active;
use tidemark_rollup::event::GRACE;
use tidemark_rollup::time::{BucketStart, Clock, EventTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the shards are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked how much memory the process has in use.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a process takes beside rollups, batches and caches: code, stacks, connections, what the allocator keeps.
const BESIDE_BYTES: u64 = 64 << 20;

/// Keeps the memory budget, and the gauges up to date.
pub(super) struct Memory {
    shards: Vec<ShardHandle>,
    parts: Arc<ShardParts>,
    history: Arc<NodeHistory>,
    admission: Arc<Admission>,
    quotas: Arc<Quotas>,
    clock: Arc<dyn Clock>,
    budget_bytes: u64,
    keep: Duration,
    meter: NodeMeter,
    resident_bytes: Option<fn() -> Option<u64>>,
    /// When the shards were last measured.
    rollup_bytes: AtomicU64,
}

impl Memory {
    pub(super) fn of(chores: &Chores) -> Self {
        Self {
            shards: chores.shards.clone(),
            parts: Arc::clone(&chores.parts),
            history: Arc::clone(&chores.history),
            admission: Arc::clone(&chores.admission),
            quotas: Arc::clone(&chores.quotas),
            clock: Arc::clone(&chores.clock),
            budget_bytes: chores.config.memory_budget_bytes,
            keep: chores.config.keep,
            meter: chores.meter.clone(),
            resident_bytes: chores.resident_bytes,
            rollup_bytes: AtomicU64::new(0),
        }
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let usages = self.measure().await;
            let used_bytes = self.admission.memory_used_bytes();
            let mut sizes: BTreeMap<BucketStart, u64> = BTreeMap::new();
            for &(bucket, bytes) in usages.iter().flat_map(|usage| &usage.buckets) {
                *sizes.entry(bucket).or_default() += bytes;
            }
            let eviction = eviction(&sizes, used_bytes, self.budget_bytes, self.keep, self.clock.now());
            let evictions = self.shards.iter().map(|shard| shard.evict(eviction, MEASURE_EVERY));
            join_all(evictions).await;
            self.look_until(Instant::now() + MEASURE_EVERY).await;
        }
    }

    /// Looks at the memory of the process until then: rollups grow faster than shards can be measured.
    async fn look_until(&self, until: Instant) {
        while self.resident_bytes.is_some() && Instant::now() + LOOK_EVERY < until {
            tokio::time::sleep(LOOK_EVERY).await;
            self.note_used(self.rollup_bytes.load(Ordering::Relaxed));
        }
        tokio::time::sleep_until(until).await;
    }

    /// Says how much memory is used, where rollups take so much.
    fn note_used(&self, rollup_bytes: u64) -> u64 {
        self.rollup_bytes.store(rollup_bytes, Ordering::Relaxed);
        let resident_bytes = self.resident_bytes.and_then(|resident_bytes| resident_bytes());
        let others_bytes =
            2 * self.admission.in_flight_bytes() as u64 + self.history.reader.usage().memory_bytes;
        let used_bytes = used(rollup_bytes, others_bytes, resident_bytes);
        self.admission.set_memory_used(used_bytes);
        used_bytes
    }

    async fn measure(&self) -> Vec<Usage> {
        // Nothing but late events comes to buckets that are closed.
        let open = BucketStart::containing(self.clock.now().minus(GRACE));
        let by_site_from = self.quotas.limit_size().then_some(open);
        let measured = self.shards.iter().map(|shard| shard.measure(by_site_from, MEASURE_EVERY));
        let mut answered: Vec<Usage> = join_all(measured).await.into_iter().flatten().collect();
        let mut by_site: BTreeMap<(BucketStart, String), SiteUsage> = BTreeMap::new();
        for (bucket, site, usage) in answered.iter_mut().flat_map(|usage| usage.by_site.drain(..)) {
            by_site.entry((bucket, site)).or_default().add(usage);
        }
        self.quotas.measured(by_site);
        // A shard that is too busy to answer keeps its share: better to count it low for a second than to refuse.
        let rollup_bytes = answered.iter().map(|usage| usage.rollup_bytes).sum();
        let used_bytes = self.note_used(rollup_bytes);
        let up = self.shards.iter().filter(|shard| shard.is_up()).count();
        let rows = answered.iter().map(|usage| usage.rows).sum();
        self.meter.usage(used_bytes, self.admission.in_flight_bytes(), up);
        self.meter.rollups(rows, rollup_bytes);
        self.meter.buckets_in_memory(answered.iter().map(|usage| usage.buckets.len()).sum());
        self.meter.journal(&self.parts.journal.usage());
        self.meter.flow().measure(&self.parts.journal, &self.history.committed());
        // Told here as well: a flush that waits for the store may take as long as the store is away.
        self.meter.unflushed(&self.parts.journal.buckets());
        self.meter.store_up(self.history.away().is_none());
        self.meter.limits(self.budget_bytes, self.admission.in_flight_limit_bytes());
        self.meter.segment_cache(self.history.reader.usage());
        answered
    }
}

/// How much of the budget is used: what the process has in use, as far as rollups and what is known beside them explain it. Memory
/// that only the allocator knows of would otherwise have senders wait for what never comes back.
fn used(rollup_bytes: u64, others_bytes: u64, resident_bytes: Option<u64>) -> u64 {
    let explained_bytes = 2 * rollup_bytes + others_bytes + BESIDE_BYTES;
    resident_bytes.map_or(0, |resident| resident.min(explained_bytes)).max(rollup_bytes)
}

/// Which buckets go: those that are kept long enough; the oldest ones, where four fifths of the budget are used; and where
/// nine tenths are, also those that no commit covers yet.
fn eviction(
    sizes: &BTreeMap<BucketStart, u64>,
    used_bytes: u64,
    budget_bytes: u64,
    keep: Duration,
    now: EventTime,
) -> Eviction {
    // Nothing but memory knows who is active; and an open bucket is one of these.
    let first_active = active::first_kept(now);
    let kept = BucketStart::containing(now.minus(keep).minus(GRACE)).min(first_active);
    let mut excess = used_bytes.saturating_sub(budget_bytes / 10 * 7);
    let mut cut = BucketStart::containing(EventTime::EPOCH);
    if used_bytes > budget_bytes / 5 * 4 {
        for (&bucket, &bytes) in sizes.range(..first_active) {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            cut = bucket.next();
        }
    }
    let is_pressing = used_bytes > budget_bytes / 10 * 9;
    let none = BucketStart::containing(EventTime::EPOCH);
    Eviction {
        committed_before: kept.max(cut),
        any_before: if is_pressing { cut } else { none },
        slices_before: first_active,
        now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_process_counts_as_far_as_rollups_explain_it() {
        let mib = |mib: u64| mib << 20;
        assert_eq!(used(mib(200), 0, None), mib(200), "several nodes share a process");
        assert_eq!(used(mib(200), 0, Some(mib(300))), mib(300));
        assert_eq!(
            used(mib(200), 0, Some(mib(150))),
            mib(200),
            "what is measured is used, and maybe swapped out"
        );
        assert_eq!(
            used(mib(10), mib(20), Some(mib(300))),
            mib(10 + 10 + 20 + 64),
            "the rest is the allocator's"
        );
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn bucket(number: u32) -> BucketStart {
        BucketStart::from_unix_seconds(number * 300).unwrap()
    }

    fn eviction_at(sizes: &BTreeMap<BucketStart, u64>, now: EventTime) -> Eviction {
        eviction(sizes, 100, 100, HOUR, now)
    }

    /// Ten buckets of ten bytes, the last of them open.
    fn evict(used_bytes: u64, keep: Duration) -> Eviction {
        let sizes = (100..110).map(|number| (bucket(number), 10)).collect();
        eviction(&sizes, used_bytes, 100, keep, bucket(109).time().plus(Duration::from_secs(100)))
    }

    #[test]
    fn what_was_kept_long_enough_goes_where_commits_have_it() {
        let eviction = evict(10, HOUR / 2);
        assert_eq!((eviction.committed_before, eviction.any_before), (bucket(103), bucket(0)));
    }

    #[test]
    fn what_ended_less_than_five_minutes_ago_stays_because_nothing_else_knows_who_is_active() {
        // A hundred seconds into bucket 109.
        let eviction = evict(100, Duration::ZERO);
        assert_eq!((eviction.committed_before, eviction.slices_before), (bucket(108), bucket(108)));
        let sizes = [(bucket(108), 80), (bucket(109), 20)].into();
        let now = bucket(109).time().plus(Duration::from_secs(100));
        assert_eq!(eviction_at(&sizes, now).any_before, bucket(0), "not even where memory is very short");
    }

    #[test]
    fn the_oldest_go_first_where_memory_is_short() {
        assert_eq!(evict(80, 24 * HOUR).committed_before, bucket(0));
        let eviction = evict(85, 24 * HOUR);
        assert_eq!((eviction.committed_before, eviction.any_before), (bucket(102), bucket(0)));
    }

    #[test]
    fn what_only_the_journal_has_goes_where_memory_is_very_short() {
        let eviction = evict(100, 24 * HOUR);
        assert_eq!((eviction.committed_before, eviction.any_before), (bucket(103), bucket(103)));
    }
}
