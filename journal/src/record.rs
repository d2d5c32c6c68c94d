//! The bytes of a file's header and of a record.
//!
//! Owns: both formats, their versions and checksums.
//! Does not own: which bytes of a file are a record (`scan`), where a record goes (`writer`).
//!
//! ```text
//! file    "TIDEMJNL" | version | number | shards | salt | 0 | CRC32C of all before           32 bytes
//! record  marker | salt | CRC32C of the salt and all that follows | length of what follows | 16 bytes
//!         version | number of buckets | shard | producer (16) | seq (8) | buckets           36 bytes and 4 per bucket
//!         the block, as the wire has it
//! ```
//! Numbers are little-endian and of 4 bytes where nothing else is said.
//!
//! The salt is drawn for each file and stands in each of its records. Without it, a producer could put the bytes of a record into
//! its block, and damage to the real record around them would bring the made-up one to light.

use prost::Message as _;
use tidemark_proto::v1;
use tidemark_rollup::block::{BlockId, ProducerId};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::BucketStart;

/// Size of a file's header.
pub(crate) const FILE_HEADER_BYTES: usize = 32;
/// What a record begins with. No UTF-8 text has it.
pub(crate) const MARKER: [u8; 4] = [0xF5, b'T', b'B', 0xC1];

const FILE_MAGIC: [u8; 8] = *b"TIDEMJNL";
const VERSION: u32 = 1;
/// From the start of a record to where its length counts from.
pub(crate) const FRAME_BYTES: usize = 16;
/// From there to the buckets.
const FIXED_BYTES: usize = 36;

/// What tells a file's records from bytes that look like records.
pub(crate) type Salt = u32;

/// Why bytes are not what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// They are not whole, or never were it.
    Damaged,
    /// They are whole, and of a version that is not known here.
    Version(u32),
}

/// The first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) number: u32,
    pub(crate) shards: u32,
    pub(crate) salt: Salt,
}

impl FileHeader {
    pub(crate) fn encode(self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&FILE_MAGIC);
        for (at, number) in [(8, VERSION), (12, self.number), (16, self.shards), (20, self.salt)] {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        let bytes = bytes.get(..FILE_HEADER_BYTES).ok_or(Unreadable::Damaged)?;
        if !bytes.starts_with(&FILE_MAGIC) || u32_at(bytes, 28)? != crc32c::crc32c(&bytes[..28]) {
            return Err(Unreadable::Damaged);
        }
        match u32_at(bytes, 8)? {
            VERSION => {
                Ok(Self { number: u32_at(bytes, 12)?, shards: u32_at(bytes, 16)?, salt: u32_at(bytes, 20)? })
            }
            version => Err(Unreadable::Version(version)),
        }
    }
}

/// Size of the record of a block with so many buckets.
pub(crate) fn record_bytes(block: &v1::Block, buckets: usize) -> u64 {
    (FRAME_BYTES + FIXED_BYTES + 4 * buckets + block.encoded_len()) as u64
}

/// Appends the record of a block to `out`. The record has less than 4 GiB: see [`record_bytes`].
pub(crate) fn encode(out: &mut Vec<u8>, salt: Salt, id: BlockId, buckets: &[BucketStart], block: &v1::Block) {
    let start = out.len();
    let length = record_bytes(block, buckets.len()) as usize - FRAME_BYTES;
    out.reserve(FRAME_BYTES + length);
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&salt.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for number in [length as u32, VERSION, buckets.len() as u32, id.shard.get()] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&id.producer.to_wire());
    out.extend_from_slice(&id.seq.to_le_bytes());
    for bucket in buckets {
        out.extend_from_slice(&bucket.as_unix_seconds().to_le_bytes());
    }
    // A vector takes what there is room for, and it grows.
    let _ = block.encode(out);
    let crc = checksum(salt, &out[start + 12..]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn checksum(salt: Salt, covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), covered)
}

