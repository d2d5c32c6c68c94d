//! A host: one machine with at most one process.
//!
//! Owns: the process's runtime, and having it live through a tick.
//! Does not own: what it talks over (`net`), when ticks are (`world`).
//!
//! A runtime's time stands unless it has nothing to do: then it jumps to the next timer. So a tick runs every timer that is
//! due in it, in order, and takes no longer than the work in it.

use crate::context::HostContext;
use crate::disk::SimDisk;
use crate::net::{HostId, Net, Process};
use crate::random::Random;
use crate::time::{SimClock, Time};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::faults::FaultyStore;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep_until};

pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) name: Arc<str>,
    pub(crate) ip: IpAddr,
    pub(crate) clock: SimClock,
    pub(crate) disk: SimDisk,
    pub(crate) folder: PathBuf,
    pub(crate) store: FaultyStore,
    pub(crate) running: Option<Running>,
    pub(crate) paused_until: Option<Duration>,
    /// It gets to run only this often.
    pub(crate) every: Duration,
}

/// A process.
pub(crate) struct Running {
    runtime: Runtime,
    main: JoinHandle<()>,
    /// What its clock showed at its start, and what had passed then.
    base: Instant,
    began: Duration,
}

impl Running {
    /// A process that begins now. Its main task is polled with the next tick.
    pub(crate) fn start(began: Duration, main: impl FnOnce(&Runtime) -> JoinHandle<()>) -> Self {
        // No I/O: a socket would be a real one, and panics here.
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
        let base = runtime.block_on(async { Instant::now() });
        let main = main(&runtime);
        Self { runtime, main, base, began }
    }

    /// Lives until `end`, having missed what passed before `now`. Returns whether its main task has ended.
    fn live(&mut self, time: &Time, now: Duration, end: Duration) -> bool {
        time.enter(self.base, self.began);
        let (base, began) = (self.base, self.began);
        self.runtime.block_on(async {
            let missed = now.saturating_sub(began + Instant::now().duration_since(base));
            if !missed.is_zero() {
                advance(missed).await;
            }
            sleep_until(base + (end - began)).await;
        });
        time.leave();
        self.main.is_finished()
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// Everything in it is gone. Passes a panic of the main task on.
    fn end(self) {
        let Self { runtime, main, .. } = self;
        if main.is_finished()
            && let Err(failed) = runtime.block_on(main)
            && let Ok(panic) = failed.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        runtime.shutdown_background();
    }
}

impl Host {
    /// Lives through a tick, unless it is paused. Returns whether its process has ended by itself.
    pub(crate) fn tick(&mut self, time: &Time, now: Duration, end: Duration) -> bool {
        if self.paused_until.is_some() || !self.is_its_turn(now, end) {
            return false;
        }
        self.running.as_mut().is_some_and(|running| running.live(time, now, end))
    }

    /// Whether a slow host gets to run in this tick.
    fn is_its_turn(&self, now: Duration, end: Duration) -> bool {
        let every = self.every.as_nanos();
        every == 0 || now.as_nanos().is_multiple_of(every) || now.as_nanos() / every != end.as_nanos() / every
    }

    /// What a process on the host is given. Its seed is drawn from `seed` and its generation.
    pub(crate) fn context(&self, net: &Arc<Net>, process: Process, seed: u64) -> HostContext {
        HostContext {
            net: Arc::clone(net),
            process,
            name: Arc::clone(&self.name),
            ip: self.ip,
            seed: Random::new(seed.wrapping_add(process.generation)).next(),
            clock: self.clock.clone(),
            disk: self.disk.clone(),
            mounted: self.disk.mount(),
            folder: self.folder.clone(),
            store: self.store.clone(),
        }
    }

    /// Drops the process, however it is.
    pub(crate) fn abandon(&mut self) {
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
        }
    }

    /// Ends the process, if there is one.
    pub(crate) fn end(&mut self) {
        self.paused_until = None;
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}
