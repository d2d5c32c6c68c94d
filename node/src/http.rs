//! What a node shows over plain HTTP, on the port of its gRPC: `/metrics`, `/healthz` and `/readyz`.

use crate::owners::Owners;
use crate::shard::ShardHandle;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_rollup::member::MemberState;
use tokio::sync::watch;

/// What the pages show.
pub(crate) struct Pages {
    pub(crate) registry: Arc<Mutex<Registry>>,
    pub(crate) shards: Vec<ShardHandle>,
    /// Whether the shards have all that the journal has.
    pub(crate) recovered: Arc<AtomicBool>,
    /// Whether the node has joined.
    pub(crate) owners: watch::Receiver<Arc<Owners>>,
}

impl Pages {
    /// Adds the node's pages to a router.
    pub(crate) fn add_to(self, router: Router) -> Router {
        let Self { registry, shards, recovered, owners } = self;
        router
            .route("/metrics", get(move || async move { metrics(&registry) }))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(move || async move { ready(&shards, &recovered, owners.borrow().state()) }))
    }
}

fn metrics(registry: &Mutex<Registry>) -> impl IntoResponse + use<> {
    let mut text = String::new();
    let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
    let encoded = prometheus_client::encoding::text::encode(&mut text, &registry);
    let status = if encoded.is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (status, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

fn ready(shards: &[ShardHandle], recovered: &AtomicBool, state: MemberState) -> (StatusCode, String) {
    if !recovered.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "counting the blocks of the journal\n".to_owned());
    }
    if state != MemberState::Active {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", state.name()));
    }
    let down = shards.iter().filter(|shard| !shard.is_up()).count();
    match down {
        0 => (StatusCode::OK, "ready\n".to_owned()),
        down => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{down} of {} shards are down; see the log\n", shards.len()),
        ),
    }
}
