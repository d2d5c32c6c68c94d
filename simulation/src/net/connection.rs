//! Connections on the network, and the calls in them.
//!
//! Owns: the order of pieces in a direction, stalling while there is no way, and when a connection breaks.
//! Does not own: the ends (`link`, `serve`).
//!
//! A connection is like TCP: in each direction pieces arrive in order, all of them or none of the later ones. It breaks where
//! for [`KEEP_ALIVE`] no piece could go there and back, and at once where the other end says that its process is gone.
//! Nothing bounds what is on its way: there is no flow control.

use super::piece::Piece;
use super::{HostId, Message, Net, Process, State, Up};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// How long a connection lives without being passable.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

pub(crate) type ConnectionId = u64;
pub(crate) type CallId = u64;
pub(crate) type Inbox = mpsc::UnboundedReceiver<Piece>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the server.
    Up,
    Down,
}

/// A call that has arrived at a server.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) call: CallAddress,
    pub(crate) head: http::request::Parts,
    pub(crate) inbox: Inbox,
    /// Completes when the client is gone.
    pub(crate) gone: oneshot::Receiver<()>,
}

pub(crate) type Listener = mpsc::UnboundedSender<Arrived>;

/// Which call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallAddress {
    pub(crate) connection: ConnectionId,
    pub(crate) call: CallId,
}

#[derive(Debug)]
struct Call {
    client: Option<mpsc::UnboundedSender<Piece>>,
    server: Option<(mpsc::UnboundedSender<Piece>, oneshot::Sender<()>)>,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<(CallId, Piece)>,
    /// When the last of them is due.
    due: Duration,
    /// How many were due while there was no way.
    stalled: usize,
}

#[derive(Debug)]
pub(crate) struct Connection {
    client: Process,
    server: HostId,
    port: u16,
    /// Set once it is accepted.
    accepted: Option<(Process, Listener)>,
    /// Who waits for it to open.
    opening: Option<oneshot::Sender<bool>>,
    passable_at: Duration,
    up: Lane,
    down: Lane,
    calls: BTreeMap<CallId, Call>,
}

impl Connection {
    fn way(&self, direction: Direction) -> (HostId, HostId) {
        match direction {
            Direction::Up => (self.client.host, self.server),
            Direction::Down => (self.server, self.client.host),
        }
    }

    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

impl Net {
    /// Asks for a connection. The reply says whether there is one, and may never come.
    pub(crate) fn connect(
        &self,
        client: Process,
        to: SocketAddr,
    ) -> Option<(ConnectionId, oneshot::Receiver<bool>)> {
        let (mut state, now) = self.lock();
        let server = state.at(to.ip()).filter(|_| state.is_running(client))?;
        state.last_connection += 1;
        let id = state.last_connection;
        let (opening, opened) = oneshot::channel();
        let connection = Connection {
            client,
            server,
            port: to.port(),
            accepted: None,
            opening: Some(opening),
            passable_at: now,
            up: Lane::default(),
            down: Lane::default(),
            calls: BTreeMap::new(),
        };
        state.connections.insert(id, connection);
        state.send_soon(now, client.host, server, Message::Ask(id));
        Some((id, opened))
    }

    /// Whether it has not broken.
    pub(crate) fn is_connected(&self, connection: ConnectionId) -> bool {
        self.lock().0.connections.contains_key(&connection)
    }

    /// The client needs it no more. One whose process is gone has nobody to say so.
    pub(crate) fn disconnect(&self, client: Process, connection: ConnectionId) {
        let (mut state, now) = self.lock();
        if state.is_running(client) && state.connections.contains_key(&connection) {
            state.break_connection(now, connection, "closed by the client");
        }
    }

    /// Begins a call. `None` where the connection has broken.
    pub(crate) fn call(
        &self,
        connection: ConnectionId,
        head: http::request::Parts,
    ) -> Option<(CallAddress, Inbox)> {
        let (mut state, now) = self.lock();
        state.last_call += 1;
        let call = state.last_call;
        let (client, inbox) = mpsc::unbounded_channel();
        let calls = &mut state.connections.get_mut(&connection)?.calls;
        calls.insert(call, Call { client: Some(client), server: None });
        let address = CallAddress { connection, call };
        state.enqueue(now, address, Direction::Up, Piece::Request(Box::new(head)));
        Some((address, inbox))
    }

