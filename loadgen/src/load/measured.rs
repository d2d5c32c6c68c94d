//! What a run measures, as it goes.
//!
//! Owns: counts and histograms by second, and putting them together.
//! Does not own: what is measured (`senders`, `asking`), and how it is shown (`report`).
//!
//! Latencies are kept in HDR histograms (Tene, hdrhistogram.org) of up to ten minutes: of three digits for the whole, of two for
//! each part of the time. They are merged, never averaged.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Latencies above count as this.
const LONGEST: Duration = Duration::from_secs(600);

/// Durations, in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::of_digits(3)
    }
}

impl Latencies {
    fn of_digits(digits: u8) -> Self {
        // The bounds are constants that the library takes.
        let histogram = Histogram::new_with_bounds(1, LONGEST.as_micros() as u64, digits);
        Self(histogram.unwrap_or_else(|error| unreachable!("constant bounds: {error}")))
    }

    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.add_all(latency, 1);
    }

    /// Adds so many of one length.
    pub fn add_all(&mut self, latency: Duration, count: u64) {
        self.0.saturating_record_n(latency.min(LONGEST).as_micros() as u64, count);
    }

    /// Adds those of another one.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds.
        if let Err(error) = self.0.add(&other.0) {
            unreachable!("equal bounds: {error}");
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The one that this share, 0 to 1, is not above; none of none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_micros(self.0.value_at_quantile(share)))
    }

    /// The longest; none of none.
    pub fn max(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_micros(self.0.max()))
    }
}

/// The kinds of questions that are asked, by name.
pub const QUESTIONS: [&str; 3] = ["topUrls", "series", "topReferrers"];

/// What was measured in a while.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Events that were due,
    pub due: u64,
    /// of these, that were handed to the client,
    pub sent: u64,
    /// and that were acknowledged as counted;
    pub accepted: u64,
    /// those that were refused or given up,
    pub undelivered: u64,
    /// and those that were rejected.
    pub rejected: u64,
    /// Events that were sent once more on purpose, and acknowledged as duplicates.
    pub duplicates: u64,
    /// From when an event was due until it was acknowledged.
    pub acknowledged: Latencies,
    /// Queries that were answered, from when they were due, by [kind](QUESTIONS).
    pub answered: [Latencies; QUESTIONS.len()],
    /// Queries that failed,
    pub failed_queries: u64,
    /// and those that were answered in part.
    pub partial_queries: u64,
    /// Updates that subscribers got.
    pub updates: u64,
    /// How often a subscriber lost its coordinator, or could not reach it,
    pub lost_subscribers: u64,
    /// and how often one that had came back.
    pub returned_subscribers: u64,
}

impl Measured {
    fn coarse() -> Self {
        Self {
            acknowledged: Latencies::of_digits(2),
            answered: std::array::from_fn(|_| Latencies::of_digits(2)),
            ..Self::default()
        }
    }

    /// Answers of all kinds together.
    pub fn answers(&self) -> Latencies {
        let mut all = Latencies(Histogram::new_from(&self.answered[0].0));
        self.answered.iter().for_each(|of_kind| all.merge(of_kind));
        all
    }

    /// Adds another while.
    pub fn merge(&mut self, other: &Self) {
        self.due += other.due;
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.undelivered += other.undelivered;
        self.rejected += other.rejected;
        self.duplicates += other.duplicates;
        self.acknowledged.merge(&other.acknowledged);
        self.answered.iter_mut().zip(&other.answered).for_each(|(mine, theirs)| mine.merge(theirs));
        self.failed_queries += other.failed_queries;
        self.partial_queries += other.partial_queries;
        self.updates += other.updates;
        self.lost_subscribers += other.lost_subscribers;
        self.returned_subscribers += other.returned_subscribers;
    }
}

/// At most so many parts of the time are told apart.
const MAX_PARTS: u32 = 600;

/// What was measured, part by part since the beginning, and in all. What is acknowledged or answered belongs to the part in which it
/// was due.
#[derive(Clone, Debug)]
pub struct Timeline {
    part: Duration,
    /// Of the whole run.
    most_parts: usize,
    parts: Vec<Measured>,
    total: Measured,
}

impl Timeline {
    /// An empty one, for a run of this length: its parts are seconds, or longer where there would be over 600 of them.
    pub fn of(duration: Duration) -> Self {
        let seconds = (duration.as_secs_f64() / f64::from(MAX_PARTS)).ceil().max(1.0);
        let most_parts = (duration.as_secs_f64() / seconds).ceil().max(1.0) as usize;
        let part = Duration::from_secs_f64(seconds);
        Self { part, most_parts, parts: Vec::new(), total: Measured::default() }
    }

    /// Notes something in the part of this moment. What comes after the last part belongs to it.
    pub fn note(&mut self, elapsed: Duration, note: impl Fn(&mut Measured)) {
        let part = self.part_of(elapsed);
        while self.parts.len() <= part {
            self.parts.push(Measured::coarse());
        }
        note(&mut self.parts[part]);
        note(&mut self.total);
    }

    /// Which part this moment belongs to.
    pub fn part_of(&self, elapsed: Duration) -> usize {
        let part = (elapsed.as_secs_f64() / self.part.as_secs_f64()) as usize;
        part.min(self.most_parts - 1)
    }

    /// How long a part is.
    pub fn part(&self) -> Duration {
        self.part
    }

    /// The parts so far.
    pub fn parts(&self) -> &[Measured] {
        &self.parts
    }

    /// Everything together.
    pub fn total(&self) -> &Measured {
        &self.total
    }

    /// Adds another one of a run of the same length.
    pub fn merge(&mut self, other: &Self) {
        while self.parts.len() < other.parts.len() {
            self.parts.push(Measured::coarse());
        }
        self.parts.iter_mut().zip(&other.parts).for_each(|(mine, theirs)| mine.merge(theirs));
        self.total.merge(&other.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_of_the_whole_is_that_of_all_values_and_no_average() {
        let mut timeline = Timeline::of(Duration::from_secs(10));
        let mut add = |at_ms, ms, count| {
            let (at, latency) = (Duration::from_millis(at_ms), Duration::from_millis(ms));
            timeline.note(at, |measured| measured.acknowledged.add_all(latency, count));
        };
        add(100, 1, 990);
        add(2_100, 500, 10);
        add(10_000, 1, 0);
        let mut merged = Timeline::of(Duration::from_secs(10));
        merged.merge(&timeline);
        assert_eq!(merged.parts().len(), 10, "what comes after the end belongs to the last part");
        let total = &merged.total().acknowledged;
        let near = |share, ms: f64| {
            let found = total.quantile(share).unwrap().as_secs_f64() * 1e3;
            assert!((found / ms - 1.0).abs() < 0.002, "{found} ms instead of {ms}");
        };
        near(0.5, 1.0);
        near(0.99, 1.0);
        near(0.995, 500.0);
        assert!(merged.parts()[0].acknowledged.quantile(1.0).unwrap() < Duration::from_micros(1_010));
        assert_eq!((total.count(), Latencies::default().quantile(0.5)), (1000, None));
    }
}
