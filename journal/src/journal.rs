//! The journal, as its users see it.
//!
//! Owns: what may be queued, and the life of the writer's thread.
//! Does not own: writing (`writer`), reading files at the start (`recovery`).

use crate::config::JournalConfig;
use crate::disk::{Disk, FileNumber, LOCK, RealDisk, file_name, file_path};
use crate::error::{AppendError, Full, OpenError, ReadError};
use crate::index::{Entry, Index};
use crate::queue::{Job, Queue};
use crate::record::{Record, record_bytes};
use crate::recovery::{self, Recovered};
use crate::room::{Load, RECHECK, Room};
use crate::writer::Writer;
use bytes::Bytes;
use prost::Message as _;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::block::BlockId;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::BucketStart;

/// Is told whether a block is kept. Called exactly once; it must neither block nor panic, because every other block waits.
pub type Done = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

/// What a journal takes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in files, the headers and the blocks that are no longer live included.
    pub disk_bytes: u64,
    /// Bytes of live blocks' records.
    pub live_bytes: u64,
    /// Live blocks.
    pub blocks: usize,
    /// Files.
    pub files: usize,
    /// Bytes accepted that are not in files yet.
    pub queued_bytes: u64,
    /// Whether blocks are taken, and why not.
    pub accepting: Result<(), Full>,
    /// What the files may take; `None`: as much as the disk has.
    pub limit_bytes: Option<u64>,
    /// Free on the disk when it was last asked; `None` where it does not tell.
    pub free_bytes: Option<u64>,
    /// What is left to others on the disk.
    pub min_free_bytes: u64,
}

/// How far writing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Blocks written since the journal was opened.
    pub kept: u64,
    /// How long the oldest block has waited whose outcome is open; nothing where none is.
    pub lag: Duration,
}

/// What callers and the writer's thread share.
pub(crate) struct Shared {
    pub(crate) config: JournalConfig,
    pub(crate) shards: ShardCount,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) room: Room,
    pub(crate) queue: Queue,
    /// Blocks written since the journal was opened.
    pub(crate) kept: AtomicU64,
    index: Mutex<Index>,
}

impl Shared {
    /// Locked after the queue, if both are; never held while a file is touched.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes files that the index has no more.
    pub(crate) fn remove_files(&self, files: impl IntoIterator<Item = FileNumber>) {
        for number in files {
            if let Err(error) = self.disk.remove(&file_path(&self.config.dir, number)) {
                let file = file_name(number);
                tracing::warn!(%error, file, "a journal file without live blocks cannot be deleted; opening tries again");
            }
            self.room.expire();
        }
    }
}

/// Ends the writing with the last handle.
struct Handle {
    shared: Arc<Shared>,
    runner: Runner,
}

/// Who has the writer write.
enum Runner {
    /// A thread of its own.
    Thread { id: ThreadId, running: Mutex<Option<JoinHandle<()>>> },
    /// A simulation, step by step.
    #[cfg(feature = "test-util")]
    Driven(Arc<crate::driven::Driven>),
}

/// A node's journal. Cheap to clone; the last clone closes it.
///
/// The queue before the writer has no limit of its own: whoever appends bounds the bytes in flight, for instance with permits
/// that `done` gives back.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

impl Journal {
    /// Opens the journal of `config.dir`, or begins one, for a cluster of so many shards.
    ///
    /// Damage does not keep it from opening: what can be read is, the rest is reported. What trimming did is not written down, so
    /// blocks that commits cover may be back, and duplicates of them; trim again by the commits.
    ///
    /// # Errors
    /// Where another process has the folder, where it was written by a later version or for another count of shards, and where
    /// the system fails.
    pub fn open(config: JournalConfig, shards: ShardCount) -> Result<(Self, Recovered), OpenError> {
        Self::open_on(config, shards, Arc::new(RealDisk), RECHECK)
    }

