//! Brings blocks to their owners.
//!
//! Owns: who gets a block by the placement of the moment, when it is acknowledged, and turning what owners say into one
//! acknowledgement.
//! Does not own: making blocks (`grpc`), counting them (`shard`), connections to other nodes (`peers`).
//!
//! A block is passed on as the bytes it came in; nobody decodes it on the way. It is acknowledged when all owners have it who
//! are present, so that each of them can answer for it. Owners who know of another owner refuse the block: views differ for a
//! moment when members come and go, and the block is brought again as soon as they agree.

use crate::admission::Permit;
use crate::metrics::NodeMeter;
use crate::owners::Owners;
use crate::peers::{PeerError, Peers};
use crate::planted::{Bug, Planted};
use crate::shard::{ApplyError, Delivery, ShardHandle};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tidemark_journal::AppendError;
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;
use tidemark_rollup::block::{BlockError, BlockId};
use tidemark_rollup::member::Member;
use tidemark_rollup::shard::Applied;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tokio::sync::watch;
use tokio::time::Instant;

/// When a refused sender should try again.
pub(crate) const RETRY_AFTER_MS: u32 = 100;
/// How long to wait for views to agree before a block is brought again.
const AGREE_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Router {
    pub(crate) shards: ShardCount,
    pub(crate) owners: watch::Receiver<Arc<Owners>>,
    /// By shard.
    pub(crate) local: Vec<ShardHandle>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) min_owners: NonZeroUsize,
    pub(crate) timeout: Duration,
    pub(crate) metrics: NodeMeter,
    pub(crate) planted: Planted,
}

impl Router {
    /// Brings each block to its owners; acknowledgements in the order of the blocks.
    pub(crate) async fn deliver(&self, blocks: Vec<v1::Block>, permit: &Permit) -> Vec<v1::BlockAck> {
        join_all(blocks.into_iter().map(|block| self.deliver_one(block, permit))).await
    }

    /// Brings a block to its owners.
    pub(crate) async fn deliver_one(&self, block: v1::Block, permit: &Permit) -> v1::BlockAck {
        let Some(shard) = self.shards.shard(block.shard) else {
            return refused(&block, &BlockError::NoSuchShard(block.shard).into());
        };
        let deadline = Instant::now() + self.timeout;
        let mut again = false;
        loop {
            let owners = Arc::clone(&self.owners.borrow());
            let ack = self.deliver_to(&owners, shard, block.clone(), again, permit).await;
            let differs = ack.refused.as_ref().is_some_and(|of| of.reason() == RefusalReason::OwnersDiffer);
            if !differs || Instant::now() + AGREE_PAUSE >= deadline {
                return ack;
            }
            self.metrics.owners_differed();
            again = true;
            tokio::time::sleep(AGREE_PAUSE).await;
        }
    }

    async fn deliver_to(
        &self,
        owners: &Owners,
        shard: ShardId,
        block: v1::Block,
        again: bool,
        permit: &Permit,
    ) -> v1::BlockAck {
        let writers = owners.placement.writers(shard);
        let delivery = Delivery { writers: owners.writers(shard), again };
        let present = writers.clone().filter(|writer| !writer.doubtful).count();
        if present < self.min_owners.get() {
            let message = format!(
                "{present} of the owners of shard {shard} are present, and min_owners asks for {}: wait for more nodes",
                self.min_owners
            );
            return refusal(&block, RefusalReason::TooFewOwners, message);
        }
        let mut waiting: FuturesUnordered<_> = writers
            .map(|writer| self.bring(writer, writer.id == owners.me, block.clone(), delivery.clone(), permit))
            .collect();
        if self.planted.has(Bug::AcknowledgeAfterOne)
            && let Some(ack) = waiting.next().await
        {
            return ack;
        }
        let mut acks = Vec::with_capacity(waiting.len());
        while let Some(ack) = waiting.next().await {
            acks.push(ack);
        }
        merge(acks)
    }

    async fn bring(
        &self,
        writer: &Member,
        is_me: bool,
        block: v1::Block,
        delivery: Delivery,
        permit: &Permit,
    ) -> v1::BlockAck {
        if is_me {
            return self.apply(block, Some(delivery), permit.clone()).await;
        }
        let bare = bare(&block);
        match self.peers.apply(writer, block, delivery).await {
            Ok(ack) => ack,
            Err(error) => {
                let reason = match error {
                    PeerError::Full { .. } => RefusalReason::Overloaded,
                    _ => RefusalReason::OwnerUnavailable,
                };
                refusal(&bare, reason, error.to_string())
            }
        }
    }

    /// Counts a block in a shard of this node. `delivery`: how it comes from its sender; none where it is pulled from an owner.
    pub(crate) async fn apply(
        &self,
        block: v1::Block,
        delivery: Option<Delivery>,
        permit: Permit,
    ) -> v1::BlockAck {
        let bare = bare(&block);
        let Some(handle) = self.local.get(block.shard as usize) else {
            return refused(&bare, &BlockError::NoSuchShard(block.shard).into());
        };
        match handle.apply(block, delivery, permit, self.timeout).await {
            Ok(applied) => {
                self.metrics.applied(&applied);
                acknowledged(&bare, &applied)
            }
            Err(error) => refused(&bare, &error),
        }
    }
}

