//! Shards as actors.
//!
//! * `actor` takes messages, and `state` does what they say; it does short work only.
//! * `handle` is the only way to talk to a shard, and outlives its actor.
//! * `supervisor` starts the actors, and starts them again when they fail.

mod actor;
mod delivery;
mod handle;
mod parts;
mod state;
mod supervisor;

pub use actor::{Eviction, Flushing, LiveView, OpenPass, Receipts, ShardView, Usage};
pub use delivery::Delivery;
pub use handle::{ApplyError, ShardError, ShardHandle};
pub use parts::ShardParts;
pub use supervisor::Supervisor;

#[cfg(test)]
mod tests;