    pub(crate) fn open_on(
        config: JournalConfig,
        shards: ShardCount,
        disk: Arc<dyn Disk>,
        recheck: Duration,
    ) -> Result<(Self, Recovered), OpenError> {
        let (shared, writer, recovered) = read(config, shards, disk, recheck)?;
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::System { what: "a thread", source })?;
        let runner = Runner::Thread { id: thread.thread().id(), running: Mutex::new(Some(thread)) };
        Ok((Self { handle: Arc::new(Handle { shared, runner }) }, recovered))
    }

    /// Opens a journal on a disk of the caller's, without a thread: the caller's [`Pump`](crate::Pump) has it write, step by
    /// step. Where the last handle or the pump is dropped without [`close`](Self::close), what is still queued is lost, as it is
    /// when a process ends, and the folder is free for the next one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[cfg(feature = "test-util")]
    pub fn open_driven(
        config: JournalConfig,
        shards: ShardCount,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovered, crate::Pump), OpenError> {
        let (shared, writer, recovered) = read(config, shards, disk, RECHECK)?;
        let driven = Arc::new(crate::driven::Driven::new(Arc::clone(&shared), writer));
        let handle = Handle { shared, runner: Runner::Driven(Arc::clone(&driven)) };
        Ok((Self { handle: Arc::new(handle) }, recovered, crate::Pump::new(driven)))
    }

    /// Queues a block with the buckets that it has events of. `done` is called once: from the writer's thread when the block is
    /// kept or cannot be, or at once, from this thread, where that is known (full, closed, kept already).
    ///
    /// A block that is live already is not written again; one that is on its way gets its first copy's outcome; one that failed
    /// is tried again. So a sender's repetition may simply be appended. A block without buckets is never in a commit's coverage,
    /// which is per bucket: it is reported kept, and not written.
    pub fn append(&self, id: BlockId, mut buckets: Vec<BucketStart>, block: v1::Block, done: Done) {
        buckets.sort_unstable();
        buckets.dedup();
        let bytes = record_bytes(&block, buckets.len());
        let queued_at = self.handle.shared.disk.now();
        match self.enqueue(Job { id, buckets, block, bytes, queued_at, done }) {
            Ok(()) => {}
            Err((done, outcome)) => done(outcome),
        }
    }

    /// Gives the answer where it is known at once.
    fn enqueue(&self, job: Job) -> Result<(), (Done, Result<(), AppendError>)> {
        let shared = &self.handle.shared;
        if job.buckets.is_empty() {
            return Err((job.done, Ok(())));
        }
        if u32::try_from(job.bytes).is_err() {
            return Err((job.done, Err(AppendError::TooLarge { bytes: job.bytes })));
        }
        self.refresh_room();
        let mut state = shared.queue.lock();
        let Job { id, buckets, block, bytes, queued_at, done } = job;
        let Err(done) = state.wait_for(&id, done) else { return Ok(()) };
        if state.closing() {
            return Err((done, Err(AppendError::Closed)));
        }
        let index = shared.index();
        let (known, on_disk) = (index.contains(&id), index.totals().disk_bytes);
        drop(index);
        if known {
            return Err((done, Ok(())));
        }
        let load = Load { on_disk, queued: state.queued_bytes() };
        if let Err(full) = shared.room.check(bytes, load) {
            return Err((done, Err(full.into())));
        }
        shared.room.claim(bytes);
        shared.queue.push(state, Job { id, buckets, block, bytes, queued_at, done });
        Ok(())
    }

    /// Calls `done` with the outcome of the block if that is open, from the writer's thread; otherwise at once with `Ok`,
    /// because the block is kept, covered by commits, or was never here.
    ///
    /// A block whose append failed before this call is one that was never here. Where that matters, [`append`](Self::append)
    /// the block again instead: that waits too, and writes what is missing.
    pub fn barrier(&self, id: BlockId, done: Done) {
        let waiting = self.handle.shared.queue.lock().wait_for(&id, done);
        match waiting {
            Err(done) => done(Ok(())),
            Ok(()) => self.handle.runner.hurry(),
        }
    }

    /// The bucket's kept blocks that no commit covers, in append order. Blocks on their way are not among them.
    pub fn blocks_of(&self, shard: ShardId, bucket: BucketStart) -> Vec<Entry> {
        self.handle.shared.index().blocks_of(shard, bucket)
    }

    /// The shard's live blocks, each once, in append order.
    pub fn blocks(&self, shard: ShardId) -> Vec<Entry> {
        self.handle.shared.index().blocks(shard)
    }

    /// The buckets with blocks that no commit covers, and how many, by time.
    pub fn buckets(&self) -> Vec<(BucketStart, ShardId, usize)> {
        self.handle.shared.index().buckets()
    }

    /// Reads a block and checks it.
    ///
    /// # Errors
    /// Where commits cover it meanwhile, where it is damaged, and where the disk fails.
    pub fn read(&self, entry: &Entry) -> Result<v1::Block, ReadError> {
        let shared = &self.handle.shared;
        let file = file_path(&shared.config.dir, entry.at.file);
        let mut bytes = vec![0; entry.at.bytes as usize];
        let read = shared.disk.open(&file).and_then(|file| file.read_exact_at(&mut bytes, entry.at.offset));
        let damaged = |file| ReadError::Damaged { id: entry.id, file, offset: entry.at.offset };
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::Trimmed { id: entry.id });
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged(file)),
            Err(source) => return Err(ReadError::Io { file, source }),
        }
        decode(bytes, &entry.id).ok_or_else(|| damaged(file))
    }

    /// Takes the blocks of the bucket that `covered` has out of it. A block that is out of all its buckets is no longer live, and
    /// a file without live blocks is deleted. Blocks on their way are not touched: trim again when they have arrived.
    pub fn trim(&self, shard: ShardId, bucket: BucketStart, covered: &Coverage) {
        let shared = &self.handle.shared;
        let trimmed = shared.index().trim(shard, bucket, covered);
        shared.remove_files(trimmed.files);
        if trimmed.active_is_dead {
            shared.queue.nudge();
        }
    }

    /// What the journal takes up, and whether it takes more. The disk is asked at most every 200 ms.
    pub fn usage(&self) -> Usage {
        let shared = &self.handle.shared;
        let queued_bytes = shared.queue.lock().queued_bytes();
        let totals = shared.index().totals();
        let accepting = self.accepting();
        Usage {
            disk_bytes: totals.disk_bytes,
            live_bytes: totals.live_bytes,
            blocks: totals.blocks,
            files: totals.files,
            queued_bytes,
            accepting,
            limit_bytes: shared.config.limit_bytes,
            free_bytes: shared.room.free_bytes(),
            min_free_bytes: shared.config.min_free_bytes,
        }
    }

    /// Whether it takes blocks, and why not: [`Usage::accepting`] alone, which is asked for each block.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn accepting(&self) -> Result<(), Full> {
        let shared = &self.handle.shared;
        let queued = shared.queue.lock().queued_bytes();
        shared.room.refresh(queued);
        let on_disk = shared.index().totals().disk_bytes;
        shared.room.check(0, Load { on_disk, queued })
    }

    /// How far writing has come.
    pub fn progress(&self) -> Progress {
        let shared = &self.handle.shared;
        let oldest = shared.queue.lock().oldest();
        Progress {
            kept: shared.kept.load(Ordering::Relaxed),
            lag: oldest.map_or(Duration::ZERO, |at| shared.disk.now().saturating_duration_since(at)),
        }
    }

    fn refresh_room(&self) {
        let shared = &self.handle.shared;
        let queued = shared.queue.lock().queued_bytes();
        shared.room.refresh(queued);
    }

    /// Writes and syncs what is queued, and lets go of the folder. Appends after it fail; reading goes on.
    pub fn close(&self) {
        self.handle.close();
    }
}

