//! A piece of an object as a file.
//!
//! Owns: the file's name, its header, and whether its content is what was written.
//! Does not own: which files there are (`disk`).

use bytes::Bytes;
use std::ops::Range;
use tidemark_proto::v1;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// Begins each file. Another format would begin otherwise.
const MAGIC: [u8; 8] = *b"tmpiece1";
/// The magic and the checksum of what follows.
pub(super) const HEADER_BYTES: u64 = 16;
const SUFFIX: &str = ".piece";

/// Which bytes of which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Piece {
    /// Hash of the path and the checksum: a store that was emptied and filled again has other objects at the same paths.
    pub(super) object: u128,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The hash that names pieces of a segment.
pub(super) fn object_of(segment: &v1::Segment) -> u128 {
    xxh3_128_with_seed(segment.path.as_bytes(), segment.checksum)
}

impl Piece {
    pub(super) fn new(object: u128, range: &Range<u64>) -> Self {
        Self { object, start: range.start, end: range.end }
    }

    /// Bytes of the object.
    pub(super) fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Bytes of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.len().saturating_add(HEADER_BYTES)
    }

    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        self.start <= range.start && range.end <= self.end
    }

    pub(super) fn file_name(&self) -> String {
        format!("{:032x}-{:x}-{:x}{SUFFIX}", self.object, self.start, self.end)
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.split('-');
        let object = u128::from_str_radix(parts.next()?, 16).ok()?;
        let start = u64::from_str_radix(parts.next()?, 16).ok()?;
        let end = u64::from_str_radix(parts.next()?, 16).ok()?;
        Some(Self { object, start, end }).filter(|piece| start < end && piece.file_name() == name)
    }

    /// What the file begins with.
    pub(super) fn header(&self, content: &[u8]) -> [u8; HEADER_BYTES as usize] {
        let mut header = [0; HEADER_BYTES as usize];
        header[..8].copy_from_slice(&MAGIC);
        header[8..].copy_from_slice(&self.checksum(content).to_le_bytes());
        header
    }

    /// The content of the file, where it is what was written.
    pub(super) fn content(&self, file: Vec<u8>) -> Option<Bytes> {
        let (header, content) = file.split_first_chunk()?;
        let good = content.len() as u64 == self.len() && *header == self.header(content);
        good.then(|| Bytes::from(file).slice(HEADER_BYTES as usize..))
    }

    /// Of another piece's file, renamed, it would be another one.
    fn checksum(&self, content: &[u8]) -> u64 {
        xxh3_64_with_seed(content, self.object as u64 ^ self.start.rotate_left(32) ^ self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_tells_the_piece() {
        let piece = Piece { object: 77, start: 16, end: 1 << 40 };
        assert_eq!(Piece::parse(&piece.file_name()), Some(piece));
        for name in [
            "",
            "x",
            "00-1-2.piece",
            "notes.txt",
            &piece.file_name().to_uppercase(),
            &format!("x{}", piece.file_name()),
        ] {
            assert_eq!(Piece::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_file_that_is_not_what_was_written_has_no_content() {
        let piece = Piece { object: 77, start: 2, end: 5 };
        let file = [&piece.header(b"abc")[..], b"abc"].concat();
        assert_eq!(piece.content(file.clone()).as_deref(), Some(&b"abc"[..]));
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert_eq!(piece.content(damaged), None, "byte {at}");
            assert_eq!(piece.content(file[..at].to_vec()), None, "up to byte {at}");
        }
        let renamed = Piece { start: 3, end: 6, ..piece };
        assert_eq!(renamed.content(file), None);
    }
}
