//! Keeping up with the view, and with what follows from repair.

use super::{JOIN_WAIT, Repair};
use crate::owners::Owners;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tidemark_rollup::member::{MemberState, View};
use tidemark_rollup::ownership::Ownership;
use tokio_util::sync::CancellationToken;

impl Repair {
    /// Takes in each change of the view at once, whatever repair is busy with, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut views = self.membership.view();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            self.take_in(view);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = views.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Takes in a view: who owns what from now on, and for what this node may answer.
    pub(crate) fn take_in(&self, view: Arc<View>) {
        let mut ownership = self.ownership();
        let expects_others = self.membership.expects_others();
        let owners =
            Owners::of(self.me.clone(), Arc::clone(&view), expects_others, self.shards, self.replication);
        let changes = ownership.update(&view, &owners.placement);
        self.owners.send_replace(Arc::new(owners.with_ready(&ownership, self.planted)));
        self.told(&ownership);
        // `release` holds it while it takes `released`: the other way round, both would wait for ever.
        drop(ownership);
        self.peers.keep(&view);
        if !changes.given.is_empty() || !changes.taken.is_empty() {
            self.meter.shards_moved(changes.given.len(), changes.taken.len());
            let (present, given, taken) = (view.nodes().count(), changes.given.len(), changes.taken.len());
            tracing::info!(node = %self.me, present, given, taken, "shards are given to this node, or taken from it");
        }
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in changes.given.into_iter().filter(|shard| released.remove(shard)) {
            self.local.get(shard.index()).into_iter().for_each(|handle| handle.restore());
        }
    }

    /// Tells everybody for what this node answers by now.
    pub(super) fn publish(&self, ownership: &Ownership) {
        self.owners.send_modify(|owners| *owners = Arc::new(owners.with_ready(ownership, self.planted)));
        self.told(ownership);
    }

    fn told(&self, ownership: &Ownership) {
        let (owned, ready) = ownership.counts();
        self.meter.ownership(owned, ready, self.behind.load(Ordering::Relaxed));
    }

    /// Goes on where everything is done that had to be done first.
    pub(super) async fn proceed(&self) {
        let holds = self.held();
        let (state, waits) = {
            let owners = self.owners.borrow();
            (owners.state(), owners.waits())
        };
        let life = self.ownership().life();
        let is_leaving = self.is_leaving.load(Ordering::Relaxed);
        match state {
            // Others gave this node up while it left: it goes on leaving.
            MemberState::Joining if is_leaving => self.membership.set_state(MemberState::Leaving).await,
            MemberState::Joining => {
                let waits = waits && self.started.elapsed() < JOIN_WAIT;
                let (has_joined, owned) = {
                    let ownership = self.ownership();
                    (ownership.has_joined(&holds), ownership.counts().0)
                };
                if has_joined && !waits {
                    // Not if others gave this node up in this very moment: then it lacks what was written meanwhile.
                    if self.membership.set_state_in(life, MemberState::Active).await {
                        tracing::info!(node = %self.me, owned, "has what others have of its shards, and answers for them");
                    }
                }
            }
            MemberState::Active if is_leaving => self.membership.set_state(MemberState::Leaving).await,
            MemberState::Active => {}
            MemberState::Leaving => {
                if self.ownership().has_left(&holds) {
                    self.left.notify_one();
                }
            }
        }
        self.release(&holds);
    }

    /// Takes shards out of memory that others have all of.
    fn release(&self, holds: &std::collections::BTreeSet<tidemark_rollup::sharding::ShardId>) {
        let ownership = self.ownership();
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in self.shards.shards() {
            let is_done = ownership.can_release(shard) || !holds.contains(&shard);
            if !ownership.is_writer(shard) && is_done && released.insert(shard) {
                self.local.get(shard.index()).into_iter().for_each(|handle| handle.release());
            }
        }
    }
}
