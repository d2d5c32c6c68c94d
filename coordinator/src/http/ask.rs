//! `/v1/query`.
//!
//! Owns: reading a question from a JSON body or from query parameters, and writing the answer: as JSON, or as CSV for who asks for
//! `Accept: text/csv`.
//! Does not own: what a question may ask (`tidemark_rollup::query`), the answer's form (`json`).

use super::params::{self, Pairs};
use super::{App, read_body, slow_body};
use crate::csv::answer_to_csv;
use crate::error::ApiError;
use crate::json::AnswerJson;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use prost::Message as _;
use std::sync::Arc;
use tidemark_access::Caller;
use tidemark_proto::v1;
use tidemark_shell::work;
use tokio::time::timeout_at;
use tonic::Code;

pub(super) async fn post(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let question = read_question(&app, body).await?;
    answer(&app, &question, &caller, &headers).await
}

/// Reads the body and forgets it again, so that only so many are held as there are places.
async fn read_question(app: &App, body: Body) -> Result<v1::Query, ApiError> {
    let deadline = app.queries.deadline(None);
    let _place = timeout_at(deadline.at(), app.reading.acquire()).await.map_err(|_| slow_body())?;
    read(&read_body(body, deadline).await?)
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let question = params::question(Pairs::of(&uri)?)?;
    answer(&app, &question, &caller, &headers).await
}

async fn answer(
    app: &App,
    question: &v1::Query,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let answer = app.queries.ask(question, caller, None).await?;
    let bytes = answer.encoded_len();
    if accepts_csv(headers) {
        let complete = answer.facts.as_ref().is_some_and(|facts| facts.complete);
        let csv = work::run_on(bytes, move || answer_to_csv(&answer)).await;
        let head = [
            (CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present")),
            (COMPLETE, HeaderValue::from_static(if complete { "true" } else { "false" })),
        ];
        return Ok((head, csv).into_response());
    }
    // Off the runtime's threads: an answer can have a million values.
    match work::run_on(bytes, move || serde_json::to_vec(&AnswerJson(&answer))).await {
        Ok(json) => Ok(([(CONTENT_TYPE, "application/json")], json).into_response()),
        Err(_) => Err(ApiError::of(Code::Internal, "the answer cannot be written as JSON", None)),
    }
}

/// Beside CSV, which has no place for facts: whether the answer is complete.
const COMPLETE: HeaderName = HeaderName::from_static("x-tidemark-complete");

/// Whether the caller would rather have CSV than JSON: it names that alone, or first.
fn accepts_csv(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    accepted.trim_start().starts_with("text/csv")
}

/// Reads a question in JSON. An error names the field, and the position in the body.
pub(crate) fn read(body: &[u8]) -> Result<v1::Query, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let question: v1::Query = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let named = error.inner().is_data() && path != ".";
        ApiError { field: named.then_some(path), ..ApiError::invalid(error.into_inner()) }
    })?;
    deserializer.end().map_err(ApiError::invalid)?;
    Ok(question)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_rollup::query::Query;
    use tidemark_rollup::schema::Schema;
    use tidemark_rollup::time::EventTime;

    /// Goes as far as a question can without a cluster.
    fn read_and_check(body: &[u8]) {
        if let Ok(question) = read(body) {
            let _ = Query::parse(&question, &Schema::default(), EventTime::EPOCH);
        }
    }

    #[test]
    fn a_question_in_json_is_read_under_both_spellings_of_its_names() {
        let camel =
            read(br#"{"site":"s.de","groupBy":["url"],"filters":[{"dimension":"device","notIn":["tv"]}]}"#);
        let snake =
            read(br#"{"site":"s.de","group_by":["url"],"filters":[{"dimension":"device","not_in":["tv"]}]}"#);
        assert_eq!(camel.unwrap(), snake.unwrap());
    }

    #[test]
    fn an_error_in_json_names_the_field_or_the_position() {
        for (text, field, hint) in [
            (r#"{"site":"s.de","limit":"ten"}"#, Some("limit"), "expected u32"),
            (r#"{"site":"s.de","sites":[]}"#, Some("sites"), "unknown field `sites`"),
            (r#"{"filters":[{},{"equals":1}]}"#, Some("filters[1].equals"), "unknown field `equals`"),
            (r#"{"measures":["views",7]}"#, Some("measures[1]"), "expected a string"),
            (r#"{"site":"#, None, "line 1 column 8"),
            ("{\n\"site\" \"s.de\"}", None, "line 2 column 8"),
            ("{} {}", None, "trailing characters"),
            ("[]x", None, "trailing characters"),
            ("", None, "EOF"),
        ] {
            let error = read(text.as_bytes()).expect_err(text);
            assert_eq!((error.field.as_deref(), error.code.as_ref()), (field, "invalid_argument"), "{text}");
            assert!(error.message.contains(hint), "{text}: {}", error.message);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_question_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read_and_check(&bytes);
        }

        #[test]
        fn anything_like_json_is_a_question_or_an_error(
            text in r#"\{(["{}\[\],:0-9.eE\\u \n-]|"site"|"filters"|"limit"|"in"|null|true){0,60}"#,
        ) {
            read_and_check(text.as_bytes());
        }
    }
}
