//! `GET /v1/watch`: a question left open, as server-sent events.
//!
//! Owns: the parameters beside the question's, and the form of the events.
//! Does not own: what is sent (`crate::subscriptions`), the JSON of answers and changes (`json`).
//!
//! | event | data |
//! | --- | --- |
//! | `answer` | the first: `{"columns": [...], "rows": [...], "facts": {...}}` |
//! | `change` | from then on: `{"added": [{"at": 0, "row": [...]}], "changed": [...], "gone": [[...]], "facts": {...}}` |
//! | `error` | the last: an error as on other routes |
//!
//! The parameters are those of `GET /v1/query`, `every` (`200ms`, `1s`), and `resume`, the `id` of the last event received. A browser's
//! `EventSource` sends that by itself when it reconnects, as the header `Last-Event-ID`.

use super::App;
use super::params::{self, Pairs};
use crate::error::ApiError;
use crate::json::{answer_event, change_event};
use crate::subscriptions::{Feed, News, Sent, WatchError};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::Caller;
use tidemark_proto::v1;

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut subscription = subscription(Pairs::of(&uri)?)?;
    if let Some(last) = headers.get("last-event-id").and_then(|last| last.to_str().ok()) {
        last.clone_into(&mut subscription.resume);
    }
    let feeds = app.subscriptions.open(vec![subscription], &caller)?;
    let events = stream::unfold(feeds.into_iter().next(), |feed| async move {
        let mut feed: Feed = feed?;
        Some(match feed.next().await {
            Ok(news) => (Ok::<Bytes, Infallible>(event(&news)), Some(feed)),
            Err(error) => (Ok(last_event(error)), None),
        })
    });
    // Who reconnects is told why.
    let events = events.take_until(caller.ended());
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    // Proxies that gather what they pass on would hold events back.
    Ok((head, [("x-accel-buffering", "no")], Body::from_stream(events)).into_response())
}

fn event(news: &News) -> Bytes {
    let state = &news.state;
    match &news.sent {
        Sent::Answer => answer_event(&state.answer, state.facts_now(), &state.token),
        Sent::Step => match &state.step {
            Some(step) => state.step_event(step),
            None => Bytes::new(),
        },
        Sent::Change(change) => change_event(change, &state.token),
    }
}

fn last_event(error: WatchError) -> Bytes {
    let json = serde_json::to_string(&ApiError::from(error)).unwrap_or_default();
    format!("event: error\ndata: {json}\n\n").into()
}

/// The question's parameters, `every` and `resume`.
fn subscription(pairs: Pairs) -> Result<v1::Subscription, ApiError> {
    let (mut every, mut resume) = (String::new(), String::new());
    let mut others = Vec::new();
    for (name, value) in pairs {
        match name.as_str() {
            "every" => params::set(&mut every, name, value)?,
            "resume" => params::set(&mut resume, name, value)?,
            _ => others.push((name, value)),
        }
    }
    let query = params::question(others)?;
    Ok(v1::Subscription { query: Some(query), every_ms: every_ms(&every)?, resume })
}

fn every_ms(text: &str) -> Result<u32, ApiError> {
    if text.is_empty() {
        return Ok(0);
    }
    let (number, unit_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => ("", 0),
    };
    let ms = number.parse().ok().and_then(|number: u32| number.checked_mul(unit_ms)).filter(|&ms| ms > 0);
    ms.ok_or_else(|| {
        ApiError::invalid_field("every", format!("{text:?} is no time: give 200ms, 1s and the like"))
    })
}

impl From<WatchError> for ApiError {
    fn from(error: WatchError) -> Self {
        use tonic::Code;
        match error {
            WatchError::Invalid { error, .. } => Self::invalid_field(error.field, error.message),
            WatchError::Ended(error) => error.into(),
            WatchError::Count(_) => Self::invalid(error),
            WatchError::Forbidden(forbidden) => forbidden.into(),
            WatchError::Full { .. } => Self::of(Code::ResourceExhausted, error, Some(Duration::from_secs(5))),
            WatchError::Stopping => Self::of(Code::Unavailable, error, Some(Duration::from_secs(1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_is_read_in_milliseconds_and_seconds() {
        assert_eq!(every_ms("200ms").unwrap(), 200);
        assert_eq!(every_ms("1s").unwrap(), 1000);
        for text in ["1", "0s", "-1s", "1m", "s", "ms", "99999999s"] {
            assert_eq!(every_ms(text).expect_err(text).field.as_deref(), Some("every"));
        }
    }
}
