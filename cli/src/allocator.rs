//! The program's allocator.
//!
//! Owns: which one it is, and how it is set up.
//! Does not own: how much memory may be in use (`tidemark_node`).

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// How it is set up, which it looks for under this name when the program starts (docs/decisions/0035):
/// * What was free for a second goes back to the system. A thread of the allocator's own sees to it, as a thread that has nothing to do
///   does not, and whoever looks at the memory of the process would take what stays for a leak.
/// * No huge pages, also where the system gives them to whoever does not ask (docs/decisions/0021).
///
/// What `_RJEM_MALLOC_CONF` says in the environment goes before it. Where it has no threads of its own, it is as it comes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the name is the allocator's, and no name of anything else")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SET_UP: &[u8; 70] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,thp:never\0";

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::time::{Duration, Instant};

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
        }
    }
}
