//! The Rust client.
//!
//! Owns: a producer that turns events into blocks, sends them and follows each to its acknowledgement; and queries.
//! Does not own: where events come from, and what they mean.
#![forbid(unsafe_code)]

mod error;
mod producer;
mod queries;

pub use error::ClientError;
pub use producer::{Producer, ProducerConfig, Totals};
pub use queries::QueryClient;
