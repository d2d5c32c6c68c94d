//! Datagrams on the network.
//!
//! Owns: losing, repeating and delaying them, and what a receiver has room for.
//! Does not own: the ends (`datagrams`).

use super::{HostId, Message, Net, Process, State};
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_shell::datagrams::MAX_DATAGRAM_BYTES;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

/// What a receiver that does not read has room for.
const RECEIVE_BUFFER: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Bytes,
}

#[derive(Debug)]
pub(crate) struct Socket(mpsc::Sender<(Bytes, SocketAddr)>);

impl Net {
    pub(crate) fn bind(
        &self,
        process: Process,
        port: u16,
    ) -> io::Result<(SocketAddr, mpsc::Receiver<(Bytes, SocketAddr)>)> {
        let (mut state, _) = self.lock();
        if !state.is_running(process) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let place = &mut state.places[process.host.0];
        if place.sockets.get(&port).is_some_and(|socket| !socket.0.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, receiver) = mpsc::channel(RECEIVE_BUFFER);
        place.sockets.insert(port, Socket(sender));
        Ok((SocketAddr::new(place.ip, port), receiver))
    }

    pub(crate) fn send_datagram(&self, process: Process, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let (mut state, now) = self.lock();
        let Some(target) = state.at(to.ip()).filter(|_| state.is_running(process)) else { return };
        let bytes = Bytes::copy_from_slice(&bytes[..bytes.len().min(MAX_DATAGRAM_BYTES)]);
        let quality = state.way(process.host, target);
        if state.random.happens(quality.loss) {
            let to = state.places[target.0].name.clone();
            state.note(now, process.host, format_args!("> {to} datagram of {} B lost", bytes.len()));
            return;
        }
        let copies = if state.random.happens(quality.duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            let mut latency = state.random.between(&quality.latency);
            if state.random.happens(quality.stragglers) {
                latency += state.random.between(&(Duration::ZERO..quality.latency.end * 10));
            }
            let datagram = Datagram { from, to, bytes: bytes.clone() };
            state.send(now + latency, process.host, target, Message::Datagram(datagram));
        }
    }
}

impl State {
    pub(super) fn arrived(
        &mut self,
        now: Duration,
        from: HostId,
        to: HostId,
        datagram: Datagram,
        is_cut: bool,
    ) {
        let socket = self.places[to.0].sockets.get(&datagram.to.port()).filter(|_| !is_cut);
        let (len, hash) = (datagram.bytes.len(), xxh3_64(&datagram.bytes));
        let taken =
            socket.is_some_and(|Socket(sender)| sender.try_send((datagram.bytes, datagram.from)).is_ok());
        let (to, outcome) = (self.places[to.0].name.clone(), if taken { "" } else { " lost" });
        self.note(now, from, format_args!("> {to} datagram of {len} B {hash:016x}{outcome}"));
    }
}
