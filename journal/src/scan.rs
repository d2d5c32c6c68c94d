//! Finds the records in a file's bytes, whatever was done to them.
//!
//! Owns: where a record begins after damage, and which bytes belong to none.
//! Does not own: what becomes of those bytes (`recovery`).

use crate::record::{FILE_HEADER_BYTES, FileHeader, MARKER, Record, Salt, Unreadable};
use std::ops::Range;

/// What a file's bytes hold besides records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// The header, if it is whole.
    pub(crate) header: Option<FileHeader>,
    /// Bytes that are neither header nor record, ascending; neighbours are one.
    pub(crate) bad: Vec<Range<usize>>,
    /// Records that were found good.
    pub(crate) records: usize,
}

/// Calls `found` for each record, with its offset; where that returns `false`, the record is bad.
///
/// Fails with the version of a header or record that is whole but not known.
pub(crate) fn scan<'a>(
    bytes: &'a [u8],
    mut found: impl FnMut(usize, Record<'a>) -> bool,
) -> Result<Scanned, u32> {
    let mut scanned = Scanned::default();
    let mut at = 0;
    match FileHeader::parse(bytes) {
        Ok(header) => {
            scanned.header = Some(header);
            at = FILE_HEADER_BYTES;
        }
        Err(Unreadable::Version(version)) => return Err(version),
        Err(Unreadable::Damaged) => {}
    }
    // With a broken header, the first good record tells the salt.
    let mut salt = scanned.header.map(|header| header.salt);
    while at < bytes.len() {
        let end = match Record::parse(&bytes[at..], salt) {
            Ok(record) if found(at, record) => {
                salt = Some(record.salt);
                scanned.records += 1;
                at += record.bytes;
                continue;
            }
            Ok(record) => at + record.bytes,
            Err(Unreadable::Version(version)) => return Err(version),
            Err(Unreadable::Damaged) => next_record(bytes, at + 1, salt),
        };
        scanned.add_bad(at..end);
        at = end;
    }
    Ok(scanned)
}

impl Scanned {
    fn add_bad(&mut self, range: Range<usize>) {
        match self.bad.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.bad.push(range),
        }
    }
}

/// Where the next whole record begins, from `from` on; the end of the bytes where there is none.
fn next_record(bytes: &[u8], from: usize, salt: Option<Salt>) -> usize {
    let mut at = from;
    while let Some(found) = bytes.get(at..).and_then(find_marker) {
        at += found;
        if !matches!(Record::parse(&bytes[at..], salt), Err(Unreadable::Damaged)) {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

fn find_marker(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MARKER.len()).position(|window| window == MARKER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::encode;
    use crate::tests::{block, bucket, id};
    use proptest::prelude::*;

    fn file(records: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = FileHeader { number: 1, shards: 64, salt: 5 }.encode().to_vec();
        let mut starts = Vec::new();
        for seq in 0..records {
            starts.push(bytes.len());
            encode(&mut bytes, 5, id(1, 2, seq), &[bucket(1)], &block(1, 2, seq, 50));
        }
        (bytes, starts)
    }

    fn offsets(bytes: &[u8]) -> (Vec<usize>, Scanned) {
        let mut offsets = Vec::new();
        let scanned = scan(bytes, |at, _| {
            offsets.push(at);
            true
        });
        (offsets, scanned.unwrap())
    }

    #[test]
    fn a_whole_file_has_its_records_and_nothing_bad() {
        let (bytes, starts) = file(5);
        let (found, scanned) = offsets(&bytes);
        assert_eq!((found, scanned.bad.len(), scanned.records), (starts, 0, 5));
    }

    #[test]
    fn a_record_within_a_damaged_one_is_not_mistaken_for_one() {
        let mut inner = Vec::new();
        encode(&mut inner, 6, id(1, 2, 999), &[bucket(1)], &block(1, 2, 999, 10));
        let mut outer = block(1, 2, 0, 0);
        outer.columns = inner.into();
        let (mut bytes, _) = file(1);
        let start = bytes.len();
        encode(&mut bytes, 5, id(1, 2, 1), &[bucket(1)], &outer);
        let end = bytes.len();
        encode(&mut bytes, 5, id(1, 2, 2), &[bucket(1)], &block(1, 2, 2, 50));
        bytes[start + 20] ^= 1;
        let (found, scanned) = offsets(&bytes);
        assert_eq!(found.len(), 2);
        assert_eq!(scanned.bad.as_slice(), std::slice::from_ref(&(start..end)));
    }

    #[test]
    fn a_broken_header_costs_no_record() {
        let (mut bytes, starts) = file(3);
        bytes[20] ^= 0xFF;
        let (found, scanned) = offsets(&bytes);
        assert_eq!((found, scanned.header), (starts, None));
        assert_eq!(scanned.bad.as_slice(), std::slice::from_ref(&(0..FILE_HEADER_BYTES)));
    }

    proptest! {
        #[test]
        fn bytes_nobody_meant_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), markers in 0_usize..4) {
            let mut all = bytes.clone();
            for _ in 0..markers {
                all.extend_from_slice(&MARKER);
                all.extend_from_slice(&bytes);
            }
            let (found, scanned) = offsets(&all);
            prop_assert!(found.is_empty());
            prop_assert_eq!(scanned.bad.iter().map(ExactSizeIterator::len).sum::<usize>(), all.len());
        }
    }
}
