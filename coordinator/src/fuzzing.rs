//! What a coordinator reads of its callers, for `fuzz/`: bodies and parameters without a port.
//!
//! Owns: handing them to the functions that requests go to, and what is told of the outcome.
//! Does not own: reading them (`http::ask`, `http::params`, `events`).

use crate::events;
use crate::http::{ask, params};
use axum::http::Uri;
use tidemark_proto::v1;

/// The question in the body of `POST /v1/query`.
pub fn question(body: &[u8]) -> Option<v1::Query> {
    ask::read(body).ok()
}

/// The question in the parameters of `GET /v1/query`, where they can be those of a request at all.
pub fn question_of_parameters(parameters: &str) -> Option<v1::Query> {
    let uri: Uri = format!("/v1/query?{parameters}").parse().ok()?;
    params::question(params::Pairs::of(&uri).ok()?).ok()
}

/// What the body of `POST /v1/events` holds.
#[derive(Debug)]
pub struct Events {
    /// Those that can be read.
    pub events: Vec<v1::Event>,
    /// Their positions among the elements.
    pub indexes: Vec<u32>,
    /// Positions of the elements that are no events.
    pub unreadable: Vec<u32>,
    /// Names that no event has: how many are listed.
    pub unknown: usize,
}

/// Reads the body of `POST /v1/events`.
pub fn events(body: &[u8]) -> Option<Events> {
    let body = events::read(body).ok()?;
    Some(Events {
        events: body.events,
        indexes: body.indexes,
        unreadable: body.unreadable,
        unknown: body.unknown.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_send_gets_through() {
        let body = question(br#"{"site":"s.de","groupBy":["url"]}"#).unwrap();
        assert_eq!(question_of_parameters("site=s.de&groupBy=url"), Some(body));
        let events = events(br#"[{"site":"s.de","url":"/","x":1},7]"#).unwrap();
        assert_eq!((events.indexes, events.unreadable, events.unknown), (vec![0], vec![1], 1));
    }
}
