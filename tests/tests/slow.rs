//! Callers that take their time, over TLS, or all the places for connections.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::json;
use std::time::Duration;
use tidemark_tests::PATIENCE;
use tidemark_tests::processes::{Process, READY_COORDINATOR, READY_NODE, Single};
use tidemark_tests::rows::Sender;
use tidemark_tests::secured::Secured;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// A head has 30 s to come, and an HTTP/2 connection that does not answer is noticed after 40.
const CLOSED_WITHIN: Duration = Duration::from_secs(55);
/// What HTTP/2 begins with: its first line, and settings that say nothing.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The first bytes of a handshake: a record of 512 bytes that holds a hello, of which nothing follows.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Slow {
    /// Connects, and says nothing.
    Silent,
    /// Begins a handshake and does not go on.
    HalfHandshake,
    /// Says nothing once the connection is secured.
    SilentInside,
    /// Sends the head of a request byte by byte.
    TricklesHead,
    /// Begins HTTP/2, and reads and says nothing any more.
    DeafOverHttp2,
    /// Sends a body byte by byte.
    TricklesBody,
}

const ALL: [Slow; 6] = [
    Slow::Silent,
    Slow::HalfHandshake,
    Slow::SilentInside,
    Slow::TricklesHead,
    Slow::DeafOverHttp2,
    Slow::TricklesBody,
];

/// Sends `first`, and then a byte each half second where `goes_on`; how long until the other side hangs up or replies.
async fn act(stream: impl AsyncRead + AsyncWrite + Unpin, first: &[u8], goes_on: bool) -> Duration {
    let start = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(stream);
    // Whoever is slow may be cut off in the middle of a word.
    let _ = writing.write_all(first).await;
    let _ = writing.flush().await;
    let trickle = async {
        loop {
            sleep(Duration::from_millis(500)).await;
            if goes_on && (writing.write_all(b"x").await.is_err() || writing.flush().await.is_err()) {
                return;
            }
        }
    };
    let ended = async {
        // Settings and probes of HTTP/2 are no end.
        let mut bytes = [0; 1024];
        while reading.read(&mut bytes).await.is_ok_and(|read| read > 0 && !bytes.starts_with(b"HTTP/1.1")) {}
    };
    tokio::select! { () = trickle => {} () = ended => {} }
    start.elapsed()
}

async fn be_slow(secured: &Secured, address: &str, how: Slow) -> Duration {
    let stream = TcpStream::connect(address).await.unwrap();
    if matches!(how, Slow::Silent | Slow::HalfHandshake) {
        return act(stream, if how == Slow::Silent { b"" } else { HALF_A_HELLO }, false).await;
    }
    let tls = secured.dial_with(None).tls.unwrap();
    let stream = tls.connect("127.0.0.1", stream).await.unwrap();
    let body = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100000\r\n\r\n[",
        secured.token()
    );
    match how {
        Slow::SilentInside => act(stream, b"", false).await,
        Slow::TricklesHead => act(stream, b"GET /healthz HTTP/1.1\r\nx: ", true).await,
        Slow::DeafOverHttp2 => act(stream, HTTP2, false).await,
        Slow::TricklesBody => act(stream, body.as_bytes(), true).await,
        Slow::Silent | Slow::HalfHandshake => unreachable!("they have no connection that is secured"),
    }
}

/// How many connections are open at this port, as the process says.
async fn open_connections(secured: &Secured, process: &Process, server: &str) -> u64 {
    let url = format!("https://{}/metrics", process.address(READY_NODE));
    let page =
        secured.http().get(url).bearer_auth(secured.token()).send().await.unwrap().text().await.unwrap();
    let start = format!("tidemark_connections_open{{server=\"{server}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |open| open.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_slow_is_hung_up_on_and_others_are_served_meanwhile() {
    let secured = Secured::with_certificates(&["127.0.0.1", "localhost"]).with_token();
    let data = secured.folder().join("data").to_str().unwrap().to_owned();
    let mut arguments =
        vec!["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", &data];
    // How long a post takes says nothing of slow callers where it waits for the disk.
    arguments.extend(["--sync", "interval:60000ms"]);
    let flags = secured.flags();
    arguments.extend(flags.iter().map(String::as_str));
    let process = Process::start(&arguments, READY_COORDINATOR).await.unwrap();
    let (node, http) = (process.address(READY_NODE), process.address(READY_COORDINATOR));

    let all: Vec<(&String, Slow)> =
        [&node, &http].into_iter().flat_map(|at| ALL.map(|how| (at, how))).collect();
    let slow = all.iter().map(|&(address, how)| {
        // A node reads no bodies of HTTP/1, and says so at once.
        let secured = &secured;
        async move {
            let took = timeout(CLOSED_WITHIN, be_slow(secured, address, how)).await;
            (address, how, took)
        }
    });
    let client = secured.http();
    let served = async {
        let start = Instant::now();
        let (mut asked, mut slowest) = (0, Duration::ZERO);
        while start.elapsed() < Duration::from_secs(20) {
            let sent = Instant::now();
            let post = client.post(format!("https://{http}/v1/events")).bearer_auth(secured.token());
            let body = json!([{ "site": "a.example", "url": "/", "kind": "view" }]).to_string();
            assert_eq!(post.body(body).send().await.unwrap().status(), 200);
            slowest = slowest.max(sent.elapsed());
            asked += 1;
            sleep(Duration::from_millis(100)).await;
        }
        (asked, slowest)
    };
    let (slow, (asked, slowest)) = tokio::join!(futures::future::join_all(slow), served);
    for (address, how, took) in slow {
        let port = if *address == node { "node" } else { "coordinator" };
        let took = took.unwrap_or_else(|_| panic!("{how:?} is never hung up on by the {port}"));
        println!("{how:?} at the {port}: {took:?}");
    }
    println!("{asked} posts beside them, the slowest took {slowest:?}");
    assert!(asked > 50 && slowest < Duration::from_secs(2), "{asked} posts, the slowest took {slowest:?}");
    for server in ["node", "coordinator"] {
        // Those of the test itself, and of the coordinator to the node.
        let open = open_connections(&secured, &process, server).await;
        assert!(open <= 4, "{open} connections of the {server} are open");
    }
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn where_all_places_for_connections_are_taken_the_next_one_waits_until_one_is_free() {
    let single = Single::start(&["--max-connections", "6"]).await;
    let node = single.process.address(READY_NODE);
    let mut first = Sender::open(single.node(), "a.example", 1).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(TcpStream::connect(&node).await.unwrap());
    }
    // Longer than a connection takes, and less than one that says nothing is left open.
    let waiting = Sender::open(single.node(), "b.example", 2);
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_secs(3), &mut waiting).await.is_err(), "there is no place for it");
    // Who has a place is served.
    first.bring(10).await;
    drop(held);
    let mut second = timeout(PATIENCE, waiting).await.expect("a place is free again");
    second.bring(10).await;
}
