//! Gossip without a socket: messages, timers and wishes come in, commands go out.
//!
//! Owns: `foca`, when to announce to whom, this member's own identity, and the order of what is to be done.
//! Does not own: sockets, files and waiting (`actor`), who counts as present (`view`), what messages look like (`message`).
//!
//! Invariants:
//! * A view with a new identity of this member is published before anything is sent under that identity.
//! * This member announces itself for ever, whether it knows others or not: `foca` falls silent for good where two sides take new
//!   identities at the same moment, and two members that gave one another up do not look for each other.

mod hearing;
mod wishes;

use crate::change::Change;
use crate::config::{MembershipConfig, Timing};
use crate::identity::{Identity, Phase};
use crate::message::{Envelope, MAX_NAMES, Message};
use crate::refusal::{Failure, Refusals};
use crate::remembered::Known;
use crate::seal::{Dropped, MAX_SEALED_BYTES, SEAL_BYTES};
use crate::timers::Timers;
use crate::view::{Patience, Roster};
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification, PostcardCodec};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::member::{Incarnation, NodeId, View};
use tokio::time::Instant;

/// The largest packet of `foca`; with what is put around it, it stays below `MAX_SEALED_BYTES`.
pub(crate) const MAX_PACKET_BYTES: usize = 1300;
const _: () = assert!(MAX_PACKET_BYTES + crate::message::HEAD_BYTES + SEAL_BYTES <= MAX_SEALED_BYTES);

/// How often news is passed on, while there is any.
const GOSSIP_EVERY: Duration = Duration::from_millis(200);
/// How often a member that nobody answers announces itself, at least.
const LONELY_EVERY: Duration = Duration::from_secs(1);
/// How soon after it had to begin again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How soon after a new identity it looks whether others took notice.
const CHECK_AFTER: Duration = Duration::from_millis(300);
/// How long after its start a member asks everybody it meets whom they know: one answer holds a few dozen members at most.
const GREET_FOR: Duration = Duration::from_secs(10);
const GREET_EVERY: Duration = Duration::from_millis(50);
const MAX_GREETINGS: usize = 1024;

/// Now, on the clock that times things and on the one that dates them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) unix_ms: u64,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Say(Change),
    /// Keep the incarnation, for the next start.
    Keep(Incarnation),
    /// Keep whom this member knows.
    Remember(Vec<Known>),
    Publish(Arc<View>),
    Send {
        to: SocketAddr,
        envelope: Envelope,
    },
    /// Look up a seed, then call `found`.
    Find(String),
    /// This member cannot go on.
    Fail(Failure),
    Count(Event),
}

/// Something to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Dropped(Dropped),
    Rejoined,
    /// This member heard that it is suspected.
    Suspected,
    /// So many members are suspected now.
    Suspects(usize),
}

/// How far a member is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Here,
    Leaving { rounds: u32, at: Instant },
    Over,
}

pub(crate) struct Protocol {
    foca: Foca<Identity, PostcardCodec, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Identity>,
    timers: Timers,
    roster: Roster,
    refusals: Refusals,
    rng: StdRng,
    seeds: Vec<String>,
    announce_every: Duration,
    announce_at: Instant,
    announced: usize,
    greet: VecDeque<SocketAddr>,
    greet_at: Instant,
    greet_until: Instant,
    /// Whether somebody knows this member by its present identity.
    connected: bool,
    /// Since when this member has known others.
    established: Option<Instant>,
    course: Course,
    suspects: usize,
    first: Vec<Command>,
    sends: Vec<Command>,
}

fn foca_config(timing: &Timing) -> foca::Config {
    foca::Config {
        probe_period: timing.probe_every,
        probe_rtt: timing.probe_timeout,
        suspect_to_down_after: timing.suspect_for,
        // Long enough for what was said of former lives to have been forgotten everywhere, and for members that were away
        // to learn who has left.
        remove_down_after: Some(Duration::from_secs(24 * 60 * 60)),
        max_transmissions: NonZeroU8::MIN.saturating_add(9),
        num_indirect_probes: NonZeroUsize::MIN.saturating_add(2),
        max_packet_size: NonZeroUsize::MIN.saturating_add(MAX_PACKET_BYTES - 1),
        notify_down_members: true,
        // Its own announcing stops where it is needed most; see `announce`.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(foca::PeriodicParams {
            frequency: GOSSIP_EVERY,
            num_members: NonZeroUsize::MIN.saturating_add(2),
        }),
    }
}

