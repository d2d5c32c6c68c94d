//! Trying again.
//!
//! Owns: how long to wait between tries, and when to stop.
//! Does not own: which errors deserve another try (each error says so of itself), the random seed (an argument).

use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// A small random number generator (splitmix64, Steele et al., 2014): equal seeds give equal numbers.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number, from 0 up to but not including 1.
    pub fn next_share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How long to wait before another try: a random part of `first`, of twice that, and so on up to `max`.
///
/// The random part ("full jitter") keeps many members that lost a store at the same moment from returning at the same
/// moment. A longer `max` spares a store that is away; a shorter one notices its return earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first try.
    pub first: Duration,
    /// The longest wait after any try.
    pub max: Duration,
}

impl Default for Backoff {
    /// 100 ms, up to 30 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// How long to wait after try number `attempt`, which counts from 1.
    pub fn delay(&self, attempt: u32, random: &mut SplitMix64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let longest = self.first.saturating_mul(1 << doublings).min(self.max);
        longest.mul_f64(random.next_share())
    }
}

/// An error that knows whether trying again may help.
pub trait Retryable: fmt::Display {
    /// Whether the same call may succeed later.
    fn retry_may_help(&self) -> bool;
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RetryError<E: fmt::Display> {
    /// Trying again does not help.
    #[error("{0}")]
    Failed(E),
    /// Failed until the time was over. Try again later.
    #[error("gave up after {attempts} tries in {elapsed:?}: {last}")]
    GaveUp {
        /// How often it was tried.
        attempts: u32,
        /// How long.
        elapsed: Duration,
        /// What the last try said.
        last: E,
    },
    /// The caller stopped it. A try that was under way may have had its effect.
    #[error("stopped")]
    Cancelled,
}

/// When to try again, and when to stop.
#[derive(Clone, Debug)]
pub struct Retry {
    /// How long to wait between tries.
    pub backoff: Backoff,
    /// No try begins later than this after the first; none: try until it succeeds or is stopped.
    pub give_up: Option<Duration>,
    /// Makes the waits random. Give each caller its own.
    pub seed: u64,
}

/// Calls `operation` until it succeeds, until an error says that trying again does not help, until the time is over, or
/// until `cancelled` completes (`std::future::pending()` for never).
///
/// # Errors
/// Says which of them it was, with the error of the last try.
pub async fn retry<T, E, Attempt>(
    retry: &Retry,
    cancelled: impl Future<Output = ()>,
    mut operation: impl FnMut() -> Attempt,
) -> Result<T, RetryError<E>>
where
    E: Retryable,
    Attempt: Future<Output = Result<T, E>>,
{
    let mut random = SplitMix64::new(retry.seed);
    let started = Instant::now();
    let attempts = async {
        let mut attempt = 0_u32;
        loop {
            attempt = attempt.saturating_add(1);
            let error = match operation().await {
                Ok(result) => return Ok(result),
                Err(error) if !error.retry_may_help() => return Err(RetryError::Failed(error)),
                Err(error) => error,
            };
            let delay = retry.backoff.delay(attempt, &mut random);
            let elapsed = started.elapsed();
            if retry.give_up.is_some_and(|limit| elapsed + delay > limit) {
                return Err(RetryError::GaveUp { attempts: attempt, elapsed, last: error });
            }
            // Whoever asked says what it means that the store is away, once.
            tracing::debug!(%error, attempt, ?delay, "trying again");
            tokio::time::sleep(delay).await;
        }
    };
    tokio::select! {
        // A result that is there is not thrown away.
        biased;
        result = attempts => result,
        () = cancelled => Err(RetryError::Cancelled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;

    #[derive(Debug, thiserror::Error)]
    #[error("away")]
    struct Away {
        for_ever: bool,
    }

    impl Retryable for Away {
        fn retry_may_help(&self) -> bool {
            !self.for_ever
        }
    }

    fn settings(give_up: Option<Duration>) -> Retry {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(8) };
        Retry { backoff, give_up, seed: 7 }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_until_it_succeeds() {
        let tries = Cell::new(0);
        let settings = settings(None);
        let result = retry(&settings, pending(), async || {
            tries.set(tries.get() + 1);
            if tries.get() < 100 { Err(Away { for_ever: false }) } else { Ok(tries.get()) }
        });
        assert_eq!(result.await.unwrap(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_once_where_trying_again_does_not_help() {
        let tries = Cell::new(0);
        let result: Result<(), _> = retry(&settings(None), pending(), async || {
            tries.set(tries.get() + 1);
            Err(Away { for_ever: true })
        })
        .await;
        assert!(matches!(result, Err(RetryError::Failed(_))));
        assert_eq!(tries.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_when_the_time_is_over_and_says_what_the_last_try_said() {
        let started = Instant::now();
        let result: Result<(), _> = retry(&settings(Some(Duration::from_secs(60))), pending(), async || {
            Err(Away { for_ever: false })
        })
        .await;
        assert!(started.elapsed() <= Duration::from_secs(60));
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("gave up after") && error.ends_with("away"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_stops_when_the_caller_says_so_even_in_the_middle_of_a_try() {
        let cancelled = tokio::time::sleep(Duration::from_secs(5));
        let result: Result<(), RetryError<Away>> = retry(&settings(None), cancelled, pending).await;
        assert!(matches!(result, Err(RetryError::Cancelled)));
    }

    #[test]
    fn waits_are_random_grow_and_have_a_limit() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10) };
        let mut random = SplitMix64::new(1);
        let mut longest = |attempt| (0..200).map(|_| backoff.delay(attempt, &mut random)).max().unwrap();
        let [first, fourth, late] = [1, 4, u32::MAX].map(&mut longest);
        assert!(first <= backoff.first && fourth > backoff.first && fourth <= backoff.first * 8);
        assert!(late > backoff.max / 2 && late <= backoff.max);
    }

    #[test]
    fn equal_seeds_give_equal_numbers() {
        // The published first outputs for seed 1234567.
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
