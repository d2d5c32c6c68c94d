//! Percentiles of a value.
//!
//! Owns: a mergeable multiset of 32-bit values that answers percentiles: exactly up to [`SAMPLES_MAX`] values, within
//! [`RELATIVE_ERROR`] by an HDR histogram beyond.
//! Does not own: units; the value's name says them.
//!
//! Invariants:
//! * The value is a function of the multiset recorded: the order and the way of merging do not matter.
//! * Small things stay small: three values need no heap, a histogram exists only beyond `SAMPLES_MAX` values.
//! * Sum, count and largest value are exact at any size.
//!
//! Source: the High Dynamic Range histogram by G. Tene, in the `hdrhistogram` crate.

use crate::wire::{put_varint, take_varint};
use hdrhistogram::Histogram;
use smallvec::SmallVec;

/// Up to so many values are kept as they are.
pub const SAMPLES_MAX: usize = 512;
/// Values above this one are recorded as this one.
pub const VALUE_MAX: u64 = u32::MAX as u64;
/// How far a percentile can be off, relative to the value: two significant digits.
pub const RELATIVE_ERROR: f64 = 0.01;
const SIGNIFICANT_DIGITS: u8 = 2;
/// So many values have room beside the tag.
const FEW_MAX: usize = 3;
/// So many are in one piece with their number, of 32 bytes.
const NEAR_MAX: usize = 6;

/// A multiset of values.
#[derive(Debug, Default, PartialEq)]
pub enum Distribution {
    /// No value.
    #[default]
    Empty,
    /// 1 to 3 values, in the order they came; what is behind them is 0.
    Few {
        /// How many.
        len: u8,
        /// The values.
        values: [u32; FEW_MAX],
    },
    /// 4 to [`SAMPLES_MAX`] values, in the order they came.
    // Boxed to keep the enum at 16 bytes: a rollup has one for each row, and nearly all hold one value.
    Samples(Box<SmallVec<[u32; NEAR_MAX]>>),
    /// More.
    Buckets(Box<Buckets>),
}

const _: () = assert!(size_of::<Distribution>() == 16);
const _: () = assert!(size_of::<SmallVec<[u32; NEAR_MAX]>>() == 32);

/// A histogram, and what it would round.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    histogram: Histogram<u64>,
    sum: u64,
    max: u32,
}

/// By hand: `SmallVec`'s own copies one by one, into room for the next power of two.
impl Clone for Distribution {
    fn clone(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            &Self::Few { len, values } => Self::Few { len, values },
            Self::Samples(samples) => Self::Samples(Box::new(SmallVec::from_slice(samples))),
            Self::Buckets(buckets) => Self::Buckets(buckets.clone()),
        }
    }
}

