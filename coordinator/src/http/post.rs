//! `POST /v1/events`.
//!
//! Owns: the parameters that make a post repeatable, and what became of each element of the body.
//! Does not own: reading elements (`events`), sending events (`posts`).
//!
//! `?producer=<32 hex digits>&seq=<number>&sealedAt=<RFC 3339 or Unix ms>` makes a post repeatable: the same identity
//! counts once. `sealedAt` is when the post was put together, the time of events that have none; now if left out.

use super::params::{Pairs, set};
use super::{App, read_body};
use crate::error::ApiError;
use crate::events::{self, Body, BodyError};
use crate::fanout::Deadline;
use crate::metrics::PostOutcome;
use crate::posts::{Identity, PostError};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::Caller;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::EventTime;
use tonic::Code;
use v1::{Reason, RefusalReason};

/// When to come back after a post that was not taken for no fault of its own.
const RETRY: Duration = Duration::from_secs(1);

/// What became of a post.
#[derive(Debug, Default, Serialize)]
pub(super) struct Reply {
    accepted: u32,
    duplicate: u32,
    /// By index.
    rejected: Vec<RejectedElement>,
    ignored: Vec<IgnoredName>,
}

#[derive(Debug, Serialize)]
struct RejectedElement {
    index: u32,
    #[serde(serialize_with = "reason_name")]
    reason: Reason,
}

fn reason_name<S: serde::Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&reason.name())
}

#[derive(Debug, Serialize)]
struct IgnoredName {
    name: String,
    why: String,
    events: u32,
}

pub(super) async fn events(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    body: axum::body::Body,
) -> Result<Json<Reply>, ApiError> {
    let reply = take(&app, &caller, &uri, body).await;
    match &reply {
        Ok(reply) => {
            app.metrics.posted(PostOutcome::Taken);
            app.metrics.accepted(reply.accepted, reply.duplicate);
            reply.rejected.iter().for_each(|rejected| app.metrics.rejected(rejected.reason, 1));
        }
        Err(error) if error.retry_after.is_some() => app.metrics.posted(PostOutcome::Unavailable),
        Err(_) => app.metrics.posted(PostOutcome::Invalid),
    }
    reply.map(Json)
}

async fn take(app: &App, caller: &Caller, uri: &Uri, body: axum::body::Body) -> Result<Reply, ApiError> {
    let deadline = Deadline::after(app.posts.timeout);
    let repeatable = Repeatable::of(uri)?;
    let _permit = app.posts.admit()?;
    let mut body = events::read(&read_body(body, deadline).await?)?;
    body.keep_allowed(|site| caller.may_send(site));
    let identity = match repeatable {
        Some(repeatable) => repeatable.identity(app.posts.now()),
        None => app.posts.new_identity(),
    };
    if body.events.is_empty() {
        return Ok(reply(v1::BatchAck::default(), &body));
    }
    let ack = app.posts.send(&mut body, identity, deadline).await;
    Ok(reply(ack.map_err(|error| not_acknowledged(error, identity))?, &body))
}

/// The acknowledgement in terms of the body's elements.
fn reply(ack: v1::BatchAck, body: &Body) -> Reply {
    let by_node = ack.rejected.iter().map(|rejection| RejectedElement {
        index: body.indexes.get(rejection.index as usize).copied().unwrap_or(rejection.index),
        reason: rejection.reason(),
    });
    let unreadable =
        body.unreadable.iter().map(|&index| RejectedElement { index, reason: Reason::Unreadable });
    let not_allowed =
        body.not_allowed.iter().map(|&index| RejectedElement { index, reason: Reason::SiteNotAllowed });
    let mut rejected: Vec<RejectedElement> = by_node.chain(unreadable).chain(not_allowed).collect();
    rejected.sort_by_key(|rejected| rejected.index);

    let by_node = ack.ignored.iter().map(|ignored| IgnoredName {
        name: ignored.name.clone(),
        why: ignored.why().name(),
        events: ignored.events,
    });
    let unknown = body.unknown.iter().map(|(name, &events)| IgnoredName {
        name: name.clone(),
        why: "unknown_field".to_owned(),
        events,
    });
    Reply {
        accepted: ack.accepted,
        duplicate: ack.duplicate,
        rejected,
        ignored: by_node.chain(unknown).collect(),
    }
}

