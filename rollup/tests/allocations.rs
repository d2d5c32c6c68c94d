//! Counting an event allocates nothing: what a block costs does not grow with its events.
//!
//! A file of its own, because it has an allocator of its own.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "an allocator cannot be written without; what cannot be here is a failed test"
)]

mod common;

use bytes::Bytes;
use common::{Cluster, NOW_MS, batch};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tidemark_proto::v1;

struct Counting;

thread_local! {
    /// Of this thread alone: other tests and the runner have theirs.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nobody who asks for it.
    _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is passed on unchanged to the system's allocator; only a counter is added, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BLOCKS: u64 = 50;

/// Events of twenty rows and a thousand visitors.
fn events(count: u64) -> Vec<v1::Event> {
    let event = |number: u64| v1::Event {
        site: Bytes::from_static(b"example.com"),
        url: format!("/page-{}", number % 20).into(),
        time_ms: NOW_MS - 3_600_000,
        kind: Bytes::from_static(b"view"),
        visitor_hash: 1 + number % 1_000,
        dimensions: vec![v1::event::DimensionsEntry {
            key: Bytes::from_static(b"device"),
            value: format!("device-{}", number % 4).into(),
        }],
        values: vec![v1::event::ValuesEntry {
            key: Bytes::from_static(b"load_ms"),
            value: 100 + (number % 700) as i64,
        }],
        ..v1::Event::default()
    };
    (0..count).map(event).collect()
}

/// Blocks of so many events each under numbers of their own, sealed an hour after their events: `active` logs those of the last minutes.
fn blocks(cluster: &Cluster, producer: u8, count: u64) -> Vec<v1::Block> {
    let of = |seq| cluster.split(&batch(producer, seq, events(count))).blocks.remove(0);
    (0..BLOCKS).map(of).collect()
}

#[test]
fn counting_an_event_of_a_row_that_is_there_allocates_nothing() {
    let mut cluster = Cluster::new(1, 1, 10_000);
    let [warm, small, large] =
        [(1, 2_000), (2, 100), (3, 2_000)].map(|(producer, events)| blocks(&cluster, producer, events));
    warm.iter().for_each(|block| cluster.apply(block));
    let shard = &mut cluster.shards[0];
    let mut of = |blocks: &[v1::Block]| {
        // The first block of a producer makes room for it.
        assert!(shard.apply(&blocks[0]).unwrap().counted > 0);
        let before = ALLOCATIONS.get();
        for block in &blocks[1..] {
            assert!(shard.apply(block).unwrap().counted > 0);
        }
        (ALLOCATIONS.get() - before, BLOCKS - 1)
    };
    let ((of_small, blocks), (of_large, _)) = (of(&small), of(&large));
    assert_eq!(of_small, of_large, "twenty times as many events");
    assert!(of_large <= 32 * blocks, "{of_large} allocations for {blocks} blocks");
    assert!(of_large > 0, "nothing is counted");
}
