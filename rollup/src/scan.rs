//! From rollups to a partial.
//!
//! Owns: filters, groups and steps over the rows of a shard's buckets; agreeing on values beyond the limit.
//! Does not own: which buckets there are (`shard`), merging partials of shards (`partial`).
//!
//! A filter or group looks at each distinct URL and tuple once, not at each row: a row only looks up what became of its
//! two ids.

use crate::bucket::Bucket;
use crate::census::{Census, OTHER_ID, UNSET_ID};
use crate::dictionary::{hash_text, mix};
use crate::measure::{MeasureColumn, NOWHERE};
use crate::partial::{Partial, PartialFacts};
use crate::query::{Field, Query, QueryColumn, SiteSelection, Test};
use crate::table::SiteTable;
use crate::time::{BucketStart, EventTime};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

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

    fn of(&self, bucket: BucketStart, dimension: &str, site: &str) -> Option<u64> {
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
    /// Adds the counts of other shards.
    pub fn merge(&mut self, other: &Self) {
        for (of, &(values, shards)) in &other.0 {
            let mine = self.0.entry(of.clone()).or_default();
            *mine = (mine.0.saturating_add(values), mine.1 + shards);
        }
    }

    /// Per dimension an upper bound on the values that `shards` shards have, of which those counted here are a part; the
    /// others have at most `share` each.
    pub fn bounds(&self, shards: u32, share: u32) -> impl Iterator<Item = (&DimensionOfBucket, u64)> {
        self.0.iter().map(move |(of, &(values, counted))| {
            (of, values.saturating_add(u64::from(shards.saturating_sub(counted)) * u64::from(share)))
        })
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a scan needs beside the query.
#[derive(Clone, Debug, Default)]
pub struct ScanContext {
    /// What all shards agreed on.
    pub folds: Folds,
    /// Sets with more values than this are counted: the limit divided by the number of shards.
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

/// Answers `query` from all its buckets of one shard, given in any order.
///
/// Where groups stay in one shard, keeps only the first rows of each step. Their order is found first, so that sketches
/// are merged only for the rows that stay.
pub fn scan(buckets: &[Arc<Bucket>], query: &Query, context: &ScanContext, steps: &Steps) -> Scanned {
    let buckets: Vec<&Bucket> = buckets.iter().map(Arc::as_ref).collect();
    if !query.groups_stay_in_one_shard() {
        return scan_pass(&buckets, query, context, steps, Pass::Everything);
    }
    let mut parts = parts_of(&buckets, query, steps);
    parts.sort_by_key(|part| part.step);
    let mut scanned = Scanned { partial: Partial::new(query), distinct: DistinctCounts::default() };
    for step in parts.chunk_by(|a, b| a.step == b.step) {
        let order = scan_parts(step, query, context, Pass::OrderOnly);
        let (winners, facts, distinct) = winners(order, query);
        let mut rows = match query.columns.len() == 1 && query.versus.is_none() {
            // The measure that orders the rows is all there is to them.
            true => winners,
            false => scan_parts(step, query, context, Pass::Winners(&winners)).partial,
        };
        rows.facts = facts;
        scanned.partial.merge(&rows);
        scanned.distinct.merge(&distinct);
    }
    scanned
}

/// Which steps of the answer a scan is for.
#[derive(Clone, Debug)]
pub enum Steps {
    /// All of them.
    All,
    /// Those that start at these seconds since the Unix epoch.
    Only(Vec<u32>),
    /// All but those.
    AllBut(Vec<u32>),
}

impl Steps {
    fn contains(&self, step: u32) -> bool {
        match self {
            Self::All => true,
            Self::Only(steps) => steps.contains(&step),
            Self::AllBut(steps) => !steps.contains(&step),
        }
    }
}

/// What a scan looks for. The two last ones together do what the first one does, for the first rows only.
#[derive(Clone, Copy, Debug)]
pub enum Pass<'a> {
    /// All rows, all measures, and the facts.
    Everything,
    /// All rows, only the measure that orders them, and the facts.
    OrderOnly,
    /// These rows, all measures, no facts.
    Winners(&'a Partial),
}

/// Makes one pass over some of a shard's buckets and drops nothing: what a part of the buckets has little of may be first
/// in all of them together.
pub fn scan_pass(
    buckets: &[&Bucket],
    query: &Query,
    context: &ScanContext,
    steps: &Steps,
    pass: Pass<'_>,
) -> Scanned {
    scan_parts(&parts_of(buckets, query, steps), query, context, pass)
}

/// The first rows of each step, from [`Pass::OrderOnly`] over all buckets of those steps; with the measure that orders them,
/// and the facts aside.
pub fn winners(order: Scanned, query: &Query) -> (Partial, PartialFacts, DistinctCounts) {
    let mut partial = order.partial;
    partial.keep_first(&ordering(query));
    let facts = std::mem::take(&mut partial.facts);
    (partial, facts, order.distinct)
}

/// An empty piece of the answer to the question of [`Pass::OrderOnly`].
pub fn empty_order(query: &Query) -> Partial {
    Partial::with_columns(query, vec![MeasureColumn::new(&query.columns[order_column(query)].source)])
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

fn scan_parts(parts: &[Part<'_>], query: &Query, context: &ScanContext, pass: Pass<'_>) -> Scanned {
    let partial = match pass {
        Pass::Everything => Partial::new(query),
        Pass::OrderOnly => empty_order(query),
        Pass::Winners(winners) => winners.clone().closed_with(query.empty_columns()),
    };
    let mut scanned = Scanned { partial, distinct: DistinctCounts::default() };
    let all = query_columns(query);
    let order_only = [(&query.columns[order_column(query)], 0)];
    for part in parts {
        match pass {
            Pass::Everything | Pass::Winners(_) => {
                scan_part(part, query, &all, context, &mut scanned.partial)
            }
            // Then does not order now, but its rows are there.
            Pass::OrderOnly if part.versus => scan_part(part, query, &[], context, &mut scanned.partial),
            Pass::OrderOnly => scan_part(part, query, &order_only, context, &mut scanned.partial),
        }
        if !matches!(pass, Pass::Winners(_)) {
            note_facts(part, query, context, &mut scanned);
        }
    }
    scanned
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
    /// Whether it is part of the range to compare with.
    versus: bool,
}

fn parts_of<'a>(buckets: &[&'a Bucket], query: &Query, steps: &Steps) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    for &bucket in buckets {
        let start = bucket.start().time();
        let mut place = |offset: Duration, versus| {
            let shown_at = start.plus(offset);
            let step = query.step_of(shown_at);
            if (query.from..query.to).contains(&shown_at) && steps.contains(step) {
                parts.push(Part { bucket, step, versus });
            }
        };
        place(Duration::ZERO, false);
        if let Some(offset) = query.versus {
            place(offset, true);
        }
    }
    parts
}

/// The moments between which a query needs a shard's buckets: the range, and the one to compare with.
pub fn ranges_of(query: &Query) -> impl Iterator<Item = (EventTime, EventTime)> {
    let versus = query.versus.map(|offset| (query.from.minus(offset), query.to.minus(offset)));
    [(query.from, query.to)].into_iter().chain(versus)
}

/// Whether a query needs this bucket.
pub fn needs(query: &Query, start: BucketStart) -> bool {
    ranges_of(query).any(|(from, to)| (from..to).contains(&start.time()))
}

/// The values that one shard's buckets have, for each of these dimensions.
pub fn take_census(buckets: &[Arc<Bucket>], of: &[DimensionOfBucket]) -> Vec<Census> {
    of.iter()
        .map(|of| {
            let bucket = buckets.iter().find(|bucket| bucket.start() == of.bucket)?;
            let site = bucket.site_names.find(&of.site)?;
            let dimension = bucket.schema.dimension_index(&of.dimension)?;
            let dictionary = &bucket.dictionaries[dimension];
            Some(bucket.sites[site as usize].values[dimension].census(|id| dictionary.hash_of(id)))
        })
        .map(Option::unwrap_or_default)
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
    let sites = ids.into_iter().map(|id| (bucket.site_names.get(id), &bucket.sites[id as usize]));
    sites.filter(|(name, _)| passes(name)).collect()
}

fn note_facts(part: &Part<'_>, query: &Query, context: &ScanContext, scanned: &mut Scanned) {
    let bucket = part.bucket;
    let sites = selected_sites(bucket, query);
    scanned.partial.facts.rollups_from_memory += u64::from(!sites.is_empty());
    for (site, table) in sites {
        for name in query.dimensions() {
            let Some(dimension) = bucket.schema.dimension_index(name) else { continue };
            let values = &table.values[dimension];
            let of = || DimensionOfBucket {
                site: site.to_owned(),
                bucket: bucket.start(),
                dimension: name.to_owned(),
            };
            if values.len() > u64::from(context.share) {
                let count = scanned.distinct.0.entry(of()).or_default();
                *count = (count.0 + values.len(), count.1 + 1);
            }
            if values.max_kept_hash().is_some() || context.folds.of(bucket.start(), name, site).is_some() {
                scanned.partial.facts.capped.insert(name.to_owned());
            }
        }
        if !part.versus {
            let facts = &mut scanned.partial.facts;
            facts.newest_event_ms = facts.newest_event_ms.max(table.facts.newest_event_ms);
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
) {
    let offset = if part.versus { query.columns.len() } else { 0 };
    for (site, table) in selected_sites(part.bucket, query) {
        let rows = TableScan::new(part.bucket, site, table, query, context).rows(part.step, out);
        out.fit_measures();
        for &(measure, column) in columns {
            // A rollup from before the schema had this measure reads as empty.
            let index = part.bucket.schema.measure_index(&measure.name);
            if let Some(theirs) = index.map(|index| &table.measures[index]) {
                out.measures[column + offset].merge_rows(theirs, &rows);
            }
        }
    }
}

/// One pass over the rows of a site.
struct TableScan<'a> {
    bucket: &'a Bucket,
    site: &'a str,
    table: &'a SiteTable,
    query: &'a Query,
    /// Per dimension of the bucket that the query touches: the largest hash that keeps its name.
    max_kept: Vec<Option<u64>>,
}

/// A tuple that the filters do not let through.
const FILTERED: u32 = u32::MAX;
/// A tuple that was not looked at yet.
const UNSEEN: u32 = u32::MAX - 1;

impl<'a> TableScan<'a> {
    fn new(
        bucket: &'a Bucket,
        site: &'a str,
        table: &'a SiteTable,
        query: &'a Query,
        context: &ScanContext,
    ) -> Self {
        let mut max_kept = vec![None; bucket.dictionaries.len()];
        for name in query.dimensions() {
            let Some(dimension) = bucket.schema.dimension_index(name) else { continue };
            let agreed = context.folds.of(bucket.start(), name, site);
            let own = table.values[dimension].max_kept_hash();
            max_kept[dimension] = agreed.into_iter().chain(own).min();
        }
        Self { bucket, site, table, query, max_kept }
    }

    /// Per row of the table its row in `out`.
    fn rows(&self, step: u32, out: &mut Partial) -> Vec<u32> {
        let groups_url = self.query.group_by.contains(&Field::Url);
        let by_tuple = !self.query.dimensions().is_empty();
        let url_passes = self.url_mask();
        let mut tuples = TupleGroups::new(self);
        // Rows of `out` by (URL, group of tuples): by either alone a plain table suffices.
        let mut by_url = vec![UNSEEN; if groups_url && !by_tuple { self.table.urls.len() } else { 0 }];
        let mut by_group: Vec<u32> = Vec::new();
        let mut by_both: HashMap<(u32, u32), u32> = HashMap::new();

        let mut rows = Vec::with_capacity(self.table.len());
        for (&url, &tuple) in self.table.url.iter().zip(&self.table.tuple) {
            if !url_passes.is_empty() && !url_passes[url as usize] {
                rows.push(NOWHERE);
                continue;
            }
            let group = if by_tuple { tuples.group_of(tuple) } else { 0 };
            if group == FILTERED {
                rows.push(NOWHERE);
                continue;
            }
            let slot = match (groups_url, by_tuple) {
                (true, false) => &mut by_url[url as usize],
                (true, true) => by_both.entry((url, group)).or_insert(UNSEEN),
                (false, _) => {
                    by_group.resize(by_group.len().max(group as usize + 1), UNSEEN);
                    &mut by_group[group as usize]
                }
            };
            if *slot == UNSEEN {
                *slot = self.out_row(step, url, tuples.ids(group), out);
            }
            rows.push(*slot);
        }
        rows
    }

    /// Per URL whether the filters let it through; empty where there is no such filter.
    fn url_mask(&self) -> Vec<bool> {
        let filters: Vec<&Test> = self.tests_of(&Field::Url).collect();
        if filters.is_empty() {
            return Vec::new();
        }
        self.table.urls.iter().map(|url| filters.iter().all(|test| test.passes(url))).collect()
    }

    fn tests_of<'b>(&'b self, field: &'b Field) -> impl Iterator<Item = &'b Test> {
        self.query.filters.iter().filter(move |filter| filter.field == *field).map(|filter| &filter.test)
    }

    /// The id that a value counts under.
    fn folded(&self, dimension: usize, id: u32) -> u32 {
        match self.max_kept[dimension] {
            Some(max_kept) if id > OTHER_ID && self.bucket.dictionaries[dimension].hash_of(id) > max_kept => {
                OTHER_ID
            }
            _ => id,
        }
    }

    /// The row of `out` for this URL and these ids of grouped dimensions.
    fn out_row(&self, step: u32, url: u32, ids: &[u32], out: &mut Partial) -> u32 {
        let mut ids = ids.iter();
        let mut key = Vec::with_capacity(self.query.group_by.len());
        for (group, field) in self.query.group_by.iter().enumerate() {
            let id = match field {
                Field::Site => out.intern(group, self.site, hash_text(self.site)),
                Field::Url => {
                    // Not the page's hash: with several sites one URL would have several.
                    let url = self.table.urls.get(url);
                    out.intern(group, url, hash_text(url))
                }
                Field::Dimension(name) => {
                    let id = ids.next().copied().unwrap_or(UNSET_ID);
                    match self.bucket.schema.dimension_index(name) {
                        None => out.intern(group, "", hash_text("")),
                        Some(dimension) => {
                            let dictionary = &self.bucket.dictionaries[dimension];
                            out.intern(group, dictionary.get(id), dictionary.hash_of(id))
                        }
                    }
                }
            };
            let Some(id) = id else { return NOWHERE };
            key.push(id);
        }
        out.row(step, &key)
    }
}

/// Which tuples pass the filters, and which group each belongs to.
struct TupleGroups<'a> {
    scan: &'a TableScan<'a>,
    /// Dimensions that are grouped by; `None` where the rollup is from before the schema had it.
    grouped: Vec<Option<usize>>,
    /// Per filter on a dimension, by id of the value.
    masks: Vec<(Option<usize>, Vec<bool>)>,
    /// By tuple: its group, `FILTERED` or `UNSEEN`.
    group_of: Vec<u32>,
    groups: HashTable<u32>,
    group_count: u32,
    /// Ids of grouped dimensions by group, end to end.
    ids: Vec<u32>,
}

impl<'a> TupleGroups<'a> {
    fn new(scan: &'a TableScan<'a>) -> Self {
        let bucket = scan.bucket;
        let dimension = |field: &Field| match field {
            Field::Dimension(name) => Some(bucket.schema.dimension_index(name)),
            Field::Site | Field::Url => None,
        };
        let masks = scan.query.filters.iter().filter_map(|filter| {
            let dimension = dimension(&filter.field)?;
            let passes = match dimension {
                Some(index) => {
                    bucket.dictionaries[index].iter().map(|value| filter.test.passes(value)).collect()
                }
                None => vec![filter.test.passes("")],
            };
            Some((dimension, passes))
        });
        Self {
            scan,
            grouped: scan.query.group_by.iter().filter_map(dimension).collect(),
            masks: masks.collect(),
            group_of: Vec::new(),
            groups: HashTable::new(),
            group_count: 0,
            ids: Vec::new(),
        }
    }

    fn group_of(&mut self, tuple: u32) -> u32 {
        if self.group_of.is_empty() {
            self.group_of = vec![UNSEEN; self.scan.bucket.tuples.len()];
        }
        let known = self.group_of[tuple as usize];
        if known != UNSEEN {
            return known;
        }
        let group = self.find_group(tuple);
        self.group_of[tuple as usize] = group;
        group
    }

    fn find_group(&mut self, tuple: u32) -> u32 {
        let (scan, bucket) = (self.scan, self.scan.bucket);
        let tuple = bucket.tuples.get(tuple);
        let id = |dimension: Option<usize>| {
            let slot = dimension.and_then(|dimension| Some((dimension, bucket.tuples.slot(dimension)?)));
            slot.map_or(UNSET_ID, |(dimension, slot)| scan.folded(dimension, tuple[slot]))
        };
        if !self.masks.iter().all(|(dimension, passes)| passes[id(*dimension) as usize]) {
            return FILTERED;
        }
        // The key is tried at the end of the list, and stays there where it is new.
        let (start, width) = (self.ids.len(), self.grouped.len());
        self.ids.extend(self.grouped.iter().map(|&dimension| id(dimension)));
        let ids = &self.ids;
        let key_of = |group: u32| &ids[group as usize * width..][..width];
        let hash_of = |key: &[u32]| key.iter().fold(0, |hash, &id| mix(hash ^ u64::from(id)));
        let key = &ids[start..];
        match self.groups.entry(hash_of(key), |&group| key_of(group) == key, |&group| hash_of(key_of(group)))
        {
            Entry::Occupied(known) => {
                let group = *known.get();
                self.ids.truncate(start);
                group
            }
            Entry::Vacant(vacant) => {
                let group = self.group_count;
                vacant.insert(group);
                self.group_count += 1;
                group
            }
        }
    }

    /// The ids of the grouped dimensions.
    fn ids(&self, group: u32) -> &[u32] {
        let width = self.grouped.len();
        self.ids.get(group as usize * width..(group as usize + 1) * width).unwrap_or_default()
    }
}
