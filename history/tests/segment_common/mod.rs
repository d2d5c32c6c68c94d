//! Rows as tests spell them, and a naive second reading of a selection.

// Each test file uses a part of it.
#![allow(unreachable_pub, missing_docs, dead_code, clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use tidemark_history::segment::{Footer, RowGroup, SegmentError, Selection, Written, write_rollup};
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::measure::distribution::Distribution;
use tidemark_rollup::measure::unique::Unique;
use tidemark_rollup::rows::{FactsRow, SegmentRows};
use tidemark_rollup::schema::{Measure, Schema};
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::table::SiteFacts;
use tidemark_rollup::time::BucketStart;

pub const PATH: &str = "rollup/5m/2026-11-22/10-05/a-1.parquet";
pub const START_S: u32 = 1_795_000_200;

/// With names that derived columns and facts would have.
pub fn schema() -> Arc<Schema> {
    let dimensions = ["device", "shard", "country"].map(str::to_owned).to_vec();
    let measures = [
        "views=count(view)",
        "bytes=sum(bytes)",
        "visitors=unique(visitor)",
        "visitors_estimate=count()",
        "load_ms=distribution(load_ms)",
    ];
    Arc::new(Schema::new(dimensions, measures.map(|line| line.parse().unwrap()).to_vec()).unwrap())
}

pub fn shard(number: u32) -> ShardId {
    shards().shard(number).unwrap()
}

pub fn shards() -> ShardCount {
    ShardCount::new(8).unwrap()
}

pub fn bucket(at: u32) -> BucketStart {
    BucketStart::from_unix_seconds(START_S + 300 * at).unwrap()
}

/// Site, URL, bucket, and values of the three dimensions.
pub type Key = (String, String, u32, [String; 3]);

/// The measures of a row: two integers, how many visitors, an integer, how many values; and what makes these.
#[derive(Clone, Debug)]
pub struct Numbers {
    pub integers: [u64; 3],
    pub visitors: usize,
    pub values: usize,
    pub seed: u64,
}

/// Facts by site, bucket and shard.
pub type Facts = BTreeMap<(String, u32, u32), SiteFacts>;

pub fn rows_of(keys: &BTreeMap<Key, Numbers>, facts: &Facts) -> SegmentRows {
    let mut rows = SegmentRows::new(schema());
    let sites = keys.keys().map(|key| &key.0).chain(facts.keys().map(|key| &key.0));
    rows.sites = ascending(sites);
    rows.urls = ascending(keys.keys().map(|key| &key.1));
    for at in 0..3 {
        rows.values[at] = ascending(keys.keys().map(|key| &key.3[at]).chain([&String::new()]));
    }
    for ((site, url, at, values), numbers) in keys {
        rows.site.push(position(&rows.sites, site));
        rows.url.push(position(&rows.urls, url));
        rows.bucket.push(bucket(*at));
        for (dimension, value) in values.iter().enumerate() {
            rows.dimensions[dimension].push(position(&rows.values[dimension], value));
        }
        rows.measures.iter_mut().enumerate().for_each(|(at, column)| push(column, at, numbers));
    }
    for ((site, at, of), facts) in facts {
        rows.facts.push(FactsRow {
            site: position(&rows.sites, site),
            bucket: bucket(*at),
            shard: shard(*of),
            facts: facts.clone(),
        });
    }
    rows
}

fn ascending<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<String> {
    texts.cloned().collect::<BTreeSet<String>>().into_iter().collect()
}

fn position(texts: &[String], text: &str) -> u32 {
    texts.iter().position(|known| known == text).unwrap() as u32
}

fn push(column: &mut MeasureColumn, at: usize, numbers: &Numbers) {
    let random = |number: usize| {
        let key = numbers.seed.wrapping_add(number as u64);
        xxhash_rust::xxh3::xxh3_64(&key.to_le_bytes())
    };
    match column {
        MeasureColumn::Integers(values) => values.push(numbers.integers[[0, 1, 2, 2, 2][at]]),
        MeasureColumn::Uniques(values) => {
            let mut unique = Unique::default();
            (0..numbers.visitors).for_each(|number| unique.insert(random(number)));
            values.push(unique);
        }
        MeasureColumn::Distributions(values) => {
            let mut distribution = Distribution::default();
            (0..numbers.values).for_each(|number| distribution.record(random(number) >> 40));
            values.push(distribution);
        }
    }
}

