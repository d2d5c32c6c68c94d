//! One member of a cluster: takes events in, keeps its shards, and answers its part of queries.
//!
//! Owns: shard actors and their supervision, admission, passing blocks on to their owners, and the gRPC services of a
//! node.
//! Does not own: what numbers mean (`tidemark-rollup`), answers over several nodes (`tidemark-coordinator`).
//!
//! ```text
//! ingest --- router --- shard x N <--- query
//!    |         |            |
//! admission   peers      journal
//! ```
#![forbid(unsafe_code)]

pub mod admission;
mod chores;
pub mod clock;
mod committed;
pub mod config;
mod flush;
mod grpc;
mod history;
mod http;
pub mod membership;
pub mod metrics;
mod peers;
pub mod query;
mod rebuild;
mod remembered;
mod router;
pub mod shard;
mod sources;
mod start;

pub use config::NodeConfig;
pub use metrics::NodeMetrics;
pub use start::{Node, Parts, StartError};
