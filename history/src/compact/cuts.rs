//! The limit on values, agreed on over all rollups of a bucket.
//!
//! Owns: finding where the limit might matter, and the cut there.
//! Does not own: what a cut does (`tidemark_rollup::rows`), agreeing between nodes (`tidemark-coordinator`).
//!
//! Invariant: the cut is the one that coordinators agree on: a function of the set of values alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::census::Census;
use tidemark_rollup::scan::{DimensionOfBucket, Folds, take_census};
use tidemark_rollup::time::BucketStart;

/// Where these rollups together might have more than `over` values.
pub(crate) fn suspects(buckets: &[Arc<Bucket>], over: u64) -> BTreeSet<DimensionOfBucket> {
    let mut counts: HashMap<(BucketStart, &str, &str), u64> = HashMap::new();
    for bucket in buckets {
        for site in bucket.sites() {
            for dimension in bucket.dimensions() {
                let values = bucket.value_count(site, dimension);
                if values > 0 {
                    *counts.entry((bucket.start(), site, dimension)).or_default() += values;
                }
            }
        }
    }
    let many = counts.into_iter().filter(|&(_, values)| values > over);
    many.map(|((bucket, site, dimension), _)| DimensionOfBucket {
        site: site.to_owned(),
        bucket,
        dimension: dimension.to_owned(),
    })
    .collect()
}

/// Censuses of some dimensions, over as many rollups as there are.
pub(crate) struct Cuts {
    of: Vec<DimensionOfBucket>,
    censuses: Vec<Census>,
    limit: u32,
}

impl Cuts {
    pub(crate) fn new(of: Vec<DimensionOfBucket>, limit: u32) -> Self {
        Self { censuses: vec![Census::default(); of.len()], of, limit }
    }

    pub(crate) fn add(&mut self, buckets: &[Arc<Bucket>]) {
        let mut by_start: HashMap<BucketStart, Vec<Arc<Bucket>>> = HashMap::new();
        for bucket in buckets {
            by_start.entry(bucket.start()).or_default().push(Arc::clone(bucket));
        }
        for (of, census) in self.of.iter().zip(&mut self.censuses) {
            let Some(parts) = by_start.get(&of.bucket) else { continue };
            for found in take_census(parts, std::slice::from_ref(of)) {
                census.merge(&found, self.limit);
            }
        }
    }

    pub(crate) fn finish(self, folds: &mut Folds) {
        for (of, census) in self.of.into_iter().zip(self.censuses) {
            if let Some(cut) = census.max_kept_hash(self.limit) {
                folds.insert(of, cut);
            }
        }
    }
}

/// All cuts, where these are all rollups that there are.
pub(crate) fn folds_of(buckets: &[Arc<Bucket>], limit: u32) -> Folds {
    let mut folds = Folds::default();
    let mut cuts = Cuts::new(suspects(buckets, u64::from(limit)).into_iter().collect(), limit);
    cuts.add(buckets);
    cuts.finish(&mut folds);
    folds
}
