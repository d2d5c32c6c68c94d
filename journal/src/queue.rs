//! What is on its way to the writer, and what is waiting for it.
//!
//! Owns: the queue between callers and the writer's thread, the blocks whose outcome is open, and who is told of it.
//! Does not own: files and the index.
//!
//! Invariants:
//! * A block is open from the moment it is queued until its outcome is told; a block that is kept is in the index before that.
//! * `Done`s are called without any lock held.

use crate::error::AppendError;
use crate::journal::Done;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tidemark_proto::v1;
use tidemark_rollup::block::BlockId;
use tidemark_rollup::time::BucketStart;

/// A block to be written.
pub(crate) struct Job {
    pub(crate) id: BlockId,
    pub(crate) buckets: Vec<BucketStart>,
    pub(crate) block: v1::Block,
    /// Of its record.
    pub(crate) bytes: u64,
    pub(crate) queued_at: Instant,
    pub(crate) done: Done,
}

/// What the writer is to do next.
pub(crate) struct Work {
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) closing: bool,
}

/// The queue's state; locked by [`Queue::lock`].
#[derive(Default)]
pub(crate) struct State {
    jobs: VecDeque<Job>,
    queued_bytes: u64,
    /// Blocks whose outcome is open, and who else waits for it.
    open: HashMap<BlockId, Vec<Done>>,
    /// When the first block was queued of those that the writer has.
    taken: Option<Instant>,
    closing: bool,
    nudged: bool,
}

/// The queue.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

impl State {
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// When the oldest block was queued whose outcome is open.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.taken.or_else(|| Some(self.jobs.front()?.queued_at))
    }

    pub(crate) fn closing(&self) -> bool {
        self.closing
    }

    /// Has `done` wait for the block's outcome; gives it back where there is nothing to wait for.
    pub(crate) fn wait_for(&mut self, id: &BlockId, done: Done) -> Result<(), Done> {
        match self.open.get_mut(id) {
            Some(waiting) => {
                waiting.push(done);
                Ok(())
            }
            None => Err(done),
        }
    }

    fn take(&mut self) -> Work {
        self.nudged = false;
        self.taken = self.oldest();
        Work { jobs: std::mem::take(&mut self.jobs), closing: self.closing }
    }
}

impl Queue {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a block that is not open.
    pub(crate) fn push(&self, mut state: MutexGuard<'_, State>, job: Job) {
        state.queued_bytes += job.bytes;
        state.open.insert(job.id, Vec::new());
        // The writer waits only where nothing is queued, and waking costs a call to the system whether it waits or not.
        let may_wait = state.jobs.is_empty();
        state.jobs.push_back(job);
        drop(state);
        if may_wait {
            self.wake.notify_one();
        }
    }

    /// Has the writer look after its file although nothing is queued.
    pub(crate) fn nudge(&self) {
        self.lock().nudged = true;
        self.wake.notify_one();
    }

    /// Takes no more blocks; the writer ends when it has written what is queued.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Waits for something to do, until `due` if that is given, and takes all that is queued.
    pub(crate) fn take(&self, due: Option<Instant>) -> Work {
        let mut state = self.lock();
        while state.jobs.is_empty() && !state.closing && !state.nudged {
            let Some(due) = due else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.take()
    }

    /// Takes all that is queued, without waiting.
    #[cfg(feature = "test-util")]
    pub(crate) fn take_now(&self) -> Work {
        self.lock().take()
    }

    /// Tells the outcome of blocks to all who wait for it.
    pub(crate) fn settle(&self, blocks: Vec<(BlockId, u64, Done)>, outcome: &Result<(), AppendError>) {
        let mut told = Vec::with_capacity(blocks.len());
        {
            let mut state = self.lock();
            for (id, bytes, done) in blocks {
                state.queued_bytes = state.queued_bytes.saturating_sub(bytes);
                told.push(done);
                told.extend(state.open.remove(&id).unwrap_or_default());
            }
            // The rest of what is open is queued: the writer has nothing.
            if state.open.len() == state.jobs.len() {
                state.taken = None;
            }
        }
        told.into_iter().for_each(|done| done(outcome.clone()));
    }
}
