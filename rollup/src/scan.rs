//! From rollups to a partial.
//!
//! Owns: which buckets count in which step of the answer, and in how many passes a shard is scanned.
//! Does not own: which buckets there are (`shard`), which row belongs where (`scan::rows`), merging (`partial`).
//!
//! A question for the first rows of groups that stay in one shard is answered in two passes: [`scan_order`] finds the
//! measure that orders them, for all rows; merged over any number of shards and cut ([`winners`]) it tells which rows stay,
//! and [`scan_winners`] reads the other measures for those alone. So may any other by who has all shards; otherwise it takes one pass, [`scan_all`].

mod rank;
mod rows;

use crate::active::first_slice;
use crate::bucket::{Bucket, Origin};
use crate::census::Census;
pub use crate::folds::{DimensionOfBucket, DistinctCounts, Folds};
use crate::lanes::spread_urls;
use crate::measure::MeasureColumn;
use crate::measure::unique::Waiting;
use crate::partial::{Partial, PartialFacts};
use crate::query::{Field, Query, QueryColumn, SiteSelection};
use crate::schema::Source;
use crate::table::SiteTable;
use crate::time::{BucketStart, EventTime};
pub use rank::urls_alone;
use rows::{Masks, TableScan};
use std::sync::Arc;

/// What a scan needs beside the query.
#[derive(Clone, Debug, Default)]
pub struct ScanContext {
    /// What all shards agreed on.
    pub folds: Folds,
    /// Sets with more values than this are counted: the limit divided by twice the number of shards, so that the shards of
    /// a node and its history may have that much each.
    pub share: u32,
}

/// What a scan finds.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The rows.
    pub partial: Partial,
    /// Where the limit on values might matter.
    pub distinct: DistinctCounts,
}

impl Scanned {
    /// Nothing, in answer to `query`.
    pub fn new(query: &Query) -> Self {
        Self { partial: Partial::new(query), distinct: DistinctCounts::default() }
    }

    /// Nothing, in answer to [`scan_order`].
    pub fn new_order(query: &Query) -> Self {
        let source = &query.columns[order_column(query)].source;
        let partial = Partial::with_columns(query, vec![MeasureColumn::new(source)]);
        Self { partial, distinct: DistinctCounts::default() }
    }

    /// Adds what another scan of the same kind found.
    pub fn merge(&mut self, other: &Self) {
        self.merge_all(std::slice::from_ref(other));
    }

    /// Adds what other scans of the same kind found, see [`Partial::merge_all`].
    pub fn merge_all(&mut self, others: &[Self]) {
        self.partial.merge_all(others.iter().map(|other| &other.partial));
        others.iter().for_each(|other| self.distinct.merge(&other.distinct));
    }
}

/// Answers `query` from these buckets, each shard's in any order, as a node does from its shards.
pub fn scan<'a>(
    shards: impl IntoIterator<Item = &'a [Arc<Bucket>]> + Clone,
    query: &Query,
    context: &ScanContext,
) -> Scanned {
    if !query.groups_stay_in_one_shard() {
        let mut all = Scanned::new(query);
        shards.into_iter().for_each(|buckets| all.merge(&scan_all(&refs(buckets), query, context)));
        return all;
    }
    let mut order = Scanned::new_order(query);
    for buckets in shards.clone() {
        order.merge(&scan_order(&refs(buckets), None, query, context));
    }
    let (mut winners, facts, distinct) = winners(order, query);
    if query.is_answered_by_its_order() {
        winners.facts = facts;
        return Scanned { partial: winners, distinct };
    }
    let mut partial = Partial::new(query);
    shards
        .into_iter()
        .for_each(|buckets| partial.merge(&scan_winners(&refs(buckets), &winners, query, context)));
    partial.facts = facts;
    Scanned { partial, distinct }
}

fn refs(buckets: &[Arc<Bucket>]) -> Vec<&Bucket> {
    buckets.iter().map(Arc::as_ref).collect()
}

