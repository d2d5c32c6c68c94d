//! Questions to several nodes.

use super::fake_node::{Call, Mood};
use super::world::{PATIENCE, World, config, dead_member, event};
use crate::CoordinatorConfig;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::member::View;
use tidemark_rollup::partial::TooManyRows;
use tokio::time::Instant;
use tonic::Status;

fn traffic() -> Vec<v1::Event> {
    let devices = ["mobile", "desktop", "tablet"];
    let visit = |at: usize| {
        let (url, visitor) = (format!("/{}", at % 37), format!("v{}", at % 101));
        event("s.de", &url, &visitor, &[("device", devices[at % 3])])
    };
    (0..1000).map(visit).collect()
}

fn by_url() -> Value {
    json!({"site": "s.de", "measures": ["views", "visitors"], "groupBy": ["url"], "limit": 10})
}

#[tokio::test]
async fn several_nodes_answer_as_one_would() {
    let (one, three) = (World::of(1).await, World::of(3).await);
    one.feed(traffic());
    three.feed(traffic());
    for question in [
        by_url(),
        json!({"site": "s.de", "measures": ["views", "visitors"]}),
        json!({"site": "*", "groupBy": ["device", "site"], "measures": ["visitors", "views"], "granularity": "5m"}),
    ] {
        let (one, three) = (one.ask(&question).await, three.ask(&question).await);
        assert_eq!(one["rows"], three["rows"], "{question}");
        assert!(!one["rows"].as_array().unwrap().is_empty());
        let facts = &three["facts"];
        assert_eq!(
            (&facts["complete"], &facts["shardsAsked"], &facts["shardsAnswered"]),
            (&json!(true), &json!(64), &json!(64))
        );
        assert_eq!(facts["freshnessMs"], 300_000);
        assert_eq!(facts["missing"], json!([]));
    }
}

