//! One shard's actor.
//!
//! Owns: the order in which a shard's blocks are counted, and which of its buckets are in memory.
//! Does not own: counting (`tidemark_rollup::shard`), keeping blocks (`tidemark-journal`), scanning closed buckets
//! (`crate::query`).

use super::parts::ShardParts;
use super::state::State;
use crate::admission::Permit;
use crate::committed::Committed;
use crate::query::Question;
use crate::quotas::SiteUsage;
use crate::shard::{ApplyError, Delivery, ShardError};
use crate::told::Told;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_history::day::DayStart;
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::census::Census;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::deltas::Mark;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::partial::Partial;
use tidemark_rollup::scan::{DimensionOfBucket, Scanned};
use tidemark_rollup::shard::Applied;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::table::SiteFacts;
use tidemark_rollup::time::{BucketStart, EventTime};
use tokio::sync::{mpsc, oneshot};

/// Queries that go before a block, at most: where some are always waiting, blocks are counted all the same.
const BEFORE_A_BLOCK: usize = 2;

pub(super) enum ShardMsg {
    /// Tells once the block is counted and the journal has it.
    /// The permit rides along, so a sender that gives up does not free room that is still in use.
    /// Here, and not before, it is seen whether the sender knows all owners (whose keys are `writers`): see `Holds`.
    Apply {
        block: v1::Block,
        delivery: Option<Delivery>,
        admitted: Permit,
        told: Told<Result<Applied, ApplyError>>,
    },
    /// Which blocks the journal has, once all that were taken before this message are in it. `None` where `asker` is no
    /// owner. Blocks that come after this message are taken only if they are brought to the asker as well.
    Holds { asker: Option<NodeId>, reply: RpcReplyPort<Option<Coverage>> },
    /// Which of these blocks the shard does not know.
    Lacking { of: Coverage, reply: RpcReplyPort<Coverage> },
    /// The shard is others': it need not be in memory.
    Release,
    /// It is this node's again.
    Restore,
    /// Somebody is waiting for a view, if nobody has shown it yet: see [`ViewRequest`].
    Asked,
    /// Which values some dimensions have.
    TakeCensus { of: Arc<Vec<DimensionOfBucket>>, reply: RpcReplyPort<Vec<Census>> },
    /// The sites that have events.
    Sites { reply: RpcReplyPort<Vec<String>> },
    /// How much there is. From the node's clock.
    Measure { by_site_from: Option<BucketStart>, reply: RpcReplyPort<Usage> },
    /// What of a bucket is in memory, to be flushed; and the repeated events noted since this was last asked for.
    Flushing { bucket: BucketStart, reply: RpcReplyPort<Flushing> },
    /// Repeated events whose flush did not come to pass.
    KeepDuplicates { bucket: BucketStart, by_site: BTreeMap<String, u64> },
    /// Takes buckets out of memory.
    Evict { eviction: Eviction, reply: RpcReplyPort<()> },
    /// What happened to events that no commit covers.
    Receipts { from: BucketStart, to: BucketStart, committed: Arc<Committed>, reply: RpcReplyPort<Receipts> },
    /// Fails, as a defect would make it.
    #[cfg(test)]
    Panic,
}

/// Wants the shard as a query sees it: scans of the open buckets, which are being written to, and the closed ones.
///
/// It comes by a way of its own, and may go before blocks that came earlier and are not counted yet: nobody was told that they are. Blocks
/// of a batch come to all shards at once, and a query that waited in line with them would wait for all of them.
pub(super) struct ViewRequest {
    pub(super) question: Arc<Question>,
    pub(super) pass: OpenPass,
    pub(super) reply: oneshot::Sender<Result<ShardView, ShardError>>,
}

/// What to look for in open buckets.
#[derive(Clone, Debug)]
pub enum OpenPass {
    /// See [`scan_all`](tidemark_rollup::scan::scan_all).
    Everything,
    /// See [`scan_order_uncut`](tidemark_rollup::scan::scan_order_uncut); where it is by URL alone,
    /// [`urls_alone`](tidemark_rollup::scan::urls_alone).
    Order,
    /// See [`scan_winners`](tidemark_rollup::scan::scan_winners).
    Winners(Arc<Partial>),
    /// What was counted since these marks, where it is known; otherwise, or `anew`, everything, but for visitors of the last five minutes:
    /// these are apart. The marks serve once.
    Live {
        /// Of shards that were asked before.
        marks: Arc<BTreeMap<ShardId, Mark>>,
        /// Whether the marks only tell that their holder is still there.
        anew: bool,
    },
}

