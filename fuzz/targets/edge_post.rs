//! Posts to an edge: the body of `POST /v1/collect`, or, after a question mark, the query of `GET /t.gif`.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tidemark_edge::fuzzing::{Collector, Made};
use tidemark_fuzz::counting::{NOW, blocks_of_producer, shards};
use tidemark_proto::v1;

static EDGE: LazyLock<Collector> = LazyLock::new(Collector::default);

/// The edge's producer rejects what the edge said that it will.
fn check(made: Vec<Made>) {
    let (events, rejected): (Vec<v1::Event>, Vec<bool>) = made.into_iter().unzip();
    let producer = vec![7; 16].into();
    let batch = v1::EventBatch { producer, seq: 1, sealed_at_ms: NOW.as_unix_ms(), events };
    let Some(split) = blocks_of_producer(&batch, shards(16)) else { return };
    for (at, _) in rejected.iter().enumerate().filter(|&(_, &rejected)| rejected) {
        assert!(
            split.rejected.iter().any(|rejection| rejection.index as usize == at),
            "{:?}",
            batch.events[at]
        );
    }
}

fuzz_target!(|input: &[u8]| {
    let made = match input.strip_prefix(b"?") {
        Some(query) => {
            std::str::from_utf8(query).ok().and_then(|query| EDGE.pixel(query, Some("https://a.example/")))
        }
        None => EDGE.body(input),
    };
    made.into_iter().for_each(check);
});
