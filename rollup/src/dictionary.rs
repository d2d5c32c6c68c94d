//! Strings as small numbers.
//!
//! Owns: interning, and the hash that every table of this crate uses for text.
//! Does not own: which strings are admitted (`census`).
//!
//! Invariant: equal strings have equal ids, ids count up from 0 in the order of arrival and never change.

pub(crate) mod index;

use crate::measure::extend;
use index::Index;
use std::hint::black_box;
use std::ops::Range;
use std::str::Utf8Error;
use xxhash_rust::xxh3::xxh3_64;

/// The hash of a text wherever texts are interned or ordered by hash.
pub fn hash_text(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// Spreads the bits of a small integer key over all 64 (a folded multiplication, as in wyhash).
pub(crate) fn mix(key: u64) -> u64 {
    let product = u128::from(key ^ 0x9E37_79B9_7F4A_7C15) * u128::from(0xD6E8_FEB8_6659_FD93_u64);
    (product as u64) ^ ((product >> 64) as u64)
}

/// A set of strings, each with an id.
#[derive(Clone, Debug, Default)]
pub struct Dictionary {
    /// All strings, end to end.
    text: String,
    /// End of each string in `text`.
    ends: Vec<u64>,
    /// Kept so that growing the index does not touch the text.
    hashes: Vec<u64>,
    index: Index,
}

impl Dictionary {
    /// The id of `text`, which is added where it is new.
    pub fn intern(&mut self, text: &str) -> u32 {
        self.intern_hashed(text, hash_text(text))
    }

    /// The same where the caller has the hash already. One dictionary must always be given the same hash for a text.
    pub fn intern_hashed(&mut self, text: &str, hash: u64) -> u32 {
        match self.find_hashed(text, hash) {
            Some(known) => known,
            None => self.add(text, hash),
        }
    }

    /// Adds a text that is not here.
    fn add(&mut self, text: &str, hash: u64) -> u32 {
        let Self { text: all, ends, hashes, index } = self;
        let id = ends.len() as u32;
        index.insert(id, hash, |id| hashes[id as usize]);
        if all.len() + text.len() > all.capacity() {
            // By half, as columns grow.
            all.reserve_exact(text.len().max(all.len() / 2));
        }
        all.push_str(text);
        extend(ends, &[all.len() as u64]);
        extend(hashes, &[hash]);
        id
    }

    /// The id of the text that these bytes are, under its [hash](hash_text). Whether they are one is looked at only where they are new.
    ///
    /// # Errors
    /// Where they are not.
    pub fn intern_utf8(&mut self, bytes: &[u8]) -> Result<u32, Utf8Error> {
        let hash = xxh3_64(bytes);
        match self.find_bytes(bytes, hash) {
            Some(known) => Ok(known),
            None => Ok(self.add(std::str::from_utf8(bytes)?, hash)),
        }
    }

    /// The id of `text`, where it is known.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.find_hashed(text, hash_text(text))
    }

    /// The same where the caller has the hash already.
    pub fn find_hashed(&self, text: &str, hash: u64) -> Option<u32> {
        self.find_bytes(text.as_bytes(), hash)
    }

    fn find_bytes(&self, bytes: &[u8], hash: u64) -> Option<u32> {
        self.index.find(hash, |id| &self.text.as_bytes()[place(&self.ends, id)] == bytes)
    }

    /// The string with this id.
    ///
    /// # Panics
    /// Where the id is not one of this dictionary's.
    pub fn get(&self, id: u32) -> &str {
        &self.text[place(&self.ends, id)]
    }

    /// The hash of the string with this id.
    pub fn hash_of(&self, id: u32) -> u64 {
        self.hashes[id as usize]
    }

    /// Whether some string has this character, which is an ASCII one.
    pub(crate) fn has(&self, character: u8) -> bool {
        self.text.as_bytes().contains(&character)
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The strings in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len() as u32).map(|id| self.get(id))
    }

    /// Reads where a text ends, of which there may be none.
    fn touch_end(&self, id: u32) -> u64 {
        self.ends.get(id as usize).copied().unwrap_or(0)
    }

    /// Reads both ends of a text, of which there may be none.
    fn touch_text(&self, id: u32) -> u8 {
        let text = self.text.as_bytes();
        let end = self.touch_end(id) as usize;
        let start =
            (id as usize).checked_sub(1).and_then(|id| self.ends.get(id)).map_or(0, |&end| end as usize);
        text.get(start).copied().unwrap_or(0) ^ text.get(end.saturating_sub(1)).copied().unwrap_or(0)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.text.capacity()
            + self.ends.capacity() * size_of::<u64>()
            + self.hashes.capacity() * size_of::<u64>()
            + self.index.heap_bytes()
    }
}

/// Has what lookups of these hashes will read in the caches. Each step reads for all what the one before has told, and no step
/// waits for what it reads: so the misses of all of them are under way at once.
pub(crate) fn warm<'a>(
    lookups: impl Iterator<Item = (&'a Dictionary, u64)> + Clone,
    candidates: &mut Vec<u32>,
) {
    black_box(lookups.clone().fold(0, |sum, (dictionary, hash)| sum ^ dictionary.index.touch(hash)));
    candidates.clear();
    candidates.extend(lookups.clone().map(|(dictionary, hash)| dictionary.index.candidate(hash)));
    let found = lookups.map(|(dictionary, _)| dictionary).zip(&*candidates);
    black_box(found.clone().fold(0, |sum, (dictionary, &id)| sum ^ dictionary.touch_end(id)));
    black_box(found.fold(0, |sum, (dictionary, &id)| sum ^ dictionary.touch_text(id)));
}

/// Where the text of this id is among all of them.
fn place(ends: &[u64], id: u32) -> Range<usize> {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] as usize };
    start..ends[id] as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_have_equal_ids_in_order_of_arrival() {
        let mut dictionary = Dictionary::default();
        assert_eq!(["", "a", "ä", "a", ""].map(|text| dictionary.intern(text)), [0, 1, 2, 1, 0]);
        assert_eq!(dictionary.iter().collect::<Vec<_>>(), ["", "a", "ä"]);
        assert_eq!(dictionary.find("b"), None);
    }

    #[test]
    fn bytes_are_interned_as_the_text_they_are_and_bytes_that_are_none_are_not() {
        let mut dictionary = Dictionary::default();
        let known = dictionary.intern("ä");
        assert_eq!(dictionary.intern_utf8("ä".as_bytes()), Ok(known));
        let new = dictionary.intern_utf8(b"b").expect("a text");
        assert_eq!((dictionary.find("b"), dictionary.get(new)), (Some(new), "b"));
        assert!(dictionary.intern_utf8(&[0xFF]).is_err());
        assert_eq!(dictionary.len(), 2);
    }

    #[test]
    fn strings_with_equal_hashes_stay_apart() {
        let mut dictionary = Dictionary::default();
        assert_ne!(dictionary.intern_hashed("a", 7), dictionary.intern_hashed("b", 7));
        assert_eq!(dictionary.find_hashed("b", 7), Some(1));
    }
}
