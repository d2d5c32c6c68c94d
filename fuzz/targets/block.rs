//! Blocks as they come over gRPC, out of the journal and out of the archive: read, counted, asked.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tidemark_fuzz::counting::{self, shards};
use tidemark_proto::v1;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(block) = v1::Block::decode(Bytes::copy_from_slice(bytes)) {
        // Of one shard all pages are the block's.
        counting::take_block(&block, shards(1));
        counting::take_block(&block, shards(64));
    }
});
