//! Brings blocks to their owners.
//!
//! Owns: choosing owners by the placement of the moment, and turning what they say into acknowledgements.
//! Does not own: making blocks (`grpc`), counting them (`shard`).
//!
//! A block is passed on as the bytes it came in; nobody decodes it on the way.

use crate::admission::Permit;
use crate::metrics::NodeMeter;
use crate::peers::Peers;
use crate::shard::{ApplyError, ShardHandle};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_journal::AppendError;
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;
use tidemark_rollup::block::{BlockError, BlockId};
use tidemark_rollup::placement::{NodeId, Placement};
use tidemark_rollup::shard::Applied;
use tidemark_rollup::sharding::ShardCount;
use tokio::sync::watch;
use tonic::transport::Channel;

/// When a refused sender should try again.
pub(crate) const RETRY_AFTER_MS: u32 = 100;

#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) me: NodeId,
    pub(crate) shards: ShardCount,
    pub(crate) placement: watch::Receiver<Arc<Placement>>,
    /// By shard; `None` for the shards of others.
    pub(crate) local: Vec<Option<ShardHandle>>,
    pub(crate) peers: Peers,
    pub(crate) timeout: Duration,
    pub(crate) metrics: NodeMeter,
}

impl Router {
    /// Brings each block to its owner; acknowledgements in the order of the blocks.
    pub(crate) async fn deliver(&self, blocks: Vec<v1::Block>, permit: &Permit) -> Vec<v1::BlockAck> {
        let placement = Arc::clone(&self.placement.borrow());
        let mut acks = vec![v1::BlockAck::default(); blocks.len()];
        let mut mine = Vec::new();
        let mut theirs: BTreeMap<String, (Vec<usize>, Vec<v1::Block>)> = BTreeMap::new();
        for (at, block) in blocks.into_iter().enumerate() {
            let owner = self.shards.shard(block.shard).and_then(|shard| placement.owner(shard));
            match owner {
                None => acks[at] = refused(&block, &BlockError::NoSuchShard(block.shard).into()),
                Some(owner) if owner.id == self.me => mine.push((at, block)),
                Some(owner) => {
                    let (positions, blocks) = theirs.entry(owner.address.clone()).or_default();
                    positions.push(at);
                    blocks.push(block);
                }
            }
        }
        let local = join_all(
            mine.into_iter().map(|(at, block)| async move { (at, self.apply(block, permit.clone()).await) }),
        );
        let remote = join_all(theirs.into_iter().map(|(address, (positions, blocks))| async move {
            positions.into_iter().zip(self.forward(&address, blocks).await).collect::<Vec<_>>()
        }));
        let (local, remote) = futures::join!(local, remote);
        for (at, ack) in local.into_iter().chain(remote.into_iter().flatten()) {
            acks[at] = ack;
        }
        acks
    }

    /// Counts a block in a shard of this node.
    pub(crate) async fn apply(&self, block: v1::Block, permit: Permit) -> v1::BlockAck {
        let bare = v1::Block { columns: bytes::Bytes::new(), ..block.clone() };
        let Some(Some(handle)) = self.local.get(block.shard as usize) else {
            return refusal(
                &bare,
                RefusalReason::OwnerUnavailable,
                format!(
                    "node {} does not own shard {}; the members disagree about who is in the cluster",
                    self.me, block.shard
                ),
            );
        };
        match handle.apply(block, permit, self.timeout).await {
            Ok(applied) => {
                self.metrics.applied(&applied);
                acknowledged(&bare, &applied)
            }
            Err(error) => refused(&bare, &error),
        }
    }

    async fn forward(&self, address: &str, blocks: Vec<v1::Block>) -> Vec<v1::BlockAck> {
        let bare: Vec<v1::Block> =
            blocks.iter().map(|block| v1::Block { columns: bytes::Bytes::new(), ..block.clone() }).collect();
        self.metrics.forwarded(blocks.len() as u64);
        let request = v1::ApplyRequest { shard_count: self.shards.get(), blocks };
        let unavailable = |message: String| {
            let refuse = |block| refusal(block, RefusalReason::OwnerUnavailable, message.clone());
            bare.iter().map(refuse).collect::<Vec<_>>()
        };
        let reply = match self.peers.client(address) {
            Ok(client) => tokio::time::timeout(self.timeout, call(client, request)).await,
            Err(error) => return unavailable(format!("the owner's address {address} is none: {error}")),
        };
        match reply {
            Ok(Ok(reply)) if reply.acks.len() == bare.len() => reply.acks,
            Ok(Ok(_)) => unavailable(format!("the owner at {address} did not acknowledge every block")),
            Ok(Err(status)) => {
                unavailable(format!("the owner at {address} cannot be reached: {}", status.message()))
            }
            Err(_) => unavailable(format!("the owner at {address} did not answer within {:?}", self.timeout)),
        }
    }
}

async fn call(
    mut client: v1::cluster_client::ClusterClient<Channel>,
    request: v1::ApplyRequest,
) -> Result<v1::ApplyReply, tonic::Status> {
    client.apply(request).await.map(tonic::Response::into_inner)
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
    let again = matches!(reason, RefusalReason::Overloaded | RefusalReason::OwnerUnavailable);
    let retry_after_ms = if again { RETRY_AFTER_MS } else { 0 };
    v1::Refusal { reason: reason.into(), retry_after_ms, message }
}

/// The one place where what a shard says becomes a refusal on the wire.
fn refused(block: &v1::Block, error: &ApplyError) -> v1::BlockAck {
    let reason = match error {
        ApplyError::Shard(_) => RefusalReason::OwnerUnavailable,
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
