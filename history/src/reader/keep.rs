//! Which rows of a segment count.
//!
//! Owns: what is kept, and how a segment is read so that exactly that comes out.
//! Does not own: why it is so (the node's shards know which of their buckets memory answers for).

use super::shards::ShardSet;
use std::collections::BTreeMap;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// Which rows count: those of some shards, but not where memory answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Rows of these shards
    pub shards: ShardSet,
    /// but not of these shards' buckets.
    pub whole: BTreeMap<BucketStart, ShardSet>,
}

/// What must be asked of each row, because a segment holds rows that count and rows that do not. A part of a cache's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Filter {
    /// The segment's shards that count.
    shards: ShardSet,
    /// Where some of them do not, ascending.
    whole: Vec<(BucketStart, ShardSet)>,
}

impl Filter {
    pub(super) fn keeps(&self, bucket: BucketStart, shard: ShardId) -> bool {
        let whole = self.whole.binary_search_by_key(&bucket, |(start, _)| *start).ok();
        self.shards.contains(shard) && !whole.is_some_and(|at| self.whole[at].1.contains(shard))
    }

    /// The shards that it lets through somewhere.
    pub(super) fn shards(&self) -> &ShardSet {
        &self.shards
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let whole =
            self.whole.iter().map(|(_, shards)| shards.heap_bytes() + size_of::<(BucketStart, ShardSet)>());
        self.shards.heap_bytes() + whole.sum::<usize>()
    }
}

/// What is kept of one segment.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    /// Asked of each row; none where all rows count but those of buckets that are left out.
    pub(super) filter: Option<Filter>,
    /// The segment's shards that count.
    shards: ShardSet,
    whole: Option<&'a BTreeMap<BucketStart, ShardSet>>,
}

impl<'a> Kept<'a> {
    /// What is kept of a segment of these shards between `from` and `to`; none where nothing is.
    ///
    /// Buckets that memory answers for with all shards that count are read with the others and left out afterwards: so what
    /// is read, and a cache holds, does not change while buckets come and go in memory.
    pub(super) fn of(
        shards: &ShardSet,
        keep: &'a Keep,
        (from, to): (BucketStart, BucketStart),
    ) -> Option<Self> {
        let mine = keep.shards.intersection(shards);
        if mine.is_empty() || from >= to {
            return None;
        }
        let partly = |whole: &ShardSet| !whole.is_disjoint(&mine) && !whole.is_superset(&mine);
        let whole: Vec<(BucketStart, ShardSet)> = keep
            .whole
            .range(from..to)
            .filter(|(_, whole)| partly(whole))
            .map(|(&start, whole)| (start, whole.intersection(&mine)))
            .collect();
        let filter = (mine != *shards || !whole.is_empty()).then(|| Filter { shards: mine.clone(), whole });
        Some(Self { filter, shards: mine, whole: Some(&keep.whole) })
    }

    /// The same of a segment of days, where memory answers for none of its buckets.
    pub(super) fn of_days(
        shards: &ShardSet,
        keep: &'a Keep,
        days: (BucketStart, BucketStart),
    ) -> Option<Self> {
        let kept = Self::of(shards, keep, days)?;
        debug_assert!(
            keep.whole.range(days.0..days.1).all(|(_, whole)| whole.is_disjoint(&kept.shards)),
            "rows of a day cannot be told apart by bucket, so none of them may be in memory"
        );
        let filter = kept.filter.map(|filter| Filter { whole: Vec::new(), ..filter });
        let filter = filter.filter(|filter| filter.shards != *shards);
        Some(Self { filter, shards: kept.shards, whole: None })
    }

    /// Whether memory answers for all of a bucket that counts.
    pub(super) fn leaves_out(&self, bucket: BucketStart) -> bool {
        let whole = self.whole.and_then(|whole| whole.get(&bucket));
        whole.is_some_and(|whole| whole.is_superset(&self.shards))
    }
}
