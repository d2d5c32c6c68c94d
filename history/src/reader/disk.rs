//! Pieces of segments in a folder.
//!
//! Owns: which pieces are there, writing and reading them, and who goes first.
//! Does not own: whether a piece is what was committed: whoever reads it verifies it, and has it discarded where it is not.
//!
//! Invariants:
//! * The files take no more than the limit, also while one is written.
//! * A disk that is full or fails costs nothing but the use of it.
//! * Files that are no pieces by their names are left alone: somebody may have named the wrong folder.

use super::lru::Lru;
use super::piece::Piece;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// After a failed write, none is tried for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// Pieces that wait to be written take so much memory at most, in KiB. Those beyond are not written.
const BACKLOG_KIB: u32 = 64 << 10;
/// A piece much larger than what is needed of it is slower than the store.
const LARGER_BYTES: u64 = 4 << 20;
const TEMPORARY: &str = "writing.tmp";

/// The folder.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    index: Mutex<Index>,
    backlog: Arc<Semaphore>,
    /// One file is written at a time.
    writing: tokio::sync::Mutex<()>,
    hits: AtomicU64,
}

#[derive(Debug)]
struct Index {
    files: Lru<Piece, ()>,
    by_object: HashMap<u128, Vec<Piece>>,
    paused_until: Option<Instant>,
}

impl Disk {
    /// The folder, with what an earlier run left there. None where it cannot be used. Blocks.
    pub(super) fn open(folder: &Path, limit: u64) -> Option<Self> {
        let found = fs::create_dir_all(folder).and_then(|()| scan(folder));
        let found = found.inspect_err(|error| {
            tracing::warn!(%error, folder = %folder.display(), "segments are not cached on disk");
        });
        let mut index = Index { files: Lru::new(limit), by_object: HashMap::new(), paused_until: None };
        for piece in found.ok()? {
            let gone = match index.files.admits(piece.file_bytes()) {
                true => index.insert(piece),
                false => vec![piece],
            };
            gone.iter().for_each(|piece| delete(folder, piece));
        }
        Some(Self {
            folder: folder.to_owned(),
            index: Mutex::new(index),
            backlog: Arc::new(Semaphore::new(BACKLOG_KIB as usize)),
            writing: tokio::sync::Mutex::default(),
            hits: AtomicU64::new(0),
        })
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.index().files.bytes()
    }

    /// How many ranges came from here.
    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// A file that has these bytes of an object. Does not block.
    pub(super) fn find(&self, object: u128, range: &Range<u64>) -> Option<Piece> {
        let mut index = self.index();
        let most = (range.end - range.start).saturating_mul(4).saturating_add(LARGER_BYTES);
        let fits = |piece: &&Piece| piece.covers(range) && piece.len() <= most;
        let found = *index.by_object.get(&object)?.iter().filter(fits).min_by_key(|piece| piece.len())?;
        index.files.get(&found)?;
        Some(found)
    }

    /// These bytes out of a file; none where it is not what was written. Then it is deleted. Blocks.
    pub(super) fn read(&self, piece: &Piece, range: &Range<u64>) -> Option<Bytes> {
        let path = self.folder.join(piece.file_name());
        let content = fs::read(&path).map(|file| piece.content(file));
        let Ok(Some(content)) = content else {
            // It may have had to go for another one meanwhile.
            if content.is_ok_and(|content| content.is_none()) {
                tracing::warn!(path = %path.display(), "a damaged file of the cache is deleted");
            }
            self.forget(piece);
            return None;
        };
        self.hits.fetch_add(1, Ordering::Relaxed);
        let from = usize::try_from(range.start - piece.start).ok()?;
        let to = usize::try_from(range.end - piece.start).ok()?;
        Some(content.slice(from..to))
    }

    /// Deletes all files that have any of these bytes of an object. Blocks.
    pub(super) fn discard(&self, object: u128, ranges: &[Range<u64>]) {
        let mut pieces = self.index().by_object.get(&object).cloned().unwrap_or_default();
        pieces.retain(|piece| ranges.iter().any(|range| piece.start < range.end && range.start < piece.end));
        pieces.iter().for_each(|piece| self.forget(piece));
    }

