//! Coverage of many shards, kept small.
//!
//! Owns: coverage as encoded bytes per shard, decoded when asked for.
//! Does not own: what coverage means (`tidemark_rollup::coverage`).
//!
//! Invariant: every part decodes; it was tried when it came in.

use prost::Message as _;
use tidemark_proto::v1;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::{ShardCount, ShardId};

/// Coverage by shard. Decoded it would take several times the memory, and few shards are ever asked for.
///
/// All shards are in one piece: commits are remembered for long, and a small piece for each shard would keep pages that others have left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedCoverage {
    /// Ascending, each with where its encoded `Coverage` ends; it begins where the one before ends.
    shards: Box<[(ShardId, usize)]>,
    encoded: Box<[u8]>,
}

impl PackedCoverage {
    /// Packs coverage, where it makes sense for a cluster of `shard_count` shards. Says what does not.
    pub(crate) fn new(shard_count: u32, wire: &[v1::ShardCoverage]) -> Result<Self, String> {
        let count =
            ShardCount::new(shard_count).ok_or_else(|| format!("no cluster has {shard_count} shards"))?;
        let part = |part: &v1::ShardCoverage| {
            let shard = count
                .shard(part.shard)
                .ok_or_else(|| format!("there is no shard {} of {shard_count}", part.shard))?;
            let coverage = part.coverage.as_ref().and_then(Coverage::from_wire);
            let coverage = coverage.ok_or_else(|| format!("the coverage of shard {shard} cannot be read"))?;
            Ok((shard, coverage.to_wire()))
        };
        let mut parts = wire.iter().map(part).collect::<Result<Vec<_>, String>>()?;
        parts.sort_unstable_by_key(|&(shard, _)| shard);
        if let Some(pair) = parts.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("shard {} is named twice", pair[0].0));
        }
        let mut encoded = Vec::with_capacity(parts.iter().map(|(_, coverage)| coverage.encoded_len()).sum());
        let shards = parts.iter().map(|(shard, coverage)| {
            encoded.extend(coverage.encode_to_vec());
            (*shard, encoded.len())
        });
        Ok(Self { shards: shards.collect(), encoded: encoded.into() })
    }

    /// The coverage of a shard; empty where there is none.
    pub fn of(&self, shard: ShardId) -> Coverage {
        self.packed(shard).map_or_else(Coverage::default, unpack)
    }

    /// The shards that it has coverage of, ascending.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.shards.iter().map(|&(shard, _)| shard)
    }

    /// The first shard of which both include the same block. Unpacks only shards that both have.
    pub fn overlap(&self, other: &Self) -> Option<ShardId> {
        let overlaps = |shard: &ShardId| match (self.packed(*shard), other.packed(*shard)) {
            (Some(mine), Some(theirs)) => !unpack(mine).is_disjoint(&unpack(theirs)),
            _ => false,
        };
        self.shards().find(overlaps)
    }

    fn packed(&self, shard: ShardId) -> Option<&[u8]> {
        let at = self.shards.binary_search_by_key(&shard, |&(shard, _)| shard).ok()?;
        let begin = at.checked_sub(1).map_or(0, |before| self.shards[before].1);
        self.encoded.get(begin..self.shards[at].1)
    }

    /// The coverage on the wire.
    pub fn to_wire(&self) -> Vec<v1::ShardCoverage> {
        let part = |shard: ShardId| v1::ShardCoverage {
            shard: shard.get(),
            coverage: Some(self.of(shard).to_wire()),
        };
        self.shards().map(part).collect()
    }

    /// Memory that it takes, about, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.encoded.len() + size_of_val(&*self.shards)
    }
}

fn unpack(packed: &[u8]) -> Coverage {
    let wire = v1::Coverage::decode(packed).ok();
    match wire.as_ref().and_then(Coverage::from_wire) {
        Some(coverage) => coverage,
        None => unreachable!("it was packed from coverage"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_rollup::block::ProducerId;

    fn part(shard: u32, seqs: std::ops::Range<u64>) -> v1::ShardCoverage {
        let mut coverage = Coverage::default();
        for seq in seqs {
            coverage.insert(ProducerId::from_u128(7), seq);
        }
        v1::ShardCoverage { shard, coverage: Some(coverage.to_wire()) }
    }

    #[test]
    fn packed_coverage_is_what_it_was_made_of_by_shard() {
        let wire = [part(3, 0..4), part(0, 7..9)];
        let packed = PackedCoverage::new(4, &wire).unwrap();
        assert_eq!(packed.to_wire(), [wire[1].clone(), wire[0].clone()]);
        let shards: Vec<ShardId> = packed.shards().collect();
        assert_eq!(shards.iter().map(|shard| shard.get()).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(packed.of(shards[1]).len(), 4);
        assert!(packed.of(ShardCount::new(4).unwrap().shard(1).unwrap()).is_empty());
        assert!(packed.memory_bytes() > 0);
    }

    #[test]
    fn coverage_overlaps_where_a_shard_has_the_same_block_twice() {
        let of = |wire: &[v1::ShardCoverage]| PackedCoverage::new(4, wire).unwrap();
        let one = of(&[part(1, 0..4), part(3, 0..4)]);
        assert_eq!(
            one.overlap(&of(&[part(0, 0..4), part(1, 4..8), part(3, 3..9)])).map(ShardId::get),
            Some(3)
        );
        assert_eq!(one.overlap(&of(&[part(0, 0..4), part(1, 4..8), part(3, 4..9)])), None);
    }
}
