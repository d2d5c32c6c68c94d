//! Rollup rows laid out as a segment holds them.
//!
//! Owns: from rollups in memory to sorted rows and back, merging rows of one key on either way.
//! Does not own: the file format, and where segments are (`tidemark-history`).
//!
//! Invariants:
//! * The rows are a function of what the rollups hold: any order of rollups gives the same rows, bit for bit.
//! * Dictionaries ascend; rows ascend by (site, URL, bucket, dimensions), each key once.

use crate::bucket::{Bucket, Origin};
use crate::census::{OTHER, OTHER_ID, UNSET_ID};
use crate::dictionary::Dictionary;
use crate::folds::Folds;
use crate::measure::{MeasureColumn, NOWHERE};
use crate::schema::Schema;
use crate::sharding::{ShardCount, ShardId, page_hash};
use crate::table::{SiteFacts, TupleSet};
use crate::time::{BucketStart, EventTime};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Rows of one or more rollups.
#[derive(Clone, Debug)]
pub struct SegmentRows {
    /// What dimensions and measures the rows have.
    pub schema: Arc<Schema>,
    /// Names of sites, ascending.
    pub sites: Vec<String>,
    /// URLs of all sites, ascending.
    pub urls: Vec<String>,
    /// Per dimension of the schema its values, ascending; the empty text, which is "not set", is always the first.
    pub values: Vec<Vec<String>>,
    /// Per row: position of its site.
    pub site: Vec<u32>,
    /// Per row: position of its URL.
    pub url: Vec<u32>,
    /// Per row: its bucket, or the first bucket of its day.
    pub bucket: Vec<BucketStart>,
    /// Per dimension of the schema, per row: position of its value.
    pub dimensions: Vec<Vec<u32>>,
    /// Per measure of the schema, with an entry per row.
    pub measures: Vec<MeasureColumn>,
    /// What happened beside the rows, ascending by (site, bucket, shard).
    pub facts: Vec<FactsRow>,
}

/// What happened to a site's events in a bucket, in one or more shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactsRow {
    /// Position of the site.
    pub site: u32,
    /// The bucket.
    pub bucket: BucketStart,
    /// The first of the shards; it stands for all of them.
    pub shard: ShardId,
    /// The facts.
    pub facts: SiteFacts,
}

/// A rollup to lay out.
#[derive(Clone, Copy, Debug)]
pub struct RollupPart<'a> {
    /// Whose facts these are: the first of the shards that are laid out together.
    pub shard: ShardId,
    /// The rollup.
    pub bucket: &'a Bucket,
    /// What its rows are to be of: its own bucket, or the day's first.
    pub start: BucketStart,
}

impl SegmentRows {
    /// No rows.
    pub fn new(schema: Arc<Schema>) -> Self {
        let width = schema.dimensions().len();
        Self {
            sites: Vec::new(),
            urls: Vec::new(),
            values: vec![vec![String::new()]; width],
            site: Vec::new(),
            url: Vec::new(),
            bucket: Vec::new(),
            dimensions: vec![Vec::new(); width],
            measures: schema.measures().iter().map(|measure| MeasureColumn::new(&measure.source)).collect(),
            facts: Vec::new(),
            schema,
        }
    }

    /// How many rows there are, without those of facts.
    pub fn len(&self) -> usize {
        self.site.len()
    }

    /// Whether there is neither a row nor a fact.
    pub fn is_empty(&self) -> bool {
        self.site.is_empty() && self.facts.is_empty()
    }

