//! Moments that come due one after the other.
//!
//! Owns: waiting for each until it is due. The runtime's timers are a whole millisecond coarse, and half of it would be in every latency
//! that is measured from when something was due; a timer of the system's wakes the thread that waits, and nobody in between.
//! Does not own: what is done then.

use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// The first moment, and then one after each step, until a run ends.
#[derive(Debug)]
pub(super) struct Ticks {
    alarm: Alarm,
    step: Duration,
    duration: Duration,
    started: Instant,
    next: Duration,
}

impl Ticks {
    /// From `started` on, for as long as `duration`.
    pub(super) fn every(step: Duration, duration: Duration, started: Instant, alarm: Alarm) -> Self {
        Self { alarm, step, duration, started, next: Duration::ZERO }
    }

    /// The next moment, once it is due, as time since the start; `None` when the run has ended. What is late is told of at once.
    ///
    /// # Errors
    /// Where the system's timer fails.
    pub(super) async fn next(&mut self) -> io::Result<Option<Duration>> {
        let due = self.next;
        if due >= self.duration {
            return Ok(None);
        }
        self.alarm.wait_until(self.started + due).await?;
        self.next += self.step;
        Ok(Some(due))
    }
}

/// A timer of the system's, to some ten microseconds. It is read as a pipe is.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct Alarm(tokio::net::unix::pipe::Receiver);

#[cfg(target_os = "linux")]
impl Alarm {
    /// Within the runtime that will wait for it.
    ///
    /// # Errors
    /// Where the system has no timer to give.
    pub(super) fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(timer).map(Self)
    }

    async fn wait_until(&mut self, at: Instant) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let left = at.saturating_duration_since(Instant::now());
        // That would be no alarm at all.
        if left.is_zero() {
            return Ok(());
        }
        let Ok(value) = Timespec::try_from(left) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            self.0.readable().await?;
            // How often it went off. It did not where what it was set for before had woken this.
            match self.0.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                rung => return rung.map(|_| ()),
            }
        }
    }
}

/// The runtime's own, to a millisecond.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) struct Alarm;

#[cfg(not(target_os = "linux"))]
impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn wait_until(&mut self, at: Instant) -> io::Result<()> {
        tokio::time::sleep_until(at).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_moment_is_told_of_once_and_not_before_it_is_due() {
        let (step, started) = (Duration::from_millis(3), Instant::now());
        let mut ticks = Ticks::every(step, step * 4 + step / 2, started, Alarm::new().unwrap());
        for number in 0..5 {
            let due = ticks.next().await.unwrap().unwrap();
            assert_eq!(due, step * number);
            assert!(started.elapsed() >= due, "{due:?}");
        }
        assert_eq!(ticks.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_late_is_told_of_at_once_and_nothing_is_left_out() {
        let started = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        let (step, minute) = (Duration::from_millis(100), Duration::from_secs(60));
        let mut ticks = Ticks::every(step, minute, started, Alarm::new().unwrap());
        let mut told = 0;
        while ticks.next().await.unwrap().is_some() {
            told += 1;
        }
        assert_eq!(told, 600);
        assert!(started.elapsed() < Duration::from_secs(90), "as if they were not late");
    }

    #[tokio::test]
    async fn who_stops_waiting_for_a_moment_gets_the_same_one_later() {
        let (step, started) = (Duration::from_millis(50), Instant::now());
        let mut ticks = Ticks::every(step, step * 2, started, Alarm::new().unwrap());
        assert_eq!(ticks.next().await.unwrap(), Some(Duration::ZERO));
        let stopped = tokio::time::timeout(Duration::from_millis(1), ticks.next()).await;
        assert!(stopped.is_err(), "{stopped:?}");
        assert_eq!(ticks.next().await.unwrap(), Some(step));
        assert!(started.elapsed() >= step);
    }
}
