//! The node's part of a query.
//!
//! Owns: asking the shards, scanning closed buckets beside the actors, and merging what comes of it.
//! Does not own: the meaning of a query (`tidemark_rollup`), other nodes (`tidemark-coordinator`).
//!
//! Open buckets are being written to, so their actor scans them; closed ones are shared and scanned on other threads. A
//! group may have rows in both. Where only the first rows are wanted, both are therefore asked for their order first, and
//! then for the rest of the rows that are first in both together.

use crate::metrics::NodeMeter;
use crate::shard::{OpenPass, OpenScan, ShardError, ShardHandle, ShardView};
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::partial::{Partial, TooManyRows};
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{DistinctCounts, Pass, ScanContext, Scanned, Steps, scan, scan_pass, winners};
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::EventTime;
use tokio::sync::Semaphore;

/// What the node knows about a query.
#[derive(Debug)]
pub(crate) struct NodePart {
    pub(crate) partial: Partial,
    pub(crate) distinct: DistinctCounts,
    pub(crate) answered: Vec<ShardId>,
}

/// Why the node has no part at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryRefused {
    /// Ask again later.
    #[error("{0} queries are being answered already; ask again later")]
    Busy(usize),
    /// Ask for less.
    #[error(transparent)]
    TooManyRows(#[from] TooManyRows),
}

/// Answers queries from this node's shards.
#[derive(Debug)]
pub(crate) struct Queries {
    admitted: Semaphore,
    max_queries: usize,
    /// Scans that run at a time: one per core.
    scanning: Semaphore,
    timeout: Duration,
    metrics: NodeMeter,
}

impl Queries {
    pub(crate) fn new(max_queries: usize, timeout: Duration, metrics: NodeMeter) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            admitted: Semaphore::new(max_queries),
            max_queries,
            scanning: Semaphore::new(cores),
            timeout,
            metrics,
        }
    }

    /// The part of these shards. A shard that does not answer is left out.
    ///
    /// # Errors
    /// Where the query cannot be answered here at all.
    pub(crate) async fn answer(
        &self,
        shards: Vec<ShardHandle>,
        query: Query,
        context: ScanContext,
        now: EventTime,
    ) -> Result<NodePart, QueryRefused> {
        let _admitted = self.admitted.try_acquire().map_err(|_| QueryRefused::Busy(self.max_queries))?;
        let (query, context) = (Arc::new(query), Arc::new(context));
        let asked = shards.iter().map(|shard| self.ask(shard, &query, &context, now));
        let scanned = join_all(asked).await;

        let mut answered = Vec::new();
        let mut found = Vec::new();
        for (shard, scanned) in shards.iter().zip(scanned) {
            match scanned {
                Ok(scanned) => {
                    answered.push(shard.id());
                    found.extend(scanned);
                }
                Err(error) => tracing::warn!(shard = %shard.id(), %error, "a shard did not answer a query"),
            }
        }
        let (partial, distinct) = self.compute(move || merge(found, &query)).await?;
        self.metrics.query_answered();
        Ok(NodePart { partial, distinct, answered })
    }

    /// One shard's part, in one or more pieces.
    async fn ask(
        &self,
        shard: &ShardHandle,
        query: &Arc<Query>,
        context: &Arc<ScanContext>,
        now: EventTime,
    ) -> Result<Vec<Scanned>, ShardError> {
        let ask = |pass| shard.view(Arc::clone(query), Arc::clone(context), OpenScan { now, pass }, self.timeout);
        if !query.groups_stay_in_one_shard() {
            let ShardView { open, closed } = ask(OpenPass::Everything).await?;
            let (query, context) = (Arc::clone(query), Arc::clone(context));
            let closed = self.scan_all(closed, move |closed| scan_pass(&refs(closed), &query, &context, &Steps::All, Pass::Everything));
            return Ok(open.into_iter().chain(closed.await).collect());
        }
        let ShardView { open, closed } = ask(OpenPass::OrderOnly).await?;
        let Some(open) = open else {
            let (query, context) = (Arc::clone(query), Arc::clone(context));
            return Ok(self.scan_all(closed, move |closed| scan(closed, &query, &context, &Steps::All)).await.into_iter().collect());
        };
        let mixed = MixedScan { query: Arc::clone(query), context: Arc::clone(context) };
        let (first, winners) = self.compute(move || mixed.first(open, &closed)).await;
        let winners = Arc::new(winners);
        // The open buckets may have grown since; the rows show what there is now, in the order found before.
        let second = ask(OpenPass::Winners(winners)).await?;
        Ok(first.into_iter().chain(second.open).collect())
    }

    async fn scan_all(
        &self,
        closed: Vec<Arc<Bucket>>,
        scan: impl FnOnce(&[Arc<Bucket>]) -> Scanned + Send + 'static,
    ) -> Option<Scanned> {
        if closed.is_empty() {
            return None;
        }
        Some(self.compute(move || scan(&closed)).await)
    }

    /// Runs work that takes its time away from the threads that serve connections.
    async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        // The semaphore is never closed.
        let _scanning = self.scanning.acquire().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
}

/// Scans the closed buckets of a shard that has open ones too.
struct MixedScan {
    query: Arc<Query>,
    context: Arc<ScanContext>,
}

impl MixedScan {
    /// The closed buckets' part, and the rows that are still to be found in the open ones, whose order is given.
    fn first(&self, mut order: Scanned, closed: &[Arc<Bucket>]) -> (Vec<Scanned>, Partial) {
        let (query, context) = (&self.query, &self.context);
        let open_steps = order.partial.steps();
        let apart = scan(closed, query, context, &Steps::AllBut(open_steps.clone()));

        let (closed, steps) = (refs(closed), Steps::Only(open_steps));
        let of_closed = scan_pass(&closed, query, context, &steps, Pass::OrderOnly);
        order.partial.merge(&of_closed.partial);
        order.distinct.merge(&of_closed.distinct);
        let (winners, facts, distinct) = winners(order, query);
        let mut shared = scan_pass(&closed, query, context, &steps, Pass::Winners(&winners));
        shared.partial.facts = facts;
        shared.distinct = distinct;
        (vec![apart, shared], winners)
    }
}

fn refs(buckets: &[Arc<Bucket>]) -> Vec<&Bucket> {
    buckets.iter().map(Arc::as_ref).collect()
}

fn merge(found: Vec<Scanned>, query: &Query) -> Result<(Partial, DistinctCounts), TooManyRows> {
    let mut partial = Partial::new(query);
    let mut distinct = DistinctCounts::default();
    for scanned in found {
        partial.merge(&scanned.partial);
        distinct.merge(&scanned.distinct);
    }
    if query.groups_stay_in_one_shard() {
        partial.keep_first(query);
    }
    Ok((partial.checked()?, distinct))
}