/// A record whose checksum fits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// All of its bytes.
    pub(crate) bytes: usize,
    pub(crate) salt: Salt,
    shard: u32,
    producer: ProducerId,
    seq: u64,
    buckets: &'a [u8],
    /// The encoded block.
    pub(crate) block: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that `bytes` begin with, if its salt is the given one.
    pub(crate) fn parse(bytes: &'a [u8], expected: Option<Salt>) -> Result<Self, Unreadable> {
        if !bytes.starts_with(&MARKER) {
            return Err(Unreadable::Damaged);
        }
        let salt = u32_at(bytes, 4)?;
        let end = FRAME_BYTES.checked_add(u32_at(bytes, 12)? as usize).ok_or(Unreadable::Damaged)?;
        let covered = bytes.get(12..end).ok_or(Unreadable::Damaged)?;
        if expected.is_some_and(|expected| expected != salt) || u32_at(bytes, 8)? != checksum(salt, covered) {
            return Err(Unreadable::Damaged);
        }
        let body = bytes.get(FRAME_BYTES..end).ok_or(Unreadable::Damaged)?;
        match u32_at(body, 0)? {
            VERSION => Self::parse_body(body, salt).ok_or(Unreadable::Damaged),
            version => Err(Unreadable::Version(version)),
        }
    }

    fn parse_body(body: &'a [u8], salt: Salt) -> Option<Self> {
        let buckets_bytes = (u32_at(body, 4).ok()? as usize).checked_mul(4)?;
        let block_at = FIXED_BYTES.checked_add(buckets_bytes)?;
        Some(Self {
            bytes: FRAME_BYTES + body.len(),
            salt,
            shard: u32_at(body, 8).ok()?,
            producer: ProducerId::from_wire(body.get(12..28)?)?,
            seq: u64::from_le_bytes(body.get(28..36)?.try_into().ok()?),
            buckets: body.get(FIXED_BYTES..block_at)?,
            block: body.get(block_at..)?,
        })
    }

    /// The block's identity, where a cluster of so many shards has that shard.
    pub(crate) fn id(&self, shards: ShardCount) -> Option<BlockId> {
        Some(BlockId { producer: self.producer, shard: shards.shard(self.shard)?, seq: self.seq })
    }

    /// Whether it is the record of this block.
    pub(crate) fn is_of(&self, id: &BlockId) -> bool {
        (self.producer, self.shard, self.seq) == (id.producer, id.shard.get(), id.seq)
    }

    /// The buckets; `None` for a number that is no start of a bucket.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = Option<BucketStart>> + use<'a> {
        let numbers = self.buckets.chunks_exact(4).map(|bytes| u32_at(bytes, 0));
        numbers.map(|number| number.ok().and_then(BucketStart::from_unix_seconds))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Unreadable> {
    let four = bytes.get(at..at.saturating_add(4)).and_then(|four| four.try_into().ok());
    four.map(u32::from_le_bytes).ok_or(Unreadable::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{block, bucket, id};

    #[test]
    fn a_record_reads_as_it_was_written() {
        let (id, buckets, block) = (id(3, 9, u64::MAX), [bucket(1), bucket(2)], block(3, 9, u64::MAX, 100));
        let mut bytes = b"before".to_vec();
        encode(&mut bytes, 77, id, &buckets, &block);
        assert_eq!(bytes.len() as u64, 6 + record_bytes(&block, 2));
        bytes.extend_from_slice(b"after");
        let record = Record::parse(&bytes[6..], Some(77)).unwrap();
        assert_eq!(record.id(ShardCount::DEFAULT), Some(id));
        assert!(record.is_of(&id));
        assert_eq!(record.buckets().collect::<Vec<_>>(), [Some(bucket(1)), Some(bucket(2))]);
        assert_eq!(v1::Block::decode(record.block).unwrap(), block);
        assert_eq!(record.bytes, bytes.len() - 11);
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 77, id(3, 9, 1), &[bucket(1)], &block(3, 9, 1, 20));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::parse(&bytes, None).unwrap_err(), Unreadable::Damaged, "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_record_with_the_salt_of_another_file_is_none() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 77, id(3, 9, 1), &[bucket(1)], &block(3, 9, 1, 20));
        assert_eq!(Record::parse(&bytes, Some(78)).unwrap_err(), Unreadable::Damaged);
    }

    #[test]
    fn a_file_header_reads_as_it_was_written_and_whatever_is_wrong_with_it_is_noticed() {
        let header = FileHeader { number: 5, shards: 64, salt: 9 };
        let mut bytes = header.encode();
        assert_eq!(FileHeader::parse(&bytes), Ok(header));
        assert_eq!(FileHeader::parse(&bytes[..31]), Err(Unreadable::Damaged));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::parse(&bytes), Err(Unreadable::Damaged), "{bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut bytes = FileHeader { number: 5, shards: 64, salt: 9 }.encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..28]).to_le_bytes();
        bytes[28..].copy_from_slice(&crc);
        assert_eq!(FileHeader::parse(&bytes), Err(Unreadable::Version(2)));
    }
}