impl Protocol {
    /// A member at the beginning of a life. `seed` has to be another one in each life.
    pub(crate) fn new(
        config: &MembershipConfig,
        incarnation: Incarnation,
        remembered: Vec<Known>,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let own = Identity {
            incarnation,
            gossip: config.gossip,
            id: config.id.clone(),
            role: config.role,
            phase: Phase::Is(Identity::first_state(config.role)),
            zone: config.zone.clone(),
            address: config.address.clone(),
            version: config.version.clone(),
        };
        let timing = &config.timing;
        let patience = Patience { silent: timing.probe_every + timing.suspect_for, doubt: timing.doubt_for };
        let mut rng = StdRng::from_seed(seed);
        let foca_rng = StdRng::from_seed(rng.random());
        Self {
            roster: Roster::new(own.clone(), remembered, patience, now),
            foca: Foca::new(own, foca_config(timing), foca_rng, PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            timers: Timers::default(),
            refusals: Refusals::new(config.id.clone(), config.facts.clone()),
            rng,
            seeds: config.seeds.clone(),
            announce_every: timing.announce_every,
            announce_at: now,
            announced: 0,
            greet: VecDeque::new(),
            greet_at: now,
            greet_until: now + GREET_FOR,
            connected: false,
            established: None,
            course: Course::Here,
            suspects: 0,
            first: Vec::new(),
            sends: Vec::new(),
        }
    }

    pub(crate) fn own(&self) -> &Identity {
        self.foca.identity()
    }

    pub(crate) fn view(&self) -> View {
        self.roster.view()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.course == Course::Over
    }

    /// When `tick` has something to do.
    pub(crate) fn next(&self) -> Option<Instant> {
        let here = match self.course {
            Course::Over => return None,
            Course::Leaving { at, .. } => return Some(at),
            Course::Here => {
                [Some(self.announce_at), self.timers.next(), self.roster.next(), self.refusals.next()]
            }
        };
        let greet = (!self.greet.is_empty()).then_some(self.greet_at);
        here.into_iter().chain([greet]).flatten().min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Now) {
        match self.course {
            Course::Over => return,
            Course::Leaving { .. } => return self.go_on_leaving(now.instant),
            Course::Here => {}
        }
        while let Some(timer) = self.timers.pop(now.instant) {
            if self.is_refuted(&timer) {
                continue;
            }
            if let Err(error) = self.foca.handle_timer(timer, &mut self.runtime) {
                tracing::debug!("a timer of gossip came to nothing: {error}");
            }
            self.settle(now.instant);
        }
        self.roster.tick(now.instant);
        if self.greet_at <= now.instant
            && let Some(address) = self.greet.pop_front()
        {
            self.greet_at = now.instant + GREET_EVERY;
            self.announce_to(address);
        }
        if self.announce_at <= now.instant {
            self.announce(now.instant);
        }
        if let Some(failure) = self.refusals.over(now.instant) {
            self.fail(failure);
        }
    }

    /// Whether the end of a suspicion came that the member has refuted. `foca` 2.0.0 keeps such a member, and yet tells it that it
    /// was given up, so that it begins another life.
    fn is_refuted(&self, timer: &foca::Timer<Identity>) -> bool {
        let foca::Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return false };
        !self.foca.iter_members().any(|member| {
            member.id() == member_id
                && member.incarnation() == *incarnation
                && member.state() == foca::State::Suspect
        })
    }

    /// Tells a seed, or all while nobody answers, that this member is there; and one of those who are gone, who may be back.
    fn announce(&mut self, now: Instant) {
        let every = if self.connected { self.announce_every } else { self.announce_every.min(LONELY_EVERY) };
        // Members that started together do not announce together for ever.
        self.announce_at = now + every.mul_f64(self.rng.random_range(0.9..1.1));
        self.announced = self.announced.wrapping_add(1);
        let seeds = match self.connected {
            true => self.seeds.get(self.announced % self.seeds.len().max(1)).cloned().into_iter().collect(),
            false => self.seeds.clone(),
        };
        for seed in seeds {
            match seed.parse() {
                Ok(address) => self.announce_to(address),
                Err(_) => self.sends.push(Command::Find(seed)),
            }
        }
        let absent: Vec<(NodeId, SocketAddr)> =
            self.roster.absent().map(|(id, gossip)| (id.clone(), gossip)).collect();
        if absent.is_empty() {
            return;
        }
        let at = self.announced % absent.len();
        if !self.roster.is_at(absent[at].1) {
            self.announce_to(absent[at].1);
        }
        // They may have left while this member was away.
        let present: Vec<SocketAddr> = self.foca.iter_members().map(|member| member.id().gossip).collect();
        if !present.is_empty() {
            let ids = absent.iter().cycle().skip(at).take(absent.len().min(MAX_NAMES));
            let ids = ids.map(|(id, _)| id.clone()).collect();
            self.send(present[self.announced % present.len()], Message::Missing(ids));
        }
    }

