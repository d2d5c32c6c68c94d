//! `GET /v1/flow` and `GET /v1/describe`: how the cluster is doing, and what can be asked of it.
//!
//! Owns: the routes.
//! Does not own: the report and its JSON (`crate::flow`), the description (`crate::describe`).

use super::App;
use crate::describe::{DescriptionJson, describe};
use crate::error::ApiError;
use crate::flow::{FlowError, FlowJson};
use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

/// One report. Rates in it are those since the last one that anybody asked for, where that is less than a minute ago.
pub(super) async fn get(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let flow = app.flows.watch(0)?.next().await?;
    // As with answers, nothing can fail.
    let json = serde_json::to_string(&FlowJson(&flow)).unwrap_or_default();
    Ok(([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], json).into_response())
}

pub(super) async fn description(State(app): State<Arc<App>>) -> Json<DescriptionJson> {
    Json(describe(&app.schema).into())
}

impl From<FlowError> for ApiError {
    fn from(error: FlowError) -> Self {
        let again = Duration::from_secs(1);
        match error {
            FlowError::Every(_) => Self::invalid(error),
            FlowError::Full => Self::of(Code::ResourceExhausted, error, Some(again)),
            FlowError::Stopping => Self::of(Code::Unavailable, error, Some(again)),
        }
    }
}
