//! When events are due.
//!
//! Owns: how many events are due by a moment. Does not own: sending them then (`run`).
//!
//! The load is open: events are due by the clock alone, whether or not the ones before are acknowledged, as the world's visitors
//! do not wait for one another's pages to be counted.

use serde::Serialize;
use std::time::Duration;

/// How many events per second are due, over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "mode")]
pub enum Shape {
    /// The same all the time.
    Constant {
        /// Events per second.
        rate: f64,
    },
    /// Evenly more, or fewer.
    Ramp {
        /// Events per second at the beginning,
        from: f64,
        /// and at the end.
        to: f64,
    },
    /// One rate after another, each for an equal part of the time.
    Steps {
        /// Events per second.
        rates: Vec<f64>,
    },
    /// The same all the time, but for a while in the middle: the third fifth of the time.
    Spike {
        /// Events per second otherwise,
        rate: f64,
        /// and meanwhile.
        peak: f64,
    },
}

/// When events are due.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// How many per second.
    #[serde(flatten)]
    pub shape: Shape,
    /// For how long.
    #[serde(rename = "durationS", serialize_with = "seconds")]
    pub duration: Duration,
}

/// Durations in what is written.
pub(super) fn seconds<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

impl Schedule {
    /// How many events are due within the first `elapsed`: a whole number that never falls.
    pub fn due(&self, elapsed: Duration) -> u64 {
        self.events(elapsed.min(self.duration).as_secs_f64()).floor() as u64
    }

    /// How many are due in all.
    pub fn total(&self) -> u64 {
        self.due(self.duration)
    }

    /// When the event of this number, from 0, is due: the first moment at which [`due`](Self::due) is above it, to a microsecond.
    pub fn due_at(&self, number: u64) -> Duration {
        let (mut early, mut late) = (0, self.duration.as_micros() as u64);
        while early < late {
            let middle = early + (late - early) / 2;
            match self.due(Duration::from_micros(middle)) > number {
                true => late = middle,
                false => early = middle + 1,
            }
        }
        Duration::from_micros(early)
    }

    /// Events per second at a moment.
    pub fn rate_at(&self, elapsed: Duration) -> f64 {
        let (at, total) = (elapsed.as_secs_f64(), self.duration.as_secs_f64());
        let part = (at / total).clamp(0.0, 1.0);
        match &self.shape {
            Shape::Constant { rate } => *rate,
            Shape::Ramp { from, to } => from + (to - from) * part,
            Shape::Steps { rates } => {
                let step = ((part * rates.len() as f64) as usize).min(rates.len().saturating_sub(1));
                rates.get(step).copied().unwrap_or(0.0)
            }
            Shape::Spike { rate, peak } => {
                if (0.4..0.6).contains(&part) {
                    *peak
                } else {
                    *rate
                }
            }
        }
    }

    /// The integral of the rate.
    fn events(&self, at: f64) -> f64 {
        let total = self.duration.as_secs_f64();
        match &self.shape {
            Shape::Constant { rate } => rate * at,
            Shape::Ramp { from, to } => from * at + (to - from) * at * at / (2.0 * total),
            Shape::Steps { rates } => {
                let step = total / rates.len().max(1) as f64;
                let of = |(number, rate): (usize, &f64)| rate * (at - number as f64 * step).clamp(0.0, step);
                rates.iter().enumerate().map(of).sum()
            }
            Shape::Spike { rate, peak } => {
                let meanwhile = (at - 0.4 * total).clamp(0.0, 0.2 * total);
                rate * (at - meanwhile) + peak * meanwhile
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(shape: Shape) -> Schedule {
        Schedule { shape, duration: Duration::from_secs(10) }
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        let rate = || 1.0..100_000.0_f64;
        prop_oneof![
            rate().prop_map(|rate| Shape::Constant { rate }),
            (rate(), rate()).prop_map(|(from, to)| Shape::Ramp { from, to }),
            prop::collection::vec(rate(), 1..6).prop_map(|rates| Shape::Steps { rates }),
            (rate(), rate()).prop_map(|(rate, peak)| Shape::Spike { rate, peak }),
        ]
    }

    #[test]
    fn each_shape_has_the_events_that_its_rates_make() {
        let totals = [
            Shape::Constant { rate: 100.0 },
            Shape::Ramp { from: 0.0, to: 200.0 },
            Shape::Steps { rates: vec![50.0, 150.0] },
            Shape::Spike { rate: 50.0, peak: 300.0 },
        ];
        assert_eq!(totals.map(|shape| schedule(shape).total()), [1000, 1000, 1000, 1000]);
        let spike = schedule(Shape::Spike { rate: 50.0, peak: 300.0 });
        assert_eq!((spike.due(Duration::from_secs(4)), spike.due(Duration::from_secs(6))), (200, 800));
    }

    proptest! {
        #[test]
        fn what_is_due_never_falls_and_follows_the_rate(shape in shapes(), at in 0_u64..9_900_000) {
            let schedule = schedule(shape);
            let (at, step) = (Duration::from_micros(at), Duration::from_millis(100));
            let due = schedule.due(at + step) as f64 - schedule.due(at) as f64;
            prop_assert!(due >= 0.0);
            let rates = [at, at + step / 2, at + step].map(|at| schedule.rate_at(at) * 0.1);
            let (least, most) = (rates.iter().copied().fold(f64::MAX, f64::min), rates.iter().copied().fold(0.0, f64::max));
            prop_assert!((least - 1.01..=most + 1.01).contains(&due), "{due} of {rates:?}");
        }

        #[test]
        fn an_event_is_due_when_more_are_due_than_its_number(shape in shapes(), share in 0.0..1.0_f64) {
            let schedule = schedule(shape);
            let number = (schedule.total() as f64 * share) as u64;
            prop_assume!(number < schedule.total());
            let at = schedule.due_at(number);
            prop_assert!(schedule.due(at) > number);
            prop_assert!(schedule.due(at.saturating_sub(Duration::from_micros(1))) <= number);
        }
    }
}
