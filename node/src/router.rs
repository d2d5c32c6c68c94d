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
use crate::admission::Refused;
use crate::metrics::NodeMeter;
use crate::owners::Owners;
use crate::peers::{PeerError, Peers};
use crate::planted::{Bug, Planted};
use crate::shard::{ApplyError, Delivery, ShardError, ShardHandle};
use crate::told::Told;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_journal::AppendError;
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;
use tidemark_rollup::block::{BlockError, BlockId};
use tidemark_rollup::member::Member;
use tidemark_rollup::shard::Applied;
use tidemark_rollup::sharding::ShardCount;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
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
    /// For what is to be done later about what another thread tells.
    pub(crate) runtime: Handle,
    pub(crate) metrics: NodeMeter,
    pub(crate) planted: Planted,
}

/// What is done with an acknowledgement, on whichever thread it comes.
pub(crate) type Done = Box<dyn FnOnce(v1::BlockAck) + Send>;

/// A block on its way to its owners.
struct Journey {
    block: v1::Block,
    permit: Permit,
    /// Until when it is brought again.
    deadline: Instant,
    done: Done,
}

impl Router {
    /// Brings each block to its owners; acknowledgements in the order of the blocks.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        blocks: Vec<v1::Block>,
        permit: &Permit,
    ) -> Vec<v1::BlockAck> {
        let bring = |block, done| self.bring(block, permit.clone(), done);
        // The owners' own time-outs come first.
        gather(blocks, self.timeout.saturating_mul(2), bring).await
    }

    /// Brings a block to its owners; `done` is told what becomes of it.
    pub(crate) fn bring(self: &Arc<Self>, block: v1::Block, permit: Permit, done: Done) {
        let deadline = Instant::now() + self.timeout;
        Self::set_out(self, Journey { block, permit, deadline, done }, false);
    }

    /// Brings it to those who own it now. `again`: not for the first time.
    fn set_out(this: &Arc<Self>, Journey { block, permit, deadline, done }: Journey, again: bool) {
        let Some(shard) = this.shards.shard(block.shard) else {
            return done(refused(&block, &BlockError::NoSuchShard(block.shard).into()));
        };
        let owners = Arc::clone(&this.owners.borrow());
        if owners.waits() {
            let message = "this node has yet to hear of others, and begins alone in a moment if there are none: send the same again";
            return done(refusal(&block, RefusalReason::OwnerUnavailable, message.to_owned()));
        }
        let writers = owners.placement.writers(shard);
        let delivery = Delivery { writers: owners.writers(shard), again };
        let present = writers.clone().filter(|writer| !writer.doubtful).count();
        if present < this.min_owners.get() {
            let message = format!(
                "{present} of the owners of shard {shard} are present, and min_owners asks for {}: wait for more nodes",
                this.min_owners
            );
            return done(refusal(&block, RefusalReason::TooFewOwners, message));
        }
        let router = Arc::clone(this);
        let (kept, kept_permit) = (block.clone(), permit.clone());
        let arrived = move |ack: v1::BlockAck| {
            let differs = ack.refused.as_ref().is_some_and(|of| of.reason() == RefusalReason::OwnersDiffer);
            if !differs || Instant::now() + AGREE_PAUSE >= deadline {
                return done(ack);
            }
            router.metrics.owners_differed();
            let journey = Journey { block: kept, permit: kept_permit, deadline, done };
            router.runtime.clone().spawn(async move {
                tokio::time::sleep(AGREE_PAUSE).await;
                Self::set_out(&router, journey, true);
            });
        };
        let waits_for = match this.planted.has(Bug::AcknowledgeAfterOne) {
            true => 1,
            false => writers.clone().count(),
        };
        let joint = Joint::new(waits_for, arrived);
        for writer in writers {
            let joint = Arc::clone(&joint);
            let done = Box::new(move |ack| joint.add(ack));
            match writer.id == owners.me {
                true => this.apply(block.clone(), Some(delivery.clone()), permit.clone(), done),
                false => this.send(writer, block.clone(), delivery.clone(), done),
            }
        }
    }

    /// Brings a block to another node.
    fn send(&self, writer: &Member, block: v1::Block, delivery: Delivery, done: Done) {
        let bare = bare(&block);
        let told = move |reply: Result<v1::BlockAck, PeerError>| {
            done(reply.unwrap_or_else(|error| {
                let reason = match error {
                    PeerError::Full { .. } => RefusalReason::Overloaded,
                    _ => RefusalReason::OwnerUnavailable,
                };
                refusal(&bare, reason, error.to_string())
            }));
        };
        self.peers.apply(writer, block, delivery, Box::new(told));
    }

    /// Counts a block in a shard of this node. `delivery`: how it comes from its sender; none where it is pulled from an owner.
    pub(crate) fn apply(
        self: &Arc<Self>,
        block: v1::Block,
        delivery: Option<Delivery>,
        permit: Permit,
        done: Done,
    ) {
        let bare = bare(&block);
        let Some(handle) = self.local.get(block.shard as usize) else {
            return done(refused(&bare, &BlockError::NoSuchShard(block.shard).into()));
        };
        let router = Arc::clone(self);
        let told = move |outcome: Option<Result<Applied, ApplyError>>| {
            done(match outcome.unwrap_or(Err(ShardError::Stopped.into())) {
                Ok(applied) => {
                    router.metrics.applied(&applied);
                    acknowledged(&bare, &applied)
                }
                Err(error) => refused(&bare, &error),
            });
        };
        handle.apply(block, delivery, permit, Told::by(told));
    }

    /// Counts blocks in shards of this node; acknowledgements in their order.
    pub(crate) async fn apply_all(
        self: &Arc<Self>,
        blocks: Vec<(v1::Block, Option<Delivery>)>,
        permit: &Permit,
    ) -> Vec<v1::BlockAck> {
        let (blocks, deliveries): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
        let mut deliveries = deliveries.into_iter();
        let apply = |block, done| self.apply(block, deliveries.next().flatten(), permit.clone(), done);
        gather(blocks, self.timeout, apply).await
    }
}