/// Every row and all facts as text, in their order.
pub fn dump(rows: &SegmentRows) -> Vec<String> {
    let all = Selection::everything(&rows.schema);
    expected(rows, &all)
}

/// What a selection of these rows is, read row by row.
pub fn expected(rows: &SegmentRows, selection: &Selection) -> Vec<String> {
    let mut lines = Vec::new();
    let of_site = |site: &String| selection.sites.as_ref().is_none_or(|sites| sites.contains(site));
    let in_time = |start: BucketStart| selection.from <= start && start < selection.to;
    for row in 0..rows.len() {
        let (site, url) = (&rows.sites[rows.site[row] as usize], &rows.urls[rows.url[row] as usize]);
        let listed = selection.urls.as_ref().is_none_or(|urls| urls.contains(url));
        let prefixed = selection.url_prefix.as_ref().is_none_or(|prefix| url.starts_with(prefix.as_str()));
        if selection.rows && of_site(site) && in_time(rows.bucket[row]) && listed && prefixed {
            lines.push(line(rows, row, selection));
        }
    }
    for facts in &rows.facts {
        let site = &rows.sites[facts.site as usize];
        if selection.facts && of_site(site) && in_time(facts.bucket) {
            lines.push(format!("{site} {} {} {:?}", facts.bucket.time(), facts.shard, facts.facts));
        }
    }
    lines
}

fn line(rows: &SegmentRows, row: usize, selection: &Selection) -> String {
    let url = if selection.with_urls { rows.urls[rows.url[row] as usize].as_str() } else { "" };
    let mut line = format!("{} {url} {}", rows.sites[rows.site[row] as usize], rows.bucket[row].time());
    for name in &selection.dimensions {
        let Some(at) = rows.schema.dimension_index(name) else { continue };
        write!(line, " {name}={}", rows.values[at][rows.dimensions[at][row] as usize]).unwrap();
    }
    let lacks = |measure: &Measure| !rows.schema.measures().contains(measure);
    if let Some(first) = selection.measures.first().filter(|_| selection.measures.iter().all(lacks)) {
        // A schema must have a measure: the first that was asked for, and nothing fed it.
        write!(line, " {}=0", first.name).unwrap();
    }
    for measure in &selection.measures {
        let Some(at) = rows.schema.measures().iter().position(|known| known == measure) else { continue };
        write!(line, " {}={}", measure.name, number(&rows.measures[at], row)).unwrap();
    }
    line
}

fn number(column: &MeasureColumn, row: usize) -> String {
    let mut bytes = Vec::new();
    match column {
        MeasureColumn::Integers(values) => return values[row].to_string(),
        MeasureColumn::Uniques(values) => values[row].encode(&mut bytes),
        MeasureColumn::Distributions(values) => values[row].encode(&mut bytes),
    }
    match bytes.len() {
        0..=40 => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        len => format!("{len} bytes, {:016x}", xxhash_rust::xxh3::xxh3_64(&bytes)),
    }
}

/// Writes each of these as a row group, of the shards of its own position and the next.
pub fn write(groups: &[SegmentRows]) -> Written {
    let of: Vec<[ShardId; 2]> = (0..groups.len() as u32).map(|at| [shard(at), shard(at + 1)]).collect();
    let groups = groups.iter().zip(&of).map(|(rows, shards)| RowGroup { rows, shards });
    write_rollup(&groups.collect::<Vec<_>>(), 300, shards()).unwrap()
}

/// Reads as a caller with a store of these bytes would; a range beyond their end comes short.
pub fn read_from(
    bytes: &Bytes,
    segment: &v1::Segment,
    selection: &Selection,
) -> Result<SegmentRows, SegmentError> {
    let tail = segment.size_bytes.saturating_sub(segment.footer_bytes)..segment.size_bytes;
    let footer = Footer::parse(segment, &fetch(bytes, &[tail])[0])?;
    let plan = footer.plan(selection);
    let plan = plan.clone().apply_blooms(fetch(bytes, &plan.bloom_ranges()))?;
    plan.read(fetch(bytes, &plan.ranges()))
}

