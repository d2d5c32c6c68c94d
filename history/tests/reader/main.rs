//! The reader brings exactly the rows that are asked for, whatever its caches hold, and fetches nothing twice.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

#[path = "../../../rollup/tests/common/mod.rs"]
mod common;

mod disk;
mod exact;
mod made;
mod memory;
mod store;
