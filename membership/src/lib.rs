//! Who is in the cluster.
//!
//! Owns: gossip (SWIM, by `foca`), the sealing of its datagrams, and the view that everything else watches.
//! Does not own: which shard is whose (`tidemark_rollup::placement`, a pure function of the view), what members say to one
//! another beside gossip.
//!
//! ```text
//! socket ── actor ── seal, replay ── message ── protocol ── foca
//!             │                                    │
//!          keeper (files)                        view (present, doubtful, missing)
//!             │                                    │
//!        remembered                             handle: watch::Receiver<Arc<View>>
//! ```
//!
//! Whatever decides is without I/O and is given the time; `actor` alone waits, receives and sends.
#![forbid(unsafe_code)]

mod actor;
mod agreeing;
mod change;
pub mod config;
mod facts;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod identity;
mod keeper;
mod message;
pub mod metrics;
mod protocol;
mod refusal;
mod remembered;
mod replay;
mod seal;
mod timers;
mod view;

pub use config::{ClusterFacts, ClusterKey, MembershipConfig, Parts, StartError, Timing};
pub use facts::Difference;
pub use handle::Membership;
pub use metrics::{MembershipMeter, MembershipMetrics};
pub use refusal::Failure;
