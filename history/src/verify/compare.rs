//! Comparing rows with rows, and facts with facts.
//!
//! Owns: which rows belong together, and when two values are equal: where their bytes are.
//! Does not own: where either side comes from (`bucket`, `days`).

use super::report::{At, Difference, Differs, Report};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::measure::distribution::Distribution;
use tidemark_rollup::measure::unique::Unique;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::table::SiteFacts;

/// Two sides of one schema, whose rows ascend by key, each key once.
pub(super) struct Sides<'a> {
    pub(super) at: At,
    pub(super) stored: &'a SegmentRows,
    pub(super) recomputed: &'a SegmentRows,
    /// Only these sites; all where not set.
    pub(super) sites: Option<&'a BTreeSet<String>>,
}

impl Sides<'_> {
    /// Compares every row and every value.
    pub(super) fn compare(&self, report: &mut Report) {
        let (mut stored, mut recomputed) = (0, 0);
        loop {
            let order = match (stored < self.stored.len(), recomputed < self.recomputed.len()) {
                (false, false) => return,
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (true, true) => order(self.stored, stored, self.recomputed, recomputed),
            };
            match order {
                Ordering::Less => self.one_sided(self.stored, stored, ("a row", "none"), report),
                Ordering::Greater => self.one_sided(self.recomputed, recomputed, ("none", "a row"), report),
                Ordering::Equal => self.cells(stored, recomputed, report),
            }
            stored += usize::from(order.is_le());
            recomputed += usize::from(order.is_ge());
        }
    }

    fn is_asked(&self, rows: &SegmentRows, row: usize) -> bool {
        self.sites.is_none_or(|sites| sites.contains(&rows.sites[rows.site[row] as usize]))
    }

    fn one_sided(&self, rows: &SegmentRows, row: usize, texts: (&str, &str), report: &mut Report) {
        if self.is_asked(rows, row) {
            report.rows += 1;
            report.add(self.difference(rows, row, Differs::Row, texts.0.to_owned(), texts.1.to_owned()));
        }
    }

    fn cells(&self, stored: usize, recomputed: usize, report: &mut Report) {
        if !self.is_asked(self.stored, stored) {
            return;
        }
        report.rows += 1;
        let columns = self.stored.measures.iter().zip(&self.recomputed.measures);
        for ((mine, theirs), measure) in columns.zip(self.stored.schema.measures()) {
            report.cells += 1;
            let (mine, theirs) = (Cell::of(mine, stored), Cell::of(theirs, recomputed));
            if mine.bytes != theirs.bytes {
                let differs = Differs::Measure(measure.name.clone());
                report.add(self.difference(self.stored, stored, differs, mine.text, theirs.text));
            }
        }
    }

    fn difference(
        &self,
        rows: &SegmentRows,
        row: usize,
        differs: Differs,
        stored: String,
        recomputed: String,
    ) -> Difference {
        let names = rows.schema.dimensions().iter().zip(dimensions(rows, row));
        let set = names.filter(|(_, value)| !value.is_empty());
        Difference {
            at: self.at,
            site: rows.sites[rows.site[row] as usize].clone(),
            url: rows.urls[rows.url[row] as usize].clone(),
            dimensions: set.map(|(name, value)| (name.clone(), value.to_owned())).collect(),
            differs,
            stored,
            recomputed,
        }
    }
}

fn dimensions(rows: &SegmentRows, row: usize) -> impl Iterator<Item = &str> {
    rows.dimensions.iter().zip(&rows.values).map(move |(ids, values)| values[ids[row] as usize].as_str())
}

fn order(a: &SegmentRows, at: usize, b: &SegmentRows, bt: usize) -> Ordering {
    let site = |rows: &SegmentRows, row: usize| rows.site[row] as usize;
    let url = |rows: &SegmentRows, row: usize| rows.url[row] as usize;
    a.sites[site(a, at)]
        .cmp(&b.sites[site(b, bt)])
        .then_with(|| a.urls[url(a, at)].cmp(&b.urls[url(b, bt)]))
        .then_with(|| a.bucket[at].cmp(&b.bucket[bt]))
        .then_with(|| dimensions(a, at).cmp(dimensions(b, bt)))
}

/// A value, as its bytes and for people.
struct Cell {
    bytes: Vec<u8>,
    text: String,
}

impl Cell {
    fn of(column: &MeasureColumn, row: usize) -> Self {
        let mut bytes = Vec::new();
        let text = match column {
            MeasureColumn::Integers(values) => {
                let value = values.get(row).copied().unwrap_or_default();
                bytes.extend(value.to_le_bytes());
                value.to_string()
            }
            MeasureColumn::Uniques(values) => {
                let value = values.get(row).unwrap_or(&Unique::Empty);
                value.encode(&mut bytes);
                format!("{} distinct (sketch {:016x})", value.count(), xxhash_rust::xxh3::xxh3_64(&bytes))
            }
            MeasureColumn::Distributions(values) => {
                let value = values.get(row).unwrap_or(&Distribution::Empty);
                value.encode(&mut bytes);
                let sketch = xxhash_rust::xxh3::xxh3_64(&bytes);
                format!("{} values, sum {} (sketch {sketch:016x})", value.count(), value.sum())
            }
        };
        Self { bytes, text }
    }
}

/// Facts by site.
pub(super) type BySite = BTreeMap<String, SiteFacts>;

/// Compares facts, except for repeated events where `duplicates` says so: raw events do not tell those.
pub(super) fn compare_facts(
    at: At,
    stored: &BySite,
    recomputed: &BySite,
    duplicates: bool,
    report: &mut Report,
) {
    let nothing = SiteFacts::default();
    let plain = |facts: Option<&SiteFacts>| {
        let facts = facts.unwrap_or(&nothing).clone();
        let duplicate = if duplicates { facts.duplicate } else { 0 };
        SiteFacts { duplicate, ..facts }
    };
    let sites: BTreeSet<&String> = stored.keys().chain(recomputed.keys()).collect();
    for site in sites {
        let (mine, theirs) = (plain(stored.get(site)), plain(recomputed.get(site)));
        if mine != theirs {
            report.add(Difference::of(at, Differs::Facts, text(&mine), text(&theirs)).on(site));
        }
    }
}

fn text(facts: &SiteFacts) -> String {
    let newest = facts.newest_event_ms.map_or("none".to_owned(), |newest| newest.to_string());
    let SiteFacts { counted, late, duplicate, .. } = facts;
    let rejected: Vec<String> =
        facts.rejected.iter().map(|(reason, events)| format!("{}={events}", reason.name())).collect();
    let rejected = if rejected.is_empty() { "none".to_owned() } else { rejected.join(",") };
    format!("counted {counted}, late {late}, newest {newest}, rejected {rejected}, repeated {duplicate}")
}
