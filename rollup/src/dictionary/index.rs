//! Which position has a key of some hash: the index of everything that is interned.
//!
//! Owns: slots of 32 bits that lead from hashes to ids.
//! Does not own: keys and their hashes; who has the ids has them by id.
//!
//! A table of its own because of where counting spends its time, which is waiting for memory. A slot has the id and as many bits
//! of the hash as are left, so that a key is nearly never looked at in vain; it takes less room than a general one; and where a
//! lookup will go can be asked for beforehand ([`touch`](Index::touch), [`candidate`](Index::candidate)), so that the misses of
//! many lookups are under way at once.
//!
//! Only the low half of a hash is used: the high bits of a URL's hash are the same in the whole shard.

/// No id.
pub(crate) const NO_ID: u32 = u32::MAX;

/// Ids by hash. They count up from 0, in the order in which they are inserted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// 0, or in the low bits, as many as tell a slot, the id plus one, and above them the same bits of the hash. Their number is
    /// a power of two; a key is in the first slot from that of its hash on that was free.
    slots: Box<[u32]>,
}

impl Index {
    /// The first id of this hash that is the one that is looked for.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.mask()?;
        let mut at = hash as u32;
        loop {
            let slot = self.slots[(at & mask) as usize];
            if slot == 0 {
                return None;
            }
            if (slot ^ hash as u32) & !mask == 0 {
                let id = (slot & mask) - 1;
                if same(id) {
                    return Some(id);
                }
            }
            at = at.wrapping_add(1);
        }
    }

    /// Adds the next id, whose key is not there yet. `hash_of` knows the hashes of the ids before.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32, hash: u64, hash_of: impl Fn(u32) -> u64) {
        // Up to four of five slots are taken: from there on runs get long.
        if (id as usize + 1) * 5 > self.slots.len() * 4 {
            self.slots = vec![0; (self.slots.len() * 2).max(4)].into_boxed_slice();
            (0..id).for_each(|id| self.place(id, hash_of(id)));
        }
        self.place(id, hash);
    }

    fn place(&mut self, id: u32, hash: u64) {
        let Some(mask) = self.mask() else { return };
        let mut at = hash as u32;
        while self.slots[(at & mask) as usize] != 0 {
            at = at.wrapping_add(1);
        }
        self.slots[(at & mask) as usize] = (hash as u32 & !mask) | (id + 1);
    }

    /// Reads where a lookup begins, without waiting for it; the result is of no use.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u32 {
        self.mask().map_or(0, |mask| self.slots[(hash as u32 & mask) as usize])
    }

    /// The id whose key a lookup will look at first, or [`NO_ID`].
    #[inline]
    pub(crate) fn candidate(&self, hash: u64) -> u32 {
        self.find(hash, |_| true).unwrap_or(NO_ID)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.slots.len() * size_of::<u32>()
    }

    #[inline]
    fn mask(&self) -> Option<u32> {
        (self.slots.len() as u32).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dictionary::mix;

    /// Inserts so many ids and finds each.
    fn check(len: u32, hash_of: impl Fn(u32) -> u64) {
        let mut index = Index::default();
        for id in 0..len {
            assert_eq!(index.find(hash_of(id), |known| known == id), None);
            index.insert(id, hash_of(id), &hash_of);
        }
        assert!((0..len).all(|id| index.find(hash_of(id), |known| known == id) == Some(id)));
        assert!(index.heap_bytes() as u32 <= 10 * len.max(4), "no more than ten bytes for each");
    }

    #[test]
    fn every_id_is_found_by_its_hash() {
        for len in [0, 1, 3, 4, 5, 1_000, 100_000] {
            check(len, |id| mix(u64::from(id)));
        }
    }

    #[test]
    fn ids_of_one_hash_stay_apart_at_the_end_and_beyond_it() {
        for hash in [0, 7, u64::MAX, u64::from(u32::MAX) << 32] {
            check(300, |_| hash);
        }
    }

    #[test]
    fn the_candidate_is_what_a_lookup_looks_at_first() {
        let mut index = Index::default();
        assert_eq!((index.candidate(5), index.touch(5)), (NO_ID, 0));
        index.insert(0, 5, |_| 5);
        index.insert(1, 5, |_| 5);
        assert_eq!((index.candidate(5), index.candidate(9)), (0, NO_ID));
    }
}
