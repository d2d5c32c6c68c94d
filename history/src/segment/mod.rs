//! Segments: rows and blocks as Parquet. Bytes in, bytes out.
//!
//! Owns: the format of rollup segments and of raw segments, and reading as little of them as a question needs.
//! Does not own: where segments are and how their bytes come here (`store`), which of them count (`commit`), what rows
//! mean (`tidemark_rollup::rows`).
//!
//! ```text
//! write_rollup(row groups) ─> Written ─> bytes, and the v1::Segment that a commit names
//!
//! last footer_bytes ─> Footer::parse ─> plan(Selection) ─> bloom_ranges ─> apply_blooms ─> ranges ─> read ─> SegmentRows
//! ```
//!
//! Invariants:
//! * What is read is what was written, or an error that names the segment: every byte that is used is under a checksum.
//!   The footer's is in the commit, those of columns and bloom filters are in the footer.
//! * No bytes make this module panic, and none make it allocate out of proportion to what they claim to hold.
//!
//! What a rollup segment looks like to others (DuckDB, ClickHouse, Spark) is in [`layout`].

mod chunk;
mod column;
mod delta;
mod error;
mod facts;
mod feed;
mod fetched;
mod footer;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hybrid;
mod index;
pub mod layout;
mod page;
mod plan;
mod raw;
mod read;
mod shape;
mod thrift;
mod write;

pub use error::{SegmentError, WriteError};
pub use footer::Footer;
pub use plan::{Plan, Selection};
pub use raw::{RawWriter, read_raw, write_raw};
pub use write::{RollupWriter, RowGroup, Written, write_rollup};
