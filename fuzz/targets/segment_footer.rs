//! Footers of rollup segments, past their checksum, before columns that are whole.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::ops::Range;
use tidemark_fuzz as _;
use tidemark_history::segment::{Footer, Selection};
use tidemark_proto::v1;
use tidemark_rollup::rows::SegmentRows;
use xxhash_rust::xxh3::xxh3_64;

/// The columns of the segment whose footer is the seed.
static COLUMNS: &[u8] = include_bytes!("../seeds/columns.bin");

/// Reads as a caller with a store of these bytes would; a range beyond their end comes short.
fn fetch(object: &Bytes, ranges: &[Range<u64>]) -> Vec<Bytes> {
    let at = |at: u64| (at as usize).min(object.len());
    ranges.iter().map(|range| object.slice(at(range.start)..at(range.end).max(at(range.start)))).collect()
}

fn read(footer: &Footer, object: &Bytes, selection: &Selection) -> Option<SegmentRows> {
    let plan = footer.plan(selection);
    let blooms = fetch(object, &plan.bloom_ranges());
    let plan = plan.apply_blooms(blooms).ok()?;
    plan.read(fetch(object, &plan.ranges())).ok()
}

// How many rows the commit says, what is asked, and the footer.
fuzz_target!(|input: &[u8]| {
    let Some((&[a, b, asked], tail)) = input.split_first_chunk::<3>() else { return };
    let object = Bytes::from([COLUMNS, tail].concat());
    let tail = object.slice(COLUMNS.len()..);
    let segment = v1::Segment {
        path: "rollup/5m/2026-11-22/10-05/a-1.parquet".to_owned(),
        size_bytes: object.len() as u64,
        rows: u64::from(u16::from_le_bytes([a, b])),
        footer_bytes: tail.len() as u64,
        footer_checksum: xxh3_64(&tail),
        ..v1::Segment::default()
    };
    let Ok(footer) = Footer::parse(&segment, &tail) else { return };
    assert!(footer.sites().is_sorted());
    assert!(footer.shards().count() <= footer.shard_count().get() as usize);
    assert!(footer.heap_bytes() < 100_000 + 100 * tail.len());
    let mut selection = Selection::everything(footer.schema());
    if asked & 1 != 0 {
        selection.urls = Some(vec!["/a".to_owned(), "/b".to_owned()]);
    }
    if asked & 2 != 0 {
        selection.url_prefix = Some("/a".to_owned());
    }
    if asked & 4 != 0 {
        selection.sites = Some(vec!["a.example".to_owned()]);
    }
    (selection.with_urls, selection.facts, selection.rows) =
        (asked & 8 == 0, asked & 16 == 0, asked & 32 == 0);
    if let Some(rows) = read(&footer, &object, &selection) {
        assert!(rows.len() as u64 <= segment.rows);
        assert!(rows.sites.is_sorted() && rows.urls.is_sorted());
        let urls = rows.url.iter().map(|&url| &rows.urls[url as usize]);
        assert!(asked & 10 != 2 || urls.into_iter().all(|url| url.starts_with("/a")));
    }
});
