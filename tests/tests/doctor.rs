//! `tidemark doctor`, before clusters that are well and clusters that are not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use object_store::memory::InMemory;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::faults::{Faults, FaultyStore};
use tidemark_history::store::Store;
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::PATIENCE;
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::processes::{Process, free_port, run, start_all, until_ready};
use tidemark_tests::secured::Secured;

/// Exit code and report.
async fn examine(to: &str, at: &str, watch_for: &str) -> (i32, Value) {
    let output = run(&["doctor", "--to", to, "--at", at, "--for", watch_for, "--json"]).await;
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&output.stderr).into_owned()));
    (output.status.code().unwrap(), report)
}

/// The checks that found something, each with its subject.
fn found(report: &Value) -> BTreeSet<(String, String)> {
    let text = |of: &Value| of.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{report}"));
    findings.iter().map(|of| (text(&of["check"]), text(&of["subject"]))).collect()
}

/// Looks until a check has found something about this subject; all that was found then.
async fn until_found(to: &str, at: &str, check: &str, subject: &str) -> BTreeSet<(String, String)> {
    until_one_found(to, at, &[check], subject).await
}

/// The same for the first of several checks.
async fn until_one_found(to: &str, at: &str, checks: &[&str], subject: &str) -> BTreeSet<(String, String)> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (code, report) = examine(to, at, "100ms").await;
        let found = found(&report);
        assert_eq!(code, i32::from(!found.is_empty()), "{report}");
        if checks.iter().any(|&check| found.contains(&(check.to_owned(), subject.to_owned()))) {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "none of {checks:?} of {subject}: {report}");
    }
}

fn at_of(cluster: &Cluster) -> String {
    format!("http://{}", cluster.http_address)
}

/// Sends so many events of a moment; whether they were taken in.
async fn send(url: &str, producer: u8, events: u32, time_ms: i64, sealed_at_ms: i64) -> bool {
    let event = |n: u32| v1::Event {
        site: "doctor.example".into(),
        url: format!("/{n}").into(),
        time_ms,
        visitor_hash: u64::from(n) + 1,
        ..v1::Event::default()
    };
    send_batch(url, producer, (0..events).map(event).collect(), sealed_at_ms).await
}

async fn send_batch(url: &str, producer: u8, events: Vec<v1::Event>, sealed_at_ms: i64) -> bool {
    let batch = v1::EventBatch { producer: vec![producer; 16].into(), seq: 1, sealed_at_ms, events };
    let mut client = IngestClient::connect(url.to_owned()).await.unwrap();
    let mut acks = client.send_rows(futures::stream::iter([batch])).await.unwrap().into_inner();
    acks.message().await.unwrap().unwrap().refused.is_none()
}

