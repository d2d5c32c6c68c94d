//! Files of a journal: damaged ones, and whole records of any content.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tidemark_fuzz::{counting, frames};
use tidemark_journal::fuzzing;
use tidemark_proto::v1;
use tidemark_rollup::sharding::ShardCount;

const SALT: u32 = 0x5A17_5A17;

/// Header, records and what is bad are the whole file, once.
fn tiles(file: &fuzzing::File, len: usize) {
    let header = if file.has_header { 0..32 } else { 0..0 };
    let mut parts: Vec<_> =
        file.records.iter().map(|record| record.at.clone()).chain(file.bad.clone()).collect();
    parts.extend(Some(header).filter(|header| !header.is_empty()));
    parts.sort_by_key(|part| part.start);
    let mut at = 0;
    for part in parts {
        assert!(part.start == at && part.end > at);
        at = part.end;
    }
    assert_eq!(at, len);
}

// Frames: a header first or not, records of any body, bytes; and a byte of the whole that is damaged in the end.
fuzz_target!(|input: &[u8]| {
    let shards = ShardCount::DEFAULT;
    let (mut bytes, mut damaged) = (Vec::new(), None);
    for frame in frames::of(input) {
        match frame.tag % 4 {
            0 if bytes.is_empty() => bytes.extend(fuzzing::header(1, shards, SALT)),
            0 | 1 => fuzzing::append_framed(&mut bytes, SALT, frame.body),
            2 => bytes.extend(frame.body),
            _ => damaged = frame.body.first_chunk().map(|&at| usize::from(u16::from_le_bytes(at))),
        }
    }
    let Ok(file) = fuzzing::read(&bytes, shards) else { return };
    tiles(&file, bytes.len());
    for record in &file.records {
        let whole = &bytes[record.at.clone()];
        let alone = fuzzing::read(whole, shards).expect("it was read");
        assert_eq!((alone.records.len(), &alone.records[0].id), (1, &record.id));
        if let Ok(block) = v1::Block::decode(Bytes::clone(&record.block)) {
            let mut again = fuzzing::header(1, shards, SALT).to_vec();
            fuzzing::append(&mut again, SALT, record.id, &record.buckets, &block);
            let again = fuzzing::read(&again, shards).expect("what was written can be read");
            assert_eq!((&again.records[0].id, &again.records[0].buckets), (&record.id, &record.buckets));
            counting::take_block(&block, shards);
        }
    }
    let Some(at) = damaged.filter(|&at| at >= 32 && at < bytes.len() && file.has_header) else { return };
    bytes[at] ^= 0x55;
    let Ok(left) = fuzzing::read(&bytes, shards) else { return };
    tiles(&left, bytes.len());
    // Damage costs the record that it touches and no other.
    for record in file.records.iter().filter(|record| !record.at.contains(&at)) {
        assert!(left.records.contains(record), "{record:?} is lost by damage at {at}");
    }
});
