//! Asking the nodes for their parts of an answer, in one to three rounds.
//!
//! Owns: the rounds, and what counts as a "no" to the question itself.
//! Does not own: when a census is needed and what follows from it (`limit`), merging (`merge`).
//!
//! 1. Every node is asked for its part. Nearly always that is all.
//! 2. Where the nodes together might have more values of a dimension than the limit, they are asked for the smallest
//!    hashes of the values (a census).
//! 3. Where there are more indeed, every node is asked again, with the cut that follows.
//!
//! All rounds share one deadline. A node that fails in any of them is missing from the answer: its part, cut elsewhere
//! than the others', would show some values with a part of their numbers.

use super::limit::{self, Union};
use super::{AskError, Deadline};
use crate::fanout::{Failure, Gathering, ask_all};
use crate::metrics::CoordinatorMetrics;
use crate::peers::Peers;
use crate::plan::{Part, Plan};
use std::future::Future;
use tidemark_proto::v1;
use tidemark_rollup::query::Query;

/// A node's part of the answer; `answered` holds only shards that it was asked for, each once, ascending.
pub(super) type Outcome = Result<v1::PartialReply, Failure>;

/// One question on its way through the rounds.
pub(super) struct Rounds<'a> {
    pub(super) peers: &'a Peers,
    pub(super) plan: &'a Plan,
    pub(super) query: &'a Query,
    pub(super) limit: u32,
    pub(super) deadline: Deadline,
    pub(super) metrics: &'a CoordinatorMetrics,
}

impl Rounds<'_> {
    /// One outcome per part of the plan.
    pub(super) async fn run(&self) -> Vec<Outcome> {
        let mut outcomes = self.first_round().await;
        let contested = self.contested(outcomes.iter().flatten());
        if contested.is_empty() {
            return outcomes;
        }
        self.metrics.census_round();
        let mut folds = Vec::new();
        for asked in contested.chunks(limit::census_size(self.limit)) {
            folds.extend(self.census_round(asked, &mut outcomes).await);
        }
        if !folds.is_empty() {
            self.folded_round(&folds, &mut outcomes).await;
        }
        outcomes
    }

    /// Waits for all nodes until the deadline; but only half of that time, where those that answered have to be asked
    /// again anyway. Otherwise one hanging node would take the others' parts with it.
    async fn first_round(&self) -> Vec<Outcome> {
        let calls = self.plan.parts().iter().enumerate().map(|(at, part)| {
            let call = self.partial_of(part, part.shards.clone(), &[]);
            async move { (at, call.await) }
        });
        let mut gathering = Gathering::start(calls);
        let half = self.deadline.half();
        gathering.until(half.at()).await;
        if !gathering.is_complete() && !self.contested(gathering.replies()).is_empty() {
            return gathering.finish(half);
        }
        gathering.until(self.deadline.at()).await;
        gathering.finish(self.deadline)
    }

    fn contested<'a>(
        &self,
        replies: impl Iterator<Item = &'a v1::PartialReply>,
    ) -> Vec<v1::DimensionOfBucket> {
        let replies: Vec<_> = replies.collect();
        limit::contested(&replies, limit::share(self.limit, self.plan.shard_count()), self.limit)
    }

    /// Asks the nodes that answered which values they have; returns the cuts that follow.
    async fn census_round(&self, asked: &[v1::DimensionOfBucket], outcomes: &mut [Outcome]) -> Vec<v1::Fold> {
        let again = self.answered(outcomes);
        let calls =
            again.iter().map(|(at, shards)| self.census_of(&self.plan.parts()[*at], shards.clone(), asked));
        // A node that hangs here must leave the others the time for the last round.
        let replies = ask_all(calls, self.deadline.half()).await;
        let asked_for: Vec<v1::DimensionOfBucket> = asked.to_vec();
        let limit = self.limit;
        // Off the runtime's threads: a census of many buckets is megabytes of hashes.
        let merging = tokio::task::spawn_blocking(move || merge_censuses(replies, &asked_for, limit));
        let Ok((folds, failures)) = merging.await else {
            fail(outcomes, again.iter().map(|&(at, _)| (at, Failure::new("its census could not be merged"))));
            return Vec::new();
        };
        fail(outcomes, again.iter().zip(failures).filter_map(|(&(at, _), failure)| Some((at, failure?))));
        folds
    }

    /// Asks the nodes that answered once more, with cuts.
    async fn folded_round(&self, folds: &[v1::Fold], outcomes: &mut [Outcome]) {
        let again = self.answered(outcomes);
        let calls = again.iter().map(|(at, shards)| {
            // The same shards as before: the cuts rest on their censuses.
            self.partial_of(&self.plan.parts()[*at], shards.clone(), folds)
        });
        let replies = ask_all(calls, self.deadline).await;
        for ((at, _), reply) in again.into_iter().zip(replies) {
            outcomes[at] = reply;
        }
    }

    /// The parts that answered, and for which shards.
    fn answered(&self, outcomes: &[Outcome]) -> Vec<(usize, Vec<u32>)> {
        let answered = outcomes.iter().enumerate().filter_map(|(at, outcome)| {
            let shards = &outcome.as_ref().ok()?.answered;
            (!shards.is_empty()).then(|| (at, shards.clone()))
        });
        answered.collect()
    }

    fn partial_of(
        &self,
        part: &Part,
        shards: Vec<u32>,
        folds: &[v1::Fold],
    ) -> impl Future<Output = Outcome> + use<> {
        let client = self.peers.cluster(&part.member.address);
        let request = self.deadline.request(v1::PartialRequest {
            query: Some(self.query.to_wire()),
            shards: shards.clone(),
            shard_count: self.plan.shard_count(),
            folds: folds.to_vec(),
        });
        async move {
            let mut reply = client?.query_partial(request).await?.into_inner();
            reply.answered.sort_unstable();
            // What it counts twice or for others cannot be taken out of its rows.
            let in_order = reply.answered.is_sorted_by(|a, b| a < b);
            if !in_order || !reply.answered.iter().all(|shard| shards.binary_search(shard).is_ok()) {
                return Err(Failure::new("answered for shards that it was not asked for"));
            }
            Ok(reply)
        }
    }

    fn census_of(
        &self,
        part: &Part,
        shards: Vec<u32>,
        of: &[v1::DimensionOfBucket],
    ) -> impl Future<Output = Result<v1::CensusReply, Failure>> + use<> {
        let client = self.peers.cluster(&part.member.address);
        let shard_count = self.plan.shard_count();
        let request = self.deadline.request(v1::CensusRequest { of: of.to_vec(), shards, shard_count });
        async move { Ok(client?.take_census(request).await?.into_inner()) }
    }
}

