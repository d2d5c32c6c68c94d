//! Decides where every block goes next, and when.
//!
//! Owns: the blocks that are not acknowledged, where each is (waiting, on a line, on disk), and all decisions about them.
//! Does not own: lines, disk and clock: what happened comes in as calls, what is to be done goes out as [`Action`]s.
//!
//! Invariants:
//! * Each block that was taken ends in exactly one [`Action::Settled`], unless the desk is dropped.
//! * A block that is not on disk counts against the memory bound until it is settled or on disk; then [`Action::Kept`] or the
//!   settlement says that its room is free.
//! * A block in memory is in exactly one of `ready`, `delayed`, a line's `parked`, or on a line with a deadline.

mod lines;
mod moves;
#[cfg(test)]
mod tests;

use crate::backoff::Backoff;
use crate::routes::Routes;
use crate::ticket::Why;
pub(crate) use lines::LineLimits;
use lines::Lines;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;
use tokio::time::Instant;

/// How long nothing may be acknowledged, with callers waiting for room, until blocks are put on disk.
const STALLED_AFTER: Duration = Duration::from_millis(200);
/// How long until a full disk, or a block that cannot be given up yet, is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A block of this producer. In this order blocks were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Of this run of the producer; blocks that were found on disk have the first numbers.
    pub(crate) batch: u64,
    pub(crate) shard: u32,
    /// Of the shard's blocks.
    pub(crate) seq: u64,
}