impl Runner {
    /// Somebody is waiting. A thread writes anyway; nobody else does while the caller blocks the simulation.
    fn hurry(&self) {
        match self {
            Self::Thread { .. } => {}
            #[cfg(feature = "test-util")]
            Self::Driven(driven) => _ = driven.step(),
        }
    }

    /// Returns once what was queued is written. The queue is closed already.
    fn finish(&self) {
        match self {
            Self::Thread { id, running } => join(*id, running),
            #[cfg(feature = "test-util")]
            Self::Driven(driven) => while driven.step() {},
        }
    }
}

fn join(id: ThreadId, running: &Mutex<Option<JoinHandle<()>>>) {
    // A `Done` may hold the last handle; the thread cannot wait for itself.
    if thread::current().id() == id {
        return;
    }
    // Held until the thread has ended, so that every caller finds it ended.
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(thread) = running.take()
        && thread.join().is_err()
    {
        tracing::error!("the journal's thread had panicked");
    }
}

impl Handle {
    fn close(&self) {
        self.shared.queue.close();
        self.runner.finish();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        match &self.runner {
            Runner::Thread { .. } => self.close(),
            #[cfg(feature = "test-util")]
            Runner::Driven(driven) => driven.abandon(),
        }
    }
}

/// Locks and reads the folder, for whoever is to have the writer write.
fn read(
    config: JournalConfig,
    shards: ShardCount,
    disk: Arc<dyn Disk>,
    recheck: Duration,
) -> Result<(Arc<Shared>, Writer, Recovered), OpenError> {
    let lock = lock(&config.dir)?;
    let opened = recovery::recover(&*disk, &config.dir, shards)?;
    let room = Room::new(&config, Arc::clone(&disk), recheck);
    let (queue, index) = (Queue::default(), Mutex::new(opened.index));
    let kept = AtomicU64::new(0);
    let shared = Arc::new(Shared { config, shards, disk, room, queue, index, kept });
    let writer = Writer::new(Arc::clone(&shared), opened.next_file, lock);
    Ok((shared, writer, opened.recovered))
}

/// Makes the folder, and locks it.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let io_error = |act, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { act, path, source }
    };
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(io_error("make the folder", dir))?;
        sync_parent(dir).map_err(io_error("make durable the folder", dir))?;
    }
    let path = dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    let parent = fs::canonicalize(dir)?;
    parent.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// The block of a record, which shares its bytes.
fn decode(bytes: Vec<u8>, id: &BlockId) -> Option<v1::Block> {
    let bytes = Bytes::from(bytes);
    let record = Record::parse(&bytes, None).ok()?;
    if record.bytes != bytes.len() || !record.is_of(id) {
        return None;
    }
    v1::Block::decode(bytes.slice_ref(record.block)).ok()
}
