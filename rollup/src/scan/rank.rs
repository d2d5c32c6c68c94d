//! The first URLs of one site, without touching the names of the others.
//!
//! Owns: [`scan_order`](super::scan_order) for the question asked most: URLs of one site, ordered by a count or sum.
//! Does not own: any other question; and this one is answered alike, only slower, without this file.
//!
//! URLs of different buckets are matched by the hash that their dictionaries have already, and compared only where that is
//! the same; only those that stay are copied.

use super::rows::{Masks, TableScan};
use super::{Part, Period, ScanContext, Scanned, note_facts, order_column, parts_of, selected_sites};
use crate::bucket::Bucket;
use crate::lanes::{spread_url, spread_urls};
use crate::measure::{MeasureColumn, NOWHERE};
use crate::partial::{Partial, first_of};
use crate::query::{Field, Query, SiteSelection};
use crate::schema::Source;
use crate::sharding::page_hash;
use crate::table::SiteTable;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::BTreeSet;

/// The one site whose URLs are asked for, where that is the question.
pub(super) fn site_of(query: &Query) -> Option<&str> {
    let is_sum = matches!(query.columns[order_column(query)].source, Source::Count | Source::Sum(_));
    match &query.site {
        SiteSelection::One(site) if is_sum && query.group_by == [Field::Url] => Some(site),
        SiteSelection::One(_) | SiteSelection::All => None,
    }
}

/// The first URLs of each step, over these buckets of a shard and those that were seen already.
pub(super) fn scan_order(
    buckets: &[&Bucket],
    seen: Option<&Scanned>,
    site: &str,
    query: &Query,
    context: &ScanContext,
) -> Scanned {
    let mut scanned = Scanned::new_order(query);
    let parts = parts_of(buckets, query);
    let mut steps: BTreeSet<u32> = parts.iter().map(|part| part.step).collect();
    if let Some(seen) = seen {
        steps.extend(seen.partial.steps());
        scanned.partial.facts = seen.partial.facts.clone();
        scanned.partial.spread = seen.partial.spread.clone();
        scanned.distinct = seen.distinct.clone();
    }
    for step in steps {
        let mut ranking = Ranking::default();
        if let Some(seen) = seen {
            ranking.add_seen(&seen.partial, step, site);
        }
        for part in parts.iter().filter(|part| part.step == step) {
            ranking.add(part, query, context, &mut scanned.partial.spread);
            note_facts(part, query, context, &mut scanned);
        }
        ranking.first_into(query.limit, step, &mut scanned.partial);
    }
    scanned
}

/// URLs and what orders them.
#[derive(Default)]
struct Ranking<'a> {
    index: HashTable<u32>,
    urls: Vec<(u64, &'a str)>,
    sums: Vec<u64>,
}

impl<'a> Ranking<'a> {
    fn slot(&mut self, hash: u64, url: &'a str) -> u32 {
        let urls = &mut self.urls;
        let same = |&slot: &u32| urls[slot as usize] == (hash, url);
        match self.index.entry(hash, same, |&slot| urls[slot as usize].0) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                let slot = urls.len() as u32;
                vacant.insert(slot);
                urls.push((hash, url));
                self.sums.push(0);
                slot
            }
        }
    }

    /// The slot of the URL that a page of a table is, or is a lane of, where the table has lanes.
    fn slot_of(&mut self, site: &str, table: &'a SiteTable, page: u32, has_lanes: bool) -> u32 {
        let name = table.urls.get(page);
        match has_lanes.then(|| spread_url(name)).flatten() {
            None => self.slot(table.urls.hash_of(page), name),
            Some(url) => self.slot(page_hash(site, url), url),
        }
    }

    /// Adds what a part has, and the URLs that are spread over shards to those.
    fn add(&mut self, part: &Part<'a>, query: &Query, context: &ScanContext, spread: &mut BTreeSet<String>) {
        let order = &query.columns[order_column(query)];
        // Then does not order now, and who is active does not order by a sum, but their URLs are there.
        let orders = part.period == Period::Now;
        let measure = part.bucket.schema.measure_index(&order.name).filter(|_| orders);
        for (site, table) in selected_sites(part.bucket, query) {
            let has_lanes = table.urls.has(b'#');
            if has_lanes {
                spread.extend(spread_urls(&table.urls).map(str::to_owned));
            }
            if query.filters.is_empty() && part.period != Period::Active {
                self.add_all(site, table, measure, has_lanes);
                continue;
            }
            let scan = TableScan::new(part.bucket, site, table, query, context);
            let masks = Masks { urls: scan.url_mask(None), rows: part.mask(table, query) };
            let rows = scan.rows(&masks, |page, _| self.slot_of(site, table, page, has_lanes));
            let Some(MeasureColumn::Integers(values)) = measure.map(|measure| &table.measures[measure])
            else {
                continue;
            };
            for (&value, row) in values.iter().zip(rows).filter(|&(_, row)| row != NOWHERE) {
                let sum = &mut self.sums[row as usize];
                *sum = sum.saturating_add(value);
            }
        }
    }

    /// Adds all URLs of a table, each with the sum of a measure over its rows.
    fn add_all(&mut self, site: &str, table: &'a SiteTable, measure: Option<usize>, has_lanes: bool) {
        let mut sums = vec![0_u64; table.urls.len()];
        if let Some(MeasureColumn::Integers(values)) = measure.map(|measure| &table.measures[measure]) {
            for (&value, &url) in values.iter().zip(&table.url) {
                sums[url as usize] = sums[url as usize].saturating_add(value);
            }
        }
        for (page, sum) in (0..).zip(sums) {
            let slot = self.slot_of(site, table, page, has_lanes) as usize;
            self.sums[slot] = self.sums[slot].saturating_add(sum);
        }
    }

    fn add_seen(&mut self, seen: &'a Partial, step: u32, site: &str) {
        for (url, sum) in seen.integers_by_first_group(step) {
            let slot = self.slot(page_hash(site, url), url);
            self.sums[slot as usize] = self.sums[slot as usize].saturating_add(sum);
        }
    }

    fn first_into(self, limit: usize, step: u32, partial: &mut Partial) {
        let is_spread = |slot: &u32| partial.spread.contains(self.urls[*slot as usize].1);
        let slots = 0..self.urls.len() as u32;
        let (spread, mut slots): (Vec<u32>, Vec<u32>) = match partial.spread.is_empty() {
            true => (Vec::new(), slots.collect()),
            false => slots.partition(is_spread),
        };
        let by_name = |a: u32, b: u32| self.urls[a as usize].1.cmp(self.urls[b as usize].1);
        for &slot in first_of(&mut slots, limit, &self.sums, by_name).iter().chain(&spread) {
            partial.add_integer(step, self.urls[slot as usize].1, self.sums[slot as usize]);
        }
    }
}
