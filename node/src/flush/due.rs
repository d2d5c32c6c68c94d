//! Which buckets are due.
//!
//! Owns: when a closed bucket is flushed. Pure: times are arguments.
//!
//! A bucket that closes on time is flushed at once. One that gets events when it is closed already (late ones, a backfill)
//! waits until it settles, so that a trickle does not make a commit for each of its drops.

use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_rollup::event::GRACE;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::{BucketStart, EventTime};
use tokio::time::Instant;

/// A bucket that does not settle is flushed after so long all the same.
const SETTLE_AT_MOST: Duration = Duration::from_secs(300);

/// What the journal has of buckets, from look to look.
#[derive(Debug)]
pub(super) struct Due {
    settle: Duration,
    seen: BTreeMap<BucketStart, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    blocks: usize,
    /// It was open when it was first seen.
    on_time: bool,
    first: Instant,
    changed: Instant,
}

impl Due {
    pub(super) fn new(settle: Duration) -> Self {
        Self { settle, seen: BTreeMap::new() }
    }

    /// The buckets to flush now, of those with blocks that no commit covers.
    pub(super) fn look(
        &mut self,
        buckets: &[(BucketStart, ShardId, usize)],
        now: EventTime,
        instant: Instant,
    ) -> Vec<BucketStart> {
        let mut blocks: BTreeMap<BucketStart, usize> = BTreeMap::new();
        buckets.iter().for_each(|&(bucket, _, count)| *blocks.entry(bucket).or_default() += count);
        self.seen.retain(|bucket, _| blocks.contains_key(bucket));
        let mut due = Vec::new();
        for (&bucket, &count) in &blocks {
            let is_closed = is_closed(bucket, now);
            let fresh = Seen { blocks: count, on_time: !is_closed, first: instant, changed: instant };
            let seen = self.seen.entry(bucket).or_insert(fresh);
            if seen.blocks != count {
                (seen.blocks, seen.changed) = (count, instant);
            }
            let settled = instant >= seen.changed + self.settle
                || instant >= seen.first + self.settle.max(SETTLE_AT_MOST);
            if is_closed && (seen.on_time || settled) {
                due.push(bucket);
            }
        }
        due
    }

    /// What comes for this bucket from now on is late.
    pub(super) fn flushed(&mut self, bucket: BucketStart) {
        self.seen.remove(&bucket);
    }
}

/// The closed buckets among these.
pub(super) fn closed(buckets: &[(BucketStart, ShardId, usize)], now: EventTime) -> Vec<BucketStart> {
    let mut closed: Vec<BucketStart> =
        buckets.iter().map(|&(bucket, ..)| bucket).filter(|&bucket| is_closed(bucket, now)).collect();
    closed.dedup();
    closed
}

/// Whether a bucket has ended and waited for stragglers.
fn is_closed(bucket: BucketStart, now: EventTime) -> bool {
    bucket.end().plus(GRACE) <= now
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_rollup::sharding::ShardCount;

    fn at(seconds: u64) -> EventTime {
        EventTime::from_unix_ms(seconds as i64 * 1000)
    }

    fn blocks(count: usize) -> Vec<(BucketStart, ShardId, usize)> {
        let shard = ShardCount::DEFAULT.shard(0).unwrap();
        vec![(BucketStart::from_unix_seconds(300).unwrap(), shard, count)]
    }

    #[tokio::test]
    async fn a_bucket_that_closes_on_time_is_due_after_the_grace_period() {
        let (mut due, start) = (Due::new(Duration::from_secs(10)), Instant::now());
        assert!(due.look(&blocks(1), at(400), start).is_empty());
        assert!(due.look(&blocks(2), at(629), start).is_empty());
        assert_eq!(due.look(&blocks(3), at(630), start).len(), 1);
    }

    #[tokio::test]
    async fn a_late_bucket_is_due_when_nothing_came_for_a_while() {
        let (mut due, start) = (Due::new(Duration::from_secs(10)), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(due.look(&blocks(1), at(9000), start).is_empty());
        assert!(due.look(&blocks(2), at(9000), after(9)).is_empty());
        assert!(due.look(&blocks(2), at(9000), after(18)).is_empty());
        assert_eq!(due.look(&blocks(2), at(9000), after(19)).len(), 1);
    }

    #[tokio::test]
    async fn a_late_bucket_that_never_settles_is_flushed_all_the_same() {
        let (mut due, start) = (Due::new(Duration::from_secs(10)), Instant::now());
        let mut flushes = 0;
        for second in 0..=300 {
            flushes +=
                due.look(&blocks(second as usize), at(9000), start + Duration::from_secs(second)).len();
        }
        assert_eq!(flushes, 1);
    }

    #[tokio::test]
    async fn what_comes_after_a_flush_is_late() {
        let (mut due, start) = (Due::new(Duration::from_secs(10)), Instant::now());
        due.look(&blocks(1), at(400), start);
        assert_eq!(due.look(&blocks(1), at(630), start).len(), 1);
        due.flushed(blocks(1)[0].0);
        assert!(due.look(&blocks(1), at(630), start).is_empty());
    }
}
