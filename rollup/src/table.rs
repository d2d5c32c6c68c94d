//! One site's rows in one bucket of one shard.
//!
//! Owns: rows keyed by URL and dimension tuple, their measures, and the site's facts in the bucket.
//! Does not own: the dictionaries and tuples that all sites of a bucket share (`bucket`).
//!
//! Everything is a column, and a row is a position. Two 32-bit ids are a row's whole key, so that finding one touches
//! little memory and a scan reads only what its query needs.

mod totals;

use crate::active::ActiveLog;
use crate::census::{OTHER_ID, UNSET_ID, ValueSet};
use crate::dictionary::index::Index;
use crate::dictionary::{Dictionary, mix};
use crate::measure::{MeasureColumn, extend, touch};
use crate::schema::Schema;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use tidemark_proto::v1::Reason;
pub(crate) use totals::Totals;

/// Distinct dimension tuples: per tuple one id for each dimension of the schema.
///
/// Only the dimensions that some tuple has set take room; when another one is first set, all tuples are laid out anew.
#[derive(Clone, Debug)]
pub(crate) struct TupleSet {
    /// Per dimension of the schema.
    slots: Vec<Slot>,
    width: usize,
    ids: Vec<u32>,
    len: u32,
    index: Index,
}

/// Where a dimension is in a tuple; `None` where no tuple has it set.
type Slot = Option<usize>;

impl TupleSet {
    pub(crate) fn new(dimensions: usize) -> Self {
        Self { slots: vec![None; dimensions], width: 0, ids: Vec::new(), len: 0, index: Index::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// How many ids a tuple has.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Where a dimension of the schema is in a tuple; `None` where no tuple has it set.
    pub(crate) fn slot(&self, dimension: usize) -> Slot {
        self.slots[dimension]
    }

    /// Where a dimension is, which takes room from now on.
    pub(crate) fn slot_or_insert(&mut self, dimension: usize) -> usize {
        if let Some(slot) = self.slots[dimension] {
            return slot;
        }
        let (slot, width) = (self.width, self.width + 1);
        if self.len > 0 {
            let mut ids = Vec::with_capacity(self.ids.len() + self.len());
            for tuple in 0..self.len {
                ids.extend_from_slice(self.get(tuple));
                ids.push(UNSET_ID);
            }
            // An id that is not set adds nothing to the hash, so the index stays valid.
            self.ids = ids;
        }
        self.width = width;
        self.slots[dimension] = Some(slot);
        slot
    }

    pub(crate) fn get(&self, tuple: u32) -> &[u32] {
        &self.ids[tuple as usize * self.width..][..self.width]
    }

    /// Has what lookups of these hashes will read in the caches, as [`warm`](crate::dictionary::warm) does.
    pub(crate) fn warm(&self, hashes: &[u64], candidates: &mut Vec<u32>) {
        black_box(hashes.iter().fold(0, |touched, &hash| touched ^ self.index.touch(hash)));
        candidates.clear();
        candidates.extend(hashes.iter().map(|&hash| self.index.candidate(hash)));
        let firsts = candidates.iter().map(|&id| id as usize * self.width);
        // A tuple is in two lines at most.
        let ends = firsts.flat_map(|first| [first, (first + self.width).saturating_sub(1)]);
        black_box(ends.fold(0, |touched, at| touched ^ touch(&self.ids, at)));
    }

    /// The id of this tuple, which is added where it is new.
    pub(crate) fn intern(&mut self, tuple: &[u32]) -> u32 {
        self.intern_hashed(tuple, hash_tuple(tuple))
    }

    /// The same where the caller has the hash already.
    pub(crate) fn intern_hashed(&mut self, tuple: &[u32], hash: u64) -> u32 {
        if let Some(known) = self.index.find(hash, |id| self.get(id) == tuple) {
            return known;
        }
        let id = self.len;
        let (width, ids) = (self.width, &self.ids);
        self.index.insert(id, hash, |id| hash_tuple(&ids[id as usize * width..][..width]));
        self.len += 1;
        extend(&mut self.ids, tuple);
        id
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.ids.capacity() * 4 + self.index.heap_bytes() + self.slots.capacity() * size_of::<Slot>()
    }
}

/// A sum of products: dimensions that are not set cost nothing, and the compiler vectorises the rest.
pub(crate) fn hash_tuple(tuple: &[u32]) -> u64 {
    let mut factor = 0x9E37_79B9_7F4A_7C15_u64;
    let mut sum = 0_u64;
    for &id in tuple {
        sum = sum.wrapping_add(u64::from(id).wrapping_mul(factor));
        factor = factor.wrapping_mul(0xD134_2543_DE82_EF95);
    }
    mix(sum)
}

/// One site's rows.
#[derive(Clone, Debug)]
pub(crate) struct SiteTable {
    pub(crate) urls: Dictionary,
    /// Per row.
    pub(crate) url: Vec<u32>,
    /// Per row.
    pub(crate) tuple: Vec<u32>,
    index: Index,
    /// One per measure of the schema, each with an entry per row.
    pub(crate) measures: Vec<MeasureColumn>,
    /// One per dimension of the schema.
    pub(crate) values: Vec<ValueSet>,
    /// Who was active when, as long as some window may touch the bucket.
    pub(crate) active: ActiveLog,
    pub(crate) facts: SiteFacts,
    /// What all rows come to, where there are many.
    pub(crate) totals: Option<Totals>,
    /// Bytes that the measures' sketches hold, kept up to date so that nobody has to visit them all.
    pub(crate) sketch_bytes: usize,
}

/// What happened to a site's events in a bucket, beside the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteFacts {
    /// Events counted.
    pub counted: u64,
    /// Of these, events that were sealed after the bucket had closed.
    pub late: u64,
    /// Time of the newest event counted, milliseconds since the Unix epoch.
    pub newest_event_ms: Option<i64>,
    /// Events not counted, by reason.
    pub rejected: BTreeMap<Reason, u64>,
    /// Events that came again after they had been counted. The one number here that is not a function of the blocks.
    pub duplicate: u64,
}

impl SiteFacts {
    /// Adds the facts of another part.
    pub fn merge(&mut self, other: &Self) {
        self.counted += other.counted;
        self.late += other.late;
        self.newest_event_ms = self.newest_event_ms.max(other.newest_event_ms);
        self.duplicate += other.duplicate;
        for (&reason, &events) in &other.rejected {
            *self.rejected.entry(reason).or_default() += events;
        }
    }

