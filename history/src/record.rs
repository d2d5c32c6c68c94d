//! The frame of small records: commits, replacements, coverage, cluster facts.
//!
//! Owns: magic, version, kind, length and checksum around a record's message, and what may be wrong with them.
//! Does not own: what the messages say.
//!
//! ```text
//! "TMRK"  version: u8  kind: u8  length: u32  checksum: u64  message
//! ```
//! Numbers are little-endian, the length is the message's in bytes, the checksum its xxh3-64.

use bytes::Bytes;
use prost::Message;
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 4] = b"TMRK";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 18;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A `Commit`.
    Commit = 1,
    /// A `Replacement`.
    Replacement = 2,
    /// A `DayCoverage`.
    Coverage = 3,
    /// Facts that all members agree on.
    Cluster = 4,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commit => "commit",
            Self::Replacement => "replacement",
            Self::Coverage => "coverage",
            Self::Cluster => "cluster",
        })
    }
}

/// An object that is not the record it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} {fault}")]
pub struct RecordError {
    /// Path of the object.
    pub path: String,
    /// What is wrong with it.
    pub fault: RecordFault,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Something else wrote it, or its beginning is lost. Restore it, or rebuild its day.
    #[error("is no record of tidemark: restore it, or rebuild its day")]
    NotARecord,
    /// Restore it, or rebuild its day.
    #[error("is cut off after {found} of {expected} bytes: restore it, or rebuild its day")]
    Truncated {
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// Restore it, or rebuild its day.
    #[error("has {extra} bytes after its end: restore it, or rebuild its day")]
    TooLong {
        /// Bytes that it should not have.
        extra: u64,
    },
    /// Restore it, or rebuild its day.
    #[error("is damaged (its checksum does not match): restore it, or rebuild its day")]
    Checksum,
    /// A newer member is in the cluster. Update this one.
    #[error("has version {found}, newer than {VERSION}: update tidemark here")]
    NewerVersion {
        /// Its version.
        found: u8,
    },
    /// Something else was put in its place.
    #[error("is of kind {found}, not a {expected}: restore it, or rebuild its day")]
    OtherKind {
        /// What it should be.
        expected: RecordKind,
        /// The kind's number that it has.
        found: u8,
    },
    /// Written by a member with a defect, or by something else.
    #[error("makes no sense: {0}")]
    Nonsense(String),
}

impl RecordFault {
    /// The fault of the object at `path`.
    pub fn at(self, path: impl fmt::Display) -> RecordError {
        RecordError { path: path.to_string(), fault: self }
    }
}

/// A message as a record.
pub fn encode(kind: RecordKind, message: &impl Message) -> Bytes {
    let payload = message.encode_to_vec();
    let mut record = Vec::with_capacity(HEADER_BYTES + payload.len());
    record.extend_from_slice(MAGIC);
    record.extend([VERSION, kind as u8]);
    record.extend((payload.len() as u32).to_le_bytes());
    record.extend(xxh3_64(&payload).to_le_bytes());
    record.extend(payload);
    record.into()
}

/// The message of a record.
///
/// # Errors
/// Says what is wrong with the bytes.
pub fn decode<M: Message + Default>(kind: RecordKind, bytes: &[u8]) -> Result<M, RecordFault> {
    let payload = payload(kind, bytes)?;
    M::decode(payload).map_err(|error| RecordFault::Nonsense(error.to_string()))
}

fn payload(kind: RecordKind, bytes: &[u8]) -> Result<&[u8], RecordFault> {
    // What a record that lost its end still shows of its beginning.
    let shown = bytes.len().min(MAGIC.len());
    if bytes[..shown] != MAGIC[..shown] {
        return Err(RecordFault::NotARecord);
    }
    let found = bytes.len() as u64;
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(RecordFault::Truncated { expected: HEADER_BYTES as u64, found });
    };
    let &[_, _, _, _, version, found_kind, l0, l1, l2, l3, ref checksum @ ..] = header;
    match version {
        0 => return Err(RecordFault::NotARecord),
        VERSION => {}
        found => return Err(RecordFault::NewerVersion { found }),
    }
    if found_kind != kind as u8 {
        return Err(RecordFault::OtherKind { expected: kind, found: found_kind });
    }
    let expected = u64::from(u32::from_le_bytes([l0, l1, l2, l3])) + HEADER_BYTES as u64;
    match expected.cmp(&found) {
        std::cmp::Ordering::Greater => return Err(RecordFault::Truncated { expected, found }),
        std::cmp::Ordering::Less => return Err(RecordFault::TooLong { extra: found - expected }),
        std::cmp::Ordering::Equal => {}
    }
    match xxh3_64(payload) == u64::from_le_bytes(*checksum) {
        true => Ok(payload),
        false => Err(RecordFault::Checksum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_proto::v1;

    fn record() -> Bytes {
        let commit = v1::Commit { writer: "n1".into(), attempt: 7, ..v1::Commit::default() };
        encode(RecordKind::Commit, &commit)
    }

    fn fault(bytes: &[u8]) -> RecordFault {
        decode::<v1::Commit>(RecordKind::Commit, bytes).unwrap_err()
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let read: v1::Commit = decode(RecordKind::Commit, &record()).unwrap();
        assert_eq!((read.writer.as_str(), read.attempt), ("n1", 7));
    }

    #[test]
    fn what_is_wrong_with_a_record_is_told() {
        let record = record();
        assert_eq!(fault(b"PAR1 and so on"), RecordFault::NotARecord);
        assert!(matches!(fault(b""), RecordFault::Truncated { found: 0, .. }));
        assert!(matches!(fault(&record[..record.len() - 1]), RecordFault::Truncated { .. }));
        assert_eq!(fault(&[&record[..], b"x"].concat()), RecordFault::TooLong { extra: 1 });
        let other = encode(RecordKind::Replacement, &v1::Replacement::default());
        assert_eq!(fault(&other), RecordFault::OtherKind { expected: RecordKind::Commit, found: 2 });
        let mut newer = record.to_vec();
        newer[4] = 2;
        assert_eq!(fault(&newer), RecordFault::NewerVersion { found: 2 });
        let error = fault(&newer).at("commits/2026-11-22/10-05/00000001").to_string();
        assert!(error.starts_with("commits/2026-11-22/10-05/00000001 has version 2"), "{error}");
    }

    proptest! {
        #[test]
        fn a_record_with_a_flipped_bit_is_refused(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let mut bytes = record().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            fault(&bytes);
        }

        #[test]
        fn a_record_cut_off_anywhere_is_called_cut_off(at in any::<prop::sample::Index>()) {
            let bytes = record();
            let cut = fault(&bytes[..at.index(bytes.len())]);
            prop_assert!(matches!(cut, RecordFault::Truncated { .. }), "{:?}", cut);
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode::<v1::Commit>(RecordKind::Commit, &bytes);
            let record = [&record()[..HEADER_BYTES], &bytes].concat();
            let _ = decode::<v1::Commit>(RecordKind::Commit, &record);
        }
    }
}
