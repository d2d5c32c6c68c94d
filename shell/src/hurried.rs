//! A stream whose other side has to begin in time.
//!
//! Owns: a time limit on its first bytes, until it is known which protocol they speak.
//! Does not own: limits on what follows (`server`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// As many bytes as the first line of HTTP/2 has, which no request of HTTP/1 is shorter than.
const FIRST_BYTES: usize = 24;

/// A stream that fails where its first bytes do not come in time.
#[derive(Debug)]
pub(crate) struct Hurried<S> {
    stream: S,
    /// Of the first bytes, those that have not come; and until when they have to.
    waits: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Hurried<S> {
    pub(crate) fn new(stream: S, within: Duration) -> Self {
        Self { stream, waits: Some((FIRST_BYTES, Box::pin(sleep(within)))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hurried<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some((left, deadline)) = &mut this.waits else {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        };
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Pending => {
                ready!(deadline.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            read => {
                *left = left.saturating_sub(buffer.filled().len() - before);
                if *left == 0 {
                    this.waits = None;
                }
                read
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hurried<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
