//! A journal's files, for `fuzz/`: bytes in, records out, without a folder.
//!
//! Owns: making files and records of any content, their checksums right; and reading a file as an opening journal does.
//! Does not own: the formats (`record`), finding records (`scan`).

use crate::record::{self, FILE_HEADER_BYTES, FRAME_BYTES, FileHeader, MARKER};
use crate::recovery::read_buckets;
use crate::scan::scan;
use bytes::Bytes;
use std::ops::Range;
use tidemark_proto::v1;
use tidemark_rollup::block::BlockId;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::BucketStart;

/// What stands before the records of a file.
pub fn header(number: u32, shards: ShardCount, salt: u32) -> [u8; FILE_HEADER_BYTES] {
    FileHeader { number, shards: shards.get(), salt }.encode()
}

/// Appends the record of a block.
pub fn append(out: &mut Vec<u8>, salt: u32, id: BlockId, buckets: &[BucketStart], block: &v1::Block) {
    record::encode(out, salt, id, buckets, block);
}

/// Appends a record of any body whose checksum is right.
pub fn append_framed(out: &mut Vec<u8>, salt: u32, body: &[u8]) {
    let length = (body.len() as u32).to_le_bytes();
    let checksum = record::checksum(salt, &[&length, body].concat());
    for part in [&MARKER[..], &salt.to_le_bytes(), &checksum.to_le_bytes(), &length, body] {
        out.extend_from_slice(part);
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where all of it is.
    pub at: Range<usize>,
    /// What stands before its body: its marker, salt, checksum and length.
    pub frame: usize,
    /// Whose.
    pub id: BlockId,
    /// Ascending, each once.
    pub buckets: Vec<BucketStart>,
    /// The block, as the wire has it.
    pub block: Bytes,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Whether it begins with a header that is whole.
    pub has_header: bool,
    /// In their order.
    pub records: Vec<Found>,
    /// Bytes that are neither header nor record, ascending.
    pub bad: Vec<Range<usize>>,
}

/// Reads a file; the version where it is of one that is not known.
///
/// # Errors
/// That version.
pub fn read(bytes: &[u8], shards: ShardCount) -> Result<File, u32> {
    let mut records = Vec::new();
    let scanned = scan(bytes, |offset, record| {
        let mut buckets = Vec::new();
        let Some(id) = record.id(shards).filter(|_| read_buckets(&record, &mut buckets)) else {
            return false;
        };
        let at = offset..offset + record.bytes;
        records.push(Found {
            at,
            frame: FRAME_BYTES,
            id,
            buckets,
            block: Bytes::copy_from_slice(record.block),
        });
        true
    })?;
    Ok(File { has_header: scanned.header.is_some(), records, bad: scanned.bad })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{block, bucket, id};

    #[test]
    fn a_body_that_is_framed_is_the_record_it_was() {
        let mut file = header(1, ShardCount::DEFAULT, 5).to_vec();
        append(&mut file, 5, id(1, 2, 3), &[bucket(1)], &block(1, 2, 3, 50));
        let first = read(&file, ShardCount::DEFAULT).unwrap().records.remove(0);
        let body = file[first.at.start + first.frame..first.at.end].to_vec();
        append_framed(&mut file, 5, &body);
        let read = read(&file, ShardCount::DEFAULT).unwrap();
        assert!(read.has_header && read.bad.is_empty());
        assert_eq!(read.records.len(), 2);
        assert_eq!((&read.records[1].id, &read.records[1].block), (&first.id, &first.block));
    }
}
