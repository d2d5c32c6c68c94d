//! Chance.
//!
//! Owns: draws in the forms that a simulation needs.
//! Does not own: the generator (`tidemark_history::retry`), the seed (an argument).

use std::ops::Range;
use std::time::Duration;
use tidemark_history::retry::SplitMix64;

/// A seeded generator.
#[derive(Clone, Debug)]
pub(crate) struct Random(SplitMix64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// Another generator, whose draws do not touch this one's.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.next())
    }

    /// Whether something happens that does so in this share of cases. Draws nothing where that is none.
    pub(crate) fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.0.next_share() < share
    }

    /// A number up to `most`.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        match most.checked_add(1) {
            Some(count) => self.next() % count,
            None => self.next(),
        }
    }

    /// A length of time, in whole microseconds so that traces show all of it.
    pub(crate) fn between(&mut self, range: &Range<Duration>) -> Duration {
        let span = range.end.saturating_sub(range.start).as_micros() as u64;
        range.start + Duration::from_micros(self.up_to(span))
    }
}
