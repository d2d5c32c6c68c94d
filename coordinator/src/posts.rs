//! Posted events on their way to a node.
//!
//! Owns: a post's identity and its moment of sealing, which node it goes to, and trying the next one.
//! Does not own: reading the body (`events`), counting the events (the nodes do).
//!
//! # Repeating a post
//!
//! Nodes count a batch once per identity (producer, seq), so the same batch can go to one node after another until one
//! acknowledges it. A caller who gives an identity can repeat a post likewise. Blocks are counted once *per
//! bucket*, so a repeated post must put its events into the same buckets: it is sealed at the moment the caller
//! gives with the identity, or every event has a time. A post with neither is refused; it could count twice.
//!
//! A post without an identity gets the coordinator's own, and is sealed when it arrives.
//!
//! # Which node
//!
//! Any active one: every node splits batches and passes them on equally well. Those that are in doubt come last. Where a node
//! cannot get at the owners at the moment, or sees other ones than they do, the same batch goes to the next one after a
//! pause, round after round until the time is over: that is how membership gets the time to agree.

use crate::config::CoordinatorConfig;
use crate::events::Body;
use crate::fanout::{Deadline, Failure};
use crate::peers::Peers;
use crate::plan::{NO_NODES, Peer};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::{Member, MemberState, View};
use tidemark_rollup::time::{Clock, EventTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout_at};

/// How long before a batch that a node could not bring to its owners goes to the next node.
const PAUSE: Duration = Duration::from_millis(50);

/// Who made a batch, which of theirs it is, and when they put it together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) producer: ProducerId,
    pub(crate) seq: u64,
    pub(crate) sealed_at: EventTime,
}

/// As query parameters of `POST /v1/events`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer, seq, sealed_at } = self;
        write!(f, "producer={producer}&seq={seq}&sealedAt={}", sealed_at.as_unix_ms())
    }
}

/// Why a post is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    /// Post the same a moment later.
    #[error("{max} posts are being taken in already: post again in a moment")]
    Busy { max: NonZeroUsize },
    /// Start a node, or tell the coordinator where the nodes are.
    #[error("{NO_NODES}")]
    NoMembers,
    /// A node does not take the batch: do what its message says.
    #[error("{}", .0.message)]
    Refused(v1::Refusal),
    /// Counted or not, nobody can say. Repeat it under the same identity: it counts once.
    #[error("no node acknowledged the events; the last one, {node}, {reason}")]
    Unacknowledged { node: String, reason: String },
}

/// Passes posts on to nodes.
pub(crate) struct Posts {
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    producer: ProducerId,
    next_seq: AtomicU64,
    next_node: AtomicUsize,
    pub(crate) timeout: Duration,
    max_posts: NonZeroUsize,
    permits: Arc<Semaphore>,
}

impl Posts {
    pub(crate) fn new(
        config: &CoordinatorConfig,
        peers: Arc<Peers>,
        clock: Arc<dyn Clock>,
        producer: ProducerId,
    ) -> Self {
        Self {
            peers,
            clock,
            producer,
            next_seq: AtomicU64::new(1),
            next_node: AtomicUsize::new(0),
            timeout: config.ingest_timeout,
            max_posts: config.max_posts,
            permits: Arc::new(Semaphore::new(config.max_posts.get())),
        }
    }

