//! A connection that was accepted, secured or not.
//!
//! Owns: the stream, and what is known of the other side.
//! Does not own: handshakes (`tls`), what the other side may do.

use crate::tls::MemberTls;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Who is at the other end, in the extensions of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherEnd {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// It showed the certificate of a member.
    pub is_member: bool,
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    stream: Stream,
    other_end: OtherEnd,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl Accepted {
    /// Secures a connection, where that is to be.
    ///
    /// # Errors
    /// Where the handshake fails.
    pub async fn of(stream: TcpStream, tls: Option<&MemberTls>, address: SocketAddr) -> io::Result<Self> {
        // Small replies go out at once. Where that cannot be set they are only slower.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            let other_end = OtherEnd { address, is_member: false };
            return Ok(Self { stream: Stream::Plain(stream), other_end });
        };
        let (stream, is_member) = tls.accept(stream).await?;
        Ok(Self { stream: Stream::Secured(Box::new(stream)), other_end: OtherEnd { address, is_member } })
    }

    /// Who is at the other end.
    pub fn other_end(&self) -> OtherEnd {
        self.other_end
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Secured(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secured(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Stream::Secured(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Secured(stream) => stream.is_write_vectored(),
        }
    }
}
