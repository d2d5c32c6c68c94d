//! Errors as callers see them.
//!
//! Owns: the one mapping from our errors to gRPC codes and HTTP statuses, and the form of an error in JSON.
//! Does not own: why something fails.
//!
//! In JSON: `{"code": "invalid_argument", "message": "what to do", "field": "limit"}`; `field` is null where no
//! field is at fault. `code` is the gRPC code's name in lower case, or for a refused post the reason's name
//! (`too_large`).

use crate::query::{AskError, BUSY_RETRY};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::borrow::Cow;
use std::time::Duration;
use tidemark_access::Forbidden;
use tidemark_telemetry::code_name;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// gRPC's own name for "when to come back".
const RETRY_METADATA: &str = "grpc-retry-pushback-ms";

/// An error on its way to an HTTP caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ApiError {
    #[serde(skip)]
    pub(crate) status: StatusCode,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    pub(crate) field: Option<String>,
    /// When to come back.
    #[serde(skip)]
    pub(crate) retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of a gRPC code.
    pub(crate) fn of(code: Code, message: impl ToString, retry_after: Option<Duration>) -> Self {
        Self {
            status: http_status(code),
            code: code_name(code).into(),
            message: message.to_string(),
            field: None,
            retry_after,
        }
    }

    /// What the caller sent cannot be.
    pub(crate) fn invalid(message: impl ToString) -> Self {
        Self::of(Code::InvalidArgument, message, None)
    }

    /// The same, where a field is at fault.
    pub(crate) fn invalid_field(field: impl Into<String>, message: impl ToString) -> Self {
        Self { field: Some(field.into()), ..Self::invalid(message) }
    }

    /// The body is larger than can be read.
    pub(crate) fn too_large(message: impl ToString) -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, code: "too_large".into(), ..Self::invalid(message) }
    }

    /// The same error with another HTTP status.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(&self)).into_response();
        if let Some(retry_after) = self.retry_after {
            // The header knows whole seconds only.
            let seconds = retry_after.as_millis().div_ceil(1000).max(1) as u64;
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn grpc_code(error: &AskError) -> Code {
    match error {
        AskError::Forbidden(_) => Code::PermissionDenied,
        AskError::Invalid(_) | AskError::TooManyRows(_) => Code::InvalidArgument,
        AskError::Busy { .. } | AskError::OverQuota(_) => Code::ResourceExhausted,
        AskError::Refused { code, .. } => *code,
        AskError::Failed => Code::Internal,
    }
}

fn retry_after(error: &AskError) -> Option<Duration> {
    match error {
        AskError::Busy { .. } => Some(BUSY_RETRY),
        AskError::OverQuota(over) => Some(over.retry_after),
        AskError::Refused { code: Code::ResourceExhausted, .. } => Some(BUSY_RETRY),
        AskError::Invalid(_)
        | AskError::Forbidden(_)
        | AskError::TooManyRows(_)
        | AskError::Refused { .. }
        | AskError::Failed => None,
    }
}

impl From<AskError> for Status {
    fn from(error: AskError) -> Self {
        let mut status = Self::new(grpc_code(&error), error.to_string());
        if let Some(retry_after) = retry_after(&error) {
            let ms = MetadataValue::from(retry_after.as_millis() as u64);
            status.metadata_mut().insert(RETRY_METADATA, ms);
        }
        status
    }
}

impl From<Forbidden> for ApiError {
    fn from(forbidden: Forbidden) -> Self {
        Self::of(Code::PermissionDenied, forbidden, None)
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Invalid(error) => Self::invalid_field(error.field, error.message),
            error => Self::of(grpc_code(&error), &error, retry_after(&error)),
        }
    }
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;
    use tidemark_rollup::partial::TooManyRows;
    use tidemark_rollup::query::QueryError;

    #[test]
    fn a_busy_coordinator_says_when_to_come_back_in_both_protocols() {
        let busy = || AskError::Busy { max: NonZeroUsize::MIN };
        let status = Status::from(busy());
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(RETRY_METADATA).unwrap(), "200");
        let response = ApiError::from(busy()).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn a_question_that_is_too_large_is_not_worth_repeating() {
        let error = ApiError::from(AskError::from(TooManyRows));
        assert_eq!((error.status, error.retry_after), (StatusCode::BAD_REQUEST, None));
        assert!(error.message.contains("narrow the range"), "{}", error.message);
    }

    #[test]
    fn the_field_at_fault_is_named_in_both_protocols() {
        let error = || AskError::from(QueryError::new("limit", "is too large"));
        assert_eq!(Status::from(error()).message(), "limit: is too large");
        let json = serde_json::to_value(ApiError::from(error())).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"code": "invalid_argument", "message": "is too large", "field": "limit"})
        );
    }
}
