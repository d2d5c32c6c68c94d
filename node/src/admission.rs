//! How much the node takes in at a time.
//!
//! Owns: the budget of bytes in flight and the memory budget.
//! Does not own: measuring memory (`start`), telling senders (`grpc`).
//!
//! Actors' mailboxes are unbounded; this is what bounds them. A permit rides along with the work it was given for, so a
//! sender that gives up does not free room that is still in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for one batch or block, given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Permit {
    _bytes: Arc<OwnedSemaphorePermit>,
}

/// Why nothing is taken in now. Nothing was counted; wait, then send the same again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Short: wait some milliseconds.
    #[error(
        "{used_bytes} bytes are in flight already, and {in_flight_bytes} are possible; wait and send again"
    )]
    InFlight {
        /// The limit.
        in_flight_bytes: usize,
        /// What is used.
        used_bytes: usize,
    },
    /// Long: all that could be evicted is; what is left is open, or waits for the store.
    #[error(
        "the memory budget of {budget_bytes} bytes is nearly used up ({used_bytes}); wait until closed buckets are evicted, raise memory_budget, or add nodes"
    )]
    Memory {
        /// The limit.
        budget_bytes: u64,
        /// What is used.
        used_bytes: u64,
    },
}

/// The budgets.
#[derive(Debug)]
pub struct Admission {
    in_flight: Arc<Semaphore>,
    in_flight_bytes: usize,
    memory_budget_bytes: u64,
    memory_used_bytes: AtomicU64,
}

impl Admission {
    /// Budgets of these sizes.
    pub fn new(in_flight_bytes: usize, memory_budget_bytes: u64) -> Self {
        let in_flight_bytes =
            in_flight_bytes.clamp(tidemark_proto::MAX_MESSAGE_BYTES, Semaphore::MAX_PERMITS);
        Self {
            in_flight: Arc::new(Semaphore::new(in_flight_bytes)),
            in_flight_bytes,
            memory_budget_bytes,
            memory_used_bytes: AtomicU64::new(0),
        }
    }

    /// Room for `bytes` more.
    ///
    /// # Errors
    /// Where there is none now.
    pub fn admit(&self, bytes: usize) -> Result<Permit, Refused> {
        let used_bytes = self.memory_used_bytes.load(Ordering::Relaxed);
        // What is in flight is about to be used. Before anything is measured there is nothing to judge by; the last sixteenth is for
        // what comes between two looks.
        let soon_bytes = used_bytes.saturating_add(self.in_flight_bytes() as u64);
        if used_bytes > 0 && soon_bytes > self.memory_budget_bytes / 16 * 15 {
            let used_bytes = soon_bytes;
            return Err(Refused::Memory { budget_bytes: self.memory_budget_bytes, used_bytes });
        }
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.in_flight).try_acquire_many_owned(permits).map_err(|_| {
            Refused::InFlight { in_flight_bytes: self.in_flight_bytes, used_bytes: self.in_flight_bytes() }
        })?;
        Ok(Permit { _bytes: Arc::new(permit) })
    }

    /// Waits for room for `bytes`, whatever memory is used: for what this node owes to others.
    pub(crate) async fn wait(&self, bytes: usize) -> Permit {
        let permits = u32::try_from(bytes.min(self.in_flight_bytes)).unwrap_or(u32::MAX);
        match Arc::clone(&self.in_flight).acquire_many_owned(permits).await {
            Ok(permit) => Permit { _bytes: Arc::new(permit) },
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Says how much memory is used now.
    pub fn set_memory_used(&self, bytes: u64) {
        self.memory_used_bytes.store(bytes, Ordering::Relaxed);
    }

    /// How much memory was used when it was last measured.
    pub(crate) fn memory_used_bytes(&self) -> u64 {
        self.memory_used_bytes.load(Ordering::Relaxed)
    }

    /// How much memory may be used.
    pub(crate) fn memory_budget_bytes(&self) -> u64 {
        self.memory_budget_bytes
    }

    /// How many bytes may be in flight.
    pub(crate) fn in_flight_limit_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Bytes in flight now.
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes - self.in_flight.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_when_the_last_clone_of_a_permit_goes() {
        let admission = Admission::new(0, 100);
        let all = tidemark_proto::MAX_MESSAGE_BYTES;
        let permit = admission.admit(all).unwrap();
        let clone = permit.clone();
        drop(permit);
        assert_eq!(
            admission.admit(1).unwrap_err(),
            Refused::InFlight { in_flight_bytes: all, used_bytes: all }
        );
        drop(clone);
        assert!(admission.admit(all).is_ok());
    }

    #[test]
    fn nothing_is_taken_in_over_the_memory_budget() {
        let admission = Admission::new(0, 100);
        admission.set_memory_used(101);
        assert!(matches!(admission.admit(1), Err(Refused::Memory { used_bytes: 101, .. })));
        admission.set_memory_used(80);
        let permit = admission.admit(11).unwrap();
        assert!(
            matches!(admission.admit(1), Err(Refused::Memory { used_bytes: 91, .. })),
            "11 are on their way"
        );
        drop(permit);
        assert!(admission.admit(1).is_ok());
    }
}
