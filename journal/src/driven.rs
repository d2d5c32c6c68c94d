//! A journal without a thread (feature `test-util`): a simulation says when it writes.
//!
//! Owns: the writer between steps, and what becomes of it when nobody takes further ones.
//! Does not own: writing (`writer`), when to step (the simulation).
//!
//! No lock is held while the writer works: a `Done` may use the journal. A step within a step does nothing.

use crate::journal::Shared;
use crate::writer::Writer;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The writer, and where it is.
enum Slot {
    Idle(Box<Writer>),
    Working,
    /// Closed, or abandoned.
    Gone,
}

/// What the journal and its pump share.
pub(crate) struct Driven {
    shared: Arc<Shared>,
    slot: Mutex<Slot>,
}

impl Driven {
    pub(crate) fn new(shared: Arc<Shared>, writer: Writer) -> Self {
        Self { shared, slot: Mutex::new(Slot::Idle(Box::new(writer))) }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One batch. Returns whether there may be another.
    pub(crate) fn step(&self) -> bool {
        let taken = {
            let mut slot = self.slot();
            match std::mem::replace(&mut *slot, Slot::Working) {
                Slot::Idle(writer) => Some(writer),
                other => {
                    *slot = other;
                    None
                }
            }
        };
        let Some(mut writer) = taken else { return false };
        let last = writer.do_work(self.shared.queue.take_now());
        let mut slot = self.slot();
        // Perhaps a `Done` had the last handle.
        let is_over = last || matches!(*slot, Slot::Gone);
        let left = std::mem::replace(&mut *slot, if is_over { Slot::Gone } else { Slot::Idle(writer) });
        drop(slot);
        drop(left);
        !is_over
    }

    /// Nothing is written any more. Whoever waits is told so, and the folder is free.
    pub(crate) fn abandon(&self) {
        let left = std::mem::replace(&mut *self.slot(), Slot::Gone);
        drop(left);
    }
}

/// Has a driven journal write. Dropping it without [`Journal::close`](crate::Journal::close) is a crash: what is queued is lost.
pub struct Pump(Arc<Driven>);

impl Pump {
    pub(crate) fn new(driven: Arc<Driven>) -> Self {
        Self(driven)
    }

    /// Does what the thread does in one round, without waiting: writes what is queued, syncs it if that is the policy, reports it,
    /// syncs what was reported before if that is due, and leaves a file without live blocks. Returns `false` once the journal
    /// is closed.
    pub fn step(&self) -> bool {
        self.0.step()
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pump")
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
