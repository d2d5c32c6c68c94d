//! Posts of events.

use super::fake_node::{Call, Mood};
use super::world::{World, config, dead_member, now};
use serde_json::json;
use tidemark_proto::MAX_BATCH_BYTES;
use tidemark_proto::v1::RefusalReason;
use tokio::time::Instant;

const GOOD: &str = r#"{"site":"s.de","url":"/","visitor":"v"}"#;
const PRODUCER: &str = "000102030405060708090a0b0c0d0e0f";

async fn views(world: &World) -> serde_json::Value {
    // Posts all go to one node here, which counts them, whoever owns their shards.
    let answer = world.ask(&json!({"site": "s.de"})).await;
    answer["rows"][0][0].clone()
}

#[tokio::test]
async fn good_events_count_and_bad_ones_are_named_by_index_and_reason() {
    let world = World::of(1).await;
    let body = format!(
        "[{GOOD}, 7, {{\"site\":\"s.de\"}}, {GOOD}, {{\"site\":\"s.de\",\"url\":\"/\",\"time\":\"2020-01-01T00:00:00Z\"}},\
         {{\"site\":\"s.de\",\"url\":\"/\",\"values\":{{\"bytes\":1.5}}}},\
         {{\"site\":\"s.de\",\"url\":\"/\",\"dimensions\":{{\"colour\":\"red\"}},\"URL\":1}}]"
    );
    let reply = world.post("/v1/events", body).await;
    assert_eq!(reply.status, 200);
    let expected = json!({
        "accepted": 3, "duplicate": 0,
        "rejected": [
            {"index": 1, "reason": "unreadable"}, {"index": 2, "reason": "missing_url"},
            {"index": 4, "reason": "too_late"}, {"index": 5, "reason": "unreadable"},
        ],
        "ignored": [
            {"name": "colour", "why": "unknown_dimension", "events": 1}, {"name": "URL", "why": "unknown_field", "events": 1},
        ],
    });
    assert_eq!(reply.json(), expected);
    assert_eq!(views(&world).await, 3);

    let metrics = world.get("/metrics").await.text();
    for line in [
        "tidemark_http_events_accepted_total 3",
        "tidemark_http_events_rejected_total{reason=\"unreadable\"} 2",
        "tidemark_http_events_rejected_total{reason=\"bad_url\"} 0",
        "tidemark_http_posts_total{outcome=\"taken\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn lines_and_one_object_count_like_an_array() {
    let world = World::of(1).await;
    let lines = world.post("/v1/events", format!("{GOOD}\nnonsense\n{GOOD}\n")).await.json();
    assert_eq!((&lines["accepted"], &lines["rejected"][0]["index"]), (&json!(2), &json!(1)));
    let one = world.post("/v1/events", GOOD).await.json();
    assert_eq!(one["accepted"], 1);
    let none = world.post("/v1/events", "nonsense").await;
    assert_eq!((none.status, &none.json()["accepted"]), (200, &json!(0)));
    assert_eq!(views(&world).await, 3);
}

#[tokio::test]
async fn a_post_under_the_same_identity_counts_once() {
    let world = World::of(1).await;
    let path = format!("/v1/events?producer={PRODUCER}&seq=9&sealedAt={}", now().as_unix_ms() - 1000);
    let first = world.post(&path, GOOD).await.json();
    assert_eq!((&first["accepted"], &first["duplicate"]), (&json!(1), &json!(0)));
    let again = world.post(&path, GOOD).await.json();
    assert_eq!((&again["accepted"], &again["duplicate"]), (&json!(1), &json!(1)));
    assert_eq!(views(&world).await, 1);

    let other = world.post(&path.replace("seq=9", "seq=10"), GOOD).await.json();
    assert_eq!(other["duplicate"], 0);
    for _ in 0..2 {
        world.post("/v1/events", GOOD).await;
    }
    assert_eq!(views(&world).await, 4);
}

#[tokio::test]
async fn what_cannot_be_taken_says_what_to_do() {
    let world = World::of(1).await;
    for (path, body, status, code, hint) in [
        ("/v1/events", String::new(), 400, "empty", "JSON array"),
        ("/v1/events", "[]".to_owned(), 400, "empty", "JSON array"),
        ("/v1/events", format!("[{GOOD}"), 400, "invalid_argument", "line 1 column"),
        ("/v1/events?seq=1", GOOD.to_owned(), 400, "invalid_argument", "32 hexadecimal"),
        ("/v1/events", " ".repeat(MAX_BATCH_BYTES + 1), 413, "too_large", "smaller"),
        ("/v1/events", format!("[{}0]", "0,".repeat(65_536)), 413, "too_large", "at most 65536"),
    ] {
        let reply = world.post(path, body).await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (status, Some(code)));
        assert!(reply.text().contains(hint), "{}", reply.text());
    }
    assert_eq!(world.nodes[0].take_calls(), []);
}

