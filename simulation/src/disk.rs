//! A host's disk.
//!
//! Owns: what of its files would survive a loss of power, losing the rest, and failing as told.
//! Does not own: the bytes, which are in real files; who has them written (`host`).
//!
//! A loss of power leaves of each file what was synced, and some of what was written since: perhaps its beginning, perhaps
//! with zeros where the rest was to be. A file whose folder was not synced since it was made may be gone, one that was
//! deleted may be back.

use crate::random::Random;
use crate::time::Time;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidemark_journal::{Disk, DiskFile};

/// How a disk is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskFaults {
    /// What it has room for. `None`: as much as anybody needs.
    pub capacity_bytes: Option<u64>,
    /// The share of writes that fail, from 0 to 1.
    pub failing_writes: f64,
    /// The share of syncs that fail. What they should have synced is lost with the power.
    pub failing_syncs: f64,
    /// What writing and syncing a batch takes.
    pub takes: Range<Duration>,
}

impl Default for DiskFaults {
    /// 1 to 8 ms, and nothing fails.
    fn default() -> Self {
        let takes = Duration::from_millis(1)..Duration::from_millis(8);
        Self { capacity_bytes: None, failing_writes: 0.0, failing_syncs: 0.0, takes }
    }
}

/// A file, as far as it matters when the power is lost.
#[derive(Clone, Copy, Debug, Default)]
struct Content {
    written: u64,
    durable: u64,
    entry_is_durable: bool,
}

#[derive(Debug)]
struct State {
    generation: u64,
    files: BTreeMap<PathBuf, Content>,
    /// Deleted, and back if the power is lost now: where its bytes are meanwhile.
    deleted: BTreeMap<PathBuf, (PathBuf, Content)>,
    deletions: u64,
    faults: DiskFaults,
    random: Random,
}

#[derive(Debug)]
struct Inner {
    time: Arc<Time>,
    began: Instant,
    trash: PathBuf,
    state: Mutex<State>,
}

/// A disk, as the world has it. Clones are one disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Inner>);

/// A disk, as one process has it: nothing works any more once the process is gone.
#[derive(Debug)]
struct Mounted {
    disk: Arc<Inner>,
    generation: u64,
}

struct OpenFile {
    disk: Arc<Inner>,
    generation: u64,
    path: PathBuf,
    file: File,
}

impl SimDisk {
    pub(crate) fn new(time: Arc<Time>, random: Random, trash: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&trash)?;
        let state = State {
            generation: 0,
            files: BTreeMap::new(),
            deleted: BTreeMap::new(),
            deletions: 0,
            faults: DiskFaults::default(),
            random,
        };
        Ok(Self(Arc::new(Inner { time, began: Instant::now(), trash, state: Mutex::new(state) })))
    }

    /// Is doing so from now on.
    pub fn set(&self, faults: DiskFaults) {
        self.0.state().faults = faults;
    }

    /// As the process sees it that begins now.
    pub(crate) fn mount(&self) -> Arc<dyn Disk> {
        let generation = self.0.state().generation;
        Arc::new(Mounted { disk: Arc::clone(&self.0), generation })
    }

    /// What the next batch takes.
    pub(crate) fn draw_delay(&self) -> Duration {
        let mut state = self.0.state();
        let takes = state.faults.takes.clone();
        state.random.between(&takes)
    }

    /// The process is gone: nothing that it has open works any more, but the machine will write what it was given.
    pub(crate) fn detach(&self) {
        self.0.state().generation += 1;
    }

    /// The power is lost.
    pub(crate) fn lose_power(&self) -> io::Result<()> {
        let mut state = self.0.state();
        state.generation += 1;
        let State { files, deleted, random, .. } = &mut *state;
        for (path, (kept_at, content)) in std::mem::take(deleted) {
            if random.happens(0.5) && !path.exists() {
                fs::rename(&kept_at, &path)?;
                files.insert(path, content);
            } else {
                fs::remove_file(&kept_at)?;
            }
        }
        let mut gone = Vec::new();
        for (path, content) in files.iter_mut() {
            if !content.entry_is_durable && random.happens(0.5) {
                fs::remove_file(path)?;
                gone.push(path.clone());
                continue;
            }
            let unsynced = content.written.saturating_sub(content.durable);
            let left = content.durable + random.up_to(unsynced);
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(left)?;
            if left < content.written && random.happens(0.25) {
                file.set_len(content.written)?;
            }
            let len = file.metadata()?.len();
            *content = Content { written: len, durable: len, entry_is_durable: true };
        }
        gone.iter().for_each(|path| _ = files.remove(path));
        Ok(())
    }
}

