//! The node's part of a query.
//!
//! Owns: asking the shards, scanning closed buckets beside the actors, and merging what comes of it.
//! Does not own: the meaning of a query (`tidemark_rollup`), other nodes (`tidemark-coordinator`), reading history
//! (`tidemark-history`).
//!
//! Open buckets are being written to, so their actor scans them, or copies what orders URLs; what a query reads of closed ones is
//! shared and scanned on other threads, or right here where it is little.
//! Where memory has all that is asked for and only the first rows are wanted, that takes two passes (`two_passes`).

mod beside_history;
mod live;
mod receipts;
mod two_passes;

use crate::committed::Committed;
use crate::history::NodeHistory;
use crate::metrics::NodeMeter;
use crate::shard::{OpenPass, ShardError, ShardHandle, ShardParts, ShardView};
use crate::sources::whole_days;
use futures::future::join_all;
use live::Live;
pub(crate) use live::LivePart;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_history::day::DayStart;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::partial::{Partial, TooManyRows};
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{DistinctCounts, ScanContext, Scanned, ranges_of, scan_all};
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::EventTime;
use tidemark_telemetry::seldom::Seldom;
use tokio::sync::Semaphore;

/// Closed buckets of so many bytes are soon read: here, as another thread would have to wait for a core first.
const LITTLE_BYTES: usize = 4 << 20;
/// A row of what was found in open buckets is taken for so many bytes: it may have sketches.
const FOUND_ROW_BYTES: usize = 4 << 10;
/// What is committed may change while it is read; then the query starts over, so often.
const TRIES: usize = 5;

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
pub(crate) struct Queries {
    admitted: Semaphore,
    max_queries: usize,
    /// Scans that run at a time: one per core.
    scanning: Semaphore,
    cores: usize,
    timeout: Duration,
    metrics: NodeMeter,
    history: Arc<NodeHistory>,
    parts: Arc<ShardParts>,
    /// For how long memory keeps what is committed, while it lasts.
    keep: Duration,
    /// Until then queries are not tried in two passes where something is committed.
    one_pass_until_ms: AtomicI64,
    live: Arc<Live>,
    seldom: Sentences,
}

/// What could be said with each query.
#[derive(Default)]
struct Sentences {
    silent_shard: Seldom,
    untold_day: Seldom,
    lacks_history: Seldom,
    busy: Seldom,
}

impl Queries {
    pub(crate) fn new(
        max_queries: usize,
        timeout: Duration,
        keep: Duration,
        metrics: NodeMeter,
        history: Arc<NodeHistory>,
        parts: Arc<ShardParts>,
        now: EventTime,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            admitted: Semaphore::new(max_queries),
            max_queries,
            scanning: Semaphore::new(cores),
            cores,
            timeout,
            metrics,
            history,
            parts,
            keep,
            one_pass_until_ms: AtomicI64::new(i64::MIN),
            live: Live::new(now),
            seldom: Sentences::default(),
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
        let _admitted = self.admitted.try_acquire().map_err(|_| self.busy())?;
        let mut tries = 0;
        let part = loop {
            tries += 1;
            let question = Arc::new(self.question(&query, &context, now));
            let is_in_memory =
                self.parts.in_journal.load(Ordering::Relaxed) == 0 && !question.needs_history();
            let part = match is_in_memory {
                false => self.beside_history(shards.clone(), Arc::clone(&question)).await,
                true => self.in_memory(&shards, &question).await,
            };
            // Beside history that was seen to already.
            if !is_in_memory || !question.outdated.load(Ordering::Relaxed) {
                break part?;
            }
            if tries == TRIES {
                let mut part = part?;
                part.partial
                    .facts
                    .note_gap("what is committed changed again and again; ask again".to_owned());
                break part;
            }
        };
        self.metrics.query_answered();
        Ok(part)
    }

