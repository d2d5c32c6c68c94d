//! Asking the nodes for their parts of an answer, in one to three rounds.
//!
//! Owns: the rounds and their share of the time, and checking replies.
//! Does not own: whom to ask (`asking`, `round`), when a census is needed and what follows from it (`limit`), merging
//! (`merge`).
//!
//! 1. For every shard a node is asked for its part. Nearly always that is all.
//! 2. Where the nodes together might have more values of a dimension than the limit, those whose replies count are asked for
//!    the smallest hashes of the values (a census).
//! 3. Where there are more indeed, they are asked for their parts again, with the cut that follows.
//!
//! All rounds share one deadline. A shard that another of its owners answers for in a later round is none the worse for it: the
//! cut is the same. A shard that nobody answers for in a later round is missing from the answer: its part, cut elsewhere than
//! the others', would show some values with a part of their numbers.

use super::asking::{Ask, Asking, Lost, Waiting};
use super::kept::Kept;
use super::limit::{self, Union};
use super::pace::Pace;
use super::round::{Ended, Reply, Round};
use super::{AskError, Deadline};
use crate::fanout::{Failure, Refusal};
use crate::metrics::CoordinatorMetrics;
use crate::peers::Peers;
use crate::plan::{Peer, Plan};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::census::Census;
use tidemark_rollup::partial::{Partial, TooManyRows};
use tidemark_rollup::query::Query;
use tidemark_shell::work;

/// A node's part of the answer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) partial: Arc<Partial>,
    /// What `partial` takes on the wire.
    pub(super) bytes: usize,
    /// The reply it came with; `partial` is taken out of it.
    pub(super) reply: Arc<v1::PartialReply>,
}

/// One question on its way through the rounds.
pub(super) struct Rounds<'a> {
    pub(super) peers: &'a Peers,
    pub(super) query: &'a Arc<Query>,
    /// What is meant by the query's measures, as the schema spells them.
    pub(super) measures: &'a [String],
    pub(super) shard_count: u32,
    pub(super) limit: u32,
    pub(super) deadline: Deadline,
    pub(super) pace: &'a Pace,
    pub(super) metrics: &'a CoordinatorMetrics,
    /// What nodes replied before, where the question is asked again and again.
    pub(super) kept: Option<&'a Kept>,
}

/// What all rounds come to.
pub(super) struct Gathered {
    /// Of disjoint shards.
    pub(super) pieces: Vec<Reply<Piece>>,
    /// All others.
    pub(super) lost: BTreeMap<u32, Lost>,
}

impl Gathered {
    /// What the parts take on the wire.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.content.bytes).sum()
    }

    /// Rows of rollups that nodes looked at.
    pub(super) fn rows_scanned(&self) -> u64 {
        let rows = self.pieces.iter().map(|piece| piece.content.partial.facts.rows_scanned);
        rows.fold(0, u64::saturating_add)
    }
}