/// All rows and measures of some of a shard's buckets.
pub fn scan_all(buckets: &[&Bucket], query: &Query, context: &ScanContext) -> Scanned {
    scan_parts(buckets, query, context, |_| true)
}

/// As [`scan_all`], but without `active`, which changes as time goes by.
pub fn scan_lasting(buckets: &[&Bucket], query: &Query, context: &ScanContext) -> Scanned {
    scan_parts(buckets, query, context, |period| period != Period::Active)
}

/// What [`scan_lasting`] leaves out.
pub fn scan_active(buckets: &[&Bucket], query: &Query, context: &ScanContext) -> Scanned {
    scan_parts(buckets, query, context, |period| period == Period::Active)
}

fn scan_parts(
    buckets: &[&Bucket],
    query: &Query,
    context: &ScanContext,
    is_wanted: impl Fn(Period) -> bool,
) -> Scanned {
    let mut scanned = Scanned::new(query);
    let mut waiting = Vec::new();
    for part in parts_of(buckets, query).into_iter().filter(|part| is_wanted(part.period)) {
        scan_part(&part, query, &query_columns(query), context, &mut scanned.partial, &mut waiting);
        note_facts(&part, query, context, &mut scanned);
    }
    finish(&mut scanned.partial, waiting);
    scanned
}

/// Whether a dimension of the query has so many values in one of a shard's buckets that the limit might matter.
pub fn is_near_limit(buckets: &[&Bucket], query: &Query, context: &ScanContext) -> bool {
    let is_near = |bucket: &Bucket, table: &SiteTable, name: &str| {
        let values = bucket.schema.dimension_index(name).map(|dimension| &table.values[dimension]);
        values.is_some_and(|values| values.len() > u64::from(context.share) || values.has_others())
    };
    let dimensions = query.dimensions();
    buckets.iter().any(|bucket| {
        let sites = selected_sites(bucket, query);
        sites.iter().any(|(_, table)| dimensions.iter().any(|name| is_near(bucket, table, name)))
    })
}

/// All rows of some of a shard's buckets with the measure that orders them. Nothing is dropped: what these buckets have
/// little of may be among the first in all of them together.
pub fn scan_order_uncut(buckets: &[&Bucket], query: &Query, context: &ScanContext) -> Scanned {
    let mut scanned = Scanned::new_order(query);
    order_parts(&parts_of(buckets, query), query, context, &mut scanned);
    scanned
}

/// What [`scan_order_uncut`] tells of some of a shard's buckets beside rows.
pub fn scan_facts(buckets: &[&Bucket], query: &Query, context: &ScanContext) -> Scanned {
    let mut scanned = Scanned::new_order(query);
    parts_of(buckets, query).iter().for_each(|part| note_facts(part, query, context, &mut scanned));
    scanned
}

/// The first rows of each step, over all buckets of a shard, with the measure that orders them: `buckets`, and those
/// that [`scan_order_uncut`] has seen already.
pub fn scan_order(
    buckets: &[&Bucket],
    seen: Option<Scanned>,
    query: &Query,
    context: &ScanContext,
) -> Scanned {
    if let Some(site) = rank::site_of(query) {
        return rank::scan_order(buckets, seen.as_ref(), site, query, context);
    }
    let ordering = ordering(query);
    let mut scanned = seen.unwrap_or_else(|| Scanned::new_order(query));
    let seen_steps = scanned.partial.steps();
    let mut parts = parts_of(buckets, query);
    parts.sort_by_key(|part| part.step);
    // Step by step: no more rows are held at a time than one step has.
    for step in parts.chunk_by(|a, b| a.step == b.step) {
        let mut found = Scanned::new_order(query);
        order_parts(step, query, context, &mut found);
        if !seen_steps.contains(&step[0].step) {
            found.partial.keep_first(&ordering);
        }
        scanned.merge(&found);
    }
    scanned.partial.keep_first(&ordering);
    scanned
}

