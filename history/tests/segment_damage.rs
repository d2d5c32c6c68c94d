//! Damage is found, and says where: bytes that are not those written never become rows.
#![allow(missing_docs, clippy::unwrap_used)]

mod segment_common;

use bytes::Bytes;
use proptest::prelude::*;
use segment_common::*;
use std::sync::LazyLock;
use tidemark_history::segment::{Footer, SegmentError, Selection, Written, read_raw, write_raw};
use tidemark_proto::v1;
use tidemark_rollup::rows::SegmentRows;
use xxhash_rust::xxh3::xxh3_64;

/// Two row groups, always the same.
static GROUPS: LazyLock<Vec<SegmentRows>> = LazyLock::new(|| {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let rows = prop::collection::vec(any_rows(60), 2).new_tree(&mut runner).unwrap();
    rows.current()
});
static SEGMENT: LazyLock<Written> = LazyLock::new(|| write(&GROUPS));
static RAW: LazyLock<Written> = LazyLock::new(|| {
    let block = |seq: u64| v1::Block {
        producer: vec![seq as u8 % 3; 16].into(),
        shard: seq as u32 % 8,
        seq,
        sealed_at_ms: 1_795_000_200_000,
        event_count: 5,
        columns: vec![seq as u8; 100].into(),
    };
    write_raw(&(0..50).map(block).collect::<Vec<_>>()).unwrap()
});

fn flipped(bytes: &Bytes, at: prop::sample::Index, by: u8) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = at.index(bytes.len());
    bytes[at] ^= by;
    bytes.into()
}

