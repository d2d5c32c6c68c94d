//! Which shards a node may answer for, and with whom it has to compare first.
//!
//! Owns: what follows from views and placements for one node: shards that are given to it and taken from it, which other
//! nodes it has compared each with, and when it is done joining or leaving.
//! Does not own: comparing and moving blocks (`node`), placement (`placement`).
//!
//! Why comparing makes an answer complete: a block is acknowledged only when every node that it was brought to took it, and a
//! node takes a block only if it is brought to all nodes that it knows to be owners. A node that is asked for a comparison
//! replies only when it knows the asker as an owner, and then has no block on its way that the asker does not get. So who
//! compared with everybody, and pulled what it lacked, has all that was and will be acknowledged.
//!
//! A node may hear of others late: its first words were lost, or nobody answered for so long that it began alone. What is ready by
//! then was compared with nobody. While it joins, that is ready no more as soon as others show up. Later it *owes* a comparison with each
//! stranger (`acquaintances`), and answers say that something may be missing until that is done.
//!
//! Invariants:
//! * A shard is ready only after it was compared with every node present since it was given to this node.
//! * While a node joins, nothing is ready that was not compared with everybody who is present by now.
//! * Whoever had been given up by others begins anew: nothing is ready then.

mod acquaintances;

pub use acquaintances::Met;

use crate::member::{Incarnation, Member, MemberState, NodeId, View};
use crate::placement::Placement;
use crate::sharding::{ShardCount, ShardId};
use acquaintances::Acquaintances;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::sync::Arc;

/// How one shard stands on this node.
#[derive(Clone, Debug, Default)]
struct Standing {
    is_writer: bool,
    is_target: bool,
    is_ready: bool,
    /// Counts how often it was given to this node, or taken: what was found out before counts no more.
    stint: u64,
    /// Nodes that it was compared with since it was given to this node.
    compared: BTreeSet<NodeId>,
    /// Strangers that it is to be compared with, although it is ready.
    owed: BTreeSet<NodeId>,
    /// Owners that have all that this node held when it began to hand over.
    handed: BTreeSet<NodeId>,
    /// Its owners are not the same as when it was last compared with all of them.
    changed: bool,
}

impl Standing {
    /// The shard is given to this node.
    fn give(&mut self) {
        let is_target = self.is_target;
        self.end();
        (self.is_writer, self.is_target) = (true, is_target);
    }

    /// A stranger is there: what was compared with a former one of its name says nothing of it.
    fn meet(&mut self, stranger: &NodeId, owes: bool) {
        self.compared.remove(stranger);
        if owes {
            self.owed.insert(stranger.clone());
        }
    }

    /// This node does not own the shard any more. What is owed stays so: the stranger may have something all the same.
    fn end(&mut self) {
        *self = Self { stint: self.stint + 1, owed: take(&mut self.owed), ..Self::default() };
    }
}

/// What a change of the view did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Shards that this node is written to for, and was not before.
    pub given: Vec<ShardId>,
    /// Shards that it was written to for before.
    pub taken: Vec<ShardId>,
}

/// Shards that are being compared with a node. What was begun before a shard was taken and given again, or before the node turned out to
/// be a stranger, says nothing about what happened in between.
#[derive(Clone, Debug)]
pub struct Comparison {
    with: NodeId,
    meeting: u64,
    stints: BTreeMap<ShardId, u64>,
}

/// Which shards a node may answer for. A state machine: it is told what happened, and says what is to be done.
#[derive(Clone, Debug)]
pub struct Ownership {
    me: NodeId,
    /// The life in which this node joined last.
    life: Incarnation,
    state: MemberState,
    shards: Vec<Standing>,
    /// Nodes present that can be asked.
    others: BTreeSet<NodeId>,
    /// There are other nodes, all of them in doubt: they may come back, or be found missing.
    all_in_doubt: bool,
    acquaintances: Acquaintances,
    writers: Vec<Vec<NodeId>>,
}

impl Ownership {
    /// A node that owns nothing yet.
    pub fn new(me: NodeId, shards: ShardCount) -> Self {
        let count = shards.get() as usize;
        Self {
            me,
            life: Incarnation::default(),
            state: MemberState::Joining,
            shards: vec![Standing::default(); count],
            others: BTreeSet::new(),
            all_in_doubt: false,
            acquaintances: Acquaintances::default(),
            writers: vec![Vec::new(); count],
        }
    }