/// A shard as a query sees it.
#[derive(Debug, Default)]
pub struct ShardView {
    /// From the open buckets; `None` where the query needs none of them.
    pub open: Option<Scanned>,
    /// The earliest of these.
    pub first_open: Option<BucketStart>,
    /// What the query needs of closed buckets, oldest first, and copies of open ones that are scanned as those are. Nobody changes it.
    pub closed: Vec<Arc<Bucket>>,
    /// Buckets that answer alone although something of them is committed.
    pub whole: Vec<BucketStart>,
    /// Buckets of which the journal has what no commit covers, and memory has nothing.
    pub in_journal: Vec<BucketStart>,
    /// How to go on from here, where that was asked for; `open` is left out where it tells what came since.
    pub live: Option<LiveView>,
    /// Visitors of the last five minutes, where they were asked for apart.
    pub active: Option<Scanned>,
    /// Days whose coverage must be known first; the rest of the view is empty then.
    pub unknown: Vec<DayStart>,
}

/// How to go on from a view.
#[derive(Debug)]
pub struct LiveView {
    /// Where it ends.
    pub mark: Mark,
    /// The open buckets that the query needs.
    pub open: Vec<BucketStart>,
    /// What was counted since the mark that was asked for, where that is all that differs in open buckets.
    pub since: Option<Vec<Arc<Bucket>>>,
}

/// How much a shard holds.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Bytes of its rollups.
    pub rollup_bytes: u64,
    /// Rows of its rollups.
    pub rows: u64,
    /// Bytes by bucket.
    pub buckets: Vec<(BucketStart, u64)>,
    /// By bucket and site, in the buckets for which that was asked.
    pub by_site: Vec<(BucketStart, String, SiteUsage)>,
}

/// What of a bucket is to be flushed.
#[derive(Debug, Default)]
pub struct Flushing {
    /// The bucket, where it is in memory.
    pub bucket: Option<Arc<Bucket>>,
    /// Repeated events by site.
    pub duplicates: BTreeMap<String, u64>,
}

/// Which buckets need not be in memory any longer.
#[derive(Clone, Copy, Debug)]
pub struct Eviction {
    /// Buckets before this one, where commits cover all of them.
    pub committed_before: BucketStart,
    /// Buckets before this one also where only the journal has them.
    pub any_before: BucketStart,
    /// Of buckets before this one, which stay, who was active when: no window touches them any more.
    pub slices_before: BucketStart,
    /// When this was found: what is kept for questions that are not asked again goes as well.
    pub now: EventTime,
}

/// What happened to events, by bucket and site; `None` where a day's coverage is not known yet.
pub type Receipts = Result<Vec<(BucketStart, String, SiteFacts)>, Vec<DayStart>>;

pub(super) struct ShardActor;

impl Actor for ShardActor {
    type Msg = ShardMsg;
    type State = State;
    type Arguments = (ShardId, Arc<ShardParts>, mpsc::UnboundedReceiver<ViewRequest>);

    async fn pre_start(
        &self,
        _: ActorRef<ShardMsg>,
        (id, parts, asked): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State::new(id, parts, asked))
    }

    // Not in `pre_start`: the supervisor waits for that, and other shards need it meanwhile.
    async fn post_start(&self, _: ActorRef<ShardMsg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.rebuild().await;
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<ShardMsg>,
        message: ShardMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.drop_what_the_journal_lost().await;
        if matches!(message, ShardMsg::Apply { .. }) && state.show_before_a_block(BEFORE_A_BLOCK).await {
            // Other shards have a block before them, too, and are asked as well: those that are next answer before this one counts.
            tokio::task::yield_now().await;
            state.drop_what_the_journal_lost().await;
        }
        // A reply that cannot be sent means the caller stopped waiting, which is their right.
        match message {
            ShardMsg::Apply { block, delivery, admitted, told } => {
                state.apply(block, delivery, admitted, told);
            }
            ShardMsg::Holds { asker, reply } => state.holds(asker, reply),
            ShardMsg::Lacking { of, reply } => _ = reply.send(state.lacking(&of)),
            ShardMsg::Release => state.release(),
            ShardMsg::Restore => state.restore().await,
            ShardMsg::Asked => _ = state.show(1).await,
            ShardMsg::TakeCensus { of, reply } => _ = reply.send(state.take_census(&of)),
            ShardMsg::Sites { reply } => _ = reply.send(state.sites()),
            ShardMsg::Measure { by_site_from, reply } => _ = reply.send(state.usage(by_site_from)),
            ShardMsg::Flushing { bucket, reply } => _ = reply.send(state.flushing(bucket)),
            ShardMsg::KeepDuplicates { bucket, by_site } => state.keep_duplicates(bucket, by_site),
            ShardMsg::Evict { eviction, reply } => {
                state.evict(eviction);
                let _ = reply.send(());
            }
            ShardMsg::Receipts { from, to, committed, reply } => {
                let _ = reply.send(state.receipts(from, to, &committed));
            }
            #[cfg(test)]
            ShardMsg::Panic => panic!("asked to"),
        }
        Ok(())
    }
}