/// What all owners of a block say, in one acknowledgement. What one of them counted now was not acknowledged before, whatever
/// the others have.
fn merge(acks: Vec<v1::BlockAck>) -> v1::BlockAck {
    let is_final = |ack: &v1::BlockAck| ack.refused.as_ref().is_some_and(|of| of.retry_after_ms == 0);
    let refused = acks.iter().find(|ack| is_final(ack));
    let refused = refused.or_else(|| acks.iter().find(|ack| ack.refused.is_some())).cloned();
    let least = || acks.into_iter().min_by_key(|ack| ack.duplicate).unwrap_or_default();
    refused.unwrap_or_else(least)
}

/// The block without its columns, which are on their way.
fn bare(block: &v1::Block) -> v1::Block {
    v1::Block { columns: bytes::Bytes::new(), ..block.clone() }
}

fn bare_ack(block: &v1::Block) -> v1::BlockAck {
    v1::BlockAck {
        producer: block.producer.clone(),
        shard: block.shard,
        seq: block.seq,
        ..v1::BlockAck::default()
    }
}

fn acknowledged(block: &v1::Block, applied: &Applied) -> v1::BlockAck {
    let reasons = applied.rejected.iter();
    v1::BlockAck {
        accepted: applied.counted + applied.duplicate,
        duplicate: applied.duplicate,
        rejected: reasons
            .map(|(&reason, &events)| v1::ReasonCount { reason: reason.into(), events })
            .collect(),
        ..bare_ack(block)
    }
}

pub(crate) fn refusal(block: &v1::Block, reason: RefusalReason, message: String) -> v1::BlockAck {
    v1::BlockAck { refused: Some(refusal_of(reason, message)), ..bare_ack(block) }
}

pub(crate) fn refusal_of(reason: RefusalReason, message: String) -> v1::Refusal {
    let again = matches!(
        reason,
        RefusalReason::Overloaded
            | RefusalReason::OwnerUnavailable
            | RefusalReason::OwnersDiffer
            | RefusalReason::TooFewOwners
    );
    let retry_after_ms = if again { RETRY_AFTER_MS } else { 0 };
    v1::Refusal { reason: reason.into(), retry_after_ms, message }
}

/// The one place where what a shard says becomes a refusal on the wire.
fn refused(block: &v1::Block, error: &ApplyError) -> v1::BlockAck {
    let reason = match error {
        ApplyError::Shard(_) => RefusalReason::OwnerUnavailable,
        ApplyError::OwnersDiffer => RefusalReason::OwnersDiffer,
        ApplyError::Quarantined => RefusalReason::Quarantined,
        ApplyError::Journal(AppendError::TooLarge { .. }) => RefusalReason::TooLarge,
        // What fails to be written may be written later, or by another node.
        ApplyError::Journal(_) => RefusalReason::Overloaded,
        ApplyError::Block(BlockError::Producer) => RefusalReason::BadProducer,
        ApplyError::Block(BlockError::NoSuchShard(_) | BlockError::WrongShard { .. }) => {
            RefusalReason::WrongShard
        }
        ApplyError::Block(BlockError::TooManyEvents(_)) => RefusalReason::TooLarge,
        ApplyError::Block(BlockError::Malformed(_)) => RefusalReason::Malformed,
    };
    refusal(block, reason, error.to_string())
}

/// Whether this block says who it is; asked before it is passed on, so that the sender hears of it at once.
pub(crate) fn check_identity(block: &v1::Block, shards: ShardCount) -> Result<BlockId, v1::BlockAck> {
    BlockId::of(block, shards).map_err(|error| refused(block, &error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(duplicate: u32, refused: Option<RefusalReason>) -> v1::BlockAck {
        let refused = refused.map(|reason| refusal_of(reason, String::new()));
        v1::BlockAck { accepted: 5, duplicate, refused, ..v1::BlockAck::default() }
    }

    fn reason(acks: &[v1::BlockAck]) -> Option<RefusalReason> {
        merge(acks.to_vec()).refused.map(|refused| refused.reason())
    }

    #[test]
    fn a_block_is_a_duplicate_only_where_all_owners_had_it() {
        assert_eq!(merge(vec![ack(5, None), ack(0, None)]).duplicate, 0);
        assert_eq!(merge(vec![ack(5, None), ack(5, None)]).duplicate, 5);
    }

    #[test]
    fn one_owner_that_does_not_have_it_is_enough_for_a_refusal_and_a_final_one_goes_first() {
        use RefusalReason::{Malformed, Overloaded};
        assert_eq!(reason(&[ack(0, None), ack(0, Some(Overloaded))]), Some(Overloaded));
        assert_eq!(reason(&[ack(0, Some(Overloaded)), ack(0, Some(Malformed))]), Some(Malformed));
        assert_eq!(reason(&[ack(0, None), ack(0, None)]), None);
    }
}