fn failed(what: &str) -> io::Error {
    io::Error::other(format!("{what} fails, as the simulation has it"))
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for a process that is there.
    fn of(&self, generation: u64) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.generation == generation { Ok(state) } else { Err(failed("a disk whose process is gone")) }
    }
}

impl State {
    fn free_bytes(&self) -> u64 {
        let used: u64 = self.files.values().map(|content| content.written).sum();
        self.faults.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(used))
    }
}

impl Mounted {
    fn open_file(&self, path: &Path, options: &OpenOptions) -> io::Result<Box<dyn DiskFile>> {
        let file = options.open(path)?;
        let mut state = self.disk.of(self.generation)?;
        if !state.files.contains_key(path) {
            let len = file.metadata()?.len();
            let content = Content { written: len, durable: len, entry_is_durable: true };
            state.files.insert(path.to_owned(), content);
        }
        let (disk, generation) = (Arc::clone(&self.disk), self.generation);
        Ok(Box::new(OpenFile { disk, generation, path: path.to_owned(), file }))
    }
}

impl Disk for Mounted {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.disk.of(self.generation)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        if let Some((kept_at, _)) = state.deleted.remove(path) {
            fs::remove_file(kept_at)?;
        }
        state.files.insert(path.to_owned(), Content::default());
        let (disk, generation) = (Arc::clone(&self.disk), self.generation);
        Ok(Box::new(OpenFile { disk, generation, path: path.to_owned(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_file(path, OpenOptions::new().read(true))
    }

    fn open_for_repair(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_file(path, OpenOptions::new().read(true).write(true))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.disk.of(self.generation)?;
        let content = state.files.remove(path).unwrap_or_default();
        if !content.entry_is_durable {
            return fs::remove_file(path);
        }
        state.deletions += 1;
        let kept_at = self.disk.trash.join(state.deletions.to_string());
        fs::rename(path, &kept_at)?;
        state.deleted.insert(path.to_owned(), (kept_at, content));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.disk.of(self.generation)?;
        let share = state.faults.failing_syncs;
        if state.random.happens(share) {
            return Err(failed("syncing a folder"));
        }
        for (path, content) in &mut state.files {
            content.entry_is_durable |= path.parent() == Some(dir);
        }
        let gone: Vec<PathBuf> =
            state.deleted.keys().filter(|path| path.parent() == Some(dir)).cloned().collect();
        for path in gone {
            if let Some((kept_at, _)) = state.deleted.remove(&path) {
                fs::remove_file(kept_at)?;
            }
        }
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.disk.of(self.generation)?.free_bytes())
    }

    fn draw_salt(&self) -> io::Result<u32> {
        Ok(self.disk.of(self.generation)?.random.next() as u32)
    }

    fn now(&self) -> Instant {
        self.disk.began + self.disk.time.now()
    }
}

impl DiskFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        let _state = self.disk.of(self.generation)?;
        DiskFile::len(&self.file)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let _state = self.disk.of(self.generation)?;
        DiskFile::read_exact_at(&self.file, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.of(self.generation)?;
        let share = state.faults.failing_writes;
        if state.random.happens(share) {
            return Err(failed("writing"));
        }
        let room = usize::try_from(state.free_bytes()).unwrap_or(usize::MAX);
        let taken = bytes.get(..room).unwrap_or(bytes);
        if taken.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let count = DiskFile::write_at(&self.file, taken, offset)?;
        if let Some(content) = state.files.get_mut(&self.path) {
            content.written = content.written.max(offset + count as u64);
            content.durable = content.durable.min(offset);
        }
        Ok(count)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.of(self.generation)?;
        DiskFile::truncate(&self.file, len)?;
        if let Some(content) = state.files.get_mut(&self.path) {
            content.written = len;
            content.durable = content.durable.min(len);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.of(self.generation)?;
        let share = state.faults.failing_syncs;
        if state.random.happens(share) {
            return Err(failed("syncing"));
        }
        if let Some(content) = state.files.get_mut(&self.path) {
            content.durable = content.written;
        }
        Ok(())
    }
}
