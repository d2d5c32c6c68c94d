//! Events into blocks.
//!
//! Owns: what a batch is as blocks, before any of it is taken.
//! Does not own: the splitting (`tidemark_rollup::split`), their numbers (`numbers`).

use crate::error::SendError;
use crate::ticket::{Outcome, Undelivered, Why};
use std::time::Duration;
use tidemark_proto::v1::RefusalReason;
use tidemark_proto::{MAX_BATCH_BYTES, v1};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::EventTime;

/// What a block has around its columns, at most: identity, times, lengths.
const BLOCK_OVERHEAD_BYTES: usize = 64;
/// A batch in blocks that are not taken yet, at most one for each shard.
pub(crate) struct Sealed {
    pub(crate) events: Vec<v1::Event>,
    pub(crate) blocks: Vec<v1::Block>,
    pub(crate) bytes: usize,
    pub(crate) begun: Outcome,
    /// Blocks that no node would take.
    pub(crate) too_large: Vec<Undelivered>,
}

/// Puts a producer's events into blocks, which have no numbers yet.
pub(crate) fn seal(
    events: Vec<v1::Event>,
    producer: ProducerId,
    sealed_at: EventTime,
    keep_params: &KeepParams,
    shards: ShardCount,
) -> Result<Sealed, SendError> {
    let batch =
        v1::EventBatch { producer: producer.to_wire(), seq: 0, sealed_at_ms: sealed_at.as_unix_ms(), events };
    let rules = Rules { schema: None, keep_params, times: TimeRules { accept_late: Duration::MAX }, shards };
    let split = match split(&batch, &rules, sealed_at) {
        Ok(split) => split,
        Err(error) => return Err(SendError::Batch { events: batch.events, error }),
    };
    let mut begun = Outcome { events: batch.events.len() as u64, ..Outcome::default() };
    for rejection in &split.rejected {
        *begun.rejected.entry(rejection.reason()).or_default() += 1;
        begun.rejected_at.push((rejection.index, rejection.reason()));
    }
    let mut sealed =
        Sealed { events: batch.events, blocks: split.blocks, bytes: 0, begun, too_large: Vec::new() };
    sealed.blocks.retain(|block| {
        let bytes = block.columns.len();
        let fits = bytes + BLOCK_OVERHEAD_BYTES <= MAX_BATCH_BYTES;
        match fits {
            true => sealed.bytes += bytes,
            // Sent, it could end the line, and others with it.
            false => sealed.too_large.push(too_large(block)),
        }
        fits
    });
    Ok(sealed)
}

fn too_large(block: &v1::Block) -> Undelivered {
    let message = format!("the block has {} bytes: make smaller batches", block.columns.len());
    let why = Why::Refused { reason: RefusalReason::TooLarge, message };
    Undelivered { shard: Some(block.shard), events: u64::from(block.event_count), why }
}