    /// Events not counted, for any reason.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }
}

impl SiteTable {
    pub(crate) fn new(schema: &Schema) -> Self {
        Self {
            urls: Dictionary::default(),
            url: Vec::new(),
            tuple: Vec::new(),
            index: Index::default(),
            measures: schema.measures().iter().map(|measure| MeasureColumn::new(&measure.source)).collect(),
            values: vec![ValueSet::default(); schema.dimensions().len()],
            active: ActiveLog::default(),
            facts: SiteFacts::default(),
            totals: None,
            sketch_bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.url.len()
    }

    /// Reads what every block that has the site reads and where its columns grow, without waiting for it. The result is of no
    /// use, here and below.
    pub(crate) fn touch(&self) -> u32 {
        let values = self.values.iter().fold(0, |touched, values| touched ^ values.len() as u32);
        values ^ self.touch_row(self.len().saturating_sub(1)) ^ self.active.touch() ^ self.facts.late as u32
    }

    /// Reads what admitting a tuple reads.
    pub(crate) fn touch_values(&self, tuple: &[u32], tuples: &TupleSet) -> u32 {
        let values = self.values.iter().zip(&tuples.slots);
        values.fold(0, |touched, (values, slot)| touched ^ slot.map_or(0, |slot| values.touch(tuple[slot])))
    }

    /// Reads where the lookup of a row begins.
    pub(crate) fn touch_index(&self, hash: u64) -> u32 {
        self.index.touch(hash)
    }

    /// The row whose key a lookup will look at first, or [`NO_ID`](crate::dictionary::index::NO_ID).
    pub(crate) fn candidate(&self, hash: u64) -> u32 {
        self.index.candidate(hash)
    }

    /// Reads the columns of a row, which may not be there.
    pub(crate) fn touch_row(&self, row: usize) -> u32 {
        let key = touch(&self.url, row) ^ touch(&self.tuple, row);
        self.measures.iter().fold(key, |touched, column| touched ^ column.touch(row))
    }

    /// The row of this key, which is added where it is new; its measures are empty until fed.
    pub(crate) fn row(&mut self, url: u32, tuple: u32) -> u32 {
        self.row_hashed(url, tuple, hash_row(url, tuple))
    }

    /// The same where the caller has the hash already.
    pub(crate) fn row_hashed(&mut self, url: u32, tuple: u32, hash: u64) -> u32 {
        let (urls, tuples) = (&self.url, &self.tuple);
        let same = |row: u32| urls[row as usize] == url && tuples[row as usize] == tuple;
        if let Some(known) = self.index.find(hash, same) {
            return known;
        }
        let row = urls.len() as u32;
        self.index.insert(row, hash, |row| hash_row(urls[row as usize], tuples[row as usize]));
        extend(&mut self.url, &[url]);
        extend(&mut self.tuple, &[tuple]);
        row
    }

    /// Replaces values of a tuple that are beyond the limit by `(other)`.
    ///
    /// Asked only for new rows: a value that is new to the site cannot be in an old one.
    pub(crate) fn admit(
        &mut self,
        tuple: &mut [u32],
        tuples: &TupleSet,
        limit: u32,
        dictionaries: &[Arc<Dictionary>],
    ) {
        for ((values, dictionary), slot) in self.values.iter_mut().zip(dictionaries).zip(&tuples.slots) {
            let Some(slot) = *slot else { continue };
            if !values.admit(tuple[slot], limit, |id| dictionary.hash_of(id)) {
                tuple[slot] = OTHER_ID;
            }
        }
    }

    /// Notes the values of a tuple whose rows come from a segment, whatever the limit.
    pub(crate) fn note_values(&mut self, tuple: &[u32], tuples: &TupleSet, dictionaries: &[Arc<Dictionary>]) {
        for ((values, dictionary), slot) in self.values.iter_mut().zip(dictionaries).zip(&tuples.slots) {
            if let Some(slot) = *slot {
                values.admit(tuple[slot], u32::MAX, |id| dictionary.hash_of(id));
                values.note_other(tuple[slot] == OTHER_ID);
            }
        }
    }

    /// Finds which of the noted values are beyond the limit.
    pub(crate) fn close_values(&mut self, limit: u32, dictionaries: &[Arc<Dictionary>]) {
        for (values, dictionary) in self.values.iter_mut().zip(dictionaries) {
            values.close(limit, |id| dictionary.hash_of(id));
        }
    }

    /// A copy of the URLs, each with one row that has this sum over all of its rows. Rows are not found in it by their keys.
    pub(crate) fn urls_by(&self, measure: Option<usize>, schema: &Schema) -> Self {
        let mut urls = Self::new(schema);
        urls.urls = self.urls.clone();
        urls.url = (0..self.urls.len() as u32).collect();
        urls.tuple = vec![0; self.urls.len()];
        if let Some(measure) = measure {
            urls.measures[measure] = MeasureColumn::Integers(self.sums_by_url(measure));
        }
        urls
    }

    /// By URL: the sum of a measure over its rows; 0 of one that is no sum.
    pub(crate) fn sums_by_url(&self, measure: usize) -> Vec<u64> {
        let mut sums = vec![0_u64; self.urls.len()];
        if let MeasureColumn::Integers(values) = &self.measures[measure] {
            for (&value, &url) in values.iter().zip(&self.url) {
                sums[url as usize] = sums[url as usize].saturating_add(value);
            }
        }
        sums
    }

    /// Merges entries `from` of these columns into rows `to`.
    pub(crate) fn merge_measures(&mut self, columns: &[MeasureColumn], from: &[u32], to: &[u32]) {
        let len = self.len();
        for (mine, theirs) in self.measures.iter_mut().zip(columns) {
            mine.resize(len);
            mine.merge_entries(theirs, from, to);
        }
        self.totals = None;
        self.sketch_bytes = self.measures.iter().map(MeasureColumn::sketch_bytes).sum();
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let measures: usize = self.measures.iter().map(MeasureColumn::column_bytes).sum();
        let values: usize = self.values.iter().map(ValueSet::heap_bytes).sum();
        self.urls.heap_bytes()
            + (self.url.capacity() + self.tuple.capacity()) * size_of::<u32>()
            + self.index.heap_bytes()
            + measures
            + self.measures.capacity() * size_of::<MeasureColumn>()
            + values
            + self.values.capacity() * size_of::<ValueSet>()
            + self.sketch_bytes
            + self.active.heap_bytes()
            + self.totals.as_ref().map_or(0, Totals::heap_bytes)
    }
}

pub(crate) fn hash_row(url: u32, tuple: u32) -> u64 {
    mix(u64::from(url) << 32 | u64::from(tuple))
}
