//! Membership in action.
//!
//! Owns: the socket, the seal, waiting for timers, looking up seeds, and carrying out what the protocol commands.
//! Does not own: any decision (`protocol`).

use crate::config::Parts;
use crate::keeper::Kept;
use crate::message::Envelope;
use crate::protocol::{Command, Event, Now, Protocol};
use crate::refusal::{Failure, Limiter};
use crate::seal::{Dropped, Opener, Sealer};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::member::{Incarnation, MemberState, View};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many datagrams are received in a row while timers wait. After a pause the answers of others wait in the socket, and
/// should be heard before those others are given up.
const MAX_IN_A_ROW: u32 = 64;
/// How long a name may take to be looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 8;
/// How long it waits when the system cannot receive.
const RECEIVE_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// How often the log is told of an address whose datagrams are sealed otherwise.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What a member wants of membership.
pub(crate) enum Wish {
    /// Replies once the view says so; with `life`, only if the member still goes by that incarnation.
    SetState { state: MemberState, life: Option<Incarnation>, done: oneshot::Sender<bool> },
    /// Replies once others were told several times.
    Leave { done: oneshot::Sender<()> },
}

/// A seed that was looked up.
type Found = (String, Vec<SocketAddr>);

pub(crate) struct Actor {
    pub(crate) protocol: Protocol,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) parts: Parts,
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) failure: watch::Sender<Option<Failure>>,
    pub(crate) wishes: mpsc::Receiver<Wish>,
    pub(crate) kept: Option<watch::Sender<Kept>>,
    pub(crate) shutdown: CancellationToken,
}