    /// The rows of these rollups under `schema`. Values that `folds` cuts become `(other)`.
    ///
    /// A dimension or measure that a rollup does not have is not set, or empty, in its rows. Facts of one site, start and
    /// shard are added up.
    pub fn of(schema: &Arc<Schema>, parts: &[RollupPart<'_>], folds: &Folds) -> Self {
        Layout::new(schema, parts, folds).finish()
    }

    /// Adds repeated events to the facts of the sites that there are.
    pub fn add_duplicates(&mut self, by_site: &BTreeMap<String, u64>) {
        for row in &mut self.facts {
            row.facts.duplicate += by_site.get(&self.sites[row.site as usize]).copied().unwrap_or(0);
        }
    }

    /// The rollups that hold these rows, by bucket.
    ///
    /// Only rows and facts that `keep` lets through count, or all where there is none. `limit` is the limit on distinct
    /// values that the rows were made under; none for rows of days, which were cut when they were made.
    pub fn to_buckets(
        &self,
        shards: ShardCount,
        limit: Option<u32>,
        keep: Option<&dyn Fn(BucketStart, ShardId) -> bool>,
    ) -> Vec<Bucket> {
        let mut by_bucket: BTreeMap<BucketStart, Vec<u32>> = BTreeMap::new();
        for row in 0..self.len() {
            let bucket = self.bucket[row];
            if keep.is_none_or(|keep| keep(bucket, self.shard_of(row, shards))) {
                by_bucket.entry(bucket).or_default().push(row as u32);
            }
        }
        let kept = |facts: &&FactsRow| keep.is_none_or(|keep| keep(facts.bucket, facts.shard));
        let facts: Vec<&FactsRow> = self.facts.iter().filter(kept).collect();
        facts.iter().for_each(|facts| _ = by_bucket.entry(facts.bucket).or_default());
        let mut loader = Loader::new(self);
        let mut buckets: BTreeMap<BucketStart, Bucket> = BTreeMap::new();
        for (start, rows) in by_bucket {
            buckets.insert(start, loader.load(start, &rows, limit));
        }
        for row in facts {
            if let Some(bucket) = buckets.get_mut(&row.bucket) {
                bucket.add_facts(&self.sites[row.site as usize], &row.facts);
            }
        }
        buckets.into_values().collect()
    }

    fn shard_of(&self, row: usize, shards: ShardCount) -> ShardId {
        let (site, url) = (&self.sites[self.site[row] as usize], &self.urls[self.url[row] as usize]);
        shards.shard_of(page_hash(site, url))
    }
}

/// Texts that get their final positions at the end, when all are known.
#[derive(Default)]
struct Texts(Dictionary);

impl Texts {
    /// All texts ascending, and per id its position among them.
    fn ranked(&self) -> (Vec<String>, Vec<u32>) {
        let mut ids: Vec<u32> = (0..self.0.len() as u32).collect();
        ids.sort_unstable_by(|&a, &b| self.0.get(a).cmp(self.0.get(b)));
        let mut rank = vec![0; ids.len()];
        ids.iter().enumerate().for_each(|(position, &id)| rank[id as usize] = position as u32);
        (ids.iter().map(|&id| self.0.get(id).to_owned()).collect(), rank)
    }
}

/// From rollups to rows.
struct Layout<'a> {
    schema: &'a Arc<Schema>,
    parts: &'a [RollupPart<'a>],
    sites: Texts,
    urls: Texts,
    values: Vec<Texts>,
    /// Distinct tuples of value ids, with room for every dimension.
    tuples: TupleSet,
    /// Per source row in the order of parts and sites: its key, of ids.
    keys: Vec<[u32; 4]>,
}

