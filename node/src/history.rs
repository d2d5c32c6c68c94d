//! The node's side of history: what is committed, kept up to date, and the store behind it.
//!
//! Owns: when the store is asked, trying again, and what the rest of the node knows of commits.
//! Does not own: commits and segments (`tidemark-history`), what is due to be committed (`flush`), which segments a query
//! needs (`sources`).
//!
//! A node starts without its store, too: it takes events, keeps them in its journal, and says in each answer that history
//! cannot be read.

use crate::committed::Committed;
use crate::metrics::NodeMeter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tidemark_history::catalog::{Catalog, CatalogError, CatalogSettings, Confirmed, CoverageError, Scope};
use tidemark_history::commit::{CommitError, CommitOutcome, commit};
use tidemark_history::day::DayStart;
use tidemark_history::probe::{ClusterError, ProbeError, join_cluster, probe};
use tidemark_history::reader::Reader;
use tidemark_history::retry::{Backoff, Retry, RetryError, Retryable, SplitMix64, retry};
use tidemark_history::store::{Store, StoreError};
use tidemark_proto::v1;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{BucketStart, Clock, EventTime};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the commits of the last days are looked for; those of all days every [`LOOK_AT_ALL`]th time.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_AT_ALL: u32 = 30;
/// Days that are looked at each time.
const RECENT_DAYS: u32 = 3;
/// Waits between tries.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(15) };
/// A flush that takes longer starts anew, with new names: what it uploaded is garbage by then.
const GIVE_UP: Duration = Duration::from_secs(3600);

