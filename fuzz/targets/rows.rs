//! Rows as they come over gRPC: an encoded `EventBatch`, split into blocks that are counted.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tidemark_fuzz::counting;
use tidemark_proto::v1;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(batch) = v1::EventBatch::decode(Bytes::copy_from_slice(bytes)) {
        counting::take_batch(&batch);
    }
});
