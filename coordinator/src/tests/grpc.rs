//! gRPC on the same port.

use super::fake_node::{Call, Mood};
use super::world::{World, event};
use serde_json::json;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

fn question() -> v1::Query {
    v1::Query { site: "s.de".into(), group_by: vec!["url".into()], ..v1::Query::default() }
}

#[tokio::test]
async fn grpc_and_json_give_the_same_answer_on_the_same_port() {
    let world = World::of(2).await;
    world.feed((0..50).map(|at| event("s.de", &format!("/{at}"), "v", &[])).collect());
    let answer = world.analytics().await.query(question()).await.unwrap().into_inner();
    assert_eq!(answer.rows.len(), 50);
    let json = world.ask(&json!({"site": "s.de", "groupBy": ["url"]})).await;
    assert_eq!(crate::answer_to_json(&answer), json);
}

#[tokio::test]
async fn a_question_that_cannot_be_is_an_invalid_argument_that_names_the_field() {
    let world = World::of(1).await;
    let bad = v1::Query { limit: 10_001, ..question() };
    let status = world.analytics().await.query(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("limit: "), "{status}");
}

#[tokio::test]
async fn sites_are_those_of_all_nodes() {
    let world = World::of(2).await;
    let sites = ["a.de", "b.de", "c.de"];
    world.feed(
        sites.iter().flat_map(|site| (0..9).map(|at| event(site, &format!("/{at}"), "", &[]))).collect(),
    );
    let mut client = world.analytics().await;
    let reply = client.sites(v1::SitesRequest {}).await.unwrap().into_inner();
    assert_eq!((reply.sites, reply.complete), (sites.map(str::to_owned).to_vec(), true));

    world.nodes[0].set_mood(Mood::HangsOn(Call::Partial));
    assert!(!client.sites(v1::SitesRequest {}).await.unwrap().into_inner().complete);
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let world = World::of(1).await;
    let mut health = HealthClient::new(world.channel().await);
    for service in ["", "tidemark.v1.Analytics"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let reply = health.check(request).await.unwrap().into_inner();
        assert_eq!(reply.status(), ServingStatus::Serving);
    }

    let mut reflection = ServerReflectionClient::new(world.channel().await);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut replies =
        reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = reply else { panic!("{reply:?}") };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"tidemark.v1.Analytics"), "{names:?}");
}

#[tokio::test]
async fn a_service_that_is_not_here_is_unimplemented() {
    let world = World::of(1).await;
    let status =
        AdminClient::new(world.channel().await).members(v1::MembersRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}

#[tokio::test]
async fn a_stream_that_stays_open_does_not_keep_it_from_stopping() {
    let mut world = World::of(1).await;
    let mut health = HealthClient::new(world.channel().await);
    let mut watching = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    world.stop.cancel();
    let start = Instant::now();
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let running = world.running.take().unwrap();
    timeout(Duration::from_secs(8), running.stopped()).await.expect("stops");
    assert!(start.elapsed() > Duration::from_secs(4), "requests get their grace");
}
