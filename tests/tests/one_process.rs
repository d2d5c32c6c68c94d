//! Whole clusters in one process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_client::{Producer, ProducerConfig};
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::{Clock, EventTime};
use tidemark_tests::http::{Http, rows_of};
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::logs::{ACCEPT_LATE, KnownLog, assert_answers};

/// 2026-03-10T08:01:00Z. Before the day on which tests run: otherwise what is in a store looks old, and a probe like garbage.
const NOW_MS: i64 = 1_773_129_660_000;

fn clock() -> Arc<TestClock> {
    TestClock::at(EventTime::from_unix_ms(NOW_MS))
}

fn event(url: String, visitor: u64) -> v1::Event {
    v1::Event {
        site: Bytes::from_static(b"example.com"),
        url: url.into(),
        visitor_hash: visitor,
        ..Default::default()
    }
}

/// Sends views of `/0`, `/1`, ... as blocks.
async fn send(cluster: &Cluster, node: usize, producer: u128, urls: u64, now: EventTime) {
    let config = ProducerConfig::new(cluster.url(node));
    let mut producer = Producer::connect(config, ProducerId::from_u128(producer)).await.unwrap();
    let events = (0..urls).map(|url| event(format!("/{url}"), 1 + url % 100)).collect();
    producer.send(events, now).await.unwrap();
    assert_eq!(producer.finish().await.unwrap().accepted, urls);
}

