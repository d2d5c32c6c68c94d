//! The first URLs of one site, without touching the names of the others.
//!
//! Owns: [`scan_order`](super::scan_order) for the question asked most: URLs of one site, ordered by a count or sum.
//! Does not own: any other question; and this one is answered alike, only slower, without this file.
//!
//! URLs of different buckets are matched by the hash that their dictionaries have already, without a look at the names: those of
//! cold tables are most of what would be read. Only the names of those that stay are looked up, in all tables. Where one of them is
//! not where its hash was, two names have one hash, and everything is matched anew, by name. What does not stay was not taken for
//! more than it is either: a sum that has another name's in it is larger than that of each, and was not enough.

use super::rows::{Masks, TableScan};
use super::{Part, Period, ScanContext, Scanned, note_facts, order_column, parts_of, selected_sites};
use crate::bucket::{Bucket, Origin};
use crate::dictionary::Dictionary;
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
use std::sync::Arc;

/// The one site whose URLs are asked for, where that is the question.
pub(super) fn site_of(query: &Query) -> Option<&str> {
    let is_sum = matches!(query.columns[order_column(query)].source, Source::Count | Source::Sum(_));
    match &query.site {
        SiteSelection::One(site) if is_sum && query.group_by == [Field::Url] => Some(site),
        SiteSelection::One(_) | SiteSelection::All => None,
    }
}

/// What of a bucket orders the URLs of one site, copied, for a bucket that is counted into meanwhile: to be scanned by
/// [`scan_order`](super::scan_order) in its place, but for what [`scan_facts`](super::scan_facts) finds. `None` where the query looks at
/// more than URLs and their sums.
pub fn urls_alone(bucket: &Bucket, query: &Query) -> Option<Arc<Bucket>> {
    let site = site_of(query).filter(|_| query.filters.is_empty() && query.active_from().is_none())?;
    Some(Arc::new(bucket.urls_by(site, &query.columns[order_column(query)].name)))
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
    // Of open buckets only copies tell which URLs are spread, and these are in no step before their own.
    let copies = parts.iter().filter(|part| part.bucket.origin == Origin::Urls);
    for (_, table) in copies.flat_map(|part| selected_sites(part.bucket, query)) {
        scanned.partial.spread.extend(spread_urls(&table.urls).map(str::to_owned));
    }
    for step in steps {
        let of_step = || parts.iter().filter(|part| part.step == step);
        let spread = &mut scanned.partial.spread;
        let mut rank = |reads_names| {
            let mut ranking = Ranking { reads_names, ..Ranking::default() };
            if let Some(seen) = seen {
                ranking.add_seen(&seen.partial, step, site);
            }
            of_step().for_each(|part| ranking.add(part, query, context, spread));
            ranking.first(query.limit, spread)
        };
        let tables = of_step().flat_map(|part| selected_sites(part.bucket, query)).map(|(_, table)| table);
        let by_hash = proves_with_less(query.limit, tables).then(|| rank(false)).flatten();
        let first = by_hash.or_else(|| rank(true)).unwrap_or_default();
        for (url, sum) in first {
            scanned.partial.add_integer(step, url, sum);
        }
        of_step().for_each(|part| note_facts(part, query, context, &mut scanned));
    }
    scanned
}

/// Whether it is less to look each name that stays up in each table than to read every name once: it is for a top list over some
/// buckets; it is not for thousands of URLs over months.
fn proves_with_less<'a>(limit: usize, tables: impl Iterator<Item = &'a SiteTable>) -> bool {
    let (tables, names) =
        tables.fold((0_usize, 0), |(tables, names), table| (tables + 1, names + table.urls.len()));
    limit.min(names).saturating_mul(tables) <= names
}

/// URLs and what orders them.
#[derive(Default)]
struct Ranking<'a> {
    /// Whether URLs are the same only where their names are; otherwise where their hashes are.
    reads_names: bool,
    index: HashTable<u32>,
    urls: Vec<Url<'a>>,
    sums: Vec<u64>,
    /// Tables whose URLs were matched by their hashes.
    matched: Vec<&'a SiteTable>,
    /// By slot: how many of these tables have it.
    matches: Vec<u32>,
    /// Whether two slots have one hash.
    two_of_a_hash: bool,
}

/// A URL by its hash, with the first name that had it.
struct Url<'a> {
    hash: u64,
    name: Name<'a>,
}

/// A name, maybe not read yet.
#[derive(Clone, Copy)]
enum Name<'a> {
    Read(&'a str),
    Of(&'a Dictionary, u32),
}

impl<'a> Name<'a> {
    fn read(self) -> &'a str {
        match self {
            Self::Read(name) => name,
            Self::Of(dictionary, id) => dictionary.get(id),
        }
    }
}