impl<'a> Layout<'a> {
    fn new(schema: &'a Arc<Schema>, parts: &'a [RollupPart<'a>], folds: &Folds) -> Self {
        let mut values: Vec<Texts> = Vec::new();
        values.resize_with(schema.dimensions().len(), Texts::default);
        // Ids of "not set" and (other) in a rollup are these in here, too.
        for texts in &mut values {
            texts.0.intern("");
            texts.0.intern(OTHER);
        }
        let width = schema.dimensions().len();
        let mut tuples = TupleSet::new(width);
        (0..width).for_each(|dimension| _ = tuples.slot_or_insert(dimension));
        let rows = parts.iter().map(|part| part.bucket.row_count()).sum();
        let mut layout = Self {
            schema,
            parts,
            sites: Texts::default(),
            urls: Texts::default(),
            values,
            tuples,
            keys: Vec::with_capacity(rows),
        };
        parts.iter().for_each(|part| layout.read(part, folds));
        layout
    }

    fn read(&mut self, part: &RollupPart<'_>, folds: &Folds) {
        let bucket = part.bucket;
        let dimensions: Vec<Option<usize>> =
            self.schema.dimensions().iter().map(|name| bucket.schema.dimension_index(name)).collect();
        // Per dimension of the rollup, per id: the id here. Found when first used.
        let mut value_ids: Vec<Vec<u32>> =
            bucket.dictionaries.iter().map(|dictionary| vec![NOWHERE; dictionary.len()]).collect();
        for (site, table) in bucket.site_names.iter().zip(&bucket.sites) {
            let site_id = self.sites.0.intern(site);
            let url_ids: Vec<u32> = table.urls.iter().map(|url| self.urls.0.intern(url)).collect();
            let cuts: Vec<Option<u64>> = dimensions
                .iter()
                .map(|&dimension| {
                    let dimension = dimension?;
                    let name = &bucket.schema.dimensions()[dimension];
                    let agreed = folds.of(bucket.start, name, site);
                    // A day's rows are not cut again when they are read, so a shard's own cut counts as well.
                    let own = (part.start != bucket.start || agreed.is_some())
                        .then(|| table.values[dimension].max_kept_hash())
                        .flatten();
                    agreed.into_iter().chain(own).min()
                })
                .collect();
            let mut tuple_ids = vec![NOWHERE; bucket.tuples.len()];
            let mut key = Vec::with_capacity(dimensions.len());
            for (&url, &tuple) in table.url.iter().zip(&table.tuple) {
                let known = &mut tuple_ids[tuple as usize];
                if *known == NOWHERE {
                    let ids = bucket.tuples.get(tuple);
                    key.clear();
                    for (at, &dimension) in dimensions.iter().enumerate() {
                        let slot =
                            dimension.and_then(|dimension| Some((dimension, bucket.tuples.slot(dimension)?)));
                        let Some((dimension, slot)) = slot else {
                            key.push(UNSET_ID);
                            continue;
                        };
                        let id = ids[slot];
                        let dictionary = &bucket.dictionaries[dimension];
                        let cut = cuts[at].is_some_and(|cut| id > OTHER_ID && dictionary.hash_of(id) > cut);
                        if cut {
                            key.push(OTHER_ID);
                            continue;
                        }
                        let mapped = &mut value_ids[dimension][id as usize];
                        if *mapped == NOWHERE {
                            *mapped = self.values[at].0.intern(dictionary.get(id));
                        }
                        key.push(*mapped);
                    }
                    *known = self.tuples.intern(&key);
                }
                self.keys.push([site_id, url_ids[url as usize], part.start.as_unix_seconds(), *known]);
            }
        }
    }

    fn finish(self) -> SegmentRows {
        let (sites, site_rank) = self.sites.ranked();
        let (urls, url_rank) = self.urls.ranked();
        let ranked: Vec<(Vec<String>, Vec<u32>)> = self.values.iter().map(Texts::ranked).collect();
        // Tuples as positions of their values' names, end to end.
        let mut named: Vec<u32> = Vec::with_capacity(self.tuples.len() * self.tuples.width());
        for tuple in 0..self.tuples.len() as u32 {
            let ids = self.tuples.get(tuple).iter().zip(&ranked);
            named.extend(ids.map(|(&id, (_, rank))| rank[id as usize]));
        }
        let width = self.tuples.width();
        let tuple = |tuple: u32| &named[tuple as usize * width..][..width];

        let mut order: Vec<([u32; 3], u32, u32)> = Vec::with_capacity(self.keys.len());
        for (source, &[site, url, start, tuple]) in self.keys.iter().enumerate() {
            let key = [site_rank[site as usize], url_rank[url as usize], start];
            order.push((key, tuple, source as u32));
        }
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| tuple(a.1).cmp(tuple(b.1))));

        let mut rows = SegmentRows { sites, urls, ..SegmentRows::new(Arc::clone(self.schema)) };
        rows.values = ranked.into_iter().map(|(texts, _)| texts).collect();
        let mut row_of_source = vec![NOWHERE; order.len()];
        let mut previous = None;
        for (key, id, source) in order {
            if previous != Some((key, id)) {
                previous = Some((key, id));
                let [site, url, start] = key;
                rows.site.push(site);
                rows.url.push(url);
                rows.bucket.push(BucketStart::containing(EventTime::from_unix_ms(i64::from(start) * 1000)));
                rows.dimensions.iter_mut().zip(tuple(id)).for_each(|(column, &id)| column.push(id));
            }
            row_of_source[source as usize] = rows.site.len() as u32 - 1;
        }
        rows.merge_measures(self.parts, &row_of_source);
        rows.merge_facts(self.parts);
        rows
    }
}

