//! Sets of shards.
//!
//! Owns: a set as bits, and how sets relate.
//! Does not own: which shards a node answers for (the caller).
//!
//! Invariant: equal sets are equal values: no word at the end is zero.

use tidemark_rollup::sharding::ShardId;

/// A set of shards; 64 of them take a word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ShardSet {
    words: Vec<u64>,
}

impl ShardSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { words: Vec::new() }
    }

    /// Adds a shard.
    pub fn insert(&mut self, shard: ShardId) {
        let (word, bit) = place(shard);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    /// Takes a shard out.
    pub fn remove(&mut self, shard: ShardId) {
        let (word, bit) = place(shard);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
        self.trim();
    }

    /// Whether the shard is in the set.
    pub fn contains(&self, shard: ShardId) -> bool {
        let (word, bit) = place(shard);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether no shard is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many shards are in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether all shards of `other` are in this set.
    pub fn is_superset(&self, other: &Self) -> bool {
        other.words.len() <= self.words.len() && self.pairs(other).all(|(mine, theirs)| theirs & !mine == 0)
    }

    /// Whether no shard is in both.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.pairs(other).all(|(mine, theirs)| mine & theirs == 0)
    }

    /// The shards that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { words: self.pairs(other).map(|(mine, theirs)| mine & theirs).collect() };
        both.trim();
        both
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    fn pairs(&self, other: &Self) -> impl Iterator<Item = (u64, u64)> {
        self.words.iter().copied().zip(other.words.iter().copied())
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

const fn place(shard: ShardId) -> (usize, u64) {
    (shard.index() / 64, 1 << (shard.index() % 64))
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::new();
        set.extend(shards);
        set
    }
}

impl Extend<ShardId> for ShardSet {
    fn extend<I: IntoIterator<Item = ShardId>>(&mut self, shards: I) {
        shards.into_iter().for_each(|shard| self.insert(shard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use tidemark_rollup::sharding::ShardCount;

    fn set(numbers: &BTreeSet<u32>) -> ShardSet {
        let shards = ShardCount::new(ShardCount::MAX).unwrap();
        numbers.iter().filter_map(|&number| shards.shard(number)).collect()
    }

    proptest! {
        #[test]
        fn a_set_of_shards_is_a_set(
            a in prop::collection::btree_set(0_u32..300, 0..40),
            b in prop::collection::btree_set(0_u32..300, 0..40),
            out in 0_u32..300,
        ) {
            let (left, right) = (set(&a), set(&b));
            prop_assert_eq!(left.len(), a.len());
            prop_assert_eq!(left.is_empty(), a.is_empty());
            prop_assert_eq!(left.is_superset(&right), a.is_superset(&b));
            prop_assert_eq!(left.is_disjoint(&right), a.is_disjoint(&b));
            let both: BTreeSet<u32> = a.intersection(&b).copied().collect();
            prop_assert_eq!(left.intersection(&right), set(&both));
            prop_assert!(left.is_superset(&left.intersection(&right)));

            let shard = ShardCount::new(ShardCount::MAX).unwrap().shard(out).unwrap();
            prop_assert_eq!(left.contains(shard), a.contains(&out));
            let (mut less, mut fewer) = (left, a);
            less.remove(shard);
            fewer.remove(&out);
            prop_assert_eq!(less, set(&fewer));
        }
    }
}
