//! Writing, which one thread does.
//!
//! Owns: batches, when they are synced, when a file is full, and what an error costs.
//! Does not own: who waits (`queue`), what is live (`index`).
//!
//! Everything that is queued is written and synced together, then reported. An error fails the batch, and cuts the file back to
//! what was reported kept; where that fails, or a sync did, the file is left alone from then on: after a failed sync nobody
//! knows what the disk has, and the next sync of that file would say that all is well.

use crate::active::Active;
use crate::config::SyncPolicy;
use crate::disk::{FileNumber, file_path};
use crate::error::AppendError;
use crate::index::Location;
use crate::journal::{Done, Shared};
use crate::queue::{Job, Work};
use crate::record::{self, FileHeader, Salt};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidemark_rollup::block::BlockId;
use tidemark_rollup::time::BucketStart;

/// Records are handed to the system in pieces of about this size.
const WRITE_BYTES: usize = 4 << 20;

/// While there are many, batches begin at least so far apart: what comes meanwhile is synced together. A sync of a fast disk takes less
/// than this, so that without it each would be of a few blocks, and syncing would take more of a processor than counting does.
const GATHER: Duration = Duration::from_millis(1);

/// A record that is written or about to be, and not reported kept.
struct Unsettled {
    id: BlockId,
    buckets: Vec<BucketStart>,
    at: Location,
    done: Done,
}

