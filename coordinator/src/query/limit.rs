//! Agreeing on the values that keep their names.
//!
//! Owns: whether all nodes together might have more values of a dimension than the limit, and the cut that follows from
//! their censuses.
//! Does not own: the rule of the cut (`tidemark_rollup::census`), asking (`rounds`).
//!
//! A shard with no more values than its share, the limit divided by the number of shards, need not be looked at: if no
//! shard has more, all together are within the limit. So nodes count only above the share, and the coordinator asks for
//! a census only where those counts, plus the share for every shard that did not count, exceed the limit.

use std::collections::BTreeMap;
use tidemark_proto::v1;
use tidemark_rollup::census::Census;

/// At most so many bytes of hashes in one node's reply to a census.
const CENSUS_BYTES: u64 = 16 << 20;

/// How many dimensions of buckets to ask for in one census.
pub(super) fn census_size(limit: u32) -> usize {
    let census_bytes = 8 * (u64::from(limit) + 1);
    (CENSUS_BYTES / census_bytes).max(1) as usize
}

/// The values that a shard can have without being counted.
pub(super) fn share(limit: u32, shard_count: u32) -> u32 {
    limit / shard_count
}

/// The dimensions of buckets that all nodes together might have more values of than `limit`.
pub(super) fn contested(replies: &[&v1::PartialReply], share: u32, limit: u32) -> Vec<v1::DimensionOfBucket> {
    let all_shards: u64 = replies.iter().map(|reply| reply.answered.len() as u64).sum();
    // Per dimension of a bucket: the values that were counted, and in how many shards.
    let mut counted: BTreeMap<(&str, u32, &str), (u64, u64)> = BTreeMap::new();
    for reply in replies {
        for distinct in &reply.distinct_values {
            let Some(of) = &distinct.of else { continue };
            let count = counted.entry((&of.site, of.bucket_start_s, &of.dimension)).or_default();
            count.0 = count.0.saturating_add(distinct.at_most);
            count.1 += reply.answered.len() as u64;
        }
    }
    let over = counted.into_iter().filter(|&(_, (values, shards))| {
        let others = all_shards.saturating_sub(shards) * u64::from(share);
        values.saturating_add(others) > u64::from(limit)
    });
    over.map(|((site, bucket_start_s, dimension), _)| v1::DimensionOfBucket {
        site: site.to_owned(),
        bucket_start_s,
        dimension: dimension.to_owned(),
    })
    .collect()
}

/// What a node has, as its reply to the question for `asked` says; `None` where it does not fit the question.
pub(super) fn read(reply: &v1::CensusReply, asked: &[v1::DimensionOfBucket]) -> Option<Vec<Census>> {
    let fits = reply.censuses.len() == asked.len()
        && reply.censuses.iter().zip(asked).all(|(census, asked)| census.of.as_ref() == Some(asked));
    let read = |census: &v1::Census| Census::from_wire(&census.hashes);
    fits.then(|| reply.censuses.iter().map(read).collect()).flatten()
}

/// What nodes have, per dimension of a bucket asked for.
pub(super) struct Union {
    censuses: Vec<Census>,
    limit: u32,
}

impl Union {
    pub(super) fn new(asked: usize, limit: u32) -> Self {
        Self { censuses: vec![Census::default(); asked], limit }
    }

    /// Adds what a node has.
    pub(super) fn add(&mut self, theirs: &[Census]) {
        for (mine, theirs) in self.censuses.iter_mut().zip(theirs) {
            mine.merge(theirs, self.limit);
        }
    }

    /// The cuts, where there are more values than the limit.
    pub(super) fn folds(&self, asked: &[v1::DimensionOfBucket]) -> Vec<v1::Fold> {
        let cuts = self.censuses.iter().zip(asked);
        cuts.filter_map(|(census, of)| {
            Some(v1::Fold { of: Some(of.clone()), max_kept_hash: census.max_kept_hash(self.limit)? })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dimension: &str) -> v1::DimensionOfBucket {
        v1::DimensionOfBucket { site: "s.de".into(), bucket_start_s: 300, dimension: dimension.into() }
    }

    fn reply(shards: u32, counts: &[(&str, u64)]) -> v1::PartialReply {
        let count = |&(name, at_most)| v1::DistinctValues { of: Some(of(name)), at_most };
        v1::PartialReply {
            answered: (0..shards).collect(),
            distinct_values: counts.iter().map(count).collect(),
            ..v1::PartialReply::default()
        }
    }

    #[test]
    fn a_node_that_does_not_count_may_have_its_share_in_each_shard() {
        // 4 shards, limit 8: a share of 2.
        let contested = |counts: &[(&str, u64)]| contested(&[&reply(2, counts), &reply(2, &[])], 2, 8);
        assert_eq!(contested(&[("country", 4)]), []);
        assert_eq!(contested(&[("country", 5), ("device", 3)]), [of("country")]);
    }

    #[test]
    fn what_no_node_counts_is_never_contested() {
        assert_eq!(contested(&[&reply(4, &[]), &reply(4, &[])], 1, 8), []);
    }

    #[test]
    fn a_census_of_many_values_is_asked_in_small_pieces() {
        assert_eq!(census_size(10_000), 209);
        assert_eq!(census_size(u32::MAX), 1);
    }

    #[test]
    fn a_reply_that_does_not_fit_the_question_is_not_read() {
        let asked = [of("country")];
        let census = |of: v1::DimensionOfBucket, hashes: &[u8]| v1::CensusReply {
            censuses: vec![v1::Census { of: Some(of), hashes: hashes.to_vec().into() }],
        };
        assert_eq!(read(&v1::CensusReply::default(), &asked), None);
        assert_eq!(read(&census(of("device"), &[]), &asked), None);
        assert_eq!(read(&census(of("country"), &[1; 7]), &asked), None);

        let hashes: Vec<u8> = [5_u64, 9].iter().flat_map(|hash| hash.to_le_bytes()).collect();
        let mut union = Union::new(1, 1);
        assert_eq!(union.folds(&asked), []);
        union.add(&read(&census(of("country"), &hashes), &asked).unwrap());
        assert_eq!(union.folds(&asked)[0].max_kept_hash, 5);
    }
}
