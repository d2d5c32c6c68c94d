//! Why a request's events do not count, as senders see it.
//!
//! Owns: status, code and words of each refusal, and when to come back.
//! Does not own: how refusals are counted (`metrics`).

use crate::metrics::Refused;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::time::Duration;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    why: Option<Refused>,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// One that is not counted: no event was meant.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), why: None, retry_after: None }
    }

    fn of(status: StatusCode, why: Refused, message: impl Into<String>) -> Self {
        Self { why: Some(why), ..Self::new(status, why.name(), message) }
    }

    /// It does not say which site are known.
    pub(crate) fn unknown_site() -> Self {
        let message = "events of this site are not taken here: start the edge with it in --sites";
        Self::of(StatusCode::FORBIDDEN, Refused::UnknownSite, message)
    }

    /// The site is none at all.
    pub(crate) fn site(reason: &str) -> Self {
        Self::of(
            StatusCode::BAD_REQUEST,
            Refused::Malformed,
            format!("`site` is no site ({reason}): give a host name, like example.com"),
        )
    }

    pub(crate) fn origin() -> Self {
        let message =
            "pages of this origin may not send events of this site: start the edge with --sites SITE=ORIGIN";
        Self::of(StatusCode::FORBIDDEN, Refused::Origin, message)
    }

    pub(crate) fn too_many(why: Refused, retry_after: Duration) -> Self {
        let who = if why == Refused::SiteRate { "this site" } else { "this address" };
        let message =
            format!("{who} sends more events than it may: post the same again after Retry-After seconds");
        Self { retry_after: Some(retry_after), ..Self::of(StatusCode::TOO_MANY_REQUESTS, why, message) }
    }

    pub(crate) fn too_large(most_bytes: usize) -> Self {
        let message = format!("the body has more than {most_bytes} bytes: send several smaller ones");
        Self::of(StatusCode::PAYLOAD_TOO_LARGE, Refused::TooLarge, message)
    }

    pub(crate) fn slow() -> Self {
        Self::of(
            StatusCode::REQUEST_TIMEOUT,
            Refused::Slow,
            "the body did not arrive in time: send it faster",
        )
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::of(StatusCode::BAD_REQUEST, Refused::Malformed, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        let refusal = Self::of(StatusCode::SERVICE_UNAVAILABLE, Refused::Unavailable, message);
        Self { retry_after: Some(Duration::from_secs(1)), ..refusal }
    }

    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, Refused::Lost, message)
    }

    /// What it counts as.
    pub(crate) fn why(&self) -> Option<Refused> {
        self.why
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code, "message": self.message, "field": null });
        let mut reply = (self.status, axum::Json(body)).into_response();
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_to_come_back_is_told_when_in_whole_seconds() {
        for (after_ms, seconds) in [(1, "1"), (1_000, "1"), (1_001, "2"), (60_000, "60")] {
            let reply = Refusal::too_many(Refused::SiteRate, Duration::from_millis(after_ms)).into_response();
            assert_eq!(reply.status(), 429);
            assert_eq!(reply.headers()[RETRY_AFTER], seconds);
        }
    }
}
