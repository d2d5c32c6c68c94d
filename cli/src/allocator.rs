//! The program's allocator.
//!
//! Owns: which one it is, and having it give back to the system what nothing uses any more.
//! Does not own: how much memory may be in use (`tidemark_node`).
//!
//! mimalloc gives pages back that were free for a second, but only when a thread ends, frees a page after that second, or has looked for
//! a page 10,000 times since it last did; and what other threads freed of a thread's pages it finds when it looks. Under load that is
//! many times a second. Without, what a flush or a large answer took stays for minutes, and whoever looks at the process's memory takes
//! it for a leak. So threads that have nothing to do see to it as well.

use mimalloc::MiMalloc;
use std::cell::Cell;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How often a thread that has nothing to do gives back what it does not use. It looks at all of its pages that have room.
const EVERY: Duration = Duration::from_secs(2);

thread_local! {
    static GIVEN_BACK: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// To be called by a thread that has nothing to do.
pub(crate) fn give_back() {
    let now = Instant::now();
    GIVEN_BACK.with(|last| {
        if last.get().is_none_or(|last| now - last >= EVERY) {
            last.set(Some(now));
            collect();
        }
    });
}

#[allow(
    unsafe_code,
    reason = "nothing safe asks the allocator for this; without it memory stays for minutes (docs/decisions/0034)"
)]
fn collect() {
    // SAFETY: may be called by any thread at any time; it has no effect on what is in use.
    unsafe { libmimalloc_sys::mi_collect(false) };
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// What of this process is in memory.
    fn resident_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }

    #[test]
    fn what_nothing_uses_goes_back_to_the_system() {
        const BLOCKS: usize = 64 << 10;
        const BLOCK_BYTES: usize = 4 << 10;
        let before = resident_bytes();
        let blocks: Vec<Box<[u8]>> = (0..BLOCKS).map(|_| vec![7; BLOCK_BYTES].into_boxed_slice()).collect();
        assert!(resident_bytes() > before + BLOCKS * BLOCK_BYTES / 2);
        drop(blocks);
        // Nothing goes back before it was of no use for a second.
        let deadline = Instant::now() + Duration::from_secs(60);
        while resident_bytes() > before + BLOCKS * BLOCK_BYTES / 4 {
            assert!(Instant::now() < deadline, "{} bytes, before {before}", resident_bytes());
            std::thread::sleep(Duration::from_millis(50));
            give_back();
        }
    }
}
