//! When something is tried again.
//!
//! Owns: how long to wait after so many failures.
//! Does not own: what is tried, and the clock.

use rand::RngExt as _;
use rand::rngs::StdRng;
use std::time::Duration;

/// How long to wait before trying again: twice as long after each failure, and a random part of that less, so that many who
/// failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure, at most.
    pub first: Duration,
    /// After any number of failures, at most. Longer spares a cluster that is in trouble; shorter notices sooner that it is back.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), most: Duration::from_secs(2) }
    }
}

impl Backoff {
    /// How long to wait after `failures` in a row, at least one: between half and all of what has doubled.
    pub(crate) fn delay(&self, failures: u32, random: &mut StdRng) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let most = doubled.min(self.most).max(Duration::from_millis(1));
        most / 2 + (most / 2).mul_f64(random.random_range(0.0..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn the_delay_doubles_up_to_the_most_and_is_never_under_half_of_that() {
        let backoff = Backoff::default();
        let mut random = StdRng::seed_from_u64(1);
        for (failures, most_ms) in [(1, 50), (2, 100), (4, 400), (6, 1_600), (7, 2_000), (u32::MAX, 2_000)] {
            for _ in 0..100 {
                let delay = backoff.delay(failures, &mut random);
                assert!(delay <= Duration::from_millis(most_ms), "{failures}: {delay:?}");
                assert!(delay >= Duration::from_millis(most_ms / 2), "{failures}: {delay:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_delays_and_another_one_others() {
        let delays = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            (1..8).map(|failures| Backoff::default().delay(failures, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }
}