/// The rows that stay, after [`scan_order`] over all shards; and what that found beside rows.
pub fn winners(mut order: Scanned, query: &Query) -> (Partial, PartialFacts, DistinctCounts) {
    order.partial.keep_first(&ordering(query));
    let facts = std::mem::take(&mut order.partial.facts);
    (order.partial, facts, order.distinct)
}

/// All measures of the rows that stay, from some of a shard's buckets; without facts.
pub fn scan_winners(buckets: &[&Bucket], winners: &Partial, query: &Query, context: &ScanContext) -> Partial {
    let mut partial = winners.clone().closed_with(query.empty_columns());
    let mut waiting = Vec::new();
    for part in parts_of(buckets, query) {
        scan_part(&part, query, &query_columns(query), context, &mut partial, &mut waiting);
    }
    finish(&mut partial, waiting);
    partial
}

fn order_parts(parts: &[Part<'_>], query: &Query, context: &ScanContext, scanned: &mut Scanned) {
    let order = [(&query.columns[order_column(query)], 0)];
    let mut waiting = Vec::new();
    for part in parts {
        // Then does not order now, but its rows are there.
        let columns = if part.period == Period::Then { &[][..] } else { &order[..] };
        scan_part(part, query, columns, context, &mut scanned.partial, &mut waiting);
        note_facts(part, query, context, scanned);
    }
    finish(&mut scanned.partial, waiting);
}

fn order_column(query: &Query) -> usize {
    query.measures[query.order_by].column
}

/// The query reduced to the measure that orders its rows.
fn ordering(query: &Query) -> Query {
    let mut measure = query.measures[query.order_by].clone();
    let columns = vec![query.columns[measure.column].clone()];
    measure.column = 0;
    Query { measures: vec![measure], columns, order_by: 0, ..query.clone() }
}

/// The measures to merge, each with its column of the partial.
fn query_columns(query: &Query) -> Vec<(&QueryColumn, usize)> {
    query.columns.iter().enumerate().map(|(column, of)| (of, column)).collect()
}

/// A bucket in its place in the answer.
struct Part<'a> {
    bucket: &'a Bucket,
    /// Start of the step, seconds since the Unix epoch.
    step: u32,
    period: Period,
    /// The bucket has an earlier part as well, which tells what is known of it beside the rows.
    is_told: bool,
}

/// What of an answer a part feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Period {
    /// The range: all measures but `active`.
    Now,
    /// The range to compare with: the same for then.
    Then,
    /// The last five minutes, whatever the range: `active`.
    Active,
}

impl Part<'_> {
    /// Whether the part has something for this column.
    fn feeds(&self, column: &QueryColumn) -> bool {
        (self.period == Period::Active) == (column.source == Source::Active)
    }

    /// Whether it has all rows of a site's table, and they all go to one row of the answer.
    fn is_whole(&self, query: &Query) -> bool {
        self.period != Period::Active && query.is_of_whole_sites()
    }

    /// Which rows of a site's table the part has something of; empty where it is all of them. Who was there and is no longer
    /// active makes no row of the answer.
    fn mask(&self, table: &SiteTable, query: &Query) -> Vec<bool> {
        match self.period {
            Period::Now | Period::Then => Vec::new(),
            Period::Active => {
                table.active.active_rows(first_slice(self.bucket.start(), query.as_of), table.len())
            }
        }
    }
}

fn parts_of<'a>(buckets: &[&'a Bucket], query: &Query) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    let (versus, active_from) = (query.versus.zip(query.versus_range()), query.active_from());
    for &bucket in buckets {
        let (start, already) = (bucket.start().time(), parts.len());
        if (query.from..query.to).contains(&start) {
            parts.push(Part { bucket, step: query.step_of(start), period: Period::Now, is_told: false });
        }
        if let Some((offset, (from, to))) = versus
            && (from..to).contains(&start)
        {
            let step = query.step_of(start.plus(offset));
            parts.push(Part { bucket, step, period: Period::Then, is_told: false });
        }
        // Segments do not know slices. A bucket where nobody is active matters to the limit on values.
        let is_segment = matches!(bucket.origin, Origin::Segment | Origin::Day);
        if !is_segment && active_from.is_some_and(|from| bucket.start() >= from) {
            let is_told = parts.len() > already;
            parts.push(Part { bucket, step: query.step_of(start), period: Period::Active, is_told });
        }
    }
    parts
}

