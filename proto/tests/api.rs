//! `docs/api.md` says what the `.proto` files say.
//!
//! Owns: comparing the two, and writing the page where that is asked for: `TIDEMARK_WRITE=1 cargo test -p tidemark-proto --test api`.
//! Does not own: how the page looks (`api/page.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

#[path = "api/comments.rs"]
mod comments;
#[path = "api/page.rs"]
mod page;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::fs;
use std::path::Path;

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(tidemark_proto::DESCRIPTORS).unwrap()
}

#[test]
fn the_api_reference_is_what_the_proto_files_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/api.md");
    let made = page::of(&descriptors());
    if std::env::var_os("TIDEMARK_WRITE").is_some() {
        fs::write(&path, &made).unwrap();
        return;
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(made.lines()).position(|(there, made)| there != made);
    let line = differs.unwrap_or_else(|| there.lines().count().min(made.lines().count())) + 1;
    assert!(
        there == made,
        "docs/api.md is not what the .proto files say, from line {line} on. To write it anew:\n\
         TIDEMARK_WRITE=1 cargo test -p tidemark-proto --test api"
    );
}

#[test]
fn every_call_and_every_message_of_clients_says_what_it_is() {
    let silent = page::silent(&descriptors());
    assert!(silent.is_empty(), "no comment: {}", silent.join(", "));
}

#[test]
fn what_a_comment_says_stands_in_a_table_as_it_is() {
    let cell = page::cell("\"*\" for all | `a*b|c`, <x>\nand more");
    assert_eq!(cell, "\"\\*\" for all \\| `a*b\\|c`, &lt;x> and more");
}
