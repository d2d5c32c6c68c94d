//! The only way to talk to a shard.
//!
//! A handle outlives the actor: when the supervisor starts another one, the handle talks to that.

use super::Delivery;
use super::actor::{Eviction, Flushing, OpenPass, Receipts, ShardMsg, ShardView, Usage, ViewRequest};
use crate::admission::Permit;
use crate::committed::Committed;
use crate::query::Question;
use crate::told::Told;
use ractor::rpc::CallResult;
use ractor::{ActorRef, RpcReplyPort};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_journal::AppendError;
use tidemark_proto::v1;
use tidemark_rollup::block::BlockError;
use tidemark_rollup::census::Census;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::scan::DimensionOfBucket;
use tidemark_rollup::shard::Applied;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;
use tokio::sync::{mpsc, oneshot, watch};

/// Why a shard did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// It is being restarted. Ask again.
    #[error("the shard is restarting")]
    Stopped,
    /// It failed too often and is not started again. Other shards go on; see the node's log.
    #[error("the shard failed too often and stays down; restart the node and report its log")]
    Down,
    /// Others own it by now, and have all of it. Ask one of them.
    #[error("the shard is others' by now")]
    Elsewhere,
    /// It is busy. Ask again.
    #[error("the shard did not reply within {waited:?}")]
    NoReply {
        /// How long.
        waited: Duration,
    },
}

/// Why a block was not counted, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Counted or not, we cannot say. Send the same block again: it counts once.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Nothing was counted, and sending it again does not help.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Nothing was counted here: this node knows an owner of the shard that the block is not brought to. Send it again when
    /// views agree.
    #[error("members do not agree at the moment about who owns the shard; send the block again")]
    OwnersDiffer,
    /// Nothing of it is counted: the shard failed when it tried. Sending it again does not help; report it.
    #[error("the shard failed while counting this block and has set it aside")]
    Quarantined,
    /// Nothing of it is counted, because it could not be kept. Send it again later.
    #[error(transparent)]
    Journal(AppendError),
}

/// Where a shard's actor is at the moment.
#[derive(Clone, Debug)]
pub(super) enum Station {
    Up { actor: ActorRef<ShardMsg>, ask: mpsc::UnboundedSender<ViewRequest> },
    Down,
}

/// A shard, to talk to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    id: ShardId,
    station: watch::Receiver<Station>,
}

impl ShardHandle {
    pub(super) fn new(id: ShardId, station: watch::Receiver<Station>) -> Self {
        Self { id, station }
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Whether the shard is up.
    pub fn is_up(&self) -> bool {
        matches!(*self.station.borrow(), Station::Up { .. })
    }

    /// Counts a block; without a delivery, one that another owner has. `told` is told once it is counted and the journal has it, or why
    /// not; nothing where the shard ends before.
    pub(crate) fn apply(
        &self,
        block: v1::Block,
        delivery: Option<Delivery>,
        admitted: Permit,
        told: Told<Result<Applied, ApplyError>>,
    ) {
        let actor = match &*self.station.borrow() {
            Station::Up { actor, .. } => actor.clone(),
            Station::Down => return told.tell(Err(ShardError::Down.into())),
        };
        // Where it has ended, the message is dropped, and `told` says so.
        let _ = actor.cast(ShardMsg::Apply { block, delivery, admitted, told });
    }

    /// Which blocks of the shard the journal has; `None` where `asker` is not seen as an owner of it.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn holds(
        &self,
        asker: Option<NodeId>,
        timeout: Duration,
    ) -> Result<Option<Coverage>, ShardError> {
        self.call(timeout, |reply| ShardMsg::Holds { asker, reply }).await
    }