/// An identity as the caller gave it.
#[derive(Debug, PartialEq, Eq)]
struct Repeatable {
    producer: ProducerId,
    seq: u64,
    sealed_at: Option<EventTime>,
}

impl Repeatable {
    /// `None` where the caller gave none.
    fn of(uri: &Uri) -> Result<Option<Self>, ApiError> {
        let (mut producer, mut seq, mut sealed_at) = (String::new(), String::new(), String::new());
        for (name, value) in Pairs::of(uri)? {
            match name.as_str() {
                "producer" => set(&mut producer, name, value)?,
                "seq" => set(&mut seq, name, value)?,
                "sealedAt" | "sealed_at" => set(&mut sealed_at, name, value)?,
                _ => {
                    return Err(ApiError::invalid_field(
                        name,
                        "is no parameter: give producer, seq and sealedAt",
                    ));
                }
            }
        }
        if producer.is_empty() && seq.is_empty() && sealed_at.is_empty() {
            return Ok(None);
        }
        let no_producer = || ApiError::invalid_field("producer", "has to be 32 hexadecimal digits");
        let no_seq =
            || ApiError::invalid_field("seq", "has to be a whole number, one more with each new post");
        Ok(Some(Self {
            producer: parse_producer(&producer).ok_or_else(no_producer)?,
            seq: seq.parse().map_err(|_| no_seq())?,
            sealed_at: parse_sealed_at(&sealed_at)?,
        }))
    }

    fn identity(self, now: EventTime) -> Identity {
        Identity { producer: self.producer, seq: self.seq, sealed_at: self.sealed_at.unwrap_or(now) }
    }
}

fn parse_producer(text: &str) -> Option<ProducerId> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
    Some(ProducerId::from_u128(id))
}

fn parse_sealed_at(text: &str) -> Result<Option<EventTime>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let time = text.parse().map(EventTime::from_unix_ms).or_else(|_| EventTime::parse_rfc3339(text));
    // On the wire 0 is "when it was received", which would be another moment at each repetition.
    let time = time.ok().filter(|time| time.as_unix_ms() > 0);
    let no_time = || {
        ApiError::invalid_field(
            "sealedAt",
            format!("{text:?} is no time: give RFC 3339 or Unix milliseconds"),
        )
    };
    time.map(Some).ok_or_else(no_time)
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Empty => Self { code: "empty".into(), ..Self::invalid(error) },
            BodyError::TooMany(_) => Self::too_large(error),
            BodyError::Malformed(_) => Self::invalid(error),
        }
    }
}

impl From<PostError> for ApiError {
    fn from(error: PostError) -> Self {
        match &error {
            PostError::Busy { .. } => Self::of(Code::ResourceExhausted, error, Some(RETRY)),
            PostError::NoMembers | PostError::Unacknowledged { .. } => {
                Self::of(Code::Unavailable, error, Some(RETRY))
            }
            PostError::Refused(refusal) => refused(refusal),
        }
    }
}

fn refused(refusal: &v1::Refusal) -> ApiError {
    let asked = (refusal.retry_after_ms > 0).then(|| Duration::from_millis(refusal.retry_after_ms.into()));
    let (status, retry_after) = match refusal.reason() {
        RefusalReason::Overloaded | RefusalReason::OverQuota => {
            (StatusCode::TOO_MANY_REQUESTS, asked.or(Some(RETRY)))
        }
        RefusalReason::OwnerUnavailable | RefusalReason::OwnersDiffer | RefusalReason::TooFewOwners => {
            (StatusCode::SERVICE_UNAVAILABLE, asked.or(Some(RETRY)))
        }
        RefusalReason::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, asked),
        _ => (StatusCode::BAD_REQUEST, asked),
    };
    ApiError {
        code: refusal.reason().name().into(),
        status,
        retry_after,
        ..ApiError::invalid(&refusal.message)
    }
}

