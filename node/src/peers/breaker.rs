//! When a node that fails is left alone for a while.
//!
//! Owns: how many failures in a row it takes, and for how long. Pure: times are arguments.

use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row after which a node is left alone.
const FAILURES: u32 = 3;
/// For how long, at first and at most.
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(2);

/// Tells whether a node is worth asking.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Breaker {
    /// Whether the node is to be asked now. When it has rested, one call is let through at a time.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            let doublings = (self.failures - FAILURES).min(8);
            self.rests_until = Some(now + (FIRST_REST * (1 << doublings)).min(LONGEST_REST));
        }
    }

    /// Whether it has just begun to rest.
    pub(super) fn just_opened(&self) -> bool {
        self.failures == FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn three_failures_in_a_row_give_a_node_a_rest_that_grows_and_one_success_ends_it() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        breaker.failed(start);
        breaker.failed(start);
        assert!(!breaker.is_open(start));
        breaker.failed(start);
        assert!(breaker.is_open(start) && breaker.just_opened());
        assert!(!breaker.is_open(start + FIRST_REST));
        breaker.failed(start);
        assert!(breaker.is_open(start + FIRST_REST) && !breaker.just_opened());
        (0..50).for_each(|_| breaker.failed(start));
        assert!(!breaker.is_open(start + LONGEST_REST));
        breaker.succeeded();
        assert!(!breaker.is_open(start));
    }
}