    /// Sends a piece of a call. It goes nowhere where the call is over or the process is.
    pub(crate) fn send_piece(&self, from: Process, call: CallAddress, direction: Direction, piece: Piece) {
        let (mut state, now) = self.lock();
        if state.is_running(from) {
            state.enqueue(now, call, direction, piece);
        }
    }

    /// The client has lost interest.
    pub(crate) fn cancel(&self, from: Process, call: CallAddress) {
        let (mut state, now) = self.lock();
        let Some(connection) = state.connections.get_mut(&call.connection) else { return };
        let Some(known) = connection.calls.get_mut(&call.call) else { return };
        known.client = None;
        if state.is_running(from) {
            state.enqueue(now, call, Direction::Up, Piece::Reset(Status::cancelled("the client went away")));
        }
    }

    pub(crate) fn listen(&self, process: Process, port: u16) -> Option<mpsc::UnboundedReceiver<Arrived>> {
        let (mut state, _) = self.lock();
        if !state.is_running(process) {
            return None;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        state.places[process.host.0].listeners.insert(port, sender);
        Some(receiver)
    }

    /// Breaks what has not been passable for too long, or whose other end is another process by now.
    pub(crate) fn check_connections(&self) {
        let (mut state, now) = self.lock();
        let mut broken = Vec::new();
        let State { connections, places, cuts, .. } = &mut *state;
        for (&id, connection) in connections.iter_mut() {
            let client = &places[connection.client.host.0];
            let Some((server, _)) = connection.accepted else {
                if client.up != Up::Running || client.generation != connection.client.generation {
                    broken.push((id, "never opened"));
                }
                continue;
            };
            let ends = [connection.client, server];
            let (up, down) = (connection.way(Direction::Up), connection.way(Direction::Down));
            let no_way = cuts.contains(&up) || cuts.contains(&down);
            let stuck = ends.map(|end| &places[end.host.0]).iter().any(|at| at.paused || at.up == Up::Dark);
            let strange = ends.iter().any(|end| {
                let place = &places[end.host.0];
                place.up != Up::Running || place.generation != end.generation
            });
            if no_way || stuck {
                if now.saturating_sub(connection.passable_at) >= KEEP_ALIVE {
                    broken.push((id, "no answer to keep-alive"));
                }
            } else if strange {
                broken.push((id, "reset by a machine that does not know it"));
            } else {
                connection.passable_at = now;
            }
        }
        for (id, why) in broken {
            state.break_connection(now, id, why);
        }
    }
}

impl State {
    fn enqueue(&mut self, now: Duration, call: CallAddress, direction: Direction, piece: Piece) {
        let Some(connection) = self.connections.get(&call.connection) else { return };
        let (from, to) = connection.way(direction);
        let latency = self.way(from, to).latency;
        let due = now + self.random.between(&latency);
        let Some(connection) = self.connections.get_mut(&call.connection) else { return };
        let lane = connection.lane(direction);
        lane.queue.push_back((call.call, piece));
        lane.due = lane.due.max(due);
        let due = lane.due;
        self.send(due, from, to, Message::Piece(call.connection, direction));
    }

    /// Ways have changed: what stalled goes on where there is one.
    pub(super) fn go_on(&mut self, now: Duration) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for (id, direction) in ids.into_iter().flat_map(|id| [(id, Direction::Up), (id, Direction::Down)]) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let (from, to) = connection.way(direction);
            if !self.cuts.contains(&(from, to)) {
                let stalled = std::mem::take(&mut connection.lane(direction).stalled);
                for _ in 0..stalled {
                    self.send_soon(now, from, to, Message::Piece(id, direction));
                }
            }
        }
    }

