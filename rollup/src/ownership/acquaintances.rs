//! Whom a node has met, and who is a stranger.
//!
//! Owns: telling those who have compared with this node before they became active from those who have not.
//! Does not own: what follows from that for shards (`super`).
//!
//! A node that joins compares its shards with everybody it sees, and only then becomes active, in the incarnation after the one in which it
//! asked. One that becomes active without did not see this node: it began alone, or with others, and may have taken events that nobody here
//! knows of. That is a *stranger*. So is, until it was compared with, one that was to own no shard and had nothing to ask.

use crate::member::{Incarnation, MemberState, NodeId, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// So many nodes that have left are remembered as met; beyond that all of them are forgotten.
const MAX_GONE: usize = 1_024;

/// What is known of a node that is present.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Another number each time that it was met for the first time, or anew as a stranger.
    meeting: u64,
    /// The last incarnation in which it was seen,
    last: Incarnation,
    /// the last one of them in which it was active or leaving,
    settled: Option<Incarnation>,
    /// and the last one in which it compared with this node while it joined.
    asked: Option<Incarnation>,
}

/// A node that joins becomes active in the next incarnation, and leaves in that one or the one after.
const ACTIVE_AFTER: u64 = 1;
const LEAVING_AFTER: u64 = 2;

impl Seen {
    /// Whether it is settled now without having asked before; takes note of it.
    fn settles_unasked(&mut self, state: MemberState, now: Incarnation) -> bool {
        let was = self.settled.replace(now);
        // To leave is the next thing to say after being active; whoever joins in between says more.
        let next = was.map(|was| Incarnation(was.0.saturating_add(1)));
        let goes_on = was == Some(now) || (state == MemberState::Leaving && next == Some(now));
        let steps = if state == MemberState::Leaving { LEAVING_AFTER } else { ACTIVE_AFTER };
        let has_asked = self.asked.is_some_and(|asked| asked < now && now.0 - asked.0 <= steps);
        !goes_on && !has_asked
    }

    /// Up to which incarnation it is known what the node may have: also the next one of one that asked, or that was settled, unless it joins
    /// anew, which nobody is asked to have met.
    fn met_up_to(&self) -> Incarnation {
        let known = self.asked.max(self.settled).map_or(0, |known| known.0.saturating_add(1));
        self.last.max(Incarnation(known))
    }
}

/// Nodes that were met, by the keys of their names, and up to which incarnation.
pub type Met = BTreeMap<u64, Incarnation>;

#[derive(Clone, Debug, Default)]
pub(super) struct Acquaintances {
    /// Other nodes that are present, in doubt by now or not.
    seen: BTreeMap<NodeId, Seen>,
    meetings: u64,
    /// Nodes that are away and may come back.
    missing: BTreeSet<NodeId>,
    met: Arc<Met>,
}

impl Acquaintances {
    /// Takes in a view; returns the strangers that are new in it.
    pub(super) fn update(&mut self, view: &View, me: &NodeId) -> Vec<NodeId> {
        self.seen.retain(|id, _| view.member(id).is_some());
        let mut strangers = Vec::new();
        // Who is in doubt says nothing now.
        for node in view.nodes().filter(|node| node.id != *me && !node.doubtful) {
            let seen = self.seen.entry(node.id.clone()).or_default();
            seen.last = node.incarnation;
            let is_stranger =
                node.state != MemberState::Joining && seen.settles_unasked(node.state, node.incarnation);
            if is_stranger {
                strangers.push(node.id.clone());
            }
            if is_stranger || seen.meeting == 0 {
                self.meetings += 1;
                seen.meeting = self.meetings;
            }
        }
        self.meet(view, me);
        strangers
    }

    /// Those who left without being heard of again stay met, so that whoever hears of it later can ask meanwhile. Who is missing does
    /// not: it may come back with anything.
    fn meet(&mut self, view: &View, me: &NodeId) {
        self.missing = view.missing().iter().filter(|id| !self.seen.contains_key(*id)).cloned().collect();
        let mut met = Met::clone(&self.met);
        self.missing.iter().for_each(|id| _ = met.remove(&id.key()));
        if met.len() > self.seen.len() + MAX_GONE {
            met.clear();
        }
        met.insert(me.key(), Incarnation(u64::MAX));
        met.extend(self.seen.iter().map(|(id, seen)| (id.key(), seen.met_up_to())));
        if met != *self.met {
            self.met = Arc::new(met);
        }
    }

    /// A node has compared with this one, in this life of its own.
    pub(super) fn asked(&mut self, asker: &NodeId, life: Incarnation) {
        if let Some(seen) = self.seen.get_mut(asker) {
            seen.asked = seen.asked.max(Some(life));
            Arc::make_mut(&mut self.met).insert(asker.key(), seen.met_up_to());
        }
    }

    pub(super) fn met(&self) -> &Arc<Met> {
        &self.met
    }

    /// Whether it is here or may come back. Who leaves hands over what it has.
    pub(super) fn may_have_something(&self, id: &NodeId) -> bool {
        self.seen.contains_key(id) || self.missing.contains(id)
    }

    /// Which meeting with a node the last one was; 0 where there was none.
    pub(super) fn meeting(&self, id: &NodeId) -> u64 {
        self.seen.get(id).map_or(0, |seen| seen.meeting)
    }
}
