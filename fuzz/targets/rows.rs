//! Rows as they come over gRPC: an encoded `EventBatch`, split into blocks that are counted.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tidemark_fuzz::counting;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(encoded) = EncodedBatch::decode(bytes.clone()) else { return };
    counting::take_encoded(&encoded);
    if let Ok(batch) = v1::EventBatch::decode(bytes) {
        counting::split_either_way(&encoded, &batch);
        counting::take_batch(&batch);
    }
});
