//! How many values a dimension may have.
//!
//! Owns: the limit on distinct values per site, dimension and bucket, and which values stay below it.
//! Does not own: the values' names (`dictionary`).
//!
//! Beyond the limit the values with the smallest hashes keep their names and all others count under `(other)`. That
//! choice is a function of the set of values alone. So it does not depend on the order of events, and shards that see
//! different parts of the set can agree on it: the smallest hashes of a union are among the smallest of its parts.
//! (Bottom-k sampling; Cohen and Kaplan, 2007.)
//!
//! Invariant: a value that is beyond the limit stays beyond it, whatever arrives later.

use crate::measure::touch;
use std::collections::{BTreeSet, BinaryHeap};

/// Default limit.
pub const DEFAULT_LIMIT: u32 = 10_000;
/// What values beyond the limit count under.
pub const OTHER: &str = "(other)";
/// Id of "not set" in each dictionary of a dimension.
pub(crate) const UNSET_ID: u32 = 0;
/// Id of [`OTHER`] in each dictionary of a dimension.
pub(crate) const OTHER_ID: u32 = 1;

/// The values of one dimension that one site has in one bucket of one shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueSet {
    /// By id: whether the value was admitted at some time.
    admitted: Vec<u64>,
    /// How many were, as long as there are no more than the limit.
    count: u32,
    over: Option<Box<OverLimit>>,
    /// Whether some event counts under [`OTHER`].
    others: bool,
}

/// Kept only for sets beyond the limit.
#[derive(Clone, Debug)]
struct OverLimit {
    /// The smallest hashes, as many as the limit.
    kept: BinaryHeap<u64>,
    /// The smallest hash that is not kept.
    next: u64,
}

impl ValueSet {
    /// Whether a value may have rows of its own. One that may not counts under [`OTHER`].
    pub(crate) fn admit(&mut self, id: u32, limit: u32, hash_of: impl Fn(u32) -> u64) -> bool {
        if id <= OTHER_ID || self.is_admitted(id) {
            return true;
        }
        let hash = hash_of(id);
        if !self.has_room_for(hash, limit, &hash_of) {
            return false;
        }
        match &mut self.over {
            None => self.count += 1,
            Some(over) => {
                over.kept.push(hash);
                over.next = over.kept.pop().unwrap_or(over.next).min(over.next);
            }
        }
        self.set_admitted(id);
        true
    }

    /// Whether a value of this hash that is not admitted yet would be. Where not, it is noted as beyond the limit.
    pub(crate) fn has_room_for(&mut self, hash: u64, limit: u32, hash_of: impl Fn(u32) -> u64) -> bool {
        if self.count < limit {
            return true;
        }
        if self.over.is_none() {
            let kept = self.admitted_ids().map(hash_of).collect();
            self.over = Some(Box::new(OverLimit { kept, next: u64::MAX }));
        }
        let Some(over) = &mut self.over else { return false };
        let fits = over.kept.peek().is_some_and(|&largest| hash <= largest);
        if !fits {
            over.next = over.next.min(hash);
        }
        fits
    }

    /// Reads what [`admit`](Self::admit) reads, without waiting for it.
    pub(crate) fn touch(&self, id: u32) -> u32 {
        touch(&self.admitted, id as usize / 64) as u32
    }

    /// Notes that events count under [`OTHER`].
    pub(crate) fn note_other(&mut self, is_other: bool) {
        self.others |= is_other;
    }

    /// Whether some event counts under [`OTHER`]. Known of sets read back from rows only.
    pub(crate) fn has_others(&self) -> bool {
        self.others
    }

    /// Finds what is beyond the limit, after all values were admitted without one.
    ///
    /// Of a set that was over the limit when its rows were made, all values that keep their names have rows, and what was
    /// never admitted is under [`OTHER`].
    pub(crate) fn close(&mut self, limit: u32, hash_of: impl Fn(u32) -> u64) {
        if self.count < limit || (self.count == limit && !self.others) {
            return;
        }
        let mut hashes: Vec<u64> = self.admitted_ids().map(hash_of).collect();
        hashes.sort_unstable();
        let beyond = hashes.split_off(limit as usize);
        let next = beyond.first().copied().unwrap_or(u64::MAX);
        self.count = limit;
        self.over = Some(Box::new(OverLimit { kept: hashes.into(), next }));
    }

    /// The largest hash that keeps its name, where some do not.
    pub(crate) fn max_kept_hash(&self) -> Option<u64> {
        self.over.as_ref().map(|over| over.kept.peek().copied().unwrap_or(0))
    }