/// What history is not available for. Nothing is lost by it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// The store could not be read since the node started.
    #[error("history cannot be read yet: the store did not answer since the node started")]
    NotLoaded,
    #[error(transparent)]
    Store(#[from] RetryError<StoreError>),
    #[error(transparent)]
    Commit(#[from] RetryError<CommitError>),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Coverage(#[from] CoverageError),
}

/// Why a node must not use its store.
#[derive(Debug, thiserror::Error)]
pub enum StoreRefused {
    /// See [`ProbeError`].
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// See [`ClusterError`].
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl Retryable for StoreRefused {
    fn retry_may_help(&self) -> bool {
        match self {
            Self::Probe(error) => error.retry_may_help(),
            Self::Cluster(error) => error.retry_may_help(),
        }
    }
}

/// A store that does not answer.
#[derive(Clone, Debug)]
pub(crate) struct Away {
    /// What it said last, if anything.
    pub(crate) why: String,
    pub(crate) since: Instant,
}

/// A node's history.
#[derive(Debug)]
pub(crate) struct NodeHistory {
    store: Store,
    shards: ShardCount,
    pub(crate) reader: Reader,
    catalog: OnceLock<Arc<Catalog>>,
    committed: watch::Sender<Arc<Committed>>,
    seed: u64,
    drawn: AtomicU64,
    away: Mutex<Option<Away>>,
    metrics: NodeMeter,
    shutdown: CancellationToken,
}

impl NodeHistory {
    pub(crate) fn new(
        store: Store,
        shards: ShardCount,
        reader: Reader,
        seed: u64,
        metrics: NodeMeter,
        shutdown: CancellationToken,
    ) -> Self {
        let (committed, _) = watch::channel(Arc::default());
        let (catalog, drawn) = (OnceLock::new(), AtomicU64::new(0));
        let away = Mutex::default();
        Self { store, shards, reader, catalog, committed, seed, drawn, away, metrics, shutdown }
    }

    /// What is committed, as far as the node knows.
    pub(crate) fn committed(&self) -> Arc<Committed> {
        Arc::clone(&self.committed.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Committed>> {
        self.committed.subscribe()
    }

    /// What is committed, for who makes changes to it; `None` as long as the store did not answer.
    pub(crate) fn catalog(&self) -> Option<&Arc<Catalog>> {
        self.catalog.get()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Since when and why the store does not answer, where it does not.
    pub(crate) fn away(&self) -> Option<Away> {
        self.lock_away().clone()
    }

    fn lock_away(&self) -> MutexGuard<'_, Option<Away>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store answered. Said once per time that it was away.
    fn store_answers(&self) {
        if let Some(away) = self.lock_away().take() {
            tracing::info!(away = ?away.since.elapsed(), "the store is back");
        }
    }

    /// The store failed, or did not answer. Said once until it is back: tries are many.
    pub(crate) fn store_fails(&self, error: &dyn std::fmt::Display) {
        self.metrics.store_failed();
        let why = error.to_string();
        match &mut *self.lock_away() {
            Some(away) => away.why = why,
            away @ None => {
                tracing::warn!(
                    error = why,
                    "the store does not answer; events are taken in, and wait in the journal until it does"
                );
                *away = Some(Away { why, since: Instant::now() });
            }
        }
    }

    /// A random number that no other attempt uses.
    pub(crate) fn attempt(&self) -> u64 {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        SplitMix64::new(self.seed ^ drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15)).next()
    }

    /// Reads what is committed, for as long as it takes or until `give_up`; what the node must know of it is known then.
    ///
    /// # Errors
    /// Where the store must not be used, or does not answer in time.
    pub(crate) async fn connect(
        &self,
        now: EventTime,
        accept_late: Duration,
        give_up: Option<Duration>,
    ) -> Result<(), RetryError<StoreRefused>> {
        let unique = self.attempt();
        let settings = Retry { give_up, ..self.retry() };
        retry(&settings, self.shutdown.clone().cancelled_owned(), || async {
            probe(&self.store, unique).await?;
            Ok::<_, StoreRefused>(join_cluster(&self.store, self.shards).await?)
        })
        .await?;
        let catalog = loop {
            match Catalog::load(self.store.clone(), CatalogSettings::new(self.attempt())).await {
                Ok(catalog) => break Arc::new(catalog),
                Err(error) if self.shutdown.is_cancelled() => {
                    tracing::info!(%error, "stopped before history was read");
                    return Err(RetryError::Cancelled);
                }
                Err(error) => tracing::warn!(%error, "history cannot be read; trying again"),
            }
        };
        let history = catalog.current();
        for damage in history.damaged() {
            tracing::error!(%damage, "history is damaged; answers that need it say so");
        }
        let _ = self.catalog.set(catalog);
        self.store_answers();
        self.publish();
        // Blocks that were committed lately may come again, and their day may be any.
        let sealed_since = now.minus(accept_late).as_unix_ms();
        for day in history.all_days() {
            let lately = |at_ms: i64| at_ms >= sealed_since;
            if day.replacement().is_some_and(|replacement| lately(replacement.committed_at_ms))
                && let Err(error) = self.with_day(day.start()).await
            {
                tracing::warn!(%error, day = %day.start(), "which blocks of this day are committed is not known yet");
            }
        }
        self.committed.send_modify(|committed| *committed = Arc::new(committed.read()));
        Ok(())
    }

    /// Looks for what others committed, until the node stops.
    pub(crate) async fn follow(&self, clock: &dyn Clock) {
        for round in 1_u32.. {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let Some(catalog) = self.catalog.get() else { continue };
            let today = DayStart::containing(clock.now());
            let recent: Vec<DayStart> =
                std::iter::successors(Some(today), |day| day.previous()).take(RECENT_DAYS as usize).collect();
            let scope = if round % LOOK_AT_ALL == 0 { Scope::All } else { Scope::Days(&recent) };
            _ = self.refresh(catalog, scope).await;
        }
    }

    /// Looks for commits, and says whether all there are are known.
    async fn refresh(&self, catalog: &Catalog, scope: Scope<'_>) -> bool {
        let looked = catalog.refresh(scope).await;
        match &looked {
            Ok(_) => self.store_answers(),
            Err(error) => self.store_fails(error),
        }
        self.publish();
        looked.is_ok()
    }

    /// Looks for commits of these buckets that others made.
    pub(crate) async fn look_for_commits(&self, buckets: &[BucketStart]) {
        let Some(catalog) = self.catalog.get() else { return };
        let days: std::collections::BTreeSet<DayStart> = buckets.iter().copied().map(DayStart::of).collect();
        let days: Vec<DayStart> = days.into_iter().collect();
        _ = self.refresh(catalog, Scope::Days(&days)).await;
    }

    /// Looks for all that was committed until now; tells whether all of it is known then. Also where nothing of history could be
    /// read since the node started: answers say so.
    pub(crate) async fn look_for_all(&self) -> bool {
        let Some(catalog) = self.catalog.get() else { return true };
        self.refresh(catalog, Scope::All).await
    }

    /// Takes in what the catalog knows by now.
    pub(crate) fn publish(&self) {
        let Some(catalog) = self.catalog.get() else { return };
        let history = catalog.current();
        self.committed.send_modify(|committed| *committed = Arc::new(committed.with_history(history)));
    }

    /// What is committed, the coverage of this day included.
    pub(crate) async fn with_day(&self, day: DayStart) -> Result<Arc<Committed>, Unavailable> {
        let catalog = self.catalog.get().ok_or(Unavailable::NotLoaded)?;
        let replacement = || catalog.current().day(day).and_then(|day| Some(day.replacement()?.number));
        let Some(number) = replacement() else { return Ok(self.committed()) };
        if self.committed().has_day(day, number) {
            return Ok(self.committed());
        }
        let coverage = catalog.day_coverage(day).await?;
        self.publish();
        // Another replacement may have come meanwhile; then this coverage is not its own.
        if let (Some(coverage), true) = (coverage, replacement() == Some(number)) {
            self.committed.send_modify(|committed| {
                *committed = Arc::new(committed.with_day(day, number, coverage));
            });
        }
        Ok(self.committed())
    }

    /// Writes an object under a name that nobody else uses.
    pub(crate) async fn put(&self, path: &str, bytes: bytes::Bytes) -> Result<(), Unavailable> {
        let settings = self.retry();
        let put = retry(&settings, self.shutdown.clone().cancelled_owned(), || async {
            let put = self.store.put(path, bytes.clone()).await;
            put.inspect_err(|error| self.store_fails(error))
        });
        put.await?;
        self.store_answers();
        Ok(())
    }

    /// Commits segments that are in the store; returns when it is known whether the commit counts.
    pub(crate) async fn commit(
        &self,
        number: u64,
        message: v1::Commit,
    ) -> Result<CommitOutcome, Unavailable> {
        let catalog = self.catalog.get().ok_or(Unavailable::NotLoaded)?;
        let settings = self.retry();
        let outcome = retry(&settings, self.shutdown.clone().cancelled_owned(), || async {
            let made = commit(&self.store, number, &message).await;
            made.inspect_err(|error| self.store_fails(error))
        });
        let outcome = outcome.await?;
        self.store_answers();
        match &outcome {
            CommitOutcome::Committed(record) => {
                if catalog.confirm(record).await? == Confirmed::Replaced {
                    tracing::info!(path = %record.path(), "the commit came after its bucket's replacement; committing again");
                }
            }
            CommitOutcome::Taken(record) => catalog.note_commit(Arc::clone(record)),
        }
        self.publish();
        Ok(outcome)
    }

    fn retry(&self) -> Retry {
        Retry { backoff: BACKOFF, give_up: Some(GIVE_UP), seed: self.attempt() }
    }
}