/// The writer's state. Ends by failing whatever is left, so that nobody waits for ever.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    next_file: FileNumber,
    todo: VecDeque<Job>,
    unsettled: Vec<Unsettled>,
    /// Records of the active file that are not handed to the system yet.
    buffer: Vec<u8>,
    /// When the oldest unsynced record was written.
    dirty_since: Option<Instant>,
    /// Whether the last batch failed: that is logged when it changes.
    failing: bool,
    /// Held as long as there is somebody to write.
    _lock: File,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, next_file: FileNumber, lock: File) -> Self {
        Self {
            shared,
            active: None,
            next_file,
            todo: VecDeque::new(),
            unsettled: Vec::new(),
            buffer: Vec::new(),
            dirty_since: None,
            failing: false,
            _lock: lock,
        }
    }

    /// Writes until the journal is closed.
    pub(crate) fn run(mut self) {
        loop {
            let work = self.shared.queue.take(self.sync_due());
            let (began, are_many) = (Instant::now(), work.jobs.len() > 1);
            if self.do_work(work) {
                return;
            }
            // Where blocks come one after the other, each by who waited for the one before, waiting would gather nothing.
            if are_many {
                std::thread::sleep(GATHER.saturating_sub(began.elapsed()));
            }
        }
    }

    /// Writes and reports a batch, and looks after the file. Returns whether that was the last, because the journal is closed.
    pub(crate) fn do_work(&mut self, work: Work) -> bool {
        let last = work.closing && work.jobs.is_empty();
        self.todo = work.jobs;
        if let Err(error) = self.write_batch() {
            self.fail(error);
        }
        if last || self.sync_due().is_some_and(|due| due <= self.shared.disk.now()) {
            self.sync_reported();
        }
        if last || self.shared.index().active_is_dead() {
            self.leave_file();
        }
        last
    }

    fn sync_due(&self) -> Option<Instant> {
        match self.shared.config.sync {
            SyncPolicy::Always => None,
            // An interval beyond what a clock can say never ends.
            SyncPolicy::Interval(interval) => self.dirty_since?.checked_add(interval),
        }
    }

    fn write_batch(&mut self) -> Result<(), AppendError> {
        while let Some(job) = self.todo.front() {
            let bytes = job.bytes;
            let salt = self.file_for(bytes)?;
            let Some(job) = self.todo.pop_front() else { break };
            self.stage(job, salt);
            if self.buffer.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        self.commit()
    }

    /// Sees to it that the active file has room for a record. Returns its salt.
    fn file_for(&mut self, bytes: u64) -> Result<Salt, AppendError> {
        if let Some(active) = &self.active {
            let end = active.written() + self.buffer.len() as u64;
            let empty = end == record::FILE_HEADER_BYTES as u64;
            if empty || end + bytes <= self.shared.config.segment_bytes {
                return Ok(active.salt);
            }
            self.commit()?;
            self.sync_reported();
            self.leave_file();
        }
        self.begin_file()
    }

    fn begin_file(&mut self) -> Result<Salt, AppendError> {
        let number = self.next_file;
        let path = || file_path(&self.shared.config.dir, number);
        let salt = self.shared.disk.draw_salt().map_err(|error| write_error(path(), error))?;
        // Not to be used again, whatever becomes of it. Four thousand million files do not come to an end.
        self.next_file = number.saturating_add(1);
        let header = FileHeader { number, shards: self.shared.shards.get(), salt };
        let active = Active::create(&*self.shared.disk, &self.shared.config.dir, header)
            .map_err(|error| write_error(path(), error))?;
        let mut index = self.shared.index();
        index.set_file_bytes(number, active.settled());
        index.set_active(Some(number));
        drop(index);
        self.active = Some(active);
        Ok(salt)
    }

    /// Puts a record into the buffer.
    fn stage(&mut self, job: Job, salt: Salt) {
        let Some(active) = &self.active else { return };
        let offset = active.written() + self.buffer.len() as u64;
        record::encode(&mut self.buffer, salt, job.id, &job.buckets, &job.block);
        let at = Location { file: active.number, bytes: job.bytes as u32, offset };
        self.unsettled.push(Unsettled { id: job.id, buckets: job.buckets, at, done: job.done });
    }

    fn flush(&mut self) -> Result<(), AppendError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let written = active.write(&self.buffer);
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_BYTES);
        written.map_err(|error| write_error(active.path.clone(), error))
    }

    /// Writes what is in the buffer, syncs it if that is the policy, and reports it kept.
    fn commit(&mut self) -> Result<(), AppendError> {
        self.flush()?;
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.unsettled.is_empty() {
            return Ok(());
        }
        match self.shared.config.sync {
            SyncPolicy::Always => active.sync().map_err(|source| AppendError::Sync {
                file: active.path.clone(),
                source: Arc::new(source),
            })?,
            SyncPolicy::Interval(_) => {
                self.dirty_since = self.dirty_since.or_else(|| Some(self.shared.disk.now()));
            }
        }
        active.settle();
        let (file, bytes) = (active.number, active.settled());
        let mut index = self.shared.index();
        index.set_file_bytes(file, bytes);
        for unsettled in &self.unsettled {
            index.insert(unsettled.id, unsettled.at, &unsettled.buckets);
        }
        drop(index);
        self.shared.kept.fetch_add(self.unsettled.len() as u64, Ordering::Relaxed);
        if std::mem::take(&mut self.failing) {
            tracing::info!("blocks are journaled again");
        }
        self.tell(&Ok(()));
        Ok(())
    }

    fn tell(&mut self, outcome: &Result<(), AppendError>) {
        let settled = self.unsettled.drain(..);
        let blocks = settled.map(|unsettled| (unsettled.id, u64::from(unsettled.at.bytes), unsettled.done));
        self.shared.queue.settle(blocks.collect(), outcome);
    }

    /// Gives up the batch, and gets back to a file that ends with a whole record.
    fn fail(&mut self, error: AppendError) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, cause = cause(&error), "blocks cannot be journaled; trying on with each that comes");
        }
        self.buffer.clear();
        let cut = self.active.as_mut().map_or(Ok(()), Active::cut);
        if let Err(error) = &cut {
            tracing::error!(%error, "the end of a journal file cannot be cut off: going on with a new file");
        }
        if cut.is_err() || matches!(error, AppendError::Sync { .. }) {
            self.leave_file();
        }
        self.shared.room.expire();
        self.give_up(error);
    }

    fn give_up(&mut self, error: AppendError) {
        let outcome = Err(error);
        self.tell(&outcome);
        let todo = std::mem::take(&mut self.todo);
        self.shared
            .queue
            .settle(todo.into_iter().map(|job| (job.id, job.bytes, job.done)).collect(), &outcome);
    }

    /// Syncs what was reported kept before it was synced.
    fn sync_reported(&mut self) {
        let Some(active) = self.active.as_ref().filter(|_| self.dirty_since.is_some()) else { return };
        self.dirty_since = None;
        if let Err(error) = active.sync() {
            let file = active.path.display();
            tracing::error!(%error, %file, "acknowledged blocks may not survive a loss of power: the disk failed to sync them");
            self.leave_file();
        }
    }

    /// Writes no more to the active file, and deletes it if it has no live blocks.
    fn leave_file(&mut self) {
        if self.active.take().is_none() {
            return;
        }
        self.dirty_since = None;
        let dead = self.shared.index().set_active(None);
        self.shared.remove_files(dead);
    }
}

impl Drop for Writer {
    /// After a panic (a `Done` that broke its promise), nobody is left waiting.
    fn drop(&mut self) {
        self.shared.queue.close();
        self.give_up(AppendError::Closed);
        self.todo = self.shared.queue.take(None).jobs;
        self.give_up(AppendError::Closed);
    }
}

fn write_error(file: PathBuf, source: io::Error) -> AppendError {
    AppendError::Write { file, source: Arc::new(source) }
}

fn cause(error: &AppendError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}