#[tokio::test]
async fn a_dead_node_without_a_replica_makes_the_answer_partial_at_the_deadline() {
    let dead = dead_member("dead");
    let world = World::with(2, vec![dead.clone()], config()).await;
    world.feed(traffic());
    let start = Instant::now();
    let facts = world.ask(&by_url()).await["facts"].take();
    let took = start.elapsed();
    assert!((config().query_timeout..PATIENCE).contains(&took), "{took:?}");

    let lost = world.shards_of(&dead.id);
    assert_eq!((&facts["complete"], &facts["shardsAnswered"]), (&json!(false), &json!(64 - lost)));
    let missing = &facts["missing"][0];
    assert_eq!(missing["node"], format!("dead ({})", dead.address));
    assert_eq!((&missing["shards"], &missing["share"]), (&json!(lost), &json!(lost as f64 / 64.0)));
    assert!(missing["reason"].as_str().unwrap().contains("refused"), "{missing}");
    assert_eq!(facts["missing"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_hanging_node_makes_the_answer_partial_at_the_deadline() {
    let world = World::of(2).await;
    world.feed(traffic());
    world.nodes[1].set_mood(Mood::HangsOn(Call::Partial));
    for question in [by_url(), json!({"site": "s.de", "groupBy": ["device"]})] {
        let start = Instant::now();
        let answer = world.ask(&question).await;
        let took = start.elapsed();
        assert!((Duration::from_millis(600)..PATIENCE).contains(&took), "{took:?}");
        assert!(!answer["rows"].as_array().unwrap().is_empty());
        assert_eq!(answer["facts"]["missing"][0]["reason"], "did not answer within 600ms");
    }
}

#[tokio::test]
async fn a_callers_own_deadline_ends_the_waiting_sooner() {
    let patient = CoordinatorConfig { query_timeout: Duration::from_secs(60), ..config() };
    let world = World::with(2, Vec::new(), patient).await;
    world.nodes[1].set_mood(Mood::HangsOn(Call::Partial));
    let mut client = world.analytics().await;
    // The coordinator keeps a tenth of a second for itself, which a busy machine may take longer over.
    for timeout_ms in [300, 1_000, 3_000, 9_000] {
        let mut request = tonic::Request::new(v1::Query { site: "s.de".into(), ..v1::Query::default() });
        request.set_timeout(Duration::from_millis(timeout_ms));
        if let Ok(answer) = client.query(request).await {
            assert!(!answer.into_inner().facts.unwrap().complete);
            return;
        }
    }
    panic!("no answer came before its caller's deadline");
}

#[tokio::test]
async fn shards_that_a_node_leaves_out_are_missing() {
    let world = World::of(1).await;
    world.nodes[0].set_mood(Mood::Lacks(vec![3, 4]));
    let facts = world.ask(&by_url()).await["facts"].take();
    assert_eq!((&facts["complete"], &facts["shardsAnswered"]), (&json!(false), &json!(62)));
    let missing = &facts["missing"][0];
    assert_eq!((&missing["shards"], &missing["share"]), (&json!(2), &json!(2.0 / 64.0)));
    assert!(missing["reason"].as_str().unwrap().contains("not ready"));
}

#[tokio::test]
async fn a_reply_that_cannot_be_read_is_missing() {
    let world = World::of(2).await;
    world.feed(traffic());
    world.nodes[0].set_mood(Mood::Garbles);
    let facts = world.ask(&by_url()).await["facts"].take();
    assert_eq!(facts["missing"][0]["shards"], world.shards_of(&world.nodes[0].member.id));
    assert!(facts["missing"][0]["reason"].as_str().unwrap().contains("cannot be read"));
}

#[tokio::test]
async fn without_members_every_shard_is_missing() {
    let world = World::of(0).await;
    let answer = world.ask(&json!({"site": "s.de"})).await;
    let facts = &answer["facts"];
    assert_eq!(
        (&facts["complete"], &facts["shardsAsked"], &facts["shardsAnswered"]),
        (&json!(false), &json!(64), &json!(0))
    );
    assert_eq!((&facts["missing"][0]["shards"], &facts["missing"][0]["share"]), (&json!(64), &json!(1.0)));
}

#[tokio::test]
async fn a_new_view_is_asked_from_the_next_question_on() {
    let world = World::of(2).await;
    world.feed(traffic());
    let first = world.nodes[0].member.clone();
    world.view.send(Arc::new(View::new(vec![first]).unwrap())).unwrap();
    let facts = world.ask(&by_url()).await["facts"].take();
    assert_eq!((&facts["complete"], &facts["shardsAnswered"]), (&json!(true), &json!(64)));
    assert_eq!(world.nodes[1].take_calls(), []);
}

#[tokio::test]
async fn one_node_with_too_many_groups_refuses_the_whole_question() {
    let world = World::of(2).await;
    world.nodes[0].set_mood(Mood::Fails(Status::invalid_argument(TooManyRows.to_string())));
    let reply = world.post("/v1/query", by_url().to_string()).await;
    assert_eq!((reply.status, &reply.json()["code"]), (400, &json!("invalid_argument")));
    assert!(reply.text().contains("narrow the range"), "{}", reply.text());
}

#[tokio::test]
async fn what_all_nodes_refuse_is_refused_and_what_one_refuses_is_missing() {
    let world = World::of(2).await;
    world.nodes[0].set_mood(Mood::Fails(Status::failed_precondition("use the same --shards")));
    let facts = world.ask(&by_url()).await["facts"].take();
    assert_eq!(facts["missing"][0]["reason"], "refuses: use the same --shards");

    world.nodes[1].set_mood(Mood::Fails(Status::resource_exhausted("busy")));
    let reply = world.post("/v1/query", by_url().to_string()).await;
    assert_eq!((reply.status, &reply.json()["code"]), (400, &json!("failed_precondition")));

    world.nodes[0].set_mood(Mood::Fails(Status::resource_exhausted("busy")));
    let reply = world.post("/v1/query", by_url().to_string()).await;
    assert_eq!((reply.status, &reply.json()["code"]), (429, &json!("resource_exhausted")));
}

#[tokio::test]
async fn one_question_too_many_is_told_to_come_back() {
    let one_at_a_time = CoordinatorConfig { max_queries: NonZeroUsize::MIN, ..config() };
    let world = World::with(1, Vec::new(), one_at_a_time).await;
    world.nodes[0].set_mood(Mood::HangsOn(Call::Partial));
    let question = by_url();
    let first = world.ask(&question);
    let second = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.post("/v1/query", question.to_string()).await
    };
    let (_, second) = tokio::join!(first, second);
    assert_eq!((second.status, &second.json()["code"]), (429, &json!("resource_exhausted")));
    assert!(second.head.contains("retry-after: 1"), "{}", second.head);
    let metrics = world.get("/metrics").await.text();
    assert!(metrics.contains("tidemark_queries_total{outcome=\"partial\"} 1"), "{metrics}");
    assert!(metrics.contains("tidemark_queries_total{outcome=\"refused\"} 1"), "{metrics}");
}