    fn question(&self, query: &Query, context: &ScanContext, now: EventTime) -> Question {
        let committed = self.history.committed();
        let days = committed.history().map(|history| whole_days(query, history)).unwrap_or_default();
        let (query, context) = (query.clone(), context.clone());
        let (untold, outdated) = (BTreeMap::new(), Arc::default());
        Question { query, context, now, committed, days, untold, outdated }
    }

    async fn in_memory(
        &self,
        shards: &[ShardHandle],
        question: &Arc<Question>,
    ) -> Result<NodePart, QueryRefused> {
        if let Some(cut) = self.cut(&question.query, shards.len())
            && let Some(part) = self.in_two_passes(shards.to_vec(), question, cut).await?
        {
            return Ok(part);
        }
        self.in_one_pass(shards.to_vec(), question).await
    }

    async fn in_one_pass(
        &self,
        shards: Vec<ShardHandle>,
        question: &Arc<Question>,
    ) -> Result<NodePart, QueryRefused> {
        let (answered, views) = self.views_in_memory(&shards, question, OpenPass::Everything).await;
        let scan = |shown: Shown, Question { query, context, .. }: &Question| {
            let mut all = scan_all(&refs(&shown.closed), query, context);
            all.merge_all(&shown.open);
            all
        };
        let merge = |parts, Question { query, .. }: &Question| merged(parts, Scanned::new(query));
        let Scanned { partial, distinct } = self.scan_on_all_cores(views, question, scan, merge).await;
        Ok(NodePart { partial: partial.checked()?, distinct, answered })
    }

    /// The shards that answer, and what each shows, where memory has all: a bucket that has gone to the journal meanwhile makes the
    /// question be asked anew.
    async fn views_in_memory(
        &self,
        shards: &[ShardHandle],
        question: &Arc<Question>,
        pass: OpenPass,
    ) -> (Vec<ShardId>, Vec<ShardView>) {
        let (answered, views) = self.views_of(shards, question, pass).await;
        if views.iter().any(|view| !view.in_journal.is_empty() || !view.unknown.is_empty()) {
            question.outdated.store(true, Ordering::Relaxed);
        }
        (answered, views)
    }

    /// The shards that answer, and what each shows.
    async fn views_of(
        &self,
        shards: &[ShardHandle],
        question: &Arc<Question>,
        pass: OpenPass,
    ) -> (Vec<ShardId>, Vec<ShardView>) {
        let asked = shards.iter().map(|shard| self.view(shard, question, pass.clone()));
        self.answers(shards, join_all(asked).await)
    }

    /// Scans what shards show on all cores, each with a part of the shards, and merges it on the last of them that is done: handing work
    /// to another thread costs as much as scanning a small shard does. Little is scanned right here.
    async fn scan_on_all_cores<T: Send + 'static>(
        &self,
        views: Vec<ShardView>,
        question: &Arc<Question>,
        scan: impl Fn(Shown, &Question) -> Scanned + Clone + Send + 'static,
        merge: impl Fn(Vec<Scanned>, &Question) -> T + Clone + Send + 'static,
    ) -> T {
        let is_little = is_little(&views);
        let cores = if is_little { 1 } else { self.cores };
        let mut parts: Vec<Shown> = Vec::new();
        let per_core = views.len().div_ceil(cores).max(1);
        for (at, view) in views.into_iter().enumerate() {
            if at % per_core == 0 {
                parts.push(Shown::default());
            }
            if let Some(part) = parts.last_mut() {
                part.open.extend(view.open);
                part.closed.extend(view.closed);
            }
        }
        let (count, gathered) = (parts.len(), Arc::new(Mutex::new((Vec::new(), None))));
        let scans = parts.into_iter().map(|part| {
            let (question, scan, merge) = (Arc::clone(question), scan.clone(), merge.clone());
            let gathered = Arc::clone(&gathered);
            move || {
                let scanned = scan(part, &question);
                let (parts, merged) = &mut *gathered.lock().unwrap_or_else(PoisonError::into_inner);
                parts.push(scanned);
                if parts.len() == count {
                    *merged = Some(merge(take(parts), &question));
                }
            }
        });
        match is_little {
            true => scans.for_each(|scan| scan()),
            false => _ = join_all(scans.map(|scan| self.compute(scan))).await,
        }
        let (parts, merged) = &mut *gathered.lock().unwrap_or_else(PoisonError::into_inner);
        // Where no shard answers, nobody has merged anything.
        merged.take().unwrap_or_else(|| merge(take(parts), question))
    }

    async fn view(
        &self,
        shard: &ShardHandle,
        question: &Arc<Question>,
        pass: OpenPass,
    ) -> Result<ShardView, ShardError> {
        shard.view(Arc::clone(question), pass, self.timeout).await
    }

    /// Runs work that takes its time away from the threads that serve connections.
    async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        // The semaphore is never closed.
        let _scanning = self.scanning.acquire().await;
        tidemark_shell::work::run(work).await
    }
}

