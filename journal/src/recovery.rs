//! Reads the files of a journal when it is opened.
//!
//! Owns: what is live at the start, what is cut off, what is set aside, and the report of all that.
//! Does not own: finding records in bytes (`scan`), writing from then on (`writer`).
//!
//! The end of the newest file may be half a write: no block of it was reported kept, and it is cut off. All else that is no record
//! was one, so it is copied to a folder of its own before anything forgets it. A file is never appended to again: a journal that
//! is opened begins a new one.

use crate::disk::{Disk, DiskFile, FileNumber, QUARANTINE, file_name, file_number, file_path, write_all_at};
use crate::error::OpenError;
use crate::index::{Index, Location};
use crate::record::{FILE_HEADER_BYTES, Record};
use crate::scan::{Scanned, scan};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::BucketStart;

/// Files are read in pieces of this size,
const READ_BYTES: usize = 1 << 20;
/// and a piece that cannot be read, in pieces of this size, so that a bad sector costs as little as possible.
const SECTOR_BYTES: usize = 4 << 10;

/// What opening a journal found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Live blocks.
    pub blocks: usize,
    /// Bytes that were read.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Ends that were cut off, because a crash had interrupted writing them.
    pub cut: Vec<Cut>,
    /// Bytes that should have been records. Blocks are lost here; other owners have them.
    pub damaged: Vec<Damage>,
}

/// A torn end of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub file: PathBuf,
    /// How many bytes were cut off.
    pub bytes: u64,
}

/// Damaged bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where they begin, in bytes.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
    /// Where a copy of them is; `None` where none could be made.
    pub set_aside: Option<PathBuf>,
}

/// A journal that was read.
pub(crate) struct Opened {
    pub(crate) index: Index,
    pub(crate) next_file: FileNumber,
    pub(crate) recovered: Recovered,
}

/// Reads the journal in `dir`, which exists and is locked.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path, shards: ShardCount) -> Result<Opened, OpenError> {
    let began = disk.now();
    let files = list(dir)?;
    let newest = files.last().copied();
    let mut recovery = Recovery {
        disk,
        dir,
        shards,
        index: Index::default(),
        recovered: Recovered::default(),
        contents: Vec::new(),
        keep: Vec::new(),
    };
    for &number in &files {
        recovery.file(number, Some(number) == newest)?;
    }
    recovery.delete_dead_files();
    let Recovery { index, mut recovered, .. } = recovery;
    recovered.blocks = index.totals().blocks;
    recovered.took = disk.now().duration_since(began);
    Ok(Opened { index, next_file: newest.map_or(1, |newest| newest.saturating_add(1)), recovered })
}

