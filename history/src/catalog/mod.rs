//! The catalog: what is committed, as this process knows it.
//!
//! Owns: reading commits and replacements, the current [`History`], and a cache of days' coverage.
//! Does not own: segments, writing commits and replacements (`commit`, `replacement`).
//!
//! Invariant: a history that is published was true of the store at some moment of the pass that read it, except for what
//! it lists as damaged.

mod coverage;
mod damage;
mod day;
mod history;
mod refresh;

pub use coverage::{CoverageError, DAY_COVERAGES};
pub use damage::{Concerns, Damage, Fault};
pub use day::{BucketHistory, Day, DayReplacement};
pub use history::{History, Sites};

use crate::commit::CommitRecord;
use crate::day::DayStart;
use crate::replacement::{DayCoverage, ReplacementRecord};
use crate::retry::{Backoff, Retry, RetryError};
use crate::store::{Store, StoreError};
use coverage::Coverages;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// How a catalog reads.
#[derive(Clone, Copy, Debug)]
pub struct CatalogSettings {
    /// Objects read at once. More is faster over a distance, and takes more connections.
    pub parallel: usize,
    /// How long to wait before an object is asked for again.
    pub backoff: Backoff,
    /// How long to try for each object before a pass fails.
    pub give_up: Duration,
    /// Makes waits random; each process needs its own.
    pub seed: u64,
}

impl CatalogSettings {
    /// 64 objects at once, each tried for 30 s.
    pub const fn new(seed: u64) -> Self {
        let backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(5) };
        Self { parallel: 64, backoff, give_up: Duration::from_secs(30), seed }
    }
}

/// Which commits to look for.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Those of all days.
    All,
    /// Those of some days.
    Days(&'a [DayStart]),
}

/// History that could not be read. What was known before still is.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Try again later.
    #[error("cannot read history: {0}")]
    Store(#[from] RetryError<StoreError>),
}

/// What became of a commit of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It holds: its blocks are part of history.
    Holds,
    /// It does not count, because commits up to its number were replaced. Its blocks are part of history if the day's
    /// coverage includes them; commit the others again.
    Replaced,
}

/// What is committed, as this process knows it. Share it in an `Arc`.
#[derive(Debug)]
pub struct Catalog {
    store: Store,
    settings: CatalogSettings,
    current: watch::Sender<Arc<History>>,
    /// One pass at a time.
    refreshing: Mutex<()>,
    coverages: Coverages,
}

impl Catalog {
    /// Reads all that is committed.
    ///
    /// # Errors
    /// Where the store cannot be read for longer than [`CatalogSettings::give_up`].
    pub async fn load(store: Store, settings: CatalogSettings) -> Result<Self, CatalogError> {
        let (current, _) = watch::channel(Arc::default());
        let (refreshing, coverages) = (Mutex::new(()), Coverages::default());
        let catalog = Self { store, settings, current, refreshing, coverages };
        catalog.refresh(Scope::All).await?;
        Ok(catalog)
    }

    /// What is committed now, as far as known.
    pub fn current(&self) -> Arc<History> {
        Arc::clone(&self.current.borrow())
    }

    /// Follows what is committed.
    pub fn watch(&self) -> watch::Receiver<Arc<History>> {
        self.current.subscribe()
    }

    /// Takes in a commit that was made or met.
    pub fn note_commit(&self, record: Arc<CommitRecord>) {
        self.publish(|history| history.with_commit(record));
    }

    /// Takes in a replacement that was made or met.
    pub fn note_replacement(&self, record: &ReplacementRecord) {
        self.publish(|history| history.with_replacement(record));
    }

    /// Looks for what was committed since, by anybody, and tries again what could not be read.
    ///
    /// Lists commits of the scope and all replacements; reads only what is not known yet.
    ///
    /// # Errors
    /// Where the store cannot be read for longer than [`CatalogSettings::give_up`]; the current history stays.
    pub async fn refresh(&self, scope: Scope<'_>) -> Result<(), CatalogError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let before = self.current();
        let changes = refresh::Pass::new(&self.store, &self.settings, before).run(scope).await?;
        self.publish(|history| changes.apply(history));
        Ok(())
    }

    /// Says whether a commit of ours, which was made, counts; before that no journal is to be trimmed for it.
    ///
    /// A writer that does not know of a replacement yet may succeed under a number that was replaced and cleaned up
    /// meanwhile. Its commit then counts for nobody.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub async fn confirm(&self, record: &Arc<CommitRecord>) -> Result<Confirmed, CatalogError> {
        self.note_commit(Arc::clone(record));
        self.refresh(Scope::Days(&[DayStart::of(record.bucket())])).await?;
        let through = self.current().bucket(record.bucket()).through;
        Ok(if record.number() > through { Confirmed::Holds } else { Confirmed::Replaced })
    }

    /// What a day's replaced commits covered; `None` where none are replaced. The last [`DAY_COVERAGES`] are kept.
    ///
    /// # Errors
    /// See [`CoverageError`].
    pub async fn day_coverage(&self, day: DayStart) -> Result<Option<Arc<DayCoverage>>, CoverageError> {
        match self.coverages.read(&self.store, self.retry(day), &self.current(), day).await {
            Err(error) if error.is_not_found() => {
                // Replaced and cleaned up since we looked, most likely.
                self.refresh(Scope::Days(&[day])).await?;
                self.coverages.read(&self.store, self.retry(day), &self.current(), day).await
            }
            other => other,
        }
    }

    fn retry(&self, day: DayStart) -> Retry {
        let seed = self.settings.seed ^ u64::from(day.as_unix_seconds());
        Retry { backoff: self.settings.backoff, give_up: Some(self.settings.give_up), seed }
    }

    fn publish(&self, change: impl FnOnce(History) -> History) {
        self.current.send_if_modified(|current| {
            let changed = change(History::clone(current));
            let differs = !changed.is_shared_with(current);
            if differs {
                *current = Arc::new(changed);
            }
            differs
        });
    }
}
