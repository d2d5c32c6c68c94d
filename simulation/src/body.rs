//! Bodies of requests and responses that come over the network.
//!
//! Owns: an inbox as a body, and a body as pieces.
//! Does not own: the way between (`net/connection`).

use crate::net::connection::Inbox;
use crate::net::piece::Piece;
use bytes::Bytes;
use http_body::{Body, Frame};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;

/// A body from an inbox. Whatever `keep` is lives as long as the body.
pub(crate) struct Incoming<K> {
    inbox: Inbox,
    is_over: bool,
    _keep: K,
}

impl<K> Incoming<K> {
    pub(crate) fn new(inbox: Inbox, keep: K) -> Self {
        Self { inbox, is_over: false, _keep: keep }
    }
}

impl<K: Unpin> Body for Incoming<K> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = match self.inbox.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Piece::Data(bytes))) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(Some(Piece::Trailers(trailers))) => {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Poll::Ready(Some(Piece::End)) => None,
            Poll::Ready(Some(Piece::Reset(status))) => Some(Err(status)),
            Poll::Ready(Some(Piece::Request(_) | Piece::Response(_))) => {
                Some(Err(Status::internal("a second head")))
            }
            Poll::Ready(None) => Some(Err(Status::cancelled("the call is over"))),
        };
        self.is_over = true;
        Poll::Ready(next)
    }
}

/// Sends a body piece by piece.
pub(crate) async fn send<B>(body: B, send: impl Fn(Piece))
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = Box::pin(body);
    loop {
        match poll_fn(|context| body.as_mut().poll_frame(context)).await {
            None => return send(Piece::End),
            Some(Err(error)) => return send(Piece::Reset(Status::cancelled(error.to_string()))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => send(Piece::Data(bytes)),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        send(Piece::Trailers(trailers));
                    }
                }
            },
        }
    }
}
