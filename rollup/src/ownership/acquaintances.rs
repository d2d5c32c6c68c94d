//! Whom a node has met, and who is a stranger.
//!
//! Owns: telling those who have compared with this node before they became active from those who have not.
//! Does not own: what follows from that for shards (`super`).
//!
//! A node that joins compares with everybody it sees, and only then becomes active. One that becomes active and has not asked this node
//! in that life did not see it: it began alone, or with others, and may have taken events that nobody here knows of. That is a
//! *stranger*.

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
    /// The last incarnation in which it was active or leaving,
    settled: Option<Incarnation>,
    /// and the last life in which it compared with this node.
    asked: Option<Incarnation>,
}

impl Seen {
    /// Whether it is settled now without having asked before; takes note of it.
    fn settles_unasked(&mut self, state: MemberState, now: Incarnation) -> bool {
        let was = self.settled.replace(now);
        // To leave is the next thing to say after being active; whoever joins in between says more.
        let next = was.map(|was| Incarnation(was.0.saturating_add(1)));
        let goes_on = was == Some(now) || (state == MemberState::Leaving && next == Some(now));
        !goes_on && self.asked <= was
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Acquaintances {
    /// Other nodes that are present, in doubt by now or not.
    seen: BTreeMap<NodeId, Seen>,
    meetings: u64,
    met: Arc<BTreeSet<u64>>,
}

impl Acquaintances {
    /// Takes in a view; returns the strangers that are new in it.
    pub(super) fn update(&mut self, view: &View, me: &NodeId) -> Vec<NodeId> {
        self.seen.retain(|id, _| view.member(id).is_some());
        let mut strangers = Vec::new();
        // Who is in doubt says nothing now.
        for node in view.nodes().filter(|node| node.id != *me && !node.doubtful) {
            let seen = self.seen.entry(node.id.clone()).or_default();
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
        let here = || [me].into_iter().chain(self.seen.keys()).map(NodeId::key);
        let gone = || view.missing().iter().filter(|id| !self.seen.contains_key(*id)).map(NodeId::key);
        if here().all(|key| self.met.contains(&key)) && !gone().any(|key| self.met.contains(&key)) {
            return;
        }
        let mut met: BTreeSet<u64> = self.met.iter().copied().chain(here()).collect();
        gone().for_each(|key| _ = met.remove(&key));
        if met.len() > here().count() + MAX_GONE {
            met = here().collect();
        }
        self.met = Arc::new(met);
    }

    /// A node has compared with this one, in this life of its own.
    pub(super) fn asked(&mut self, asker: &NodeId, life: Incarnation) {
        if let Some(seen) = self.seen.get_mut(asker) {
            seen.asked = seen.asked.max(Some(life));
        }
    }

    pub(super) fn met(&self) -> &Arc<BTreeSet<u64>> {
        &self.met
    }

    pub(super) fn has(&self, id: &NodeId) -> bool {
        self.seen.contains_key(id)
    }

    /// Which meeting with a node the last one was; 0 where there was none.
    pub(super) fn meeting(&self, id: &NodeId) -> u64 {
        self.seen.get(id).map_or(0, |seen| seen.meeting)
    }
}
