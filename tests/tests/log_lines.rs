//! What a program says of itself in its log.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::Value;
use std::process::Stdio;
use tidemark_tests::PATIENCE;
use tidemark_tests::http::Http;
use tidemark_tests::processes::program;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// A secret.
const KEY: &str = "a key that nobody guesses";

/// A program that is told to log JSON, and its lines.
struct Logged {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    said: Vec<Value>,
}

impl Logged {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(program());
        let command = command.args(arguments).env("TIDEMARK_LOG_FORMAT", "json");
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, said: Vec::new() }
    }

    /// The next line, which has to be as programs expect it; `None` at the end.
    async fn next(&mut self) -> Option<&Value> {
        let line =
            tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time").unwrap()?;
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let keys: Vec<&String> = said.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["timestamp", "level", "fields", "target"], "{line}");
        let moment = said["timestamp"].as_str().unwrap();
        assert!(tidemark_rollup::time::EventTime::parse_rfc3339(moment).is_ok(), "{line}");
        assert!(["ERROR", "WARN", "INFO"].contains(&said["level"].as_str().unwrap()), "{line}");
        assert!(said["target"].as_str().unwrap().starts_with("tidemark"), "{line}");
        assert!(!said["fields"]["message"].as_str().unwrap().is_empty(), "{line}");
        self.said.push(said);
        self.said.last()
    }

    /// Reads until it has said this.
    async fn until(&mut self, message: &str) -> Value {
        loop {
            match self.next().await {
                Some(said) if said["fields"]["message"] == message => return said.clone(),
                Some(_) => {}
                None => panic!("it never said {message:?}: {:#?}", self.sentences()),
            }
        }
    }

    /// Level and sentence of all it said.
    fn sentences(&self) -> Vec<(&str, &str)> {
        self.said
            .iter()
            .map(|said| (said["level"].as_str().unwrap(), said["fields"]["message"].as_str().unwrap()))
            .collect()
    }

    async fn terminate(&mut self) -> Option<i32> {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        while self.next().await.is_some() {}
        self.child.wait().await.unwrap().code()
    }
}

#[tokio::test]
async fn an_ordinary_start_and_stop_says_exactly_this_in_lines_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let arguments = [
        "node",
        "--id",
        "n1",
        "--single",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--data",
        data,
    ];
    let mut node = Logged::start(&arguments);
    let serves = node.until("the node serves").await;
    assert_eq!(
        (&serves["fields"]["node"], &serves["target"]),
        (&"n1".into(), &"tidemark_node::start".into())
    );
    let listens = node.until("coordinator is listening").await;
    let address = listens["fields"]["address"].as_str().unwrap().to_owned();
    let http = Http::new(&address);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while http.get("/readyz").await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "not ready");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // What is asked and sent says nothing, whatever it is.
    http.post("/v1/events", r#"[{"site":"example.com","url":"/"},{"site":"\n","url":"x"}]"#).await;
    http.post("/v1/events", "nonsense").await;
    http.post("/v1/query", r#"{"site":"example.com"}"#).await;
    http.post("/v1/query", "nonsense").await;
    http.get("/nowhere").await;
    assert_eq!(node.terminate().await, Some(0));
    // Parts that start at once say so in any order, and nothing twice.
    let mut said = node.sentences();
    assert_eq!(
        (said.first(), said.last()),
        (Some(&("INFO", "opened the journal")), Some(&("INFO", "stopped")))
    );
    said.sort_unstable();
    let expected = [
        "coordinator is listening",
        "counted the blocks of the journal",
        "has what others have of its shards, and answers for them",
        "opened the journal",
        "shards are given to this node, or taken from it",
        "stopped",
        "stopping; Ctrl-C ends at once",
        "the node serves",
        "this member is active",
    ];
    assert_eq!(said, expected.map(|sentence| ("INFO", sentence)));
    // What is in the log of a cluster with a key is not the key.
    assert!(node.said.iter().all(|said| !said.to_string().contains(KEY)));
}

#[tokio::test]
async fn what_keeps_a_program_from_starting_is_a_line_of_json_too() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["node", "--listen", &address, "--data", folder.path().to_str().unwrap()];
    let mut node = Logged::start(&arguments);
    while node.next().await.is_some() {}
    assert_eq!(node.child.wait().await.unwrap().code(), Some(1));
    assert_eq!(node.sentences(), [("ERROR", "the command failed")]);
    let error = node.said[0]["fields"]["error"].as_str().unwrap();
    assert!(error.contains("another program has it") && error.contains("--listen"), "{error}");
}
