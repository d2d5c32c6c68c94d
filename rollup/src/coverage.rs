//! Which blocks a rollup includes.
//!
//! Owns: sets of block identities of one shard, as intervals of sequence numbers by producer.
//! Does not own: what the blocks hold.
//!
//! Invariant: a producer's intervals are ascending and neither touch nor overlap, so equal sets are equal values.

use crate::block::ProducerId;
use std::collections::BTreeMap;
use tidemark_proto::v1;

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

    /// Adds all blocks of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (producer, theirs) in &other.producers {
            let mine = self.producers.entry(*producer).or_default();
            *mine = mine.union(theirs);
        }
    }

    /// Whether all blocks of `other` are covered.
    pub fn includes(&self, other: &Self) -> bool {
        other
            .producers
            .iter()
            .all(|(producer, theirs)| self.producers.get(producer).is_some_and(|mine| mine.includes(theirs)))
    }

    /// Whether no block of `other` is covered.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.producers.iter().all(|(producer, mine)| {
            other.producers.get(producer).is_none_or(|theirs| mine.is_disjoint(theirs))
        })
    }

    /// The blocks of this coverage that `other` does not have.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let left = self.producers.iter().filter_map(|(producer, mine)| {
            let left = match other.producers.get(producer) {
                Some(theirs) => mine.without(theirs),
                None => mine.clone(),
            };
            (!left.0.is_empty()).then_some((*producer, left))
        });
        Self { producers: left.collect() }
    }

    /// The coverage on the wire.
    pub fn to_wire(&self) -> v1::Coverage {
        let producers = self.producers.iter().map(|(producer, intervals)| v1::ProducerCoverage {
            producer: producer.to_wire(),
            ranges: intervals.to_wire(),
        });
        v1::Coverage { producers: producers.collect() }
    }

    /// Reads what [`to_wire`](Self::to_wire) wrote; `None` for anything else.
    pub fn from_wire(wire: &v1::Coverage) -> Option<Self> {
        let mut producers = BTreeMap::new();
        for part in &wire.producers {
            let intervals = Intervals::from_wire(&part.ranges)?;
            if producers.insert(ProducerId::from_wire(&part.producer)?, intervals).is_some() {
                return None;
            }
        }
        Some(Self { producers })
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

    fn union(&self, other: &Self) -> Self {
        let mut all: Vec<(u64, u64)> = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let mine_is_next = match (mine.peek(), theirs.peek()) {
                (Some(mine), Some(theirs)) => mine.0 <= theirs.0,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return Self(all),
            };
            let Some(&(start, end)) = (if mine_is_next { mine.next() } else { theirs.next() }) else {
                continue;
            };
            match all.last_mut() {
                // Overlaps the one before, or touches it.
                Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => all.push((start, end)),
            }
        }
    }

    fn includes(&self, other: &Self) -> bool {
        other.0.iter().all(|&(start, end)| {
            self.0.get(self.position(start)).is_some_and(|&(mine, mine_end)| mine <= start && end <= mine_end)
        })
    }

    fn is_disjoint(&self, other: &Self) -> bool {
        self.0
            .iter()
            .all(|&(start, end)| other.0.get(other.position(start)).is_none_or(|&(theirs, _)| end < theirs))
    }

    fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(mut start, end) in &self.0 {
            let mut is_left = true;
            for &(theirs, theirs_end) in &other.0[other.position(start)..] {
                if theirs > end {
                    break;
                }
                if start < theirs {
                    left.push((start, theirs - 1));
                }
                match theirs_end.checked_add(1).filter(|next| *next <= end) {
                    Some(next) => start = next,
                    None => {
                        is_left = false;
                        break;
                    }
                }
            }
            if is_left {
                left.push((start, end));
            }
        }
        Self(left)
    }

    fn to_wire(&self) -> Vec<u64> {
        let mut previous = 0;
        let mut ranges = Vec::with_capacity(self.0.len() * 2);
        for &(start, end) in &self.0 {
            ranges.extend([start - previous, end - start]);
            previous = end;
        }
        ranges
    }

    fn from_wire(ranges: &[u64]) -> Option<Self> {
        let (pairs, rest) = ranges.as_chunks::<2>();
        if pairs.is_empty() || !rest.is_empty() {
            return None;
        }
        let mut intervals: Vec<(u64, u64)> = Vec::with_capacity(pairs.len());
        for &[distance, length] in pairs {
            let start = match intervals.last() {
                None => distance,
                // Ranges that touch would be one.
                Some(&(_, end)) => end.checked_add(distance).filter(|_| distance > 1)?,
            };
            intervals.push((start, start.checked_add(length)?));
        }
        Some(Self(intervals))
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

        #[test]
        fn sets_of_blocks_behave_as_sets(
            a in prop::collection::btree_set((0_u128..3, 0_u64..30), 0..60),
            b in prop::collection::btree_set((0_u128..3, 0_u64..30), 0..60),
        ) {
            let (mine, theirs) = (coverage(&a), coverage(&b));
            prop_assert_eq!(mine.includes(&theirs), a.is_superset(&b));
            prop_assert_eq!(mine.is_disjoint(&theirs), a.is_disjoint(&b));
            let mut union = mine.clone();
            union.merge(&theirs);
            prop_assert_eq!(&union, &coverage(&a.union(&b).copied().collect()));
            prop_assert_eq!(mine.without(&theirs), coverage(&a.difference(&b).copied().collect()));
            prop_assert_eq!(Coverage::from_wire(&union.to_wire()), Some(union));
        }
    }

    fn coverage(blocks: &BTreeSet<(u128, u64)>) -> Coverage {
        let mut coverage = Coverage::default();
        blocks
            .iter()
            .for_each(|&(producer, seq)| assert!(coverage.insert(ProducerId::from_u128(producer), seq)));
        coverage
    }

    #[test]
    fn ranges_on_the_wire_that_no_coverage_has_are_refused() {
        for ranges in [&[][..], &[1], &[0, 5, 1, 0], &[0, 5, 0, 0], &[5, u64::MAX]] {
            assert_eq!(Intervals::from_wire(ranges), None, "{ranges:?}");
        }
        let whole = Intervals(vec![(0, u64::MAX)]);
        assert_eq!(Intervals::from_wire(&whole.to_wire()), Some(whole.clone()));
        assert_eq!(whole.without(&Intervals(vec![(0, 0), (u64::MAX, u64::MAX)])).0, [(1, u64::MAX - 1)]);
        assert!(whole.without(&whole).0.is_empty());
        assert!(whole.union(&whole) == whole && !whole.is_disjoint(&Intervals(vec![(7, 7)])));
    }
}
