//! Shards and buckets from the journal.
//!
//! Owns: which blocks of the journal are counted when something is made from it.
//! Does not own: the journal's files (`tidemark-journal`), counting (`tidemark_rollup`).

use crate::shard::ShardParts;
use std::sync::Arc;
use std::time::Instant;
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::shard::Shard;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// The shard that the journal's blocks make, without what commits are known to cover.
pub(crate) fn rebuilt(id: ShardId, parts: &ShardParts) -> Shard {
    let started = Instant::now();
    let committed = Arc::clone(&parts.committed.borrow());
    let mut shard = Shard::new(id, parts.rules.clone()).sharing(&parts.rooms);
    wait_for_journal(parts, id);
    let entries = parts.journal.blocks(id);
    let remembered = parts.remembered(id);
    for entry in &entries {
        let block = match parts.journal.read(entry) {
            Ok(block) => block,
            Err(error) => {
                parts.metrics.block_lost();
                tracing::error!(shard = %id, %error, "a block of the journal cannot be read any more");
                continue;
            }
        };
        if !remembered.begin(entry.id) {
            continue;
        }
        let is_new = |start: BucketStart| {
            let coverage = committed.coverage(start, id).ok().flatten();
            !coverage.is_some_and(|coverage| coverage.contains(entry.id.producer, entry.id.seq))
        };
        let restored = shard.restore(&block, &is_new);
        remembered.end();
        if let Err(error) = restored {
            tracing::error!(shard = %id, %error, "a block of the journal cannot be counted any more");
        }
        let mut known = Coverage::default();
        known.insert(entry.id.producer, entry.id.seq);
        shard.know(&known);
    }
    if !entries.is_empty() {
        tracing::debug!(shard = %id, blocks = entries.len(), took = ?started.elapsed(), "rebuilt the shard from the journal");
    }
    shard
}

/// Returns when the journal has, or has lost, every block that the shard gave it: what is on its way is in no list.
pub(crate) fn wait_for_journal(parts: &ShardParts, shard: ShardId) {
    let Some(last) = parts.remembered(shard).last_appended() else { return };
    let (settled, waiting) = std::sync::mpsc::channel();
    parts.journal.barrier(last, Box::new(move |_| _ = settled.send(())));
    // The sender is gone, or has sent, when the block is settled; the journal calls it in any case.
    let _ = waiting.recv();
}

/// The journal's blocks of a bucket that commits of this coverage do not have.
pub(crate) fn uncovered(
    parts: &ShardParts,
    shard: ShardId,
    bucket: BucketStart,
    covered: &Coverage,
) -> Vec<v1::Block> {
    let entries = parts.journal.blocks_of(shard, bucket);
    let left = entries.iter().filter(|entry| !covered.contains(entry.id.producer, entry.id.seq));
    let read = left.filter_map(|entry| match parts.journal.read(entry) {
        Ok(block) => Some(block),
        Err(error) => {
            parts.metrics.block_lost();
            tracing::error!(%shard, %error, "a block of the journal cannot be read any more");
            None
        }
    });
    read.collect()
}

/// The rollup that these blocks make.
pub(crate) fn rollup_of(
    parts: &ShardParts,
    shard: ShardId,
    bucket: BucketStart,
    blocks: &[v1::Block],
) -> Option<Arc<Bucket>> {
    let mut made = Shard::new(shard, parts.rules.clone());
    for block in blocks {
        if let Err(error) = made.restore(block, &|of| of == bucket) {
            tracing::error!(%shard, %error, "a block of the journal cannot be counted any more");
        }
    }
    made.forget(bucket)
}
