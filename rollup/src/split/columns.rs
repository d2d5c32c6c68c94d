//! Events of a shard as columns.
//!
//! Owns: the columns of a block, and the ids that texts and pages have in it.
//! Does not own: which events are in it (`split`).

use super::names::Names;
use super::{BatchReader, ReadPage};
use crate::block::lengths_column;
use crate::dictionary::mix;
use crate::wire::{id_column, uint_column};
use bytes::Bytes;
use hashbrown::HashTable;
use tidemark_proto::v1;

/// Puts the events of one shard into columns. Reused from shard to shard.
#[derive(Default)]
pub(super) struct BlockBuilder {
    /// By id in the batch's dictionary: id in the block's, plus one.
    local_texts: Vec<u32>,
    /// The texts that the block has, by their ids in the batch's dictionary.
    block_texts: Vec<u32>,
    /// By position among the batch's pages: position among those of the page's block, plus one. A page is in no other block.
    local_pages: Vec<u32>,
    /// The block's pages, by what they are: two spellings of one URL are one page.
    page_index: HashTable<u32>,
    /// Site and URL of the block's pages, as ids of the block's texts.
    pages: Vec<(u64, u64)>,
}

impl BlockBuilder {
    /// The columns of these events of a batch.
    pub(super) fn build(
        &mut self,
        batch: &BatchReader<'_>,
        events: &[u32],
        rejected: Vec<v1::Rejected>,
    ) -> v1::Columns {
        self.start(batch);
        let first_time = events.iter().map(|&at| batch.events[at as usize].time_ms).min().unwrap_or(0);
        let len = events.len();
        let (mut page, mut time, mut kind, mut visitor) =
            (vec![0; len], vec![0; len], vec![0; len], vec![0; len]);
        let mut dimensions = vec![Vec::new(); batch.dimension_names.len()];
        let mut values = vec![Vec::new(); batch.value_names.len()];
        for (row, &at) in events.iter().enumerate() {
            let event = &batch.events[at as usize];
            if let Ok(read) = &batch.pages[event.page as usize].read {
                page[row] = self.local_page(event.page, read);
            }
            time[row] = event.time_ms.abs_diff(first_time);
            kind[row] = self.local(event.kind);
            visitor[row] = event.visitor;
            let before = at.checked_sub(1).map(|before| &batch.events[before as usize]);
            let (dimensions_from, values_from) =
                before.map_or((0, 0), |before| (before.dimensions_end, before.values_end));
            for &(name, text) in &batch.dimensions[dimensions_from as usize..event.dimensions_end as usize] {
                let local = self.local(text);
                set(&mut dimensions[name as usize], len, row, local);
            }
            for &(name, value) in &batch.values[values_from as usize..event.values_end as usize] {
                set(&mut values[name as usize], len, row, value);
            }
        }
        let lengths: Vec<u64> =
            self.block_texts.iter().map(|&text| batch.texts.get(text).len() as u64).collect();
        let dictionary: String = self.block_texts.iter().map(|&text| batch.texts.get(text)).collect();
        v1::Columns {
            dictionary: dictionary.into(),
            dictionary_lengths: lengths_column(&lengths),
            page_site: lengths_column_of(&self.pages, |page| page.0),
            page_url: lengths_column_of(&self.pages, |page| page.1),
            page: id_column(&page),
            base_time_ms: first_time,
            time: uint_column(&time),
            kind: id_column(&kind),
            visitor: uint_column(&visitor),
            dimensions: named(&batch.dimension_names, &dimensions, id_column),
            values: named(&batch.value_names, &values, uint_column),
            rejected,
        }
    }

    fn start(&mut self, batch: &BatchReader<'_>) {
        for &text in &self.block_texts {
            self.local_texts[text as usize] = 0;
        }
        self.local_texts.resize(batch.texts.len(), 0);
        self.local_pages.resize(batch.pages.len(), 0);
        self.block_texts.clear();
        self.page_index.clear();
        self.pages.clear();
        self.local(0);
    }

    /// The block's number of a page, which joins the block's pages where it is new.
    fn local_page(&mut self, page: u32, read: &ReadPage) -> u32 {
        if let Some(known) = self.local_pages[page as usize].checked_sub(1) {
            return known;
        }
        let (site, url) = (u64::from(self.local(read.site)), u64::from(self.local(read.url)));
        let (pages, hash_of) = (&mut self.pages, |(site, url): (u64, u64)| mix(mix(site) ^ url));
        let hash = hash_of((site, url));
        let local = match self.page_index.find(hash, |&local| pages[local as usize] == (site, url)) {
            Some(&local) => local,
            None => {
                let local = pages.len() as u32;
                pages.push((site, url));
                self.page_index.insert_unique(hash, local, |&local| hash_of(pages[local as usize]));
                local
            }
        };
        self.local_pages[page as usize] = local + 1;
        local
    }

    /// The block's id of a text, which joins the block's dictionary where it is new.
    fn local(&mut self, text: u32) -> u32 {
        let local = &mut self.local_texts[text as usize];
        if *local == 0 {
            self.block_texts.push(text);
            *local = self.block_texts.len() as u32;
        }
        *local - 1
    }
}

/// Sets one row of a column that exists only where some row is set.
fn set<T: Clone + Default>(column: &mut Vec<T>, len: usize, row: usize, value: T) {
    if column.is_empty() {
        column.resize(len, T::default());
    }
    column[row] = value;
}

fn lengths_column_of(pages: &[(u64, u64)], part: impl Fn(&(u64, u64)) -> u64) -> Bytes {
    if pages.is_empty() {
        return Bytes::new();
    }
    lengths_column(&pages.iter().map(part).collect::<Vec<_>>())
}

fn named<T>(names: &Names<'_>, columns: &[Vec<T>], encode: impl Fn(&[T]) -> Bytes) -> Vec<v1::Column> {
    let columns = names.iter().zip(columns).map(|(name, column)| (name, encode(column)));
    columns
        .filter(|(_, data)| !data.is_empty())
        .map(|(name, data)| v1::Column { name: name.to_owned(), data })
        .collect()
}
