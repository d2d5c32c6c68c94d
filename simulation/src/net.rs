//! The network between hosts.
//!
//! Owns: how long messages take and which are lost, who can reach whom, and delivering in one order: by time, then by the
//! order of sending.
//! Does not own: what messages are (`net/datagram`, `net/connection`), running hosts (`host`).
//!
//! Messages are delivered between ticks. So what takes less than a tick takes one.

pub(crate) mod connection;
pub(crate) mod datagram;
pub(crate) mod piece;

use crate::random::Random;
use crate::time::Time;
use crate::trace::Trace;
use connection::{Connection, ConnectionId, Direction, Listener};
use datagram::{Datagram, Socket};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A host, by the order in which hosts were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(crate) usize);

/// A process on a host: what an earlier one had is not this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) host: HostId,
    pub(crate) generation: u64,
}

/// How good the way from one host to another is.
#[derive(Clone, Debug, PartialEq)]
pub struct Quality {
    /// What a message takes. Datagrams overtake one another within this range; what is in one stream does not.
    pub latency: Range<Duration>,
    /// The share of datagrams that get lost, from 0 to 1.
    pub loss: f64,
    /// The share of datagrams that arrive twice.
    pub duplicates: f64,
    /// The share of datagrams that take up to ten times as long as the slowest should.
    pub stragglers: f64,
}

impl Default for Quality {
    /// A good local network: 0.2 to 2 ms, and nothing is lost.
    fn default() -> Self {
        let latency = Duration::from_micros(200)..Duration::from_millis(2);
        Self { latency, loss: 0.0, duplicates: 0.0, stragglers: 0.0 }
    }
}

/// Whether somebody answers at a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Up {
    /// A process does.
    Running,
    /// The machine does, and refuses.
    Refusing,
    /// Nobody.
    Dark,
}

#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) up: Up,
    pub(crate) generation: u64,
    pub(crate) paused: bool,
    pub(crate) sockets: BTreeMap<u16, Socket>,
    pub(crate) listeners: BTreeMap<u16, Listener>,
}

/// What is on its way.
#[derive(Debug)]
pub(crate) enum Message {
    Datagram(Datagram),
    /// Asks for a connection.
    Ask(ConnectionId),
    /// Answers that: whether there is one.
    Answer(ConnectionId, bool),
    /// The next piece of that direction of a connection.
    Piece(ConnectionId, Direction),
    /// The other end's process is gone.
    Gone(ConnectionId),
}

#[derive(Debug)]
struct InFlight {
    due: Duration,
    number: u64,
    from: HostId,
    to: HostId,
    message: Message,
}

impl InFlight {
    fn order(&self) -> (Duration, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}
impl Eq for InFlight {}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// The network. Hosts and the driver share it.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) time: Arc<Time>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) places: Vec<Place>,
    pub(crate) quality: Quality,
    pub(crate) links: BTreeMap<(HostId, HostId), Quality>,
    pub(crate) cuts: BTreeSet<(HostId, HostId)>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) last_connection: ConnectionId,
    pub(crate) last_call: u64,
    wire: BinaryHeap<Reverse<InFlight>>,
    sent: u64,
}

impl Net {
    pub(crate) fn new(time: Arc<Time>, seed: u64, trace_lines: usize, quality: Quality) -> Arc<Self> {
        let state = State {
            random: Random::new(seed),
            trace: Trace::keeping(trace_lines),
            places: Vec::new(),
            quality,
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            connections: BTreeMap::new(),
            last_connection: 0,
            last_call: 0,
            wire: BinaryHeap::new(),
            sent: 0,
        };
        Arc::new(Self { time, state: Mutex::new(state) })
    }

