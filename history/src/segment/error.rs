//! What can go wrong with a segment.
//!
//! Owns: the errors of writing and reading, sorted by what to do about them.
//! Does not own: errors of the store.

use parquet::errors::ParquetError;
use std::borrow::Cow;

/// Why a segment could not be written. Nothing was.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A segment has one schema: it needs at least one row group to have it from, and all must agree.
    #[error("row groups of a segment must share one schema, and there must be one at least")]
    Schema,
    /// The rows break the contract of `SegmentRows`: a bug of whoever made them.
    #[error("rows that cannot be laid out: {0}")]
    Rows(&'static str),
    /// A raw segment holds no such block: check it before it gets here.
    #[error("block {at} of the segment is malformed: {what}")]
    Block {
        /// Position among the blocks given.
        at: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The Parquet writer refused.
    #[error("writing Parquet failed")]
    Parquet(#[from] ParquetError),
    /// Zstandard refused.
    #[error("writing failed")]
    Io(#[from] std::io::Error),
}

/// Why a segment, or a part of one, could not be read. Each names the segment by its path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The bytes are not those that were committed. Fetch them again, past any cache; if that does not help, restore the
    /// object or rebuild it.
    #[error("segment {path} is damaged: {what}")]
    Damaged {
        /// The segment.
        path: String,
        /// What does not match.
        what: String,
    },
    /// The bytes are those that were committed, and still make no sense: another version wrote them, or a bug.
    #[error("segment {path} cannot be read: {what}")]
    Unreadable {
        /// The segment.
        path: String,
        /// What makes no sense.
        what: String,
    },
    /// What was handed over are not the ranges that were asked for: a bug of the caller, or a short read.
    #[error("segment {path} was not fetched as planned: {what}")]
    Fetched {
        /// The segment.
        path: String,
        /// What is missing.
        what: String,
    },
}

impl SegmentError {
    /// Path of the segment.
    pub fn path(&self) -> &str {
        match self {
            Self::Damaged { path, .. } | Self::Unreadable { path, .. } | Self::Fetched { path, .. } => path,
        }
    }
}

/// What is wrong within a segment, before its path is added.
#[derive(Debug)]
pub(super) struct Flaw(Cow<'static, str>);

impl Flaw {
    pub(super) fn unreadable(self, path: &str) -> SegmentError {
        SegmentError::Unreadable { path: path.to_owned(), what: self.0.into_owned() }
    }
}

impl From<&'static str> for Flaw {
    fn from(what: &'static str) -> Self {
        Self(Cow::Borrowed(what))
    }
}

impl From<String> for Flaw {
    fn from(what: String) -> Self {
        Self(Cow::Owned(what))
    }
}
