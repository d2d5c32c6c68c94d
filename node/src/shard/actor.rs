//! One shard's actor.
//!
//! Owns: the order in which a shard's blocks are counted.
//! Does not own: counting (`tidemark_rollup::shard`), scanning closed buckets (`crate::query`).

use super::parts::ShardParts;
use crate::admission::Permit;
use crate::query::Question;
use crate::shard::ApplyError;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::block::BlockId;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::census::Census;
use tidemark_rollup::event::GRACE;
use tidemark_rollup::partial::Partial;
use tidemark_rollup::scan::{
    DimensionOfBucket, DistinctCounts, Scanned, needs, scan_all, scan_order_uncut, scan_winners, take_census,
};
use tidemark_rollup::shard::{Applied, Shard};
use tidemark_rollup::sharding::ShardId;

pub(super) enum ShardMsg {
    /// Replies once the block is counted and in the journal.
    /// The permit rides along, so a sender that gives up does not free room that is still in use.
    Apply { block: v1::Block, admitted: Permit, reply: RpcReplyPort<Result<Applied, ApplyError>> },
    /// Scans the open buckets, which are being written to, and hands out the closed ones.
    View { question: Arc<Question>, pass: OpenPass, reply: RpcReplyPort<ShardView> },
    /// Which values some dimensions have.
    TakeCensus { of: Arc<Vec<DimensionOfBucket>>, reply: RpcReplyPort<Vec<Census>> },
    /// The sites that have events.
    Sites { reply: RpcReplyPort<Vec<String>> },
    /// How much there is. From the node's clock.
    Measure { reply: RpcReplyPort<Usage> },
    /// Fails, as a defect would make it.
    #[cfg(test)]
    Panic,
}

/// What to look for in open buckets.
#[derive(Clone, Debug)]
pub enum OpenPass {
    /// See [`scan_all`].
    Everything,
    /// See [`scan_order_uncut`].
    Order,
    /// See [`scan_winners`].
    Winners(Arc<Partial>),
}

/// A shard as a query sees it.
#[derive(Debug)]
pub struct ShardView {
    /// From the open buckets; `None` where the query needs none of them.
    pub open: Option<Scanned>,
    /// The closed buckets that the query needs, oldest first. Nobody changes these.
    pub closed: Vec<Arc<Bucket>>,
}

/// How much a shard holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes of its rollups.
    pub rollup_bytes: u64,
    /// Rows of its rollups.
    pub rows: u64,
}

pub(super) struct ShardActor;

pub(super) struct State {
    shard: Shard,
    parts: Arc<ShardParts>,
}

impl Actor for ShardActor {
    type Msg = ShardMsg;
    type State = State;
    type Arguments = (ShardId, Arc<ShardParts>);

    async fn pre_start(
        &self,
        _: ActorRef<ShardMsg>,
        (id, parts): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State { shard: Shard::new(id, parts.rules.clone()), parts })
    }

    // Not in `pre_start`: the supervisor waits for that, and other shards need it meanwhile.
    async fn post_start(&self, _: ActorRef<ShardMsg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.rebuild();
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<ShardMsg>,
        message: ShardMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // A reply that cannot be sent means the caller stopped waiting, which is their right.
        match message {
            ShardMsg::Apply { block, admitted, reply } => {
                let _ = reply.send(state.apply(block));
                drop(admitted);
            }
            ShardMsg::View { question, pass, reply } => {
                let _ = reply.send(state.view(&question, &pass));
            }
            ShardMsg::TakeCensus { of, reply } => {
                let buckets: Vec<Arc<Bucket>> = state.shard.buckets().cloned().collect();
                let _ = reply.send(take_census(&buckets, &of));
            }
            ShardMsg::Sites { reply } => {
                let _ = reply.send(state.sites());
            }
            ShardMsg::Measure { reply } => {
                let (rollup_bytes, rows) = (state.shard.heap_bytes() as u64, state.shard.row_count() as u64);
                let _ = reply.send(Usage { rollup_bytes, rows });
            }
            #[cfg(test)]
            ShardMsg::Panic => panic!("asked to"),
        }
        Ok(())
    }
}

impl State {
    fn apply(&mut self, block: v1::Block) -> Result<Applied, ApplyError> {
        let journal = self.parts.journal(self.shard.id());
        let id = BlockId::of(&block, self.parts.rules.shards)?;
        if !journal.begin(id) {
            return Err(ApplyError::Quarantined);
        }
        let applied = self.shard.apply(&block);
        // Also where every event of it was rejected: receipts come from blocks.
        let is_new = applied.as_ref().is_ok_and(|applied| !applied.repeated);
        journal.end(is_new.then_some(block));
        Ok(applied?)
    }

    fn rebuild(&mut self) {
        let id = self.shard.id();
        let journal = self.parts.journal(id);
        if let Some(block) = journal.quarantine_unfinished() {
            self.parts.metrics.block_quarantined();
            tracing::error!(%block, "the shard failed while counting this block; set it aside, its events are not counted");
        }
        let blocks = journal.blocks();
        for block in &blocks {
            if let Err(error) = self.shard.apply(block) {
                tracing::error!(shard = %id, %error, "a block of the journal cannot be read any more");
            }
        }
        if !blocks.is_empty() {
            tracing::info!(shard = %id, blocks = blocks.len(), "rebuilt the shard from its journal");
        }
    }

    fn view(&self, question: &Question, pass: &OpenPass) -> ShardView {
        let Question { query, context, now } = question;
        // A bucket is open until it has ended and waited for stragglers.
        let closed_before = now.minus(GRACE);
        let needed = self.shard.buckets().filter(|bucket| needs(query, bucket.start()));
        let (closed, open): (Vec<_>, Vec<_>) =
            needed.partition(|bucket| bucket.start().end() <= closed_before);
        let open: Vec<&Bucket> = open.into_iter().map(Arc::as_ref).collect();
        let scan = || match pass {
            OpenPass::Everything => scan_all(&open, query, context),
            OpenPass::Order => scan_order_uncut(&open, query, context),
            OpenPass::Winners(winners) => {
                let partial = scan_winners(&open, winners, query, context);
                Scanned { partial, distinct: DistinctCounts::default() }
            }
        };
        ShardView { open: (!open.is_empty()).then(scan), closed: closed.into_iter().cloned().collect() }
    }

    fn sites(&self) -> Vec<String> {
        let names = self.shard.buckets().flat_map(|bucket| bucket.sites());
        let distinct: std::collections::BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
        distinct.into_iter().map(str::to_owned).collect()
    }
}
