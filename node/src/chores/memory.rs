//! How much memory the shards take, and what goes when it is too much.

use super::Chores;
use crate::admission::Admission;
use crate::history::NodeHistory;
use crate::metrics::NodeMeter;
use crate::shard::{Eviction, ShardHandle, ShardParts, Usage};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::active;
use tidemark_rollup::event::GRACE;
use tidemark_rollup::time::{BucketStart, Clock, EventTime};
use tokio_util::sync::CancellationToken;

/// How often the shards are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// Keeps the memory budget, and the gauges up to date.
pub(super) struct Memory {
    shards: Vec<ShardHandle>,
    parts: Arc<ShardParts>,
    history: Arc<NodeHistory>,
    admission: Arc<Admission>,
    clock: Arc<dyn Clock>,
    budget_bytes: u64,
    keep: Duration,
    meter: NodeMeter,
}

impl Memory {
    pub(super) fn of(chores: &Chores) -> Self {
        Self {
            shards: chores.shards.clone(),
            parts: Arc::clone(&chores.parts),
            history: Arc::clone(&chores.history),
            admission: Arc::clone(&chores.admission),
            clock: Arc::clone(&chores.clock),
            budget_bytes: chores.config.memory_budget_bytes,
            keep: chores.config.keep,
            meter: chores.meter.clone(),
        }
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let usages = self.measure().await;
            let used_bytes: u64 = usages.iter().map(|usage| usage.rollup_bytes).sum();
            let mut sizes: BTreeMap<BucketStart, u64> = BTreeMap::new();
            for &(bucket, bytes) in usages.iter().flat_map(|usage| &usage.buckets) {
                *sizes.entry(bucket).or_default() += bytes;
            }
            let eviction = eviction(&sizes, used_bytes, self.budget_bytes, self.keep, self.clock.now());
            let evictions = self.shards.iter().map(|shard| shard.evict(eviction, MEASURE_EVERY));
            join_all(evictions).await;
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    }

    async fn measure(&self) -> Vec<Usage> {
        let usages = join_all(self.shards.iter().map(|shard| shard.measure(MEASURE_EVERY))).await;
        let answered: Vec<Usage> = usages.into_iter().flatten().collect();
        let used_bytes: u64 = answered.iter().map(|usage| usage.rollup_bytes).sum();
        // A shard that is too busy to answer keeps its share: better to count it low for a second than to refuse.
        self.admission.set_memory_used(used_bytes);
        let up = self.shards.iter().filter(|shard| shard.is_up()).count();
        let rows = answered.iter().map(|usage| usage.rows).sum();
        self.meter.usage(used_bytes, rows, self.admission.in_flight_bytes(), up);
        self.meter.buckets_in_memory(answered.iter().map(|usage| usage.buckets.len()).sum());
        self.meter.journal(&self.parts.journal.usage());
        self.meter.flow().measure(&self.parts.journal, &self.history.committed());
        // Told here as well: a flush that waits for the store may take as long as the store is away.
        self.meter.unflushed(&self.parts.journal.buckets());
        let cache = self.history.reader.usage();
        self.meter.segment_cache(cache.hits, cache.misses);
        answered
    }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
