//! What this member wants: to be in another state, to leave, to go on above a former life.
//!
//! Owns: each change of its own identity that `foca` does not make by itself.
//! Does not own: what others do about it.

use super::{AGAIN_AFTER, CHECK_AFTER, Course, Now, Protocol};
use crate::change::Change;
use crate::identity::{Identity, Phase};
use std::time::Duration;
use tidemark_rollup::member::{Incarnation, MemberState, Role};
use tokio::time::Instant;

/// How often a member that leaves says so.
const LEAVE_ROUNDS: u32 = 6;
/// How long it waits in between.
const LEAVE_EVERY: Duration = Duration::from_millis(80);

impl Protocol {
    /// Tells others that this member is in another state; with `life`, only if it still goes by that incarnation. Says whether
    /// it is in that state now.
    pub(crate) fn set_state(&mut self, state: MemberState, life: Option<Incarnation>, now: Instant) -> bool {
        let own = self.own();
        if self.course != Course::Here || life.is_some_and(|life| life != own.incarnation) {
            return false;
        }
        if own.state() == state {
            return true;
        }
        // A coordinator has nothing to get and nothing to hand over.
        if own.role == Role::Coordinator {
            return false;
        }
        let next = own.next(Phase::Is(state));
        self.roster.say(Change::OwnState { state });
        self.take_on(next);
        self.hurry(now + CHECK_AFTER);
        true
    }

    /// Goes on above an incarnation that others know of, in one step.
    pub(super) fn jump(&mut self, heard: Incarnation, now: Now) {
        let incarnation = Incarnation(now.unix_ms.max(heard.0.saturating_add(1)));
        let own = self.own();
        let next = own.at(incarnation, Phase::Is(Identity::first_state(own.role)));
        self.roster.say(Change::OwnOutdated { heard, incarnation });
        self.take_on(next);
        self.hurry(now.instant + AGAIN_AFTER);
    }

    /// Begins to leave for good.
    pub(crate) fn leave(&mut self, now: Instant) {
        if self.course != Course::Here {
            return;
        }
        self.course = Course::Leaving { rounds: LEAVE_ROUNDS, at: now };
        let gone = self.own().next(Phase::Gone);
        self.take_on(gone);
        if let Err(error) = self.foca.leave_cluster(&mut self.runtime) {
            tracing::debug!("cannot say that this member leaves: {error}");
        }
        self.settle(now);
    }

    pub(super) fn go_on_leaving(&mut self, now: Instant) {
        let Course::Leaving { rounds, at } = self.course else { return };
        if at > now {
            return;
        }
        if rounds == 0 || self.foca.num_members() == 0 {
            self.course = Course::Over;
            return;
        }
        self.course = Course::Leaving { rounds: rounds - 1, at: now + LEAVE_EVERY };
        if let Err(error) = self.foca.gossip(&mut self.runtime) {
            tracing::debug!("cannot say again that this member leaves: {error}");
        }
    }

    fn take_on(&mut self, identity: Identity) {
        if let Err(error) = self.foca.change_identity(identity.clone(), &mut self.runtime) {
            tracing::debug!("cannot tell of a new identity: {error}");
        }
        // Nobody has answered to it yet. `foca` is silent until somebody does.
        self.connected = false;
        self.took(identity);
    }
}
