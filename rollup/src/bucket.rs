//! One shard's five minutes: the rollup of all sites, and which blocks it covers.
//!
//! Owns: counting the events of a block that fall into the bucket.
//! Does not own: which bucket an event falls into (`shard`), answering queries (`scan`).
//!
//! Invariants:
//! * The numbers are a function of the coverage: same blocks, same numbers, in any order.
//! * A block counts once.

mod count;

use crate::block::ProducerId;
use crate::census::{OTHER, OTHER_ID, UNSET_ID};
use crate::coverage::Coverage;
use crate::dictionary::{Dictionary, hash_text};
use crate::folds::Folds;
use crate::schema::Schema;
use crate::table::{SiteFacts, SiteTable, TupleSet};
use crate::time::BucketStart;
pub(crate) use count::Scratch;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_proto::v1::Reason;

/// The rollup of one shard and bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub(crate) start: BucketStart,
    pub(crate) schema: Arc<Schema>,
    pub(crate) coverage: Coverage,
    pub(crate) origin: Origin,
    /// One per dimension of the schema; id 0 is "not set", id 1 is `(other)`. Each is shared, as is what follows, so that a late
    /// event has only those copied that it adds to, of what a query reads at the time.
    pub(crate) dictionaries: Vec<Arc<Dictionary>>,
    pub(crate) tuples: Arc<TupleSet>,
    pub(crate) site_names: Arc<Dictionary>,
    /// By id of the site.
    pub(crate) sites: Vec<Arc<SiteTable>>,
    /// Whether some site's log of who was active has something.
    pub(crate) has_slices: bool,
}

/// What a site's table takes beside what it has on the heap: itself, and two counts of who shares it.
const SHARED_BYTES: usize = size_of::<SiteTable>() + 2 * size_of::<usize>();

/// Where a rollup comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Counted here.
    Memory,
    /// Counted here a second time, apart from the bucket in memory.
    Delta,
    /// Read back from a segment, as one of several parts that may hold values of one dimension; it tells no coverage.
    Segment,
    /// The same for rows of a whole day, whose values were cut to the limit when they were made.
    Day,
    /// The URLs of a site with one measure, copied from a bucket in memory, which tells what is known beside rows.
    Urls,
}

impl Bucket {
    /// An empty bucket.
    pub fn new(start: BucketStart, schema: Arc<Schema>) -> Self {
        let mut dictionary = Dictionary::default();
        assert_eq!((dictionary.intern(""), dictionary.intern(OTHER)), (UNSET_ID, OTHER_ID));
        let width = schema.dimensions().len();
        Self {
            start,
            schema,
            coverage: Coverage::default(),
            origin: Origin::Memory,
            dictionaries: (0..width).map(|_| Arc::new(dictionary.clone())).collect(),
            tuples: Arc::new(TupleSet::new(width)),
            site_names: Arc::default(),
            sites: Vec::new(),
            has_slices: false,
        }
    }

    /// When the bucket starts.
    pub fn start(&self) -> BucketStart {
        self.start
    }

    /// The blocks whose events in this bucket are counted.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// How many rows there are.
    pub fn row_count(&self) -> usize {
        self.sites.iter().map(|site| site.len()).sum()
    }

