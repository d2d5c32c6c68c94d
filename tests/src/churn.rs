//! Clusters of real processes that are changed under load.
//!
//! Owns: members as processes (`members`), a load of known size (`load`), and asking all the time (`probes`).
//! Does not own: what is done to the members, and when (`tests/tests`).

pub mod load;
pub mod members;
pub mod probes;

use futures::future::BoxFuture;

/// Runs a task somewhere: on this runtime, or in a network namespace.
pub type Spawn<'a> = &'a dyn Fn(BoxFuture<'static, ()>);

/// On this runtime.
pub fn here(task: BoxFuture<'static, ()>) {
    tokio::spawn(task);
}
