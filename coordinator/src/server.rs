//! The port.
//!
//! Owns: accepting connections, HTTP/1 and HTTP/2 on each, time limits on idle ones, and closing them all in the end.
//! Does not own: what is served (`http`, `service`).

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long requests may go on once the server has been told to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long a connection may send nothing at all, and how long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an HTTP/2 connection is probed, and how long a probe may go without an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Requests at the same time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 200;
/// Pause after the system refused a connection, which is when it is short of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `shutdown`; then lets requests finish, for [`GRACE`] at most.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(max_connections));
    let mut connections = JoinSet::new();
    while let Some((stream, place)) = next(&listener, &places, &shutdown).await {
        connections.spawn(serve_connection(stream, router.clone(), shutdown.clone(), place));
        // Takes note of those that ended, so that they take up no memory.
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all_closed = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, all_closed).await.is_err() {
        tracing::warn!(open = connections.len(), "closing connections whose requests did not end in time");
        connections.shutdown().await;
    }
}

/// The next connection and its place; `None` once the server is to stop.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let connection = async {
        // A place first: connections that have none wait in the system's queue. The semaphore is never closed.
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, place)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(connection).await?
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    // Small replies go out at once. Where that cannot be set they are only slower.
    let _ = stream.set_nodelay(true);
    let mut byte = [0];
    let first_byte = timeout(HEAD_TIMEOUT, stream.peek(&mut byte));
    // A connection that has said nothing is closed without further ado, in time and at shutdown.
    let Some(Ok(Ok(1..))) = shutdown.run_until_cancelled(first_byte).await else { return };

    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS);
    let mut connection =
        pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}