/// Whether what shards show is soon read and merged. Looks at no more of it than is little.
fn is_little(views: &[ShardView]) -> bool {
    let found = views.iter().filter_map(|view| Some(view.open.as_ref()?.partial.len() * FOUND_ROW_BYTES));
    let closed = views.iter().flat_map(|view| &view.closed).map(|bucket| bucket.heap_bytes());
    found.chain(closed).try_fold(LITTLE_BYTES, usize::checked_sub).is_some()
}

/// What some shards show: scans of open buckets, and closed buckets.
#[derive(Default)]
struct Shown {
    open: Vec<Scanned>,
    closed: Vec<Arc<Bucket>>,
}

/// All of these, merged.
fn merged(parts: Vec<Scanned>, mut all: Scanned) -> Scanned {
    all.merge_all(&parts);
    all
}

/// A query and what it is answered with.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is asked.
    pub query: Query,
    /// What was agreed on before.
    pub context: ScanContext,
    /// Tells open buckets from closed ones.
    pub now: EventTime,
    /// What commits answer for.
    pub committed: Arc<Committed>,
    /// Days that rows of days answer for; what memory has of them counts only where no commit covers it.
    pub days: BTreeSet<DayStart>,
    /// Days of which it cannot be told what commits cover, and why: what memory has of them is left out.
    pub untold: BTreeMap<DayStart, String>,
    /// Set by a shard that has evicted buckets under commits which are not known here: the question must be asked anew.
    pub outdated: Arc<AtomicBool>,
}

impl Question {
    /// Whether something of the range may be committed, or may be and is not known.
    fn needs_history(&self) -> bool {
        let Some(history) = self.committed.history() else { return true };
        let has_days = |from, to| {
            let days = history.all_days().rev().map(|day| day.start());
            days.skip_while(|day| day.time() >= to)
                .take_while(|day| *day >= DayStart::containing(from))
                .next()
                .is_some()
        };
        !self.committed.is_sound() || ranges_of(&self.query).any(|(from, to)| has_days(from, to))
    }
}

impl Queries {
    /// Parts what shards found from the shards that found nothing.
    fn answers<T>(
        &self,
        shards: &[ShardHandle],
        results: Vec<Result<T, ShardError>>,
    ) -> (Vec<ShardId>, Vec<T>) {
        let (mut answered, mut found) = (Vec::new(), Vec::new());
        for (shard, result) in shards.iter().zip(results) {
            match result {
                Ok(part) => {
                    answered.push(shard.id());
                    found.push(part);
                }
                Err(error) => {
                    if let Some(left_out) = self.seldom.silent_shard.due() {
                        tracing::warn!(shard = %shard.id(), %error, left_out, "a shard does not answer a query");
                    }
                }
            }
        }
        (answered, found)
    }

    fn busy(&self) -> QueryRefused {
        if let Some(left_out) = self.seldom.busy.due() {
            tracing::warn!(
                max_queries = self.max_queries,
                left_out,
                "a query is refused: so many are answered already"
            );
        }
        QueryRefused::Busy(self.max_queries)
    }
}

fn refs(buckets: &[Arc<Bucket>]) -> Vec<&Bucket> {
    buckets.iter().map(Arc::as_ref).collect()
}
