//! Columns of segments: pages of any content, packed as they should be, past the checksums around them.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::ops::Range;
use tidemark_fuzz::frames;
use tidemark_fuzz::pages::Page;
use tidemark_history::segment::fuzzing::{Holds, read_column};

/// More pages than a seed has.
const MAX_PAGES: usize = 16;

/// Ranges that ascend, of numbers that each say how far it is from the last one.
fn ranges(steps: &[u8]) -> Vec<Range<u32>> {
    let mut at = 0;
    let pairs = steps.chunks_exact(2).map(|pair| {
        let start = at + u32::from(pair[0]);
        at = start + u32::from(pair[1]) * u32::from(pair[1]) + 1;
        start..at
    });
    pairs.collect()
}

// The first frame says what the column holds and which rows are wanted; the others are pages, or bytes as they are.
fuzz_target!(|input: &[u8]| {
    let mut frames = frames::of(input);
    let Some(first) = frames.next() else { return };
    let mut column = Vec::new();
    for frame in frames.take(MAX_PAGES) {
        match frame.tag & 0x80 {
            0 => Page::of(frame).pack(&mut column),
            _ => column.extend(frame.body),
        }
    }
    let holds = match first.tag & 7 {
        0 => Holds::Integers(4),
        1 | 2 => Holds::Integers(8),
        3 | 4 => Holds::Texts,
        5 => Holds::Uniques,
        _ => Holds::Distributions,
    };
    let column = Bytes::from(column);
    let read =
        |wanted: &[Range<u32>]| read_column(column.clone(), 1 << 20, first.tag & 8 != 0, holds, wanted);
    let wanted = ranges(first.body);
    let picked = read(&wanted);
    if let Some((rows, _)) = &picked {
        assert_eq!(*rows, wanted.iter().map(ExactSizeIterator::len).sum::<usize>());
    }
    // Where all rows can be read, any of them can.
    if let Some(last) = wanted.last()
        && let Some((rows, _)) = read(std::slice::from_ref(&(0..last.end)))
    {
        assert_eq!(rows, last.end as usize);
        assert!(picked.is_some());
    }
});
