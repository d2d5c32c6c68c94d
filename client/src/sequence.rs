//! The file that says who a producer is, and which of its sequence numbers may be used.
//!
//! Owns: the file's format, and that it is on disk before a number of it is used.
//! Does not own: giving the numbers out (`producer`), the blocks beside it (`spool`).
//!
//! ```text
//! "tdmkseq" version(1)  producer(16)  shards(4, LE)  reserved(8, LE)  crc32c of all that (4, LE)
//! ```

use crate::error::SpoolError;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::sharding::ShardCount;

const MAGIC: &[u8; 8] = b"tdmkseq\x01";
const BYTES: usize = 8 + 16 + 4 + 8 + 4;
const FILE: &str = "sequence";

/// So many numbers are reserved at a time. A restart skips what is left of them, of 2^64.
pub(crate) const RESERVE: u64 = 100_000;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) producer: ProducerId,
    /// Of the cluster that the blocks are made for.
    pub(crate) shards: ShardCount,
    /// All numbers below may have been used.
    pub(crate) reserved: u64,
}

/// Where the file of this folder is.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

impl Sequence {
    /// What the file in `dir` says; `None` where there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, SpoolError> {
        let path = path(dir);
        match fs::read(&path) {
            Ok(bytes) => match Self::decode(&bytes) {
                Some(sequence) => Ok(Some(sequence)),
                None => Err(SpoolError::Sequence { file: path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SpoolError::Io { act: "read", path, source }),
        }
    }

    /// Puts the file in place, durably: either the old one or the new one is there after a crash.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), SpoolError> {
        let path = path(dir);
        let new = path.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|source| SpoolError::Io { act: "write", path: path.clone(), source })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.producer.to_wire());
        bytes.extend_from_slice(&self.shards.get().to_le_bytes());
        bytes.extend_from_slice(&self.reserved.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(content) {
            return None;
        }
        let rest = content.strip_prefix(MAGIC.as_slice())?;
        let (producer, rest) = rest.split_at_checked(16)?;
        let (shards, reserved) = rest.split_at_checked(4)?;
        Some(Self {
            producer: ProducerId::from_wire(producer)?,
            shards: ShardCount::new(u32::from_le_bytes(shards.try_into().ok()?))?,
            reserved: u64::from_le_bytes(reserved.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(reserved: u64) -> Sequence {
        Sequence { producer: ProducerId::from_u128(77), shards: ShardCount::DEFAULT, reserved }
    }

    #[test]
    fn what_is_written_is_read_and_a_later_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Sequence::read(dir.path()).unwrap(), None);
        for reserved in [100_000, 200_000] {
            sequence(reserved).write(dir.path()).unwrap();
            assert_eq!(Sequence::read(dir.path()).unwrap(), Some(sequence(reserved)));
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let good = sequence(5).encode();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            fs::write(path(dir.path()), &bytes).unwrap();
            let error = Sequence::read(dir.path()).expect_err("a changed byte").to_string();
            assert!(error.contains("sequence") && error.contains("another folder"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_sequence_file_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(Sequence::decode(&bytes), None);
        }

        #[test]
        fn any_sequence_survives_its_file(producer in any::<u128>(), bits in 0..13_u32, reserved in any::<u64>()) {
            let shards = ShardCount::new(1 << bits).unwrap();
            let sequence = Sequence { producer: ProducerId::from_u128(producer), shards, reserved };
            prop_assert_eq!(Sequence::decode(&sequence.encode()), Some(sequence));
        }
    }
}
