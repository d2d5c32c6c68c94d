//! Who is in the cluster.
//!
//! Owns: gossip (SWIM, by `foca`), the sealing of its datagrams, and the view that everything else watches.
//! Does not own: which shard is whose (`tidemark_rollup::placement`, a pure function of the view), what members say to one
//! another beside gossip.
#![forbid(unsafe_code)]

pub mod config;
mod handle;

pub use config::{ClusterFacts, ClusterKey, MembershipConfig, Timing};
pub use handle::Membership;