    pub(super) fn asked(&mut self, now: Duration, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, to) = connection.way(Direction::Down);
        let place = &self.places[from.0];
        if place.up == Up::Dark {
            return;
        }
        let process = Process { host: from, generation: place.generation };
        let listener = place.listeners.get(&connection.port).filter(|listener| !listener.is_closed());
        connection.accepted = listener.map(|listener| (process, listener.clone()));
        let accepted = connection.accepted.is_some();
        self.send_soon(now, from, to, Message::Answer(id, accepted));
    }

    pub(super) fn answered(&mut self, now: Duration, id: ConnectionId, accepted: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.passable_at = now;
        if let Some(opening) = connection.opening.take() {
            let _ = opening.send(accepted);
        }
        let (from, to) = connection.way(Direction::Up);
        if !accepted {
            self.connections.remove(&id);
        }
        let to = self.places[to.0].name.clone();
        let outcome = if accepted { "opens" } else { "is refused" };
        self.note(now, from, format_args!("> {to} connection {id} {outcome}"));
    }

    /// A piece is due.
    pub(super) fn piece(&mut self, now: Duration, id: ConnectionId, direction: Direction, is_cut: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, to) = connection.way(direction);
        let lane = connection.lane(direction);
        // A way that is there again brings what stalled first; all come as often as pieces were sent.
        if is_cut {
            lane.stalled += 1;
            return;
        }
        let Some((call, piece)) = lane.queue.pop_front() else { return };
        if self.places[to.0].up == Up::Dark {
            return;
        }
        let name = &self.places[to.0].name;
        self.trace.note(
            now,
            format_args!("{} > {name} connection {id} call {call} {piece}", self.places[from.0].name),
        );
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match direction {
            Direction::Up => {
                if let Err(status) = connection.up(id, call, piece) {
                    self.enqueue(
                        now,
                        CallAddress { connection: id, call },
                        Direction::Down,
                        Piece::Reset(status),
                    );
                }
            }
            Direction::Down => connection.down(call, piece),
        }
    }

    /// Ends all its calls on both ends.
    pub(super) fn break_connection(&mut self, now: Duration, id: ConnectionId, why: &str) {
        let Some(connection) = self.connections.remove(&id) else { return };
        let (from, to) = connection.way(Direction::Up);
        let to = self.places[to.0].name.clone();
        self.note(now, from, format_args!("> {to} connection {id} breaks: {why}"));
        let broken = || Piece::Reset(Status::unavailable(format!("connection to {to} broke: {why}")));
        for call in connection.calls.into_values() {
            if let Some(client) = call.client {
                let _ = client.send(broken());
            }
            if let Some((server, gone)) = call.server {
                let _ = server.send(broken());
                let _ = gone.send(());
            }
        }
    }

    /// A process is gone, and its machine says so to the other ends, after what it has sent.
    pub(super) fn reset_connections_of(&mut self, now: Duration, host: HostId) {
        let mut told = Vec::new();
        for (&id, connection) in &mut self.connections {
            let direction = match connection.accepted {
                Some((server, _)) if server.host == host => Direction::Down,
                Some(_) if connection.client.host == host => Direction::Up,
                _ => continue,
            };
            told.push((id, connection.way(direction).1, connection.lane(direction).due));
        }
        for (id, other, sent_by) in told {
            let latency = self.way(host, other).latency;
            let due = now + self.random.between(&latency);
            self.send(due.max(sent_by), host, other, Message::Gone(id));
        }
    }
}

impl Connection {
    /// Gives a piece to the server; an error ends the call.
    fn up(&mut self, connection: ConnectionId, id: CallId, piece: Piece) -> Result<(), Status> {
        let Some(call) = self.calls.get_mut(&id) else { return Ok(()) };
        match piece {
            Piece::Request(head) => {
                let Some((_, listener)) = &self.accepted else { return Ok(()) };
                let (sender, inbox) = mpsc::unbounded_channel();
                let (gone_sender, gone) = oneshot::channel();
                let call_address = CallAddress { connection, call: id };
                let arrived = Arrived { call: call_address, head: *head, inbox, gone };
                call.server = Some((sender, gone_sender));
                listener.send(arrived).map_err(|_| Status::unavailable("nobody serves any more"))
            }
            Piece::Reset(status) => {
                let call = self.calls.remove(&id);
                if let Some((server, gone)) = call.and_then(|call| call.server) {
                    let _ = server.send(Piece::Reset(status));
                    let _ = gone.send(());
                }
                Ok(())
            }
            piece => {
                if let Some((server, _)) = &call.server {
                    let _ = server.send(piece);
                }
                Ok(())
            }
        }
    }

    /// Gives a piece to the client. With the response the call ends.
    fn down(&mut self, id: CallId, piece: Piece) {
        let is_last = matches!(piece, Piece::End | Piece::Reset(_));
        if let Some(client) = self.calls.get(&id).and_then(|call| call.client.as_ref()) {
            let _ = client.send(piece);
        }
        if is_last {
            self.calls.remove(&id);
        }
    }
}
