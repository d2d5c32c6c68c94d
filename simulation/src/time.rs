//! The time of a simulation.
//!
//! Owns: how much of it has passed, and the clocks of hosts, which may be wrong.
//! Does not own: making it pass (`world`, `host`).

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_rollup::time::{Clock, EventTime};
use tokio::time::Instant;

/// Simulated time. Between ticks it stands; within a tick it is that of the host that runs.
#[derive(Debug)]
pub(crate) struct Time {
    start: EventTime,
    moment: Mutex<Moment>,
}

#[derive(Debug, Default)]
struct Moment {
    now: Duration,
    /// The moment that the running host's own clock shows, and what has passed at it.
    running: Option<(Instant, Duration)>,
}

impl Time {
    pub(crate) fn new(start: EventTime) -> Arc<Self> {
        Arc::new(Self { start, moment: Mutex::default() })
    }

    fn moment(&self) -> MutexGuard<'_, Moment> {
        self.moment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has passed since the start.
    pub(crate) fn now(&self) -> Duration {
        let moment = self.moment();
        match moment.running {
            Some((base, passed)) => passed + Instant::now().duration_since(base),
            None => moment.now,
        }
    }

    /// The next tick begins.
    pub(crate) fn set(&self, now: Duration) {
        self.moment().now = now;
    }

    /// A host runs from now on, whose clock shows `base` where `passed` has passed.
    pub(crate) fn enter(&self, base: Instant, passed: Duration) {
        self.moment().running = Some((base, passed));
    }

    /// No host runs.
    pub(crate) fn leave(&self) {
        self.moment().running = None;
    }

    pub(crate) fn wall(&self) -> EventTime {
        self.start.plus(self.now())
    }
}

/// A host's wall clock.
#[derive(Clone)]
pub struct SimClock {
    time: Arc<Time>,
    ahead_ms: Arc<AtomicI64>,
}

impl SimClock {
    pub(crate) fn new(time: Arc<Time>) -> Self {
        Self { time, ahead_ms: Arc::default() }
    }

    /// How far it is ahead of the true time, in milliseconds; behind where negative.
    pub fn set_ahead_ms(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> EventTime {
        let wall = self.time.wall().as_unix_ms();
        EventTime::from_unix_ms(wall.saturating_add(self.ahead_ms.load(Ordering::Relaxed)))
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.now().as_unix_ms())
    }
}