/// The moments between which a query needs buckets, of memory and of history: the range, and what there is to compare with it.
pub fn ranges_of(query: &Query) -> impl Iterator<Item = (EventTime, EventTime)> {
    [(query.from, query.to)].into_iter().chain(query.versus_range())
}

/// What a query reads of a bucket, shared: who counts meanwhile copies nothing of it that is not read. The bucket itself where all
/// sites are asked for.
pub fn shown(bucket: &Arc<Bucket>, query: &Query) -> Arc<Bucket> {
    match &query.site {
        SiteSelection::One(site) => Arc::new(bucket.shown(site, &query.dimensions())),
        SiteSelection::All => Arc::clone(bucket),
    }
}

/// Whether a query needs this bucket, where it is in memory: for its ranges, or for who is active.
pub fn needs(query: &Query, start: BucketStart) -> bool {
    ranges_of(query).any(|(from, to)| (from..to).contains(&start.time()))
        || query.active_from().is_some_and(|from| start >= from)
}

/// The values that one shard's buckets have, for each of these dimensions.
pub fn take_census(buckets: &[Arc<Bucket>], of: &[DimensionOfBucket]) -> Vec<Census> {
    let census = |bucket: &Arc<Bucket>, of: &DimensionOfBucket| {
        let site = bucket.site_names.find(&of.site)?;
        let dimension = bucket.schema.dimension_index(&of.dimension)?;
        let dictionary = &bucket.dictionaries[dimension];
        Some(bucket.sites[site as usize].values[dimension].census(|id| dictionary.hash_of(id)))
    };
    of.iter()
        .map(|of| {
            let mut all = Census::default();
            let parts = buckets.iter().filter(|bucket| bucket.start() == of.bucket);
            parts.filter_map(|bucket| census(bucket, of)).for_each(|part| all.merge(&part, u32::MAX));
            all
        })
        .collect()
}

fn selected_sites<'a>(bucket: &'a Bucket, query: &Query) -> Vec<(&'a str, &'a SiteTable)> {
    let passes = |name: &str| {
        let mut filters = query.filters.iter().filter(|filter| filter.field == Field::Site);
        filters.all(|filter| filter.test.passes(name))
    };
    let ids: Vec<u32> = match &query.site {
        SiteSelection::One(site) => bucket.site_names.find(site).into_iter().collect(),
        SiteSelection::All => (0..bucket.site_names.len() as u32).collect(),
    };
    let sites = ids.into_iter().map(|id| (bucket.site_names.get(id), &*bucket.sites[id as usize]));
    sites.filter(|(name, _)| passes(name)).collect()
}