    /// The sites that have events here.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        self.site_names.iter()
    }

    /// Each site, and how many URLs and rows it has.
    pub fn site_sizes(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let sizes = self.sites.iter().map(|site| (site.urls.len() as u64, site.len() as u64));
        self.site_names.iter().zip(sizes).map(|(site, (urls, rows))| (site, urls, rows))
    }

    /// What happened to a site's events.
    pub fn facts(&self, site: &str) -> Option<&SiteFacts> {
        self.site_names.find(site).map(|id| &self.sites[id as usize].facts)
    }

    /// Names of the dimensions that rows may have.
    pub fn dimensions(&self) -> &[String] {
        self.schema.dimensions()
    }

    /// An upper bound on how many distinct values a dimension of a site has here.
    pub fn value_count(&self, site: &str, dimension: &str) -> u64 {
        let site = self.site_names.find(site).map(|id| &self.sites[id as usize]);
        let dimension = self.schema.dimension_index(dimension);
        site.zip(dimension).map_or(0, |(site, dimension)| site.values[dimension].len())
    }

    /// What all shards agreed on for a dimension of this bucket.
    pub(crate) fn agreed_cut(&self, dimension: &str, site: &str, folds: &Folds) -> Option<u64> {
        // A day has the start of its first bucket, whose cut is not the day's.
        (self.origin != Origin::Day).then(|| folds.of(self.start, dimension, site)).flatten()
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        let dictionaries: usize = self.dictionaries.iter().map(|dictionary| dictionary.heap_bytes()).sum();
        let sites: usize = self.sites.iter().map(|site| SHARED_BYTES + site.heap_bytes()).sum();
        self.coverage.heap_bytes()
            + dictionaries
            + self.dictionaries.capacity() * (size_of::<Arc<Dictionary>>() + size_of::<Dictionary>())
            + self.tuples.heap_bytes()
            + self.site_names.heap_bytes()
            + sites
            + self.sites.capacity() * size_of::<Arc<SiteTable>>()
    }

    /// Covers a block. `false` where it is covered already: its events count here.
    pub(crate) fn cover(&mut self, producer: ProducerId, seq: u64) -> bool {
        self.coverage.insert(producer, seq)
    }

    /// Notes events that are not counted.
    pub(crate) fn reject(&mut self, site: &str, reason: Reason, events: u32) {
        let site = self.site(site);
        *self.table(site).facts.rejected.entry(reason).or_default() += u64::from(events);
    }

    /// Adds facts of a site.
    pub(crate) fn add_facts(&mut self, site: &str, facts: &SiteFacts) {
        let site = self.site(site);
        self.table(site).facts.merge(facts);
    }

    pub(crate) fn site(&mut self, name: &str) -> u32 {
        self.site_hashed(name, hash_text(name))
    }

    fn site_hashed(&mut self, name: &str, hash: u64) -> u32 {
        if let Some(known) = self.site_names.find_hashed(name, hash) {
            return known;
        }
        self.sites.push(Arc::new(SiteTable::new(&self.schema)));
        Arc::make_mut(&mut self.site_names).intern_hashed(name, hash)
    }

    /// A site's rows, to be changed: copied first where a query reads them right now.
    pub(crate) fn table(&mut self, site: u32) -> &mut SiteTable {
        Arc::make_mut(&mut self.sites[site as usize])
    }

    /// What a query of one site reads of this bucket, with these dimensions, and without coverage. Shared, and apart from the rest:
    /// events that are counted while it is read have nothing copied that it does not read.
    pub(crate) fn shown(&self, site: &str, dimensions: &BTreeSet<&str>) -> Self {
        let (width, nothing) = (self.schema.dimensions().len(), Arc::default());
        let mut shown = Self {
            start: self.start,
            schema: Arc::clone(&self.schema),
            coverage: Coverage::default(),
            origin: self.origin,
            dictionaries: (0..width).map(|_| Arc::clone(&nothing)).collect(),
            tuples: Arc::new(TupleSet::new(width)),
            site_names: Arc::default(),
            sites: Vec::new(),
            has_slices: self.has_slices,
        };
        for dimension in dimensions.iter().filter_map(|name| self.schema.dimension_index(name)) {
            shown.dictionaries[dimension] = Arc::clone(&self.dictionaries[dimension]);
        }
        // Also where the bucket is from before a dimension was: its rows have none of it.
        if !dimensions.is_empty() {
            shown.tuples = Arc::clone(&self.tuples);
        }
        if let Some(id) = self.site_names.find(site) {
            Arc::make_mut(&mut shown.site_names).intern(site);
            shown.sites.push(Arc::clone(&self.sites[id as usize]));
        }
        shown
    }

    /// What orders a site's URLs by a measure, and nothing else, copied: one row for each URL. Who counts meanwhile goes on.
    pub(crate) fn urls_by(&self, site: &str, measure: &str) -> Self {
        let mut urls = Self::new(self.start, Arc::clone(&self.schema));
        urls.origin = Origin::Urls;
        if let Some(id) = self.site_names.find(site) {
            Arc::make_mut(&mut urls.site_names).intern(site);
            let measure = self.schema.measure_index(measure);
            urls.sites.push(Arc::new(self.sites[id as usize].urls_by(measure, &self.schema)));
        }
        urls
    }

    /// Drops who was active when: the window has passed the bucket. A site that a query is reading right now is left for the next
    /// time, and not copied.
    pub(crate) fn forget_slices(&mut self) {
        self.has_slices = false;
        for site in self.sites.iter_mut().filter(|site| !site.active.is_empty()) {
            match Arc::get_mut(site) {
                Some(table) => table.active.clear(),
                None => self.has_slices = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::EventTime;

    /// Where a bucket's table of a site is.
    fn place(bucket: &Bucket, site: u32) -> *const SiteTable {
        Arc::as_ptr(&bucket.sites[site as usize])
    }

    #[test]
    fn counting_while_a_site_is_read_copies_that_sites_table_and_no_other() {
        let mut bucket = Bucket::new(BucketStart::containing(EventTime::EPOCH), Arc::default());
        let [read, other] = ["a.example", "b.example"].map(|name| bucket.site(name));
        let (read_before, other_before) = (place(&bucket, read), place(&bucket, other));
        let shown = bucket.shown("a.example", &BTreeSet::new());
        assert_eq!(shown.sites().collect::<Vec<_>>(), ["a.example"]);
        bucket.table(other).urls.intern("/new");
        bucket.table(read).urls.intern("/new");
        assert_eq!((place(&bucket, other), place(&shown, 0)), (other_before, read_before));
        assert!(shown.sites[0].urls.is_empty(), "who reads sees the moment at which it began");
        assert_eq!(bucket.sites[read as usize].urls.len(), 1);
    }

    #[test]
    fn who_was_active_is_forgotten_of_a_site_that_is_read_when_it_is_no_longer_read() {
        let mut bucket = Bucket::new(BucketStart::containing(EventTime::EPOCH), Arc::default());
        for site in ["a.example", "b.example"].map(|name| bucket.site(name)) {
            bucket.table(site).active.push(0, 0, 1);
        }
        bucket.has_slices = true;
        let (read_before, shown) = (place(&bucket, 0), bucket.shown("a.example", &BTreeSet::new()));
        bucket.forget_slices();
        assert_eq!(place(&bucket, 0), read_before, "what is read is not copied");
        let left =
            |bucket: &Bucket| bucket.sites.iter().map(|site| !site.active.is_empty()).collect::<Vec<_>>();
        assert_eq!((left(&bucket), bucket.has_slices), (vec![true, false], true));
        drop(shown);
        bucket.forget_slices();
        assert_eq!((left(&bucket), bucket.has_slices), (vec![false, false], false));
    }

    #[test]
    fn only_the_dimensions_that_a_query_has_are_shared_with_it() {
        let bucket = Bucket::new(BucketStart::containing(EventTime::EPOCH), Arc::default());
        let held = |bucket: &Bucket| {
            let dictionaries = bucket.dictionaries.iter().map(Arc::strong_count).collect::<Vec<_>>();
            (dictionaries, Arc::strong_count(&bucket.tuples))
        };
        let device = bucket.schema.dimension_index("device").expect("a dimension");
        let mut expected = (vec![1; bucket.dictionaries.len()], 1);
        let by_none = bucket.shown("a.example", &BTreeSet::new());
        assert_eq!(held(&bucket), expected);
        let by_device = bucket.shown("a.example", &BTreeSet::from(["device", "no dimension"]));
        (expected.0[device], expected.1) = (2, 2);
        assert_eq!(held(&bucket), expected);
        drop((by_none, by_device));
    }
}
