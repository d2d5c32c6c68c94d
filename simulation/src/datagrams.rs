//! Datagrams, as hosts send them.
//!
//! Owns: a socket of the simulated network.
//! Does not own: what becomes of datagrams on their way (`net/datagram`).

use crate::net::{Net, Process};
use bytes::Bytes;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tidemark_shell::datagrams::Datagrams;
use tokio::sync::{Mutex, mpsc};

/// A datagram socket.
pub struct SimDatagrams {
    net: Arc<Net>,
    process: Process,
    address: SocketAddr,
    inbox: Mutex<mpsc::Receiver<(Bytes, SocketAddr)>>,
}

impl SimDatagrams {
    pub(crate) fn bind(net: Arc<Net>, process: Process, port: u16) -> io::Result<Self> {
        let (address, inbox) = net.bind(process, port)?;
        Ok(Self { net, process, address, inbox: Mutex::new(inbox) })
    }
}

#[async_trait::async_trait]
impl Datagrams for SimDatagrams {
    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.net.send_datagram(self.process, self.address, to, bytes);
        Ok(())
    }

    async fn receive(&self) -> io::Result<(Bytes, SocketAddr)> {
        self.inbox.lock().await.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl fmt::Debug for SimDatagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "datagrams at {}", self.address)
    }
}
