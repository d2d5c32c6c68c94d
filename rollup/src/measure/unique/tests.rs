//! What sets promise, whatever order hashes come in.

use super::*;
use hyperloglogplus::{HyperLogLog as _, HyperLogLogPlus};
use proptest::prelude::*;
use std::hash::{BuildHasherDefault, Hasher};

fn hash(number: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())
}

fn set(numbers: impl IntoIterator<Item = u64>) -> Unique {
    let mut unique = Unique::default();
    numbers.into_iter().for_each(|number| unique.insert(hash(number)));
    unique
}

#[test]
fn up_to_2048_visitors_are_counted_exactly_and_without_registers() {
    for n in (0..300).chain([2047, 2048]) {
        let unique = set((0..n).chain(0..n));
        assert_eq!(unique.count(), n);
        assert!(!unique.is_estimated());
    }
    assert!(set(0..2049).is_estimated());
    assert_eq!([1, 2, 3].map(|n| set(0..n).heap_bytes()), [0, 32, 32]);
    assert!(set(0..4).heap_bytes() > 32);
    let mut merged = set(0..2);
    merged.merge(&set(1..3));
    assert_eq!((merged.count(), merged.heap_bytes()), (3, 32));
    // A copy has no room for more.
    assert_eq!(set(0..1_025).clone().heap_bytes(), 32 + 1_025 * 8);
}

#[test]
fn estimates_stay_within_four_standard_errors() {
    for n in [2_049, 5_000, 20_000, 100_000, 1_000_000] {
        let count = set(0..n).count() as f64;
        let error = (count - n as f64).abs() / n as f64;
        assert!(error < 4.0 * STANDARD_ERROR, "{n}: {count}, off by {error}");
    }
}

#[derive(Default)]
struct Identity(u64);
impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 is hashed")
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[test]
fn an_independent_implementation_agrees_on_large_sets() {
    for n in [3_000_u64, 30_000, 300_000] {
        let mut other: HyperLogLogPlus<u64, BuildHasherDefault<Identity>> =
            HyperLogLogPlus::new(14, BuildHasherDefault::default()).unwrap();
        (0..n).for_each(|number| other.insert(&hash(number)));
        let (ours, theirs) = (set(0..n).count() as f64, other.count());
        assert!((ours - theirs).abs() / theirs < 0.03, "{n}: {ours} against {theirs}");
    }
}

#[test]
fn malformed_bytes_are_refused() {
    let mut rank_too_high = vec![0x81, 16];
    rank_too_high.extend([52; REGISTERS]);
    for bytes in [
        &[][..],
        &[1],
        &[2, 0, 0],
        &[0x81, 16, 0],
        &[0x82, 16, 1, 0xFF, 0xFF, 3, 1],
        &[0xFF, 0xFF],
        &[0, 0],
        &rank_too_high,
    ] {
        assert_eq!(Unique::decode(bytes), None, "{:?}", &bytes[..bytes.len().min(8)]);
    }
    let mut descending = vec![2];
    descending.extend([9_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat());
    assert_eq!(Unique::decode(&descending), None);
}

fn any_numbers() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        prop::collection::vec(0_u64..40, 0..4),
        prop::collection::vec(0_u64..400, 0..600),
        (0_u64..5_000, 0_u64..20_000).prop_map(|(from, len)| (from..from + len).collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn merging_in_any_order_equals_inserting_everything(a in any_numbers(), b in any_numbers(), c in any_numbers()) {
        let all = set(a.iter().chain(&b).chain(&c).copied());
        let (a, b, c) = (set(a), set(b), set(c));
        for order in [[&a, &b, &c], [&c, &b, &a], [&b, &a, &c], [&b, &c, &a]] {
            let mut merged = Unique::default();
            order.into_iter().for_each(|part| merged.merge(part));
            order.into_iter().for_each(|part| merged.merge(part));
            prop_assert_eq!(&merged, &all);
        }
        let mut right = b.clone();
        right.merge(&c);
        let mut left = a.clone();
        left.merge(&right);
        prop_assert_eq!(&left, &all);
    }

    #[test]
    fn what_waits_for_large_sets_comes_to_what_it_would_one_by_one(
        parts in prop::collection::vec((0_u32..3, any_numbers()), 0..5),
        singles in prop::collection::vec((0_u32..3, 0_u64..5_000), 0..3_000),
    ) {
        let (mut waited, mut one_by_one) = (vec![Unique::default(); 3], vec![Unique::default(); 3]);
        let mut waiting = Waiting::default();
        let singles = singles.into_iter().map(|(row, number)| (row, set([number])));
        for (row, part) in parts.into_iter().map(|(row, numbers)| (row, set(numbers))).chain(singles) {
            waiting.merge(&mut waited, row, &part);
            one_by_one[row as usize].merge(&part);
        }
        waiting.finish(&mut waited);
        prop_assert_eq!(waited, one_by_one);
    }

    #[test]
    fn many_sets_merged_into_one_come_to_what_they_would_one_by_one(
        before in any_numbers(),
        columns in prop::collection::vec(
            (prop::collection::vec(any_numbers(), 0..3), (0_u64..20_000, 1_u64..9_000, 1_u64..3)),
            0..4,
        ),
    ) {
        let mut waited = [Unique::default(), set(before)];
        let mut one_by_one = waited[1].clone();
        let mut waiting = Waiting::default();
        for (sets, (first, singles, times)) in columns {
            let singles = (0..times).flat_map(|_| (first..first + singles).map(|number| set([number])));
            let column: Vec<Unique> = sets.into_iter().map(set).chain([Unique::Empty]).chain(singles).collect();
            waiting.merge_into_one(&mut waited, 1, &column);
            column.iter().for_each(|other| one_by_one.merge(other));
        }
        waiting.finish(&mut waited);
        prop_assert_eq!(waited, [Unique::default(), one_by_one]);
    }

    #[test]
    fn sets_read_back_as_written(numbers in any_numbers()) {
        let unique = set(numbers);
        let mut bytes = Vec::new();
        unique.encode(&mut bytes);
        prop_assert_eq!(Unique::decode(&bytes), Some(unique));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Some(unique) = Unique::decode(&bytes) {
            unique.count();
        }
    }
}