    /// The state, and the time.
    pub(crate) fn lock(&self) -> (MutexGuard<'_, State>, Duration) {
        let now = self.time.now();
        (self.state.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let (mut state, now) = self.lock();
        state.trace.note(now, what);
    }

    pub(crate) fn add(&self, name: &str) -> (HostId, IpAddr) {
        let (mut state, _) = self.lock();
        let number = state.places.len();
        let ip = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + number as u32));
        state.places.push(Place {
            name: name.to_owned(),
            ip,
            up: Up::Dark,
            generation: 0,
            paused: false,
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
        });
        (HostId(number), ip)
    }

    /// A process begins on the host.
    pub(crate) fn begin(&self, host: HostId) -> Process {
        let (mut state, now) = self.lock();
        let place = &mut state.places[host.0];
        place.up = Up::Running;
        place.generation += 1;
        let generation = place.generation;
        state.note(now, host, format_args!("begins"));
        Process { host, generation }
    }

    /// The host's process that is there, or was last.
    pub(crate) fn process(&self, host: HostId) -> Process {
        Process { host, generation: self.lock().0.places[host.0].generation }
    }

    /// The host's process ends. Where the machine stays, it says so to whoever has a connection.
    pub(crate) fn end(&self, host: HostId, up: Up) {
        let (mut state, now) = self.lock();
        state.note(now, host, format_args!("ends, and is {up:?}"));
        let place = &mut state.places[host.0];
        place.up = up;
        place.paused = false;
        place.sockets.clear();
        place.listeners.clear();
        if up == Up::Refusing {
            state.reset_connections_of(now, host);
        }
    }

    pub(crate) fn set_paused(&self, host: HostId, paused: bool) {
        let (mut state, now) = self.lock();
        state.places[host.0].paused = paused;
        state.note(now, host, format_args!("{}", if paused { "pauses" } else { "goes on" }));
    }

    /// Makes ways impassable, or passable again.
    pub(crate) fn set_cut(&self, ways: impl IntoIterator<Item = (HostId, HostId)>, cut: bool) {
        let (mut state, now) = self.lock();
        for (from, to) in ways {
            let changed = if cut { state.cuts.insert((from, to)) } else { state.cuts.remove(&(from, to)) };
            if changed {
                let to = state.places[to.0].name.clone();
                state.note(now, from, format_args!("{} {to}", if cut { "cut from" } else { "reaches" }));
            }
        }
        state.go_on(now);
    }

    /// The ways that are impassable now.
    pub(crate) fn cuts(&self) -> Vec<(HostId, HostId)> {
        self.lock().0.cuts.iter().copied().collect()
    }

    /// Delivers what is due.
    pub(crate) fn deliver(&self) {
        let (mut state, now) = self.lock();
        while state.wire.peek().is_some_and(|Reverse(first)| first.due <= now) {
            let Some(Reverse(InFlight { from, to, message, .. })) = state.wire.pop() else { break };
            let is_cut = state.cuts.contains(&(from, to));
            match message {
                Message::Datagram(datagram) => state.arrived(now, from, to, datagram, is_cut),
                Message::Piece(connection, direction) => state.piece(now, connection, direction, is_cut),
                Message::Ask(_) | Message::Answer(..) | Message::Gone(_) if is_cut => {}
                Message::Ask(connection) => state.asked(now, connection),
                Message::Answer(connection, yes) => state.answered(now, connection, yes),
                Message::Gone(connection) => {
                    state.break_connection(now, connection, "reset by the other end")
                }
            }
        }
    }
}

impl State {
    pub(crate) fn note(&mut self, now: Duration, host: HostId, what: fmt::Arguments<'_>) {
        let name = &self.places[host.0].name;
        self.trace.note(now, format_args!("{name} {what}"));
    }

    pub(crate) fn is_running(&self, process: Process) -> bool {
        let place = &self.places[process.host.0];
        place.up == Up::Running && place.generation == process.generation
    }

    pub(crate) fn at(&self, ip: IpAddr) -> Option<HostId> {
        self.places.iter().position(|place| place.ip == ip).map(HostId)
    }

    pub(crate) fn way(&self, from: HostId, to: HostId) -> Quality {
        if from == to {
            let latency = Duration::from_micros(10)..Duration::from_micros(50);
            return Quality { latency, ..Quality::default() };
        }
        self.links.get(&(from, to)).unwrap_or(&self.quality).clone()
    }

    pub(crate) fn send(&mut self, due: Duration, from: HostId, to: HostId, message: Message) {
        self.sent += 1;
        self.wire.push(Reverse(InFlight { due, number: self.sent, from, to, message }));
    }

    /// Sends what nothing has to arrive before.
    pub(crate) fn send_soon(&mut self, now: Duration, from: HostId, to: HostId, message: Message) {
        let latency = self.way(from, to).latency;
        let due = now + self.random.between(&latency);
        self.send(due, from, to, message);
    }
}