/// Whatever is read from damaged bytes: an error that names the segment, or what undamaged bytes give.
fn check(damaged: &Bytes, selection: &Selection) -> Result<(), TestCaseError> {
    let segment = SEGMENT.to_segment(PATH);
    match read_from(damaged, &segment, selection) {
        Err(error) => {
            prop_assert_eq!(error.path(), PATH);
            prop_assert!(error.to_string().contains(PATH));
        }
        Ok(rows) => prop_assert_eq!(dump(&rows), dump(&read(&SEGMENT, selection))),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn a_flipped_byte_is_an_error_or_was_not_read(at in any::<prop::sample::Index>(), by in 1_u8.., selection in any_selection()) {
        check(&flipped(&SEGMENT.bytes, at, by), &selection)?;
    }

    #[test]
    fn a_flipped_byte_never_goes_unnoticed_where_everything_is_read_whole(at in any::<prop::sample::Index>(), by in 1_u8..) {
        let damaged = flipped(&RAW.bytes, at, by);
        let error = read_raw(&RAW.to_segment(PATH), &damaged).unwrap_err();
        prop_assert!(matches!(&error, SegmentError::Damaged { path, .. } if path == PATH), "{}", error);
    }

    #[test]
    fn a_truncated_segment_is_an_error_or_the_end_was_not_read(len in any::<prop::sample::Index>(), selection in any_selection()) {
        let len = len.index(SEGMENT.bytes.len());
        check(&SEGMENT.bytes.slice(..len), &selection)?;
        let len = len.min(RAW.bytes.len() - 1);
        prop_assert!(read_raw(&RAW.to_segment(PATH), &RAW.bytes.slice(..len)).is_err());
    }

    /// Whoever can write the commit can make the checksums fit. That may give nonsense, but no panic.
    #[test]
    fn a_forged_footer_never_panics(
        at in any::<prop::sample::Index>(), by in 1_u8.., footer_bytes in prop_oneof![4 => Just(None), 1 => (0_u64..20_000).prop_map(Some)],
    ) {
        let tail = SEGMENT.bytes.slice(SEGMENT.bytes.len() - SEGMENT.footer_bytes as usize..);
        let tail = flipped(&tail, at, by);
        let body = SEGMENT.bytes.slice(..SEGMENT.bytes.len() - tail.len());
        let forged: Bytes = [body, tail].concat().into();
        let footer_bytes = footer_bytes.unwrap_or(SEGMENT.footer_bytes).min(forged.len() as u64);
        let tail = forged.slice(forged.len() - footer_bytes as usize..);
        let segment = v1::Segment { footer_bytes, footer_checksum: xxh3_64(&tail), ..SEGMENT.to_segment(PATH) };
        if let Ok(rows) = read_from(&forged, &segment, &Selection::everything(&schema())) {
            dump(&rows);
        }
    }

    #[test]
    fn a_forged_raw_segment_never_panics(at in any::<prop::sample::Index>(), by in 1_u8..) {
        let forged = flipped(&RAW.bytes, at, by);
        let tail = forged.slice(forged.len() - RAW.footer_bytes as usize..);
        let segment = v1::Segment { checksum: xxh3_64(&forged), footer_checksum: xxh3_64(&tail), ..RAW.to_segment(PATH) };
        _ = read_raw(&segment, &forged);
    }

    #[test]
    fn a_commit_that_says_anything_never_panics(numbers in any::<[u64; 3]>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let [size_bytes, rows, _] = numbers;
        let bytes = Bytes::from(bytes);
        let segment = v1::Segment {
            path: PATH.to_owned(),
            size_bytes,
            rows,
            checksum: xxh3_64(&bytes),
            footer_bytes: bytes.len() as u64,
            footer_checksum: xxh3_64(&bytes),
        };
        let error = Footer::parse(&segment, &bytes).unwrap_err();
        prop_assert_eq!(error.path(), PATH);
        let segment = v1::Segment { size_bytes: bytes.len() as u64, footer_bytes: numbers[2], ..segment };
        let error = read_raw(&segment, &bytes).unwrap_err();
        prop_assert_eq!(error.path(), PATH);
    }
}

/// A field that no Parquet has: a list of 2^31 - 1 flags, which take no bytes.
const FLAGS: [u8; 9] = [0x09, 200, 1, 0xF1, 0xFF, 0xFF, 0xFF, 0xFF, 7];

/// The segment with these bytes more before the end of its footer, and a commit whose checksums fit.
fn forged(written: &Written, more: &[u8]) -> (v1::Segment, Bytes) {
    let (body, tail) = written.bytes.split_at(written.bytes.len() - written.footer_bytes as usize);
    let metadata = &tail[..tail.len() - 8];
    assert_eq!(metadata.last(), Some(&0), "the end of a struct");
    let metadata = [&metadata[..metadata.len() - 1], more, &[0]].concat();
    let tail = [&metadata[..], &(metadata.len() as u32).to_le_bytes(), b"PAR1"].concat();
    let bytes = Bytes::from([body, &tail].concat());
    let segment = v1::Segment {
        size_bytes: bytes.len() as u64,
        checksum: xxh3_64(&bytes),
        footer_bytes: tail.len() as u64,
        footer_checksum: xxh3_64(&tail),
        ..written.to_segment(PATH)
    };
    (segment, bytes)
}

#[test]
fn a_footer_with_more_elements_than_bytes_is_refused_before_anybody_counts_them() {
    let everything = Selection::everything(&schema());
    for more in [&FLAGS[..], &[]] {
        let is_bad = !more.is_empty();
        let (segment, bytes) = forged(&SEGMENT, more);
        let rollup = read_from(&bytes, &segment, &everything).err();
        let (segment, bytes) = forged(&RAW, more);
        let raw = read_raw(&segment, &bytes).err();
        for error in [rollup, raw] {
            assert_eq!(matches!(error, Some(SegmentError::Unreadable { .. })), is_bad, "{error:?}");
        }
    }
}

#[test]
fn a_footer_that_belongs_to_another_commit_is_refused() {
    let segment = v1::Segment { rows: SEGMENT.rows + 1, ..SEGMENT.to_segment(PATH) };
    let error = read_from(&SEGMENT.bytes, &segment, &Selection::everything(&schema())).unwrap_err();
    assert!(matches!(error, SegmentError::Unreadable { .. }), "{error}");
}

#[test]
fn other_ranges_than_were_planned_are_refused() {
    let tail = SEGMENT.bytes.slice(SEGMENT.bytes.len() - SEGMENT.footer_bytes as usize..);
    let footer = Footer::parse(&SEGMENT.to_segment(PATH), &tail).unwrap();
    let plan = footer.plan(&Selection::everything(footer.schema()));
    for fetched in [Vec::new(), vec![SEGMENT.bytes.slice(..10)], vec![SEGMENT.bytes.clone(); 3]] {
        let error = plan.read(fetched).unwrap_err();
        assert!(matches!(error, SegmentError::Fetched { .. }), "{error}");
    }
    assert!(matches!(
        Footer::parse(&SEGMENT.to_segment(PATH), &SEGMENT.bytes),
        Err(SegmentError::Fetched { .. })
    ));
}