#[tokio::test]
async fn a_body_of_four_mebibytes_is_taken() {
    let world = World::of(1).await;
    let body = format!("{GOOD}{}", " ".repeat(MAX_BATCH_BYTES - GOOD.len()));
    assert_eq!(world.post("/v1/events", body).await.json()["accepted"], 1);
}

#[tokio::test]
async fn a_refusal_says_when_to_come_back() {
    let world = World::of(1).await;
    world.nodes[0].set_mood(Mood::RefusesRows(RefusalReason::Overloaded));
    let reply = world.post("/v1/events", GOOD).await;
    assert_eq!((reply.status, &reply.json()["code"]), (429, &json!("overloaded")));
    assert!(reply.head.contains("retry-after: 3"), "{}", reply.head);

    world.nodes[0].set_mood(Mood::RefusesRows(RefusalReason::OwnerUnavailable));
    let reply = world.post("/v1/events", GOOD).await;
    assert_eq!((reply.status, &reply.json()["code"]), (503, &json!("owner_unavailable")));
    assert!(reply.head.contains("retry-after: 1"), "{}", reply.head);
}

#[tokio::test]
async fn a_post_goes_to_the_next_node_where_one_is_dead_or_hangs() {
    let world = World::with(2, vec![dead_member("dead")], config()).await;
    world.nodes[0].set_mood(Mood::HangsOn(Call::Rows));
    let start = Instant::now();
    for _ in 0..3 {
        let reply = world.post("/v1/events", GOOD).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert!(start.elapsed() < 3 * config().ingest_timeout);
    assert_eq!(world.nodes[1].take_calls().len(), 3);
}

#[tokio::test]
async fn a_post_that_nobody_acknowledged_can_be_repeated_under_its_identity() {
    let world = World::of(1).await;
    world.nodes[0].set_mood(Mood::HangsOn(Call::Rows));
    let reply = world.post("/v1/events", GOOD).await;
    assert_eq!((reply.status, &reply.json()["code"]), (503, &json!("unavailable")));
    assert!(reply.head.contains("retry-after: 1"));
    let message = reply.json()["message"].as_str().unwrap().to_owned();
    let path =
        message.split_whitespace().find(|word| word.starts_with("/v1/events?")).expect("where to repeat it");

    world.nodes[0].set_mood(Mood::Well);
    for duplicate in [0, 1] {
        assert_eq!(world.post(path, GOOD).await.json()["duplicate"], duplicate, "{message}");
    }
}

#[tokio::test]
async fn posts_take_turns_over_the_nodes() {
    let world = World::of(2).await;
    for _ in 0..4 {
        world.post("/v1/events", GOOD).await;
    }
    assert_eq!((world.nodes[0].take_calls().len(), world.nodes[1].take_calls().len()), (2, 2));
}

#[tokio::test]
async fn without_members_nothing_is_taken() {
    let world = World::of(0).await;
    let reply = world.post("/v1/events", GOOD).await;
    assert_eq!((reply.status, &reply.json()["code"]), (503, &json!("unavailable")));
    assert!(reply.text().contains("start a node"));
}
