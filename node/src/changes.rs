//! Telling coordinators that there is something new.
//!
//! Owns: gathering which sites changed, over all shards, and telling it to all who listen.
//! Does not own: what the changes are: who listens asks (`query`).
//!
//! On the way of a block there is no lock and no message: a write to memory, and two where it is the first of its site since
//! listeners were told last. While nobody listens there is nothing.

use crate::shard::ShardParts;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::site_mask::{SiteMask, WORDS};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Changes are gathered so long before they are told.
const GATHER: Duration = Duration::from_millis(10);
/// A listener that is further behind is told that everything may have changed.
const BEHIND: usize = 16;

/// What changed since it was last told.
pub(crate) struct Changes {
    words: [AtomicU64; WORDS],
    is_dirty: AtomicBool,
    dirty: Notify,
    listeners: broadcast::Sender<SiteMask>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            words: Default::default(),
            is_dirty: AtomicBool::new(false),
            dirty: Notify::new(),
            listeners: broadcast::Sender::new(BEHIND),
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("listeners", &self.listeners.receiver_count()).finish_non_exhaustive()
    }
}

impl Changes {
    /// Whether anybody wants to know.
    pub(crate) fn is_heard(&self) -> bool {
        self.listeners.receiver_count() > 0
    }

    /// Notes that something was counted for these sites.
    pub(crate) fn note<'a>(&self, sites: impl Iterator<Item = &'a str>) {
        for (word, bit) in sites.map(SiteMask::place) {
            if self.words[word].load(Ordering::Relaxed) & bit == 0 {
                // Acquires what `take` releases: where the bit was taken before, its flag is seen down below, and raised again.
                self.words[word].fetch_or(bit, Ordering::AcqRel);
            }
        }
        if !self.is_dirty.swap(true, Ordering::AcqRel) {
            self.dirty.notify_one();
        }
    }

    fn take(&self) -> SiteMask {
        // First: what is noted from now on is told next time, if not already this time.
        self.is_dirty.store(false, Ordering::Release);
        SiteMask::from_words(std::array::from_fn(|word| self.words[word].swap(0, Ordering::AcqRel)))
    }

    /// Tells listeners, until `stop`.
    pub(crate) async fn tell(parts: Arc<ShardParts>, stop: CancellationToken) {
        let changes = &parts.changes;
        let (mut committed, mut owners) = (parts.committed.clone(), parts.owners.clone());
        loop {
            let mask = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = committed.changed() => SiteMask::ALL,
                Ok(()) = owners.changed() => SiteMask::ALL,
                () = changes.dirty.notified() => {
                    tokio::time::sleep(GATHER).await;
                    changes.take()
                }
                else => return,
            };
            if !mask.is_empty() {
                // Nobody listens: nobody misses it.
                let _ = changes.listeners.send(mask);
            }
        }
    }

    /// What changes from now on.
    pub(crate) fn listen(
        &self,
        stop: CancellationToken,
    ) -> BoxStream<'static, Result<v1::ChangesReply, Status>> {
        let changes = stream::unfold(self.listeners.subscribe(), |mut changes| async move {
            let mask = match changes.recv().await {
                Ok(mask) => mask,
                Err(RecvError::Lagged(_)) => SiteMask::ALL,
                Err(RecvError::Closed) => return None,
            };
            Some((Ok(v1::ChangesReply { sites: mask.to_wire().into() }), changes))
        });
        changes.take_until(stop.cancelled_owned()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_taken_once() {
        let changes = Changes::default();
        assert!(!changes.is_heard());
        changes.note(["a.com", "b.com"].into_iter());
        let mask = changes.take();
        assert!(mask.may_hold("a.com") && mask.may_hold("b.com"));
        assert!(changes.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_listens_is_woken_by_the_first_change_after_the_last_telling() {
        let changes = Changes::default();
        for _ in 0..3 {
            changes.note(std::iter::once("a.com"));
            changes.note(std::iter::once("a.com"));
            tokio::time::timeout(GATHER, changes.dirty.notified()).await.unwrap();
            assert!(!changes.take().is_empty());
        }
        assert!(tokio::time::timeout(GATHER, changes.dirty.notified()).await.is_err());
    }

    #[tokio::test]
    async fn a_listener_that_is_far_behind_is_told_of_all_sites() {
        let changes = Changes::default();
        let mut heard = changes.listen(CancellationToken::new());
        let (word, bit) = SiteMask::place("a.com");
        let mut words = [0; WORDS];
        words[word] = bit;
        for _ in 0..BEHIND + 5 {
            changes.listeners.send(SiteMask::from_words(words)).unwrap();
        }
        let first = heard.next().await.unwrap().unwrap();
        assert_eq!(SiteMask::from_wire(&first.sites), SiteMask::ALL);
    }
}
