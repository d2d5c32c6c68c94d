//! What a journal asks of the system, so that tests can make each of it fail and a simulation can give its own.
//!
//! Owns: the operations, their real implementation, and the names of a journal's files.
//! Does not own: what to do when one fails.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A file's number: one more than that of the file before it.
pub(crate) type FileNumber = u32;

/// Name of the folder for damaged bytes.
pub(crate) const QUARANTINE: &str = "quarantine";
/// Name of the file that is locked while a journal is open.
pub(crate) const LOCK: &str = "lock";

/// The name of a journal's file. Names sort like numbers.
pub(crate) fn file_name(number: FileNumber) -> String {
    format!("journal-{number:010}.log")
}

/// The path of a journal's file.
pub(crate) fn file_path(dir: &Path, number: FileNumber) -> PathBuf {
    dir.join(file_name(number))
}

/// The number of a file of this name, where it is one of a journal.
pub(crate) fn file_number(name: &str) -> Option<FileNumber> {
    let digits = name.strip_prefix("journal-")?.strip_suffix(".log")?;
    let number = digits.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// Files, as a folder has them; and what else a journal asks of the system.
///
/// Folders are listed, made and locked by `std::fs` itself: another disk has real files, too.
pub trait Disk: Send + Sync {
    /// Makes a file that must not exist.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to read it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to cut it or sync it.
    fn open_for_repair(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Deletes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Space that this process may still fill, in bytes.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// A number that marks the records of a new file as its own: no two files should have the same.
    fn draw_salt(&self) -> io::Result<u32> {
        getrandom::u32().map_err(io::Error::other)
    }
    /// A clock that never goes back, for what is to be synced or asked again some time later.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `bytes` from `offset` on.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes at `offset`, perhaps not all of `bytes`; says how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts the file.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes contents and length durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The disk there is.
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn open_for_repair(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_journal_gives_are_its_files() {
        assert_eq!(file_name(7), "journal-0000000007.log");
        assert_eq!(file_number("journal-0000000007.log"), Some(7));
        assert_eq!(file_number(&file_name(u32::MAX)), Some(u32::MAX));
        for name in
            ["journal-7.log", "journal-00000000007.log", "journal-+000000007.log", "lock", "journal-.log"]
        {
            assert_eq!(file_number(name), None, "{name}");
        }
    }
}
