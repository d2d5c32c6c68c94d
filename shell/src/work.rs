//! Work that takes its time.
//!
//! Owns: where it runs.
//! Does not own: how much of it runs at a time (its callers).

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs work away from the threads that serve connections. On a runtime of one thread it runs right here: there is no other
/// core to win, and what happens stays a function of what was asked (which a simulation stands on).
///
/// # Panics
/// Where the work does.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_thread_does_it_itself() {
        let here = std::thread::current().id();
        assert!(run(move || std::thread::current().id() == here).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn many_threads_leave_it_to_another_one() {
        let here = std::thread::current().id();
        assert!(run(move || std::thread::current().id() != here).await);
    }
}