/// What becomes of these blocks, in their order. Of a block of which nothing is known `within` this time, that is said.
async fn gather(
    blocks: Vec<v1::Block>,
    within: Duration,
    mut bring: impl FnMut(v1::Block, Done),
) -> Vec<v1::BlockAck> {
    let bare: Vec<v1::Block> = blocks.iter().map(bare).collect();
    let mut acks: Vec<Option<v1::BlockAck>> = vec![None; bare.len()];
    let (told, mut telling) = mpsc::unbounded_channel();
    for (at, block) in blocks.into_iter().enumerate() {
        let told = told.clone();
        // Nobody listens any more where the time is over.
        bring(block, Box::new(move |ack| _ = told.send((at, ack))));
    }
    drop(told);
    let all = async {
        while let Some((at, ack)) = telling.recv().await {
            acks[at] = Some(ack);
        }
    };
    // What is missing is seen below.
    _ = tokio::time::timeout(within, all).await;
    let late = |block: &v1::Block| refused(block, &ShardError::NoReply { waited: within }.into());
    bare.iter().zip(acks).map(|(block, ack)| ack.unwrap_or_else(|| late(block))).collect()
}

/// Acknowledgements of one block's owners, until all are there.
struct Joint<E>(Mutex<Joining<E>>);

struct Joining<E> {
    waits_for: usize,
    acks: Vec<v1::BlockAck>,
    end: Option<E>,
}

impl<E: FnOnce(v1::BlockAck) + Send> Joint<E> {
    fn new(waits_for: usize, end: E) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Joining { waits_for, acks: Vec::with_capacity(waits_for), end: Some(end) })))
    }

    fn add(&self, ack: v1::BlockAck) {
        let mut joining = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        joining.acks.push(ack);
        if joining.acks.len() == joining.waits_for
            && let Some(end) = joining.end.take()
        {
            let acks = std::mem::take(&mut joining.acks);
            drop(joining);
            end(merge(acks));
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
    refused_with(block, refusal_of(reason, message))
}

pub(crate) fn refused_with(block: &v1::Block, refusal: v1::Refusal) -> v1::BlockAck {
    v1::BlockAck { refused: Some(refusal), ..bare_ack(block) }
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
    v1::Refusal { reason: reason.into(), retry_after_ms, message, limit: None }
}

impl From<Refused> for v1::Refusal {
    fn from(refused: Refused) -> Self {
        let (setting, limit, used) = match refused {
            Refused::InFlight { in_flight_bytes, used_bytes } => {
                ("in_flight_bytes", in_flight_bytes as u64, used_bytes as u64)
            }
            Refused::Memory { budget_bytes, used_bytes } => ("memory_budget", budget_bytes, used_bytes),
        };
        let limit = v1::Limit { setting: setting.to_owned(), limit, used };
        Self { limit: Some(limit), ..refusal_of(RefusalReason::Overloaded, refused.to_string()) }
    }
}

fn refused(block: &v1::Block, error: &ApplyError) -> v1::BlockAck {
    refused_with(block, error.into())
}

/// The one place where what a shard says becomes a refusal on the wire.
impl From<&ApplyError> for v1::Refusal {
    fn from(error: &ApplyError) -> Self {
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
        refusal_of(reason, error.to_string())
    }
}

/// Whether this block says who it is; asked before it is passed on, so that the sender hears of it at once.
pub(crate) fn check_identity(block: &v1::Block, shards: ShardCount) -> Result<BlockId, v1::Refusal> {
    BlockId::of(block, shards).map_err(|error| (&ApplyError::from(error)).into())
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
