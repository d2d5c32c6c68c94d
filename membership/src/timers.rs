//! The timers that `foca` asked for.
//!
//! Owns: their order: by time, and as they were asked for where times are equal.
//! Does not own: waiting (`actor`).

use crate::identity::Identity;
use foca::Timer;
use std::collections::BTreeMap;
use tidemark_rollup::member::NodeId;
use tokio::time::Instant;

type Key = (Instant, u64);

/// What is due when.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    timers: BTreeMap<Key, Timer<Identity>>,
    /// Where a member is to be forgotten: the latest counts. A day's worth of those of a member that comes and goes would pile up.
    forget: BTreeMap<NodeId, Key>,
    asked: u64,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, timer: Timer<Identity>) {
        self.asked += 1;
        let key = (at, self.asked);
        if let Timer::RemoveDown(identity) = &timer
            && let Some(earlier) = self.forget.insert(identity.id.clone(), key)
        {
            self.timers.remove(&earlier);
        }
        self.timers.insert(key, timer);
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next one that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Timer<Identity>> {
        let due = self.timers.first_entry().filter(|entry| entry.key().0 <= now)?;
        let timer = due.remove();
        if let Timer::RemoveDown(identity) = &timer {
            self.forget.remove(&identity.id);
        }
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Phase;
    use crate::identity::tests::node;
    use std::time::Duration;

    #[tokio::test]
    async fn timers_come_by_time_and_then_as_they_were_asked_for() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, token) in [(20, 0), (10, 1), (20, 2)] {
            timers.add(at(ms), Timer::ProbeRandomMember(token));
        }
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop(at(9)), None);
        let order: Vec<_> = std::iter::from_fn(|| timers.pop(at(20))).collect();
        assert_eq!(order, [1, 0, 2].map(Timer::ProbeRandomMember));
    }

    #[tokio::test]
    async fn a_member_that_comes_and_goes_is_forgotten_once() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        for life in 0..100 {
            timers.add(start, Timer::RemoveDown(node("a", life, Phase::Gone)));
        }
        assert_eq!(timers.timers.len(), 1);
        assert_eq!(timers.pop(start), Some(Timer::RemoveDown(node("a", 99, Phase::Gone))));
        assert!(timers.forget.is_empty());
    }
}
