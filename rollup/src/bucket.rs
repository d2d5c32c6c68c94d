//! One shard's five minutes: the rollup of all sites, and which blocks it covers.
//!
//! Owns: counting the events of a block that fall into the bucket.
//! Does not own: which bucket an event falls into (`shard`), answering queries (`scan`).
//!
//! Invariants:
//! * The numbers are a function of the coverage: same blocks, same numbers, in any order.
//! * A block counts once.

use crate::active::{MAX_DELAY, slice_of};
use crate::block::{DecodedBlock, NamedIds, ProducerId};
use crate::census::{OTHER, OTHER_ID, UNSET_ID};
use crate::coverage::Coverage;
use crate::dictionary::Dictionary;
use crate::event::MAX_DIMENSION_BYTES;
use crate::folds::Folds;
use crate::measure::MeasureColumn;
use crate::schema::{Measure, Schema, Source};
use crate::table::{SiteFacts, SiteTable, TupleSet};
use crate::time::BucketStart;
use std::sync::Arc;
use tidemark_proto::v1::Reason;

/// The rollup of one shard and bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub(crate) start: BucketStart,
    pub(crate) schema: Arc<Schema>,
    pub(crate) coverage: Coverage,
    pub(crate) origin: Origin,
    /// One per dimension of the schema; id 0 is "not set", id 1 is `(other)`.
    pub(crate) dictionaries: Vec<Dictionary>,
    pub(crate) tuples: TupleSet,
    pub(crate) site_names: Dictionary,
    /// By id of the site.
    pub(crate) sites: Vec<SiteTable>,
    /// Whether some site's log of who was active has something.
    pub(crate) has_slices: bool,
}

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
}

const NOT_YET: u32 = u32::MAX;

/// What each measure of the schema reads in a block; found once per block.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Vec<Option<Feed>>);

#[derive(Clone, Copy, Debug)]
struct Feed {
    /// The block's id of the kind that is selected, if one is.
    kind: Option<u32>,
    /// Position of the value that is read, if one is.
    value: Option<usize>,
}

impl Feeds {
    /// Looks up what `schema` reads in `block`.
    pub(crate) fn find(&mut self, schema: &Schema, block: &DecodedBlock) {
        self.0.clear();
        self.0.extend(schema.measures().iter().map(|measure| Feed::of(measure, block)));
    }
}

impl Feed {
    /// `None` where the block has nothing for the measure.
    fn of(measure: &Measure, block: &DecodedBlock) -> Option<Self> {
        let kind = match &measure.event_kind {
            None => None,
            Some(kind) => Some(block.find_text(kind)?),
        };
        let value = match measure.source.value() {
            None => None,
            Some(name) => Some(block.values.iter().position(|value| value.name == name)?),
        };
        Some(Self { kind, value })
    }
}

