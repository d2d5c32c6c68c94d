//! The highest rate that holds a latency.
//!
//! Owns: which rate is tried next. Does not own: trying it.
//!
//! The rate is doubled until one does not hold, and then halved towards it: between the highest that held and the lowest that did not.

use std::time::Duration;

/// A search is over when what held and what did not are this close.
const CLOSE: f64 = 1.05;

/// A search for the highest rate that holds.
#[derive(Clone, Debug)]
pub struct Search {
    held: Option<f64>,
    failed: Option<f64>,
    first: f64,
    most: f64,
}

impl Search {
    /// Begins at a rate, in events per second; none above `most` is tried.
    pub fn new(first: f64, most: f64) -> Self {
        Self { held: None, failed: None, first: first.min(most), most }
    }

    /// What to try next; nothing when the search is over.
    pub fn next_rate(&self) -> Option<f64> {
        match (self.held, self.failed) {
            (None, None) => Some(self.first),
            (Some(held), None) if held >= self.most => None,
            (Some(held), None) => Some((held * 2.0).min(self.most)),
            // Below a hundredth of an event there is nothing to hold.
            (None, Some(failed)) => Some(failed / 2.0).filter(|&rate| rate >= 0.01),
            (Some(held), Some(failed)) => (failed / held > CLOSE).then(|| (held * failed).sqrt()),
        }
    }

    /// Notes whether a rate held.
    pub fn note(&mut self, rate: f64, holds: bool) {
        match holds {
            true => self.held = Some(self.held.map_or(rate, |held| held.max(rate))),
            false => self.failed = Some(self.failed.map_or(rate, |failed| failed.min(rate))),
        }
    }

    /// The highest rate that held.
    pub fn held(&self) -> Option<f64> {
        self.held
    }
}

/// Whether a run holds: 99 of 100 acknowledgements within the bound, and everything that was due acknowledged.
pub fn holds(report: &super::run::RunReport, p99: Duration) -> bool {
    let found = report.total().acknowledged.quantile(0.99);
    report.is_good() && found.is_some_and(|found| found <= p99)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_search_ends_within_five_percent_below_what_holds(limit in 1.0..1e7_f64, first in 1.0..1e6_f64) {
            let mut search = Search::new(first, 1e8);
            let mut tried = 0;
            while let Some(rate) = search.next_rate() {
                search.note(rate, rate <= limit);
                tried += 1;
                prop_assert!(tried < 60);
            }
            let held = search.held().unwrap();
            prop_assert!(held <= limit && held * CLOSE * 1.001 >= limit, "{held} of {limit}");
        }
    }

    #[test]
    fn what_never_fails_ends_at_the_most_that_is_tried() {
        let mut search = Search::new(1_000.0, 5_000.0);
        let mut tried = Vec::new();
        while let Some(rate) = search.next_rate() {
            search.note(rate, true);
            tried.push(rate);
        }
        assert_eq!((tried, search.held()), (vec![1_000.0, 2_000.0, 4_000.0, 5_000.0], Some(5_000.0)));
    }

    #[test]
    fn what_never_holds_ends_without_a_rate() {
        let mut search = Search::new(1_000.0, 5_000.0);
        while let Some(rate) = search.next_rate() {
            search.note(rate, false);
        }
        assert_eq!(search.held(), None);
    }
}