fn fail(outcomes: &mut [Outcome], failures: impl Iterator<Item = (usize, Failure)>) {
    for (at, failure) in failures {
        outcomes[at] = Err(failure);
    }
}

/// The cuts that the readable replies give; and per reply, why it gives none.
fn merge_censuses(
    replies: Vec<Result<v1::CensusReply, Failure>>,
    asked: &[v1::DimensionOfBucket],
    limit: u32,
) -> (Vec<v1::Fold>, Vec<Option<Failure>>) {
    let mut union = Union::new(asked.len(), limit);
    let failures = replies.into_iter().map(|reply| match reply {
        Ok(reply) => match union.add(&reply, asked) {
            Some(()) => None,
            None => Some(Failure::new("its census cannot be read: run one version on all members")),
        },
        Err(failure) => Some(failure),
    });
    let failures = failures.collect();
    (union.folds(asked), failures)
}

/// The nodes' "no" to the question itself: no other answer than an error would be right.
pub(super) fn refused_by_nodes(outcomes: &[Outcome]) -> Option<AskError> {
    let refusals: Vec<_> =
        outcomes.iter().filter_map(|outcome| outcome.as_ref().err()?.refusal.as_ref()).collect();
    if refusals.iter().any(|refusal| refusal.is_too_many_rows()) {
        return Some(tidemark_rollup::partial::TooManyRows.into());
    }
    let first = refusals.first().filter(|_| refusals.len() == outcomes.len())?;
    Some(AskError::Refused { code: first.code, message: first.message.clone() })
}
