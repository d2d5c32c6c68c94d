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
//! A node that joins may hear of others late, as its first words were lost: what was ready by then was compared with nobody, and is
//! ready no more as soon as they show up.
//!
//! Invariants:
//! * A shard is ready only after it was compared with every node present since it was given to this node.
//! * While a node joins, nothing is ready that was not compared with everybody who is present by now.
//! * Whoever had been given up by others begins anew: nothing is ready then.

use crate::member::{Incarnation, Member, MemberState, NodeId, View};
use crate::placement::Placement;
use crate::sharding::{ShardCount, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// How one shard stands on this node.
#[derive(Clone, Debug, Default)]
struct Standing {
    is_writer: bool,
    is_target: bool,
    is_ready: bool,
    /// Counts how often it was given to this node: what was found out before counts no more.
    stint: u64,
    /// Nodes that it was compared with since it was given to this node.
    compared: BTreeSet<NodeId>,
    /// Owners that have all that this node held when it began to hand over.
    handed: BTreeSet<NodeId>,
    /// Its owners are not the same as when it was last compared with all of them.
    changed: bool,
}

impl Standing {
    /// The shard is given to this node.
    fn give(&mut self) {
        *self = Self { is_writer: true, is_target: self.is_target, ..Self::ended(self.stint) };
    }

    /// The shard as it stands when this node does not own it.
    fn ended(stint: u64) -> Self {
        Self { stint: stint + 1, ..Self::default() }
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
            writers: vec![Vec::new(); count],
        }
    }

    /// Takes in a view and the placement that follows from it.
    pub fn update(&mut self, view: &View, placement: &Placement) -> Changes {
        if let Some(me) = view.member(&self.me) {
            self.state = me.state;
            if me.state == MemberState::Joining && me.incarnation != self.life {
                self.life = me.incarnation;
                self.shards.iter_mut().for_each(|standing| *standing = Standing::ended(standing.stint));
            }
        }
        let can_be_asked = |node: &&Member| node.id != self.me && !node.doubtful;
        self.others = view.nodes().filter(can_be_asked).map(|node| node.id.clone()).collect();
        self.all_in_doubt = self.others.is_empty() && view.nodes().any(|node| node.id != self.me);
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
                    *standing = Standing::ended(standing.stint);
                    changes.taken.push(shard);
                }
                (true, true) => {
                    standing.changed |= self.writers[shard.index()] != writers;
                    standing.is_ready &=
                        self.state != MemberState::Joining || self.others.is_subset(&standing.compared);
                }
                (false, false) => {}
            }
            self.writers[shard.index()] = writers;
        }
        self.settle();
        changes
    }

    /// The life in which this node joined last: what is ready is ready in this life only.
    pub fn life(&self) -> Incarnation {
        self.life
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

    /// What to compare with whom before shards are ready, or because their owners changed.
    ///
    /// Who owns a shard only until somebody who joins is ready does not begin to get it.
    pub fn to_compare(&self) -> BTreeMap<NodeId, Vec<ShardId>> {
        let mut due: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for (shard, standing) in self.numbered() {
            if !standing.is_writer || !standing.is_target || (standing.is_ready && !standing.changed) {
                continue;
            }
            for other in self.others.difference(&standing.compared) {
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

    /// How often a shard was given to this node. To be asked before it is compared, and said when that is done.
    pub fn stint(&self, shard: ShardId) -> u64 {
        self.shards.get(shard.index()).map_or(0, |standing| standing.stint)
    }

    /// Shards were compared with this node, and what it had and this one lacked is here. What was begun before a shard was
    /// taken and given again says nothing about what happened in between.
    pub fn compared(&mut self, with: &NodeId, shards: impl IntoIterator<Item = (ShardId, u64)>) {
        for (shard, stint) in shards {
            let standing = self.shards.get_mut(shard.index());
            if let Some(standing) = standing.filter(|standing| standing.is_writer && standing.stint == stint)
            {
                standing.compared.insert(with.clone());
            }
        }
        self.settle();
    }

    /// Marks as ready what was compared with everybody. Who joins where there is only who is in doubt waits.
    fn settle(&mut self) {
        if self.state == MemberState::Joining && self.all_in_doubt {
            return;
        }
        let others = &self.others;
        for standing in self.shards.iter_mut().filter(|standing| standing.is_writer && standing.is_target) {
            if others.is_subset(&standing.compared) {
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
mod tests {
    use super::*;
    use crate::placement::Replication;

    const SHARDS: u32 = 16;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn node(name: &str, state: MemberState) -> Member {
        Member { state, incarnation: Incarnation(1), ..Member::node(id(name), format!("{name}:1")) }
    }

    struct World {
        ownership: Ownership,
        members: Vec<Member>,
        replication: Replication,
    }

    impl World {
        fn new(me: &str, replication: u8, members: Vec<Member>) -> Self {
            let ownership = Ownership::new(id(me), ShardCount::new(SHARDS).unwrap());
            let mut world = Self { ownership, members, replication: Replication::new(replication).unwrap() };
            world.update();
            world
        }

        fn update(&mut self) -> Changes {
            let view = View::new(self.members.clone()).unwrap();
            let placement = Placement::of(&view, ShardCount::new(SHARDS).unwrap(), self.replication);
            self.ownership.update(&view, &placement)
        }

        fn set(&mut self, name: &str, change: impl Fn(&mut Member)) -> Changes {
            self.members.iter_mut().filter(|member| member.id == id(name)).for_each(change);
            self.update()
        }

        fn compare_all(&mut self) {
            for (with, shards) in self.ownership.to_compare() {
                self.compared(&with, &shards);
            }
        }

        fn compared(&mut self, with: &NodeId, shards: &[ShardId]) {
            let shards: Vec<_> = shards.iter().map(|&shard| (shard, self.ownership.stint(shard))).collect();
            self.ownership.compared(with, shards);
        }
    }

    use MemberState::{Active, Joining, Leaving};

    #[test]
    fn a_node_alone_is_ready_at_once() {
        let world = World::new("a", 2, vec![node("a", Joining)]);
        assert_eq!(world.ownership.counts(), (16, 16));
        assert!(world.ownership.has_joined(&BTreeSet::new()));
    }

    #[test]
    fn who_took_itself_for_alone_while_it_joined_has_nothing_ready_when_others_show_up() {
        let mut world = World::new("a", 2, vec![node("a", Joining)]);
        world.members.extend([node("b", Active), node("c", Active), node("d", Joining)]);
        world.update();
        let (owned, ready) = world.ownership.counts();
        assert!(owned > 0 && ready == 0, "{ready} of {owned} are ready");
        assert!(!world.ownership.has_joined(&BTreeSet::new()));
        let due = world.ownership.to_compare();
        assert_eq!(due.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
        world.compare_all();
        assert_eq!(world.ownership.counts(), (owned, owned));
        assert!(world.ownership.has_joined(&BTreeSet::new()));
    }

    #[test]
    fn who_hears_of_some_others_late_while_it_joins_compares_with_them_as_well() {
        let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active)]);
        world.compare_all();
        assert!(world.ownership.has_joined(&BTreeSet::new()));
        world.members.push(node("c", Active));
        world.update();
        assert_eq!(world.ownership.counts().1, 0);
        assert!(!world.ownership.has_joined(&BTreeSet::new()));
        world.compare_all();
        assert!(world.ownership.has_joined(&BTreeSet::new()));
    }

    #[test]
    fn who_joins_where_all_others_are_in_doubt_waits_until_they_are_back_or_given_up() {
        let doubtful = Member { doubtful: true, ..node("b", Active) };
        let mut world = World::new("a", 2, vec![node("a", Joining), doubtful]);
        assert_eq!(world.ownership.counts().1, 0);
        world.set("b", |member| member.doubtful = false);
        assert_eq!(world.ownership.counts().1, 0, "it is back");
        world.set("b", |member| member.doubtful = true);
        assert_eq!(world.ownership.counts().1, 0);
        world.members.pop();
        world.update();
        assert_eq!(world.ownership.counts(), (16, 16), "it is given up");
    }

    #[test]
    fn a_shard_that_is_given_is_ready_when_it_was_compared_with_everybody() {
        let mut world = World::new("a", 1, vec![node("a", Joining), node("b", Active), node("c", Active)]);
        let (owned, ready) = world.ownership.counts();
        assert!(owned > 0 && ready == 0, "{owned}");
        let due = world.ownership.to_compare();
        assert_eq!(due.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["b", "c"]);
        world.compared(&id("b"), &due[&id("b")]);
        assert_eq!(world.ownership.counts().1, 0);
        world.compared(&id("c"), &due[&id("c")]);
        assert_eq!(world.ownership.counts().1, owned);
        assert!(world.ownership.has_joined(&BTreeSet::new()));
    }

    #[test]
    fn who_was_given_up_is_ready_for_nothing_and_keeps_its_readiness_otherwise() {
        let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active)]);
        world.compare_all();
        world.set("a", |me| (me.state, me.incarnation) = (Active, Incarnation(2)));
        assert_eq!(world.ownership.counts(), (16, 16));
        world.set("a", |me| (me.state, me.incarnation) = (Joining, Incarnation(3)));
        assert_eq!(world.ownership.counts(), (16, 0));
        assert_eq!(world.ownership.life(), Incarnation(3));
    }

    #[test]
    fn a_kept_shard_stays_ready_and_is_compared_again_when_its_owners_change() {
        let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active)]);
        world.compare_all();
        world.set("a", |me| me.state = Active);
        assert!(world.ownership.to_compare().is_empty());
        world.members.push(node("c", Joining));
        let changes = world.update();
        assert_eq!(changes, Changes::default());
        assert_eq!(world.ownership.counts(), (16, 16));
        let due = world.ownership.to_compare();
        assert!(!due[&id("c")].is_empty());
        world.compare_all();
        assert!(world.ownership.to_compare().is_empty());
    }

    #[test]
    fn what_is_taken_and_given_again_is_compared_anew() {
        let mut world = World::new("a", 1, vec![node("a", Joining), node("b", Active)]);
        world.compare_all();
        world.set("a", |me| me.state = Active);
        let before = world.ownership.counts().0;
        world.members.push(node("c", Active));
        let taken = world.update().taken;
        assert!(!taken.is_empty());
        assert!(taken.iter().all(|&shard| !world.ownership.is_ready(shard)));
        world.members.pop();
        assert_eq!(world.update().given, taken);
        assert_eq!(world.ownership.counts(), (before, before - taken.len()));
        world.compare_all();
        assert_eq!(world.ownership.counts(), (before, before));
    }

    #[test]
    fn who_is_given_up_does_not_hold_up_the_others() {
        let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active), node("c", Active)]);
        let due = world.ownership.to_compare();
        world.compared(&id("b"), &due[&id("b")]);
        assert!(!world.ownership.has_joined(&BTreeSet::new()));
        world.set("c", |member| member.doubtful = true);
        assert!(world.ownership.has_joined(&BTreeSet::new()));
    }

    #[test]
    fn who_joins_with_blocks_hands_them_to_the_other_owners_first() {
        let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active), node("c", Active)]);
        let holds: BTreeSet<ShardId> = ShardCount::new(SHARDS).unwrap().shards().collect();
        world.compare_all();
        assert!(!world.ownership.has_joined(&holds));
        for (to, shards) in world.ownership.to_hand_over(&holds) {
            world.ownership.handed(&to, shards);
        }
        assert!(world.ownership.has_joined(&holds));
        let foreign = holds.iter().find(|shard| !world.ownership.is_writer(**shard)).unwrap();
        assert!(world.ownership.can_release(*foreign));
    }

    #[test]
    fn who_leaves_hands_over_all_it_holds() {
        let mut world = World::new("a", 1, vec![node("a", Joining), node("b", Active)]);
        world.compare_all();
        world.set("a", |me| me.state = Active);
        let holds: BTreeSet<ShardId> = ShardCount::new(SHARDS)
            .unwrap()
            .shards()
            .filter(|&shard| world.ownership.is_writer(shard))
            .collect();
        assert!(world.ownership.to_hand_over(&holds).is_empty());
        world.ownership.begin_to_leave();
        world.set("a", |me| me.state = Leaving);
        assert!(!world.ownership.has_left(&holds));
        let due = world.ownership.to_hand_over(&holds);
        assert_eq!(due[&id("b")].len(), holds.len());
        world.ownership.handed(&id("b"), due[&id("b")].clone());
        assert!(world.ownership.has_left(&holds));
    }

    #[test]
    fn a_comparison_that_began_before_a_shard_was_taken_and_given_again_does_not_count() {
        let mut world = World::new("a", 1, vec![node("a", Joining), node("b", Active)]);
        let due = world.ownership.to_compare()[&id("b")].clone();
        let begun: Vec<_> = due.iter().map(|&shard| (shard, world.ownership.stint(shard))).collect();
        world.members.push(node("c", Active));
        let taken = world.update().taken;
        world.members.pop();
        assert_eq!(world.update().given, taken);
        world.ownership.compared(&id("b"), begun);
        assert!(!taken.is_empty() && taken.iter().all(|&shard| !world.ownership.is_ready(shard)));
        world.compare_all();
        assert!(taken.iter().all(|&shard| world.ownership.is_ready(shard)));
    }

    #[test]
    fn who_leaves_waits_for_whoever_takes_the_place_of_an_owner_that_was_just_given_up() {
        let mut world = World::new("a", 1, vec![node("a", Active), node("b", Active), node("c", Active)]);
        world.compare_all();
        let holds: BTreeSet<ShardId> = ShardCount::new(SHARDS)
            .unwrap()
            .shards()
            .filter(|&shard| world.ownership.is_writer(shard))
            .collect();
        world.set("b", |member| member.doubtful = true);
        world.set("a", |me| me.state = Leaving);
        for (to, shards) in world.ownership.to_hand_over(&holds) {
            world.ownership.handed(&to, shards);
        }
        assert!(!world.ownership.has_left(&holds), "some of it would have gone to b");
        world.members.retain(|member| member.id != id("b"));
        world.update();
        for (to, shards) in world.ownership.to_hand_over(&holds) {
            world.ownership.handed(&to, shards);
        }
        assert!(world.ownership.has_left(&holds));
    }

    #[test]
    fn the_last_node_leaves_without_handing_over() {
        let mut world = World::new("a", 2, vec![node("a", Active)]);
        world.set("a", |me| me.state = Leaving);
        let holds: BTreeSet<ShardId> = ShardCount::new(SHARDS).unwrap().shards().collect();
        assert!(world.ownership.has_left(&holds));
    }
}
