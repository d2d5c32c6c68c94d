//! The body of `POST /v1/events`: an array, lines or one object.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use tidemark_coordinator::fuzzing;
use tidemark_fuzz as _;
use tidemark_proto::v1;

/// The event in JSON again.
fn to_json(event: &v1::Event) -> Value {
    let text = |bytes: &[u8]| Value::from(std::str::from_utf8(bytes).expect("JSON has only UTF-8"));
    let key = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("JSON has only UTF-8");
    let dimensions: Map<String, Value> =
        event.dimensions.iter().map(|entry| (key(&entry.key), text(&entry.value))).collect();
    let values: Map<String, Value> =
        event.values.iter().map(|entry| (key(&entry.key), entry.value.into())).collect();
    json!({
        "site": text(&event.site), "url": text(&event.url), "kind": text(&event.kind), "visitor": text(&event.visitor),
        "time": (event.time_ms != 0).then_some(event.time_ms), "dimensions": dimensions, "values": values,
    })
}

fuzz_target!(|body: &[u8]| {
    let Some(read) = fuzzing::events(body) else { return };
    // Every element is an event or unreadable, never both, never neither.
    assert_eq!(read.events.len(), read.indexes.len());
    let elements: BTreeSet<u32> = read.indexes.iter().chain(&read.unreadable).copied().collect();
    assert_eq!(elements.len(), read.indexes.len() + read.unreadable.len());
    assert!(elements.iter().copied().eq(0..elements.len() as u32));
    assert!(read.unknown <= 65);
    if !read.events.is_empty() {
        let again: Vec<Value> = read.events.iter().map(to_json).collect();
        let again = serde_json::to_vec(&again).expect("what was read can be written");
        assert_eq!(fuzzing::events(&again).expect("what was written can be read").events, read.events);
    }
});
