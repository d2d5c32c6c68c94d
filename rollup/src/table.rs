//! One site's rows in one bucket of one shard.
//!
//! Owns: rows keyed by URL and dimension tuple, their measures, and the site's facts in the bucket.
//! Does not own: the dictionaries and tuples that all sites of a bucket share (`bucket`).
//!
//! Everything is a column, and a row is a position. Two 32-bit ids are a row's whole key, so that finding one touches
//! little memory and a scan reads only what its query needs.

use crate::census::{OTHER_ID, ValueSet};
use crate::dictionary::{Dictionary, mix};
use crate::measure::{MeasureColumn, grow};
use crate::schema::Schema;
use hashbrown::HashTable;
use std::collections::BTreeMap;
use tidemark_proto::v1::Reason;

/// Distinct dimension tuples: per tuple one id for each dimension of the schema.
#[derive(Clone, Debug)]
pub(crate) struct TupleSet {
    width: usize,
    ids: Vec<u32>,
    index: HashTable<u32>,
}

impl TupleSet {
    pub(crate) fn new(width: usize) -> Self {
        Self { width, ids: Vec::new(), index: HashTable::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len().checked_div(self.width).unwrap_or(1)
    }

    pub(crate) fn get(&self, tuple: u32) -> &[u32] {
        &self.ids[tuple as usize * self.width..][..self.width]
    }

    pub(crate) fn find(&self, tuple: &[u32]) -> Option<u32> {
        self.index.find(hash_tuple(tuple), |&id| self.get(id) == tuple).copied()
    }

    /// The id of this tuple, which is added where it is new.
    pub(crate) fn intern(&mut self, tuple: &[u32]) -> u32 {
        if let Some(id) = self.find(tuple) {
            return id;
        }
        let (hash, width) = (hash_tuple(tuple), self.width);
        let id = self.index.len() as u32;
        self.ids.extend_from_slice(tuple);
        let ids = &self.ids;
        self.index.insert_unique(hash, id, |&id| hash_tuple(&ids[id as usize * width..][..width]));
        id
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.ids.capacity() * 4 + self.index.allocation_size()
    }
}

/// A sum of products: dimensions that are not set cost nothing, and the compiler vectorises the rest.
fn hash_tuple(tuple: &[u32]) -> u64 {
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
    index: HashTable<u32>,
    /// One per measure of the schema, each with an entry per row.
    pub(crate) measures: Vec<MeasureColumn>,
    /// One per dimension of the schema.
    pub(crate) values: Vec<ValueSet>,
    pub(crate) facts: SiteFacts,
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
}

impl SiteFacts {
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
            index: HashTable::new(),
            measures: schema.measures().iter().map(|measure| MeasureColumn::new(&measure.source)).collect(),
            values: vec![ValueSet::default(); schema.dimensions().len()],
            facts: SiteFacts::default(),
            sketch_bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.url.len()
    }

    pub(crate) fn find_row(&self, url: u32, tuple: u32) -> Option<u32> {
        let same = |&row: &u32| self.url[row as usize] == url && self.tuple[row as usize] == tuple;
        self.index.find(hash_row(url, tuple), same).copied()
    }

    /// Adds a row that is not there yet; its measures follow with [`fit_measures`](Self::fit_measures).
    pub(crate) fn add_row(&mut self, url: u32, tuple: u32) -> u32 {
        let row = self.url.len();
        grow(&mut self.url, row + 1);
        grow(&mut self.tuple, row + 1);
        (self.url[row], self.tuple[row]) = (url, tuple);
        let (urls, tuples) = (&self.url, &self.tuple);
        let hash_of = |&row: &u32| hash_row(urls[row as usize], tuples[row as usize]);
        self.index.insert_unique(hash_row(url, tuple), row as u32, hash_of);
        row as u32
    }

    /// Gives every row its measures.
    pub(crate) fn fit_measures(&mut self) {
        let len = self.len();
        self.measures.iter_mut().for_each(|measure| measure.resize(len));
    }

    /// The tuple under which an event counts: values beyond the limit are replaced by `(other)`.
    ///
    /// Asked only for new rows: a value that is new to the site cannot be in an old one.
    pub(crate) fn admit(&mut self, tuple: &mut [u32], limit: u32, dictionaries: &[Dictionary]) {
        for ((id, values), dictionary) in tuple.iter_mut().zip(&mut self.values).zip(dictionaries) {
            if !values.admit(*id, limit, |id| dictionary.hash_of(id)) {
                *id = OTHER_ID;
            }
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let measures: usize = self.measures.iter().map(MeasureColumn::column_bytes).sum();
        let values: usize = self.values.iter().map(ValueSet::heap_bytes).sum();
        self.urls.heap_bytes()
            + (self.url.capacity() + self.tuple.capacity()) * size_of::<u32>()
            + self.index.allocation_size()
            + measures
            + self.measures.capacity() * size_of::<MeasureColumn>()
            + values
            + self.values.capacity() * size_of::<ValueSet>()
            + self.sketch_bytes
    }
}

fn hash_row(url: u32, tuple: u32) -> u64 {
    mix(u64::from(url) << 32 | u64::from(tuple))
}