impl SegmentRows {
    fn merge_measures(&mut self, parts: &[RollupPart<'_>], row_of_source: &[u32]) {
        let len = self.len();
        self.measures.iter_mut().for_each(|column| column.resize(len));
        let mut rest = row_of_source;
        for part in parts {
            for table in &part.bucket.sites {
                let (rows, others) = rest.split_at(table.len());
                rest = others;
                for (column, measure) in self.measures.iter_mut().zip(self.schema.measures()) {
                    let theirs = &part.bucket.schema;
                    let index = theirs.measures().iter().position(|theirs| theirs == measure);
                    if let Some(index) = index {
                        column.merge_rows(&table.measures[index], rows);
                    }
                }
            }
        }
    }

    fn merge_facts(&mut self, parts: &[RollupPart<'_>]) {
        let mut merged: BTreeMap<(u32, BucketStart, ShardId), SiteFacts> = BTreeMap::new();
        let position: HashMap<&str, u32> = self.sites.iter().map(String::as_str).zip(0..).collect();
        for part in parts {
            for (site, table) in part.bucket.site_names.iter().zip(&part.bucket.sites) {
                let Some(&site) = position.get(site) else { continue };
                merged.entry((site, part.start, part.shard)).or_default().merge(&table.facts);
            }
        }
        let rows = merged.into_iter();
        self.facts =
            rows.map(|((site, bucket, shard), facts)| FactsRow { site, bucket, shard, facts }).collect();
    }
}

/// From rows to rollups.
struct Loader<'a> {
    rows: &'a SegmentRows,
    /// Per text of the rows its id in the rollup at hand; what is of another rollup is told by the stamp.
    sites: Stamped,
    urls: Stamped,
    values: Vec<Stamped>,
}

/// Ids by position, all forgotten at once.
struct Stamped {
    ids: Vec<(u32, u32)>,
    stamp: u32,
}

impl Stamped {
    fn new(len: usize) -> Self {
        Self { ids: vec![(0, 0); len], stamp: 1 }
    }

    fn forget(&mut self) {
        self.stamp += 1;
    }

    fn get_or(&mut self, position: u32, make: impl FnOnce() -> u32) -> u32 {
        let slot = &mut self.ids[position as usize];
        if slot.0 != self.stamp {
            *slot = (self.stamp, make());
        }
        slot.1
    }
}

impl<'a> Loader<'a> {
    fn new(rows: &'a SegmentRows) -> Self {
        Self {
            rows,
            sites: Stamped::new(rows.sites.len()),
            urls: Stamped::new(rows.urls.len()),
            values: rows.values.iter().map(|texts| Stamped::new(texts.len())).collect(),
        }
    }

    fn load(&mut self, start: BucketStart, rows: &[u32], limit: Option<u32>) -> Bucket {
        let source = self.rows;
        let mut bucket = Bucket::new(start, Arc::clone(&source.schema));
        bucket.origin = if limit.is_some() { Origin::Segment } else { Origin::Day };
        let width = source.dimensions.len();
        self.sites.forget();
        self.values.iter_mut().for_each(Stamped::forget);
        for (dimension, column) in source.dimensions.iter().enumerate() {
            if rows.iter().any(|&row| column[row as usize] != 0) {
                Arc::make_mut(&mut bucket.tuples).slot_or_insert(dimension);
            }
        }
        let mut ids = vec![UNSET_ID; bucket.tuples.width()];
        let mut admitted: Vec<u32> = Vec::with_capacity(width);
        for of_site in rows.chunk_by(|&a, &b| source.site[a as usize] == source.site[b as usize]) {
            let name = source.site[of_site[0] as usize];
            let site = self.sites.get_or(name, || bucket.site(&source.sites[name as usize])) as usize;
            self.urls.forget();
            let (mut known, mut targets) = (Vec::new(), Vec::with_capacity(of_site.len()));
            let Bucket { tuples, dictionaries, sites, .. } = &mut bucket;
            let (tuples, table) = (Arc::make_mut(tuples), Arc::make_mut(&mut sites[site]));
            for &row in of_site {
                let row = row as usize;
                admitted.clear();
                for (dimension, column) in source.dimensions.iter().enumerate() {
                    let Some(slot) = tuples.slot(dimension) else { continue };
                    let value = column[row];
                    let dictionary = &mut dictionaries[dimension];
                    ids[slot] = self.values[dimension].get_or(value, || {
                        Arc::make_mut(dictionary).intern(&source.values[dimension][value as usize])
                    });
                }
                let tuple = tuples.intern(&ids);
                if known.len() <= tuple as usize {
                    known.resize(tuples.len(), false);
                }
                if !std::mem::replace(&mut known[tuple as usize], true) {
                    table.note_values(&ids, tuples, dictionaries);
                }
                let position = source.url[row];
                let url = self.urls.get_or(position, || {
                    let (site, url) = (&source.sites[name as usize], &source.urls[position as usize]);
                    table.urls.intern_hashed(url, page_hash(site, url))
                });
                targets.push(table.row(url, tuple));
            }
            table.merge_measures(&source.measures, of_site, &targets);
            if let Some(limit) = limit {
                table.close_values(limit, dictionaries);
            }
        }
        bucket
    }
}