impl Distribution {
    /// Adds a value; those above [`VALUE_MAX`] count as that.
    pub fn record(&mut self, value: u64) {
        let value = value.min(VALUE_MAX) as u32;
        match self {
            Self::Empty => *self = Self::Few { len: 1, values: [value, 0, 0] },
            Self::Few { len, values } if usize::from(*len) < FEW_MAX => {
                values[usize::from(*len)] = value;
                *len += 1;
            }
            Self::Few { values, .. } => {
                let mut samples = SmallVec::from_slice(values);
                samples.push(value);
                *self = Self::Samples(Box::new(samples));
            }
            Self::Samples(samples) if samples.len() < SAMPLES_MAX => samples.push(value),
            Self::Samples(samples) => {
                let mut buckets = Buckets::of(samples);
                buckets.record(value, 1);
                *self = Self::Buckets(Box::new(buckets));
            }
            Self::Buckets(buckets) => buckets.record(value, 1),
        }
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Empty, _) => *self = other.clone(),
            (Self::Buckets(mine), Self::Buckets(theirs)) => mine.merge(theirs),
            (_, Self::Buckets(theirs)) => {
                let mut buckets = (**theirs).clone();
                self.samples().iter().for_each(|&value| buckets.record(value, 1));
                *self = Self::Buckets(Box::new(buckets));
            }
            (_, other) => other.samples().iter().for_each(|&value| self.record(u64::from(value))),
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        match self {
            Self::Buckets(buckets) => buckets.histogram.len(),
            _ => self.samples().len() as u64,
        }
    }

    /// The smallest value that at least the share `quantile` (0 to 1) of all values does not exceed; `None` where there
    /// is none.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        match self {
            Self::Empty => None,
            Self::Few { len: 1, values: [only, ..] } => Some(u64::from(*only)),
            Self::Few { .. } | Self::Samples(_) => {
                let mut ascending = self.samples().to_vec();
                let rank = (quantile * ascending.len() as f64).ceil() as usize;
                let at = rank.clamp(1, ascending.len()) - 1;
                let (_, value, _) = ascending.select_nth_unstable(at);
                Some(u64::from(*value))
            }
            Self::Buckets(buckets) => {
                let value = buckets.histogram.value_at_quantile(quantile);
                Some(value.min(u64::from(buckets.max)))
            }
        }
    }

    /// The largest value.
    pub fn max(&self) -> Option<u64> {
        match self {
            Self::Buckets(buckets) => Some(u64::from(buckets.max)),
            _ => self.samples().iter().copied().max().map(u64::from),
        }
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        match self {
            Self::Buckets(buckets) => buckets.sum,
            _ => self.samples().iter().map(|&value| u64::from(value)).sum(),
        }
    }

    /// The arithmetic mean.
    pub fn mean(&self) -> Option<f64> {
        match self {
            Self::Empty => None,
            _ => Some(self.sum() as f64 / self.count() as f64),
        }
    }

    /// Whether percentiles are read from a histogram.
    pub fn is_estimated(&self) -> bool {
        matches!(self, Self::Buckets(_))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Empty | Self::Few { .. } => 0,
            Self::Samples(samples) => {
                let beside = if samples.spilled() { samples.capacity() * size_of::<u32>() } else { 0 };
                size_of_val(&**samples) + beside
            }
            Self::Buckets(buckets) => {
                size_of::<Buckets>() + buckets.histogram.distinct_values() * size_of::<u64>()
            }
        }
    }

    /// Appends the multiset's bytes: equal multisets have equal bytes.
    ///
    /// A varint n up to [`SAMPLES_MAX`] and n values, ascending, as varint distances; or 513, sum, largest value, and to the
    /// end pairs of varints: the distance to the next filled bucket of the histogram, and its count.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Self::Buckets(buckets) = self else {
            let mut ascending = self.samples().to_vec();
            ascending.sort_unstable();
            put_varint(ascending.len() as u64, out);
            let mut previous = 0;
            for value in ascending {
                put_varint(u64::from(value - previous), out);
                previous = value;
            }
            return;
        };
        put_varint(ENCODED_BUCKETS, out);
        put_varint(buckets.sum, out);
        put_varint(u64::from(buckets.max), out);
        let mut previous = 0;
        for bucket in buckets.histogram.iter_recorded() {
            // The end of the last bucket may lie above the largest value that can be recorded.
            let value = bucket.value_iterated_to().min(VALUE_MAX);
            put_varint(value - previous, out);
            put_varint(bucket.count_at_value(), out);
            previous = value;
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub fn decode(mut input: &[u8]) -> Option<Self> {
        match take_varint(&mut input)? {
            ENCODED_BUCKETS => Buckets::decode(input).map(|buckets| Self::Buckets(Box::new(buckets))),
            len if len <= SAMPLES_MAX as u64 => {
                let mut decoded = Self::Empty;
                let mut value = 0_u64;
                for _ in 0..len {
                    value =
                        value.checked_add(take_varint(&mut input)?).filter(|&value| value <= VALUE_MAX)?;
                    decoded.record(value);
                }
                input.is_empty().then_some(decoded)
            }
            _ => None,
        }
    }

    fn samples(&self) -> &[u32] {
        match self {
            Self::Few { len, values } => &values[..usize::from(*len)],
            Self::Samples(samples) => samples,
            Self::Empty | Self::Buckets(_) => &[],
        }
    }
}

const ENCODED_BUCKETS: u64 = SAMPLES_MAX as u64 + 1;

impl Buckets {
    #[allow(clippy::expect_used)]
    fn new() -> Self {
        // All histograms have the same bounds: only then is adding one to another a plain loop.
        let histogram =
            Histogram::new_with_bounds(1, VALUE_MAX, SIGNIFICANT_DIGITS).expect("the bounds are constants");
        Self { histogram, sum: 0, max: 0 }
    }

    fn of(samples: &[u32]) -> Self {
        let mut buckets = Self::new();
        samples.iter().for_each(|&value| buckets.record(value, 1));
        buckets
    }

    fn record(&mut self, value: u32, count: u64) {
        self.histogram.saturating_record_n(u64::from(value), count);
        self.sum = self.sum.saturating_add(u64::from(value).saturating_mul(count));
        self.max = self.max.max(value);
    }

