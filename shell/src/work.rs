//! Work that takes its time.
//!
//! Owns: where it runs.
//! Does not own: how much of it runs at a time (its callers).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

/// So many bytes are soon read, merged or written.
const FEW_BYTES: usize = 16 << 10;

/// Runs work away from the threads that serve connections. On a runtime of one thread it runs right here: there is no other
/// core to win, and what happens stays a function of what was asked (which a simulation stands on).
///
/// # Panics
/// Where the work does.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if has_one_thread() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The same for work that takes as long as what it is done on is large. On few bytes it runs right here: another thread would have to wait
/// for a core first, which takes longer where cores are busy.
///
/// # Panics
/// Where the work does.
pub async fn run_on<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    match bytes {
        ..=FEW_BYTES => work(),
        _ => run(work).await,
    }
}

/// The same for work that is rare, takes long and much memory, and that no question waits for: on a thread that ends with it, and that on
/// Linux lets others go first. What an allocator keeps for a thread goes with the thread; those of [`run`] stay. Where the system has no
/// thread to give, it runs right here.
///
/// # Panics
/// Where the work does.
pub async fn run_apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if has_one_thread() {
        return work();
    }
    let (tell, told) = oneshot::channel();
    // A thread that is not made drops what it was to do.
    let work = Arc::new(Mutex::new(Some(work)));
    let there = Arc::clone(&work);
    let do_it = move || {
        let_others_go_first();
        if let Some(work) = taken(&there) {
            let _ = tell.send(catch_unwind(AssertUnwindSafe(work)));
        }
    };
    if thread::Builder::new().name("apart".to_owned()).spawn(do_it).is_err()
        && let Some(work) = taken(&work)
    {
        return work();
    }
    match told.await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => resume_unwind(panic),
        // The runtime is going down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

fn taken<W>(work: &Mutex<Option<W>>) -> Option<W> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Where cores are busy, a third of what other threads get: enough for work that comes every few minutes to get done.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Of this thread alone, which is so on Linux only: elsewhere it would be the whole process.
#[cfg(target_os = "linux")]
fn let_others_go_first() {
    // Where it may not be changed, it is as important as others.
    let _ = rustix::process::nice(NICENESS);
}

#[cfg(not(target_os = "linux"))]
fn let_others_go_first() {}

fn has_one_thread() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::current;

    #[tokio::test]
    async fn one_thread_does_it_itself() {
        let here = current().id();
        assert!(run(move || current().id() == here).await);
        assert!(run_apart(move || current().id() == here).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn many_threads_leave_it_to_another_one() {
        let here = current().id();
        assert!(run(move || current().id() != here).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn work_on_few_bytes_stays_here_and_work_on_many_does_not() {
        let here = current().id();
        assert!(run_on(FEW_BYTES, move || current().id() == here).await);
        assert!(run_on(FEW_BYTES + 1, move || current().id() != here).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn work_apart_has_a_thread_that_ends_with_it() {
        let (ends, ended) = std::sync::mpsc::channel::<()>();
        thread_local!(static ENDS: std::cell::OnceCell<std::sync::mpsc::Sender<()>> = const { std::cell::OnceCell::new() });
        let done = run_apart(move || ENDS.with(|of| of.set(ends).is_ok()));
        assert!(done.await);
        // The sender is gone when the thread is.
        let waited = ended.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(waited, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn work_apart_lets_others_go_first_and_leaves_them_as_they_are() {
        let niceness = || rustix::process::nice(0).unwrap();
        let here = niceness();
        // There is none beyond 19.
        assert_eq!(run_apart(niceness).await, (here + NICENESS).min(19));
        assert_eq!((niceness(), run(niceness).await), (here, here));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn work_that_panics_apart_panics_here() {
        let failed = tokio::spawn(run_apart(|| panic!("planted"))).await;
        assert!(failed.unwrap_err().is_panic());
    }
}
