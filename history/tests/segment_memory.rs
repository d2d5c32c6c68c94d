//! What writing a raw segment takes beside the segment does not grow with it.
//!
//! A file of its own, because it has an allocator of its own.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::unwrap_used,
    reason = "an allocator cannot be written without; what cannot be here is a failed test"
)]

use bytes::Bytes;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tidemark_history::segment::RawWriter;
use tidemark_proto::v1;

struct Counting;

thread_local! {
    /// Bytes in use, and the most there were: of this thread alone.
    static USE: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counter any more, and nobody who asks for it.
    _ = USE.try_with(|of| {
        let (used, most) = of.get();
        of.set((used + bytes, most.max(used + bytes)));
    });
}

// SAFETY: every call is passed on unchanged to the system's allocator; only a counter is changed, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const GROUP_BLOCKS: u64 = 16_384;
/// All alike, so that what is packed is hardly anything.
const BLOCK_BYTES: usize = 500;

/// The most that writing so many blocks had in use, which are made one by one.
fn most_bytes(blocks: u64) -> isize {
    let before = USE.get().0;
    USE.set((before, before));
    let mut writer = RawWriter::new().unwrap();
    for seq in 0..blocks {
        let columns = Bytes::from(vec![7; BLOCK_BYTES]);
        writer
            .push(v1::Block { producer: vec![1; 16].into(), shard: 3, seq, columns, ..v1::Block::default() })
            .unwrap();
    }
    assert_eq!(writer.finish().unwrap().rows, blocks);
    USE.get().1 - before
}

#[test]
fn a_raw_segment_takes_the_blocks_of_one_row_group_however_many_it_has() {
    let (two, eight) = (most_bytes(2 * GROUP_BLOCKS), most_bytes(8 * GROUP_BLOCKS));
    let group = (GROUP_BLOCKS as usize * BLOCK_BYTES) as isize;
    assert!(two > group, "{two}: the counter misses something");
    assert!(eight < two + group / 2, "two row groups took {two} bytes, eight took {eight}");
}