async fn taken(url: &str, producer: u8, events: u32, time_ms: i64, sealed_at_ms: i64) {
    assert!(send(url, producer, events, time_ms, sealed_at_ms).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_cluster_is_found_healthy_and_one_where_nobody_answers_ends_with_2() {
    let cluster = Cluster::start(3, 4, Arc::new(SystemClock), |_, _| {}).await;
    let now_ms = SystemClock.now().as_unix_ms();
    taken(&cluster.url(0), 1, 100, now_ms, now_ms).await;
    cluster.until_history_is_read().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let report = loop {
        let (code, report) = examine(&cluster.url(1), &at_of(&cluster), "1s").await;
        if code == 0 {
            break report;
        }
        assert!(tokio::time::Instant::now() < deadline, "{report}");
    };
    assert_eq!((&report["healthy"], report["members"].as_array().unwrap().len()), (&Value::Bool(true), 4));
    let text = run(&["doctor", "--to", &cluster.url(0), "--at", &at_of(&cluster), "--for", "1s"]).await;
    assert!(String::from_utf8_lossy(&text.stdout).contains("Healthy: nothing was found."), "{text:?}");

    let (code, message) = examine("http://127.0.0.1:0", "http://127.0.0.1:0", "1s").await;
    assert_eq!(code, 2, "{message}");
    assert!(message.as_str().unwrap().contains("--to and --at"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_or_a_node_that_does_not_answer_is_a_finding() {
    let cluster = Cluster::start(1, 4, Arc::new(SystemClock), |_, _| {}).await;
    let nobody = "http://127.0.0.1:0";
    until_found(&cluster.url(0), nobody, "coordinator-unreachable", nobody).await;
    until_found(nobody, &at_of(&cluster), "node-unreachable", nobody).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_apart_late_and_rejected_events_and_a_journal_that_is_not_trimmed_are_found() {
    let hour = Duration::from_secs(3600);
    let now = SystemClock.now();
    let clock = TestClock::at(EventTime::from_unix_ms(now.as_unix_ms()).minus(hour));
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), 7);
    let store = Store::of(Arc::new(faulty.clone()));
    let cluster = Cluster::start_on(Some(store), 2, 4, clock.clone(), |_, _| {}).await;
    let (to, at) = (cluster.url(0), at_of(&cluster));
    until_found(&to, &at, "clocks-apart", "n1").await;

    let now_ms = clock.now().as_unix_ms();
    taken(&to, 1, 50, now_ms, now_ms).await;
    let without_url = v1::Event { site: "doctor.example".into(), time_ms: now_ms, ..v1::Event::default() };
    assert!(send_batch(&to, 2, vec![without_url; 10], now_ms).await);
    until_found(&to, &at, "events-rejected", "cluster").await;
    taken(&to, 3, 50, now_ms - 900_000, now_ms).await;
    until_found(&to, &at, "events-late", "cluster").await;

    faulty.set(Faults { away: true, ..Faults::default() });
    // Some seconds have gone by; a clock that stands is apart again after a few more.
    clock.set(SystemClock.now());
    let found = until_found(&to, &at, "store-away", "n0").await;
    assert!(!found.iter().any(|(check, _)| check == "clocks-apart"), "{found:?}");
    until_found(&to, &at, "journal-not-trimmed", "n0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_near_its_limit_is_found() {
    let cluster =
        Cluster::start(1, 4, Arc::new(SystemClock), |node, _| node.journal_limit_bytes = Some(200_000)).await;
    let now_ms = SystemClock.now().as_unix_ms();
    let mut producer = 0;
    while send(&cluster.url(0), producer, 200, now_ms, now_ms).await {
        producer += 1;
    }
    until_found(&cluster.url(0), &at_of(&cluster), "journal-near-limit", "n0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_near_its_budget_is_found() {
    let cluster =
        Cluster::start(1, 4, Arc::new(SystemClock), |node, _| node.memory_budget_bytes = 1 << 16).await;
    let now_ms = SystemClock.now().as_unix_ms();
    taken(&cluster.url(0), 1, 5_000, now_ms, now_ms).await;
    until_found(&cluster.url(0), &at_of(&cluster), "memory-near-limit", "n0").await;
}

#[tokio::test]
async fn a_silent_node_few_owners_partial_answers_and_strangers_are_found_among_real_processes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let ready = ["the node serves", "the node serves", "coordinator is listening"];
    let (addresses, processes) = start_all(4, &ready, |addresses| {
        let seeds = addresses[..2].join(",");
        let node = |me: usize| {
            let (id, data, store) = (format!("n{me}"), format!("{folder}/{me}"), format!("{folder}/history"));
            let settings = ["node", "--id", &id, "--listen", &addresses[me], "--seeds", &seeds];
            settings
                .iter()
                .chain(&["--data", &data, "--store", &store])
                .map(|&text| text.to_owned())
                .collect()
        };
        let coordinator = ["coordinator", "--http", &addresses[2], "--seeds", &seeds, "--id", "front"];
        vec![node(0), node(1), coordinator.map(str::to_owned).to_vec()]
    })
    .await;
    until_ready(&addresses[..3]).await;
    let (to, at) = (format!("http://{}", addresses[0]), format!("http://{}", addresses[2]));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (code, report) = examine(&to, &at, "1s").await;
        if code == 0 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{report}");
    }
    // Somebody with another key knocks.
    let arguments = [
        "coordinator",
        "--http",
        &addresses[3],
        "--seeds",
        &addresses[0],
        "--cluster-key",
        "another key, quite long",
    ];
    let stranger = tidemark_tests::processes::Process::start(&arguments, ready[2]).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (_, report) = examine(&to, &at, "6s").await;
        if found(&report).contains(&("strangers".to_owned(), "n0".to_owned())) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{report}");
    }
    // And it sees nobody.
    until_found(
        &to,
        &format!("http://{}", addresses[3]),
        "coordinator-sees-others",
        &format!("http://{}", addresses[3]),
    )
    .await;
    stranger.kill().await;

    processes[1].signal("STOP").await;
    // It is in doubt for a second, which no examination may fall into, and missing from then on.
    let found = until_one_found(&to, &at, &["member-silent", "node-missing"], "n1").await;
    assert!(found.iter().any(|(check, _)| check == "owners-too-few"), "{found:?}");
    processes[1].signal("CONT").await;
    for process in processes {
        process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_soon_is_found_and_one_that_does_not_is_none() {
    let secured = Secured::with_certificates(&["127.0.0.1"]);
    secured.renew(&["--name", "127.0.0.1", "--days", "5"]);
    let token = secured.make_token(&["--site", "*", "--scope", "query,admin"]);
    let token_file = secured.folder().join("token");
    std::fs::write(&token_file, token).unwrap();
    let (listen, http) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let data = secured.folder().join("data").to_str().unwrap().to_owned();
    let serves = ["node", "--single", "--id", "n1", "--listen", &listen, "--http", &http, "--data", &data];
    let flags = secured.flags();
    let arguments: Vec<&str> = serves.into_iter().chain(flags.iter().map(String::as_str)).collect();
    let _node = Process::start(&arguments, "coordinator is listening").await.unwrap();
    let (to, at) = (format!("https://{listen}"), format!("https://{http}"));
    let (ca, token_file) = (secured.ca(), token_file.to_str().unwrap().to_owned());
    let found = async || {
        let shown = ["--ca", ca.to_str().unwrap(), "--token-file", &token_file];
        let asks = ["doctor", "--to", &to, "--at", &at, "--for", "100ms", "--json"];
        let output = run(&[&asks[..], &shown].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        found(&serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}")))
    };
    let ends = ("certificate-ends".to_owned(), "n1".to_owned());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !found().await.contains(&ends) {
        assert!(tokio::time::Instant::now() < deadline, "the end is not found");
    }
    secured.renew(&["--name", "127.0.0.1"]);
    while found().await.contains(&ends) {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not seen");
    }
}