    /// A place among the posts being taken in. Needed before the body is read: the body is what takes up memory.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, PostError> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map_err(|_| PostError::Busy { max: self.max_posts })
    }

    pub(crate) fn now(&self) -> EventTime {
        self.clock.now()
    }

    /// An identity that nobody had before.
    pub(crate) fn new_identity(&self) -> Identity {
        Identity {
            producer: self.producer,
            seq: self.next_seq.fetch_add(1, Ordering::Relaxed),
            sealed_at: self.now(),
        }
    }

    /// Sends the events of a body to one node after another until one acknowledges or refuses them.
    pub(crate) async fn send(
        &self,
        body: &mut Body,
        identity: Identity,
        deadline: Deadline,
    ) -> Result<v1::BatchAck, PostError> {
        let batch = v1::EventBatch {
            producer: identity.producer.to_wire(),
            seq: identity.seq,
            sealed_at_ms: identity.sealed_at.as_unix_ms(),
            events: std::mem::take(&mut body.events),
        };
        let first = self.next_node.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        loop {
            let turns = turns(self.peers.plan().view(), first);
            match self.send_in_turn(&turns, &batch, deadline).await {
                // Members may agree in the next round, which may see other members.
                Err(PostError::Refused(refusal)) if is_passing(&refusal) && deadline.left() > PAUSE => {
                    last = Some(refusal);
                }
                // Some of it may be counted by those who went meanwhile.
                Err(PostError::NoMembers) => {
                    return Err(last.map_or(PostError::NoMembers, PostError::Refused));
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends a batch to each of these nodes at most once.
    async fn send_in_turn(
        &self,
        nodes: &[Peer],
        batch: &v1::EventBatch,
        deadline: Deadline,
    ) -> Result<v1::BatchAck, PostError> {
        let mut last = PostError::NoMembers;
        for (turn, node) in nodes.iter().enumerate() {
            // A node that hangs leaves the others their share of the time.
            let share = Deadline::after(deadline.left() / (nodes.len() - turn) as u32);
            match self.send_to(node, batch, share).await {
                Ok(v1::BatchAck { refused: Some(refusal), .. }) if is_passing(&refusal) => {
                    tracing::debug!(node = %node.id, reason = %refusal.message, "posted events passed on later");
                    last = PostError::Refused(refusal);
                    sleep(PAUSE.min(deadline.left() / 2)).await;
                }
                Ok(v1::BatchAck { refused: Some(refusal), .. }) => return Err(PostError::Refused(refusal)),
                Ok(ack) => return Ok(ack),
                Err(Failure { reason, .. }) => {
                    tracing::debug!(node = %node.id, %reason, "posted events not acknowledged");
                    // What a node said about the owners tells more than that another one is gone.
                    if !matches!(last, PostError::Refused(_)) {
                        last = PostError::Unacknowledged { node: node.to_string(), reason };
                    }
                }
            }
        }
        Err(last)
    }

    async fn send_to(
        &self,
        node: &Peer,
        batch: &v1::EventBatch,
        deadline: Deadline,
    ) -> Result<v1::BatchAck, Failure> {
        let mut client = self.peers.ingest(&node.address)?;
        let request = deadline.request(tokio_stream::once(batch.clone()));
        let sending = async {
            let mut acks = client.send_rows(request).await?.into_inner();
            let ack = acks.message().await?;
            ack.ok_or_else(|| Failure::new("closed the stream without an acknowledgement"))
        };
        timeout_at(deadline.at(), sending).await.map_err(|_| deadline.failure())?
    }
}

/// Whether another node, or the same one a moment later, may well take what this one refused.
fn is_passing(refusal: &v1::Refusal) -> bool {
    use v1::RefusalReason::{OwnerUnavailable, OwnersDiffer, TooFewOwners};
    matches!(refusal.reason(), OwnerUnavailable | OwnersDiffer | TooFewOwners)
}

/// The nodes of a view in the order to send to them: active ones take turns, then those in doubt, then those that come or go.
fn turns(view: &View, first: usize) -> Vec<Peer> {
    let is_well = |node: &&Member| node.state == MemberState::Active && !node.doubtful;
    let (mut well, mut others): (Vec<&Member>, Vec<&Member>) = view.nodes().partition(is_well);
    if !well.is_empty() {
        let first = first % well.len();
        well.rotate_left(first);
    }
    others.sort_by_key(|node| node.state != MemberState::Active);
    well.into_iter().chain(others).map(Peer::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_rollup::member::{NodeId, Role};

    #[test]
    fn active_nodes_take_turns_and_others_come_last() {
        let member = |name: &str| Member::node(NodeId::new(name).unwrap(), "h:1");
        let view = View::new(vec![
            Member { state: MemberState::Leaving, ..member("a") },
            Member { doubtful: true, ..member("b") },
            Member { role: Role::Coordinator, ..member("c") },
            member("d"),
            member("e"),
        ]);
        let view = view.unwrap();
        let names =
            |first| -> Vec<String> { turns(&view, first).iter().map(|node| node.id.to_string()).collect() };
        assert_eq!(names(0), ["d", "e", "b", "a"]);
        assert_eq!(names(3), ["e", "d", "b", "a"]);
        assert!(turns(&View::default(), 1).is_empty());
    }
}