fn note_facts(part: &Part<'_>, query: &Query, context: &ScanContext, scanned: &mut Scanned) {
    if part.is_told || part.bucket.origin == Origin::Urls {
        return;
    }
    let bucket = part.bucket;
    let sites = selected_sites(bucket, query);
    let facts = &mut scanned.partial.facts;
    match bucket.origin {
        Origin::Memory => facts.rollups_from_memory += u64::from(!sites.is_empty()),
        Origin::Segment | Origin::Day => facts.rollups_from_history += u64::from(!sites.is_empty()),
        // The bucket itself was, or is, read for that.
        Origin::Delta | Origin::Urls => {}
    }
    for (site, table) in sites {
        scanned.partial.facts.rows_scanned += match part.is_whole(query) {
            true => table.rows_to_read(),
            false => table.len() as u64,
        };
        for name in query.dimensions() {
            let Some(dimension) = bucket.schema.dimension_index(name) else { continue };
            let values = &table.values[dimension];
            let of = || DimensionOfBucket {
                site: site.to_owned(),
                bucket: bucket.start(),
                dimension: name.to_owned(),
            };
            match bucket.origin {
                Origin::Memory if values.len() > u64::from(context.share) => {
                    scanned.distinct.add(of(), values.len(), true);
                }
                // Several parts may hold values of one dimension, so only their sum tells.
                Origin::Segment if values.len() > 0 => scanned.distinct.add(of(), values.len(), false),
                Origin::Memory | Origin::Delta | Origin::Segment | Origin::Day | Origin::Urls => {}
            }
            if values.max_kept_hash().is_some()
                || values.has_others()
                || bucket.agreed_cut(name, site, &context.folds).is_some()
            {
                scanned.partial.facts.capped.insert(name.to_owned());
            }
        }
        let facts = &mut scanned.partial.facts;
        if part.period != Period::Then {
            facts.newest_event_ms = facts.newest_event_ms.max(table.facts.newest_event_ms);
        }
        if part.period == Period::Now {
            facts.late += table.facts.late;
            facts.rejected += table.facts.rejected_total();
        }
    }
}

fn scan_part(
    part: &Part<'_>,
    query: &Query,
    columns: &[(&QueryColumn, usize)],
    context: &ScanContext,
    out: &mut Partial,
    waiting: &mut Vec<Waiting>,
) {
    waiting.resize_with(out.measures.len(), Waiting::default);
    let offset = if part.period == Period::Then { query.columns.len() } else { 0 };
    for (site, table) in selected_sites(part.bucket, query) {
        let scan = TableScan::new(part.bucket, site, table, query, context);
        if query.groups_stay_in_one_shard() {
            out.spread.extend(spread_urls(&table.urls).map(str::to_owned));
        }
        let rows = if part.is_whole(query) {
            match table.len() {
                0 => continue,
                _ => Rows::InOne(scan.out_row(part.step, 0, &[], out)),
            }
        } else {
            let masks = Masks { urls: scan.url_mask(Some(out)), rows: part.mask(table, query) };
            Rows::Each(scan.rows(&masks, |url, ids| scan.out_row(part.step, url, ids, out)))
        };
        out.fit_measures();
        for &(measure, column) in columns.iter().filter(|(measure, _)| part.feeds(measure)) {
            let to = column + offset;
            merge_column(part, table, measure, query, &rows, (&mut out.measures[to], &mut waiting[to]));
        }
    }
}

/// Where rows of a table go in the answer.
enum Rows {
    /// Each to one of its own, or [`NOWHERE`](crate::measure::NOWHERE).
    Each(Vec<u32>),
    /// All to this one.
    InOne(u32),
}

/// Adds what waits for the columns of a scan, when it is through.
fn finish(partial: &mut Partial, mut waiting: Vec<Waiting>) {
    partial.measures.iter_mut().zip(&mut waiting).for_each(|(column, waiting)| column.finish(waiting));
}

/// Merges a column of a site's table into one of the answer.
fn merge_column(
    part: &Part<'_>,
    table: &SiteTable,
    measure: &QueryColumn,
    query: &Query,
    rows: &Rows,
    (out, waiting): (&mut MeasureColumn, &mut Waiting),
) {
    if part.period == Period::Active {
        if let (Rows::Each(rows), MeasureColumn::Uniques(sets)) = (rows, out) {
            table.active.merge_into(first_slice(part.bucket.start(), query.as_of), rows, sets);
        }
        return;
    }
    // A rollup from before the schema had this measure reads as empty.
    let Some(index) = part.bucket.schema.measure_index(&measure.name) else { return };
    match rows {
        Rows::Each(rows) => out.merge_rows_waiting(&table.measures[index], rows, waiting),
        &Rows::InOne(row) => out.merge_into_one(&table.all_measures()[index], row, waiting),
    }
}
