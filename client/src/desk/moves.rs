//! What happens to single blocks: from place to place, to disk, to an end.
//!
//! Owns: the steps that keep a block's place and the sets that it stands in the same.
//! Does not own: which event leads to which step (`desk`).

use super::lines::Choice;
use super::{Action, Desk, Fate, Key, LOOK_AGAIN, OnDisk, Place};
use crate::ticket::Why;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Desk {
    /// Takes a block from where it is; it has to be put somewhere else.
    pub(super) fn lift(&mut self, key: Key) {
        let Some(parcel) = self.parcels.get(&key) else { return };
        match &parcel.place {
            Place::Ready => _ = self.ready.remove(&key),
            Place::Delayed(due) => _ = self.delayed.remove(&(*due, key)),
            Place::Parked(address) => {
                if let Some(line) = self.lines.states.get_mut(address) {
                    line.parked.remove(&key);
                }
            }
            Place::OnLine { address, deadline } => {
                self.deadlines.remove(&(*deadline, key));
                self.lines.unload(address, parcel.bytes);
            }
        }
    }

    pub(super) fn put(&mut self, key: Key, place: Place) {
        self.lift(key);
        let Some(parcel) = self.parcels.get_mut(&key) else { return };
        match &place {
            Place::Ready => _ = self.ready.insert(key),
            Place::Delayed(due) => _ = self.delayed.insert((*due, key)),
            Place::Parked(address) => {
                if let Some(line) = self.lines.states.get_mut(address) {
                    line.parked.insert(key);
                }
            }
            Place::OnLine { deadline, .. } => _ = self.deadlines.insert((*deadline, key)),
        }
        parcel.place = place;
    }

    pub(super) fn make_ready(&mut self, key: Key) {
        self.put(key, Place::Ready);
    }

    pub(super) fn look_never(&mut self, key: Key) {
        if let Some(look) = self.parcels.get_mut(&key).and_then(|parcel| parcel.look.take()) {
            self.looks.remove(&(look, key));
        }
    }

    pub(super) fn look_at(&mut self, key: Key, when: Instant) {
        self.look_never(key);
        if let Some(parcel) = self.parcels.get_mut(&key) {
            parcel.look = Some(when);
            self.looks.insert((when, key));
        }
    }

    /// A block has waited long enough, perhaps.
    pub(super) fn look(&mut self, key: Key, now: Instant) {
        let Some(parcel) = self.parcels.get_mut(&key) else { return };
        parcel.look = None;
        if self.config.disk.is_some() {
            return self.keep(key, now);
        }
        match parcel.place {
            // A cluster that is slow answers, or the line breaks; then it is given up.
            Place::OnLine { .. } | Place::Parked(_) => self.look_at(key, now + LOOK_AGAIN),
            Place::Ready | Place::Delayed(_) => self.give_up(key, now),
        }
    }

    /// Puts a block on disk, where it is not there yet.
    pub(super) fn keep(&mut self, key: Key, now: Instant) {
        if let Some(until) = self.disk_full_until.filter(|&until| until > now) {
            if self.parcels.get(&key).is_some_and(|parcel| parcel.on_disk == OnDisk::No) {
                self.look_at(key, until);
            }
            return;
        }
        if let Some(parcel) = self.parcels.get_mut(&key).filter(|parcel| parcel.on_disk == OnDisk::No) {
            parcel.on_disk = OnDisk::Writing;
            self.writing += 1;
            self.actions.push(Action::Keep { key, block: parcel.block.clone() });
            self.look_never(key);
        }
    }

    pub(super) fn give_up(&mut self, key: Key, now: Instant) {
        let Some(parcel) = self.parcels.get(&key) else { return };
        let why = Why::GivenUp { waited: now - parcel.taken, last: parcel.last.to_string() };
        self.settle(key, Fate::Undelivered(why));
    }

    pub(super) fn settle(&mut self, key: Key, fate: Fate) {
        self.batches.remove(&(key.shard, key.seq));
        if let Some(events) = self.stored.remove(&key) {
            self.actions.push(Action::Trim { key });
            return self.actions.push(Action::Settled { key, events, bytes: 0, on_disk: true, fate });
        }
        self.lift(key);
        self.look_never(key);
        let Some(parcel) = self.parcels.remove(&key) else { return };
        let on_disk = parcel.on_disk == OnDisk::Yes;
        if on_disk {
            self.doubled -= 1;
            self.actions.push(Action::Trim { key });
        }
        let (events, bytes) = (parcel.block.event_count, parcel.bytes);
        self.actions.push(Action::Settled { key, events, bytes, on_disk, fate });
    }

    /// Lets go of a block that is on disk too, if more of those are in memory than should be.
    pub(super) fn leave_to_disk(&mut self, key: Key) {
        let window = self.config.disk.map_or(0, |disk| disk.window);
        let Some(parcel) = self.parcels.get(&key) else { return };
        let resting = !matches!(parcel.place, Place::OnLine { .. });
        if parcel.on_disk == OnDisk::Yes && resting && self.doubled > window {
            let events = parcel.block.event_count;
            self.lift(key);
            self.parcels.remove(&key);
            self.doubled -= 1;
            self.stored.insert(key, events);
        }
    }

    /// A block was not brought: again later, to the next node if `turn`.
    pub(super) fn fail(&mut self, key: Key, last: &Arc<str>, turn: bool, least: Duration, now: Instant) {
        let Some(parcel) = self.parcels.get_mut(&key) else { return };
        parcel.last = Arc::clone(last);
        parcel.tries = parcel.tries.saturating_add(1);
        parcel.turn = parcel.turn.wrapping_add(u32::from(turn));
        let (tries, expired) = (parcel.tries, now - parcel.taken > self.config.retry_for);
        self.last = Arc::clone(last);
        if expired && self.config.disk.is_none() {
            return self.give_up(key, now);
        }
        let delay = self.config.backoff.delay(tries, &mut self.random).max(least);
        self.put(key, Place::Delayed(now + delay));
        self.leave_to_disk(key);
    }

    /// An acknowledgement did not come in time.
    pub(super) fn late(&mut self, key: Key, now: Instant) {
        let Some(parcel) = self.parcels.get(&key) else { return };
        let Place::OnLine { address, .. } = &parcel.place else { return };
        let address = Arc::clone(address);
        let silent =
            self.lines.states.get(&address).is_none_or(|line| line.heard + self.config.timeout <= now);
        if silent {
            self.actions.push(Action::Hang { address: Arc::clone(&address) });
            self.broke(&address, "no acknowledgement came in time", now);
        } else {
            // The node is well, and waits for somebody else.
            let last = Arc::from(format!("{address}: no acknowledgement of this block came in time"));
            self.fail(key, &last, true, Duration::ZERO, now);
        }
    }

    pub(super) fn dispatch(&mut self, key: Key, now: Instant) {
        if self.closing {
            return;
        }
        let Some(parcel) = self.parcels.get(&key) else { return };
        match self.lines.choose(&self.routes, key.shard, parcel.turn, now) {
            Choice::Send(address) => {
                let (bytes, again, block) = (parcel.bytes, parcel.sent > 0, parcel.block.clone());
                let deadline = now + self.config.timeout;
                self.put(key, Place::OnLine { address: Arc::clone(&address), deadline });
                self.lines.load(&address, bytes, now);
                if let Some(parcel) = self.parcels.get_mut(&key) {
                    parcel.sent = parcel.sent.saturating_add(1);
                }
                self.actions.push(Action::Send { address, block, again });
            }
            Choice::Park(address) => self.put(key, Place::Parked(address)),
            Choice::Wait(until) => {
                let until = until.unwrap_or(now + self.config.backoff.most);
                self.put(key, Place::Delayed(until.max(now + Duration::from_millis(1))));
                self.leave_to_disk(key);
            }
        }
    }
}