pub fn read(written: &Written, selection: &Selection) -> SegmentRows {
    read_from(&written.bytes, &written.to_segment(PATH), selection).unwrap()
}

pub fn fetch(bytes: &Bytes, ranges: &[Range<u64>]) -> Vec<Bytes> {
    let at = |at: u64| (at as usize).min(bytes.len());
    ranges.iter().map(|range| bytes.slice(at(range.start)..at(range.end))).collect()
}

fn texts(choices: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(choices).prop_map(str::to_owned)
}

pub const SITES: [&str; 5] = ["a.example", "b.example", "c.example", "münchen.example", "z.example"];
pub const URLS: [&str; 8] = [
    "",
    "/",
    "/a",
    "/a/1",
    "/a/2",
    "/b",
    "/ä",
    "/z/very/long/indeed/very/long/indeed/very/long/indeed/very/long/indeed",
];

fn any_numbers() -> impl Strategy<Value = Numbers> {
    let integer = || prop_oneof![4 => 0_u64..5, 1 => any::<u64>()];
    let visitors = prop_oneof![20 => 0_usize..4, 1 => Just(300), 1 => Just(3000)];
    let values = prop_oneof![20 => 0_usize..4, 1 => Just(100), 1 => Just(600)];
    ([integer(), integer(), integer()], visitors, values, any::<u64>())
        .prop_map(|(integers, visitors, values, seed)| Numbers { integers, visitors, values, seed })
}

fn any_facts() -> impl Strategy<Value = SiteFacts> {
    let reasons = prop::collection::btree_map(prop::sample::select(&Reason::ALL[..]), 1_u64..9, 0..3);
    (any::<u64>(), 0_u64..9, prop::option::of(0_i64..2_000_000_000_000), reasons, 0_u64..9).prop_map(
        |(counted, late, newest_event_ms, rejected, duplicate)| SiteFacts {
            counted,
            late,
            newest_event_ms,
            rejected,
            duplicate,
        },
    )
}

/// Rows of a row group.
pub fn any_rows(most: usize) -> impl Strategy<Value = SegmentRows> {
    let dimensions =
        [texts(&["", "mobile", "desktop"]), texts(&["", "7"]), texts(&["", "", "", "de", "fr", "üä"])];
    let key = (texts(&SITES), texts(&URLS), 0_u32..3, dimensions);
    let keys = prop::collection::btree_map(key, any_numbers(), 0..most);
    let facts = prop::collection::btree_map((texts(&SITES), 0_u32..3, 0_u32..8), any_facts(), 0..8);
    (keys, facts).prop_map(|(keys, facts)| rows_of(&keys, &facts))
}

/// A question, about what [`any_rows`] makes and what it does not.
pub fn any_selection() -> impl Strategy<Value = Selection> {
    let names = |choices: &'static [&'static str]| {
        prop::option::of(prop::collection::vec(
            prop_oneof![8 => texts(choices), 1 => Just("none".to_owned())],
            0..4,
        ))
    };
    let dimensions = prop::sample::subsequence(vec!["device", "country", "shard", "unknown"], 0..=4);
    let mut measures = schema().measures().to_vec();
    // The name is the segment's, the definition is not.
    measures.push("views=count(share)".parse().unwrap());
    let measures = prop::sample::subsequence(measures, 0..=6);
    let prefix = prop::option::of(texts(&["", "/", "/a", "/a/", "/z/very/long", "/zz", "x"]));
    let flags = (any::<bool>(), prop::bool::weighted(0.8), prop::bool::weighted(0.8));
    let times = prop_oneof![2 => Just((0, 9)), 1 => (0_u32..4, 0_u32..5)];
    (names(&SITES), names(&URLS), prefix, times, dimensions, measures, flags).prop_map(
        |(sites, urls, url_prefix, (from, to), dimensions, measures, (with_urls, facts, rows))| Selection {
            sites,
            urls,
            url_prefix,
            from: bucket(from),
            to: bucket(to),
            dimensions: dimensions.into_iter().map(str::to_owned).collect(),
            measures,
            with_urls,
            shards: None,
            facts,
            rows,
        },
    )
}