    /// Announces this member to whoever is at an address.
    fn announce_to(&mut self, to: SocketAddr) {
        if to == self.own().gossip || self.course != Course::Here {
            return;
        }
        self.collect();
        // Who is there is not known yet: the receiver puts its own identity in the place of this one.
        let somebody = Identity { gossip: to, ..self.own().clone() };
        if let Err(error) = self.foca.announce(somebody, &mut self.runtime) {
            tracing::debug!("cannot announce: {error}");
        }
        while let Some((_, packet)) = self.runtime.to_send() {
            self.send(to, Message::Announce(packet.to_vec()));
        }
    }

    /// A seed was looked up.
    pub(crate) fn found(&mut self, addresses: &[SocketAddr]) {
        addresses.iter().for_each(|&address| self.announce_to(address));
    }

    fn send(&mut self, to: SocketAddr, message: Message) {
        let envelope = Envelope { fingerprint: self.refusals.fingerprint(), message };
        self.sends.push(Command::Send { to, envelope });
    }

    fn collect(&mut self) {
        while let Some((to, packet)) = self.runtime.to_send() {
            self.send(to.gossip, Message::Gossip(packet.to_vec()));
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.course = Course::Over;
        self.sends.clear();
        self.first.push(Command::Fail(failure));
    }

    fn count(&mut self, event: Event) {
        self.first.push(Command::Count(event));
    }

    fn hurry(&mut self, at: Instant) {
        self.announce_at = self.announce_at.min(at);
    }

    /// Takes what `foca` did: its identity first, then what it noticed, then timers and packets.
    fn settle(&mut self, now: Instant) {
        while let Some(notification) = self.runtime.to_notify() {
            self.notice(notification, now);
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.add(now + after, timer);
        }
        self.collect();
    }

    fn notice(&mut self, notification: OwnedNotification<Identity>, now: Instant) {
        match notification {
            OwnedNotification::MemberUp(identity) => {
                self.roster.up(&identity);
                let new = now < self.greet_until && !identity.is_gone() && self.greet.len() < MAX_GREETINGS;
                if new && !self.greet.contains(&identity.gossip) {
                    self.greet.push_back(identity.gossip);
                }
            }
            OwnedNotification::MemberDown(identity) => self.roster.down(&identity, now),
            OwnedNotification::Rename(_, identity) => self.roster.renamed(&identity),
            OwnedNotification::Active => {
                self.connected = true;
                self.established.get_or_insert(now);
                self.refusals.joined();
            }
            OwnedNotification::Idle | OwnedNotification::Defunct => {
                self.connected = false;
                self.hurry(now + AGAIN_AFTER);
            }
            OwnedNotification::Rejoin(identity) => {
                self.connected = false;
                self.hurry(now + AGAIN_AFTER);
                self.greet_until = self.greet_until.max(now + GREET_FOR);
                let (incarnation, state) = (identity.incarnation, identity.state());
                self.roster.say(Change::OwnRenewed { incarnation, state });
                self.count(Event::Rejoined);
                self.took(identity);
            }
        }
    }

    /// This member goes by a new identity.
    fn took(&mut self, identity: Identity) {
        self.first.push(Command::Keep(identity.incarnation));
        self.roster.set_own(identity);
    }

    /// What is to be done now.
    pub(crate) fn take_commands(&mut self, now: Instant) -> Vec<Command> {
        self.settle(now);
        self.learn_who_left();
        let suspects =
            self.foca.iter_members().filter(|member| member.state() == foca::State::Suspect).count();
        if std::mem::replace(&mut self.suspects, suspects) != suspects {
            self.count(Event::Suspects(suspects));
        }
        let mut commands: Vec<Command> = self.roster.take_changes().into_iter().map(Command::Say).collect();
        commands.append(&mut self.first);
        commands.extend(self.roster.take_known().map(Command::Remember));
        commands.extend(self.roster.take_view().map(|view| Command::Publish(Arc::new(view))));
        commands.append(&mut self.sends);
        commands
    }

    /// `foca` says nothing of a member that left before it was known to be here; it knows nevertheless.
    fn learn_who_left(&mut self) {
        let absent: Vec<NodeId> = self.roster.absent().map(|(id, _)| id.clone()).collect();
        for id in absent {
            if self.has_left(&id) {
                self.roster.left(&id);
            }
        }
    }

    fn has_left(&self, id: &NodeId) -> bool {
        self.foca.iter_membership_state().any(|member| member.id().id == *id && member.id().is_gone())
    }
}

#[cfg(test)]
mod tests;
