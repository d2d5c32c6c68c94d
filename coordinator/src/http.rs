//! The HTTP side.
//!
//! Owns: routes, reading bodies, and the small pages: metrics, health, readiness.
//! Does not own: answering (`query`), taking events in (`posts`), the form of errors (`error`).
//!
//! | route | what |
//! | --- | --- |
//! | `POST /v1/query`, `GET /v1/query?...` | a question (`http::ask`) |
//! | `GET /v1/watch?...` | a question left open (`http::watch`) |
//! | `GET /v1/flow` | the way of events, and who takes part, once (`http::flow`) |
//! | `GET /v1/describe` | dimensions and measures (`http::flow`) |
//! | `POST /v1/events` | events (`http::post`) |
//! | `GET /metrics` | Prometheus, OpenMetrics text |
//! | `GET /healthz` | 200 as long as the process runs |
//! | `GET /readyz` | 200 when nodes that have all shards between them answer and the coordinator is not stopping, else 503; with those that do not answer |
//! | `GET /`, `/assets/*` | the dashboard (`http::pages`) |
//! | `GET /start` | the start page |

pub(crate) mod ask;
mod flow;
mod pages;
pub(crate) mod params;
mod post;
mod watch;

use crate::error::ApiError;
use crate::fanout::Deadline;
use crate::flow::Flows;
use crate::metrics::CoordinatorMetrics;
use crate::plan::NO_NODES;
use crate::posts::Posts;
use crate::query::Queries;
use crate::readiness::Readiness;
use crate::subscriptions::Subscriptions;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_access::Access;
use tidemark_proto::{MAX_BATCH_BYTES, MAX_MESSAGE_BYTES};
use tidemark_rollup::schema::Schema;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use tonic::{Code, Status};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a coordinator says that was told to stop.
const STOPPING: &str = "the coordinator is stopping: ask another one";

/// Questions whose bodies are read at the same time; others wait. Each takes up to 4 MiB.
pub(crate) const MAX_READING: usize = 64;

/// What the handlers need.
pub(crate) struct App {
    pub(crate) queries: Arc<Queries>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) flows: Arc<Flows>,
    pub(crate) schema: Arc<Schema>,
    pub(crate) posts: Posts,
    pub(crate) readiness: Readiness,
    /// Places for questions that are being read.
    pub(crate) reading: Semaphore,
    pub(crate) metrics: CoordinatorMetrics,
    pub(crate) registry: Arc<Mutex<Registry>>,
}

/// Adds the HTTP routes to those of gRPC, on the same port.
pub(crate) fn router(app: Arc<App>, grpc: Router, access: &Access) -> Router {
    let routes = Router::new()
        .route("/", get(pages::index))
        .route("/start", get(pages::start))
        .route("/assets/{*file}", get(pages::file))
        .route("/v1/query", post(ask::post).get(ask::get))
        .route("/v1/watch", get(watch::get))
        .route("/v1/flow", get(flow::get))
        .route("/v1/describe", get(flow::description))
        .route("/v1/events", post(post::events))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(wrong_method)
        .with_state(app);
    access.guard(routes).merge(grpc).fallback(unknown_route)
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = String::new();
    let encoded = encode(&mut text, &app.registry.lock().unwrap_or_else(PoisonError::into_inner));
    match encoded {
        Ok(()) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => ApiError::of(Code::Internal, "the metrics cannot be written as text", None).into_response(),
    }
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.readiness.is_stopping() {
        let body = json!({
            "code": "unavailable", "message": STOPPING, "field": null, "ready": false, "notReady": [],
        });
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response();
    }
    let report = app.readiness.report().await;
    if report.is_ready() {
        let mut body = json!({ "ready": true, "nodes": report.nodes });
        if !report.not_ready.is_empty() {
            body["notReady"] = json!(report.not_ready);
        }
        return axum::Json(body).into_response();
    }
    let message = match report.nodes {
        0 => NO_NODES.to_owned(),
        nodes => format!(
            "{} of {nodes} nodes do not answer, and {} shards have nobody else: queries are partial",
            report.not_ready.len(),
            report.shards_lost
        ),
    };
    let body = json!({
        "code": "unavailable", "message": message, "field": null, "ready": false, "notReady": report.not_ready,
    });
    (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{method} is not possible on {}: see GET /start for what is", uri.path());
    ApiError::of(Code::Unimplemented, message, None).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// Answers in the caller's own protocol.
async fn unknown_route(headers: HeaderMap, uri: Uri) -> Response {
    let is_grpc = |value: &axum::http::HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        return Status::unimplemented(format!("no such method: {}", uri.path())).into_http::<Body>();
    }
    let message = format!("there is nothing at {}: see GET /start for what there is", uri.path());
    ApiError::of(Code::NotFound, message, None).into_response()
}

/// Reads a body of at most [`MAX_BATCH_BYTES`].
async fn read_body(body: Body, deadline: Deadline) -> Result<Bytes, ApiError> {
    timeout_at(deadline.at(), collect(body)).await.map_err(|_| slow_body())?
}

fn slow_body() -> ApiError {
    let error = ApiError::of(Code::DeadlineExceeded, "the body did not arrive in time: send it faster", None);
    error.with_status(StatusCode::REQUEST_TIMEOUT)
}

async fn collect(body: Body) -> Result<Bytes, ApiError> {
    let (mut bytes, mut len) = (BytesMut::new(), 0);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::invalid(format!("the body broke off: {error}")))?;
        len += chunk.len();
        if len <= MAX_BATCH_BYTES {
            bytes.extend_from_slice(&chunk);
        } else if len > MAX_MESSAGE_BYTES {
            break;
        }
        // Between the two, reads on without keeping it: most clients listen only once they have sent everything.
    }
    if len > MAX_BATCH_BYTES {
        let message = format!("the body has more than {MAX_BATCH_BYTES} bytes: send several smaller ones");
        return Err(ApiError::too_large(message));
    }
    Ok(bytes.freeze())
}
