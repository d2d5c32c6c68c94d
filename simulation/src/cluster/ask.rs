//! Questions to members.
//!
//! Owns: asking for views, and what answers say.
//! Does not own: what they should say (`ledger`).

use super::ledger::{Counts, SITE};
use super::members::COORDINATOR_PORT;
use crate::context::HostContext;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_proto::v1::value::Kind;
use tidemark_rollup::time::{BucketStart, EventTime};
use tidemark_shell::link::Link;
use tonic::{Request, Status};

/// How long an answer may take, beyond what coordinators give themselves.
const WITHIN: Duration = Duration::from_secs(6);

/// An answer: views and visitors by cell.
#[derive(Clone, Debug)]
pub(crate) struct Views {
    pub(crate) views: Counts,
    pub(crate) visitors: Counts,
    pub(crate) facts: v1::Facts,
}

/// A connection to a host's port.
pub(crate) fn link(context: &HostContext, host: &str, port: u16) -> Link {
    context.connect().connect(&format!("{host}:{port}")).unwrap()
}

/// A node's operator interface.
pub(crate) fn admin(context: &HostContext, host: &str, port: u16) -> AdminClient<Link> {
    AdminClient::new(link(context, host, port))
}

/// Asks a coordinator for everything.
pub(crate) async fn views(
    context: &HostContext,
    coordinator: &str,
    from: EventTime,
    to: EventTime,
) -> Result<Views, Status> {
    let query = v1::Query {
        site: SITE.to_owned(),
        from: from.to_string(),
        to: to.to_string(),
        granularity: "5m".to_owned(),
        measures: vec!["views".to_owned(), "visitors".to_owned()],
        group_by: vec!["url".to_owned()],
        limit: 10_000,
        ..v1::Query::default()
    };
    let mut client = AnalyticsClient::new(link(context, coordinator, COORDINATOR_PORT));
    let mut request = Request::new(query);
    request.set_timeout(WITHIN);
    read(client.query(request).await?.into_inner())
}

fn read(answer: v1::Answer) -> Result<Views, Status> {
    let mut read = Views {
        views: Counts::new(),
        visitors: Counts::new(),
        facts: answer.facts.ok_or_else(|| Status::internal("no facts"))?,
    };
    for row in answer.rows {
        let mut kinds = row.values.into_iter().map(|value| value.kind);
        let (Some(Some(Kind::Text(time))), Some(Some(Kind::Text(url)))) = (kinds.next(), kinds.next()) else {
            return Err(Status::internal("a row without time and URL"));
        };
        let time = EventTime::parse_rfc3339(&time).map_err(|error| Status::internal(error.to_string()))?;
        let url = url.trim_start_matches('/').parse().map_err(|_| Status::internal(url.clone()))?;
        let cell = (BucketStart::containing(time).as_unix_seconds(), url);
        read.views.insert(cell, whole(kinds.next()));
        read.visitors.insert(cell, whole(kinds.next()));
    }
    Ok(read)
}

fn whole(value: Option<Option<Kind>>) -> u64 {
    match value.flatten() {
        Some(Kind::Integer(integer)) => integer,
        Some(Kind::Number(number)) => number.round() as u64,
        Some(Kind::Text(_)) | None => 0,
    }
}
