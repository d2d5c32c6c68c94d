//! Segments from the store, whole jobs at a time.
//!
//! Owns: reading rows, blocks and footers past any cache, trying again, and what an object that cannot be read means.
//! Does not own: answering queries (`reader`), which objects count (`catalog`).

use crate::catalog::CatalogSettings;
use crate::retry::{Backoff, Retry, RetryError, retry};
use crate::segment::{Footer, SegmentError, Selection, read_raw};
use crate::store::{Store, StoreError};
use bytes::Bytes;
use std::future::pending;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::sharding::ShardCount;
use tidemark_shell::work;
use xxhash_rust::xxh3::xxh3_64;

/// An object of history that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Where there is no such object or it is too short, restore it or rebuild its day; otherwise try again later.
    #[error(transparent)]
    Store(#[from] RetryError<StoreError>),
    /// Restore the object, or rebuild its day.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Another cluster wrote it. Point this one at its own store.
    #[error("segment {path} is of a cluster of {found} shards, this one has {expected}")]
    Shards {
        /// The segment.
        path: String,
        /// Shards of its cluster.
        found: u32,
        /// Shards of this one.
        expected: u32,
    },
}

impl ObjectError {
    /// Whether the object itself is at fault, and not the way to it.
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Store(RetryError::Failed(error)) => {
                matches!(error, StoreError::NotFound(_) | StoreError::Short { .. })
            }
            Self::Store(RetryError::GaveUp { .. } | RetryError::Cancelled) => false,
            Self::Segment(_) | Self::Shards { .. } => true,
        }
    }
}

/// The store, as jobs use it that read much once.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    pub(crate) store: Store,
    pub(crate) shards: ShardCount,
    backoff: Backoff,
    give_up: Duration,
    seed: u64,
}

impl Objects {
    pub(crate) fn new(store: Store, shards: ShardCount, seed: u64) -> Self {
        let CatalogSettings { backoff, give_up, .. } = CatalogSettings::new(seed);
        Self { store, shards, backoff, give_up, seed }
    }

    pub(crate) fn retry(&self, path: &str) -> Retry {
        let seed = self.seed ^ xxh3_64(path.as_bytes());
        Retry { backoff: self.backoff, give_up: Some(self.give_up), seed }
    }

    pub(crate) async fn put(&self, path: &str, bytes: Bytes) -> Result<(), RetryError<StoreError>> {
        retry(&self.retry(path), pending(), || self.store.put(path, bytes.clone())).await
    }

    /// The footer of a rollup segment.
    pub(crate) async fn footer(&self, segment: &v1::Segment) -> Result<Footer, ObjectError> {
        let path = &segment.path;
        let start = segment.size_bytes.checked_sub(segment.footer_bytes).ok_or_else(|| {
            SegmentError::Damaged { path: path.clone(), what: "its footer is larger than it".to_owned() }
        })?;
        let range = start..segment.size_bytes;
        let range = std::slice::from_ref(&range);
        let mut tail = retry(&self.retry(path), pending(), || self.store.get_ranges(path, range)).await?;
        let footer = Footer::parse(segment, &tail.pop().unwrap_or_default())?;
        match footer.shard_count() == self.shards {
            true => Ok(footer),
            false => Err(ObjectError::Shards {
                path: path.clone(),
                found: footer.shard_count().get(),
                expected: self.shards.get(),
            }),
        }
    }

    /// Selected rows of a rollup segment.
    pub(crate) async fn rows(
        &self,
        footer: &Footer,
        selection: &Selection,
    ) -> Result<SegmentRows, ObjectError> {
        let plan = footer.plan(selection);
        let (path, ranges) = (footer.path().to_owned(), plan.ranges());
        let fetched = retry(&self.retry(&path), pending(), || self.store.get_ranges(&path, &ranges)).await?;
        Ok(work::run_apart(move || plan.read(fetched)).await?)
    }

    /// All blocks of a raw segment.
    pub(crate) async fn blocks(&self, segment: &v1::Segment) -> Result<Vec<v1::Block>, ObjectError> {
        let path = &segment.path;
        let bytes = retry(&self.retry(path), pending(), || self.store.get(path)).await?;
        let segment = segment.clone();
        Ok(work::run_apart(move || read_raw(&segment, &bytes)).await?)
    }
}
