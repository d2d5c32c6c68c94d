//! Roughly which sites something is about.
//!
//! Owns: a set of sites in 64 bytes that may hold more than was put in, never less.
//! Does not own: what is done with it: nodes tell coordinators what changed (`tidemark-node`), so that questions about other sites
//! need not be answered again.

use xxhash_rust::xxh3::xxh3_64;

/// Bits of a mask.
const BITS: u64 = 512;
/// Words of a mask.
pub const WORDS: usize = (BITS / 64) as usize;

/// A set of sites, at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteMask([u64; WORDS]);

impl SiteMask {
    /// All sites.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// A mask of these words.
    pub fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// Where a site is in a mask: the word, and the bit in it.
    pub fn place(site: &str) -> (usize, u64) {
        let bit = xxh3_64(site.as_bytes()) % BITS;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    /// Whether the site may be in it.
    pub fn may_hold(&self, site: &str) -> bool {
        let (word, bit) = Self::place(site);
        self.0[word] & bit != 0
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The mask on the wire: 64 bytes, little-endian words.
    pub fn to_wire(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads a mask; of another length it is all sites.
    pub fn from_wire(bytes: &[u8]) -> Self {
        let mut words = [0; WORDS];
        if bytes.len() != 8 * WORDS {
            return Self::ALL;
        }
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_in_is_there_also_over_the_wire(sites in prop::collection::vec("[a-z]{1,9}", 0..20)) {
            let mut words = [0; WORDS];
            for site in &sites {
                let (word, bit) = SiteMask::place(site);
                words[word] |= bit;
            }
            let mask = SiteMask::from_wire(&SiteMask::from_words(words).to_wire());
            prop_assert!(sites.iter().all(|site| mask.may_hold(site)));
            prop_assert_eq!(mask.is_empty(), sites.is_empty());
        }
    }

    #[test]
    fn few_sites_leave_most_others_out() {
        let (word, bit) = SiteMask::place("a.com");
        let mut words = [0; WORDS];
        words[word] |= bit;
        let mask = SiteMask::from_words(words);
        assert!((0..100).filter(|n| mask.may_hold(&format!("{n}.com"))).count() < 5);
        assert_eq!(SiteMask::from_wire(&[1, 2, 3]), SiteMask::ALL);
    }
}