    /// Takes in a view and the placement that follows from it.
    pub fn update(&mut self, view: &View, placement: &Placement) -> Changes {
        if let Some(me) = view.member(&self.me) {
            self.state = me.state;
            if me.state == MemberState::Joining && me.incarnation != self.life {
                self.life = me.incarnation;
                self.shards.iter_mut().for_each(Standing::end);
            }
        }
        let can_be_asked = |node: &&Member| node.id != self.me && !node.doubtful;
        self.others = view.nodes().filter(can_be_asked).map(|node| node.id.clone()).collect();
        self.all_in_doubt = self.others.is_empty() && view.nodes().any(|node| node.id != self.me);
        let strangers = self.acquaintances.update(view, &self.me);
        let (owes, waits) = (self.state != MemberState::Joining, self.waits());
        let mut changes = Changes::default();
        for shard in placement.shards() {
            let Some(standing) = self.shards.get_mut(shard.index()) else { continue };
            let writers: Vec<NodeId> = placement.writers(shard).map(|node| node.id.clone()).collect();
            let is_writer = writers.contains(&self.me);
            standing.is_target = placement.is_target(shard, &self.me);
            match (standing.is_writer, is_writer) {
                (false, true) => {
                    standing.give();
                    changes.given.push(shard);
                }
                (true, false) => {
                    standing.end();
                    changes.taken.push(shard);
                }
                (true, true) => {
                    standing.changed |= self.writers[shard.index()] != writers;
                    strangers.iter().for_each(|stranger| standing.meet(stranger, owes));
                    standing.is_ready &= owes || (!waits && self.others.is_subset(&standing.compared));
                }
                (false, false) => {}
            }
            self.writers[shard.index()] = writers;
        }
        self.settle();
        changes
    }

    /// A node has compared some shards with this one, in the life in which it joined last.
    pub fn was_asked_by(&mut self, asker: &NodeId, life: Incarnation) {
        self.acquaintances.asked(asker, life);
    }

    /// All nodes that this one has met: what they may have is taken into account.
    pub fn met(&self) -> &Arc<Met> {
        self.acquaintances.met()
    }

    /// Strangers that shards have yet to be compared with: they may have taken what is not here.
    pub fn owed(&self) -> BTreeSet<NodeId> {
        let owned = self.shards.iter().filter(|standing| standing.is_writer);
        owned.flat_map(|standing| &standing.owed).cloned().collect()
    }

    /// Whether comparing a shard with a node makes answers complete that are not, or are not given, before.
    pub fn awaits(&self, shard: ShardId, with: &NodeId) -> bool {
        let standing = self.shards.get(shard.index());
        standing.is_some_and(|standing| !standing.is_ready || standing.owed.contains(with))
    }

    /// The life in which this node joined last: what is ready is ready in this life only.
    pub fn life(&self) -> Incarnation {
        self.life
    }

    /// The same as long as it joins.
    pub fn life_while_joining(&self) -> Option<Incarnation> {
        (self.state == MemberState::Joining).then_some(self.life)
    }

    /// Whether this node answers for a shard.
    pub fn is_ready(&self, shard: ShardId) -> bool {
        self.shards.get(shard.index()).is_some_and(|standing| standing.is_ready)
    }

    /// Shards that this node is written to for, and those of them that it answers for.
    pub fn counts(&self) -> (usize, usize) {
        let owned = self.shards.iter().filter(|standing| standing.is_writer);
        (owned.clone().count(), owned.filter(|standing| standing.is_ready).count())
    }

    /// Whether this node is written to for a shard.
    pub fn is_writer(&self, shard: ShardId) -> bool {
        self.shards.get(shard.index()).is_some_and(|standing| standing.is_writer)
    }

    /// What to compare with whom before shards are ready, because their owners changed, or because strangers showed up.
    ///
    /// Who owns a shard only until somebody who joins is ready does not begin to get it.
    pub fn to_compare(&self) -> BTreeMap<NodeId, Vec<ShardId>> {
        let mut due: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for (shard, standing) in self.numbered().filter(|(_, standing)| standing.is_writer) {
            let with_all = standing.is_target && (!standing.is_ready || standing.changed);
            let is_due = |other: &&NodeId| {
                with_all && !standing.compared.contains(*other) || standing.owed.contains(*other)
            };
            for other in self.others.iter().filter(is_due) {
                due.entry(other.clone()).or_default().push(shard);
            }
        }
        due
    }

    /// What to compare with whom although everything seems well: the other owners of each shard.
    pub fn to_check(&self) -> BTreeMap<NodeId, Vec<ShardId>> {
        let mut due: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for (shard, standing) in self.numbered() {
            if standing.is_writer {
                for other in self.other_writers(shard).filter(|other| self.others.contains(*other)) {
                    due.entry(other.clone()).or_default().push(shard);
                }
            }
        }
        due
    }

