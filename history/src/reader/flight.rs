//! Work that many ask for at once and one does.
//!
//! Owns: who does it, and that the others get what came of it.
//! Does not own: remembering it afterwards (`memory`).
//!
//! Invariants:
//! * Of those who ask for one thing at one time, one works. Where that one is dropped, the next one takes over.
//! * What nobody waits for any more leaves nothing behind.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::OnceCell;

/// Work under way, by what is asked for.
pub(super) struct Flights<K, V> {
    cells: Mutex<HashMap<K, Weak<OnceCell<V>>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self { cells: Mutex::default() }
    }

    /// What `work` gives, or what that of another caller gives who is at it already.
    pub(super) async fn join(&self, key: K, work: impl Future<Output = V>) -> V {
        let seat = self.board(key);
        match &seat.cell {
            Some(cell) => cell.get_or_init(|| work).await.clone(),
            // Only a seat that is being left has none.
            None => work.await,
        }
    }

    fn board(&self, key: K) -> Seat<'_, K, V> {
        let mut cells = self.cells();
        let known = cells.get(&key).and_then(Weak::upgrade);
        let cell = known.unwrap_or_else(|| {
            let cell = Arc::new(OnceCell::new());
            cells.insert(key.clone(), Arc::downgrade(&cell));
            cell
        });
        Seat { flights: self, key, cell: Some(cell) }
    }
}

impl<K, V> Flights<K, V> {
    fn cells(&self) -> MutexGuard<'_, HashMap<K, Weak<OnceCell<V>>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.cells().len()).finish()
    }
}

/// A caller's place.
struct Seat<'a, K: Eq + Hash, V> {
    flights: &'a Flights<K, V>,
    key: K,
    cell: Option<Arc<OnceCell<V>>>,
}

impl<K: Eq + Hash, V> Drop for Seat<'_, K, V> {
    fn drop(&mut self) {
        let mut cells = self.flights.cells();
        // Under the lock, so that the last one of two who leave at once sees that it is the last one.
        self.cell = None;
        if cells.get(&self.key).is_some_and(|cell| cell.strong_count() == 0) {
            cells.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn of_those_who_ask_at_once_one_works_and_all_get_what_came_of_it() {
        let (flights, worked, go) = (Flights::new(), AtomicU32::new(0), Notify::new());
        let work = async || {
            go.notified().await;
            worked.fetch_add(1, Ordering::Relaxed)
        };
        let waiting = futures::future::join_all((0..20).map(|_| flights.join("key", work())));
        let (all, ()) = tokio::join!(waiting, async { go.notify_one() });
        assert_eq!(all, [0; 20]);
        assert_eq!(flights.cells().len(), 0);
        go.notify_one();
        assert_eq!(flights.join("key", work()).await, 1);
    }

    #[tokio::test]
    async fn the_next_one_takes_over_from_one_who_is_dropped() {
        let flights: Flights<&str, u32> = Flights::new();
        let mut first = Box::pin(flights.join("key", std::future::pending()));
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(flights.join("key", async { 7 }));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await, 7);
        assert_eq!(flights.cells().len(), 0);
    }
}
