//! What makes an event acceptable.
//!
//! Owns: limits on events, and the rules of time that rows and blocks share.
//! Does not own: URLs (`canonical`), putting events into blocks (`split`).

use crate::time::EventTime;
use std::time::Duration;
use tidemark_proto::v1::Reason;

/// Longest kind in bytes.
pub const MAX_KIND_BYTES: usize = 64;
/// Longest value of a dimension in bytes. A longer one is ignored; the event counts.
pub const MAX_DIMENSION_BYTES: usize = 1024;
/// Largest value: 2^40. Sums have room for 16 million of these before they saturate.
pub const MAX_VALUE: i64 = 1 << 40;
/// How far ahead of its sealing an event may be.
pub const MAX_AHEAD: Duration = Duration::from_secs(60);
/// Default of how long before its sealing an event may be.
pub const DEFAULT_ACCEPT_LATE: Duration = Duration::from_secs(48 * 3600);
/// How long a bucket waits for stragglers after its end. An event sealed later than that is *late*.
pub const GRACE: Duration = Duration::from_secs(30);

/// Judges times against the moment when a batch or block was sealed.
///
/// Not against the present: a block that is sent again, or read back from a journal, must be judged alike.
#[derive(Clone, Copy, Debug)]
pub struct TimeRules {
    /// How long before its sealing an event may be.
    pub accept_late: Duration,
}

impl TimeRules {
    /// Whether an event at `time`, sealed at `sealed_at`, counts.
    ///
    /// # Errors
    /// `from_future` or `too_late`.
    pub fn judge(self, time: EventTime, sealed_at: EventTime) -> Result<(), Reason> {
        if time > sealed_at.plus(MAX_AHEAD) || time > EventTime::MAX {
            return Err(Reason::FromFuture);
        }
        if time < sealed_at.minus(self.accept_late) || time < EventTime::EPOCH {
            return Err(Reason::TooLate);
        }
        Ok(())
    }

    /// Whether a batch or block that says it was sealed at `sealed_at` may arrive at `now`.
    ///
    /// # Errors
    /// What is wrong with `sealed_at`.
    pub fn judge_seal(self, sealed_at: EventTime, now: EventTime) -> Result<(), &'static str> {
        if sealed_at > now.plus(MAX_AHEAD) {
            return Err("sealed_at_ms is in the future: set the producer's clock");
        }
        if sealed_at < now.minus(self.accept_late) {
            return Err("sealed_at_ms is longer ago than accept_late: raise accept_late for a backfill");
        }
        Ok(())
    }
}

impl Default for TimeRules {
    fn default() -> Self {
        Self { accept_late: DEFAULT_ACCEPT_LATE }
    }
}

/// A visitor's hash from any text; never 0, which is nobody.
pub fn visitor_hash(visitor: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(visitor).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_judged_by_their_distance_from_sealing() {
        let rules = TimeRules { accept_late: Duration::from_secs(10) };
        let at = EventTime::from_unix_ms;
        let judge = |ms| rules.judge(at(ms), at(1_000_000));
        assert_eq!(judge(1_060_000), Ok(()));
        assert_eq!(judge(1_060_001), Err(Reason::FromFuture));
        assert_eq!(judge(990_000), Ok(()));
        assert_eq!(judge(989_999), Err(Reason::TooLate));
    }

    #[test]
    fn times_that_no_bucket_can_hold_are_rejected_whatever_the_rules() {
        let rules = TimeRules { accept_late: Duration::MAX };
        assert_eq!(rules.judge(EventTime::from_unix_ms(-1), EventTime::EPOCH), Err(Reason::TooLate));
        let late = EventTime::from_unix_ms(i64::MAX);
        assert_eq!(rules.judge(late, late), Err(Reason::FromFuture));
    }
}
