//! Which row of the answer each row of a site's table belongs to.
//!
//! A filter or group looks at each distinct URL and tuple once, not at each row: a row only looks up what became of its
//! two ids.

use crate::bucket::Bucket;
use crate::census::{OTHER_ID, UNSET_ID};
use crate::dictionary::{hash_text, mix};
use crate::lanes::{names_of, url_of};
use crate::measure::NOWHERE;
use crate::partial::Partial;
use crate::query::{Field, Query, Test};
use crate::scan::ScanContext;
use crate::sharding::page_hash;
use crate::table::SiteTable;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::HashMap;

/// One pass over the rows of a site.
pub(super) struct TableScan<'a> {
    bucket: &'a Bucket,
    site: &'a str,
    table: &'a SiteTable,
    query: &'a Query,
    /// Per dimension of the bucket that the query touches: the largest hash that keeps its name.
    max_kept: Vec<Option<u64>>,
}

/// What of a table is read; an empty mask lets everything through.
#[derive(Debug, Default)]
pub(super) struct Masks {
    /// By URL.
    pub(super) urls: Vec<bool>,
    /// By row.
    pub(super) rows: Vec<bool>,
}

impl Masks {
    fn pass(&self, row: usize, url: u32) -> bool {
        (self.rows.is_empty() || self.rows[row]) && (self.urls.is_empty() || self.urls[url as usize])
    }
}

/// A tuple that the filters do not let through.
const FILTERED: u32 = u32::MAX;
/// A tuple that was not looked at yet.
const UNSEEN: u32 = u32::MAX - 1;

impl<'a> TableScan<'a> {
    pub(super) fn new(
        bucket: &'a Bucket,
        site: &'a str,
        table: &'a SiteTable,
        query: &'a Query,
        context: &ScanContext,
    ) -> Self {
        let mut max_kept = vec![None; bucket.dictionaries.len()];
        for name in query.dimensions() {
            let Some(dimension) = bucket.schema.dimension_index(name) else { continue };
            let agreed = bucket.agreed_cut(name, site, &context.folds);
            let own = table.values[dimension].max_kept_hash();
            max_kept[dimension] = agreed.into_iter().chain(own).min();
        }
        Self { bucket, site, table, query, max_kept }
    }

    /// Per row of the table what `resolve` makes of its URL and grouped dimensions, asked once for each pair of them, or for each
    /// value of the one dimension; [`NOWHERE`] where a filter or a mask does not let the row through.
    pub(super) fn rows(&self, masks: &Masks, mut resolve: impl FnMut(u32, &[u32]) -> u32) -> Vec<u32> {
        let groups_url = self.query.group_by.contains(&Field::Url);
        let by_tuple = !self.query.dimensions().is_empty();
        if let Some((dimension, slot)) = self.only_slot() {
            return self.rows_of_values(dimension, slot, masks, |ids| resolve(0, ids));
        }
        let mut tuples = TupleGroups::new(self);
        // What was resolved by (URL, group of tuples): by either alone a plain table suffices.
        let mut by_url = vec![UNSEEN; if groups_url && !by_tuple { self.table.urls.len() } else { 0 }];
        let mut by_group: Vec<u32> = Vec::new();
        let mut by_both: HashMap<(u32, u32), u32> = HashMap::new();

        let mut rows = Vec::with_capacity(self.table.len());
        for (row, (&url, &tuple)) in self.table.url.iter().zip(&self.table.tuple).enumerate() {
            if !masks.pass(row, url) {
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
                *slot = resolve(url, tuples.ids(group));
            }
            rows.push(*slot);
        }
        rows
    }

    /// The one dimension that the query looks at, where it groups by that and not by URL, and where it is in a tuple.
    fn only_slot(&self) -> Option<(usize, usize)> {
        let is_filtered = self.query.filters.iter().any(|filter| matches!(filter.field, Field::Dimension(_)));
        let mut grouped = self.query.group_by.iter().filter(|field| **field != Field::Site);
        let (Some(Field::Dimension(name)), None, false) = (grouped.next(), grouped.next(), is_filtered)
        else {
            return None;
        };
        let dimension = self.bucket.schema.dimension_index(name)?;
        Some((dimension, self.bucket.tuples.slot(dimension)?))
    }

    /// [`rows`](Self::rows) where a row's value of one dimension tells all: tuples are nearly as many as rows, values are few.
    fn rows_of_values(
        &self,
        dimension: usize,
        slot: usize,
        masks: &Masks,
        mut resolve: impl FnMut(&[u32]) -> u32,
    ) -> Vec<u32> {
        // The values first, and what becomes of each in the order that memory has them.
        let mut is_there = vec![false; self.bucket.dictionaries[dimension].len()];
        let value_of = |(row, (&url, &tuple)): (usize, (&u32, &u32))| {
            if !masks.pass(row, url) {
                return NOWHERE;
            }
            let value = self.bucket.tuples.get(tuple)[slot];
            is_there[value as usize] = true;
            value
        };
        let mut rows: Vec<u32> =
            self.table.url.iter().zip(&self.table.tuple).enumerate().map(value_of).collect();
        let of = |(value, is_there)| match is_there {
            true => resolve(&[self.folded(dimension, value)]),
            false => NOWHERE,
        };
        let by_value: Vec<u32> = (0..).zip(is_there).map(of).collect();
        rows.iter_mut().filter(|row| **row != NOWHERE).for_each(|row| *row = by_value[*row as usize]);
        rows
    }

    /// Per URL whether the filters let it through and it can have a row in `out`; empty where every URL can.
    pub(super) fn url_mask(&self, out: Option<&Partial>) -> Vec<bool> {
        let url_group = self.query.group_by.iter().position(|field| *field == Field::Url);
        let wanted = url_group.and_then(|group| out?.only_values(group));
        if let Some(wanted) = wanted.filter(|wanted| wanted.len() < self.table.urls.len()) {
            // A few names are looked up in the table, instead of all of the table's names in those.
            let mut mask = vec![false; self.table.urls.len()];
            let find = |page: &str| self.table.urls.find_hashed(page, page_hash(self.site, page));
            match self.table.urls.has(b'#') {
                false => wanted.iter().filter_map(find).for_each(|id| mask[id as usize] = true),
                true => {
                    let pages = wanted.iter().flat_map(names_of);
                    pages.filter_map(|page| find(&page)).for_each(|id| mask[id as usize] = true);
                }
            }
            return mask;
        }
        let filters: Vec<&Test> = self.tests_of(&Field::Url).collect();
        if filters.is_empty() {
            return Vec::new();
        }
        self.table.urls.iter().map(|page| filters.iter().all(|test| test.passes(url_of(page)))).collect()
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
    pub(super) fn out_row(&self, step: u32, url: u32, ids: &[u32], out: &mut Partial) -> u32 {
        let mut ids = ids.iter();
        let mut key = Vec::with_capacity(self.query.group_by.len());
        for (group, field) in self.query.group_by.iter().enumerate() {
            let id = match field {
                Field::Site => out.intern(group, self.site, hash_text(self.site)),
                Field::Url => {
                    // Not the page's hash: with several sites one URL would have several.
                    let url = url_of(self.table.urls.get(url));
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
