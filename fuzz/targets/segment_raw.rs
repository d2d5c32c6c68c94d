//! Raw segments: whole objects, past the checksums that commits have of them.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidemark_fuzz as _;
use tidemark_history::segment::{read_raw, write_raw};
use tidemark_proto::v1;
use xxhash_rust::xxh3::xxh3_64;

// How many blocks the commit says, and the object.
fuzz_target!(|input: &[u8]| {
    let Some((&rows, object)) = input.split_first() else { return };
    let object = Bytes::copy_from_slice(object);
    // As long as the object itself says, so that this much is never what is wrong.
    let metadata =
        object.last_chunk::<8>().map_or(0, |&[a, b, c, d, ..]| u32::from_le_bytes([a, b, c, d]) as usize);
    let footer = metadata.saturating_add(8).min(object.len());
    let segment = v1::Segment {
        path: "raw/2026-11-22/10-05/a-1.parquet".to_owned(),
        size_bytes: object.len() as u64,
        rows: u64::from(rows),
        checksum: xxh3_64(&object),
        footer_bytes: footer as u64,
        footer_checksum: xxh3_64(&object[object.len() - footer..]),
    };
    let Ok(blocks) = read_raw(&segment, &object) else { return };
    assert_eq!(blocks.len(), usize::from(rows));
    let again = write_raw(&blocks).expect("what was read can be written");
    assert_eq!(read_raw(&again.to_segment(&segment.path), &again.bytes).expect("and read"), blocks);
});
