//! The program as real processes with real signals.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::Value;
use tidemark_tests::http::Http;
use tidemark_tests::logs::{KnownLog, assert_answers};
use tidemark_tests::processes::{Process, run, start_all, until_ready};

const READY_NODE: &str = "the node serves";
const READY_COORDINATOR: &str = "coordinator is listening";
/// The logs are of years ago.
const KEEP_ALL: [&str; 8] = [
    "--accept-late",
    "50years",
    "--keep-five-minutes",
    "50years",
    "--keep-raw",
    "50years",
    "--keep-days",
    "50years",
];

fn json_of(output: &std::process::Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_log_replayed_into_a_single_node_gives_its_answers_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut arguments = vec!["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    arguments.extend(["--data", data]);
    arguments.extend(KEEP_ALL);
    let node = Process::start(&arguments, READY_COORDINATOR).await.unwrap();
    let to = format!("http://{}", node.address(READY_NODE));
    let at = format!("http://{}", node.address(READY_COORDINATOR));
    let mut logs = vec![("sample.example".to_owned(), KnownLog::sample())];
    logs.extend(KnownLog::real().into_iter().map(|log| (format!("{}.example", log.format), log)));
    for (site, log) in logs {
        let path = log.path.to_str().unwrap();
        let mut arguments = vec!["replay", path, "--site", &site, "--to", &to, "--keep-time", "--json"];
        let format = log.format.to_string();
        if format == "bitly" {
            arguments.extend(["--format", "bitly", "--keep-query"]);
        }
        json_of(&run(&arguments).await);
        assert_answers(&log, &site, &at).await;

        let query = log.query(&site, &["views"]);
        let total = run(&[
            "query",
            "--site",
            &site,
            "--at",
            &at,
            "--from",
            &query.from,
            "--to-time",
            &query.to,
            "--json",
        ])
        .await;
        assert_eq!(json_of(&total)["rows"][0][0], log.number("totals.hits"));
    }
    let table = run(&["query", "--site", "sample.example", "--at", &at, "--since", "200000d"]).await;
    assert_eq!(table.status.code(), Some(2), "a time before 1970 is the user's mistake");
    assert_eq!(node.terminate().await, Some(0));
}

#[tokio::test]
async fn three_nodes_with_one_owner_per_shard_pass_blocks_on_and_say_when_one_is_killed() {
    let ready = [READY_NODE, READY_NODE, READY_NODE, READY_COORDINATOR];
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let (addresses, mut processes) = start_all(4, &ready, |addresses| {
        let seeds = addresses[..3].join(",");
        let node = |me: usize| {
            let id = format!("n{me}");
            let (data, store) = (format!("{folder}/{me}"), format!("{folder}/history"));
            let settings = ["node", "--id", &id, "--listen", &addresses[me], "--seeds", &seeds];
            let kept = ["--data", &data, "--store", &store, "--replication", "1"];
            settings.iter().chain(&kept).chain(&KEEP_ALL).map(|&text| text.to_owned()).collect()
        };
        let coordinator = ["coordinator", "--http", &addresses[3], "--seeds", &seeds, "--replication", "1"];
        let coordinator = coordinator.map(str::to_owned).to_vec();
        (0..3).map(node).chain([coordinator]).collect()
    })
    .await;
    let coordinator = processes.pop().unwrap();
    let mut nodes = processes;
    until_ready(&addresses).await;

    let log = KnownLog::sample();
    let (to, at) = (format!("http://{}", addresses[1]), format!("http://{}", addresses[3]));
    let path = log.path.to_str().unwrap();
    json_of(&run(&["replay", path, "--site", "example.com", "--to", &to, "--keep-time", "--json"]).await);
    assert_answers(&log, "example.com", &at).await;

    nodes.remove(2).kill().await;
    let query = log.query("example.com", &["views"]);
    let body = serde_json::to_string(&query).unwrap();
    let (status, answer) = Http::new(&addresses[3]).post("/v1/query", body).await;
    assert_eq!((status, &answer["facts"]["complete"]), (200, &Value::Bool(false)));
    assert!(answer["facts"]["missing"][0]["node"].as_str().unwrap().starts_with("n2"), "{answer}");
    let table = run(&["query", "--site", "example.com", "--since", "20000d", "--at", &at]).await;
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("PARTIAL ANSWER") && text.contains("n2"), "{text}");
    for node in nodes {
        assert_eq!(node.terminate().await, Some(0));
    }
    assert_eq!(coordinator.terminate().await, Some(0));
}

#[tokio::test]
async fn mistakes_on_the_command_line_are_told_in_one_line() {
    // Nobody can listen on port 0.
    let nobody = "http://127.0.0.1:0".to_owned();
    let output = run(&["query", "--site", "example.com", "--at", &nobody]).await;
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains(&nobody) && message.lines().count() <= 2, "{message}");
}
