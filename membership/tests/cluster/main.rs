//! Whole clusters on a network in memory, in virtual time: the same seed gives the same run.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod coming_and_going;
mod failures;
mod identities;
mod net;
mod partitions;
mod remembering;
mod schemas;
mod sockets;
mod strangers;
