//! Counting the events of a block in a bucket.
//!
//! Owns: finding the rows of events, and feeding measures, the log of who is active and the facts of sites.
//! Does not own: which events those are (`shard`), the tables (`table`) and what they are made of.
//!
//! Between two blocks of a shard come those of all others, so that little of its tables is in the processor's caches, and
//! waiting for memory is most of what counting would take. So it is done in steps, each for many events, and before a step
//! everything that it will read is read once for all of them ([`warm`](crate::dictionary::warm), `touch`): in loops in which no
//! load waits for another one, the processor has a dozen misses under way at a time. Totals of large sites, which every block has events
//! for, are fed without.

use super::Bucket;
use crate::active::{MAX_DELAY, slice_of};
use crate::block::{DecodedBlock, NamedIds};
use crate::census::{OTHER_ID, UNSET_ID};
use crate::dictionary::{Dictionary, warm};
use crate::event::MAX_DIMENSION_BYTES;
use crate::measure::MeasureColumn;
use crate::schema::{Measure, Schema, Source};
use crate::table::{SiteTable, hash_row, hash_tuple};
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

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
    /// The pages and then the texts that are looked up, each once.
    distinct: Vec<u32>,
    /// By page of the block: its site in the bucket, and its URL in the site.
    site_of_page: Vec<u32>,
    url_of_page: Vec<u32>,
    /// By text of the block: the site of that name, or its id in the dictionary of the dimension at hand.
    id_of_text: Vec<u32>,
    /// Per event of the bucket its tuple's ids, end to end.
    tuples: Vec<u32>,
    /// The events of the bucket by site, as positions in the block.
    by_site: Vec<u32>,
    /// The same events' positions among the events of the bucket.
    position: Vec<u32>,
    /// Where each site's events end.
    site_ends: Vec<u32>,
    /// Per event, in the order of `by_site`: its site, URL and tuple.
    keys: Vec<Key>,
    /// Per event, in the order of `by_site`: its row.
    rows: Vec<u32>,
    /// Of the lookups of a step: their hashes, and what they will look at.
    hashes: Vec<u64>,
    candidates: Vec<u32>,
    /// What the measures read in the block at hand.
    pub(crate) feeds: Feeds,
}

/// What an event's row is found by.
#[derive(Clone, Copy, Debug, Default)]
struct Key {
    site: u32,
    url: u32,
    tuple: u32,
}

/// So many lookups are one step: what they read stays in the caches until it is used.
const STEP: usize = 256;