/// The numbers of the files, ascending.
fn list(dir: &Path) -> Result<Vec<FileNumber>, OpenError> {
    let io_error = |source| OpenError::Io { act: "list", path: dir.to_owned(), source };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error)? {
        numbers.extend(entry.map_err(io_error)?.file_name().to_str().and_then(file_number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    shards: ShardCount,
    index: Index,
    recovered: Recovered,
    /// Of the file at hand: whether all was readable, and what. The room is used again.
    contents: Vec<u8>,
    /// Files that have the only copy of damaged bytes.
    keep: Vec<FileNumber>,
}

impl Recovery<'_> {
    fn file(&mut self, number: FileNumber, newest: bool) -> Result<(), OpenError> {
        let path = file_path(self.dir, number);
        let io_error = |act| {
            let path = path.clone();
            move |source| OpenError::Io { act, path, source }
        };
        let file = self.disk.open_for_repair(&path).map_err(io_error("open"))?;
        let contents = std::mem::take(&mut self.contents);
        let (contents, len, readable) = read_whole(&*file, contents).map_err(io_error("read"))?;
        let bytes = contents.get(..len).unwrap_or_default();
        self.recovered.bytes += len as u64;
        self.index.set_file_bytes(number, len as u64);
        let scanned = self.index_records(number, &path, bytes)?;
        self.check_shard_count(&path, &scanned)?;
        for range in &scanned.bad {
            if readable && is_torn(range, len, newest) {
                self.cut(number, &*file, range);
            } else {
                self.set_aside(number, bytes, range);
            }
        }
        if newest {
            // The process before this one may have ended between writing and syncing.
            file.sync_data().map_err(io_error("sync"))?;
        }
        self.contents = contents;
        Ok(())
    }

    fn index_records(&mut self, file: FileNumber, path: &Path, bytes: &[u8]) -> Result<Scanned, OpenError> {
        let (index, shards) = (&mut self.index, self.shards);
        let mut buckets = Vec::new();
        let scanned = scan(bytes, |offset, record| {
            let Some(id) = record.id(shards).filter(|_| read_buckets(&record, &mut buckets)) else {
                return false;
            };
            let at = Location { file, bytes: record.bytes as u32, offset: offset as u64 };
            // Of two copies the first counts.
            index.insert(id, at, &buckets);
            true
        });
        scanned.map_err(|version| OpenError::Version { file: path.to_owned(), version })
    }

    fn check_shard_count(&self, path: &Path, scanned: &Scanned) -> Result<(), OpenError> {
        match scanned.header {
            Some(header) if header.shards != self.shards.get() => {
                let (found, given) = (header.shards, self.shards.get());
                Err(OpenError::ShardCount { file: path.to_owned(), found, given })
            }
            _ => Ok(()),
        }
    }

    fn cut(&mut self, number: FileNumber, file: &dyn DiskFile, range: &Range<usize>) {
        let bytes = range.len() as u64;
        let name = file_name(number);
        tracing::warn!(
            file = name,
            bytes,
            "cut off the torn end of a journal file; none of it was acknowledged"
        );
        match file.truncate(range.start as u64) {
            Ok(()) => self.index.set_file_bytes(number, range.start as u64),
            // Nobody appends to the file, so this end is harmless.
            Err(error) => tracing::warn!(%error, file = name, "the torn end stays"),
        }
        self.recovered.cut.push(Cut { file: file_path(self.dir, number), bytes });
    }

    fn set_aside(&mut self, number: FileNumber, contents: &[u8], range: &Range<usize>) {
        let (file, offset, bytes) = (file_path(self.dir, number), range.start as u64, range.len() as u64);
        let damaged = contents.get(range.clone()).unwrap_or_default();
        let copy = quarantine(self.disk, self.dir, &format!("{}-{offset}", file_name(number)), damaged);
        let set_aside = match copy {
            Ok(path) => Some(path),
            Err(error) => {
                tracing::error!(%error, "damaged bytes of the journal cannot be copied");
                self.keep.push(number);
                None
            }
        };
        let name = file_name(number);
        tracing::error!(
            file = name,
            offset,
            bytes,
            "a journal file is damaged: blocks in it are lost on this node"
        );
        self.recovered.damaged.push(Damage { file, offset, bytes, set_aside });
    }

    fn delete_dead_files(&mut self) {
        for number in self.index.remove_dead_files() {
            let deleted = match self.keep.contains(&number) {
                true => continue,
                false => self.disk.remove(&file_path(self.dir, number)),
            };
            if let Err(error) = deleted {
                let file = file_name(number);
                tracing::warn!(%error, file, "a journal file without live blocks cannot be deleted");
            }
        }
    }
}

/// The record's buckets, in order and each once; `false` where one is none or there are none.
pub(crate) fn read_buckets(record: &Record<'_>, buckets: &mut Vec<BucketStart>) -> bool {
    buckets.clear();
    for bucket in record.buckets() {
        let Some(bucket) = bucket else { return false };
        buckets.push(bucket);
    }
    buckets.sort_unstable();
    buckets.dedup();
    !buckets.is_empty()
}

/// Whether bytes that are no record are what an interrupted write leaves: the end of the newest file, or a file that did not
/// get as far as a header.
fn is_torn(bad: &Range<usize>, len: usize, newest: bool) -> bool {
    len < FILE_HEADER_BYTES || (newest && bad.end == len && bad.start >= FILE_HEADER_BYTES)
}

/// Reads the file into `contents`, which keeps its size where that is larger. Says how much there is, and whether all of it could
/// be read; zeros stand for what could not.
fn read_whole(file: &dyn DiskFile, mut contents: Vec<u8>) -> io::Result<(Vec<u8>, usize, bool)> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    if contents.len() < len {
        contents.resize(len, 0);
    }
    let mut readable = true;
    let mut offset = 0;
    for piece in contents[..len].chunks_mut(READ_BYTES) {
        if file.read_exact_at(piece, offset).is_err() {
            readable &= read_sectors(file, piece, offset);
        }
        offset += piece.len() as u64;
    }
    Ok((contents, len, readable))
}

fn read_sectors(file: &dyn DiskFile, piece: &mut [u8], mut offset: u64) -> bool {
    let mut readable = true;
    for sector in piece.chunks_mut(SECTOR_BYTES) {
        if let Err(error) = file.read_exact_at(sector, offset) {
            tracing::error!(%error, offset, "a sector of the journal cannot be read");
            sector.fill(0);
            readable = false;
        }
        offset += sector.len() as u64;
    }
    readable
}

/// Copies damaged bytes. A copy that is there already is not made again; another one of that name is left alone.
fn quarantine(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let folder = dir.join(QUARANTINE);
    fs::create_dir_all(&folder)?;
    let mut path = folder.join(name);
    for copy in 2.. {
        match disk.create(&path) {
            Ok(file) => {
                let written = write_all_at(&*file, bytes, 0).and_then(|()| file.sync_data());
                return match written.and_then(|()| disk.sync_dir(&folder)) {
                    Ok(()) => Ok(path),
                    Err(error) => {
                        let _ = disk.remove(&path);
                        Err(error)
                    }
                };
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) if fs::read(&path)? == bytes => return Ok(path),
            Err(_) => path = folder.join(format!("{name}-{copy}")),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
