//! Which sequence numbers blocks get.
//!
//! Owns: the next number of each shard.
//! Does not own: which numbers are on disk as used (`sequence`), the blocks.
//!
//! Invariants:
//! * A shard's number is used once.
//! * A shard's blocks have consecutive numbers, whatever other shards get: coverage of them is one range, and stays as small as one.

use tidemark_proto::v1;
use tidemark_rollup::sharding::ShardCount;

/// The next number of each shard.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: Vec<u64>,
}

impl Numbers {
    /// All shards begin with `first`.
    pub(crate) fn from(first: u64, shards: ShardCount) -> Self {
        Self { next: vec![first; shards.get() as usize] }
    }

    /// Gives the blocks of a batch, at most one for each shard, the next numbers. They are not used by that.
    pub(crate) fn give(&self, blocks: &mut [v1::Block]) {
        for block in blocks {
            block.seq = self.next.get(block.shard as usize).copied().unwrap_or_default();
        }
    }

    /// The numbers of these blocks are used.
    pub(crate) fn note_used(&mut self, blocks: &[v1::Block]) {
        for block in blocks {
            if let Some(next) = self.next.get_mut(block.shard as usize) {
                *next = block.seq + 1;
            }
        }
    }

    /// The first number that no shard has used.
    pub(crate) fn unused(&self) -> u64 {
        self.next.iter().copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(shards: &[u32]) -> Vec<v1::Block> {
        shards.iter().map(|&shard| v1::Block { shard, ..v1::Block::default() }).collect()
    }

    #[test]
    fn each_shard_counts_by_itself_and_numbers_that_were_given_in_vain_are_given_again() {
        let mut numbers = Numbers::from(100, ShardCount::new(4).unwrap());
        let mut given = Vec::new();
        for (shards, is_taken) in [(&[0, 1][..], true), (&[1], false), (&[1, 3], true), (&[1], true)] {
            let mut blocks = batch(shards);
            numbers.give(&mut blocks);
            given.push(blocks.iter().map(|block| (block.shard, block.seq)).collect::<Vec<_>>());
            if is_taken {
                numbers.note_used(&blocks);
            }
        }
        let first = vec![(0, 100), (1, 100)];
        assert_eq!(given, [first, vec![(1, 101)], vec![(1, 101), (3, 100)], vec![(1, 102)]]);
        assert_eq!(numbers.unused(), 103);
    }
}
