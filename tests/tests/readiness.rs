//! `/readyz` tells the truth, whatever a node or a coordinator is about to do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::PATIENCE;
use tidemark_tests::http::Http;
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::processes::{Process, start_all};
use tokio::time::Instant;

const NODE: &str = "the node serves";
const COORDINATOR: &str = "coordinator is listening";

/// Asks until `is_it`, and returns the different things that were said until then, in their order.
async fn said_until(address: &str, is_it: impl Fn(u16, &str) -> bool) -> Vec<(u16, String)> {
    let http = Http::new(address);
    let deadline = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    loop {
        let (status, body) = http.try_get("/readyz").await.unwrap_or((0, String::new()));
        if said.last() != Some(&(status, body.clone())) {
            said.push((status, body.clone()));
        }
        if is_it(status, &body) {
            return said;
        }
        assert!(Instant::now() < deadline, "{address} said {said:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn batch(events: u32, seq: u64, time_ms: i64) -> v1::EventBatch {
    let event = |n: u32| v1::Event {
        site: "ready.example".into(),
        url: format!("/{}", n % 5_000).into(),
        time_ms,
        visitor_hash: u64::from(n) + 1,
        ..v1::Event::default()
    };
    let events = (0..events).map(event).collect();
    v1::EventBatch { producer: vec![7; 16].into(), seq, sealed_at_ms: time_ms, events }
}

async fn send(url: &str, batches: Vec<v1::EventBatch>) {
    let mut client = IngestClient::connect(url.to_owned()).await.unwrap();
    let mut acks = client.send_rows(futures::stream::iter(batches)).await.unwrap().into_inner();
    while let Some(ack) = acks.message().await.unwrap() {
        assert_eq!(ack.refused, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_says_that_it_counts_its_journal_until_it_answers_for_all_of_it() {
    let clock = TestClock::at(EventTime::from_unix_ms(1_700_000_200_000));
    let mut cluster = Cluster::start(1, 4, clock.clone(), |_, _| {}).await;
    let now_ms = clock.now().as_unix_ms();
    let batches = (1..=60).map(|seq| batch(10_000, seq, now_ms)).collect();
    send(&cluster.url(0), batches).await;
    cluster.lose_node(0).await;
    let address = cluster.url(0).replace("http://", "");
    assert_eq!(Http::new(&address).try_get("/readyz").await, None);

    cluster.begin_node(0).await;
    let said = said_until(&address, |status, _| status == 200).await;
    let not_yet: Vec<&str> =
        said.iter().filter(|(status, _)| *status == 503).map(|(_, body)| body.as_str()).collect();
    assert_eq!(not_yet.first(), Some(&"counting the blocks of the journal\n"), "{said:?}");
    assert!(
        not_yet.iter().all(|body| ["counting the blocks of the journal\n", "joining\n"].contains(body)),
        "{said:?}"
    );
    // Ready means that the answer is whole.
    cluster.until_active(0, 1).await;
    let question = serde_json::json!({ "site": "ready.example", "measures": ["views"] });
    let deadline = Instant::now() + PATIENCE;
    // The coordinator hears of the node's return in its own time.
    let answer = loop {
        let answer = cluster.http.query(question.clone()).await;
        if answer["facts"]["complete"] == true {
            break answer;
        }
        assert!(Instant::now() < deadline, "{answer}");
    };
    assert_eq!(answer["rows"][0][0], 600_000);
}

#[tokio::test]
async fn a_node_is_not_ready_while_it_joins_and_not_from_the_moment_it_is_told_to_leave() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let node = |me: usize, addresses: &[String]| -> Vec<String> {
        let (id, data, store) = (format!("n{me}"), format!("{folder}/{me}"), format!("{folder}/history"));
        let seeds = addresses[..2].join(",");
        let settings =
            ["node", "--id", &id, "--listen", &addresses[me], "--seeds", &seeds, "--replication", "1"];
        settings.iter().chain(&["--data", &data, "--store", &store]).map(|&text| text.to_owned()).collect()
    };
    let (addresses, mut nodes) =
        start_all(3, &[NODE, NODE], |addresses| vec![node(0, addresses), node(1, addresses)]).await;
    for address in &addresses[..2] {
        said_until(address, |status, _| status == 200).await;
    }
    // It cannot compare with a node that has stopped in the middle of everything.
    nodes[0].signal("STOP").await;
    let arguments = node(2, &addresses);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let third = Process::start(&arguments, NODE).await.unwrap();
    let said = said_until(&addresses[2], |_, body| body == "joining\n").await;
    assert!(said.iter().all(|(status, _)| *status == 503), "{said:?}");
    nodes[0].signal("CONT").await;
    let said = said_until(&addresses[2], |status, _| status == 200).await;
    assert!(said.iter().all(|(status, body)| *status == 200 || body == "joining\n"), "{said:?}");
    said_until(&addresses[0], |status, _| status == 200).await;

    let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    send(&format!("http://{}", addresses[2]), vec![batch(10_000, 1, now_ms)]).await;
    // It cannot hand over to a node that has stopped.
    nodes[0].signal("STOP").await;
    third.signal("TERM").await;
    let said = said_until(&addresses[2], |status, _| status != 200).await;
    assert_eq!(said.last(), Some(&(503, "leaving\n".to_owned())), "{said:?}");
    nodes[0].signal("CONT").await;
    let said = said_until(&addresses[2], |status, _| status == 0).await;
    assert!(said.iter().all(|(status, body)| *status == 0 || body == "leaving\n"), "{said:?}");
    assert_eq!(third.ended(Duration::from_secs(60)).await, Some(0));
    for node in nodes.drain(..) {
        node.kill().await;
    }
}

#[tokio::test]
async fn a_coordinator_is_ready_while_nodes_have_all_shards_and_not_once_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap().to_owned();
    let coordinator = |addresses: &[String]| {
        ["coordinator", "--http", &addresses[0], "--seeds", &addresses[1]].map(str::to_owned).to_vec()
    };
    let (addresses, mut processes) =
        start_all(2, &[COORDINATOR], |addresses| vec![coordinator(addresses)]).await;
    let coordinator = processes.pop().unwrap();
    let said = said_until(&addresses[0], |status, _| status > 0).await;
    assert_eq!(said.last().unwrap().0, 503, "{said:?}");
    assert!(said.last().unwrap().1.contains("no members"), "{said:?}");

    let arguments = ["node", "--listen", &addresses[1], "--data", &data, "--id", "n0"];
    let node = Process::start(&arguments, NODE).await.unwrap();
    said_until(&addresses[0], |status, _| status == 200).await;
    node.kill().await;
    let said = said_until(&addresses[0], |status, _| status == 503).await;
    assert!(said.last().unwrap().1.contains("do not answer"), "{said:?}");
    let node = Process::start(&arguments, NODE).await.unwrap();
    said_until(&addresses[0], |status, _| status == 200).await;

    coordinator.signal("TERM").await;
    said_until(&addresses[0], |status, _| status != 200).await;
    let said = said_until(&addresses[0], |status, _| status == 0).await;
    assert!(said.iter().all(|(status, _)| *status != 200), "ready again while it stops: {said:?}");
    assert_eq!(coordinator.ended(Duration::from_secs(20)).await, Some(0));
    assert_eq!(node.terminate().await, Some(0));
}
