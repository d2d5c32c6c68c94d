//! Agreeing on which values are beyond the limit, where no shard sees them all.
//!
//! Owns: how many values shards have where that might matter, and what all of them agreed on.
//! Does not own: a shard's own limit and censuses (`census`).
//!
//! Three rounds at most: an answer comes with upper bounds ([`DistinctCounts`]); where their sum is over the limit, a census
//! of all shards tells whether the union is; where it is, the question is asked again with the cut ([`Folds`]).

use crate::time::BucketStart;
use std::collections::{BTreeMap, HashMap};

/// One dimension of one site and bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DimensionOfBucket {
    /// The site.
    pub site: String,
    /// The bucket.
    pub bucket: BucketStart,
    /// The dimension.
    pub dimension: String,
}

/// The largest hashes that keep their names, where all shards together have more values than the limit.
#[derive(Clone, Debug, Default)]
pub struct Folds(HashMap<(BucketStart, String), BTreeMap<String, u64>>);

impl Folds {
    /// Adds an agreement.
    pub fn insert(&mut self, of: DimensionOfBucket, max_kept_hash: u64) {
        self.0.entry((of.bucket, of.dimension)).or_default().insert(of.site, max_kept_hash);
    }

    /// The agreements.
    pub fn iter(&self) -> impl Iterator<Item = (DimensionOfBucket, u64)> + '_ {
        self.0.iter().flat_map(|((bucket, dimension), sites)| {
            sites.iter().map(|(site, &hash)| {
                let of =
                    DimensionOfBucket { site: site.clone(), bucket: *bucket, dimension: dimension.clone() };
                (of, hash)
            })
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn of(&self, bucket: BucketStart, dimension: &str, site: &str) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(bucket, dimension.to_owned()))?.get(site).copied()
    }
}

/// Where shards have so many values that all of them together might be over the limit: how many, in how many shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DistinctCounts(BTreeMap<DimensionOfBucket, (u64, u32)>);

impl DistinctCounts {
    /// Adds one shard's count; or that of a part of history, which stands for no shard of its own.
    pub(crate) fn add(&mut self, of: DimensionOfBucket, values: u64, is_shard: bool) {
        let count = self.0.entry(of).or_default();
        *count = (count.0.saturating_add(values), count.1 + u32::from(is_shard));
    }

    /// Drops what is within `share`, after all of a node's history was counted.
    pub fn drop_within(&mut self, share: u32) {
        self.0.retain(|_, &mut (values, _)| values > u64::from(share));
    }

    /// Adds the counts of other shards.
    pub fn merge(&mut self, other: &Self) {
        for (of, &(values, shards)) in &other.0 {
            let mine = self.0.entry(of.clone()).or_default();
            *mine = (mine.0.saturating_add(values), mine.1 + shards);
        }
    }

    /// Per dimension an upper bound on the values that `shards` shards of a node have, of which those counted here are a
    /// part; the others have at most `share` each, and so has the node's history.
    pub fn bounds(&self, shards: u32, share: u32) -> impl Iterator<Item = (&DimensionOfBucket, u64)> {
        self.0.iter().map(move |(of, &(values, counted))| {
            let not_counted = u64::from(shards.saturating_sub(counted)) + 1;
            (of, values.saturating_add(not_counted * u64::from(share)))
        })
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
