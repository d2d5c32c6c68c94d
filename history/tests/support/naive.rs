//! Rows as text, and the same by plain maps and sets over events.
#![allow(unreachable_pub, missing_docs, dead_code, clippy::unwrap_used)]

use super::{Plain, bucket};
use std::collections::{BTreeMap, BTreeSet};
use tidemark_history::day::DayStart;
use tidemark_rollup::dictionary::hash_text;
use tidemark_rollup::event::visitor_hash;
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::measure::distribution::Distribution;
use tidemark_rollup::measure::unique::Unique;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::scan::{DimensionOfBucket, Folds};
use tidemark_rollup::schema::{Schema, Source};
use tidemark_rollup::time::{BucketStart, EventTime};

/// Rows as text, ascending.
pub fn text_of(rows: &SegmentRows) -> Vec<String> {
    let mut lines = Vec::new();
    for row in 0..rows.len() {
        let dimensions: Vec<&str> = rows
            .dimensions
            .iter()
            .zip(&rows.values)
            .map(|(ids, values)| values[ids[row] as usize].as_str())
            .collect();
        let measures: Vec<String> = rows.measures.iter().map(|column| cell(column, row)).collect();
        lines.push(line(
            &rows.sites[rows.site[row] as usize],
            &rows.urls[rows.url[row] as usize],
            rows.bucket[row],
            &dimensions,
            &measures,
        ));
    }
    lines.sort();
    lines
}

fn line(site: &str, url: &str, start: BucketStart, dimensions: &[&str], measures: &[String]) -> String {
    format!("{site} {url} {} {dimensions:?} {measures:?}", start.time())
}

fn cell(column: &MeasureColumn, row: usize) -> String {
    let mut bytes = Vec::new();
    match column {
        MeasureColumn::Integers(values) => return values.get(row).copied().unwrap_or_default().to_string(),
        MeasureColumn::Uniques(values) => values.get(row).unwrap_or(&Unique::Empty).encode(&mut bytes),
        MeasureColumn::Distributions(values) => {
            values.get(row).unwrap_or(&Distribution::Empty).encode(&mut bytes);
        }
    }
    format!("{bytes:?}")
}

fn start_of(event: &Plain) -> BucketStart {
    BucketStart::containing(EventTime::from_unix_ms(event.time_ms))
}

/// What is beyond the limit, by plain sets.
pub fn folds(events: &[Plain], limit: u32) -> Folds {
    let mut values: BTreeMap<(&str, BucketStart, &str), BTreeSet<u64>> = BTreeMap::new();
    for event in events {
        for (name, value) in &event.dimensions {
            values.entry((&event.site, start_of(event), name)).or_default().insert(hash_text(value));
        }
    }
    let mut folds = Folds::default();
    for ((site, bucket, dimension), hashes) in values {
        if hashes.len() > limit as usize {
            let of = DimensionOfBucket { site: site.to_owned(), bucket, dimension: dimension.to_owned() };
            folds.insert(of, *hashes.iter().nth(limit as usize - 1).unwrap());
        }
    }
    folds
}

/// Rows by plain maps, of buckets or of days.
pub fn naive(events: &[Plain], schema: &Schema, limit: u32, of_days: bool) -> Vec<String> {
    let cuts: BTreeMap<DimensionOfBucket, u64> = folds(events, limit).iter().collect();
    let mut rows: BTreeMap<(String, String, BucketStart, Vec<String>), Vec<&Plain>> = BTreeMap::new();
    for event in events {
        let value = |name: &String| {
            let value = event.dimensions.get(name.as_str()).cloned().unwrap_or_default();
            let of = DimensionOfBucket {
                site: event.site.clone(),
                bucket: start_of(event),
                dimension: name.clone(),
            };
            let cut = cuts.get(&of).is_some_and(|&cut| !value.is_empty() && hash_text(&value) > cut);
            if cut { "(other)".to_owned() } else { value }
        };
        let dimensions = schema.dimensions().iter().map(value).collect();
        let start = match of_days {
            true => bucket(DayStart::of(start_of(event)), 0),
            false => start_of(event),
        };
        rows.entry((event.site.clone(), event.url.clone(), start, dimensions)).or_default().push(event);
    }
    let mut lines: Vec<String> = rows
        .iter()
        .map(|((site, url, start, dimensions), events)| {
            let dimensions: Vec<&str> = dimensions.iter().map(String::as_str).collect();
            let measures: Vec<String> = schema
                .measures()
                .iter()
                .map(|measure| {
                    let kind = measure.event_kind.as_deref();
                    let events = events.iter().filter(|event| kind.is_none_or(|kind| kind == event.kind));
                    let value =
                        |event: &Plain| event.values.get(measure.source.value().unwrap_or_default()).copied();
                    let mut column = MeasureColumn::new(&measure.source);
                    column.resize(1);
                    match (&mut column, &measure.source) {
                        (MeasureColumn::Integers(values), Source::Count) => values[0] = events.count() as u64,
                        (MeasureColumn::Integers(values), _) => {
                            values[0] = events.filter_map(|event| value(event)).sum()
                        }
                        (MeasureColumn::Uniques(values), _) => {
                            events.filter_map(|event| event.visitor).for_each(|visitor| {
                                values[0].insert(visitor_hash(format!("v{visitor}").as_bytes()))
                            })
                        }
                        (MeasureColumn::Distributions(values), _) => {
                            events.filter_map(|event| value(event)).for_each(|value| values[0].record(value));
                        }
                    }
                    cell(&column, 0)
                })
                .collect();
            line(site, url, *start, &dimensions, &measures)
        })
        .collect();
    lines.sort();
    lines
}

/// Fails with the first lines that differ.
#[track_caller]
pub fn assert_same(found: &[String], expected: &[String]) {
    let (a, b): (BTreeSet<_>, BTreeSet<_>) = (found.iter().collect(), expected.iter().collect());
    let extra: Vec<_> = a.difference(&b).take(3).collect();
    let missing: Vec<_> = b.difference(&a).take(3).collect();
    assert!(extra.is_empty() && missing.is_empty(), "extra {extra:#?}\nmissing {missing:#?}");
    assert_eq!(found.len(), expected.len());
}