async fn replay_and_check(nodes: usize, shards: u32, log: &KnownLog) {
    let clock = clock();
    let cluster =
        Cluster::start(nodes, shards, clock.clone(), |node, _| node.times.accept_late = ACCEPT_LATE).await;
    let report = log.replay("example.com", &cluster.url(0), 1, clock.as_ref()).await;
    assert_eq!(report.totals.accepted, log.number("totals.hits"));
    assert_eq!(report.faults.values().sum::<u64>(), log.number("totals.parse_failures"));
    // The same log from another producer is other events; from the same producer it is the same ones, over any node.
    let again = log.replay("example.com", &cluster.url(nodes - 1), 1, clock.as_ref()).await;
    assert_eq!(again.totals.duplicate, again.totals.accepted);
    let facts = assert_answers(log, "example.com", &format!("http://{}", cluster.http_address)).await;
    assert_eq!((facts.shards_asked, facts.shards_answered), (shards, shards));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_log_gives_its_answers_with_one_node_and_one_shard() {
    replay_and_check(1, 1, &KnownLog::sample()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_log_gives_its_answers_with_three_nodes_and_64_shards() {
    replay_and_check(3, 64, &KnownLog::sample()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_logs_give_their_answers_with_three_nodes() {
    for log in KnownLog::real() {
        replay_and_check(3, 64, &log).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_follows_an_acknowledgement_sees_the_event() {
    let clock = clock();
    let cluster = Cluster::start(3, 64, clock.clone(), |_, _| {}).await;
    for round in 1..=20_u64 {
        let body = json!([{"site": "example.com", "url": "/a"}, {"site": "example.com", "url": format!("/{round}")}]);
        let (status, reply) = cluster.http.post("/v1/events", body.to_string()).await;
        assert_eq!((status, &reply["accepted"]), (200, &json!(2)));
        assert_eq!(cluster.http.rows(json!({"site": "example.com"})).await, [[json!(2 * round)]]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_makes_answers_partial_and_they_say_which_share_is_missing() {
    let clock = clock();
    let mut cluster = Cluster::start(3, 64, clock.clone(), |_, _| {}).await;
    send(&cluster, 0, 7, 1000, clock.now()).await;
    let whole = cluster.http.query(json!({"site": "example.com"})).await;
    assert_eq!((&whole["facts"]["complete"], &whole["rows"][0][0]), (&json!(true), &json!(1000)));

    cluster.lose_node(1).await;
    let started = Instant::now();
    let partial = cluster.http.query(json!({"site": "example.com"})).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let facts = &partial["facts"];
    assert_eq!(facts["complete"], false);
    let (asked, answered) =
        (facts["shardsAsked"].as_u64().unwrap(), facts["shardsAnswered"].as_u64().unwrap());
    assert!(asked == 64 && (20..64).contains(&answered), "{facts}");
    let missing = facts["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 1);
    assert!(missing[0]["node"].as_str().unwrap().starts_with("n1"), "{facts}");
    assert_eq!(missing[0]["shards"], asked - answered);
    let share = (asked - answered) as f64 / asked as f64;
    assert!((missing[0]["share"].as_f64().unwrap() - share).abs() < 1e-9);
    let views = partial["rows"][0][0].as_u64().unwrap();
    assert!((1..1000).contains(&views), "{views}");
    assert_eq!(cluster.http.get("/readyz").await.0, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_brings_its_blocks_to_nodes_that_were_away() {
    let clock = clock();
    let mut cluster = Cluster::start(2, 64, clock.clone(), |_, _| {}).await;
    let mut producer =
        Producer::connect(ProducerConfig::new(cluster.url(0)), ProducerId::from_u128(5)).await.unwrap();
    let events =
        |from: u64| (from..from + 500).map(|url| event(format!("/{url}"), url + 1)).collect::<Vec<_>>();
    // One node leaves, and the other one has all shards. Then that is away, too.
    cluster.stop_node(1).await;
    producer.send(events(0), clock.now()).await.unwrap();
    cluster.stop_node(0).await;
    let finished = tokio::spawn(async move {
        producer
            .send((500..1000).map(|url| event(format!("/{url}"), url + 1)).collect(), clock.now())
            .await?;
        producer.finish().await
    });
    cluster.start_node(0).await;
    cluster.start_node(1).await;
    let totals = finished.await.unwrap().unwrap();
    assert_eq!((totals.events, totals.accepted), (1000, 1000));
    let views = cluster.http.rows(json!({"site": "example.com"})).await[0][0].as_u64().unwrap();
    // What node 0 had acknowledged before it went is in its journal.
    assert_eq!(views, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_sent_over_grpc_to_different_nodes_in_any_order_count_once() {
    let clock = clock();
    let cluster = Cluster::start(3, 64, clock.clone(), |_, _| {}).await;
    let batch = |seq: u64| v1::EventBatch {
        producer: Bytes::from_static(&[9; 16]),
        seq,
        sealed_at_ms: 0,
        events: (0..50).map(|url| event(format!("/{}", url * seq), url + 1)).collect(),
    };
    for (node, order) in [(0, [1, 2, 3]), (1, [3, 1, 2]), (2, [2, 3, 1]), (0, [3, 2, 1])] {
        let mut client = v1::ingest_client::IngestClient::connect(cluster.url(node)).await.unwrap();
        let mut acks = client.send_rows(futures::stream::iter(order.map(batch))).await.unwrap().into_inner();
        let mut accepted = 0;
        while let Some(ack) = acks.message().await.unwrap() {
            assert_eq!(ack.refused, None);
            accepted += ack.accepted;
        }
        assert_eq!(accepted, 150);
        // Time goes on: the events say nothing of theirs, and still the first copy is the one that counts.
        clock.set(clock.now().plus(Duration::from_secs(301)));
    }
    assert_eq!(cluster.http.rows(json!({"site": "example.com", "from": "-3h"})).await, [[json!(150)]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_beyond_the_limit_count_under_other_over_all_nodes() {
    let clock = clock();
    let cluster = Cluster::start(3, 64, clock.clone(), |node, coordinator| {
        node.dimension_values = 100;
        coordinator.dimension_values = 100;
    })
    .await;
    let events: Vec<Value> = (0..500)
        .map(|n| {
            let dimensions = json!({"referrer": format!("r{n}.example"), "device": "mobile"});
            json!({"site": "example.com", "url": format!("/{n}"), "dimensions": dimensions})
        })
        .collect();
    let (status, reply) = cluster.http.post("/v1/events", Value::from(events).to_string()).await;
    assert_eq!((status, &reply["accepted"]), (200, &json!(500)));
    let query = json!({"site": "example.com", "groupBy": ["referrer"], "limit": 1000});
    let answer = cluster.http.query(query).await;
    let rows = rows_of(&answer);
    assert_eq!(rows.len(), 101);
    assert_eq!(rows[0], [json!("(other)"), json!(400)]);
    assert_eq!(answer["facts"]["capped"], json!(["referrer"]));
    let by_device = cluster.http.query(json!({"site": "example.com", "groupBy": ["device"]})).await;
    assert_eq!(rows_of(&by_device), [[json!("mobile"), json!(500)]]);
    assert_eq!(by_device["facts"]["capped"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_and_closed_buckets_are_ordered_together() {
    let clock = clock();
    let cluster = Cluster::start(2, 8, clock.clone(), |_, _| {}).await;
    // /a leads in the closed bucket, /b in the open one, /c in neither and in both together.
    let views = async |url: &str, minutes_ago: i64, count: usize, visitor: usize| {
        let time = NOW_MS - minutes_ago * 60_000;
        let view = |n: usize| json!({"site": "example.com", "url": url, "time": time, "visitor": format!("v{}", n % visitor)});
        let body = Value::from((0..count).map(view).collect::<Vec<_>>());
        assert_eq!(cluster.http.post("/v1/events", body.to_string()).await.0, 200);
    };
    for (url, closed, open) in [("/a", 10, 1), ("/b", 1, 10), ("/c", 8, 8), ("/d", 2, 2)] {
        views(url, 20, closed, 3).await;
        views(url, 0, open, 5).await;
    }
    let query =
        json!({"site": "example.com", "groupBy": ["url"], "measures": ["views", "visitors"], "limit": 1});
    assert_eq!(cluster.http.rows(query).await, [[json!("/c"), json!(16), json!(5)]]);
    let series = json!({"site": "example.com", "groupBy": ["url"], "granularity": "5m", "limit": 1});
    let rows = cluster.http.rows(series).await;
    assert_eq!(rows.iter().map(|row| &row[1]).collect::<Vec<_>>(), ["/a", "/b"]);
    let versus =
        json!({"site": "example.com", "groupBy": ["url"], "from": "-1m", "versus": "20m", "limit": 2});
    let rows = cluster.http.rows(versus).await;
    assert_eq!(rows, [[json!("/b"), json!(10), json!(null)], [json!("/c"), json!(8), json!(null)]]);
    // The bucket has ended, and is open for stragglers still.
    clock.set(EventTime::from_unix_ms((NOW_MS / 300_000 + 1) * 300_000));
    let versus =
        json!({"site": "example.com", "groupBy": ["url"], "from": "-5m", "versus": "20m", "limit": 2});
    let rows = cluster.http.rows(versus).await;
    assert_eq!(rows, [[json!("/b"), json!(10), json!(1)], [json!("/c"), json!(8), json!(8)]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_is_a_counter_in_the_metrics() {
    let clock = clock();
    let cluster = Cluster::start(1, 8, clock.clone(), |_, _| {}).await;
    let events = json!([
        {"url": "/"},
        {"site": "example.com"},
        {"site": "example.com", "url": "http://[::1"},
        {"site": "example.com", "url": "/", "time": NOW_MS + 3_600_000},
        {"site": "example.com", "url": "/", "time": 1},
        {"site": "example.com", "url": "/", "values": {"bytes": -1}},
        {"site": "example.com", "url": "/good"},
    ]);
    let (_, reply) = cluster.http.post("/v1/events", events.to_string()).await;
    assert_eq!(reply["accepted"], 1);
    let reasons: Vec<&str> = reply["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rejected| rejected["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        ["missing_site", "missing_url", "bad_url", "from_future", "too_late", "negative_value"]
    );
    let node = Http::new(cluster.url(0).trim_start_matches("http://"));
    let (_, metrics) = node.get("/metrics").await;
    for reason in reasons {
        let line = format!("tidemark_events_rejected_total{{node=\"n0\",reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let answer = cluster.http.query(json!({"site": "example.com", "from": "-2h", "to": "now"})).await;
    assert!(answer["facts"]["rejected"].as_u64().unwrap() >= 3, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_query_is_400_and_names_the_field_and_what_would_be_valid() {
    let clock = clock();
    let cluster = Cluster::start(1, 8, clock.clone(), |_, _| {}).await;
    for (query, field, hint) in [
        (json!({}), "site", "*"),
        (json!({"site": "example.com", "measures": ["likes"]}), "measures[0]", "views"),
        (json!({"site": "example.com", "granularity": "1m"}), "granularity", "5m"),
        (json!({"site": "example.com", "groupBy": ["planet"]}), "groupBy[0]", "country"),
        (json!({"site": "example.com", "grupBy": ["url"]}), "grupBy", "groupBy"),
        (json!({"site": "example.com", "limit": "many"}), "limit", "u32"),
    ] {
        let (status, error) = cluster.http.post("/v1/query", query.to_string()).await;
        assert_eq!((status, &error["code"]), (400, &json!("invalid_argument")), "{query}: {error}");
        assert_eq!(error["field"], field, "{error}");
        assert!(error["message"].as_str().unwrap().contains(hint), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_urls_on_three_nodes_are_all_there_exactly() {
    let clock = clock();
    let cluster = Cluster::start(3, 64, clock.clone(), |_, _| {}).await;
    send(&cluster, 1, 8, 10_000, clock.now()).await;
    let query = json!({"site": "example.com", "groupBy": ["url"], "limit": 10_000, "measures": ["views", "visitors"]});
    let rows = cluster.http.rows(query).await;
    assert_eq!(rows.len(), 10_000);
    assert!(rows.iter().all(|row| row[1] == 1 && row[2] == 1));
    assert_eq!(
        cluster.http.rows(json!({"site": "*", "groupBy": ["site"]})).await,
        [[json!("example.com"), json!(10_000)]]
    );
}
