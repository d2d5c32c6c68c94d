//! Why a segment's rows do not come.
//!
//! Owns: sorting errors by what to do about them.

use crate::retry::RetryError;
use crate::segment::SegmentError;
use crate::store::StoreError;
use std::sync::Arc;

/// Why rows of a segment could not be read. Cheap to clone: all who wait for one part get it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The store has it no more: it expired, or others took its place. Look at history again.
    #[error("segment {path} is not in the store any more")]
    Gone {
        /// The segment.
        path: String,
    },
    /// Its bytes are not those that were committed, also when fetched again; or nothing can be made of them. Restore it, or
    /// rebuild its day.
    #[error(transparent)]
    Damaged(#[from] SegmentError),
    /// The store did not answer in time, or refused. Ask again later.
    #[error("{0}")]
    Store(Arc<RetryError<StoreError>>),
}

impl ReadError {
    /// Says what a failed fetch of `path` means.
    pub(super) fn of(path: &str, error: RetryError<StoreError>) -> Self {
        match error {
            RetryError::Failed(StoreError::NotFound(_))
            | RetryError::GaveUp { last: StoreError::NotFound(_), .. } => {
                Self::Gone { path: path.to_owned() }
            }
            RetryError::Failed(short @ StoreError::Short { .. }) => {
                Self::Damaged(SegmentError::Damaged { path: path.to_owned(), what: short.to_string() })
            }
            other => Self::Store(Arc::new(other)),
        }
    }

    /// Whether other bytes would help: those at hand may be a bad copy of good ones.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(SegmentError::Damaged { .. } | SegmentError::Fetched { .. }))
    }
}
