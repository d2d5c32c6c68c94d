//! What programs take from the system's randomness without being asked: keys of hash maps.
//!
//! Owns: giving the same to a thread again and again.
//! Does not own: seeds that are given to anybody; the branches of `tokio::select!`, which depend on how many runtimes the
//! whole process made before (`biased` ones do not).

use crate::random::Random;
use std::cell::Cell;
use std::thread;

thread_local! {
    /// What the thread's next random bytes are made of, where they repeat.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs a simulation on a thread of its own to which the system's randomness is a function of `seed` too, so that hash maps
/// are iterated in the same order each time.
///
/// # Panics
/// Where `run` does.
pub fn repeatable<T: Send>(seed: u64, run: impl FnOnce() -> T + Send) -> T {
    let simulated = move || {
        SEED.set(Some(seed));
        run()
    };
    thread::scope(|scope| match scope.spawn(simulated).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Fills the bytes if this thread is one that repeats.
fn fill_again(bytes: &mut [u8]) -> bool {
    let Ok(Some(seed)) = SEED.try_with(Cell::get) else { return false };
    let mut random = Random::new(seed);
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    SEED.set(Some(random.next()));
    true
}

/// Stands before the C library's function of that name, which the standard library calls.
///
/// # Safety
/// `buffer` must be valid for writes of `len` bytes, as that function demands.
#[allow(
    unsafe_code,
    reason = "there is no other way to give the standard library its randomness; tests only"
)]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, flags: u32) -> isize {
    if len == 0 {
        return 0;
    }
    // SAFETY: the caller's promise. Bytes that nobody wrote are not read before they are, so they are set first.
    let bytes = unsafe {
        std::ptr::write_bytes(buffer, 0, len);
        std::slice::from_raw_parts_mut(buffer, len)
    };
    if fill_again(bytes) {
        return len as isize;
    }
    // `rustix` asks the system itself, not the C library.
    let flags = rustix::rand::GetRandomFlags::from_bits_retain(flags);
    rustix::rand::getrandom(bytes, flags).map_or(-1, |filled| filled as isize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasher as _, RandomState};

    fn draw() -> u64 {
        RandomState::new().hash_one(1)
    }

    #[test]
    fn hash_maps_have_the_same_keys_for_the_same_seed_alone() {
        assert_eq!(repeatable(1, draw), repeatable(1, draw));
        assert_ne!(repeatable(1, draw), repeatable(2, draw));
        assert_ne!(thread::spawn(draw).join().unwrap(), thread::spawn(draw).join().unwrap());
    }
}
