//! What the tests have in common: made-up blocks, and a journal with a disk whose failures are chosen.
//!
//! Owns: names for small numbers, ways to append and to wait without sleeping.
//! Does not own: the properties; each file in `tests/` has some.

mod damage;
mod disk;
mod driven;
mod failures;
mod journal;
mod model;

use crate::{AppendError, Done, Journal, JournalConfig, Progress, Recovered};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::block::{BlockId, ProducerId};
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::{BUCKET_SECONDS, BucketStart};

/// Longer than anything takes; who waits so long has found a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn shard(number: u32) -> ShardId {
    ShardCount::DEFAULT.shard(number).unwrap()
}

pub(crate) fn bucket(number: u32) -> BucketStart {
    BucketStart::from_unix_seconds(number * BUCKET_SECONDS).unwrap()
}

pub(crate) fn id(producer: u128, shard_number: u32, seq: u64) -> BlockId {
    BlockId { producer: ProducerId::from_u128(producer), shard: shard(shard_number), seq }
}

/// A block whose bytes depend on its identity.
pub(crate) fn block(producer: u128, shard: u32, seq: u64, bytes: usize) -> v1::Block {
    let columns: Vec<u8> =
        (0..bytes).map(|at| ((at as u64 * 31) ^ seq.wrapping_mul(7) ^ u64::from(shard)) as u8).collect();
    let producer = ProducerId::from_u128(producer).to_wire();
    v1::Block { producer, shard, seq, sealed_at_ms: 5, event_count: 1, columns: columns.into() }
}

/// Coverage of blocks by (producer, seq).
pub(crate) fn covering(blocks: &[(u128, u64)]) -> Coverage {
    let mut coverage = Coverage::default();
    for &(producer, seq) in blocks {
        coverage.insert(ProducerId::from_u128(producer), seq);
    }
    coverage
}

/// A journal in `dir` with files of `segment_bytes`, on a disk that has room.
pub(crate) fn config(dir: &Path, segment_bytes: u64) -> JournalConfig {
    JournalConfig { segment_bytes, min_free_bytes: 0, ..JournalConfig::new(dir) }
}

pub(crate) fn open(config: JournalConfig) -> (Journal, Recovered) {
    Journal::open(config, ShardCount::DEFAULT).unwrap()
}

/// A `done`, and where its outcome arrives.
pub(crate) fn done() -> (Done, Receiver<Result<(), AppendError>>) {
    let (sender, receiver) = channel();
    (Box::new(move |outcome| sender.send(outcome).unwrap()), receiver)
}

/// Appends block `seq` of producer 1 to shard 2 and waits.
pub(crate) fn append(journal: &Journal, seq: u64, buckets: &[u32], bytes: usize) -> Result<(), AppendError> {
    append_later(journal, seq, buckets, bytes).recv_timeout(PATIENCE).unwrap()
}

pub(crate) fn append_later(
    journal: &Journal,
    seq: u64,
    buckets: &[u32],
    bytes: usize,
) -> Receiver<Result<(), AppendError>> {
    let (done, outcome) = done();
    let buckets = buckets.iter().map(|&number| bucket(number)).collect();
    journal.append(id(1, 2, seq), buckets, block(1, 2, seq, bytes), done);
    outcome
}

/// The sequence numbers of shard 2's blocks, each read and compared.
pub(crate) fn live(journal: &Journal) -> Vec<u64> {
    let entries = journal.blocks(shard(2));
    for entry in &entries {
        let read = journal.read(entry).unwrap();
        let producer = u128::from_be_bytes(read.producer.as_ref().try_into().unwrap());
        assert_eq!(read, block(producer, 2, entry.id.seq, read.columns.len()));
    }
    entries.iter().map(|entry| entry.id.seq).collect()
}

/// The names of the journal's files.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".log")).collect();
    names.sort();
    names
}