/// Where some events may be counted already, says under which identity the rest can follow.
fn not_acknowledged(error: PostError, identity: Identity) -> ApiError {
    let may_be_counted = match &error {
        PostError::Unacknowledged { .. } => true,
        // Refused by several nodes in turn, and each may have brought a part of it to some owner.
        PostError::Refused(refusal) => matches!(
            refusal.reason(),
            RefusalReason::OwnerUnavailable | RefusalReason::OwnersDiffer | RefusalReason::TooFewOwners
        ),
        PostError::Busy { .. } | PostError::NoMembers => false,
    };
    let mut error = ApiError::from(error);
    if may_be_counted {
        let repeat = format!(". Repeat the same body at /v1/events?{identity} and it counts once");
        error.message.push_str(&repeat);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeatable(query: &str) -> Result<Option<Repeatable>, ApiError> {
        Repeatable::of(&format!("/v1/events?{query}").parse().unwrap())
    }

    const PRODUCER: &str = "0123456789abcdef0123456789ABCDEF";

    #[test]
    fn an_identity_is_written_as_it_is_read() {
        let query = format!("producer={PRODUCER}&seq=7&sealedAt=1431857100500");
        let read = repeatable(&query).unwrap().unwrap();
        let identity = read.identity(EventTime::EPOCH);
        assert_eq!(identity.to_string(), query.to_lowercase().replace("sealedat", "sealedAt"));
        assert_eq!(repeatable("").unwrap(), None);
    }

    #[test]
    fn half_an_identity_is_refused_by_name() {
        for (query, field) in [
            ("seq=1".to_owned(), "producer"),
            ("producer=12&seq=1".to_owned(), "producer"),
            (format!("producer=+{}&seq=1", &PRODUCER[1..]), "producer"),
            (format!("producer={PRODUCER}"), "seq"),
            (format!("producer={PRODUCER}&seq=-1"), "seq"),
            (format!("producer={PRODUCER}&seq=1&sealedAt=0"), "sealedAt"),
            (format!("producer={PRODUCER}&seq=1&sealedAt=then"), "sealedAt"),
            ("sequence=1".to_owned(), "sequence"),
        ] {
            assert_eq!(repeatable(&query).expect_err(&query).field.as_deref(), Some(field));
        }
    }

    #[test]
    fn indexes_are_the_callers_and_ascend() {
        let body = events::read(b"{}\nbad\n{}\n7\n{}").unwrap();
        let rejection = |index, reason: Reason| v1::Rejection { index, reason: reason.into() };
        let ack = v1::BatchAck {
            rejected: vec![rejection(0, Reason::MissingSite), rejection(2, Reason::TooLate)],
            ..v1::BatchAck::default()
        };
        let reply = serde_json::to_value(reply(ack, &body)).unwrap();
        let expected = serde_json::json!([
            {"index": 0, "reason": "missing_site"}, {"index": 1, "reason": "unreadable"},
            {"index": 3, "reason": "unreadable"}, {"index": 4, "reason": "too_late"},
        ]);
        assert_eq!(reply["rejected"], expected);
    }

    #[test]
    fn a_refusal_has_the_status_that_fits_its_remedy() {
        let refusal = |reason: RefusalReason, retry_after_ms| {
            let refusal =
                v1::Refusal { reason: reason.into(), retry_after_ms, message: "m".into(), limit: None };
            let identity =
                Identity { producer: ProducerId::from_u128(1), seq: 2, sealed_at: EventTime::EPOCH };
            not_acknowledged(PostError::Refused(refusal), identity)
        };
        let overloaded = refusal(RefusalReason::Overloaded, 250);
        assert_eq!(
            (overloaded.status, overloaded.code.as_ref()),
            (StatusCode::TOO_MANY_REQUESTS, "overloaded")
        );
        assert_eq!(overloaded.retry_after, Some(Duration::from_millis(250)));
        let unavailable = refusal(RefusalReason::OwnerUnavailable, 100);
        assert_eq!(unavailable.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(unavailable.message.contains("seq=2"), "{}", unavailable.message);
        for reason in [RefusalReason::OwnersDiffer, RefusalReason::TooFewOwners] {
            let passing = refusal(reason, 0);
            assert_eq!((passing.status, passing.retry_after), (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY)));
            assert!(passing.message.contains("seq=2"), "{}", passing.message);
        }
        assert_eq!(refusal(RefusalReason::TooLarge, 0).status, StatusCode::PAYLOAD_TOO_LARGE);
        let seal = refusal(RefusalReason::BadSealTime, 0);
        assert_eq!((seal.status, seal.retry_after), (StatusCode::BAD_REQUEST, None));
    }
}
