//! The gRPC side.
//!
//! Owns: `Analytics`, health and reflection as gRPC services.
//! Does not own: answering (`query`, `subscriptions`, `flow`, `describe`, `sites`), the port (`server`).

use crate::describe::describe;
use crate::fanout::Deadline;
use crate::flow::{FlowError, FlowFeed, Flows};
use crate::peers::Peers;
use crate::query::Queries;
use crate::sites::sites;
use crate::subscriptions::{Feed, Subscriptions, WatchError};
use axum::Router;
use axum::http;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::{Access, Caller};
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_server::{Analytics, AnalyticsServer};
use tidemark_rollup::schema::Schema;
use tidemark_telemetry::{Server, Telemetry};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::server::HealthReporter;
use tonic_web::GrpcWebLayer;
use tower::ServiceBuilder;

/// Kept of a caller's patience for merging and the way back: an answer that comes too late is none.
const RESERVE: Duration = Duration::from_millis(100);

/// What `Analytics` answers from.
pub(crate) struct AnalyticsService {
    pub(crate) queries: Arc<Queries>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) flows: Arc<Flows>,
    pub(crate) schema: Arc<Schema>,
    pub(crate) peers: Arc<Peers>,
}

#[tonic::async_trait]
impl Analytics for AnalyticsService {
    async fn query(&self, request: Request<v1::Query>) -> Result<Response<v1::Answer>, Status> {
        let patience = patience(request.metadata());
        let caller = Caller::of(request.extensions());
        Ok(Response::new(self.queries.ask(request.get_ref(), &caller, patience).await?))
    }

    async fn sites(&self, request: Request<v1::SitesRequest>) -> Result<Response<v1::SitesReply>, Status> {
        let _permit = self.queries.admit()?;
        let deadline: Deadline = self.queries.deadline(patience(request.metadata()));
        Ok(Response::new(sites(&self.peers, &Caller::of(request.extensions()), deadline).await))
    }

    type SubscribeStream = BoxStream<'static, Result<v1::Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = Caller::of(request.extensions());
        let feeds = self.subscriptions.open(request.into_inner().subscriptions, &caller)?;
        let updates = feeds.into_iter().enumerate().map(|(at, feed)| updates(at as u32, feed));
        Ok(Response::new(caller.while_allowed(stream::select_all(updates)).boxed()))
    }

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::Description>, Status> {
        Ok(Response::new(describe(&self.schema)))
    }

    type WatchFlowStream = BoxStream<'static, Result<v1::Flow, Status>>;

    async fn watch_flow(
        &self,
        request: Request<v1::FlowRequest>,
    ) -> Result<Response<Self::WatchFlowStream>, Status> {
        let caller = Caller::of(request.extensions());
        let reports = reports(self.flows.watch(request.get_ref().every_ms)?);
        Ok(Response::new(caller.while_allowed(reports).boxed()))
    }
}

/// What a subscription is sent, to its end.
fn updates(subscription: u32, feed: Feed) -> BoxStream<'static, Result<v1::Update, Status>> {
    let updates = stream::unfold(Some(feed), move |feed| async move {
        let mut feed = feed?;
        Some(match feed.next().await {
            Ok(news) => (Ok(news.to_update(subscription)), Some(feed)),
            Err(error) => (Err(error.into()), None),
        })
    });
    updates.boxed()
}

/// Reports of the flow, to their end.
fn reports(feed: FlowFeed) -> BoxStream<'static, Result<v1::Flow, Status>> {
    let reports = stream::unfold(Some(feed), |feed| async move {
        let mut feed = feed?;
        Some(match feed.next().await {
            Ok(flow) => (Ok(v1::Flow::clone(&flow)), Some(feed)),
            Err(error) => (Err(error.into()), None),
        })
    });
    reports.boxed()
}

impl From<FlowError> for Status {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Every(_) => Self::invalid_argument(error.to_string()),
            FlowError::Full => Self::resource_exhausted(error.to_string()),
            FlowError::Stopping => Self::unavailable(error.to_string()),
        }
    }
}

impl From<WatchError> for Status {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Ended(error) => error.into(),
            WatchError::Count(_) | WatchError::Invalid { .. } => Self::invalid_argument(error.to_string()),
            WatchError::Forbidden(forbidden) => forbidden.into(),
            WatchError::Full { .. } => Self::resource_exhausted(error.to_string()),
            WatchError::Stopping => Self::unavailable(error.to_string()),
        }
    }
}

/// The gRPC services as routes, and the handle that says whether they are healthy.
pub(crate) async fn routes(
    analytics: AnalyticsService,
    telemetry: &Telemetry,
    access: &Access,
) -> Result<(Router, HealthReporter), tonic_reflection::server::Error> {
    let analytics = AnalyticsServer::new(analytics);
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_serving::<AnalyticsServer<AnalyticsService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tidemark_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let routes = Routes::new(analytics).add_service(health_server).add_service(reflection);
    // Browsers' form of it, too. The layer's body is tonic's, the router's is axum's.
    let web = ServiceBuilder::new()
        .layer(GrpcWebLayer::new())
        .map_request(|request: http::Request<tonic::body::Body>| request.map(axum::body::Body::new));
    let counted = telemetry.grpc(Server::coordinator, access.guard(routes.into_axum_router()));
    Ok((counted.layer(web), health))
}

/// Tells whoever balances load to go elsewhere.
pub(crate) async fn set_not_serving(health: &HealthReporter) {
    health.set_not_serving::<AnalyticsServer<AnalyticsService>>().await;
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
}

/// How long the caller waits, less the reserve; `None` where it does not say.
fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let patience = parse_timeout(text)?;
    Some(patience.saturating_sub(RESERVE.min(patience / 4)))
}

/// gRPC's form of a time limit: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let digits_only = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| digits_only)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_time_limit_is_read_as_grpc_writes_it() {
        assert_eq!(parse_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        for text in ["", "S", "2", "+2S", "-2S", "2s", "123456789S", "2é"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }

    #[test]
    fn a_reserve_is_kept_for_the_way_back() {
        let patience = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            patience(&metadata)
        };
        assert_eq!(patience("1S"), Some(Duration::from_millis(900)));
        assert_eq!(patience("100m"), Some(Duration::from_millis(75)));
        assert_eq!(patience("soon"), None);
    }
}
