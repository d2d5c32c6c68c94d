//! A node's journal: the acknowledged blocks that no committed segment covers yet, on disk.
//!
//! Owns: the files of one folder, what is in them by shard and bucket, and when a file may go.
//! Does not own: what a block holds, which commits exist (they are told by [`Journal::trim`]), bytes in flight.
//!
//! Invariants:
//! * With [`SyncPolicy::Always`] a block that was reported done is on disk, whatever happens to the process or its power.
//! * A block stays until commits cover it in each of its buckets. A file stays while one block of it does.
//! * Damage costs the records that it touches and no other, and nothing is read that was not written.
//!
//! ```text
//! journal.rs ── queue ──> writer.rs (one thread) ──> active.rs ──> disk.rs
//!     │                        │ when durable
//!     └──── index.rs <─────────┘          recovery.rs: scan.rs over every file, at open
//! ```

#![forbid(unsafe_code)]

mod active;
mod config;
#[cfg_attr(not(feature = "test-util"), allow(unreachable_pub, reason = "public for simulations only"))]
mod disk;
#[cfg(feature = "test-util")]
mod driven;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod journal;
mod queue;
mod record;
mod recovery;
mod room;
mod scan;
mod writer;

#[cfg(test)]
mod tests;

pub use config::{JournalConfig, SyncPolicy, SyncPolicyError};
#[cfg(feature = "test-util")]
pub use disk::{Disk, DiskFile};
#[cfg(feature = "test-util")]
pub use driven::Pump;
pub use error::{AppendError, Full, OpenError, ReadError};
pub use index::Entry;
pub use journal::{Done, Journal, Progress, Usage};
pub use recovery::{Cut, Damage, Recovered};
