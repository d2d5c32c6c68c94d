//! What a node shows over plain HTTP, on the port of its gRPC: `/metrics`, `/healthz` and `/readyz`.
//!
//! Owns: these pages, and what being ready means: the journal is counted, the node has joined and is not leaving, its shards are up.
//! Does not own: joining and leaving (`repair`), counting the journal (`chores`).

use crate::owners::Owners;
use crate::shard::ShardHandle;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_access::Access;
use tidemark_rollup::member::MemberState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the pages show.
pub(crate) struct Pages {
    pub(crate) registry: Arc<Mutex<Registry>>,
    pub(crate) shards: Vec<ShardHandle>,
    /// Whether the shards have all that the journal has.
    pub(crate) recovered: Arc<AtomicBool>,
    /// Is cancelled as soon as the node is told to hand over and stop.
    pub(crate) drain: CancellationToken,
    /// Whether the node has joined.
    pub(crate) owners: watch::Receiver<Arc<Owners>>,
}

impl Pages {
    /// Adds the node's pages to a router.
    pub(crate) fn add_to(self, router: Router, access: &Access) -> Router {
        let Self { registry, shards, recovered, drain, owners } = self;
        let pages = Router::new()
            .route("/metrics", get(move || async move { metrics(&registry) }))
            .route("/healthz", get(|| async { "ok\n" }))
            .route(
                "/readyz",
                get(move || async move {
                    let up = shards.iter().filter(|shard| shard.is_up()).count();
                    let is_recovered = recovered.load(Ordering::Relaxed);
                    // The token is sooner than the view: whoever stops the node finds it not ready at once.
                    let state =
                        if drain.is_cancelled() { MemberState::Leaving } else { owners.borrow().state() };
                    ready(is_recovered, state, up, shards.len())
                }),
            );
        router.merge(access.guard(pages))
    }
}

fn metrics(registry: &Mutex<Registry>) -> impl IntoResponse + use<> {
    let mut text = String::new();
    let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
    let encoded = prometheus_client::encoding::text::encode(&mut text, &registry);
    let status = if encoded.is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (status, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

fn ready(is_recovered: bool, state: MemberState, up: usize, shards: usize) -> (StatusCode, String) {
    let not_yet = match state {
        MemberState::Leaving => Some("leaving".to_owned()),
        _ if !is_recovered => Some("counting the blocks of the journal".to_owned()),
        MemberState::Active if up < shards => {
            Some(format!("{} of {shards} shards are down; see the log", shards - up))
        }
        MemberState::Active => None,
        state => Some(state.name().to_owned()),
    };
    match not_yet {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_once_its_journal_is_counted_it_has_joined_and_its_shards_are_up() {
        use MemberState::{Active, Joining, Leaving};
        for (is_recovered, state, up, says) in [
            (false, Joining, 4, "counting the blocks of the journal\n"),
            (false, Active, 4, "counting the blocks of the journal\n"),
            (true, Joining, 4, "joining\n"),
            (true, Active, 3, "1 of 4 shards are down; see the log\n"),
            (true, Leaving, 4, "leaving\n"),
            (false, Leaving, 0, "leaving\n"),
        ] {
            assert_eq!(ready(is_recovered, state, up, 4), (StatusCode::SERVICE_UNAVAILABLE, says.to_owned()));
        }
        assert_eq!(ready(true, Active, 4, 4), (StatusCode::OK, "ready\n".to_owned()));
    }
}
