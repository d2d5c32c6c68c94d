//! Moments that come due one after the other.
//!
//! Owns: telling of each when it is due. The runtime's timers are a whole millisecond coarse, and half of it would be in every latency
//! that is measured from when something was due.
//! Does not own: what is done then.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Moments that were told of and not taken. Beyond it the next ones are told of when these are taken, however late that is.
const WAITING: usize = 256;

/// The first moment, and then one after each step, until a run ends.
pub(super) struct Ticks {
    due: mpsc::Receiver<Duration>,
    /// Ends the thread, which waits for its end beside the next moment.
    _end: SyncSender<()>,
}

impl Ticks {
    /// From `started` on, for as long as `duration`.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub(super) fn every(step: Duration, duration: Duration, started: Instant) -> io::Result<Self> {
        let (tell, due) = mpsc::channel(WAITING);
        let (end, ends) = sync_channel(0);
        let tick = move || tell_all(step, duration, started, &tell, &ends);
        thread::Builder::new().name("ticks".to_owned()).spawn(tick)?;
        Ok(Self { due, _end: end })
    }

    /// The next moment, once it is due, as time since the start; `None` when the run has ended.
    pub(super) async fn next(&mut self) -> Option<Duration> {
        self.due.recv().await
    }
}

fn tell_all(
    step: Duration,
    duration: Duration,
    started: Instant,
    tell: &mpsc::Sender<Duration>,
    ends: &Receiver<()>,
) {
    let mut due = Duration::ZERO;
    while due < duration {
        // Nothing is ever sent here: it is waited for, until the moment.
        let waited = ends.recv_timeout((started + due).saturating_duration_since(Instant::now()));
        if waited != Err(RecvTimeoutError::Timeout) || tell.blocking_send(due).is_err() {
            return;
        }
        due += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_moment_is_told_of_once_and_not_before_it_is_due() {
        let (step, started) = (Duration::from_millis(3), Instant::now());
        let mut ticks = Ticks::every(step, step * 4 + step / 2, started).unwrap();
        for number in 0..5 {
            let due = ticks.next().await.unwrap();
            assert_eq!(due, step * number);
            assert!(started.elapsed() >= due, "{due:?}");
        }
        assert_eq!(ticks.next().await, None);
    }

    #[tokio::test]
    async fn what_is_late_is_told_of_at_once_and_nothing_is_left_out() {
        let started = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        let mut ticks = Ticks::every(Duration::from_millis(100), Duration::from_secs(60), started).unwrap();
        let mut told = 0;
        while ticks.next().await.is_some() {
            told += 1;
        }
        assert_eq!(told, 600);
        assert!(started.elapsed() < Duration::from_secs(90), "as if they were not late");
    }

    #[tokio::test]
    async fn the_thread_ends_with_who_asks_however_far_the_next_moment_is() {
        let (tell, _due) = mpsc::channel(1);
        let (end, ends) = sync_channel(0);
        let hour = Duration::from_secs(3_600);
        let thread = thread::spawn(move || tell_all(hour, 2 * hour, Instant::now(), &tell, &ends));
        drop(end);
        thread.join().unwrap();
    }
}
