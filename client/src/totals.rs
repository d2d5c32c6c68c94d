//! What became of a producer's events, in numbers.
//!
//! Owns: the numbers.
//! Does not own: when they change (`producer`).

use std::collections::BTreeMap;
use tidemark_proto::v1::Reason;

/// What became of the events so far. At the end of a producer's life
/// `events + recovered = accepted + rejected + refused + given_up + spooled`; until then the difference is on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events given to the producer.
    pub events: u64,
    /// Events that were in its spool when it was started.
    pub recovered: u64,
    /// Events acknowledged as counted, including duplicates.
    pub accepted: u64,
    /// Of these, events that had been counted before: a block was sent again.
    pub duplicate: u64,
    /// Events that are not counted and never will be.
    pub rejected: BTreeMap<Reason, u64>,
    /// Events of blocks that were refused for good.
    pub refused: u64,
    /// Events of blocks that were given up; whether they are counted is not known.
    pub given_up: u64,
    /// Events that are in the spool now.
    pub spooled: u64,
    /// And their blocks. Each takes some hundred bytes of memory, too: how many there are bounds what a spool of small blocks may hold.
    pub spooled_blocks: u64,
    /// Blocks sent again.
    pub retries: u64,
}

impl Totals {
    /// Events whose end is known, or that are on disk.
    pub fn settled(&self) -> u64 {
        self.accepted + self.rejected.values().sum::<u64>() + self.refused + self.given_up + self.spooled
    }
}