    #[allow(clippy::expect_used)]
    fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all histograms have the same bounds");
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    fn decode(mut input: &[u8]) -> Option<Self> {
        let mut buckets = Self::new();
        let sum = take_varint(&mut input)?;
        let max = u32::try_from(take_varint(&mut input)?).ok()?;
        let (mut value, mut total) = (0_u64, 0_u64);
        while !input.is_empty() {
            value = value.checked_add(take_varint(&mut input)?).filter(|&value| value <= VALUE_MAX)?;
            let count = take_varint(&mut input)?;
            total = total.checked_add(count)?;
            buckets.record(value as u32, count);
        }
        buckets.sum = sum;
        buckets.max = max;
        (total > SAMPLES_MAX as u64).then_some(buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Distribution {
        let mut distribution = Distribution::default();
        values.into_iter().for_each(|value| distribution.record(value));
        distribution
    }

    fn bytes(distribution: &Distribution) -> Vec<u8> {
        let mut bytes = Vec::new();
        distribution.encode(&mut bytes);
        bytes
    }

    /// The definition: the smallest value that a share of all values does not exceed.
    fn exact_quantile(values: &[u64], quantile: f64) -> u64 {
        let mut ascending = values.to_vec();
        ascending.sort_unstable();
        let rank = (quantile * ascending.len() as f64).ceil() as usize;
        ascending[rank.clamp(1, ascending.len()) - 1]
    }

    #[test]
    fn few_values_give_exact_percentiles() {
        let distribution = of(1..=100);
        assert_eq!(distribution.quantile(0.5), Some(50));
        assert_eq!(distribution.quantile(0.95), Some(95));
        assert_eq!(distribution.quantile(0.99), Some(99));
        assert_eq!(
            (distribution.max(), distribution.mean(), distribution.count()),
            (Some(100), Some(50.5), 100)
        );
        assert_eq!(of([]).quantile(0.5), None);
    }

    #[test]
    fn values_beyond_the_bounds_count_as_the_bound() {
        let distribution = of((0..600).map(|_| u64::MAX));
        assert_eq!((distribution.max(), distribution.quantile(0.5)), (Some(VALUE_MAX), Some(VALUE_MAX)));
        assert_eq!(Distribution::decode(&bytes(&distribution)), Some(distribution));
    }

    #[test]
    fn three_values_take_no_heap_six_one_piece_of_it_and_few_no_histogram() {
        assert_eq!([1, 2, 3, 4, 6].map(|len| of(0..len).heap_bytes()), [0, 0, 0, 32, 32]);
        assert!(of(0..7).heap_bytes() > 32);
        // A copy has no room for more.
        assert_eq!(of(0..257).clone().heap_bytes(), 32 + 257 * 4);
        assert!(!of(0..512).is_estimated());
        assert!(of(0..513).is_estimated());
    }

    #[test]
    fn malformed_bytes_are_refused() {
        for bytes in [
            &[][..],
            &[1],
            &[1, 0, 0],
            &[0x81, 4],
            &[0x81, 4, 0, 0],
            &[0x81, 4, 1, 1, 1, 1],
            &[0xFF, 0xFF, 3],
        ] {
            assert_eq!(Distribution::decode(bytes), None, "{bytes:?}");
        }
    }

    fn any_values() -> impl Strategy<Value = Vec<u64>> {
        (0_usize..1200, 0_u32..33).prop_flat_map(|(len, bits)| {
            prop::collection::vec(0..=(u64::from(u32::MAX) >> (32 - bits.min(32))), len)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn percentiles_are_within_one_percent_of_the_value(values in any_values(), quantile in 0.0..1.0_f64) {
            prop_assume!(!values.is_empty());
            let exact = exact_quantile(&values, quantile);
            let read = of(values.iter().copied()).quantile(quantile).unwrap();
            // HDR histograms resolve values in units of 1.
            prop_assert!(read.abs_diff(exact) as f64 <= (RELATIVE_ERROR * exact as f64).max(1.0), "{} for {}", read, exact);
        }

        #[test]
        fn merging_in_any_order_equals_recording_everything(a in any_values(), b in any_values(), c in any_values()) {
            let all = bytes(&of(a.iter().chain(&b).chain(&c).copied()));
            let (a, b, c) = (of(a), of(b), of(c));
            for order in [[&a, &b, &c], [&c, &a, &b], [&b, &c, &a]] {
                let mut merged = Distribution::default();
                order.into_iter().for_each(|part| merged.merge(part));
                prop_assert_eq!(&bytes(&merged), &all);
            }
            let mut right = b.clone();
            right.merge(&c);
            let mut left = a.clone();
            left.merge(&right);
            prop_assert_eq!(&bytes(&left), &all);
        }

        #[test]
        fn multisets_read_back_as_written(values in any_values()) {
            let distribution = of(values);
            let read = Distribution::decode(&bytes(&distribution)).unwrap();
            prop_assert_eq!(bytes(&read), bytes(&distribution));
            prop_assert_eq!(read.mean(), distribution.mean());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(distribution) = Distribution::decode(&bytes) {
                distribution.quantile(0.5);
            }
        }
    }
}
