//! Tidemark's model: everything that must be *right*.
//!
//! Owns: events and their validation, blocks, coverage, rollups, sketches, the query engine, partials and
//! placement. All of it is pure: functions of their arguments.
//! Does not own: sockets, files, threads, the time of day, randomness. `Cargo.toml` is the proof: no runtime.
//!
//! The way of an event through this crate:
//!
//! ```text
//! EventBatch --split--> Blocks --apply--> Shard { Bucket { SiteTable } } --scan--> Partial --merge, finish--> Answer
//! ```
#![forbid(unsafe_code)]

pub mod active;
pub mod answer;
pub mod block;
pub mod bucket;
pub mod canonical;
pub mod census;
pub mod change;
pub mod coverage;
pub mod deltas;
pub mod dictionary;
pub mod enrich;
pub mod event;
pub mod event_ref;
mod folds;
pub mod lanes;
pub mod measure;
pub mod member;
pub mod outline;
pub mod ownership;
pub mod partial;
pub mod placement;
pub mod query;
pub mod quota;
pub mod rates;
mod reading;
pub mod rows;
pub mod scan;
pub mod schema;
pub mod shard;
pub mod sharding;
pub mod site_events;
pub mod site_mask;
pub mod slice;
pub mod split;
pub mod table;
pub mod time;
mod wire;