    /// Notes that shards are about to be compared with a node. To be asked before it is.
    pub fn begin(&self, with: &NodeId, shards: &[ShardId]) -> Comparison {
        let stint = |shard: &ShardId| Some((*shard, self.shards.get(shard.index())?.stint));
        Comparison {
            with: with.clone(),
            meeting: self.acquaintances.meeting(with),
            stints: shards.iter().filter_map(stint).collect(),
        }
    }

    /// These shards of a comparison are done: what the other node had and this one lacked is here.
    pub fn compared(&mut self, comparison: &Comparison, done: &BTreeSet<ShardId>) {
        let Comparison { with, meeting, stints } = comparison;
        if *meeting != self.acquaintances.meeting(with) {
            return;
        }
        for (shard, stint) in stints.iter().filter(|(shard, _)| done.contains(shard)) {
            let standing = self.shards.get_mut(shard.index());
            if let Some(standing) = standing.filter(|standing| standing.is_writer && standing.stint == *stint)
            {
                standing.compared.insert(with.clone());
            }
        }
        self.settle();
    }

    /// Whether there is nobody to compare with but who is in doubt: it may come back, or be found missing.
    fn waits(&self) -> bool {
        self.state == MemberState::Joining && self.all_in_doubt
    }

    /// Marks as ready what was compared with everybody.
    fn settle(&mut self) {
        let (others, waits) = (&self.others, self.waits());
        for standing in self.shards.iter_mut().filter(|standing| standing.is_writer) {
            let Standing { owed, compared, .. } = standing;
            owed.retain(|stranger| {
                self.acquaintances.may_have_something(stranger) && !compared.contains(stranger)
            });
            if standing.is_target && others.is_subset(&standing.compared) && !waits {
                (standing.is_ready, standing.changed) = (true, false);
                // Whoever comes back later is to be compared with again.
                standing.compared.clone_from(others);
            }
        }
    }

    /// Whom to hand what is in the journal, of the shards that `holds` says have something there: while this node joins or
    /// leaves, and of what is not its own.
    pub fn to_hand_over(&self, holds: &BTreeSet<ShardId>) -> BTreeMap<NodeId, Vec<ShardId>> {
        let mut due: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for &shard in holds {
            let Some(standing) = self.shards.get(shard.index()) else { continue };
            if standing.is_writer && self.state == MemberState::Active {
                continue;
            }
            let left = self.other_writers(shard).filter(|other| !standing.handed.contains(*other));
            for other in left.filter(|other| self.others.contains(*other)) {
                due.entry(other.clone()).or_default().push(shard);
            }
        }
        due
    }

    /// An owner has all that this node holds of these shards.
    pub fn handed(&mut self, to: &NodeId, shards: impl IntoIterator<Item = ShardId>) {
        for shard in shards {
            if let Some(standing) = self.shards.get_mut(shard.index()) {
                standing.handed.insert(to.clone());
            }
        }
    }

    /// This node is leaving: what it handed over before, it hands over again, so that the last blocks are among it.
    pub fn begin_to_leave(&mut self) {
        self.shards.iter_mut().for_each(|standing| standing.handed.clear());
    }

    /// Whether everything is handed over of a shard that is not this node's own: it need not be in memory.
    pub fn can_release(&self, shard: ShardId) -> bool {
        let Some(standing) = self.shards.get(shard.index()) else { return false };
        let mut writers = self.other_writers(shard).peekable();
        !standing.is_writer
            && writers.peek().is_some()
            && writers.all(|other| standing.handed.contains(other))
    }

    /// Whether a node that joins has all that it is to have, and others have all that it held.
    pub fn has_joined(&self, holds: &BTreeSet<ShardId>) -> bool {
        let is_ready = |standing: &Standing| !standing.is_target || standing.is_ready;
        self.shards.iter().all(is_ready) && self.to_hand_over(holds).is_empty()
    }

    /// Whether a node that leaves has handed over all that it held. Also where there is nobody to take it.
    ///
    /// An owner that was just given up counts: when it does not come back, another node takes its place, and is handed to.
    pub fn has_left(&self, holds: &BTreeSet<ShardId>) -> bool {
        let is_handed = |&shard: &ShardId| {
            let standing = self.shards.get(shard.index());
            self.other_writers(shard).all(|other| standing.is_none_or(|of| of.handed.contains(other)))
        };
        self.state == MemberState::Leaving && holds.iter().all(is_handed)
    }

    fn other_writers(&self, shard: ShardId) -> impl Iterator<Item = &NodeId> {
        let writers = self.writers.get(shard.index()).into_iter().flatten();
        writers.filter(|writer| **writer != self.me)
    }

    fn numbered(&self) -> impl Iterator<Item = (ShardId, &Standing)> {
        let count = ShardCount::new(self.shards.len() as u32);
        count.into_iter().flat_map(ShardCount::shards).zip(&self.shards)
    }
}

#[cfg(test)]
mod tests;