/// Room for intermediate results, reused from block to block: counting allocates nothing for itself.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// By page of the block: its site in the bucket, and its URL in the site.
    site_of_page: Vec<u32>,
    url_of_page: Vec<u32>,
    /// By text of the block: id in the dictionary of the dimension at hand.
    id_of_text: Vec<u32>,
    /// Per event of the bucket its tuple's ids, end to end.
    tuples: Vec<u32>,
    /// The events of the bucket by site, as positions in the block.
    by_site: Vec<u32>,
    /// The same events' positions among the events of the bucket.
    position: Vec<u32>,
    /// Where each site's events end.
    site_ends: Vec<u32>,
    /// Per event, in the order of `by_site`: its row.
    rows: Vec<u32>,
    /// What the measures read in the block at hand.
    pub(crate) feeds: Feeds,
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
            dictionaries: vec![dictionary; width],
            tuples: TupleSet::new(width),
            site_names: Dictionary::default(),
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
        self.sites.iter().map(SiteTable::len).sum()
    }

    /// The sites that have events here.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        self.site_names.iter()
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
        let dictionaries: usize = self.dictionaries.iter().map(Dictionary::heap_bytes).sum();
        let sites: usize = self.sites.iter().map(SiteTable::heap_bytes).sum();
        self.coverage.heap_bytes()
            + dictionaries
            + self.dictionaries.capacity() * size_of::<Dictionary>()
            + self.tuples.heap_bytes()
            + self.site_names.heap_bytes()
            + sites
            + self.sites.capacity() * size_of::<SiteTable>()
    }

    /// Covers a block. `false` where it is covered already: its events count here.
    pub(crate) fn cover(&mut self, producer: ProducerId, seq: u64) -> bool {
        self.coverage.insert(producer, seq)
    }

    /// Notes events that are not counted.
    pub(crate) fn reject(&mut self, site: &str, reason: Reason, events: u32) {
        let site = self.site(site);
        *self.sites[site as usize].facts.rejected.entry(reason).or_default() += u64::from(events);
    }

    /// Adds facts of a site.
    pub(crate) fn add_facts(&mut self, site: &str, facts: &SiteFacts) {
        let site = self.site(site);
        self.sites[site as usize].facts.merge(facts);
    }

    /// Counts these events of `block`.
    pub(crate) fn count(
        &mut self,
        block: &DecodedBlock,
        events: &[u32],
        late: bool,
        limit: u32,
        scratch: &mut Scratch,
    ) {
        self.resolve_pages(block, events, scratch);
        self.resolve_tuples(block, events, limit, scratch);
        self.group_by_site(block, events, scratch);
        let mut from = 0;
        let site_ends = std::mem::take(&mut scratch.site_ends);
        for (site, &end) in site_ends.iter().enumerate() {
            let range = from..end as usize;
            from = end as usize;
            if !range.is_empty() {
                self.find_rows(block, site, range.clone(), limit, scratch);
                self.measure(block, site, range.clone(), scratch);
                self.log_active(block, site, range.clone(), scratch);
                self.note_facts(block, site, &scratch.by_site[range], late);
            }
        }
        scratch.site_ends = site_ends;
    }

    pub(crate) fn site(&mut self, name: &str) -> u32 {
        let id = self.site_names.intern(name);
        if id as usize == self.sites.len() {
            self.sites.push(SiteTable::new(&self.schema));
        }
        id
    }

    fn resolve_pages(&mut self, block: &DecodedBlock, events: &[u32], scratch: &mut Scratch) {
        scratch.site_of_page.clear();
        scratch.site_of_page.resize(block.pages.len(), NOT_YET);
        scratch.url_of_page.clear();
        scratch.url_of_page.resize(block.pages.len(), NOT_YET);
        for &event in events {
            let page = block.page[event as usize] as usize;
            if scratch.site_of_page[page] != NOT_YET {
                continue;
            }
            let wire = &block.pages[page];
            let site = self.site(block.text(wire.site));
            scratch.site_of_page[page] = site;
            scratch.url_of_page[page] =
                self.sites[site as usize].urls.intern_hashed(block.text(wire.url), wire.hash);
        }
    }

    fn resolve_tuples(&mut self, block: &DecodedBlock, events: &[u32], limit: u32, scratch: &mut Scratch) {
        let named = |dimension: &NamedIds| self.schema.dimension_index(&dimension.name);
        for index in block.dimensions.iter().filter_map(named) {
            self.tuples.slot_or_insert(index);
        }
        let width = self.tuples.width();
        scratch.tuples.clear();
        scratch.tuples.resize(events.len() * width, UNSET_ID);
        for dimension in &block.dimensions {
            let Some(index) = self.schema.dimension_index(&dimension.name) else { continue };
            let slot = self.tuples.slot_or_insert(index);
            let dictionary = &mut self.dictionaries[index];
            scratch.id_of_text.clear();
            scratch.id_of_text.resize(block.text_count(), NOT_YET);
            for (at, &event) in events.iter().enumerate() {
                let text = dimension.ids[event as usize];
                let mut id = scratch.id_of_text[text as usize];
                if id == NOT_YET {
                    let site = scratch.site_of_page[block.page[event as usize] as usize];
                    let values = &mut self.sites[site as usize].values[index];
                    let (text_value, hash) = (block.text(text), block.text_hashes[text as usize]);
                    let known = dictionary.find_hashed(text_value, hash);
                    // A name that is beyond this site's limit may be within another's, so it is not remembered.
                    if known.is_none() && !values.has_room_for(hash, limit, |id| dictionary.hash_of(id)) {
                        scratch.tuples[at * width + slot] = OTHER_ID;
                        continue;
                    }
                    id = match known {
                        Some(id) => id,
                        None if text_value.len() > MAX_DIMENSION_BYTES => UNSET_ID,
                        None => dictionary.intern_hashed(text_value, hash),
                    };
                    scratch.id_of_text[text as usize] = id;
                }
                scratch.tuples[at * width + slot] = id;
            }
        }
    }

    /// Orders the events by site: a counting sort, stable.
    fn group_by_site(&self, block: &DecodedBlock, events: &[u32], scratch: &mut Scratch) {
        let ends = &mut scratch.site_ends;
        ends.clear();
        ends.resize(self.sites.len(), 0);
        let site_of = |event: u32| scratch.site_of_page[block.page[event as usize] as usize] as usize;
        events.iter().for_each(|&event| ends[site_of(event)] += 1);
        let mut start = 0;
        for end in ends.iter_mut() {
            start += std::mem::replace(end, start);
        }
        scratch.by_site.clear();
        scratch.by_site.resize(events.len(), 0);
        scratch.position.clear();
        scratch.position.resize(events.len(), 0);
        for (position, &event) in events.iter().enumerate() {
            let slot = &mut ends[site_of(event)];
            scratch.by_site[*slot as usize] = event;
            scratch.position[*slot as usize] = position as u32;
            *slot += 1;
        }
        scratch.rows.clear();
        scratch.rows.resize(events.len(), 0);
    }

    fn find_rows(
        &mut self,
        block: &DecodedBlock,
        site: usize,
        range: std::ops::Range<usize>,
        limit: u32,
        scratch: &mut Scratch,
    ) {
        let width = self.tuples.width();
        let table = &mut self.sites[site];
        for at in range {
            let url = scratch.url_of_page[block.page[scratch.by_site[at] as usize] as usize];
            let ids = &mut scratch.tuples[scratch.position[at] as usize * width..][..width];
            table.admit(ids, &self.tuples, limit, &self.dictionaries);
            scratch.rows[at] = table.row(url, self.tuples.intern(ids));
        }
    }

    fn measure(
        &mut self,
        block: &DecodedBlock,
        site: usize,
        range: std::ops::Range<usize>,
        scratch: &Scratch,
    ) {
        let table = &mut self.sites[site];
        let len = table.len();
        let (events, rows) = (&scratch.by_site[range.clone()], &scratch.rows[range]);
        for ((column, measure), feed) in
            table.measures.iter_mut().zip(self.schema.measures()).zip(&scratch.feeds.0)
        {
            let Some(feed) = feed else { continue };
            column.resize(len);
            let counts = |event: usize| feed.kind.is_none_or(|kind| block.kind[event] == kind);
            let pairs = events.iter().map(|&event| event as usize).zip(rows.iter().map(|&row| row as usize));
            let pairs = pairs.filter(|&(event, _)| counts(event));
            let values = feed.value.map_or(&[][..], |value| &block.values[value].plus_one);
            table.sketch_bytes += feed_column(column, &measure.source, values, &block.visitor, pairs);
        }
    }

    fn log_active(
        &mut self,
        block: &DecodedBlock,
        site: usize,
        range: std::ops::Range<usize>,
        scratch: &Scratch,
    ) {
        // By when the block was sealed, not by when it is counted: the log is a function of the blocks as all else is.
        let first_ms = block.sealed_at_ms.saturating_sub(MAX_DELAY.as_millis() as i64);
        if self.start.end().as_unix_ms() <= first_ms {
            return;
        }
        let log = &mut self.sites[site].active;
        for (&event, &row) in scratch.by_site[range.clone()].iter().zip(&scratch.rows[range]) {
            let (time_ms, visitor) = (block.time_ms[event as usize], block.visitor[event as usize]);
            if visitor != 0 && time_ms >= first_ms {
                log.push(row, slice_of(self.start, time_ms), visitor);
            }
        }
        self.has_slices |= !log.is_empty();
    }

    /// Drops who was active when: the window has passed the bucket.
    pub(crate) fn forget_slices(&mut self) {
        self.sites.iter_mut().for_each(|site| site.active.clear());
        self.has_slices = false;
    }

    fn note_facts(&mut self, block: &DecodedBlock, site: usize, events: &[u32], late: bool) {
        let facts = &mut self.sites[site].facts;
        facts.counted += events.len() as u64;
        if late {
            facts.late += events.len() as u64;
        }
        let newest = events.iter().map(|&event| block.time_ms[event as usize]).max();
        facts.newest_event_ms = facts.newest_event_ms.max(newest);
    }
}