impl Bucket {
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
        self.intern_tuples(limit, scratch);
        self.find_rows(scratch);
        let mut from = 0;
        let site_ends = std::mem::take(&mut scratch.site_ends);
        for (site, &end) in site_ends.iter().enumerate() {
            let range = from..end as usize;
            from = end as usize;
            if !range.is_empty() {
                self.measure(block, site, range.clone(), scratch);
                self.log_active(block, site, range.clone(), scratch);
                self.note_facts(block, site, &scratch.by_site[range], late);
            }
        }
        scratch.site_ends = site_ends;
    }

    fn resolve_pages(&mut self, block: &DecodedBlock, events: &[u32], scratch: &mut Scratch) {
        self.resolve_sites(block, events, scratch);
        let Scratch { distinct, site_of_page, url_of_page, candidates, .. } = scratch;
        url_of_page.clear();
        url_of_page.resize(block.pages.len(), NOT_YET);
        let site_of = |page: u32| site_of_page[page as usize] as usize;
        for pages in distinct.chunks(STEP) {
            let hash_of = |page: u32| block.pages[page as usize].hash;
            let lookups = pages.iter().map(|&page| (&self.sites[site_of(page)].urls, hash_of(page)));
            warm(lookups, candidates);
            for &page in pages {
                let url = block.text(block.pages[page as usize].url);
                let site = Arc::make_mut(&mut self.sites[site_of(page)]);
                url_of_page[page as usize] = site.urls.intern_hashed(url, hash_of(page));
            }
        }
    }

    /// Finds the sites of all pages that the events have. These pages are `distinct` then, in the order of their first events.
    fn resolve_sites(&mut self, block: &DecodedBlock, events: &[u32], scratch: &mut Scratch) {
        let Scratch { distinct, site_of_page, id_of_text, candidates, .. } = scratch;
        site_of_page.clear();
        site_of_page.resize(block.pages.len(), NOT_YET);
        distinct.clear();
        for &event in events {
            let page = block.page[event as usize];
            if std::mem::replace(&mut site_of_page[page as usize], 0) == NOT_YET {
                distinct.push(page);
            }
        }
        let name_of = |page: u32| block.pages[page as usize].site;
        let names = distinct.iter().map(|&page| block.text_hashes[name_of(page) as usize]);
        warm(names.map(|hash| (&*self.site_names, hash)), candidates);
        id_of_text.clear();
        id_of_text.resize(block.text_count(), NOT_YET);
        let mut touched = 0;
        for &page in &*distinct {
            let name = name_of(page);
            let site = &mut id_of_text[name as usize];
            if *site == NOT_YET {
                *site = self.site_hashed(block.text(name), block.text_hashes[name as usize]);
                touched ^= self.sites[*site as usize].touch();
            }
            site_of_page[page as usize] = *site;
        }
        black_box(touched);
    }

    fn resolve_tuples(&mut self, block: &DecodedBlock, events: &[u32], limit: u32, scratch: &mut Scratch) {
        let named = |dimension: &NamedIds| self.schema.dimension_index(&dimension.name);
        for index in block.dimensions.iter().filter_map(named) {
            if self.tuples.slot(index).is_none() {
                Arc::make_mut(&mut self.tuples).slot_or_insert(index);
            }
        }
        let width = self.tuples.width();
        scratch.tuples.clear();
        scratch.tuples.resize(events.len() * width, UNSET_ID);
        for dimension in &block.dimensions {
            let Some(index) = self.schema.dimension_index(&dimension.name) else { continue };
            let Some(slot) = self.tuples.slot(index) else { continue };
            let dictionary = &mut self.dictionaries[index];
            scratch.id_of_text.clear();
            scratch.id_of_text.resize(block.text_count(), NOT_YET);
            find_texts(dictionary, block, dimension, events, scratch);
            for (at, &event) in events.iter().enumerate() {
                let text = dimension.ids[event as usize];
                let mut id = scratch.id_of_text[text as usize];
                if id == NOT_YET {
                    let site = scratch.site_of_page[block.page[event as usize] as usize];
                    let values = &mut Arc::make_mut(&mut self.sites[site as usize]).values[index];
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
                        None => Arc::make_mut(dictionary).intern_hashed(text_value, hash),
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
        scratch.keys.clear();
        scratch.keys.resize(events.len(), Key::default());
        for (position, &event) in events.iter().enumerate() {
            let slot = &mut ends[site_of(event)];
            scratch.by_site[*slot as usize] = event;
            scratch.position[*slot as usize] = position as u32;
            let page = block.page[event as usize] as usize;
            let (site, url) = (scratch.site_of_page[page], scratch.url_of_page[page]);
            scratch.keys[*slot as usize] = Key { site, url, tuple: NOT_YET };
            *slot += 1;
        }
    }

    /// Finds the tuples of the events, in which values beyond the limit of their site are replaced.
    fn intern_tuples(&mut self, limit: u32, scratch: &mut Scratch) {
        let known = Arc::make_mut(&mut self.tuples);
        let width = known.width();
        let Scratch { tuples, position, keys, hashes, candidates, .. } = scratch;
        for (keys, positions) in keys.chunks_mut(STEP).zip(position.chunks(STEP)) {
            let from = |position: u32| position as usize * width..(position as usize + 1) * width;
            let touched = keys.iter().zip(positions).fold(0, |touched, (key, &position)| {
                touched ^ self.sites[key.site as usize].touch_values(&tuples[from(position)], known)
            });
            black_box(touched);
            hashes.clear();
            let mut positions_of = positions.iter();
            for keys in keys.chunk_by(|a, b| a.site == b.site) {
                let site = Arc::make_mut(&mut self.sites[keys[0].site as usize]);
                for &position in positions_of.by_ref().take(keys.len()) {
                    let ids = &mut tuples[from(position)];
                    site.admit(ids, known, limit, &self.dictionaries);
                    hashes.push(hash_tuple(ids));
                }
            }
            known.warm(hashes, candidates);
            for ((key, &position), &hash) in keys.iter_mut().zip(positions).zip(&*hashes) {
                key.tuple = known.intern_hashed(&tuples[from(position)], hash);
            }
        }
    }

    fn find_rows(&mut self, scratch: &mut Scratch) {
        let Scratch { keys, rows, hashes, candidates, .. } = scratch;
        rows.clear();
        for keys in keys.chunks(STEP) {
            hashes.clear();
            hashes.extend(keys.iter().map(|key| hash_row(key.url, key.tuple)));
            let tables = keys.iter().map(|key| &*self.sites[key.site as usize]);
            let lookups = tables.clone().zip(&*hashes);
            black_box(lookups.clone().fold(0, |touched, (table, &hash)| touched ^ table.touch_index(hash)));
            candidates.clear();
            candidates.extend(lookups.map(|(table, &hash)| table.candidate(hash)));
            let found = tables.zip(&*candidates);
            black_box(found.fold(0, |touched, (table, &row)| touched ^ table.touch_row(row as usize)));
            let mut hashes = hashes.iter();
            for keys in keys.chunk_by(|a, b| a.site == b.site) {
                let site = Arc::make_mut(&mut self.sites[keys[0].site as usize]);
                let keys = keys.iter().zip(hashes.by_ref());
                rows.extend(keys.map(|(key, &hash)| site.row_hashed(key.url, key.tuple, hash)));
            }
        }
    }

    fn measure(&mut self, block: &DecodedBlock, site: usize, range: Range<usize>, scratch: &Scratch) {
        let table = Arc::make_mut(&mut self.sites[site]);
        let len = table.len();
        let SiteTable { measures, totals, sketch_bytes, .. } = table;
        let mut totals = totals.as_mut().map(|totals| totals.measures_mut().iter_mut());
        let (events, rows) = (&scratch.by_site[range.clone()], &scratch.rows[range]);
        for ((column, measure), feed) in measures.iter_mut().zip(self.schema.measures()).zip(&scratch.feeds.0)
        {
            let total = totals.as_mut().and_then(Iterator::next);
            let Some(feed) = feed else { continue };
            column.resize(len);
            let counts = |event: usize| feed.kind.is_none_or(|kind| block.kind[event] == kind);
            let pairs = events.iter().map(|&event| event as usize).zip(rows.iter().map(|&row| row as usize));
            let pairs = pairs.filter(|&(event, _)| counts(event));
            let values = feed.value.map_or(&[][..], |value| &block.values[value].plus_one);
            if let Some(total) = total {
                let all_in_one = pairs.clone().map(|(event, _)| (event, 0));
                feed_column(total, &measure.source, values, &block.visitor, all_in_one);
            }
            *sketch_bytes += feed_column(column, &measure.source, values, &block.visitor, pairs);
        }
        table.add_up(&self.schema);
    }

    fn log_active(&mut self, block: &DecodedBlock, site: usize, range: Range<usize>, scratch: &Scratch) {
        // By when the block was sealed, not by when it is counted: the log is a function of the blocks as all else is.
        let first_ms = block.sealed_at_ms.saturating_sub(MAX_DELAY.as_millis() as i64);
        if self.start.end().as_unix_ms() <= first_ms {
            return;
        }
        let log = &mut Arc::make_mut(&mut self.sites[site]).active;
        for (&event, &row) in scratch.by_site[range.clone()].iter().zip(&scratch.rows[range]) {
            let (time_ms, visitor) = (block.time_ms[event as usize], block.visitor[event as usize]);
            if visitor != 0 && time_ms >= first_ms {
                log.push(row, slice_of(self.start, time_ms), visitor);
            }
        }
        self.has_slices |= !log.is_empty();
    }

    fn note_facts(&mut self, block: &DecodedBlock, site: usize, events: &[u32], late: bool) {
        let facts = &mut Arc::make_mut(&mut self.sites[site]).facts;
        facts.counted += events.len() as u64;
        if late {
            facts.late += events.len() as u64;
        }
        let newest = events.iter().map(|&event| block.time_ms[event as usize]).max();
        facts.newest_event_ms = facts.newest_event_ms.max(newest);
    }
}

/// Finds the ids of all texts that the events have in a dimension, of those that are known.
fn find_texts(
    dictionary: &Dictionary,
    block: &DecodedBlock,
    dimension: &NamedIds,
    events: &[u32],
    scratch: &mut Scratch,
) {
    let Scratch { distinct, id_of_text, candidates, .. } = scratch;
    distinct.clear();
    for &event in events {
        let text = dimension.ids[event as usize];
        // Until it is looked up, another id than that of a text that was not seen.
        if std::mem::replace(&mut id_of_text[text as usize], UNSET_ID) == NOT_YET {
            distinct.push(text);
        }
    }
    let hash_of = |text: u32| block.text_hashes[text as usize];
    for texts in distinct.chunks(STEP) {
        warm(texts.iter().map(|&text| (dictionary, hash_of(text))), candidates);
        for &text in texts {
            let known = dictionary.find_hashed(block.text(text), hash_of(text));
            id_of_text[text as usize] = known.unwrap_or(NOT_YET);
        }
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
