//! Traffic for Tidemark: access logs read as events, a small generator of such logs, and load that is measured and proved.
//!
//! Owns: the two log formats that `tidemark replay` takes, what a log line says about a hit (page, visitor,
//! referrer, device, ...), reading plain and gzip files line by line, and made-up but lifelike traffic.
//! Does not own: how events travel (`tidemark-client`) and what a node makes of them (`tidemark-rollup`).
//!
//! The path of a line: [`reader::LogReader`] hands out lines of bounded length, [`log::parse_line`] makes an
//! event of each or names its fault, and [`tidemark_rollup::enrich`] has the judgements (device,
//! browser, channel) that a log does not state. [`sample::SampleLog`] writes lines of the same format.
//! [`load`] makes events without lines, by a clock.
#![forbid(unsafe_code)]

pub mod load;
pub mod log;
pub mod reader;
pub mod replay;
pub mod sample;
