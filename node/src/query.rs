//! The node's part of a query.
//!
//! Owns: asking the shards, scanning closed buckets beside the actors, and merging what comes of it.
//! Does not own: the meaning of a query (`tidemark_rollup`), other nodes (`tidemark-coordinator`).
//!
//! Open buckets are being written to, so their actor scans them; closed ones are shared and scanned on other threads.
//! Where only the first rows are wanted, all shards are asked for their order first, and then for the rest of the rows that
//! stay.

use crate::metrics::NodeMeter;
use crate::shard::{OpenPass, ShardError, ShardHandle, ShardView};
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::partial::{Partial, TooManyRows};
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{
    DistinctCounts, ScanContext, Scanned, scan_all, scan_order, scan_winners, winners,
};
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
        let question = Arc::new(Question { query, context, now });
        let part = match question.query.groups_stay_in_one_shard() {
            true => self.in_two_passes(shards, &question).await,
            false => self.in_one_pass(shards, &question).await,
        }?;
        self.metrics.query_answered();
        Ok(part)
    }

    async fn in_one_pass(
        &self,
        shards: Vec<ShardHandle>,
        question: &Arc<Question>,
    ) -> Result<NodePart, QueryRefused> {
        let asked = shards.iter().map(|shard| async move {
            let ShardView { open, closed } = self.view(shard, question, OpenPass::Everything).await?;
            let closed =
                self.compute_unless_empty(closed, question, |closed, Question { query, context, .. }| {
                    scan_all(closed, query, context)
                });
            Ok([open, closed.await])
        });
        let (answered, found) = answers(&shards, join_all(asked).await);
        let question = Arc::clone(question);
        let all = self.compute(move || {
            let mut all = Scanned::new(&question.query);
            found.into_iter().flatten().flatten().for_each(|found| all.merge(&found));
            all
        });
        let Scanned { partial, distinct } = all.await;
        Ok(NodePart { partial: partial.checked()?, distinct, answered })
    }

    async fn in_two_passes(
        &self,
        mut shards: Vec<ShardHandle>,
        question: &Arc<Question>,
    ) -> Result<NodePart, QueryRefused> {
        let asked = shards.iter().map(|shard| async move {
            let ShardView { open, closed } = self.view(shard, question, OpenPass::Order).await?;
            let asked = Arc::clone(question);
            let order = self.compute(move || scan_order(&refs(&closed), open, &asked.query, &asked.context));
            Ok(order.await)
        });
        let (answered, found) = answers(&shards, join_all(asked).await);
        shards.retain(|shard| answered.contains(&shard.id()));
        let merging = Arc::clone(question);
        let order = self.compute(move || {
            let mut order = Scanned::new_order(&merging.query);
            found.iter().for_each(|found| order.merge(found));
            order.partial = order.partial.checked()?;
            Ok::<_, TooManyRows>(winners(order, &merging.query))
        });
        let (winners, facts, distinct) = order.await?;

        // The open buckets may have grown since; the rows show what there is now, in the order found before.
        let winners = Arc::new(winners);
        let asked = shards.iter().map(|shard| {
            let winners = Arc::clone(&winners);
            async move {
                let pass = OpenPass::Winners(Arc::clone(&winners));
                let ShardView { open, closed } = self.view(shard, question, pass).await?;
                let closed = self.compute_unless_empty(
                    closed,
                    question,
                    move |closed, Question { query, context, .. }| {
                        let partial = scan_winners(closed, &winners, query, context);
                        Scanned { partial, distinct: DistinctCounts::default() }
                    },
                );
                Ok([open, closed.await])
            }
        });
        let (answered, found) = answers(&shards, join_all(asked).await);
        let merging = Arc::clone(question);
        let partial = self.compute(move || {
            let mut partial = Partial::new(&merging.query);
            found.into_iter().flatten().flatten().for_each(|found| partial.merge(&found.partial));
            partial.facts = facts;
            partial
        });
        Ok(NodePart { partial: partial.await, distinct, answered })
    }

    async fn view(
        &self,
        shard: &ShardHandle,
        question: &Arc<Question>,
        pass: OpenPass,
    ) -> Result<ShardView, ShardError> {
        shard.view(Arc::clone(question), pass, self.timeout).await
    }

    async fn compute_unless_empty(
        &self,
        closed: Vec<Arc<Bucket>>,
        question: &Arc<Question>,
        scan: impl FnOnce(&[&Bucket], &Question) -> Scanned + Send + 'static,
    ) -> Option<Scanned> {
        if closed.is_empty() {
            return None;
        }
        let question = Arc::clone(question);
        Some(self.compute(move || scan(&refs(&closed), &question)).await)
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

/// A query and what it is answered with.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub query: Query,
    /// What was agreed on before.
    pub context: ScanContext,
    /// Tells open buckets from closed ones.
    pub now: EventTime,
}

/// Parts what shards found from the shards that found nothing.
fn answers<T>(shards: &[ShardHandle], results: Vec<Result<T, ShardError>>) -> (Vec<ShardId>, Vec<T>) {
    let (mut answered, mut found) = (Vec::new(), Vec::new());
    for (shard, result) in shards.iter().zip(results) {
        match result {
            Ok(part) => {
                answered.push(shard.id());
                found.push(part);
            }
            Err(error) => tracing::warn!(shard = %shard.id(), %error, "a shard did not answer a query"),
        }
    }
    (answered, found)
}

fn refs(buckets: &[Arc<Bucket>]) -> Vec<&Bucket> {
    buckets.iter().map(Arc::as_ref).collect()
}
