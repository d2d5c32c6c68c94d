//! History: closed rollups and raw events in object storage.
//!
//! Owns: segments (Parquet), commits and what they mean together, reading through caches, compaction, retention,
//! rebuild, verify and receipts.
//! Does not own: what numbers mean (`tidemark-rollup`), the open buckets and the journal (`tidemark-node`).
#![forbid(unsafe_code)]

pub mod catalog;
pub mod commit;
pub mod compact;
pub mod day;
#[cfg(feature = "test-util")]
pub mod faults;
#[cfg(feature = "test-util")]
pub mod moto;
pub mod packed;
pub mod paths;
pub mod probe;
pub mod reader;
pub mod rebuild;
pub mod receipts;
pub mod record;
pub mod replacement;
pub mod retention;
pub mod retry;
pub mod segment;
pub mod store;
pub mod verify;
