//! Which blocks a rollup includes.
//!
//! Owns: sets of block identities of one shard, by producer. Equal sets are equal values.
//! Does not own: what the blocks hold, how a producer's numbers are kept (`numbers`).

mod numbers;

use crate::block::ProducerId;
use numbers::Numbers;
use std::collections::BTreeMap;
use tidemark_proto::v1;

/// A set of blocks of one shard, by producer and sequence number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    producers: BTreeMap<ProducerId, Numbers>,
}

impl Coverage {
    /// Adds a block. `false` where it was covered already.
    pub fn insert(&mut self, producer: ProducerId, seq: u64) -> bool {
        self.producers.entry(producer).or_default().insert(seq)
    }

    /// Whether the block is covered.
    pub fn contains(&self, producer: ProducerId, seq: u64) -> bool {
        self.producers.get(&producer).is_some_and(|numbers| numbers.contains(seq))
    }

    /// How many blocks are covered.
    pub fn len(&self) -> u64 {
        self.producers.values().map(Numbers::len).fold(0, u64::saturating_add)
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
            (!left.is_empty()).then_some((*producer, left))
        });
        Self { producers: left.collect() }
    }

    /// The coverage on the wire.
    pub fn to_wire(&self) -> v1::Coverage {
        let producers = self.producers.iter().map(|(producer, numbers)| v1::ProducerCoverage {
            producer: producer.to_wire(),
            ranges: to_wire(numbers),
        });
        v1::Coverage { producers: producers.collect() }
    }

    /// Reads what [`to_wire`](Self::to_wire) wrote; `None` for anything else.
    pub fn from_wire(wire: &v1::Coverage) -> Option<Self> {
        let mut producers = BTreeMap::new();
        for part in &wire.producers {
            let numbers = from_wire(&part.ranges)?;
            if producers.insert(ProducerId::from_wire(&part.producer)?, numbers).is_some() {
                return None;
            }
        }
        Some(Self { producers })
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        let numbers: usize = self.producers.values().map(Numbers::heap_bytes).sum();
        numbers + self.producers.len() * 2 * size_of::<(ProducerId, Numbers)>()
    }
}

/// Numbers on the wire: per range the distance from the end of the one before, and its length less one.
fn to_wire(numbers: &Numbers) -> Vec<u64> {
    let (mut previous, mut wire) = (0, Vec::new());
    for (start, end) in numbers.ranges() {
        wire.extend([start - previous, end - start]);
        previous = end;
    }
    wire
}

fn from_wire(ranges: &[u64]) -> Option<Numbers> {
    let (pairs, rest) = ranges.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    let (mut numbers, mut previous) = (Numbers::default(), None::<u64>);
    for &[distance, length] in pairs {
        let start = match previous {
            None => distance,
            // Ranges that touch would be one.
            Some(end) => end.checked_add(distance).filter(|_| distance > 1)?,
        };
        let end = start.checked_add(length)?;
        numbers.append(start, end);
        previous = Some(end);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
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
            assert_eq!(from_wire(ranges), None, "{ranges:?}");
        }
        for ranges in [&[0, u64::MAX][..], &[0, 0, 2, 0], &[3, 1_000, 70, 64, 2, 0]] {
            assert_eq!(to_wire(&from_wire(ranges).unwrap()), ranges);
        }
    }
}
