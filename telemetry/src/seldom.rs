//! Sentences that could be said too often.
//!
//! Owns: when something may be said that can repeat per request, and how often it was not said.
//! Does not own: what is said, and where.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often one sentence goes to the log at most, where requests can make it repeat.
const EVERY: Duration = Duration::from_secs(10);

/// Lets a sentence through at most every ten seconds.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// How often it was not said since it last was, where it may be said now.
    pub fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.said.is_some_and(|said| now.duration_since(said) < EVERY) {
            state.left_out += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sentence_is_said_at_once_then_seldom_and_tells_how_often_it_was_left_out() {
        let seldom = Seldom::default();
        assert_eq!(seldom.due(), Some(0));
        assert_eq!([seldom.due(), seldom.due()], [None, None]);
        tokio::time::advance(EVERY).await;
        assert_eq!(seldom.due(), Some(2));
        assert_eq!(seldom.due(), None);
    }
}
