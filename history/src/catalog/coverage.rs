//! What days' replaced commits covered.
//!
//! Owns: reading the objects that replacements name, and keeping the last few.
//! Does not own: coverage of commits that are not replaced (`history`).

use super::{CatalogError, History};
use crate::day::DayStart;
use crate::record::{RecordError, RecordFault};
use crate::replacement::DayCoverage;
use crate::retry::{Retry, RetryError, retry};
use crate::store::{Store, StoreError};
use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

/// So many days' coverage is kept in memory: late events and rebuilds ask for few days again and again. Each takes 30 bytes
/// per bucket, shard and producer: 16 MB where 30 producers reach 64 shards all day.
pub const DAY_COVERAGES: usize = 16;

/// Coverage of a day that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum CoverageError {
    /// Restore the object, or rebuild its day.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The object cannot be read. Where there is none, restore it or rebuild its day; otherwise try again later.
    #[error("cannot tell what a day covers: {0}")]
    Store(#[from] RetryError<StoreError>),
    /// Try again later.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl CoverageError {
    pub(super) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(RetryError::Failed(StoreError::NotFound(_))))
    }
}

/// The last few, newest first, by path. Paths are unique, so what is under one never changes.
#[derive(Debug, Default)]
pub(super) struct Coverages(Mutex<VecDeque<(String, Arc<DayCoverage>)>>);

impl Coverages {
    pub(super) async fn read(
        &self,
        store: &Store,
        again: Retry,
        history: &History,
        day: DayStart,
    ) -> Result<Option<Arc<DayCoverage>>, CoverageError> {
        let Some(holds) = history.day(day).and_then(|day| day.replacement()) else { return Ok(None) };
        let Some(segment) = &holds.day.coverage else {
            let fault = RecordFault::Nonsense(format!("it names no coverage of {day}"));
            return match holds.day.buckets.is_empty() {
                true => Ok(None),
                false => Err(fault.at(holds.path()).into()),
            };
        };
        if let Some(kept) = self.kept(&segment.path) {
            return Ok(Some(kept));
        }
        let bytes = retry(&again, pending(), || store.get(&segment.path)).await?;
        let coverage = DayCoverage::decode(holds.shard_count, segment, &bytes);
        let coverage = Arc::new(coverage.map_err(|fault| fault.at(&segment.path))?);
        self.keep(&segment.path, Arc::clone(&coverage));
        Ok(Some(coverage))
    }

    fn kept(&self, path: &str) -> Option<Arc<DayCoverage>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(each, _)| each == path)?;
        let found = kept.remove(at)?;
        let coverage = Arc::clone(&found.1);
        kept.push_front(found);
        Some(coverage)
    }

    fn keep(&self, path: &str, coverage: Arc<DayCoverage>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(each, _)| each != path);
        kept.push_front((path.to_owned(), coverage));
        kept.truncate(DAY_COVERAGES);
    }
}