    /// Which of these blocks the shard does not know.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn lacking(&self, of: Coverage, timeout: Duration) -> Result<Coverage, ShardError> {
        self.call(timeout, |reply| ShardMsg::Lacking { of, reply }).await
    }

    /// Takes the shard out of memory: it is others' now.
    pub(crate) fn release(&self) {
        self.cast(ShardMsg::Release);
    }

    /// Takes the shard into memory: it is this node's again.
    pub(crate) fn restore(&self) {
        self.cast(ShardMsg::Restore);
    }

    /// The shard as a query sees it, with all that was told to be counted before, and maybe more.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn view(
        &self,
        question: Arc<Question>,
        pass: OpenPass,
        timeout: Duration,
    ) -> Result<ShardView, ShardError> {
        let (reply, replied) = oneshot::channel();
        match &*self.station.borrow() {
            Station::Up { actor, ask } => {
                // Where it has ended, both are dropped, and the reply with them.
                let _ = ask.send(ViewRequest { question, pass, reply });
                let _ = actor.cast(ShardMsg::Asked);
            }
            Station::Down => return Err(ShardError::Down),
        }
        match tokio::time::timeout(timeout, replied).await {
            Ok(Ok(view)) => view,
            Ok(Err(_)) => Err(ShardError::Stopped),
            Err(_) => Err(ShardError::NoReply { waited: timeout }),
        }
    }

    /// Which values these dimensions have.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn take_census(
        &self,
        of: Arc<Vec<DimensionOfBucket>>,
        timeout: Duration,
    ) -> Result<Vec<Census>, ShardError> {
        self.call(timeout, |reply| ShardMsg::TakeCensus { of, reply }).await
    }

    /// The sites that have events.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn sites(&self, timeout: Duration) -> Result<Vec<String>, ShardError> {
        self.call(timeout, |reply| ShardMsg::Sites { reply }).await
    }

    /// How much the shard holds; from this bucket on by site as well.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn measure(
        &self,
        by_site_from: Option<BucketStart>,
        timeout: Duration,
    ) -> Result<Usage, ShardError> {
        self.call(timeout, |reply| ShardMsg::Measure { by_site_from, reply }).await
    }

    /// What of a bucket is in memory; and the repeated events noted since this was last asked for.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn flushing(&self, bucket: BucketStart, timeout: Duration) -> Result<Flushing, ShardError> {
        self.call(timeout, |reply| ShardMsg::Flushing { bucket, reply }).await
    }

    /// Notes repeated events again, whose flush did not come to pass.
    pub fn keep_duplicates(&self, bucket: BucketStart, by_site: BTreeMap<String, u64>) {
        // A shard that is restarting forgets them, as it does others that are not flushed.
        self.cast(ShardMsg::KeepDuplicates { bucket, by_site });
    }

    /// Takes buckets out of memory, and what is kept for questions that are not asked any more.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn evict(&self, eviction: Eviction, timeout: Duration) -> Result<(), ShardError> {
        self.call(timeout, |reply| ShardMsg::Evict { eviction, reply }).await
    }

    /// What happened to events that these commits do not cover, by bucket and site.
    ///
    /// # Errors
    /// Where the shard does not answer.
    pub async fn receipts(
        &self,
        from: BucketStart,
        to: BucketStart,
        committed: Arc<Committed>,
        timeout: Duration,
    ) -> Result<Receipts, ShardError> {
        self.call(timeout, |reply| ShardMsg::Receipts { from, to, committed, reply }).await
    }

    /// Makes the shard fail, as a defect would.
    #[cfg(test)]
    pub(crate) fn panic(&self) {
        self.cast(ShardMsg::Panic);
    }

    fn cast(&self, message: ShardMsg) {
        if let Station::Up { actor, .. } = &*self.station.borrow() {
            let _ = actor.cast(message);
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        message: impl FnOnce(RpcReplyPort<T>) -> ShardMsg,
    ) -> Result<T, ShardError> {
        let actor = match &*self.station.borrow() {
            Station::Up { actor, .. } => actor.clone(),
            Station::Down => return Err(ShardError::Down),
        };
        match actor.call(message, Some(timeout)).await {
            Ok(CallResult::Success(reply)) => Ok(reply),
            Ok(CallResult::Timeout) => Err(ShardError::NoReply { waited: timeout }),
            Ok(CallResult::SenderError) | Err(_) => Err(ShardError::Stopped),
        }
    }
}
