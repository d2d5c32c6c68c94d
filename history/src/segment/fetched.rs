//! Parts of a segment that were fetched.
//!
//! Owns: finding a column's bytes in them, and their checksums.
//! Does not own: which parts are fetched (`plan`).

use super::error::SegmentError;
use super::footer::ChunkAt;
use bytes::Bytes;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Parts of one segment.
#[derive(Debug)]
pub(super) struct Fetched<'a> {
    path: &'a str,
    /// Ascending.
    parts: Vec<(u64, Bytes)>,
}

impl<'a> Fetched<'a> {
    /// The parts that were asked for as `ranges`.
    pub(super) fn new(path: &'a str, ranges: &[Range<u64>], parts: Vec<Bytes>) -> Result<Self, SegmentError> {
        let error = |what: String| SegmentError::Fetched { path: path.to_owned(), what };
        if ranges.len() != parts.len() {
            return Err(error(format!("{} ranges were planned, {} came", ranges.len(), parts.len())));
        }
        for (range, part) in ranges.iter().zip(&parts) {
            if range.end - range.start != part.len() as u64 {
                return Err(error(format!("of bytes {range:?} {} came", part.len())));
            }
        }
        Ok(Self { path, parts: ranges.iter().map(|range| range.start).zip(parts).collect() })
    }

    /// The bytes at `at`, their checksum verified; `what` names them where it does not match.
    pub(super) fn verified(&self, at: &ChunkAt, what: &str) -> Result<Bytes, SegmentError> {
        let bytes = self.slice(&at.bytes).ok_or_else(|| SegmentError::Fetched {
            path: self.path.to_owned(),
            what: format!("bytes {:?} are missing", at.bytes),
        })?;
        if xxh3_64(&bytes) != at.checksum {
            let what = format!("the checksum of {what} at bytes {:?} does not match", at.bytes);
            return Err(SegmentError::Damaged { path: self.path.to_owned(), what });
        }
        Ok(bytes)
    }

    fn slice(&self, range: &Range<u64>) -> Option<Bytes> {
        let at = self.parts.partition_point(|(start, _)| *start <= range.start).checked_sub(1)?;
        let (start, part) = &self.parts[at];
        let from = usize::try_from(range.start - start).ok()?;
        let to = usize::try_from(range.end - start).ok()?;
        (to <= part.len()).then(|| part.slice(from..to))
    }
}
