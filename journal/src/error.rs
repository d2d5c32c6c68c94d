//! What can go wrong, by operation, and what to do then.
//!
//! Owns: the errors of opening, appending and reading.
//! Does not own: damage that opening gets over; `Recovered` reports it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_rollup::block::BlockId;

/// Why a journal cannot be opened. Nothing was changed that a later attempt would need.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Stop the other process, or give this one another folder.
    #[error("the journal {} is in use: a process has locked it; stop that one, or give this one another folder", dir.display())]
    InUse {
        /// The journal's folder.
        dir: PathBuf,
    },
    /// Use the program that wrote it, or a later one.
    #[error("{} is of version {version}, which this program does not know: use a later one", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// The version of its format.
        version: u32,
    },
    /// Start with the shard count that the journal was written with; a cluster's count never changes.
    #[error("{} is of a cluster of {found} shards, not of {given}: give the count it was written with", file.display())]
    ShardCount {
        /// The file.
        file: PathBuf,
        /// The count it was written with.
        found: u32,
        /// The count given.
        given: u32,
    },
    /// See to the disk or to the rights on the folder.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no threads or no randomness left. Try again later.
    #[error("the system cannot give {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a block is not kept. The journal does not have it: send it again, later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Wait until commits have trimmed the journal or the disk has room again, then send the block again.
    #[error(transparent)]
    Full(#[from] Full),
    /// Send the block again; the next attempt starts from a clean end of file. If it goes on, see to the disk.
    #[error("cannot write {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Send the block again; it goes to a new file. If it goes on, see to the disk.
    #[error("cannot sync {}", file.display())]
    Sync {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Make smaller blocks.
    #[error("a block of {bytes} bytes is more than a record can hold")]
    TooLarge {
        /// The record's size.
        bytes: u64,
    },
    /// The node is stopping, or the journal's thread is gone. Send the block to another owner, or after the restart.
    #[error("the journal is closed")]
    Closed,
}

/// Why a journal takes no blocks at present. It recovers by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Make room on the disk.
    #[error(
        "the journal's disk has {free_bytes} bytes free, and {min_free_bytes} must stay free: make room on it"
    )]
    Disk {
        /// Free, less what is queued.
        free_bytes: u64,
        /// What is left to others.
        min_free_bytes: u64,
    },
    /// Commits make room; see why they do not, or raise the limit.
    #[error("the journal has {used_bytes} bytes of {limit_bytes}: commits make room, or raise its limit")]
    Limit {
        /// In files and queued.
        used_bytes: u64,
        /// The most there may be.
        limit_bytes: u64,
    },
}

/// Why a block cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Commits cover it meanwhile, in all its buckets: read it from their segments.
    #[error("{id} is no longer in the journal: commits cover it")]
    Trimmed {
        /// The block.
        id: BlockId,
    },
    /// Get the block from another owner. Opening the journal anew sets the damaged bytes aside.
    #[error("{id} is damaged in {} at {offset}", file.display())]
    Damaged {
        /// The block.
        id: BlockId,
        /// The file.
        file: PathBuf,
        /// Where its record begins, in bytes.
        offset: u64,
    },
    /// Try again; if it goes on, see to the disk.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
