//! One member of a cluster: takes events in, keeps its shards, and answers its part of queries.
//!
//! Owns: shard actors and their supervision, admission, bringing blocks to their owners, repair, flushing, and the gRPC
//! services of a node.
//! Does not own: what numbers mean (`tidemark-rollup`), who is present (`tidemark-membership`), answers over several nodes
//! (`tidemark-coordinator`).
//!
//! ```text
//!                                          membership
//!                                              | view
//! ingest --- router --- shard x N <--- query   |
//!    |         |   \        |                  |
//! admission   peers \    journal --- flush     |
//!                    \     |          |        |
//!                     `-- repair -----+--- owners (placement, what is ready)
//! ```
#![forbid(unsafe_code)]

pub mod admission;
mod changes;
mod chores;
pub mod clock;
mod committed;
pub mod config;
mod flow;
mod flush;
mod grpc;
mod history;
mod http;
pub mod metrics;
mod owners;
mod peers;
pub mod planted;
pub mod query;
pub mod quotas;
mod rebuild;
mod remembered;
mod repair;
mod router;
mod serve;
pub mod shard;
mod sources;
mod start;
mod told;

pub use config::NodeConfig;
pub use metrics::NodeMetrics;
pub use start::{Node, Parts, StartError};
