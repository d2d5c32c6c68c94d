//! A port that serves HTTP.
//!
//! Owns: accepting connections up to a limit, handshakes, HTTP/1 and HTTP/2 on each, time limits on those that are slow or say nothing,
//! and closing them all in the end.
//! Does not own: what is served, counting connections (`tidemark_telemetry`).
//!
//! Each request learns who is at the other end ([`OtherEnd`](crate::accepted::OtherEnd)).

use crate::accepted::Accepted;
use crate::hurried::Hurried;
use crate::tls::MemberTls;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::Layer as _;

/// Pause after the system refused a connection, which is when it is short of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log says the same of a port.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Limits of a port.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time. Further ones wait in the system's queue until one closes.
    pub connections: NonZeroUsize,
    /// How long a connection may say nothing at all, its handshake may take, and the head of a request over HTTP/1.
    pub head: Duration,
    /// Bytes of a request's head.
    pub head_bytes: u32,
    /// How often an HTTP/2 connection is probed, and how long a probe may go without an answer.
    pub keep_alive: Duration,
    /// Requests at a time on one HTTP/2 connection.
    pub streams: u32,
    /// Requests on one HTTP/2 connection that may be taken back before they were looked at; h2's own limit where not set.
    pub taken_back: Option<usize>,
    /// Bytes that may be on their way on one HTTP/2 stream, and on all streams of a connection; hyper's own where not set.
    pub windows: Option<(u32, u32)>,
    /// How long requests may go on once the port has been told to close.
    pub grace: Duration,
}

impl Limits {
    /// Limits that suit most ports, for so many connections.
    pub const fn of(connections: NonZeroUsize) -> Self {
        Self {
            connections,
            head: Duration::from_secs(30),
            head_bytes: 32 << 10,
            keep_alive: Duration::from_secs(20),
            streams: 200,
            taken_back: None,
            windows: None,
            grace: Duration::from_secs(5),
        }
    }
}

/// Serves `router` on `listener` until `shutdown`; then lets requests finish. `opened` is called for each connection, and what it
/// returns is kept while that is open.
pub async fn serve<Held: Send + 'static>(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tls: Option<MemberTls>,
    opened: impl Fn() -> Held,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections.get().min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let mut says = Says::default();
    let connection = Arc::new(Connection { router, limits: limits.clone(), tls, shutdown: shutdown.clone() });
    while let Some((stream, peer, place)) = next(&listener, &places, &mut says, &shutdown).await {
        let (connection, held) = (Arc::clone(&connection), (place, opened()));
        connections.spawn(async move {
            connection.serve(stream, peer).await;
            drop(held);
        });
        // Takes note of those that ended, so that they take up no memory.
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all_closed = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.grace, all_closed).await.is_err() {
        tracing::warn!(open = connections.len(), "closing connections whose requests did not end in time");
        connections.shutdown().await;
    }
}

/// When the log was last told something that could be said with each connection.
#[derive(Default)]
struct Says {
    full: Option<Instant>,
    refused: Option<Instant>,
}

fn is_due(last: &mut Option<Instant>) -> bool {
    let is_due = last.is_none_or(|last| last.elapsed() >= SAY_EVERY);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}

/// The next connection and its place; `None` once the port is to close.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    says: &mut Says,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let connection = async {
        if places.available_permits() == 0 && is_due(&mut says.full) {
            tracing::warn!("all places for connections are taken: further ones wait until one closes");
        }
        // A place first: connections that have none wait in the system's queue. The semaphore is never closed.
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, place)),
                Err(error) => {
                    if is_due(&mut says.refused) {
                        tracing::warn!(%error, "cannot accept a connection");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(connection).await?
}

/// What all connections of a port have in common.
struct Connection {
    router: Router,
    limits: Limits,
    tls: Option<MemberTls>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(stream) = self.open(stream, peer).await else { return };
        let other_end = stream.other_end();
        let stream = TokioIo::new(Hurried::new(stream, self.limits.head));
        // Around the router, and not a layer of it: that would box each of its routes for each connection.
        let service = TowerToHyperService::new(Extension(other_end).layer(self.router.clone()));
        let builder = self.builder();
        let mut connection = pin!(builder.serve_connection(stream, service));
        let served = tokio::select! {
            biased;
            served = connection.as_mut() => served,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection broke off");
        }
    }

    /// The connection, once the other side has said something, and it is secured where it is to be. One that takes its time is closed
    /// without further ado, as is one that has said nothing yet when the port closes.
    async fn open(&self, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        let mut byte = [0];
        let opened = async {
            let Ok(1..) = stream.peek(&mut byte).await else { return None };
            match Accepted::of(stream, self.tls.as_ref(), peer).await {
                Ok(stream) => Some(stream),
                Err(error) => {
                    tracing::debug!(%error, "a connection was not secured");
                    None
                }
            }
        };
        self.shutdown.run_until_cancelled(timeout(self.limits.head, opened)).await?.ok()?
    }

    fn builder(&self) -> Builder<TokioExecutor> {
        let Limits { head, head_bytes, keep_alive, streams, taken_back, windows, .. } = self.limits;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(head_bytes as usize);
        let mut http2 = builder.http2();
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(keep_alive)
            .keep_alive_timeout(keep_alive)
            .max_concurrent_streams(streams)
            .max_header_list_size(head_bytes);
        if let Some(taken_back) = taken_back {
            http2.max_pending_accept_reset_streams(taken_back);
        }
        if let Some((stream, connection)) = windows {
            http2.initial_stream_window_size(stream).initial_connection_window_size(connection);
        }
        builder
    }
}
