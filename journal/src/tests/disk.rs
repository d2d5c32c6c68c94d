//! A disk whose failures are chosen.
//!
//! Owns: real files in a real folder, with errors put in between, and counts of what was asked.
//! Does not own: what the journal makes of it.

use crate::disk::{Disk, DiskFile, RealDisk};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What is to fail, and what happened.
#[derive(Default)]
pub(crate) struct Plan {
    /// Writes fail (no space) when so many bytes more were written; the one before is short.
    pub(crate) room: Option<u64>,
    /// Every write takes at most so many bytes.
    pub(crate) short_writes: Option<usize>,
    pub(crate) fail_syncs: bool,
    pub(crate) fail_truncates: bool,
    pub(crate) fail_removes: bool,
    /// This page (of 4 KiB) of any file cannot be read.
    pub(crate) bad_page: Option<u64>,
    pub(crate) free_bytes: Option<u64>,
    /// Syncs wait while this is set.
    pub(crate) hold_syncs: bool,
    pub(crate) syncs: usize,
    pub(crate) failed_syncs: usize,
    pub(crate) dir_syncs: usize,
    pub(crate) writes: usize,
    pub(crate) asked_for_space: usize,
    /// Of all files; otherwise random.
    pub(crate) salt: Option<u32>,
    /// Its clock is ahead by so much.
    pub(crate) passed: Duration,
}

#[derive(Default)]
struct State {
    plan: Mutex<Plan>,
    changed: Condvar,
}

/// Clones are one disk.
#[derive(Clone, Default)]
pub(crate) struct TestDisk(Arc<State>);

struct TestFile {
    disk: TestDisk,
    file: Box<dyn DiskFile>,
}

impl TestDisk {
    pub(crate) fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.plan.lock().unwrap()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan());
        self.0.changed.notify_all();
    }

    /// Waits until `reached` is so.
    pub(crate) fn wait_until(&self, reached: impl Fn(&Plan) -> bool) {
        let (_plan, timeout) =
            self.0.changed.wait_timeout_while(self.plan(), super::PATIENCE, |plan| !reached(plan)).unwrap();
        assert!(!timeout.timed_out(), "never reached");
    }

    fn wrap(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(TestFile { disk: self.clone(), file })
    }
}

fn failed(what: &str) -> io::Error {
    io::Error::other(format!("{what} fails, as planned"))
}

impl Disk for TestDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(RealDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(RealDisk.open(path)?))
    }

    fn open_for_repair(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(RealDisk.open_for_repair(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.plan().fail_removes { Err(failed("remove")) } else { RealDisk.remove(path) }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.plan().dir_syncs += 1;
        RealDisk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let mut plan = self.plan();
        plan.asked_for_space += 1;
        plan.free_bytes.map_or_else(|| RealDisk.free_bytes(dir), Ok)
    }

    fn draw_salt(&self) -> io::Result<u32> {
        self.plan().salt.map_or_else(|| RealDisk.draw_salt(), Ok)
    }

    fn now(&self) -> Instant {
        RealDisk.now() + self.plan().passed
    }
}

impl DiskFile for TestFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(page) = self.disk.plan().bad_page.map(|page| page * 4096)
            && offset < page + 4096
            && page < offset + bytes.len() as u64
        {
            return Err(failed("read"));
        }
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut plan = self.disk.plan();
        plan.writes += 1;
        let len = bytes.len().min(plan.short_writes.unwrap_or(usize::MAX));
        let len = len.min(plan.room.map_or(usize::MAX, |room| room as usize));
        if len == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = self.file.write_at(&bytes[..len], offset)?;
        plan.room = plan.room.map(|room| room - written as u64);
        Ok(written)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if self.disk.plan().fail_truncates { Err(failed("truncate")) } else { self.file.truncate(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.change(|plan| plan.syncs += 1);
        let wait =
            self.disk.0.changed.wait_timeout_while(self.disk.plan(), super::PATIENCE, |plan| plan.hold_syncs);
        let mut plan = wait.unwrap().0;
        if !plan.fail_syncs {
            drop(plan);
            return self.file.sync_data();
        }
        plan.failed_syncs += 1;
        self.disk.0.changed.notify_all();
        Err(failed("sync"))
    }
}