impl Rounds<'_> {
    pub(super) async fn run(&self) -> Result<Gathered, AskError> {
        let first = self.first_round().await;
        first.took.iter().for_each(|&took| self.pace.note(took));
        let mut gathered = gathered(first)?;
        let contested = self.contested(gathered.pieces.iter());
        if contested.is_empty() {
            return Ok(gathered);
        }
        self.metrics.census_round();
        let mut agreeing = who_answered(&gathered.pieces);
        let before = agreeing.len();
        let mut folds = Vec::new();
        for asked in contested.chunks(limit::census_size(self.limit)) {
            let census = self.census_round(asked, &agreeing).await;
            agreeing = who_answered(&census.replies);
            gathered.lost.extend(census.lost);
            folds.extend(self.folds(asked, census.replies).await);
        }
        // Pieces with shards that took no part in the census cannot stay either.
        if !folds.is_empty() || agreeing.len() < before {
            let Gathered { pieces, lost } = self.again(&folds, &agreeing).await?;
            gathered.pieces = pieces;
            gathered.lost.extend(lost);
        }
        Ok(gathered)
    }

    /// Waits for all shards until the deadline; but only half of that time, where those that answered have to be asked again
    /// anyway. Otherwise one that nobody answers for would take the others' parts with it.
    async fn first_round(&self) -> Ended<Piece> {
        let asking = |plan: &Plan| Asking::all(plan, self.waiting(self.deadline));
        let half = self.deadline.half();
        let mut round = Round::new(self.peers, self.metrics, asking, |ask| self.partial_of(ask, &[]));
        round.until(half.at()).await;
        if !round.is_over() && !self.contested(round.replies()).is_empty() {
            return round.finish(half);
        }
        round.until(self.deadline.at()).await;
        round.finish(self.deadline)
    }

    fn contested<'a>(&self, pieces: impl Iterator<Item = &'a Reply<Piece>>) -> Vec<v1::DimensionOfBucket> {
        let replies: Vec<&v1::PartialReply> = pieces.map(|piece| &*piece.content.reply).collect();
        limit::contested(&replies, limit::share(self.limit, self.shard_count), self.limit)
    }

    /// Asks which values the shards have.
    async fn census_round(
        &self,
        asked: &[v1::DimensionOfBucket],
        of: &BTreeMap<u32, Arc<Peer>>,
    ) -> Ended<Vec<Census>> {
        // Shards that nobody answers for must leave the others the time for the last round.
        let half = self.deadline.half();
        let asking = |plan: &Plan| Asking::again(plan, of, self.waiting(half));
        let mut round = Round::new(self.peers, self.metrics, asking, |ask| self.census_of(ask, asked, half));
        round.until(half.at()).await;
        round.finish(half)
    }

    /// The cuts that follow from censuses.
    async fn folds(
        &self,
        asked: &[v1::DimensionOfBucket],
        censuses: Vec<Reply<Vec<Census>>>,
    ) -> Vec<v1::Fold> {
        let (asked, limit) = (asked.to_vec(), self.limit);
        // A census of many buckets is megabytes of hashes.
        work::run(move || {
            let mut union = Union::new(asked.len(), limit);
            censuses.iter().for_each(|census| union.add(&census.content));
            union.folds(&asked)
        })
        .await
    }

    /// Asks for parts once more, with cuts.
    async fn again(&self, folds: &[v1::Fold], of: &BTreeMap<u32, Arc<Peer>>) -> Result<Gathered, AskError> {
        let asking = |plan: &Plan| Asking::again(plan, of, self.waiting(self.deadline));
        let mut round = Round::new(self.peers, self.metrics, asking, |ask| self.partial_of(ask, folds));
        round.until(self.deadline.at()).await;
        gathered(round.finish(self.deadline))
    }

    fn waiting(&self, deadline: Deadline) -> Waiting {
        Waiting { hedge_after: self.pace.hedge_after(), until: deadline.at() }
    }

    fn partial_of(&self, ask: &Ask, folds: &[v1::Fold]) -> BoxFuture<'static, Result<Reply<Piece>, Failure>> {
        let client = self.peers.cluster(&ask.peer.address);
        let known = self.kept.map(|kept| kept.find(ask, folds)).unwrap_or_default();
        let request = self.deadline.request(v1::PartialRequest {
            query: Some(self.query.to_wire()),
            shards: ask.shards.clone(),
            shard_count: self.shard_count,
            folds: folds.to_vec(),
            as_of_ms: self.query.as_of.as_unix_ms(),
            live: self.kept.is_some(),
            known_version: known.as_ref().map_or(0, |known| known.reply.version),
            measures: self.measures.to_vec(),
            nodes: self.peers.plan().settled().to_vec(),
        });
        let (ask, query) = (ask.clone(), Arc::clone(self.query));
        async move {
            let mut reply = client?.query_partial(request).await?.into_inner();
            reply.answered.sort_unstable();
            // What it counts twice or for others cannot be taken out of its rows.
            let in_order = reply.answered.is_sorted_by(|a, b| a < b);
            if !in_order || !reply.answered.iter().all(|shard| ask.shards.binary_search(shard).is_ok()) {
                return Err(Failure::new("answered for shards that it was not asked for"));
            }
            let answered = reply.answered.clone();
            let (partial, bytes) = match (reply.unchanged, known) {
                (false, _) => {
                    let partial = reply.partial.take().unwrap_or_default();
                    let bytes = partial.encoded_len();
                    let read = work::run_on(bytes, move || Partial::from_wire(partial, &query)).await;
                    (Arc::new(read.ok_or_else(unreadable)?), bytes)
                }
                (true, Some(known)) if known.reply.answered == answered => {
                    reply.distinct_values.clone_from(&known.reply.distinct_values);
                    (known.partial, known.bytes)
                }
                (true, _) => return Err(unreadable()),
            };
            let content = Piece { partial, bytes, reply: Arc::new(reply) };
            Ok(Reply { peer: ask.peer, answered, asked: ask.shards, content })
        }
        .boxed()
    }

    fn census_of(
        &self,
        ask: &Ask,
        of: &[v1::DimensionOfBucket],
        deadline: Deadline,
    ) -> BoxFuture<'static, Result<Reply<Vec<Census>>, Failure>> {
        let client = self.peers.cluster(&ask.peer.address);
        let (ask, of, shard_count) = (ask.clone(), of.to_vec(), self.shard_count);
        let request =
            deadline.request(v1::CensusRequest { of: of.clone(), shards: ask.shards.clone(), shard_count });
        async move {
            let reply = client?.take_census(request).await?.into_inner();
            let content = work::run(move || limit::read(&reply, &of)).await.ok_or_else(unreadable)?;
            Ok(Reply { peer: ask.peer, answered: ask.shards.clone(), asked: ask.shards, content })
        }
        .boxed()
    }
}

/// Who answered for each shard.
fn who_answered<T>(replies: &[Reply<T>]) -> BTreeMap<u32, Arc<Peer>> {
    let shards =
        replies.iter().flat_map(|reply| reply.answered.iter().map(move |&shard| (shard, &reply.peer)));
    shards.map(|(shard, peer)| (shard, Arc::clone(peer))).collect()
}

fn unreadable() -> Failure {
    Failure::new("its reply cannot be read: run one version on all members")
}

fn gathered(ended: Ended<Piece>) -> Result<Gathered, AskError> {
    match ended.refusal {
        Some(refusal) => Err(refused(refusal)),
        None => Ok(Gathered { pieces: ended.replies, lost: ended.lost }),
    }
}

fn refused(refusal: Refusal) -> AskError {
    match refusal.is_too_many_rows() {
        true => TooManyRows.into(),
        false => AskError::Refused { code: refusal.code, message: refusal.message },
    }
}
