//! Whether there is room for a block.
//!
//! Owns: the limit on the journal's files, the space left to others on the disk, and how often the disk is asked.
//! Does not own: what is queued and what the files have; both are arguments.

use crate::config::JournalConfig;
use crate::disk::Disk;
use crate::error::Full;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The disk is asked at most this often.
pub(crate) const RECHECK: Duration = Duration::from_millis(200);

/// Bytes that count against the limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// In files.
    pub(crate) on_disk: u64,
    /// Accepted, and not in files yet.
    pub(crate) queued: u64,
}

/// The room there is.
pub(crate) struct Room {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    min_free_bytes: u64,
    limit_bytes: Option<u64>,
    recheck: Duration,
    measured: Mutex<Measured>,
}

struct Measured {
    at: Option<Instant>,
    free: u64,
    /// Accepted since, or queued then.
    claimed: u64,
}

impl Room {
    pub(crate) fn new(config: &JournalConfig, disk: Arc<dyn Disk>, recheck: Duration) -> Self {
        Self {
            disk,
            dir: config.dir.clone(),
            min_free_bytes: config.min_free_bytes,
            limit_bytes: config.limit_bytes,
            recheck,
            measured: Mutex::new(Measured { at: None, free: u64::MAX, claimed: 0 }),
        }
    }

    /// Asks the disk, if that was not done lately.
    pub(crate) fn refresh(&self, queued: u64) {
        let now = self.disk.now();
        {
            let mut measured = self.lock();
            if measured.at.is_some_and(|at| now.duration_since(at) < self.recheck) {
                return;
            }
            // Before the disk is asked, so that others do not ask too.
            measured.at = Some(now);
        }
        // A disk that does not tell may have room. If it has none, the write fails and says so.
        let free = self.disk.free_bytes(&self.dir).unwrap_or(u64::MAX);
        let mut measured = self.lock();
        measured.free = free;
        measured.claimed = queued;
    }

    /// Whether a record of `bytes` fits; with 0, whether any does.
    pub(crate) fn check(&self, bytes: u64, load: Load) -> Result<(), Full> {
        let used_bytes = load.on_disk.saturating_add(load.queued);
        if let Some(limit_bytes) = self.limit_bytes
            && used_bytes.saturating_add(bytes.max(1)) > limit_bytes
        {
            return Err(Full::Limit { used_bytes, limit_bytes });
        }
        let measured = self.lock();
        let free_bytes = measured.free.saturating_sub(measured.claimed);
        if free_bytes < self.min_free_bytes.saturating_add(bytes.max(1)) {
            return Err(Full::Disk { free_bytes, min_free_bytes: self.min_free_bytes });
        }
        Ok(())
    }

    /// What was free when the disk was last asked; `None` where it did not tell.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        Some(self.lock().free).filter(|&free| free < u64::MAX)
    }

    /// Takes room for a record that was accepted.
    pub(crate) fn claim(&self, bytes: u64) {
        let mut measured = self.lock();
        measured.claimed = measured.claimed.saturating_add(bytes);
    }

    /// Asks the disk next time, because a write failed or a file was deleted.
    pub(crate) fn expire(&self) {
        self.lock().at = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
