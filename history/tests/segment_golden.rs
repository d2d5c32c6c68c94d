//! Segments of an earlier day must still be read: the golden files are never made anew for a change of the code.
//!
//! `TIDEMARK_WRITE_GOLDEN=1` writes files that are missing: those of a new version of the format, under a new name.
#![allow(missing_docs, clippy::unwrap_used)]

mod segment_common;

use bytes::Bytes;
use prost::Message as _;
use segment_common::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tidemark_history::segment::{Selection, read_raw, write_raw};
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::table::SiteFacts;

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The file of this name; made by `make` where it is missing and writing is asked for.
fn golden(name: &str, make: impl Fn() -> Vec<u8>) -> Bytes {
    let path = golden_path(name);
    if !path.exists() && std::env::var_os("TIDEMARK_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, make()).unwrap();
    }
    std::fs::read(&path).unwrap().into()
}

/// Two row groups: few rows of every kind, and enough of one site for more than one page.
fn groups() -> Vec<SegmentRows> {
    let mut few = BTreeMap::new();
    for at in 0..40_usize {
        let values = [["", "mobile", "desktop"][at % 3], ["", "7"][at % 2], ["", "de", "üä"][at / 3 % 3]];
        let key = (
            SITES[at % SITES.len()].to_owned(),
            URLS[at * 3 % URLS.len()].to_owned(),
            at as u32 % 3,
            values.map(str::to_owned),
        );
        let numbers = Numbers {
            integers: [at as u64, at as u64 * 1_000_003, 1 << at],
            visitors: [0, 1, 2, 300, 2500][at % 5],
            values: [1, 0, 3, 100, 600][at % 5],
            seed: at as u64,
        };
        few.insert(key, numbers);
    }
    let rejected = BTreeMap::from([(Reason::BadUrl, 3), (Reason::TooLate, 1)]);
    let full =
        SiteFacts { counted: 7, late: 2, newest_event_ms: Some(1_795_000_300_123), rejected, duplicate: 5 };
    let facts = BTreeMap::from([
        (("a.example".to_owned(), 0, 0), full.clone()),
        (("a.example".to_owned(), 0, 1), SiteFacts::default()),
        (("only.facts.example".to_owned(), 1, 0), full),
    ]);
    let mut many = BTreeMap::new();
    for at in 0..9000_u64 {
        let key = (
            "many.example".to_owned(),
            format!("/{}", at / 3),
            0,
            ["".to_owned(), (at % 3).to_string(), format!("c{}", at % 200)],
        );
        many.insert(
            key,
            Numbers { integers: [at % 4, at * 7919 % 65_536, 1], visitors: 0, values: 0, seed: at },
        );
    }
    vec![rows_of(&few, &facts), rows_of(&many, &BTreeMap::new())]
}

#[test]
fn the_golden_segment_is_still_read_to_the_same_rows() {
    let object = golden("segment-v1.parquet", || write(&groups()).bytes.to_vec());
    let commit = golden("segment-v1.bin", || write(&groups()).to_segment(PATH).encode_to_vec());
    let segment = v1::Segment::decode(commit).unwrap();
    let read = read_from(&object, &segment, &Selection::everything(&schema())).unwrap();
    let text = summary(&dump(&read));
    let expected = golden("segment-v1.txt", || text.clone().into_bytes());
    assert!(text.as_bytes() == expected, "the rows differ from tests/golden/segment-v1.txt");
    // The text, too, is what was written.
    let everything = Selection::everything(&schema());
    let of = |facts: bool| {
        let selection = Selection { facts, rows: !facts, ..everything.clone() };
        groups().iter().flat_map(|rows| segment_common::expected(rows, &selection)).collect::<Vec<_>>()
    };
    assert!(text == summary(&[of(false), of(true)].concat()));
    let part = Selection { sites: Some(vec!["a.example".to_owned()]), facts: false, ..everything };
    let read = read_from(&object, &segment, &part).unwrap();
    assert_eq!(dump(&read), segment_common::expected(&groups()[0], &part));
}

/// The rows as text; of the many only their hash.
fn summary(lines: &[String]) -> String {
    let (many, few): (Vec<&String>, Vec<&String>) =
        lines.iter().partition(|line| line.starts_with("many.example"));
    let many_hash = xxhash_rust::xxh3::xxh3_64(format!("{many:?}").as_bytes());
    few.iter().map(|line| format!("{line}\n")).collect::<String>()
        + &format!("{} of many.example, {many_hash:016x}\n", many.len())
}

fn blocks() -> Vec<v1::Block> {
    let block = |seq: u64| v1::Block {
        producer: vec![seq as u8 % 3; 16].into(),
        shard: seq as u32 % 8,
        seq: u64::MAX - seq,
        sealed_at_ms: 1_795_000_200_000 + seq as i64,
        event_count: 5,
        columns: format!("columns of {seq}, ").repeat(seq as usize).into(),
    };
    (0..30).map(block).collect()
}

#[test]
fn the_golden_raw_segment_is_still_read_to_the_same_blocks() {
    let object = golden("raw-v1.parquet", || write_raw(&blocks()).unwrap().bytes.to_vec());
    let commit = golden("raw-v1.bin", || write_raw(&blocks()).unwrap().to_segment(PATH).encode_to_vec());
    let segment = v1::Segment::decode(commit).unwrap();
    assert_eq!(read_raw(&segment, &object).unwrap(), blocks());
}

/// Retries must write the same object: a segment is a function of its rows.
#[test]
fn the_same_rows_are_the_same_bytes() {
    assert_eq!(write(&groups()).bytes, write(&groups()).bytes);
    assert_eq!(write_raw(&blocks()).unwrap().bytes, write_raw(&blocks()).unwrap().bytes);
}
