//! Which shard a URL belongs to.
//!
//! Owns: the stable hash of a (site, URL) pair, shard numbers and their count.
//! Does not own: which node holds a shard (`placement`).

use std::fmt;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// The hash of a page: `xxh3_64(site, 0x00, url)`, seed 0. The same on every machine and in every version.
///
/// Lane 0 of a URL has the hash of the URL: see [`lanes`](crate::lanes).
pub fn page_hash(site: &str, url: &str) -> u64 {
    let (site, url) = (site.as_bytes(), url.strip_suffix("#0").unwrap_or(url).as_bytes());
    let mut buffer = [0_u8; 256];
    let len = site.len() + 1 + url.len();
    if len <= buffer.len() {
        buffer[..site.len()].copy_from_slice(site);
        buffer[site.len() + 1..len].copy_from_slice(url);
        return xxh3_64(&buffer[..len]);
    }
    let mut hasher = Xxh3Default::new();
    hasher.update(site);
    hasher.update(&[0]);
    hasher.update(url);
    hasher.digest()
}

/// How many shards a cluster has: a power of two up to [`ShardCount::MAX`], fixed when the cluster is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardCount(u32);

impl ShardCount {
    /// The largest count.
    pub const MAX: u32 = 4096;
    /// The default: enough for tens of nodes.
    pub const DEFAULT: Self = Self(64);

    /// A count, where `count` can be one.
    pub fn new(count: u32) -> Option<Self> {
        (count.is_power_of_two() && count <= Self::MAX).then_some(Self(count))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The shard of a page: the top bits of its hash.
    pub fn shard_of(self, page_hash: u64) -> ShardId {
        // Shifting by 64 is not defined, and a count of 1 has no bits.
        let bits = self.0.trailing_zeros();
        ShardId(page_hash.checked_shr(64 - bits).unwrap_or(0) as u32)
    }

    /// All shards.
    pub fn shards(self) -> impl Iterator<Item = ShardId> + Clone {
        (0..self.0).map(ShardId)
    }

    /// The shard of this number, where there is one.
    pub fn shard(self, number: u32) -> Option<ShardId> {
        (number < self.0).then_some(ShardId(number))
    }
}

/// A shard of a cluster: a fixed slice of the URL space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u32);

impl ShardId {
    /// The number, from 0.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(count: u32) -> ShardCount {
        ShardCount::new(count).unwrap()
    }

    #[test]
    fn only_powers_of_two_are_counts() {
        for count in [0, 3, 65, 8192] {
            assert_eq!(ShardCount::new(count), None, "{count}");
        }
        assert_eq!(shards(4).shards().map(ShardId::get).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn the_shard_is_the_top_bits_of_the_hash() {
        assert_eq!(shards(1).shard_of(u64::MAX).get(), 0);
        assert_eq!(shards(2).shard_of(1 << 63).get(), 1);
        assert_eq!(shards(64).shard_of(u64::MAX).get(), 63);
        assert_eq!(shards(64).shard_of(1 << 58).get(), 1);
    }

    #[test]
    fn short_and_long_urls_are_hashed_alike() {
        for len in [0, 1, 100, 251, 252, 253, 254, 300, 2048] {
            let url = "u".repeat(len);
            let joined = [b"s.de", &[0][..], url.as_bytes()].concat();
            assert_eq!(page_hash("s.de", &url), xxh3_64(&joined), "{len}");
        }
    }

    #[test]
    fn the_separator_keeps_site_and_url_apart() {
        assert_ne!(page_hash("a", "bc"), page_hash("ab", "c"));
    }
}
