//! Where settings come from, with a real environment and real files.

// Helpers beside the tests are tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use support::{Server, run, stderr, tidemark};
use tempfile::NamedTempFile;

/// The log line of a node that has started.
const STARTED: &str = "the node serves";

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// How many shards a node has that is given so many in the file, in the environment and as a flag.
fn shards(in_file: Option<u32>, in_environment: Option<u32>, as_flag: Option<u32>) -> String {
    let file = file(&in_file.map(|shards| format!("shards = {shards}")).unwrap_or_default());
    let mut command =
        tidemark(&["node", "--listen", "127.0.0.1:0", "--config", file.path().to_str().unwrap()]);
    if let Some(shards) = in_environment {
        command.env("TIDEMARK_SHARDS", shards.to_string());
    }
    if let Some(shards) = as_flag {
        command.args(["--shards", &shards.to_string()]);
    }
    Server::start(command).value(STARTED, "shards")
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file_and_that_before_the_default() {
    assert_eq!(shards(None, None, None), "64");
    assert_eq!(shards(Some(8), None, None), "8");
    assert_eq!(shards(Some(8), Some(4), None), "4");
    assert_eq!(shards(Some(8), Some(4), Some(2)), "2");
}

#[test]
fn the_environment_can_name_the_file_and_set_switches_and_lists() {
    let file = file("shards = 8\n");
    let mut command = tidemark(&["node", "--listen", "127.0.0.1:0"]);
    command
        .env("TIDEMARK_CONFIG", file.path())
        .env("TIDEMARK_SINGLE", "true")
        .env("TIDEMARK_HTTP", "127.0.0.1:0")
        .env("TIDEMARK_MEASURES", "views=count(view), read=sum(engaged_ms, engage)");
    let mut server = Server::start(command);
    assert_eq!(server.value(STARTED, "shards"), "8");
    server.line_with("coordinator is listening");
}

/// A file of `deploy/`.
fn example(name: &str) -> String {
    format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/{}"), name)
}

#[test]
fn the_example_file_starts_a_node() {
    // All but the port: the default one may be taken on the machine that tests.
    let mut server =
        Server::start(tidemark(&["node", "--config", &example("tidemark.toml"), "--listen", "127.0.0.1:0"]));
    assert_eq!(server.value(STARTED, "shards"), "64");
}

#[test]
fn the_example_file_starts_a_coordinator() {
    let config = example("coordinator.toml");
    let mut server = Server::start(tidemark(&["coordinator", "--config", &config, "--http", "127.0.0.1:0"]));
    server.line_with("coordinator is listening");
    server.signal("TERM");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn the_example_file_starts_an_edge() {
    // A new edge waits for a node to tell it what the cluster is like.
    let mut node = Server::start(tidemark(&["node", "--listen", "127.0.0.1:0"]));
    let to = format!("http://{}", node.value(STARTED, "address"));
    let (config, spool) = (example("edge.toml"), tempfile::tempdir().unwrap());
    let mut command = tidemark(&["edge", "--config", &config, "--listen", "127.0.0.1:0", "--to", &to]);
    command.env("TIDEMARK_SPOOL", spool.path());
    let mut server = Server::start(command);
    server.line_with("the edge is listening");
    server.signal("TERM");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn errors_in_settings_say_where_the_value_is_from_and_end_with_2() {
    let bad_value = file("accept_late = \"soon\"\n");
    let path = bad_value.path().to_str().unwrap();
    let output = run(&["node", "--config", path]);
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    assert!(message.contains(path) && message.contains("accept_late = \"soon\""), "{message}");

    let output = run(&["node", "--config", "/no/such/file.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/no/such/file.toml: No such file"), "{}", stderr(&output));

    let output = tidemark(&["node"]).env("TIDEMARK_ACCEPT_LATE", "soon").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    assert!(message.contains("environment variable TIDEMARK_ACCEPT_LATE"), "{message}");

    let output = run(&["node", "--http", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--single"), "{}", stderr(&output));
}