impl<'a> Ranking<'a> {
    /// The slot of a URL of this hash and name.
    fn slot(&mut self, hash: u64, url: &'a str) -> u32 {
        self.find_or_add(Url { hash, name: Name::Read(url) }, false)
    }

    /// The slot of a URL of this hash, `by_hash` of any name where something was added to that already: more cannot be hidden there.
    fn find_or_add(&mut self, url: Url<'a>, by_hash: bool) -> u32 {
        let Self { urls, sums, two_of_a_hash, .. } = self;
        let is_it = |&slot: &u32| {
            let known = &urls[slot as usize];
            if known.hash != url.hash {
                return false;
            }
            let is_it = (by_hash && sums[slot as usize] > 0) || known.name.read() == url.name.read();
            *two_of_a_hash |= !is_it;
            is_it
        };
        match self.index.entry(url.hash, is_it, |&slot| urls[slot as usize].hash) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                let slot = urls.len() as u32;
                vacant.insert(slot);
                urls.push(url);
                self.sums.push(0);
                self.matches.push(0);
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
        let sums = match measure {
            Some(measure) => table.sums_by_url(measure),
            None => vec![0; table.urls.len()],
        };
        let by_hash = !self.reads_names && !has_lanes;
        if by_hash {
            self.matched.push(table);
        }
        for (page, sum) in (0..).zip(sums) {
            // A name that adds nothing could be hidden behind another one of its hash.
            let slot = match by_hash && sum > 0 {
                true => {
                    let (hash, name) = (table.urls.hash_of(page), Name::Of(&table.urls, page));
                    self.find_or_add(Url { hash, name }, true)
                }
                false => self.slot_of(site, table, page, has_lanes),
            } as usize;
            self.matches[slot] += u32::from(by_hash);
            self.sums[slot] = self.sums[slot].saturating_add(sum);
        }
    }

    fn add_seen(&mut self, seen: &'a Partial, step: u32, site: &str) {
        for (url, sum) in seen.integers_by_first_group(step) {
            let slot = self.slot(page_hash(site, url), url);
            self.sums[slot as usize] = self.sums[slot as usize].saturating_add(sum);
        }
    }