    /// An upper bound on the number of distinct values that this set adds to a union.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.count) + u64::from(self.over.is_some())
    }

    /// The smallest hashes, one more than the limit at most.
    pub(crate) fn census(&self, hash_of: impl Fn(u32) -> u64) -> Census {
        match &self.over {
            None => Census(self.admitted_ids().map(hash_of).collect()),
            Some(over) => Census(over.kept.iter().copied().chain([over.next]).collect()),
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let over = self.over.as_ref().map_or(0, |over| size_of::<OverLimit>() + over.kept.capacity() * 8);
        self.admitted.capacity() * 8 + over
    }

    fn is_admitted(&self, id: u32) -> bool {
        self.admitted.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    fn set_admitted(&mut self, id: u32) {
        let word = id as usize / 64;
        if word >= self.admitted.len() {
            self.admitted.resize(word + 1, 0);
        }
        self.admitted[word] |= 1 << (id % 64);
    }

    fn admitted_ids(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.admitted.iter().enumerate();
        words.flat_map(|(at, &word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u32 * 64 + bit)
        })
    }
}

/// The smallest hashes of the values that several shards have together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census(BTreeSet<u64>);

impl Census {
    /// Adds the values of another part.
    pub fn merge(&mut self, other: &Self, limit: u32) {
        self.0.extend(&other.0);
        while self.0.len() > limit as usize + 1 {
            self.0.pop_last();
        }
    }

    /// The largest hash that keeps its name, where there are more values than `limit`.
    pub fn max_kept_hash(&self, limit: u32) -> Option<u64> {
        match limit.checked_sub(1) {
            _ if self.0.len() <= limit as usize => None,
            Some(last_kept) => self.0.iter().nth(last_kept as usize).copied(),
            None => Some(0),
        }
    }

    /// 8 bytes per hash, ascending.
    pub fn to_wire(&self) -> bytes::Bytes {
        self.0.iter().flat_map(|hash| hash.to_le_bytes()).collect()
    }

    /// Reads what [`to_wire`](Self::to_wire) wrote; `None` where the length cannot be.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        let (hashes, rest) = bytes.as_chunks::<8>();
        rest.is_empty().then(|| Self(hashes.iter().map(|&hash| u64::from_le_bytes(hash)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dictionary::mix;
    use proptest::prelude::*;

    fn hash_of(id: u32) -> u64 {
        mix(u64::from(id))
    }

    fn set(ids: &[u32], limit: u32) -> ValueSet {
        let mut set = ValueSet::default();
        for &id in ids {
            set.admit(id, limit, hash_of);
        }
        set
    }

    #[test]
    fn up_to_the_limit_every_value_keeps_its_name() {
        let set = set(&[2, 3, 4, 3, 2, 0, 1], 3);
        assert_eq!((set.len(), set.max_kept_hash()), (3, None));
    }

    proptest! {
        #[test]
        fn a_set_read_back_from_its_rows_keeps_the_same_names(
            ids in prop::collection::vec(2_u32..60, 0..120),
            limit in 1_u32..20,
        ) {
            let (mut made, mut read) = (ValueSet::default(), ValueSet::default());
            for &id in &ids {
                let named = made.admit(id, limit, hash_of);
                read.note_other(!named);
                read.admit(if named { id } else { OTHER_ID }, u32::MAX, hash_of);
            }
            read.close(limit, hash_of);
            prop_assert_eq!(read.max_kept_hash(), made.max_kept_hash());
            prop_assert_eq!(read.census(hash_of).max_kept_hash(limit), made.census(hash_of).max_kept_hash(limit));
        }

        #[test]
        fn the_smallest_hashes_keep_their_names_in_any_order_and_split(
            ids in prop::collection::vec(2_u32..60, 0..120),
            limit in 1_u32..20,
            cut in 0_usize..120,
        ) {
            let distinct: BTreeSet<u64> = ids.iter().map(|&id| hash_of(id)).collect();
            let expected = (distinct.len() > limit as usize).then(|| *distinct.iter().nth(limit as usize - 1).unwrap());

            let whole = set(&ids, limit);
            prop_assert_eq!(whole.max_kept_hash(), expected);
            let reversed: Vec<u32> = ids.iter().rev().copied().collect();
            prop_assert_eq!(set(&reversed, limit).max_kept_hash(), expected);

            let (a, b) = ids.split_at(cut.min(ids.len()));
            let mut union = set(a, limit).census(hash_of);
            union.merge(&set(b, limit).census(hash_of), limit);
            prop_assert_eq!(union.max_kept_hash(limit), expected);
            prop_assert_eq!(Census::from_wire(&union.to_wire()), Some(union));
        }
    }
}
