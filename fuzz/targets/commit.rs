//! Records of the object store: commits, replacements, coverage, facts; and their messages, past the frame around them.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tidemark_fuzz as _;
use tidemark_history::commit::CommitRecord;
use tidemark_history::paths::ObjectPath;
use tidemark_history::record::{self, RecordKind};
use tidemark_history::replacement::ReplacementRecord;
use tidemark_proto::v1;
use tidemark_rollup::time::BucketStart;
use xxhash_rust::xxh3::xxh3_64;

/// The frame that `record` describes around any payload.
fn framed(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let checksum = xxh3_64(payload).to_le_bytes();
    [b"TMRK", &[1, kind as u8][..], &length, &checksum, payload].concat()
}

fn commit(bytes: &[u8]) {
    let Ok(message) = record::decode::<v1::Commit>(RecordKind::Commit, bytes) else { return };
    let Some(bucket) = BucketStart::from_unix_seconds(message.bucket_start_s) else { return };
    let Ok(read) = CommitRecord::decode(bucket, 1, bytes) else { return };
    let again = record::encode(RecordKind::Commit, &read.to_message());
    let again = CommitRecord::decode(bucket, 1, &again).expect("what was written can be read");
    assert_eq!(again, read);
    assert!(read.is_same_attempt(&again));
    // It shares a block with itself, if it has one; and each path of it is one.
    let has_blocks = read.shards().any(|shard| !read.coverage(shard).is_empty());
    assert_eq!(read.overlap(&again).is_some(), has_blocks);
    for segment in read.message().rollup.iter().chain(&read.message().raw) {
        let path: ObjectPath = segment.path.parse().expect("it was checked");
        assert_eq!(path.to_string(), segment.path);
    }
    assert!(read.memory_bytes() < 1000 + 100 * bytes.len());
}

fn replacement(bytes: &[u8]) {
    let Ok(read) = ReplacementRecord::decode(1, bytes) else { return };
    let again = record::encode(RecordKind::Replacement, read.message());
    assert_eq!(ReplacementRecord::decode(1, &again).expect("what was written can be read"), read);
    assert_eq!(read.days().count(), read.message().days.len());
}

/// One that is read as nothing but its message.
fn message<M: Message + Default + PartialEq>(kind: RecordKind, bytes: &[u8]) {
    if let Ok(read) = record::decode::<M>(kind, bytes) {
        let again = record::decode::<M>(kind, &record::encode(kind, &read));
        assert!(again.expect("what was written can be read") == read);
    }
}

fn all(bytes: &[u8]) {
    commit(bytes);
    replacement(bytes);
    message::<v1::DayCoverage>(RecordKind::Coverage, bytes);
}

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    match how % 4 {
        0 => all(rest),
        1 => commit(&framed(RecordKind::Commit, rest)),
        2 => replacement(&framed(RecordKind::Replacement, rest)),
        _ => message::<v1::DayCoverage>(RecordKind::Coverage, &framed(RecordKind::Coverage, rest)),
    }
});
