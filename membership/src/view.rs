//! Who is present, who is doubtful and who is missing.
//!
//! Owns: what follows for the view from what `foca` notices, from time, and from what was remembered.
//! Does not own: how failures are found (`foca`), files (`remembered`), the time (an argument).
//!
//! Invariants:
//! * The member itself is in its view, once, and never missing.
//! * A node that was given up is doubtful for a while, then missing until it is active again or has left for good.
//! * Who left is neither doubtful nor missing.

use crate::change::Change;
use crate::identity::Identity;
use crate::remembered::{Known, MAX_REMEMBERED};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_rollup::member::{MemberState, NodeId, Role, View};
use tokio::time::Instant;

/// How long after the start a node that was remembered may be absent without being missing.
pub(crate) const JOIN_GRACE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
struct Present {
    identity: Identity,
    /// Given up: until when it may come back.
    doubtful: Option<Instant>,
}

/// How long a member was silent before it was given up, and how long it is then doubted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) silent: Duration,
    pub(crate) doubt: Duration,
}

/// Everybody a member knows of.
#[derive(Debug)]
pub(crate) struct Roster {
    own: Identity,
    present: BTreeMap<NodeId, Present>,
    missing: BTreeSet<NodeId>,
    /// Nodes that were seen, now or before this member started, and did not leave.
    known: BTreeMap<NodeId, SocketAddr>,
    known_changed: bool,
    full: bool,
    /// Until then those remembered may be absent.
    grace: Option<Instant>,
    patience: Patience,
    changes: Vec<Change>,
    /// Whether the view may be another one than at the last time.
    touched: bool,
}

impl Roster {
    pub(crate) fn new(own: Identity, remembered: Vec<Known>, patience: Patience, now: Instant) -> Self {
        let others = remembered.into_iter().filter(|known| known.id != own.id);
        let known: BTreeMap<_, _> = others.map(|known| (known.id, known.gossip)).collect();
        Self {
            own,
            present: BTreeMap::new(),
            missing: BTreeSet::new(),
            grace: (!known.is_empty()).then(|| now + JOIN_GRACE),
            known,
            known_changed: false,
            full: false,
            patience,
            changes: Vec::new(),
            touched: true,
        }
    }

    /// The member itself is this now.
    pub(crate) fn set_own(&mut self, own: Identity) {
        self.own = own;
        self.touched = true;
    }

    /// A member is there.
    pub(crate) fn up(&mut self, identity: &Identity) {
        if identity.is_gone() {
            return self.left(&identity.id);
        }
        if identity.id == self.own.id {
            return;
        }
        self.touched = true;
        let new = Present { identity: identity.clone(), doubtful: None };
        let (id, state) = (identity.id.clone(), identity.state());
        let was = self.present.insert(id.clone(), new);
        match was {
            None if self.missing.contains(&id) => self.changes.push(Change::Back { id, state }),
            None => self.changes.push(Change::Joined {
                id,
                role: identity.role,
                address: identity.address.clone(),
                state,
            }),
            Some(was) if was.doubtful.is_some() => self.changes.push(Change::Back { id, state }),
            Some(_) => {}
        }
        self.remember(identity);
        self.seen(identity);
    }

    /// A member goes by another identity; whether it is there is said apart from that.
    pub(crate) fn renamed(&mut self, identity: &Identity) {
        if identity.is_gone() {
            return self.left(&identity.id);
        }
        let Some(present) = self.present.get_mut(&identity.id) else { return };
        self.touched = true;
        let was = std::mem::replace(&mut present.identity, identity.clone());
        if present.doubtful.is_some() {
            return;
        }
        let (id, state) = (identity.id.clone(), identity.state());
        let moved = was.address != identity.address || was.gossip != identity.gossip;
        // A state that does not change, or that begins anew, is not something a member says twice in a life.
        if moved || was.state() == state || state == MemberState::Joining {
            self.changes.push(Change::BeganAgain { id, address: identity.address.clone(), state });
        } else {
            self.changes.push(Change::IsNow { id, state });
        }
        self.remember(identity);
        self.seen(identity);
    }

