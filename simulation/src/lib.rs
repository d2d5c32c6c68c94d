//! Whole clusters on one thread, as a function of a seed: hosts, network, disks, store and time.
//!
//! Owns: everything that a cluster gets from the world around it, in a form that repeats.
//! Does not own: what runs on hosts, and what should come of it (the tests of other crates).
//!
//! ```text
//! world.rs ── ticks ──> host.rs: one runtime per process, paused time
//!    │                    │ context.rs: clock, links, datagrams, port, disk, store
//!    └── delivers ─────> net.rs: datagrams, connections and calls; cuts, loss, delay
//! ```
//!
//! What is a function of the seed is what hosts do with what they are given. Threads, sockets, `spawn_blocking` and the
//! system's clock are not: nothing that is simulated may use them. Hash maps draw their keys from the system; [`repeatable`]
//! sees to that. `tokio::select!` draws its branches in a way that nobody can see to: it has to say `biased`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "it is for tests: what goes wrong should stop them"
)]
#![deny(unsafe_code)]

mod body;
mod context;
mod datagrams;
mod disk;
mod entropy;
mod host;
mod link;
mod net;
mod random;
mod serve;
mod store;
mod time;
mod trace;
mod world;

pub use context::HostContext;
pub use datagrams::SimDatagrams;
pub use disk::{DiskFaults, SimDisk};
pub use entropy::repeatable;
pub use link::SimConnect;
pub use net::{HostId, Quality};
pub use time::SimClock;
pub use world::{World, WorldConfig};
