//! How fast nodes answer.
//!
//! Owns: the times of recent answers, and how long to wait for one before another node is asked as well.
//! Does not own: measuring (`round`), when to hedge (`asking`).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So many answers are recent.
const RECENT: usize = 256;
/// Before there are so many, nobody knows what is usual.
const ENOUGH: usize = 20;
/// How long to wait then.
const UNKNOWN: Duration = Duration::from_millis(100);

/// The times of recent answers.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<VecDeque<Duration>>);

impl Pace {
    /// Notes how long an answer took.
    pub(super) fn note(&self, took: Duration) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(took);
    }

    /// How long to wait before another node is asked: 19 of 20 recent answers took no longer.
    pub(super) fn hedge_after(&self) -> Duration {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() < ENOUGH {
            return UNKNOWN;
        }
        let mut times: Vec<Duration> = recent.iter().copied().collect();
        drop(recent);
        let at = (times.len() * 19).div_ceil(20) - 1;
        *times.select_nth_unstable(at).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_what_nineteen_of_twenty_recent_answers_took() {
        let pace = Pace::default();
        let ms = Duration::from_millis;
        (1..20).for_each(|took| pace.note(ms(took)));
        assert_eq!(pace.hedge_after(), UNKNOWN);
        pace.note(ms(20));
        assert_eq!(pace.hedge_after(), ms(19));
        (0..RECENT).for_each(|_| pace.note(ms(7)));
        assert_eq!(pace.hedge_after(), ms(7));
    }
}