    /// A member was given up.
    pub(crate) fn down(&mut self, identity: &Identity, now: Instant) {
        if identity.is_gone() {
            return self.left(&identity.id);
        }
        let Some(present) = self.present.get_mut(&identity.id) else { return };
        if present.doubtful.is_none() {
            self.touched = true;
            present.doubtful = Some(now + self.patience.doubt);
            let Patience { silent, doubt } = self.patience;
            self.changes.push(Change::GivenUp {
                id: identity.id.clone(),
                role: identity.role,
                silent,
                doubt,
            });
        }
    }

    /// A member has left for good.
    pub(crate) fn left(&mut self, id: &NodeId) {
        let known = self.known.remove(id).is_some();
        self.known_changed |= known;
        let was = [self.present.remove(id).is_some(), self.missing.remove(id), known];
        if was.contains(&true) {
            self.touched = true;
            self.changes.push(Change::Left { id: id.clone() });
        }
    }

    /// Lets time pass: doubt and grace end.
    pub(crate) fn tick(&mut self, now: Instant) {
        let over = |present: &Present| present.doubtful.is_some_and(|until| until <= now);
        let gone: Vec<NodeId> =
            self.present.iter().filter(|(_, present)| over(present)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.touched = true;
            let was = self.present.remove(&id);
            if was.is_some_and(|was| was.identity.role == Role::Node) && self.known.contains_key(&id) {
                self.missing.insert(id.clone());
                self.changes.push(Change::Missing { id });
            }
        }
        if self.grace.is_some_and(|until| until <= now) {
            self.grace = None;
            self.touched = true;
            for id in self.known.keys().filter(|id| !self.present.contains_key(*id)) {
                if self.missing.insert(id.clone()) {
                    self.changes.push(Change::RememberedMissing { id: id.clone() });
                }
            }
        }
    }

    /// When there is something for `tick` to do.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.present.values().filter_map(|present| present.doubtful).chain(self.grace).min()
    }

    fn remember(&mut self, identity: &Identity) {
        let Identity { id, gossip, .. } = identity;
        if identity.role != Role::Node || self.known.get(id) == Some(gossip) {
            return;
        }
        if self.known.len() >= MAX_REMEMBERED && !self.known.contains_key(id) {
            if !std::mem::replace(&mut self.full, true) {
                self.changes.push(Change::TooMany { limit: MAX_REMEMBERED });
            }
            return;
        }
        self.known.insert(id.clone(), *gossip);
        self.known_changed = true;
    }

    fn seen(&mut self, identity: &Identity) {
        if identity.state() == MemberState::Active && self.missing.remove(&identity.id) {
            self.changes.push(Change::MissingNoMore { id: identity.id.clone() });
        }
    }

    pub(crate) fn say(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The nodes to remember, where they are not those of the last time.
    pub(crate) fn take_known(&mut self) -> Option<Vec<Known>> {
        let known = self.known.iter().map(|(id, gossip)| Known { id: id.clone(), gossip: *gossip });
        std::mem::take(&mut self.known_changed).then(|| known.collect())
    }

    /// Nodes that are known and not here: those that may have left unheard, or wait to be found.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (&NodeId, SocketAddr)> {
        self.known.iter().filter(|(id, _)| !self.present.contains_key(*id)).map(|(id, gossip)| (id, *gossip))
    }

    /// Whether somebody is here at this address of gossip.
    pub(crate) fn is_at(&self, gossip: SocketAddr) -> bool {
        self.present.values().any(|present| present.identity.gossip == gossip && present.doubtful.is_none())
    }

    /// The view, where it may be another one than at the last time.
    pub(crate) fn take_view(&mut self) -> Option<View> {
        std::mem::take(&mut self.touched).then(|| self.view())
    }

    pub(crate) fn view(&self) -> View {
        let others = self.present.values().map(|present| present.identity.member(present.doubtful.is_some()));
        let members = others.chain([self.own.member(false)]).collect();
        // Names are unique: the member itself is never among the others.
        View::new(members).unwrap_or_default().with_missing(self.missing.iter().cloned().collect())
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
