//! Rows as row groups hold them.
//!
//! Owns: laying rollups out for a day's segments, and splitting rows into row groups.
//! Does not own: the rows' order and merging (`tidemark_rollup::rows`), the file (`segment`).
//!
//! Invariant: the parts of a split hold every row and every fact once, in their order.

use super::load::{Facts, Loaded};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::rows::{FactsRow, RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::BucketStart;

/// Five-minute rows: keys of several commits are one row each.
pub(crate) fn five_minutes(schema: &Arc<Schema>, loaded: &Loaded, shard: ShardId) -> SegmentRows {
    let parts: Vec<RollupPart<'_>> = parts(&loaded.buckets, shard, None).collect();
    let mut rows = SegmentRows::of(schema, &parts, &Folds::default());
    set_facts(&mut rows, &loaded.facts);
    rows
}

/// Rows of a day: values beyond the cuts are `(other)`; what was a day's row before is cut no more.
pub(crate) fn days(
    schema: &Arc<Schema>,
    loaded: &Loaded,
    folds: &Folds,
    (first, shard, shards): (BucketStart, ShardId, ShardCount),
) -> SegmentRows {
    let parts_now: Vec<RollupPart<'_>> = parts(&loaded.buckets, shard, Some(first)).collect();
    let mut rows = SegmentRows::of(schema, &parts_now, folds);
    if !loaded.days.is_empty() {
        let new = rows.to_buckets(shards, None, None).into_iter().map(Arc::new);
        let all: Vec<Arc<Bucket>> = new.chain(loaded.days.iter().cloned()).collect();
        let all: Vec<RollupPart<'_>> = parts(&all, shard, Some(first)).collect();
        rows = SegmentRows::of(schema, &all, &Folds::default());
    }
    let mut facts = Facts::new();
    for ((site, ..), of_bucket) in loaded.facts.iter().chain(&loaded.day_facts) {
        facts.entry((site.clone(), first, shard)).or_default().merge(of_bucket);
    }
    set_facts(&mut rows, &facts);
    rows
}

fn parts(
    buckets: &[Arc<Bucket>],
    shard: ShardId,
    start: Option<BucketStart>,
) -> impl Iterator<Item = RollupPart<'_>> {
    buckets.iter().map(move |bucket| RollupPart { shard, bucket, start: start.unwrap_or(bucket.start()) })
}

/// Puts facts in the place of those that laying out made. Their sites are there: rollups name them too.
fn set_facts(rows: &mut SegmentRows, facts: &Facts) {
    let position = |site: &String| rows.sites.binary_search(site).ok().map(|at| at as u32);
    let row = |(key, facts): (&(String, BucketStart, ShardId), _)| {
        let site = position(&key.0)?;
        Some(FactsRow { site, bucket: key.1, shard: key.2, facts: Clone::clone(facts) })
    };
    rows.facts = facts.iter().filter_map(row).collect();
}

/// Rows and facts of one site.
pub(crate) fn of_site(rows: &SegmentRows, site: &str) -> SegmentRows {
    let Ok(at) = rows.sites.binary_search_by(|known| known.as_str().cmp(site)) else {
        return SegmentRows::new(Arc::clone(&rows.schema));
    };
    let at = at as u32;
    let of = rows.site.partition_point(|&site| site < at)..rows.site.partition_point(|&site| site <= at);
    let first = rows.facts.partition_point(|facts| facts.site < at);
    let facts = first..rows.facts.partition_point(|facts| facts.site <= at);
    part_of(rows, &Cut { facts, rows: of })
}

/// A part of rows, as positions of facts and of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    facts: Range<usize>,
    rows: Range<usize>,
}