impl Actor {
    pub(crate) async fn run(self) {
        let (found_sender, mut found) = mpsc::channel(16);
        let mut state = State {
            protocol: self.protocol,
            sealer: self.sealer,
            opener: self.opener,
            parts: self.parts,
            view: self.view,
            failure: self.failure,
            kept: self.kept,
            looking: BTreeSet::new(),
            found: found_sender,
            leavers: Vec::new(),
            strangers: Limiter::every(SAY_EVERY),
        };
        let mut wishes = self.wishes;
        let datagrams = Arc::clone(&state.parts.datagrams);
        let mut in_a_row = 0;
        state.tick();
        loop {
            let next = state.protocol.next();
            if in_a_row >= MAX_IN_A_ROW {
                in_a_row = 0;
                state.tick();
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                Some(wish) = wishes.recv() => state.wish(wish),
                Some((seed, addresses)) = found.recv() => state.found(&seed, &addresses),
                datagram = datagrams.receive() => match datagram {
                    Ok((bytes, from)) => {
                        in_a_row += 1;
                        state.hear(&bytes, from);
                    }
                    Err(error) => {
                        tracing::debug!("cannot receive gossip: {error}");
                        tokio::time::sleep(RECEIVE_AGAIN_AFTER).await;
                    }
                },
                () = until(next) => {
                    in_a_row = 0;
                    state.tick();
                }
            }
        }
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct State {
    protocol: Protocol,
    sealer: Sealer,
    opener: Opener,
    parts: Parts,
    view: watch::Sender<Arc<View>>,
    failure: watch::Sender<Option<Failure>>,
    kept: Option<watch::Sender<Kept>>,
    /// Seeds that are being looked up.
    looking: BTreeSet<String>,
    found: mpsc::Sender<Found>,
    leavers: Vec<oneshot::Sender<()>>,
    strangers: Limiter,
}

impl State {
    fn now(&self) -> Now {
        let unix_ms = u64::try_from(self.parts.clock.now().as_unix_ms()).unwrap_or(0);
        Now { instant: Instant::now(), unix_ms }
    }

    fn tick(&mut self) {
        self.protocol.tick(self.now());
        self.act();
    }

    fn wish(&mut self, wish: Wish) {
        match wish {
            // Whoever no longer waits does not mind.
            Wish::SetState { state, life, done } => {
                let is_so = self.protocol.set_state(state, life, Instant::now());
                self.act();
                let _ = done.send(is_so);
            }
            Wish::Leave { done } => {
                self.leavers.push(done);
                self.protocol.leave(Instant::now());
                self.act();
            }
        }
    }

    fn found(&mut self, seed: &str, addresses: &[SocketAddr]) {
        self.looking.remove(seed);
        self.protocol.found(addresses);
        self.act();
    }

    fn hear(&mut self, datagram: &Bytes, from: SocketAddr) {
        self.parts.meter.received(datagram.len());
        let now = self.now();
        let opened = self
            .opener
            .open(datagram)
            .and_then(|message| Envelope::decode(&message).ok_or(Dropped::Undecodable));
        match opened {
            Ok(envelope) => {
                self.protocol.receive(&envelope, from, now);
                self.act();
            }
            Err(reason) => {
                self.parts.meter.dropped(reason);
                if reason == Dropped::Seal && self.strangers.allows(from, now.instant) {
                    tracing::warn!(%from, "a datagram is not sealed with the key of this cluster: dropped");
                }
            }
        }
    }

    fn act(&mut self) {
        for command in self.protocol.take_commands(Instant::now()) {
            match command {
                Command::Say(change) if change.is_bad() => {
                    tracing::warn!(member = %self.protocol.own().id, "{change}");
                }
                Command::Say(change) => tracing::info!(member = %self.protocol.own().id, "{change}"),
                Command::Keep(incarnation) => self.keep(|kept| kept.incarnation = incarnation),
                Command::Remember(members) => self.keep(|kept| kept.members = members),
                Command::Publish(view) => self.publish(view),
                Command::Send { to, envelope } => self.send(to, &envelope),
                Command::Find(seed) => self.find(seed),
                Command::Fail(failure) => {
                    tracing::error!(member = %self.protocol.own().id, "{failure}");
                    self.failure.send_replace(Some(failure));
                }
                Command::Count(Event::Dropped(reason)) => self.parts.meter.dropped(reason),
                Command::Count(Event::Rejoined) => self.parts.meter.rejoined(),
                Command::Count(Event::Suspected) => self.parts.meter.suspected(),
                Command::Count(Event::Suspects(members)) => self.parts.meter.suspects(members),
            }
        }
        if self.protocol.is_over() {
            // Whoever no longer waits does not mind.
            self.leavers.drain(..).for_each(|done| _ = done.send(()));
        }
    }

    fn keep(&self, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = &self.kept {
            kept.send_modify(change);
        }
    }

    fn publish(&self, view: Arc<View>) {
        if **self.view.borrow() != *view {
            self.parts.meter.view(&view);
            self.view.send_replace(view);
        }
    }

    fn send(&mut self, to: SocketAddr, envelope: &Envelope) {
        let Some(sealed) = self.sealer.seal(&envelope.encode()) else {
            return self.parts.meter.dropped(Dropped::TooLarge);
        };
        match self.parts.datagrams.send(&sealed, to) {
            Ok(()) => self.parts.meter.sent(sealed.len()),
            // As good as lost on the way.
            Err(error) => {
                self.parts.meter.unsent();
                tracing::debug!("cannot send gossip to {to}: {error}");
            }
        }
    }

    fn find(&mut self, seed: String) {
        if !self.looking.insert(seed.clone()) {
            return;
        }
        let found = self.found.clone();
        tokio::spawn(async move {
            let looking = async {
                let addresses = tokio::net::lookup_host(&seed).await?;
                std::io::Result::Ok(addresses.take(MAX_ADDRESSES).collect())
            };
            let addresses = match tokio::time::timeout(LOOKUP_TIMEOUT, looking).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => {
                    tracing::debug!("seed {seed} was not found: {error}");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            };
            // Whoever no longer waits does not mind.
            let _ = found.send((seed, addresses)).await;
        });
    }
}
