//! What is known of the lines to nodes.
//!
//! Owns: how much is on its way over each line, which lines are down until when, and which one a block takes.
//! Does not own: the lines themselves (`line`), the blocks (`desk`).

use super::Key;
use crate::routes::Routes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::Instant;

/// How much is on its way over one line at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineLimits {
    pub(crate) blocks: usize,
    pub(crate) bytes: usize,
}

/// One line, open or not.
#[derive(Debug)]
pub(super) struct LineState {
    pub(super) blocks: usize,
    pub(super) bytes: usize,
    /// When something was last heard of it, or when it was last begun.
    pub(super) heard: Instant,
    /// Failures since something was last heard.
    pub(super) failures: u32,
    pub(super) down_until: Option<Instant>,
    /// Blocks that wait for room on it.
    pub(super) parked: BTreeSet<Key>,
}

impl LineState {
    fn new(now: Instant) -> Self {
        Self { blocks: 0, bytes: 0, heard: now, failures: 0, down_until: None, parked: BTreeSet::new() }
    }

    fn view(&self, limits: LineLimits, now: Instant) -> View {
        match self.down_until {
            Some(until) if until > now => View::Down(until),
            // After a failure one block finds out whether it is back; the others need not wait for that.
            _ if self.failures > 0 && self.blocks > 0 => View::Probed,
            _ if self.blocks >= limits.blocks || self.bytes >= limits.bytes => View::Full,
            _ => View::Free,
        }
    }

    /// How many more blocks it takes.
    fn room(&self, limits: LineLimits) -> usize {
        match self.failures > 0 {
            true => usize::from(self.blocks == 0),
            false if self.bytes >= limits.bytes => 0,
            false => limits.blocks.saturating_sub(self.blocks),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Free,
    Full,
    Probed,
    Down(Instant),
}

/// Where a block goes now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Over this line.
    Send(Arc<str>),
    /// Nowhere yet: this line is the one to wait for.
    Park(Arc<str>),
    /// Nowhere: all lines are down, at least until then.
    Wait(Option<Instant>),
}

/// All lines.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) limits: LineLimits,
    pub(super) states: BTreeMap<Arc<str>, LineState>,
}

impl Lines {
    pub(super) fn new(limits: LineLimits) -> Self {
        Self { limits, states: BTreeMap::new() }
    }

    /// The line for a block of `shard` that has been turned away `turn` times: the first in the shard's order that is not down,
    /// beginning after those that turned it away.
    ///
    /// A line that is merely full is waited for: a slow owner is slow whoever passes the block on, and who goes around it puts
    /// its load on others.
    pub(super) fn choose(&self, routes: &Routes, shard: u32, turn: u32, now: Instant) -> Choice {
        let count = routes.count();
        let (mut probed, mut earliest) = (None, None::<Instant>);
        for step in 0..count {
            let Some(address) = routes.at(shard, (turn as usize + step) % count) else { continue };
            match self.states.get(address).map_or(View::Free, |line| line.view(self.limits, now)) {
                View::Free => return Choice::Send(Arc::clone(address)),
                View::Full => return Choice::Park(Arc::clone(address)),
                View::Probed => _ = probed.get_or_insert(address),
                View::Down(until) => earliest = Some(earliest.map_or(until, |earliest| earliest.min(until))),
            }
        }
        match probed {
            Some(address) => Choice::Park(Arc::clone(address)),
            None => Choice::Wait(earliest),
        }
    }

    /// Counts a block that goes over a line.
    pub(super) fn load(&mut self, address: &Arc<str>, bytes: usize, now: Instant) {
        let line = self.states.entry(Arc::clone(address)).or_insert_with(|| LineState::new(now));
        if line.blocks == 0 {
            line.heard = now;
        }
        line.blocks += 1;
        line.bytes += bytes;
    }

    /// Counts a block no more.
    pub(super) fn unload(&mut self, address: &str, bytes: usize) {
        if let Some(line) = self.states.get_mut(address) {
            line.blocks = line.blocks.saturating_sub(1);
            line.bytes = line.bytes.saturating_sub(bytes);
        }
    }

    /// Something was heard: the line works.
    pub(super) fn heard(&mut self, address: &str, now: Instant) {
        if let Some(line) = self.states.get_mut(address) {
            (line.heard, line.failures, line.down_until) = (now, 0, None);
        }
    }

    /// Takes as many parked blocks as have room now.
    pub(super) fn unpark(&mut self) -> Vec<Key> {
        let limits = self.limits;
        let mut unparked = Vec::new();
        for line in self.states.values_mut().filter(|line| !line.parked.is_empty()) {
            for _ in 0..line.room(limits) {
                unparked.extend(line.parked.pop_first());
            }
        }
        unparked
    }

    /// Everything that waits for room on any line.
    pub(super) fn unpark_all(&mut self) -> Vec<Key> {
        self.states.values_mut().flat_map(|line| std::mem::take(&mut line.parked)).collect()
    }

    /// Forgets lines that no placement names and that have nothing on their way.
    pub(super) fn keep(&mut self, routes: &Routes) -> Vec<Arc<str>> {
        let gone =
            |address: &Arc<str>, line: &LineState| line.blocks == 0 && !routes.addresses().contains(address);
        let idle: Vec<Arc<str>> = self
            .states
            .iter()
            .filter(|(address, line)| gone(address, line))
            .map(|(address, _)| Arc::clone(address))
            .collect();
        idle.iter().for_each(|address| _ = self.states.remove(address));
        idle
    }
}