/// How a block ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    Acknowledged { accepted: u32, duplicate: u32, rejected: Vec<v1::ReasonCount>, waited: Duration },
    Undelivered(Why),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Over the line to this node; open it where it is not.
    Send { address: Arc<str>, block: v1::Block, again: bool },
    /// The line is of no more use.
    Hang { address: Arc<str> },
    /// Put it on disk, and say [`Desk::kept`].
    Keep { key: Key, block: v1::Block },
    /// It is on disk: its room in memory is free.
    Kept { key: Key, bytes: usize, events: u32 },
    /// Off the disk.
    Trim { key: Key },
    /// It has ended. `bytes` of room are free, unless it was on disk: `on_disk`.
    Settled { key: Key, events: u32, bytes: usize, on_disk: bool, fate: Fate },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct DeskConfig {
    pub(crate) line: LineLimits,
    pub(crate) timeout: Duration,
    pub(crate) retry_for: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) disk: Option<DiskRules>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskRules {
    pub(crate) after: Duration,
    pub(crate) window: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    Delayed(Instant),
    Parked(Arc<str>),
    OnLine { address: Arc<str>, deadline: Instant },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDisk {
    No,
    Writing,
    Yes,
}

#[derive(Debug)]
struct Parcel {
    block: v1::Block,
    bytes: usize,
    taken: Instant,
    /// How often it was sent.
    sent: u32,
    /// Failures in a row: what back-off grows with.
    tries: u32,
    /// How many nodes turned it away: where in the order it goes next.
    turn: u32,
    place: Place,
    on_disk: OnDisk,
    /// When to look whether it has waited long enough.
    look: Option<Instant>,
    last: Arc<str>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Desk {
    config: DeskConfig,
    random: StdRng,
    routes: Arc<Routes>,
    lines: Lines,
    parcels: BTreeMap<Key, Parcel>,
    /// Acknowledgements tell blocks by shard and sequence number.
    batches: BTreeMap<(u32, u64), u64>,
    ready: BTreeSet<Key>,
    delayed: BTreeSet<(Instant, Key)>,
    deadlines: BTreeSet<(Instant, Key)>,
    looks: BTreeSet<(Instant, Key)>,
    /// On disk and not in memory, with their events.
    stored: BTreeMap<Key, u32>,
    /// On disk and in memory.
    doubled: usize,
    writing: usize,
    last_progress: Instant,
    pressed: bool,
    disk_full_until: Option<Instant>,
    closing: bool,
    /// What went wrong last, for blocks that were never sent.
    last: Arc<str>,
    actions: Vec<Action>,
}

impl Desk {
    pub(crate) fn new(config: DeskConfig, routes: Arc<Routes>, seed: u64, now: Instant) -> Self {
        Self {
            config,
            random: StdRng::seed_from_u64(seed),
            routes,
            lines: Lines::new(config.line),
            parcels: BTreeMap::new(),
            batches: BTreeMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            looks: BTreeSet::new(),
            stored: BTreeMap::new(),
            doubled: 0,
            writing: 0,
            last_progress: now,
            pressed: false,
            disk_full_until: None,
            closing: false,
            last: Arc::from("no node was tried yet"),
            actions: Vec::new(),
        }
    }

    /// A new block, of the batch with this number.
    pub(crate) fn take(&mut self, batch: u64, block: v1::Block, bytes: usize, now: Instant) {
        let key = Key { batch, shard: block.shard, seq: block.seq };
        self.batches.insert((key.shard, key.seq), batch);
        self.insert(key, block, bytes, OnDisk::No, now);
        if self.parcels.len() == 1 {
            // Nothing was to be acknowledged before.
            self.last_progress = now;
        }
    }

    fn insert(&mut self, key: Key, block: v1::Block, bytes: usize, on_disk: OnDisk, now: Instant) {
        let last = Arc::clone(&self.last);
        let place = Place::Ready;
        let parcel =
            Parcel { block, bytes, taken: now, sent: 0, tries: 0, turn: 0, place, on_disk, look: None, last };
        self.parcels.insert(key, parcel);
        self.ready.insert(key);
        if on_disk == OnDisk::No {
            let patience = self.config.disk.map_or(self.config.retry_for, |disk| disk.after);
            self.look_at(key, now + patience);
        }
    }

    /// A block of an earlier life, on disk.
    pub(crate) fn found(&mut self, key: Key, events: u32) {
        self.batches.insert((key.shard, key.seq), key.batch);
        self.stored.insert(key, events);
    }

    /// The oldest blocks on disk that are to be sent again now; [`loaded`](Self::loaded) is to be called for each.
    pub(crate) fn wanted(&self) -> Vec<Key> {
        let window = self.config.disk.map_or(0, |disk| disk.window);
        match self.closing {
            true => Vec::new(),
            false => self.stored.keys().take(window.saturating_sub(self.doubled)).copied().collect(),
        }
    }

    /// A block was read from disk, or cannot be.
    pub(crate) fn loaded(&mut self, key: Key, read: Result<v1::Block, String>, now: Instant) {
        let Some(events) = self.stored.remove(&key) else { return };
        match read {
            Ok(block) => {
                let bytes = block.columns.len();
                self.doubled += 1;
                self.insert(key, block, bytes, OnDisk::Yes, now);
            }
            Err(message) => {
                self.batches.remove(&(key.shard, key.seq));
                let fate = Fate::Undelivered(Why::Unreadable(message));
                self.actions.push(Action::Settled { key, events, bytes: 0, on_disk: true, fate });
            }
        }
    }

    /// Whether a block was put on disk.
    pub(crate) fn kept(&mut self, key: Key, outcome: Result<(), String>, now: Instant) {
        self.writing -= 1;
        let Some(parcel) = self.parcels.get_mut(&key) else {
            // It was acknowledged meanwhile.
            if outcome.is_ok() {
                self.actions.push(Action::Trim { key });
            }
            return;
        };
        match outcome {
            Ok(()) => {
                parcel.on_disk = OnDisk::Yes;
                let (bytes, events) = (parcel.bytes, parcel.block.event_count);
                self.doubled += 1;
                self.look_never(key);
                self.actions.push(Action::Kept { key, bytes, events });
                self.leave_to_disk(key);
            }
            Err(message) => {
                parcel.on_disk = OnDisk::No;
                parcel.last = Arc::from(message);
                self.disk_full_until = Some(now + LOOK_AGAIN);
                match self.closing {
                    true => self.give_up(key, now),
                    false => self.look_at(key, now + LOOK_AGAIN),
                }
            }
        }
    }

    /// A caller found no room.
    pub(crate) fn press(&mut self) {
        self.pressed = self.config.disk.is_some();
    }

    /// A placement was learnt. Blocks begin anew with its order.
    pub(crate) fn set_routes(&mut self, routes: Arc<Routes>) {
        self.routes = routes;
        self.lines.unpark_all().into_iter().for_each(|key| self.make_ready(key));
        for parcel in self.parcels.values_mut() {
            parcel.turn = 0;
        }
        // Whoever waits because nobody was there finds somebody, perhaps.
        let delayed: Vec<Key> = self.delayed.iter().map(|&(_, key)| key).collect();
        delayed
            .into_iter()
            .filter(|key| self.parcels[key].sent == 0)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|key| self.make_ready(key));
        for address in self.lines.keep(&self.routes) {
            self.actions.push(Action::Hang { address });
        }
    }

    /// A node answered for a block.
    pub(crate) fn answered(&mut self, from: &str, ack: v1::BlockAck, now: Instant) {
        // Of a block that has ended already nothing more is to be done.
        if let Some(&batch) = self.batches.get(&(ack.shard, ack.seq)) {
            self.answer(from, Key { batch, shard: ack.shard, seq: ack.seq }, ack, now);
        }
        self.lines.heard(from, now);
    }

    fn answer(&mut self, from: &str, key: Key, ack: v1::BlockAck, now: Instant) {
        let Some(refusal) = ack.refused else {
            self.last_progress = now;
            self.pressed = false;
            let waited = self.parcels.get(&key).map_or(Duration::ZERO, |parcel| now - parcel.taken);
            let (accepted, duplicate, rejected) = (ack.accepted, ack.duplicate, ack.rejected);
            return self.settle(key, Fate::Acknowledged { accepted, duplicate, rejected, waited });
        };
        if refusal.retry_after_ms == 0 {
            let why = Why::Refused { reason: refusal.reason(), message: refusal.message };
            return self.settle(key, Fate::Undelivered(why));
        }
        let on_line =
            |parcel: &Parcel| matches!(&parcel.place, Place::OnLine { address, .. } if **address == *from);
        if self.parcels.get(&key).is_some_and(on_line) {
            // Who has no room will have some; who cannot reach an owner is passed by.
            let stay = matches!(
                refusal.reason(),
                RefusalReason::Overloaded | RefusalReason::TooFewOwners | RefusalReason::OverQuota
            );
            let last = format!("{}: {}", refusal.reason().name(), refusal.message);
            let least = Duration::from_millis(u64::from(refusal.retry_after_ms));
            self.fail(key, &Arc::from(last), !stay, least, now);
        }
    }

    /// A line broke, or could not be opened.
    pub(crate) fn broke(&mut self, address: &str, why: &str, now: Instant) {
        let Some(line) = self.lines.states.get_mut(address) else { return };
        let parked = std::mem::take(&mut line.parked);
        if line.blocks == 0 {
            // Nobody was harmed: the node closed a line that nothing was on.
            self.lines.states.remove(address);
        } else {
            line.failures = line.failures.saturating_add(1);
            line.down_until = Some(now + self.config.backoff.delay(line.failures, &mut self.random));
        }
        parked.into_iter().for_each(|key| self.make_ready(key));
        let on_line =
            |parcel: &Parcel| matches!(&parcel.place, Place::OnLine { address: on, .. } if **on == *address);
        let lost: Vec<Key> =
            self.parcels.iter().filter(|(_, parcel)| on_line(parcel)).map(|(&key, _)| key).collect();
        let last = Arc::from(format!("{address}: {why}"));
        self.last = Arc::clone(&last);
        lost.into_iter().for_each(|key| self.fail(key, &last, true, Duration::ZERO, now));
    }

    /// Does what is due. What is to be done is in [`actions`](Self::actions) then.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(&(due, key)) = self.deadlines.first().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, key));
            self.late(key, now);
        }
        while let Some(&(due, key)) = self.delayed.first().filter(|(due, _)| *due <= now) {
            self.delayed.remove(&(due, key));
            self.make_ready(key);
        }
        while let Some(&(due, key)) = self.looks.first().filter(|(due, _)| *due <= now) {
            self.looks.remove(&(due, key));
            self.look(key, now);
        }
        if self.pressed && self.stalled_at() <= now {
            self.pressed = false;
            let keys: Vec<Key> = self.parcels.keys().copied().collect();
            keys.into_iter().for_each(|key| self.keep(key, now));
        }
        self.lines.unpark().into_iter().for_each(|key| self.make_ready(key));
        for key in std::mem::take(&mut self.ready) {
            self.dispatch(key, now);
        }
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let firsts = [self.deadlines.first(), self.delayed.first(), self.looks.first()];
        let pressed = self.pressed.then(|| self.stalled_at());
        firsts.into_iter().flatten().map(|&(due, _)| due).chain(pressed).min()
    }

    /// What is to be done, in this order.
    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether nothing is left to bring.
    pub(crate) fn is_empty(&self) -> bool {
        self.parcels.is_empty() && self.stored.is_empty() && self.writing == 0
    }

    /// Sends no more; what is not on disk goes there, or is given up. When [`is_put_away`](Self::is_put_away), call
    /// [`leave`](Self::leave).
    pub(crate) fn close(&mut self, now: Instant) {
        self.closing = true;
        self.disk_full_until = None;
        let keys: Vec<Key> = self.parcels.keys().copied().collect();
        for key in keys {
            match self.config.disk {
                Some(_) => self.keep(key, now),
                None => self.give_up(key, now),
            }
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether it is closed and nothing is on its way to the disk.
    pub(crate) fn is_put_away(&self) -> bool {
        self.closing && self.writing == 0
    }

    /// Ends what is on disk: the next one who opens the folder brings it.
    pub(crate) fn leave(&mut self) {
        let in_memory = self.parcels.iter().filter(|(_, parcel)| parcel.on_disk == OnDisk::Yes);
        let mut left: BTreeMap<Key, u32> =
            in_memory.map(|(&key, parcel)| (key, parcel.block.event_count)).collect();
        left.append(&mut self.stored);
        for (key, events) in left {
            let fate = Fate::Undelivered(Why::Spooled);
            self.actions.push(Action::Settled { key, events, bytes: 0, on_disk: true, fate });
        }
        self.parcels.clear();
        self.batches.clear();
    }

    fn stalled_at(&self) -> Instant {
        self.last_progress + STALLED_AFTER
    }
}