/// Parts of `max` rows and facts at most. Rows of one URL stay together, unless they are more.
pub(crate) fn cuts(rows: &SegmentRows, max: usize) -> Vec<Cut> {
    let max = max.max(1);
    let mut cutter = Cutter { max, facts: 0..0, rows: 0..0, cuts: Vec::new() };
    let (mut fact, mut row) = (0, 0);
    for site in 0..rows.sites.len() as u32 {
        while rows.facts.get(fact).is_some_and(|facts| facts.site == site) {
            cutter.make_room(1);
            (fact, cutter.facts.end) = (fact + 1, fact + 1);
        }
        while rows.site.get(row) == Some(&site) {
            let url = rows.url[row];
            let run = rows.url[row..].iter().zip(&rows.site[row..]);
            let run = run.take_while(|&(&of, &of_site)| of == url && of_site == site).count();
            cutter.make_room(run);
            for len in (0..run).step_by(max).map(|at| max.min(run - at)) {
                cutter.make_room(len);
                row += len;
                cutter.rows.end = row;
            }
        }
    }
    cutter.close();
    cutter.cuts
}

struct Cutter {
    max: usize,
    facts: Range<usize>,
    rows: Range<usize>,
    cuts: Vec<Cut>,
}

impl Cutter {
    fn make_room(&mut self, len: usize) {
        if self.facts.len() + self.rows.len() + len > self.max {
            self.close();
        }
    }

    fn close(&mut self) {
        let (facts, rows) = (self.facts.clone(), self.rows.clone());
        if !facts.is_empty() || !rows.is_empty() {
            (self.facts, self.rows) = (facts.end..facts.end, rows.end..rows.end);
            self.cuts.push(Cut { facts, rows });
        }
    }
}

/// A part of rows, with dictionaries of what it has.
pub(crate) fn part_of(rows: &SegmentRows, cut: &Cut) -> SegmentRows {
    let (of, facts) = (cut.rows.clone(), &rows.facts[cut.facts.clone()]);
    let mut part = SegmentRows::new(Arc::clone(&rows.schema));
    let site_ids = rows.site[of.clone()].iter().copied().chain(facts.iter().map(|facts| facts.site));
    let (sites, site_at) = dictionary(site_ids, &rows.sites);
    let (urls, url_at) = dictionary(rows.url[of.clone()].iter().copied(), &rows.urls);
    part.site = rows.site[of.clone()].iter().map(|id| site_at[id]).collect();
    part.url = rows.url[of.clone()].iter().map(|id| url_at[id]).collect();
    (part.sites, part.urls) = (sites, urls);
    part.bucket = rows.bucket[of.clone()].to_vec();
    for (at, column) in rows.dimensions.iter().enumerate() {
        // The empty value is always the first.
        let ids = std::iter::once(0).chain(column[of.clone()].iter().copied());
        let (values, value_at) = dictionary(ids, &rows.values[at]);
        part.dimensions[at] = column[of.clone()].iter().map(|id| value_at[id]).collect();
        part.values[at] = values;
    }
    part.measures = rows.measures.iter().map(|column| part_of_column(column, of.clone())).collect();
    let moved = |row: &FactsRow| FactsRow { site: site_at[&row.site], ..row.clone() };
    part.facts = facts.iter().map(moved).collect();
    part
}

/// The texts of these ids, ascending, and the position of each.
fn dictionary(ids: impl Iterator<Item = u32>, texts: &[String]) -> (Vec<String>, BTreeMap<u32, u32>) {
    let mut at: BTreeMap<u32, u32> = ids.map(|id| (id, 0)).collect();
    at.values_mut().zip(0..).for_each(|(position, next)| *position = next);
    (at.keys().map(|&id| texts[id as usize].clone()).collect(), at)
}

fn part_of_column(column: &MeasureColumn, of: Range<usize>) -> MeasureColumn {
    // Rows beyond the end of a column are empty.
    fn slice<T: Clone>(values: &[T], of: Range<usize>) -> Vec<T> {
        values[of.start.min(values.len())..of.end.min(values.len())].to_vec()
    }
    match column {
        MeasureColumn::Integers(values) => MeasureColumn::Integers(slice(values, of)),
        MeasureColumn::Uniques(values) => MeasureColumn::Uniques(slice(values, of)),
        MeasureColumn::Distributions(values) => MeasureColumn::Distributions(slice(values, of)),
    }
}
