//! Verifying in the background: what a node committed is counted anew, and what differs is told.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::time::Clock as _;
use tidemark_tests::PATIENCE;
use tidemark_tests::history_support::{Damaged, Harm, MINUTE, Stream, advance, files, noon, quick};
use tidemark_tests::in_process::{Cluster, TestClock};

const OFTEN: Option<Duration> = Some(Duration::from_millis(50));

/// Nodes that committed 600 events of three buckets.
async fn committed(nodes: usize, verify_every: Option<Duration>) -> (Cluster, Arc<TestClock>) {
    let clock = noon();
    let cluster = Cluster::start(nodes, 4, clock.clone(), |node, coordinator| {
        quick(node, coordinator);
        node.verify_every = verify_every;
    })
    .await;
    let mut stream = Stream::connect(&cluster.url(0), 1, &clock).await;
    stream.send(600, &[20 * MINUTE, 30 * MINUTE, 40 * MINUTE]).await;
    stream.acknowledged().await;
    cluster
        .until("all is committed", |cluster| {
            cluster.metric("tidemark_commits_total") > 0 && cluster.metric("tidemark_unflushed_buckets") == 0
        })
        .await;
    (cluster, clock)
}

async fn stage(cluster: &Cluster, name: &str) -> Value {
    let (status, body) = cluster.http.get("/v1/flow").await;
    assert_eq!(status, 200, "{body}");
    let flow: Value = serde_json::from_str(&body).unwrap();
    flow["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn each_commit_is_verified_once_by_the_node_that_made_it() {
    let (cluster, clock) = committed(2, OFTEN).await;
    let commits = cluster.metric("tidemark_commits_total");
    assert!(commits >= 3, "{commits}");
    // They are left alone while others are being made.
    assert_eq!(cluster.metric("tidemark_verified_buckets_total"), 0);
    advance(&clock, MINUTE);
    cluster
        .until("all are verified", |cluster| cluster.metric("tidemark_verified_buckets_total") == commits)
        .await;
    assert_eq!(cluster.metric("tidemark_verify_differing_buckets_total"), 0);
    assert_eq!(cluster.metric("tidemark_unverified_since_timestamp_seconds"), 0);
    let verified = stage(&cluster, "verified").await;
    assert_eq!((&verified["count"], &verified["condition"]), (&Value::from(commits), &Value::from("fine")));
    // Many pauses later there are no more of them.
    let looked = tokio::time::Instant::now();
    cluster.until("many looks", |_| looked.elapsed() > Duration::from_millis(500)).await;
    assert_eq!(cluster.metric("tidemark_verified_buckets_total"), commits);
}

#[tokio::test]
async fn a_commit_whose_raw_events_are_damaged_is_on_fire_and_the_others_are_verified() {
    let (mut cluster, clock) = committed(1, None).await;
    assert!(stage(&cluster, "verified").await["explanation"].as_str().unwrap().contains("switched off"));
    cluster.stop_node(0).await;
    let history = cluster.folder.path().join("history");
    let raw = files(&history).into_iter().find(|path| path.starts_with("raw/")).expect("a raw segment");
    let _damaged = Damaged::new(history.join(raw), Harm::Flip);
    cluster.start_node_with(0, |node| node.verify_every = OFTEN).await;
    advance(&clock, MINUTE);
    let commits = cluster.metric("tidemark_commits_total");
    cluster
        .until("all are verified", |cluster| cluster.metric("tidemark_verified_buckets_total") == commits)
        .await;
    assert_eq!(cluster.metric("tidemark_verify_differing_buckets_total"), 1);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let verified = loop {
        let verified = stage(&cluster, "verified").await;
        // The coordinator may still be about to reach the node that is back.
        if verified["parts"].as_array().is_some_and(|parts| !parts.is_empty()) {
            break verified;
        }
        assert!(tokio::time::Instant::now() < deadline, "{verified}");
    };
    assert_eq!(verified["condition"], "on_fire", "{verified}");
    assert!(
        verified["explanation"].as_str().unwrap().starts_with("1 committed buckets differ"),
        "{verified}"
    );
}

#[tokio::test]
async fn what_a_producer_sends_is_told_once_however_many_owners_count_it() {
    let clock = noon();
    let cluster = Cluster::start(2, 4, clock.clone(), |node, coordinator| {
        quick(node, coordinator);
        node.replication = tidemark_rollup::placement::Replication::DEFAULT;
        node.verify_every = None;
    })
    .await;
    let mut stream = Stream::connect(&cluster.url(0), 1, &clock).await;
    stream.send(500, &[MINUTE]).await;
    stream.acknowledged().await;
    assert_eq!(stream.send_again(&cluster.url(1)).await.duplicate, 500);
    let count = async |name| stage(&cluster, name).await["count"].as_u64().unwrap();
    assert_eq!((count("received").await, count("counted").await, count("duplicate").await), (1000, 500, 500));
    // Every owner has it in its journal.
    assert!(count("journaled").await >= 2, "{}", count("journaled").await);
    assert_eq!(cluster.metric("tidemark_events_counted_total"), 1000);
    assert_eq!(cluster.metric("tidemark_ingest_events_received_total"), 1000);
    let now_s = clock.now().as_unix_ms() / 1000;
    assert!(cluster.metric("tidemark_flush_due_since_timestamp_seconds") < now_s as u64);
}
