//! The program from outside: a node with a coordinator, a replay, questions, and how it ends.

mod support;

use std::io::Write as _;
use std::time::{Duration, Instant};
use support::{Server, run, stderr, stdout, tidemark};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/sample-combined.log");

/// A cluster of one, and where its node and its coordinator are.
fn single(flags: &[&str]) -> (Server, String, String) {
    let mut command = tidemark(&["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    command.args(flags);
    let mut server = Server::start(command);
    let node = server.value("the node serves", "address");
    let coordinator = server.value("coordinator is listening", "address");
    (server, node, coordinator)
}

#[test]
fn a_replayed_log_is_counted_as_an_independent_count_says() {
    let (mut server, node, coordinator) = single(&["--accept-late", "20years"]);
    let report =
        stdout(&run(&["replay", SAMPLE, "--site", "example.com", "--keep-time", "--to", &node, "--json"]));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let expected = std::fs::read_to_string(SAMPLE.replace(".log", ".answers.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    assert_eq!(report["lines"], expected["totals"]["lines"]);
    assert_eq!(report["accepted"], expected["totals"]["hits"]);

    let query = [
        "query",
        "--site",
        "example.com",
        "--at",
        &coordinator,
        "--by",
        "url",
        "--top",
        "1",
        "--json",
        "--from",
        "2024-03-01T00:00:00Z",
        "--to-time",
        "2024-04-01T00:00:00Z",
    ];
    let answer = stdout(&run(&query));
    assert!(
        answer.starts_with(r#"{"columns":["url","views"],"rows":[["/","#),
        "as POST /v1/query has it: {answer}"
    );
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["rows"][0], expected["top_paths"][0]);
    assert_eq!(answer["facts"]["complete"], true);

    let table = stdout(&run(&query[..query.len() - 5]));
    assert!(table.contains("No events match."), "{table}");

    server.signal("TERM");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn events_that_are_too_old_for_the_node_come_with_a_hint() {
    let (_server, node, _) = single(&[]);
    let output = run(&["replay", SAMPLE, "--site", "example.com", "--keep-time", "--to", &node]);
    assert!(stdout(&output).contains("too_late"), "{}", stdout(&output));
    assert!(stderr(&output).contains("--accept-late"), "{}", stderr(&output));
}

#[test]
fn members_are_listed_with_their_shards() {
    let (_server, node, coordinator) = single(&["--id", "n1", "--shards", "16"]);
    let text = stdout(&run(&["members", "--to", &node]));
    assert!(text.contains("n1") && text.contains("16") && text.contains("1 member\n"), "{text}");
    let text = stdout(&run(&["placement", "--to", &node]));
    assert!(text.contains("n1 owns 16 shards, 16 of them as the first owner"), "{text}");
    let output = run(&["members", "--to", &coordinator]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a coordinator is no node"), "{}", stderr(&output));
}

#[test]
fn a_node_that_is_drained_stops_and_ends_with_0() {
    let (mut server, node, _) = single(&["--id", "n1"]);
    let text = stdout(&run(&["drain", "--to", &node]));
    assert!(text.contains("hands over what is not committed"), "{text}");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn a_member_of_another_number_of_shards_is_refused_and_both_say_so() {
    let store = tempfile::tempdir().unwrap();
    let folder = |name: &str| store.path().join(name).to_str().unwrap().to_owned();
    let (shared, first, second) = (folder("history"), folder("a"), folder("b"));
    let (mut server, node, _) =
        single(&["--id", "a", "--shards", "16", "--store", &shared, "--data", &first]);
    let seed = node.trim_start_matches("http://");
    let flags = ["node", "--id", "b", "--listen", "127.0.0.1:0", "--shards", "32", "--seeds", seed];
    let output = run(&[&flags[..], &["--store", &folder("other"), "--data", &second]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("16") && said.contains("32") && said.contains("shards"), "{said}");
    let line = server.line_with("refused");
    assert!(line.contains("16") && line.contains("32"), "{line}");
}

#[test]
fn a_bad_question_ends_with_2_and_a_missing_server_with_1_and_each_says_what_to_do() {
    let (_server, _, coordinator) = single(&[]);
    for (flags, hint) in [
        (&["--measure", "clicks"][..], "--measure: \"clicks\" is no measure: give one of views"),
        (&["--by", "planet"][..], "--by: "),
        (&["--where", "planet=mars"][..], "--where: "),
        (&["--top", "10001"][..], "--top: "),
        (&["--from", "yesterday"][..], "--from: \"yesterday\" is no time"),
    ] {
        let output = run(&[&["query", "--site", "example.com", "--at", &coordinator], flags].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let message = stderr(&output);
        assert!(message.starts_with("error: ") && message.contains(hint), "{flags:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    for (arguments, hint) in [
        (&["query", "--site", "s.de", "--at", "127.0.0.1:1"][..], "tidemark demo"),
        (&["members", "--to", "127.0.0.1:1"][..], "--to"),
        (&["replay", SAMPLE, "--site", "s.de", "--to", "127.0.0.1:1"][..], "--to"),
        (&["replay", "/no/such.log", "--site", "s.de"][..], "/no/such.log"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let message = stderr(&output);
        assert!(message.starts_with("error: ") && message.contains(hint), "{message}");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_the_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let output = run(&["node", "--listen", &taken]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("choose another address with --listen"), "{}", stderr(&output));
    let output = run(&["node", "--single", "--listen", "127.0.0.1:0", "--http", &taken]);
    assert!(stderr(&output).contains("choose another address with --http"), "{}", stderr(&output));
}

#[test]
fn ctrl_c_ends_a_node_in_a_moment() {
    let (mut server, ..) = single(&[]);
    let asked = Instant::now();
    server.signal("INT");
    assert_eq!(server.exit_code(), 0);
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_what_is_under_way() {
    // A request that does not come to its end stays under way.
    let (mut server, node, _) = single(&[]);
    let mut half = std::net::TcpStream::connect(node.trim_start_matches("http://")).unwrap();
    half.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    server.signal("INT");
    server.line_with("stopping");
    server.signal("INT");
    assert_eq!(server.exit_code(), 130);
}

#[test]
fn a_stream_that_stays_open_does_not_keep_a_node_from_stopping() {
    let (mut server, node, coordinator) = single(&[]);
    // A replay in real time keeps its stream open for hours.
    let _replay =
        Server::start(tidemark(&["replay", SAMPLE, "--site", "example.com", "--to", &node, "--speed", "1"]));
    let deadline = Instant::now() + Duration::from_secs(20);
    let question = ["query", "--site", "example.com", "--since", "7d", "--at", &coordinator, "--json"];
    while stdout(&run(&question)).contains("\"rows\":[]") {
        assert!(Instant::now() < deadline, "the replay sends nothing");
    }
    server.signal("INT");
    assert_eq!(server.exit_code(), 0);
}
