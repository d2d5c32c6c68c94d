//! Whole clusters for tests: in one process, and as real processes.
//!
//! Owns: starting and stopping them, on ports that the system picks, and asking them as users do: over HTTP.
//! Does not own: what is asserted (`tests/tests`).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

pub mod browser;
pub mod churn;
pub mod history_support;
pub mod http;
pub mod in_process;
pub mod logs;
pub mod measured;
pub mod muffled;
pub mod netns;
pub mod processes;
pub mod rows;
pub mod secured;

use std::time::Duration;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(120);
