//! Which blocks a rollup includes.
//!
//! Owns: sets of block identities of one shard, as intervals of sequence numbers by producer.
//! Does not own: what the blocks hold.
//!
//! Invariant: a producer's intervals are ascending and neither touch nor overlap, so equal sets are equal values.

use crate::block::ProducerId;
use std::collections::BTreeMap;

/// A set of blocks of one shard, by producer and sequence number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    producers: BTreeMap<ProducerId, Intervals>,
}

impl Coverage {
    /// Adds a block. `false` where it was covered already.
    pub fn insert(&mut self, producer: ProducerId, seq: u64) -> bool {
        self.producers.entry(producer).or_default().insert(seq)
    }

    /// Whether the block is covered.
    pub fn contains(&self, producer: ProducerId, seq: u64) -> bool {
        self.producers.get(&producer).is_some_and(|intervals| intervals.contains(seq))
    }

    /// How many blocks are covered.
    pub fn len(&self) -> u64 {
        self.producers.values().map(Intervals::len).fold(0, u64::saturating_add)
    }

    /// Whether no block is covered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        let intervals: usize = self.producers.values().map(|intervals| intervals.0.capacity()).sum();
        intervals * size_of::<(u64, u64)>() + self.producers.len() * 2 * size_of::<(ProducerId, Intervals)>()
    }
}

/// Sequence numbers as inclusive ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Intervals(Vec<(u64, u64)>);

impl Intervals {
    /// Position of the first range that ends at or after `seq`.
    fn position(&self, seq: u64) -> usize {
        // Nearly always the next number after the newest one.
        match self.0.last() {
            Some(&(_, end)) if end < seq => self.0.len(),
            _ => self.0.partition_point(|&(_, end)| end < seq),
        }
    }

    fn contains(&self, seq: u64) -> bool {
        self.0.get(self.position(seq)).is_some_and(|&(start, _)| start <= seq)
    }

    fn insert(&mut self, seq: u64) -> bool {
        let at = self.position(seq);
        if self.0.get(at).is_some_and(|&(start, _)| start <= seq) {
            return false;
        }
        let joins_previous = at > 0 && self.0[at - 1].1.checked_add(1) == Some(seq);
        let joins_next = self.0.get(at).is_some_and(|&(start, _)| seq.checked_add(1) == Some(start));
        match (joins_previous, joins_next) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = seq,
            (false, true) => self.0[at].0 = seq,
            (false, false) => self.0.insert(at, (seq, seq)),
        }
        true
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|&(start, end)| (end - start).saturating_add(1)).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn consecutive_blocks_are_one_interval_whatever_their_order() {
        let mut coverage = Coverage::default();
        for seq in [3, 1, 2, 5, 4, 0] {
            assert!(coverage.insert(ProducerId::from_u128(7), seq));
        }
        assert_eq!(coverage.producers[&ProducerId::from_u128(7)].0, [(0, 5)]);
    }

    #[test]
    fn the_ends_of_the_number_range_are_ordinary_numbers() {
        let mut intervals = Intervals::default();
        for seq in [u64::MAX, 0, u64::MAX - 1] {
            assert!(intervals.insert(seq));
            assert!(!intervals.insert(seq));
        }
        assert_eq!(intervals.0, [(0, 0), (u64::MAX - 1, u64::MAX)]);
    }

    proptest! {
        #[test]
        fn intervals_hold_exactly_what_a_set_holds(numbers in prop::collection::vec(0_u64..60, 0..120)) {
            let (mut intervals, mut set) = (Intervals::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(intervals.insert(number), set.insert(number));
            }
            for number in 0..61 {
                prop_assert_eq!(intervals.contains(number), set.contains(&number));
            }
            prop_assert_eq!(intervals.len(), set.len() as u64);
            prop_assert!(intervals.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}
