//! Datagrams: small messages that may be lost, repeated, or come in another order.
//!
//! Owns: the trait, and UDP as its implementation.
//! Does not own: what is in them, and their sealing (`tidemark-membership`).

use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use tokio::net::UdpSocket;

/// The largest datagram that is received whole.
pub const MAX_DATAGRAM_BYTES: usize = 2048;

/// Sends and receives datagrams at one address.
#[async_trait::async_trait]
pub trait Datagrams: Send + Sync + 'static {
    /// Where it receives.
    ///
    /// # Errors
    /// What the system says.
    fn local_address(&self) -> io::Result<SocketAddr>;

    /// Sends one, without waiting. That nothing went wrong does not say that it arrives.
    ///
    /// # Errors
    /// What the system says; also where it has no room now.
    fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()>;

    /// Waits for one, and for whom it is from.
    ///
    /// # Errors
    /// What the system says. Receiving can go on.
    async fn receive(&self) -> io::Result<(Bytes, SocketAddr)>;
}

#[async_trait::async_trait]
impl Datagrams for UdpSocket {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.try_send_to(bytes, to).map(|_| ())
    }

    async fn receive(&self) -> io::Result<(Bytes, SocketAddr)> {
        let mut buffer = [0; MAX_DATAGRAM_BYTES];
        let (len, from) = self.recv_from(&mut buffer).await?;
        Ok((Bytes::copy_from_slice(&buffer[..len]), from))
    }
}
