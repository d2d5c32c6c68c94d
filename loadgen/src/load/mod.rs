//! Load as the world makes it, measured as the world feels it, and counted so that the cluster's numbers can be proved.
//!
//! ```text
//! profile ──> traffic ──┐
//! schedule ─────────────┴─> sender (one per producer) ──> nodes      sent ──> check ──> verdict
//!                           asking ──> coordinator                   measured ──> report
//! ```
//!
//! [`run`](run::run) puts them together; what is sent, and when it is due, is decided in `traffic` and `schedule`, which have neither
//! I/O nor a clock.

mod asking;
mod batch;
pub mod check;
pub mod failures;
pub mod measured;
pub mod profile;
pub mod report;
mod rows;
pub mod run;
pub mod schedule;
pub mod search;
mod sender;
mod sent;
mod ticks;
pub mod traffic;
