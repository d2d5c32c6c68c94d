//! What other nodes ask of this one: comparing, blocks, and pulling from them.

use super::{COMPARE_WITHIN, Repair};
use futures::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_journal::Entry;
use tidemark_proto::v1;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::{Incarnation, NodeId};
use tidemark_rollup::sharding::ShardId;
use tidemark_shell::work;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Bytes of blocks in one message.
const BATCH_BYTES: u64 = 1 << 20;
/// Messages that wait to be sent.
const WAITING: usize = 2;

/// Blocks on their way to another node.
pub(crate) type Blocks = ReceiverStream<Result<v1::BlockBatch, Status>>;

impl Repair {
    /// Which blocks this node has of the shards that the asker owns.
    pub(crate) async fn compare(&self, request: v1::CompareRequest) -> Result<v1::CompareReply, Status> {
        let asker = node_id(&request.asker)?;
        let asked: BTreeSet<ShardId> =
            request.shards.iter().filter_map(|&shard| self.shards.shard(shard)).collect();
        let held = asked.iter().map(|shard| {
            let (handle, asker) = (self.local.get(shard.index()), asker.clone());
            async move { Some((*shard, handle?.holds(Some(asker), COMPARE_WITHIN).await.ok().flatten())) }
        });
        let held: Vec<Option<(ShardId, Option<Coverage>)>> = join_all(held).await;
        let mut reply = v1::CompareReply::default();
        let held: Vec<(ShardId, Option<Coverage>)> = held.into_iter().flatten().collect();
        // Who is active already says no life: it may be the stranger that this one is to find out.
        if request.life != 0 && held.iter().any(|(_, held)| held.is_some()) {
            // From now on it gets what is taken here.
            let mut ownership = self.ownership();
            ownership.was_asked_by(&asker, Incarnation(request.life));
            self.publish(&ownership);
        }
        for (shard, held) in held {
            match held {
                None => reply.not_yet.push(shard.get()),
                Some(held) if held.is_empty() => {}
                Some(held) => {
                    reply.holds.push(v1::ShardCoverage { shard: shard.get(), coverage: Some(held.to_wire()) })
                }
            }
        }
        Ok(reply)
    }

    /// Blocks of the journal. What commits cover by now is not among them.
    pub(crate) fn blocks(self: &Arc<Self>, request: v1::PullRequest) -> Result<Blocks, Status> {
        let turn = Arc::clone(&self.serving).try_acquire_owned();
        let turn = turn.map_err(|_| Status::resource_exhausted("others are pulling; pull later"))?;
        let mut wanted: Vec<Entry> = Vec::new();
        for of in &request.wanted {
            let (Some(shard), Some(coverage)) =
                (self.shards.shard(of.shard), of.coverage.as_ref().and_then(Coverage::from_wire))
            else {
                return Err(Status::invalid_argument(
                    "a coverage cannot be read: run one version on all members",
                ));
            };
            let held = self.parts.journal.blocks(shard).into_iter();
            wanted.extend(held.filter(|entry| coverage.contains(entry.id.producer, entry.id.seq)));
        }
        let (sender, blocks) = mpsc::channel(WAITING);
        let parts = Arc::clone(&self.parts);
        tokio::spawn(async move {
            let _turn = turn;
            let mut rest = &wanted[..];
            while !rest.is_empty() {
                let mut bytes = 0;
                let fits = rest.iter().take_while(|entry| {
                    let fits = bytes < BATCH_BYTES;
                    bytes += u64::from(entry.record_bytes());
                    fits
                });
                let (batch, others) = rest.split_at(fits.count());
                rest = others;
                let (parts, batch) = (Arc::clone(&parts), batch.to_vec());
                let read = work::run(move || read(&parts, &batch)).await;
                if sender.send(Ok(v1::BlockBatch { blocks: read })).await.is_err() {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(blocks))
    }

    /// Pulls from the inviting node what this one lacks of what it owns.
    pub(crate) async fn accept_invitation(
        &self,
        request: v1::InviteRequest,
    ) -> Result<v1::InviteReply, Status> {
        let holder = node_id(&request.holder)?;
        let owners = Arc::clone(&self.owners.borrow());
        let Some(holder) = owners.view.member(&holder).cloned() else {
            return Err(Status::unavailable("the inviting node is not in view yet"));
        };
        let owned = |of: &&v1::ShardCoverage| {
            self.shards.shard(of.shard).is_some_and(|shard| owners.placement.is_writer(shard, &self.me))
        };
        let holds: Vec<v1::ShardCoverage> = request.holds.iter().filter(owned).cloned().collect();
        let wanted = self.lacking(&holds).await?;
        let pulled = self.pull(&holder, wanted.clone()).await;
        let done = holds.iter().filter_map(|of| self.shards.shard(of.shard));
        let done: Vec<ShardId> =
            done.filter(|shard| !wanted.contains_key(shard) || pulled.contains(shard)).collect();
        let ownership = self.ownership();
        let ready =
            done.iter().filter(|shard| ownership.is_ready(**shard)).map(|shard| shard.get()).collect();
        Ok(v1::InviteReply { done: done.iter().map(|shard| shard.get()).collect(), ready })
    }
}

fn read(parts: &crate::shard::ShardParts, entries: &[Entry]) -> Vec<v1::Block> {
    let read = entries.iter().filter_map(|entry| match parts.journal.read(entry) {
        Ok(block) => Some(block),
        // Commits cover it meanwhile.
        Err(tidemark_journal::ReadError::Trimmed { .. }) => None,
        Err(error) => {
            parts.metrics.block_lost();
            tracing::error!(block = %entry.id, %error, "a block of the journal cannot be read any more");
            None
        }
    });
    read.collect()
}

fn node_id(name: &str) -> Result<NodeId, Status> {
    NodeId::new(name).map_err(|error| Status::invalid_argument(error.to_string()))
}
