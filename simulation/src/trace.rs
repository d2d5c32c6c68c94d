//! What happened.
//!
//! Owns: lines of text with simulated times, the latest of them kept, all of them hashed.
//! Does not own: what is worth a line.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64_with_seed;

#[derive(Debug, Default)]
pub(crate) struct Trace {
    limit: usize,
    lines: VecDeque<String>,
    hash: u64,
    line: String,
}

impl Trace {
    /// Keeps so many lines; all count for the hash.
    pub(crate) fn keeping(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(crate) fn note(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        self.line.clear();
        let (seconds, micros) = (now.as_secs(), now.subsec_micros());
        // Writing to a string does not fail.
        let _ = write!(self.line, "{seconds}.{micros:06} {what}");
        self.hash = xxh3_64_with_seed(self.line.as_bytes(), self.hash);
        if self.limit == 0 {
            return;
        }
        if self.lines.len() == self.limit {
            self.lines.pop_front();
        }
        self.lines.push_back(self.line.clone());
    }

    /// Of all lines so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
