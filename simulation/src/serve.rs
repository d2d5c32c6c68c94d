//! The server's end of calls.
//!
//! Owns: giving calls that arrive to the services, within the host's runtime.
//! Does not own: the way to the client (`net/connection`).

use crate::body::{self, Incoming};
use crate::link::never;
use crate::net::connection::{Arrived, CallAddress, Direction};
use crate::net::piece::Piece;
use crate::net::{Net, Process};
use axum::Router;
use http::Request;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;
use tower::ServiceExt as _;

/// Serves what arrives at the port until the process ends. Needs the host's runtime.
pub(crate) fn serve(net: Arc<Net>, process: Process, port: u16, services: Router) {
    if let Some(arriving) = net.listen(process, port) {
        tokio::spawn(accept(net, process, arriving, services));
    }
}

async fn accept(
    net: Arc<Net>,
    process: Process,
    mut arriving: mpsc::UnboundedReceiver<Arrived>,
    services: Router,
) {
    while let Some(arrived) = arriving.recv().await {
        let Arrived { call, head, inbox, gone } = arrived;
        let answer = Answer { net: Arc::clone(&net), process, call, is_over: false };
        let answering = answer.give(Request::from_parts(head, Incoming::new(inbox, ())), services.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // The client is gone: so are the handler and what it would have answered.
                _ = gone => {}
                () = answering => {}
            }
        });
    }
}

/// An answer that is being given. Dropped before its end, as by a handler's panic, it resets the call.
struct Answer {
    net: Arc<Net>,
    process: Process,
    call: CallAddress,
    is_over: bool,
}

impl Answer {
    async fn give(mut self, request: Request<Incoming<()>>, services: Router) {
        let response = never(services.oneshot(request.map(axum::body::Body::new)).await);
        let (mut head, body) = response.into_parts();
        head.extensions.clear();
        self.send(Piece::Response(Box::new(head)));
        body::send(body, |piece| self.send(piece)).await;
        self.is_over = true;
    }

    fn send(&self, piece: Piece) {
        self.net.send_piece(self.process, self.call, Direction::Down, piece);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.is_over {
            self.send(Piece::Reset(Status::unknown("the handler went away")));
        }
    }
}