/// Feeds (event, row) pairs to a measure; returns by how many bytes its sketches grew.
fn feed_column(
    column: &mut MeasureColumn,
    source: &Source,
    values: &[u64],
    visitors: &[u64],
    pairs: impl Iterator<Item = (usize, usize)>,
) -> usize {
    let mut grown = 0;
    match (column, source) {
        (MeasureColumn::Integers(sums), Source::Sum(_)) => {
            // A value that is not set is 0 on the wire, and so is its share of the sum.
            pairs.for_each(|(event, row)| {
                sums[row] = sums[row].saturating_add(values[event].saturating_sub(1))
            });
        }
        (MeasureColumn::Integers(counts), _) => pairs.for_each(|(_, row)| counts[row] += 1),
        (MeasureColumn::Uniques(sets), _) => {
            for (event, row) in pairs.filter(|&(event, _)| visitors[event] != 0) {
                let before = sets[row].heap_bytes();
                sets[row].insert(visitors[event]);
                grown += sets[row].heap_bytes().saturating_sub(before);
            }
        }
        (MeasureColumn::Distributions(distributions), _) => {
            for (event, row) in pairs.filter(|&(event, _)| values[event] != 0) {
                let before = distributions[row].heap_bytes();
                distributions[row].record(values[event] - 1);
                grown += distributions[row].heap_bytes().saturating_sub(before);
            }
        }
    }
    grown
}
