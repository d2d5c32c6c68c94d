//! The Rust client.
//!
//! Owns: a producer that turns events into blocks, brings each to an owner of its shard, keeps on disk what it cannot bring, and
//! tells what became of every event; queries, and subscriptions.
//! Does not own: where events come from, and what they mean.
//!
//! ```text
//! batch.rs ──> producer.rs ── blocks ──> courier.rs ──> line.rs (one per node) ──> nodes
//!                  ^                     │  ^   └─────> spool.rs, sequence.rs ──> disk
//!                  └── outcomes (ledger) ┘  └────────── watch.rs <── Admin.WatchPlacement
//! ```
//!
//! What goes where, and when again, is decided in `desk`, `routes` and `backoff`, which have neither I/O nor a clock.
//!
//! `examples/page_views.rs` sends, asks and subscribes.
#![forbid(unsafe_code)]

mod backoff;
mod batch;
mod config;
mod courier;
mod desk;
mod error;
mod ledger;
mod line;
mod numbers;
mod producer;
mod queries;
mod routes;
mod seal;
mod sequence;
mod spool;
mod subscription;
mod ticket;
mod totals;
mod watch;

pub use backoff::Backoff;
pub use batch::{BatchConfig, Batcher};
pub use config::{Parts, ProducerConfig, SpoolConfig};
pub use error::{ClientError, SendError, SpoolError};
pub use producer::Producer;
pub use queries::{QueryClient, open};
pub use spool::SpoolFound;
pub use subscription::{Event, Subscription};
pub use ticket::{Outcome, Ticket, Undelivered, Why};
pub use tidemark_journal::{Damage, SyncPolicy};
pub use tidemark_shell::link::{Credential, Dial, Link};
pub use tidemark_shell::tls::{ClientTls, TlsError};
pub use totals::Totals;
