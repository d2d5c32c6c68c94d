//! Who may do what, at a node and a coordinator with TLS and tokens, as real processes: every call, with every wrong credential.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what cannot be here is a failed test"
)]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tidemark_client::{Credential, Dial, Link, open};
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_tests::PATIENCE;
use tidemark_tests::processes::{Process, free_port, program, run};
use tidemark_tests::secured::Secured;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tonic::{Code, Request, Status};

/// A node with a coordinator in its process.
struct World {
    secured: Secured,
    tokens: BTreeMap<&'static str, String>,
    node: String,
    http: String,
    _process: Process,
}

const OURS: &str = "ours.example";
const THEIRS: &str = "theirs.example";

impl World {
    async fn start() -> Self {
        let secured = Secured::with_certificates(&["127.0.0.1", "localhost"]);
        let mut tokens = BTreeMap::new();
        for (name, site, scope) in [
            ("ingest", OURS, "ingest"),
            ("query", OURS, "query"),
            ("theirs", THEIRS, "ingest,query"),
            ("admin", "*", "admin"),
            ("all", "*", "ingest,query,admin"),
            ("revoked", OURS, "ingest,query,admin"),
        ] {
            tokens.insert(name, secured.make_token(&["--site", site, "--scope", scope, "--name", name]));
        }
        // It ends before anybody uses it.
        tokens.insert(
            "expired",
            secured.make_token(&["--site", "*", "--scope", "ingest,query,admin", "--expires", "1ms"]),
        );
        tokens.insert("other secret", format!("{}x", &tokens["all"][..tokens["all"].len() - 1]));
        tokens.insert("made up", "tmk_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned());
        tokens.insert("no token", "hunter2".to_owned());
        revoke(&secured, &tokens["revoked"]).await;
        let (listen, http) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let data = secured.folder().join("data").to_str().unwrap().to_owned();
        let mut arguments = vec!["node", "--single", "--listen", &listen, "--http", &http, "--data", &data];
        let flags = secured.flags();
        arguments.extend(flags.iter().map(String::as_str));
        let process = Process::start(&arguments, "coordinator is listening").await.unwrap();
        let world = Self { node: listen, http, tokens, secured, _process: process };
        until("the node is ready", async || {
            let reply = world.secured.http().get(format!("https://{}/readyz", world.http)).send().await;
            reply.is_ok_and(|reply| reply.status() == 200)
        })
        .await;
        world
    }

    fn dial(&self, token: &str) -> Dial {
        self.secured.dial_with(self.tokens.get(token).map(String::as_str))
    }

    async fn node(&self, token: &str) -> Link {
        open(&format!("https://{}", self.node), &self.dial(token)).await.unwrap()
    }

    async fn coordinator(&self, token: &str) -> Link {
        open(&format!("https://{}", self.http), &self.dial(token)).await.unwrap()
    }

    async fn asked(&self, method: reqwest::Method, path: &str, token: &str, body: &str) -> (u16, String) {
        let mut request =
            self.secured.http().request(method, format!("https://{}{path}", self.http)).body(body.to_owned());
        if let Some(token) = self.tokens.get(token) {
            request = request.bearer_auth(token);
        }
        let reply = request.send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }

    async fn get(&self, path: &str, token: &str) -> (u16, String) {
        self.asked(reqwest::Method::GET, path, token, "").await
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.asked(reqwest::Method::POST, path, token, &body.to_string()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Refusals so far, by reason.
    async fn refused(&self) -> BTreeMap<String, u64> {
        let (status, text) = self.get("/metrics", "admin").await;
        assert_eq!(status, 200);
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("tidemark_access_refused_total{reason=\""));
        lines
            .map(|line| {
                let (reason, count) = line.split_once("\"} ").unwrap();
                (reason.to_owned(), count.parse().unwrap())
            })
            .collect()
    }
}

async fn revoke(secured: &Secured, token: &str) {
    let id = token.split('_').nth(1).unwrap();
    let output = run(&["token", "revoke", "--tokens", secured.tokens().to_str().unwrap(), id]).await;
    assert!(output.status.success(), "{output:?}");
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn event(site: &str, url: &str) -> Value {
    json!({"site": site, "url": url, "visitor": "v"})
}

fn question(site: &str) -> Value {
    json!({"site": site, "measures": ["views"], "from": "-1h"})
}

fn wire_question(site: &str) -> v1::Query {
    v1::Query { site: site.to_owned(), from: "-1h".to_owned(), ..v1::Query::default() }
}

/// The code of a call, whatever it returns.
fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| {
        // A refusal tells nothing but that it is one.
        let message = status.message();
        assert!(!message.contains(THEIRS) && !message.contains("tmk_0"), "{message}");
        status.code()
    })
}

/// Every call of every service with this token: what it ends with.
async fn all_calls(world: &World, token: &str) -> Vec<(&'static str, Code)> {
    let mut admin = AdminClient::new(world.node(token).await);
    let mut cluster = ClusterClient::new(world.node(token).await);
    let mut ingest = IngestClient::new(world.node(token).await);
    let mut analytics = AnalyticsClient::new(world.coordinator(token).await);
    let subscription = v1::Subscription { query: Some(wire_question(OURS)), ..v1::Subscription::default() };
    let receipts = v1::ReceiptsRequest { site: OURS.to_owned(), ..v1::ReceiptsRequest::default() };
    let one_batch = || tokio_stream::once(v1::EventBatch::default());
    let one_block = || tokio_stream::once(v1::Block::default());
    vec![
        ("Ingest/SendRows", code(ingest.send_rows(one_batch()).await)),
        ("Ingest/SendBlocks", code(ingest.send_blocks(one_block()).await)),
        ("Analytics/Query", code(analytics.query(wire_question(OURS)).await)),
        ("Analytics/Sites", code(analytics.sites(v1::SitesRequest {}).await)),
        ("Analytics/Describe", code(analytics.describe(v1::DescribeRequest {}).await)),
        (
            "Analytics/Subscribe",
            code(analytics.subscribe(v1::SubscribeRequest { subscriptions: vec![subscription] }).await),
        ),
        ("Analytics/WatchFlow", code(analytics.watch_flow(v1::FlowRequest::default()).await)),
        ("Admin/Members", code(admin.members(v1::MembersRequest::default()).await)),
        ("Admin/Placement", code(admin.placement(v1::PlacementRequest {}).await)),
        ("Admin/WatchPlacement", code(admin.watch_placement(v1::PlacementRequest {}).await)),
        ("Admin/Receipts", code(admin.receipts(receipts).await)),
        ("Cluster/Apply", code(cluster.apply(v1::ApplyRequest::default()).await)),
        ("Cluster/QueryPartial", code(cluster.query_partial(v1::PartialRequest::default()).await)),
        ("Cluster/WatchChanges", code(cluster.watch_changes(v1::ChangesRequest::default()).await)),
        ("Cluster/TakeCensus", code(cluster.take_census(v1::CensusRequest::default()).await)),
        ("Cluster/LocalSites", code(cluster.local_sites(v1::SitesRequest {}).await)),
        ("Cluster/CompareCoverage", code(cluster.compare_coverage(v1::CompareRequest::default()).await)),
        ("Cluster/PullBlocks", code(cluster.pull_blocks(v1::PullRequest::default()).await)),
        ("Cluster/InvitePull", code(cluster.invite_pull(v1::InviteRequest::default()).await)),
        ("Cluster/Status", code(cluster.status(v1::StatusRequest {}).await)),
        // The last one: it would end the node.
        ("Admin/Drain", code(admin.drain(v1::DrainRequest {}).await)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_refused_without_a_token_that_is_for_it() {
    let world = World::start().await;
    for token in ["none", "no token", "made up", "other secret", "revoked", "expired"] {
        for (call, code) in all_calls(&world, token).await {
            assert_eq!(code, Code::Unauthenticated, "{call} with {token}");
        }
        for (method, path) in [
            (reqwest::Method::POST, "/v1/query"),
            (reqwest::Method::GET, "/v1/query?site=ours.example"),
            (reqwest::Method::GET, "/v1/watch?site=ours.example"),
            (reqwest::Method::POST, "/v1/events"),
            (reqwest::Method::GET, "/v1/flow"),
            (reqwest::Method::GET, "/v1/describe"),
            (reqwest::Method::GET, "/metrics"),
        ] {
            let (status, body) = world.asked(method, path, token, "{}").await;
            assert_eq!(status, 401, "{path} with {token}: {body}");
            assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["code"], "unauthenticated");
        }
        let (status, _) = world.node_page("/metrics", token).await;
        assert_eq!(status, 401, "the node's metrics with {token}");
    }
    let refused = world.refused().await;
    for reason in ["no_token", "unknown_token", "revoked_token", "expired_token"] {
        assert!(refused[reason] >= 21, "{reason}: {refused:?}");
    }

    // What anybody may see has no numbers in it, whatever they show.
    for path in ["/healthz", "/readyz", "/start"] {
        assert_ne!(world.get(path, "made up").await.0, 401, "{path}");
    }
    // Each scope opens what it is for; nothing opens what is between members.
    let may = |scope: &'static str, call: &str| match call {
        "Ingest/SendRows" | "Ingest/SendBlocks" => scope == "ingest",
        "Admin/Placement" | "Admin/WatchPlacement" => scope == "ingest" || scope == "admin",
        "Analytics/WatchFlow" => false,
        call if call.starts_with("Analytics/") => scope == "query",
        "Admin/Receipts" => scope == "query",
        "Admin/Members" | "Admin/Drain" => scope == "admin",
        _ => false,
    };
    // The last one may drain the node, and does.
    for scope in ["ingest", "query", "admin"] {
        for (call, code) in all_calls(&world, scope).await {
            let is_refused = code == Code::PermissionDenied || code == Code::Unauthenticated;
            assert_eq!(!is_refused, may(scope, call), "{call} with {scope}: {code:?}");
        }
    }
}

impl World {
    async fn node_page(&self, path: &str, token: &str) -> (u16, String) {
        let mut request = self.secured.http().get(format!("https://{}{path}", self.node));
        if let Some(token) = self.tokens.get(token) {
            request = request.bearer_auth(token);
        }
        let reply = request.send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_site_neither_counts_nor_sees_another() {
    let world = World::start().await;
    let (status, reply) = world.post("/v1/events", "theirs", &json!([event(THEIRS, "/secret")])).await;
    assert_eq!((status, &reply["accepted"]), (200, &json!(1)));

    // A batch of both: what is theirs is rejected, and its neighbours count.
    let both = json!([event(THEIRS, "/x"), event(OURS, "/a"), {"site": ""}, event("OURS.example", "/b")]);
    let (status, reply) = world.post("/v1/events", "ingest", &both).await;
    assert_eq!((status, &reply["accepted"]), (200, &json!(2)), "{reply}");
    let rejected =
        json!([{"index": 0, "reason": "site_not_allowed"}, {"index": 2, "reason": "missing_site"}]);
    assert_eq!(reply["rejected"], rejected);

    // The same as rows and as blocks.
    let row = |site: &str| v1::Event {
        site: site.as_bytes().to_vec().into(),
        url: b"/r".to_vec().into(),
        ..v1::Event::default()
    };
    let producer: bytes::Bytes = vec![7; 16].into();
    let batch = v1::EventBatch {
        producer: producer.clone(),
        seq: 1,
        events: vec![row(OURS), row(THEIRS), row(OURS)],
        ..v1::EventBatch::default()
    };
    let mut ingest = IngestClient::new(world.node("ingest").await);
    let mut acks = ingest.send_rows(tokio_stream::once(batch)).await.unwrap().into_inner();
    let ack = acks.message().await.unwrap().unwrap();
    assert_eq!((ack.accepted, ack.rejected.len(), ack.rejected[0].index), (2, 1, 1), "{ack:?}");
    assert_eq!(ack.rejected[0].reason(), v1::Reason::SiteNotAllowed);
    for (token, is_taken) in [("ingest", false), ("theirs", true)] {
        let block = block_of(THEIRS, &producer);
        let mut ingest = IngestClient::new(world.node(token).await);
        let mut acks = ingest.send_blocks(tokio_stream::once(block)).await.unwrap().into_inner();
        let ack = acks.message().await.unwrap().unwrap();
        let reason = ack.refused.as_ref().map(v1::Refusal::reason);
        assert_eq!(reason, (!is_taken).then_some(v1::RefusalReason::SiteNotAllowed), "{ack:?}");
    }

    // Whether a site exists or not, the refusal is the same.
    let of = async |site: &str| world.post("/v1/query", "query", &question(site)).await;
    let (there, not_there) = (of(THEIRS).await, of("nowhere.example").await);
    assert_eq!(there.0, 403);
    assert_eq!(there, not_there);
    assert_eq!(of("*").await.0, 403);
    let (status, body) = world.get(&format!("/v1/watch?site={THEIRS}"), "query").await;
    assert_eq!(status, 403, "{body}");
    let mut analytics = AnalyticsClient::new(world.coordinator("query").await);
    assert_eq!(code(analytics.query(wire_question(THEIRS)).await), Code::PermissionDenied);
    let sites = analytics.sites(v1::SitesRequest {}).await.unwrap().into_inner().sites;
    assert_eq!(sites, [OURS]);
    let mut admin = AdminClient::new(world.node("query").await);
    for site in [THEIRS, "nowhere.example", "*", ""] {
        let receipts = v1::ReceiptsRequest { site: site.to_owned(), ..v1::ReceiptsRequest::default() };
        assert_eq!(code(admin.receipts(receipts).await), Code::PermissionDenied, "{site}");
    }
    let (_, answer) = of(OURS).await;
    assert_eq!(answer["rows"], json!([[4]]), "{answer}");
    let (_, answer) = world.post("/v1/query", "all", &question(THEIRS)).await;
    assert_eq!(answer["rows"], json!([[2]]), "{answer}");
}

/// A block with one event of this site.
fn block_of(site: &str, producer: &bytes::Bytes) -> v1::Block {
    use tidemark_node::clock::SystemClock;
    use tidemark_rollup::canonical::KeepParams;
    use tidemark_rollup::event::TimeRules;
    use tidemark_rollup::sharding::ShardCount;
    use tidemark_rollup::split::{Rules, split};
    use tidemark_rollup::time::Clock as _;
    let now = SystemClock.now();
    let events = vec![v1::Event {
        site: site.as_bytes().to_vec().into(),
        url: b"/block".to_vec().into(),
        ..v1::Event::default()
    }];
    let batch = v1::EventBatch { producer: producer.clone(), seq: 9, sealed_at_ms: now.as_unix_ms(), events };
    let keep_params = KeepParams::all();
    let times = TimeRules { accept_late: Duration::from_secs(3_600) };
    let rules = Rules { schema: None, keep_params: &keep_params, times, shards: ShardCount::DEFAULT };
    split(&batch, &rules, now).unwrap().blocks.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_ends_when_its_token_is_revoked() {
    let world = World::start().await;
    let mut analytics = AnalyticsClient::new(world.coordinator("query").await);
    let subscription = v1::Subscription { query: Some(wire_question(OURS)), ..v1::Subscription::default() };
    let request = v1::SubscribeRequest { subscriptions: vec![subscription] };
    let mut updates = analytics.subscribe(request).await.unwrap().into_inner();
    assert!(updates.message().await.unwrap().is_some());
    revoke(&world.secured, &world.tokens["query"]).await;
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match updates.message().await {
                Ok(Some(_)) => {}
                ended => return ended,
            }
        }
    });
    assert_eq!(ended.await.unwrap().unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(code(analytics.query(wire_question(OURS)).await), Code::Unauthenticated);
}

/// A member's certificate whose time is up.
fn make_expired(secured: &Secured) {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
    let read = |name: &str| std::fs::read_to_string(secured.certs().join(name)).unwrap();
    let issuer =
        Issuer::from_ca_cert_pem(&read("ca.crt"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["tidemark-member".to_owned()]).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = time::OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - time::Duration::days(2), now - time::Duration::days(1));
    let key = KeyPair::generate().unwrap();
    let folder = secured.folder().join("expired");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ca.crt"), read("ca.crt")).unwrap();
    std::fs::write(folder.join("tls.crt"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
}

/// Why a connection with these certificates is not made, or what the call says.
async fn status_of_member(address: &str, dial: &Dial) -> Result<(), String> {
    let link = open(&format!("https://{address}"), dial).await.map_err(|error| error.to_string())?;
    let asked = ClusterClient::new(link).status(Request::new(v1::StatusRequest {})).await;
    asked.map(drop).map_err(|status| format!("{:?} {}", status.code(), status.message()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_who_has_a_members_certificate_of_this_ca_that_is_in_time() {
    let world = World::start().await;
    let make = |out: &str, ca: &str, flags: &[&str]| {
        let (out, ca) = (world.secured.folder().join(out), world.secured.folder().join(ca));
        let (out, ca) = (out.to_str().unwrap().to_owned(), ca.to_str().unwrap().to_owned());
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        async move {
            let mut arguments = vec!["certs", "--out", &out, "--ca", &ca, "--name", "127.0.0.1"];
            arguments.extend(flags.iter().map(String::as_str));
            let made = run(&arguments).await;
            assert!(made.status.success(), "{made:?}");
        }
    };
    make("member", "certs", &[]).await;
    make("edge", "certs", &["--no-member"]).await;
    make("foreign", "foreign", &[]).await;
    make_expired(&world.secured);
    let dial = |folder: &str| Dial {
        tls: Some(
            tidemark_shell::tls::MemberTls::open(&world.secured.folder().join(folder)).unwrap().client(),
        ),
        credential: None,
    };
    assert_eq!(status_of_member(&world.node, &dial("member")).await, Ok(()));
    // A certificate of the CA that is no member's is no way in.
    let edge = status_of_member(&world.node, &dial("edge")).await.unwrap_err();
    assert!(!edge.is_empty());
    // Its time is up.
    let expired = status_of_member(&world.node, &dial("expired")).await.unwrap_err();
    assert!(!expired.contains("Ok"), "{expired}");
    // Another CA: neither side believes the other.
    let foreign = status_of_member(&world.node, &dial("foreign")).await.unwrap_err();
    assert!(foreign.contains("nobody answers") || foreign.contains("Unavailable"), "{foreign}");
    // A client that believes the other CA does not talk to us.
    let other_ca = Dial {
        tls: Some(
            tidemark_client::ClientTls::believing(&world.secured.folder().join("foreign/ca.crt")).unwrap(),
        ),
        credential: Credential::token(&world.tokens["all"]),
    };
    assert!(open(&format!("https://{}", world.node), &other_ca).await.is_err());
    // And plain text is no request.
    assert!(
        open(&format!("http://{}", world.node), &Dial::default()).await.is_err() || {
            let link = open(&format!("http://{}", world.node), &Dial::default()).await.unwrap();
            AdminClient::new(link).placement(v1::PlacementRequest {}).await.is_err()
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_shown_without_a_restart() {
    let world = World::start().await;
    let shown = async || {
        use sha2::Digest as _;
        let stream = TcpStream::connect(&world.node).await.unwrap();
        let tls = world.secured.dial_with(None).tls.unwrap();
        let stream = tls.connect("127.0.0.1", stream).await.unwrap();
        let (_, session) = stream.get_ref();
        sha2::Sha256::digest(session.peer_certificates().unwrap()[0].as_ref()).to_vec()
    };
    let before = shown().await;
    let certs = world.secured.certs();
    let made = run(&["certs", "--out", certs.to_str().unwrap(), "--name", "127.0.0.1"]).await;
    assert!(made.status.success(), "{made:?}");
    until("the new certificate is shown", async || shown().await != before).await;
    let (_, answer) = world.post("/v1/query", "all", &question(OURS)).await;
    assert_eq!(answer["facts"]["complete"], true, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_are_refused_and_show_nothing() {
    let world = World::start().await;
    // No way out of the dashboard's folder, and no other spelling of a guarded path.
    for path in [
        "/assets/../metrics",
        "/assets/%2e%2e/metrics",
        "/assets/..%2fmetrics",
        "//metrics",
        "/metrics/",
        "/%6detrics",
    ] {
        let (status, text) =
            raw(&world, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(status == 404 || status == 401, "{path}: {status} {text}");
        assert!(!text.contains("tidemark_"), "{path}");
    }
    // Two lengths, a length beside chunks, two tokens: what one reads as one request another could read as two.
    let all = &world.tokens["all"];
    let head = format!("POST /v1/query HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {all}\r\n");
    for smuggled in [
        format!("{head}content-length: 5\r\ncontent-length: 50\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n"),
        format!(
            "{head}content-length: 5\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n"
        ),
        format!(
            "{head}authorization: Bearer {}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}",
            world.tokens["query"]
        ),
        format!("{head}x: {}\r\n\r\n", "y".repeat(1 << 20)),
    ] {
        let (status, text) = raw(&world, &smuggled).await;
        assert!((400..500).contains(&status) || status == 0, "{status} {text}");
        assert!(!text.contains("tidemark_"), "{text}");
    }
    let huge = "x".repeat(9 << 20);
    let (status, _) = world.asked(reqwest::Method::POST, "/v1/query", "all", &huge).await;
    assert_eq!(status, 413);
}

/// What a coordinator replies to these bytes: status and text, or 0 where it hangs up.
async fn raw(world: &World, request: &str) -> (u16, String) {
    let stream = TcpStream::connect(&world.http).await.unwrap();
    let config = world.secured.dial_with(None).tls.unwrap();
    let mut stream = config.connect("127.0.0.1", stream).await.unwrap();
    // It may have heard enough before it has all.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut reply = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut reply)).await;
    let text = String::from_utf8_lossy(&reply).into_owned();
    let status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text)
}

#[tokio::test]
async fn nobody_listens_beyond_this_machine_without_both_flags() {
    let secured = Secured::with_certificates(&["127.0.0.1"]);
    let data = secured.folder().join("data").to_str().unwrap().to_owned();
    let certs = secured.certs().to_str().unwrap().to_owned();
    for (arguments, named) in [
        (vec!["node", "--listen", "0.0.0.0:0", "--data", &data], "--tls DIR and --tokens FILE"),
        (vec!["node", "--listen", "0.0.0.0:0", "--data", &data, "--tls", &certs], "--tokens FILE"),
        (
            vec!["node", "--single", "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0", "--data", &data],
            "--http 0.0.0.0:0",
        ),
        (vec!["coordinator", "--http", "[::]:0", "--seeds", "127.0.0.1:1"], "--tls DIR and --tokens FILE"),
    ] {
        let ended = Command::new(program()).args(&arguments).stdin(Stdio::null()).output().await.unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
}
