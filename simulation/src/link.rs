//! The client's end of calls.
//!
//! Owns: opening a connection when it is needed and again after it broke, and calls as requests and responses.
//! Does not own: the way to the server (`net/connection`).
//!
//! As over TCP: one connection per link, opened by one call at a time within [`CONNECT_TIMEOUT`]; a call with a deadline
//! (`grpc-timeout`) fails when that is over; a response that is dropped cancels its call.

use crate::body::{self, Incoming};
use crate::net::connection::{CallAddress, ConnectionId, Direction, Inbox};
use crate::net::piece::Piece;
use crate::net::{Net, Process};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidemark_shell::link::{AddressError, Connect, Link, LinkError};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::{Status, TimeoutExpired};

/// How long opening a connection may take, as over TCP.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes connections over the simulated network.
#[derive(Clone)]
pub struct SimConnect {
    net: Arc<Net>,
    process: Process,
}

impl SimConnect {
    pub(crate) fn new(net: Arc<Net>, process: Process) -> Self {
        Self { net, process }
    }
}

impl fmt::Debug for SimConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connections of {:?}", self.process)
    }
}

impl Connect for SimConnect {
    fn connect(&self, address: &str) -> Result<Link, AddressError> {
        let to = address.parse().map_err(|_| AddressError(address.to_owned()))?;
        let (net, process) = (Arc::clone(&self.net), self.process);
        let wire = Arc::new(Wire { net, process, to, connection: Mutex::default() });
        Ok(Link::new(tower::service_fn(move |request| {
            let wire = Arc::clone(&wire);
            async move { wire.call(request).await }
        })))
    }
}

/// A link's connection.
struct Wire {
    net: Arc<Net>,
    process: Process,
    to: SocketAddr,
    connection: Mutex<Option<ConnectionId>>,
}

impl Wire {
    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, LinkError> {
        let deadline = timeout_of(&request);
        let answer = self.answer(request);
        match deadline {
            None => answer.await,
            Some(deadline) => match tokio::time::timeout(deadline, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(LinkError::new(TimeoutExpired(()))),
            },
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, LinkError> {
        let (mut head, body) = request.into_parts();
        // What stands for things in this process does not travel.
        head.extensions.clear();
        head.version = Version::HTTP_2;
        head.uri = self.absolute(head.uri).map_err(LinkError::new)?;
        let connection = self.connected().await.map_err(LinkError::new)?;
        let broken = || LinkError::new(Status::unavailable("the connection broke"));
        let (call, mut inbox) = self.net.call(connection, head).ok_or_else(broken)?;
        let (net, process) = (Arc::clone(&self.net), self.process);
        let upload = tokio::spawn(body::send(body, move |piece| {
            net.send_piece(process, call, Direction::Up, piece);
        }));
        let keep = Pending { wire: self, call, upload: upload.abort_handle() };
        let head = response(&mut inbox).await.map_err(LinkError::new)?;
        Ok(Response::from_parts(head, Body::new(Incoming::new(inbox, keep))))
    }

    fn absolute(&self, uri: Uri) -> Result<Uri, http::Error> {
        let path = uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Uri::builder().scheme(Scheme::HTTP).authority(self.to.to_string()).path_and_query(path).build()
    }

    async fn connected(&self) -> Result<ConnectionId, Status> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = *connection
            && self.net.is_connected(open)
        {
            return Ok(open);
        }
        let failed = |why: &str| Status::unavailable(format!("cannot connect to {}: {why}", self.to));
        let Some((id, opened)) = self.net.connect(self.process, self.to) else {
            tokio::time::sleep(CONNECT_TIMEOUT).await;
            return Err(failed("no such host"));
        };
        let opening = Opening { wire: self, id };
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(Ok(true)) => {
                std::mem::forget(opening);
                *connection = Some(id);
                Ok(id)
            }
            Ok(Ok(false) | Err(_)) => Err(failed("refused")),
            Err(_) => Err(failed("timed out")),
        }
    }
}

/// A connection that is being opened. Who does not wait for that any longer has none.
struct Opening<'a> {
    wire: &'a Wire,
    id: ConnectionId,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.wire.net.disconnect(self.wire.process, self.id);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(connection) = *self.connection.get_mut() {
            self.net.disconnect(self.process, connection);
        }
    }
}

/// A call whose response is not dropped yet. It keeps the connection.
struct Pending {
    wire: Arc<Wire>,
    call: CallAddress,
    upload: AbortHandle,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.upload.abort();
        self.wire.net.cancel(self.wire.process, self.call);
    }
}

async fn response(inbox: &mut Inbox) -> Result<http::response::Parts, Status> {
    match inbox.recv().await {
        Some(Piece::Response(head)) => Ok(*head),
        Some(Piece::Reset(status)) => Err(status),
        Some(other) => Err(Status::internal(format!("no response, but {other}"))),
        None => Err(Status::unavailable("the call is over")),
    }
}

/// The request's deadline.
fn timeout_of(request: &Request<Body>) -> Option<Duration> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// A service never fails by itself; what it serves with does not, either.
pub(crate) fn never<T>(result: Result<T, Infallible>) -> T {
    result.unwrap_or_else(|never| match never {})
}
