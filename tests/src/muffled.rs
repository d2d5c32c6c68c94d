//! Gossip of a member that is cut off for a while.
//!
//! Owns: letting datagrams through, or losing them both ways.
//! Does not own: where they go (`tidemark_membership`).

use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemark_shell::datagrams::Datagrams;
use tokio::net::UdpSocket;

/// A socket that loses everything until it is opened.
#[derive(Debug)]
pub struct Muffled {
    socket: UdpSocket,
    is_open: AtomicBool,
}

impl Muffled {
    /// This socket, which lets nothing through yet, or everything.
    pub fn new(socket: UdpSocket, is_open: bool) -> Self {
        Self { socket, is_open: AtomicBool::new(is_open) }
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Datagrams for Muffled {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_address()
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self.is_open.load(Ordering::SeqCst) {
            // Its own `send` is to whom it is connected.
            true => Datagrams::send(&self.socket, bytes, to),
            false => Ok(()),
        }
    }

    async fn receive(&self) -> io::Result<(Bytes, SocketAddr)> {
        loop {
            let received = Datagrams::receive(&self.socket).await;
            if self.is_open.load(Ordering::SeqCst) {
                return received;
            }
        }
    }
}
