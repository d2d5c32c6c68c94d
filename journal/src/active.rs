//! The file that is written to.
//!
//! Owns: its length, as far as blocks in it were reported kept, and getting back to that length after an error.
//! Does not own: what is written, and when.
//!
//! Invariant: records are appended at the end of whole records only, so a half-written one never precedes a good one.

use crate::disk::{Disk, DiskFile, FileNumber, file_path, write_all_at};
use crate::record::{FILE_HEADER_BYTES, FileHeader, Salt};
use std::io;
use std::path::{Path, PathBuf};

/// An open file with a header.
pub(crate) struct Active {
    pub(crate) number: FileNumber,
    pub(crate) path: PathBuf,
    pub(crate) salt: Salt,
    file: Box<dyn DiskFile>,
    /// What was written.
    written: u64,
    /// How much of that is reported kept.
    settled: u64,
}

impl Active {
    /// Makes the file, and its entry in the folder durable. What is left of a failed attempt is deleted.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, header: FileHeader) -> io::Result<Self> {
        let path = file_path(dir, header.number);
        let file = disk.create(&path)?;
        let begun = write_all_at(&*file, &header.encode(), 0).and_then(|()| disk.sync_dir(dir));
        if let Err(error) = begun {
            // It has no records: if it cannot be deleted either, opening the journal does it.
            let _ = disk.remove(&path);
            return Err(error);
        }
        let written = FILE_HEADER_BYTES as u64;
        Ok(Self { number: header.number, path, salt: header.salt, file, written, settled: written })
    }

    /// Length of what was written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Length of what is reported kept.
    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }

    /// Appends whole records.
    pub(crate) fn write(&mut self, records: &[u8]) -> io::Result<()> {
        write_all_at(&*self.file, records, self.written)?;
        self.written += records.len() as u64;
        Ok(())
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// All that was written is reported kept.
    pub(crate) fn settle(&mut self) {
        self.settled = self.written;
    }

    /// Cuts off what is not reported kept. After an error the file must not be written to any more.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        self.file.truncate(self.settled)?;
        self.written = self.settled;
        Ok(())
    }
}
