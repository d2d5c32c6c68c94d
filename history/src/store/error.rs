//! What may go wrong with a store.
//!
//! Owns: sorting errors by what to do about them.

use crate::retry::Retryable;
use std::fmt;
use std::time::Duration;

/// What is done with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Writing, whether or not something is there.
    Put,
    /// Writing only if nothing is there.
    Create,
    /// Reading an object or a part of it.
    Get,
    /// Listing objects.
    List,
    /// Deleting an object.
    Delete,
}

impl Operation {
    const fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Create | Self::Delete)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "write",
            Self::Create => "create",
            Self::Get => "read",
            Self::List => "list",
            Self::Delete => "delete",
        })
    }
}

/// Which object of which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What was to be done with it.
    pub operation: Operation,
    /// Its path, or the folder that was to be listed.
    pub path: String,
    /// The store, as its location is spelled.
    pub store: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {} in {}", self.operation, self.path, self.store)
    }
}

/// An operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object. Where it was listed or named by a commit, it was deleted meanwhile: look at history again.
    #[error("{0}: there is no such object")]
    NotFound(Object),
    /// Whether a write happened is not known. Do the same again, or read what is there.
    #[error("{object}: no reply within {waited:?}")]
    TimedOut {
        /// Which object.
        object: Object,
        /// How long.
        waited: Duration,
    },
    /// Whether a write happened is not known. Do the same again, or read what is there.
    #[error("{object}: {source}")]
    Failed {
        /// Which object.
        object: Object,
        /// What the store says.
        source: Box<object_store::Error>,
    },
    /// Nothing happened: this program may not do it. Correct the credentials or the store's policy; trying again helps once
    /// somebody did.
    #[error("{object}: {source}: check the credentials and what they allow")]
    Refused {
        /// Which object.
        object: Object,
        /// What the store says.
        source: Box<object_store::Error>,
    },
    /// Nothing happened, and never will: this store cannot do it, or no object can have this path.
    #[error("{object}: {source}")]
    Impossible {
        /// Which object.
        object: Object,
        /// What the store says.
        source: Box<object_store::Error>,
    },
    /// The object is shorter than what names it says. Restore it, or rebuild its day.
    #[error("{object}: it has {found} of {wanted} bytes from {from}: restore it, or rebuild its day")]
    Short {
        /// Which object.
        object: Object,
        /// First byte of the part.
        from: u64,
        /// Length of the part in bytes.
        wanted: u64,
        /// How much of it is there, in bytes.
        found: u64,
    },
}

impl StoreError {
    pub(super) fn new(object: Object, source: object_store::Error) -> Self {
        use object_store::Error;
        let boxed = Box::new(source);
        match *boxed {
            // To a write it says that the bucket is gone.
            Error::NotFound { .. } if !object.operation.writes() => Self::NotFound(object),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Self::Refused { object, source: boxed }
            }
            Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::UnknownConfigurationKey { .. } => Self::Impossible { object, source: boxed },
            _ => Self::Failed { object, source: boxed },
        }
    }

    /// Whether there is no such object.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// Whether a write that failed so may have happened all the same, or may still happen.
    pub const fn may_have_happened(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Failed { .. })
    }
}

impl Retryable for StoreError {
    fn retry_may_help(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Failed { .. } | Self::Refused { .. } => true,
            Self::NotFound(_) | Self::Impossible { .. } | Self::Short { .. } => false,
        }
    }
}
