//! A bound on single allocations.
//!
//! Owns: an allocator that refuses what no input of a target is worth, so that it is found as a crash.
//! Does not own: the bound on all of a process's memory, which is libFuzzer's (`-rss_limit_mb`).
//!
//! libFuzzer's own bound (`-malloc_limit_mb`) hangs on a sanitizer's hooks, and targets run without a sanitizer.

use std::alloc::{GlobalAlloc, Layout, System};

/// At most so much at once.
const MAX_BYTES: usize = 256 << 20;

struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

// SAFETY: all is done by the system's allocator; what is refused is null, as of one that has no memory left.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MAX_BYTES {
            return std::ptr::null_mut();
        }
        // SAFETY: what is asked of this is asked of that.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: it came from there.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MAX_BYTES {
            return std::ptr::null_mut();
        }
        // SAFETY: what is asked of this is asked of that.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > MAX_BYTES {
            return std::ptr::null_mut();
        }
        // SAFETY: it came from there.
        unsafe { System.realloc(at, layout, size) }
    }
}