    /// The first URLs and those that are spread over shards, each with its sum; `None` where the hashes of different names were
    /// found to be the same.
    fn first(self, limit: usize, spread: &BTreeSet<String>) -> Option<Vec<(&'a str, u64)>> {
        if self.two_of_a_hash && !self.reads_names {
            return None;
        }
        let name_of = |slot: u32| self.urls[slot as usize].name.read();
        let slots = 0..self.urls.len() as u32;
        let (spread, mut slots): (Vec<u32>, Vec<u32>) = match spread.is_empty() {
            true => (Vec::new(), slots.collect()),
            false => slots.partition(|&slot| spread.contains(name_of(slot))),
        };
        let first = first_of(&mut slots, limit, &self.sums, |a, b| name_of(a).cmp(name_of(b)));
        let first = first.iter().chain(&spread).map(|&slot| {
            let (hash, name) = (self.urls[slot as usize].hash, name_of(slot));
            let has_it = |table: &&&SiteTable| table.urls.find_hashed(name, hash).is_some();
            let is_one = self.matched.iter().filter(has_it).count() == self.matches[slot as usize] as usize;
            is_one.then_some((name, self.sums[slot as usize]))
        });
        first.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use crate::time::{BucketStart, EventTime};
    use tidemark_proto::v1;

    fn now() -> EventTime {
        EventTime::from_unix_ms(1_700_000_000_000)
    }

    fn query(limit: u32) -> Query {
        let wire = v1::Query {
            site: "s".to_owned(),
            from: "-1h".to_owned(),
            to: "now".to_owned(),
            measures: vec!["views".to_owned()],
            group_by: vec!["url".to_owned()],
            limit,
            ..v1::Query::default()
        };
        Query::parse(&wire, &Schema::default(), now()).unwrap()
    }

    /// A bucket whose URLs have these hashes and views.
    fn bucket(urls: &[(&str, u64, u64)]) -> Bucket {
        let start = BucketStart::containing(now().minus(std::time::Duration::from_secs(1_200)));
        let mut bucket = Bucket::new(start, Arc::new(Schema::default()));
        let measure = bucket.schema.measure_index("views").unwrap();
        let tuple = Arc::make_mut(&mut bucket.tuples).intern(&[]);
        let site = bucket.site("s");
        let table = bucket.table(site);
        for &(url, hash, views) in urls {
            let url = table.urls.intern_hashed(url, hash);
            let row = table.row(url, tuple) as usize;
            table.measures.iter_mut().for_each(|column| column.resize(row + 1));
            if let MeasureColumn::Integers(values) = &mut table.measures[measure] {
                values[row] = views;
            }
        }
        bucket
    }

    fn first(buckets: &[&Bucket], limit: u32) -> Vec<(String, u64)> {
        let query = query(limit);
        let scanned = scan_order(buckets, None, "s", &query, &ScanContext::default());
        let step = scanned.partial.steps()[0];
        let mut first: Vec<(String, u64)> =
            scanned.partial.integers_by_first_group(step).map(|(url, sum)| (url.to_owned(), sum)).collect();
        first.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        first
    }

    fn rows(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
        rows.iter().map(|&(url, sum)| (url.to_owned(), sum)).collect()
    }

    #[test]
    fn urls_of_several_buckets_are_one_by_their_hash() {
        let (a, b) = (bucket(&[("/a", 7, 5), ("/b", 8, 6)]), bucket(&[("/c", 9, 1), ("/a", 7, 4)]));
        assert_eq!(first(&[&a, &b], 2), rows(&[("/a", 9), ("/b", 6)]));
    }

    #[test]
    fn names_are_proved_afterwards_only_where_that_reads_less_than_all_of_them() {
        let buckets: Vec<Bucket> =
            (0..10).map(|_| bucket(&[("/a", 7, 5), ("/b", 8, 4), ("/c", 9, 3), ("/d", 10, 2)])).collect();
        let tables = || buckets.iter().flat_map(|bucket| bucket.sites.iter().map(|table| &**table));
        assert_eq!(tables().map(|table| table.urls.len()).sum::<usize>(), 40);
        assert!(proves_with_less(4, tables()), "4 names in 10 tables are 40");
        assert!(!proves_with_less(5, tables()), "5 names in 10 tables are 50");
        assert!(proves_with_less(10_000, tables().take(1)), "no more than there are");
    }

    #[test]
    fn names_with_one_hash_are_two_urls_whichever_of_them_stay() {
        // Enough others, for names to be proved afterwards.
        let others = [("/v", 21, 1), ("/w", 22, 1), ("/x", 23, 1), ("/y", 24, 1)];
        let with_others = |urls: &[(&'static str, u64, u64)]| bucket(&[urls, &others].concat());
        let (a, b) = (with_others(&[("/a", 7, 5)]), with_others(&[("/b", 7, 4), ("/c", 8, 6)]));
        assert_eq!(first(&[&a, &b], 1), rows(&[("/c", 6)]));
        assert_eq!(first(&[&a, &b], 2), rows(&[("/c", 6), ("/a", 5)]));
        assert_eq!(first(&[&a, &b], 3), rows(&[("/c", 6), ("/a", 5), ("/b", 4)]));
        // Also two of one bucket, and one that adds nothing.
        let twice = bucket(&[("/d", 7, 3), ("/e", 7, 3), ("/f", 9, 2)]);
        assert_eq!(first(&[&twice], 2), rows(&[("/d", 3), ("/e", 3)]));
        let (nothing, something) = (bucket(&[("/z", 7, 0)]), bucket(&[("/a", 7, 2), ("/b", 8, 2)]));
        assert_eq!(first(&[&nothing, &something], 1), rows(&[("/a", 2)]));
        assert_eq!(first(&[&nothing, &something], 9), rows(&[("/a", 2), ("/b", 2), ("/z", 0)]));
    }

    #[test]
    fn a_url_that_is_spread_in_an_open_bucket_stays_in_steps_before_it() {
        let wire = v1::Query { granularity: "5m".to_owned(), ..query(1).to_wire() };
        let query = Query::parse(&wire, &Schema::default(), now()).unwrap();
        let (closed, mut open) = (bucket(&[("/a", 7, 1), ("/b", 8, 5)]), bucket(&[("/a#3", 9, 2)]));
        open.start = open.start.next();
        let copy = urls_alone(&open, &query).unwrap();
        let scanned = scan_order(&[&closed, &copy], None, "s", &query, &ScanContext::default());
        let first = closed.start.as_unix_seconds();
        let mut urls: Vec<&str> =
            scanned.partial.integers_by_first_group(first).map(|(url, _)| url).collect();
        urls.sort_unstable();
        assert_eq!(urls, ["/a", "/b"], "others may have more of what is spread");
    }
}
