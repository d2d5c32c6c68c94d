//! Shards as actors.
//!
//! * `actor` counts blocks and lets queries in; it does short work only.
//! * `handle` is the only way to talk to a shard, and outlives its actor.
//! * `supervisor` starts the actors, and starts them again when they fail.

mod actor;
mod handle;
mod parts;
mod supervisor;

pub use actor::{OpenPass, ShardView, Usage};
pub use handle::{ApplyError, ShardError, ShardHandle};
pub use parts::ShardParts;
pub use supervisor::Supervisor;

#[cfg(test)]
mod tests;
