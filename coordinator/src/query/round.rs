//! One round of a question: asking until every shard counts, or time is over.
//!
//! Owns: requests under way, the replies that count, and following the view while it waits.
//! Does not own: whom to ask and which replies count (`asking`), what is asked (`rounds`).

use super::asking::{Ask, Asking, Call, Lost, Verdict, Why};
use crate::fanout::{Deadline, Failure, Refusal};
use crate::metrics::CoordinatorMetrics;
use crate::peers::{Changes, Peers};
use crate::plan::{Peer, Plan};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What a node replied.
pub(super) struct Reply<T> {
    pub(super) peer: Arc<Peer>,
    /// The shards it is of, of those that were asked for: ascending.
    pub(super) answered: Vec<u32>,
    /// All that were asked for.
    pub(super) asked: Vec<u32>,
    pub(super) content: T,
}

/// What became of a request.
type Outcome<T> = (Call, Result<Reply<T>, Failure>);

/// A round under way.
pub(super) struct Round<'a, T, M> {
    asking: Asking,
    /// Makes a request.
    make: M,
    peers: &'a Peers,
    changes: Changes,
    metrics: &'a CoordinatorMetrics,
    pending: FuturesUnordered<BoxFuture<'static, Outcome<T>>>,
    counting: BTreeMap<Call, Reply<T>>,
    hedges: BTreeSet<Call>,
    /// How long those took that replied.
    took: Vec<Duration>,
}

/// What a round comes to.
pub(super) struct Ended<T> {
    /// Of disjoint shards.
    pub(super) replies: Vec<Reply<T>>,
    pub(super) lost: BTreeMap<u32, Lost>,
    /// The nodes' "no" to the question itself.
    pub(super) refusal: Option<Refusal>,
    /// How long requests took that were replied to.
    pub(super) took: Vec<Duration>,
}

impl<'a, T, M> Round<'a, T, M>
where
    T: Send + 'static,
    M: Fn(&Ask) -> BoxFuture<'static, Result<Reply<T>, Failure>>,
{
    /// A round that asks as `asking` has it under the plan of now.
    pub(super) fn new(
        peers: &'a Peers,
        metrics: &'a CoordinatorMetrics,
        asking: impl FnOnce(&Plan) -> Asking,
        make: M,
    ) -> Self {
        // Before the plan, so that no change gets lost between the two.
        let changes = peers.changes();
        Self {
            asking: asking(&peers.plan()),
            make,
            peers,
            changes,
            metrics,
            pending: FuturesUnordered::new(),
            counting: BTreeMap::new(),
            hedges: BTreeSet::new(),
            took: Vec::new(),
        }
    }

    /// Goes on until nothing is left to wait for, at most until `moment`.
    pub(super) async fn until(&mut self, moment: Instant) {
        loop {
            let now = Instant::now();
            if self.is_over() || now >= moment {
                return;
            }
            for ask in self.asking.step(now) {
                self.send(&ask);
            }
            let wake_at = self.asking.wake_at(now).map_or(moment, |at| at.min(moment));
            tokio::select! {
                biased;
                Some((call, outcome)) = self.pending.next() => self.note(call, outcome),
                () = self.changes.next() => self.asking.follow(&self.peers.plan()),
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Whether every shard counts or never will, or the nodes refuse the question.
    pub(super) fn is_over(&self) -> bool {
        self.asking.is_settled() || self.asking.refusal().is_some()
    }

    /// The replies that count so far.
    pub(super) fn replies(&self) -> impl Iterator<Item = &Reply<T>> {
        self.counting.values()
    }

    /// Gives up on what is not there, because `deadline` is over or everything is there.
    pub(super) fn finish(self, deadline: Deadline) -> Ended<T> {
        let silence: Arc<str> = deadline.failure().reason.into();
        let lost = self.asking.lost(Instant::now(), &silence);
        Ended {
            lost,
            refusal: self.asking.refusal().cloned(),
            replies: self.counting.into_values().collect(),
            took: self.took,
        }
    }

    fn send(&mut self, ask: &Ask) {
        match ask.why {
            Why::First => {}
            Why::Next => self.metrics.asked_next(),
            Why::Hedge(_) => {
                self.metrics.hedged();
                self.hedges.insert(ask.call);
            }
        }
        if ask.why != Why::First {
            tracing::debug!(node = %ask.peer.id, shards = ask.shards.len(), why = ?ask.why, "asking another owner");
        }
        let (call, reply) = (ask.call, (self.make)(ask));
        self.pending.push(async move { (call, reply.await) }.boxed());
    }

    fn note(&mut self, call: Call, outcome: Result<Reply<T>, Failure>) {
        match outcome {
            Ok(reply) => {
                self.took.push(self.asking.age(call, Instant::now()));
                match self.asking.replied(call, &reply.answered) {
                    Verdict::Counts { instead_of } => {
                        instead_of.iter().for_each(|other| _ = self.counting.remove(other));
                        self.counting.insert(call, reply);
                        if self.hedges.contains(&call) {
                            self.metrics.hedge_won();
                        }
                    }
                    Verdict::Dropped => {
                        tracing::debug!(node = %reply.peer.id, "a reply does not count: others were faster");
                    }
                }
            }
            Err(failure) => {
                tracing::debug!(reason = %failure.reason, "a node does not answer");
                self.asking.failed(call, failure);
            }
        }
    }
}