    /// Deletes a file. Blocks.
    fn forget(&self, piece: &Piece) {
        self.index().remove(piece);
        delete(&self.folder, piece);
    }

    /// Writes a piece in the background, if there is room for it.
    pub(super) fn save(self: &Arc<Self>, piece: Piece, content: Bytes) {
        if !self.wants(&piece) {
            return;
        }
        // What waits to be written is held in memory.
        let permits = u32::try_from(piece.len().div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, BACKLOG_KIB);
        let Ok(permit) = Arc::clone(&self.backlog).try_acquire_many_owned(permits) else { return };
        let disk = Arc::clone(self);
        tokio::spawn(async move {
            let writing = disk.writing.lock().await;
            let writer = Arc::clone(&disk);
            tidemark_shell::work::run(move || writer.write(&piece, &content)).await;
            drop((writing, permit));
        });
    }

    /// Waits until all that was to be written is.
    pub(super) async fn settled(&self) {
        drop(self.backlog.acquire_many(BACKLOG_KIB).await);
    }

    fn wants(&self, piece: &Piece) -> bool {
        let index = self.index();
        let paused = index.paused_until.is_some_and(|until| Instant::now() < until);
        !paused && piece.len() > 0 && index.files.admits(piece.file_bytes()) && !index.files.contains(piece)
    }

    fn write(&self, piece: &Piece, content: &[u8]) {
        if !self.wants(piece) {
            return;
        }
        let gone = self.index().make_room(piece.file_bytes());
        gone.iter().for_each(|piece| delete(&self.folder, piece));
        match self.try_write(piece, content) {
            Ok(()) => _ = self.index().insert(*piece),
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "segments are not cached on disk for a while");
                self.index().paused_until = Some(Instant::now() + PAUSE);
                _ = fs::remove_file(self.folder.join(TEMPORARY));
            }
        }
    }

    /// Not flushed to the disk: what a crash leaves half written is found out by its checksum.
    fn try_write(&self, piece: &Piece, content: &[u8]) -> io::Result<()> {
        let temporary = self.folder.join(TEMPORARY);
        let mut file = File::create(&temporary)?;
        file.write_all(&piece.header(content))?;
        file.write_all(content)?;
        fs::rename(&temporary, self.folder.join(piece.file_name()))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn insert(&mut self, piece: Piece) -> Vec<Piece> {
        let gone = self.make_room(piece.file_bytes());
        self.remove(&piece);
        self.files.insert(piece, (), piece.file_bytes());
        self.by_object.entry(piece.object).or_default().push(piece);
        gone
    }

    fn make_room(&mut self, bytes: u64) -> Vec<Piece> {
        let gone: Vec<Piece> = self.files.make_room(bytes).into_iter().map(|(piece, ())| piece).collect();
        gone.iter().for_each(|piece| self.unlist(piece));
        gone
    }

    fn remove(&mut self, piece: &Piece) {
        self.files.remove(piece);
        self.unlist(piece);
    }

    fn unlist(&mut self, piece: &Piece) {
        let Some(pieces) = self.by_object.get_mut(&piece.object) else { return };
        pieces.retain(|listed| listed != piece);
        if pieces.is_empty() {
            self.by_object.remove(&piece.object);
        }
    }
}

/// The pieces in a folder, the oldest first. What is half written is deleted.
fn scan(folder: &Path) -> io::Result<Vec<Piece>> {
    _ = fs::remove_file(folder.join(TEMPORARY));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(piece) = entry.file_name().to_str().and_then(Piece::parse) else { continue };
        // One that another process deletes at this moment is none.
        let Ok(metadata) = entry.metadata() else { continue };
        match metadata.len() == piece.file_bytes() {
            true => found.push((metadata.modified().ok(), piece.object, piece.start, piece)),
            false => delete(folder, &piece),
        }
    }
    found.sort_unstable_by_key(|&(modified, object, start, _)| (modified, object, start));
    Ok(found.into_iter().map(|(.., piece)| piece).collect())
}

fn delete(folder: &Path, piece: &Piece) {
    let path = folder.join(piece.file_name());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a file of the cache cannot be deleted");
        }
        _ => {}
    }
}
