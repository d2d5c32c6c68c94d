//! Who may post what to an edge, and what becomes of it: an edge and a node in one process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use prometheus_client::registry::Registry;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidemark_edge::{Edge, EdgeConfig, EdgeMetrics, Geo, Parts, Running, Sites};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::EventTime;
use tidemark_shell::link::Dial;
use tidemark_telemetry::Telemetry;
use tidemark_tests::PATIENCE;
use tidemark_tests::http::{Http, rows_of};
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::processes::free_port;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const NOW: EventTime = EventTime::from_unix_ms(1_773_129_660_000);
const PAGE: &str = "https://www.shop.example";
const CHROME: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 Mobile Safari/537.36";

struct Rig {
    cluster: Option<Cluster>,
    clock: Arc<TestClock>,
    edge: Running,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
    _stop: DropGuard,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let clock = TestClock::at(NOW);
        let cluster = Cluster::start(1, 4, clock.clone(), |_, _| {}).await;
        let node = cluster.url(0);
        let rig = Self::start_on(node, Some(cluster), clock, change).await;
        let deadline = Instant::now() + PATIENCE;
        while rig.get("/readyz").send().await.unwrap().status() != StatusCode::OK {
            assert!(Instant::now() < deadline, "the edge is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rig
    }

    async fn start_on(
        node: String,
        cluster: Option<Cluster>,
        clock: Arc<TestClock>,
        change: impl FnOnce(&mut EdgeConfig),
    ) -> Self {
        // The program's S3 client makes reqwest ask for one; plain HTTP needs none. Somebody else's is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let sites = Sites::parse(["shop.example", "other.example=https://elsewhere.example"]).unwrap();
        let mut config =
            EdgeConfig { spool: folder.path().join("edge"), ..EdgeConfig::new(vec![node], sites) };
        change(&mut config);
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("edge/tests/data/countries.mmdb");
        let (mut registry, stop) = (Registry::default(), CancellationToken::new());
        let parts = Parts {
            access: tidemark_access::Access::OPEN,
            tls: None,
            clock: clock.clone(),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            connect: Arc::new(Dial::default()),
            producer: ProducerId::from_u128(7),
            entropy: Arc::new(|bytes| {
                bytes.fill(7);
                Ok(())
            }),
            geo: Some(Geo::open(&file).unwrap()),
            metrics: EdgeMetrics::new(&mut registry),
            telemetry: Telemetry::default(),
            registry: Arc::new(Mutex::new(registry)),
        };
        let edge = Edge::start(config, parts, stop.clone()).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { cluster, clock, edge, client, _folder: folder, _stop: stop.drop_guard() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.edge.address())
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    /// A post as a browser's `sendBeacon` makes it, from a page of the shop.
    fn beacon(&self, post: &Value) -> RequestBuilder {
        let post = self.client.post(self.url("/v1/collect")).body(post.to_string());
        post.header("content-type", "text/plain;charset=UTF-8")
            .header("origin", PAGE)
            .header("user-agent", CHROME)
    }

    async fn status(request: RequestBuilder) -> StatusCode {
        request.send().await.unwrap().status()
    }

    /// The rows of a question, once `views` are counted.
    async fn rows(&self, views: u64, measures: &[&str], by: &[&str]) -> Vec<Vec<Value>> {
        let http = Http::new(&self.cluster.as_ref().unwrap().http_address.to_string());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = http.query(json!({"site": "*", "from": "-1h", "measures": ["views"]})).await;
            if rows_of(&all).first().is_some_and(|row| row[0] == views) {
                break;
            }
            assert!(Instant::now() < deadline, "{all}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        http.rows(json!({"site": "*", "from": "-1h", "measures": measures, "groupBy": by})).await
    }

    /// A line of the metrics.
    async fn metric(&self, line: &str) -> u64 {
        let text = self.get("/metrics").send().await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
    }

    async fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("tidemark_edge_requests_refused_total{{reason=\"{reason}\"}}")).await
    }
}

fn view(url: &str) -> Value {
    json!({"site": "shop.example", "events": [{"url": url}]})
}

async fn code(reply: Response) -> (u16, String) {
    let status = reply.status().as_u16();
    let body: Value = reply.json().await.unwrap();
    (status, body["code"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beacon_counts_with_all_that_its_request_tells() {
    let rig = Rig::start().await;
    let events = json!([
        {"url": "https://shop.example/a?utm_campaign=spring#top", "referrer": "https://www.google.com/", "values": {"load_ms": 120}},
        {"url": "/a", "kind": "engage", "values": {"engaged_ms": 5_000}, "time": 1_000_000, "dimensions": {"section": "news"}},
    ]);
    let reply = rig
        .beacon(&json!({"site": "Shop.Example", "sent": 1_060_000, "events": events}))
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), StatusCode::NO_CONTENT);
    assert_eq!(reply.headers()["access-control-allow-origin"], PAGE);
    assert!(!reply.headers().contains_key("set-cookie"));
    let by = ["site", "url", "campaign", "channel", "country", "device", "browser", "referrer"];
    let mut rows = rig.rows(1, &["views", "visitors", "load_ms.max", "engaged_ms"], &by).await;
    rows.sort_by_key(|row| row[8].as_u64());
    let text = |row: &[Value]| {
        row[..8].iter().map(|value| value.as_str().unwrap_or("-").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        text(&rows[1]),
        ["shop.example", "/a", "spring", "search", "SE", "mobile", "Chrome", "www.google.com"]
    );
    assert_eq!(rows[1][8..], [json!(1), json!(1), json!(120), json!(0)]);
    assert_eq!((&rows[0][11], rows.len()), (&json!(5_000), 2));
    assert_eq!(rig.metric("tidemark_edge_events_taken_total").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pixel_is_an_event_of_the_page_that_shows_it() {
    let rig = Rig::start().await;
    let reply = rig
        .get("/t.gif?site=shop.example&d.section=sport")
        .header("referer", format!("{PAGE}/b"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (reply.status(), &reply.headers()["content-type"]),
        (StatusCode::OK, &"image/gif".parse().unwrap())
    );
    assert_eq!(reply.headers()["cache-control"], "no-store");
    assert!(reply.bytes().await.unwrap().starts_with(b"GIF89a"));
    // In an e-mail, nobody says where.
    assert_eq!(Rig::status(rig.get("/t.gif?site=shop.example&url=/mail")).await, StatusCode::OK);
    let elsewhere = rig.get("/t.gif?site=shop.example&url=/x").header("referer", "https://evil.example/x");
    assert_eq!(code(elsewhere.send().await.unwrap()).await, (403, "origin".to_owned()));
    assert_eq!(
        code(rig.get("/t.gif?site=shop.example").send().await.unwrap()).await,
        (400, "malformed".to_owned())
    );
    let rows = rig.rows(2, &["views"], &["url"]).await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.iter().any(|row| row[0] == "https://www.shop.example/b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_known_sites_are_taken_and_only_from_pages_that_may() {
    let rig = Rig::start().await;
    let unknown = json!({"site": "unknown.example", "events": [{"url": "/"}]});
    assert_eq!(code(rig.beacon(&unknown).send().await.unwrap()).await, (403, "unknown_site".to_owned()));
    let other = json!({"site": "other.example", "events": [{"url": "/"}]});
    assert_eq!(code(rig.beacon(&other).send().await.unwrap()).await, (403, "origin".to_owned()));
    let none = json!({"events": [{"url": "/"}]});
    assert_eq!(code(rig.beacon(&none).send().await.unwrap()).await, (400, "malformed".to_owned()));
    let foreign = rig
        .client
        .post(rig.url("/v1/collect"))
        .header("origin", "https://evil.example")
        .body(view("/").to_string());
    let reply = foreign.send().await.unwrap();
    assert!(!reply.headers().contains_key("access-control-allow-origin"));
    assert_eq!(code(reply).await, (403, "origin".to_owned()));
    // A server has no origin.
    let server = rig
        .client
        .post(rig.url("/v1/collect"))
        .header("content-type", "application/json")
        .body(view("/").to_string());
    assert_eq!(Rig::status(server).await, StatusCode::NO_CONTENT);
    assert_eq!(rig.rows(1, &["views"], &["site"]).await, [[json!("shop.example"), json!(1)]]);
    for (reason, times) in [("unknown_site", 1), ("origin", 2), ("malformed", 1), ("site_rate", 0)] {
        assert_eq!(rig.refused(reason).await, times, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_asks_before_it_posts_is_told_whether_it_may() {
    let rig = Rig::start().await;
    for (origin, may) in [(PAGE, true), ("https://elsewhere.example", true), ("https://evil.example", false)]
    {
        let ask = rig.client.request(reqwest::Method::OPTIONS, rig.url("/v1/collect"));
        let ask = ask.header("origin", origin).header("access-control-request-method", "POST");
        let reply = ask.header("access-control-request-headers", "content-type").send().await.unwrap();
        let allowed =
            reply.headers().get("access-control-allow-origin").map(|allowed| allowed.to_str().unwrap());
        assert_eq!(allowed, may.then_some(origin));
        assert_eq!(reply.headers().contains_key("access-control-allow-headers"), may, "{origin}");
        assert_eq!(reply.headers()["vary"], "Origin");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_floods_is_told_when_to_come_back_and_others_notice_nothing() {
    let rig = Rig::start_with(|config| {
        config.trusted_proxies = 1;
        config.address_rate = 2;
        config.site_rate = 20;
    })
    .await;
    let from = |address: &'static str, post: &Value| rig.beacon(post).header("x-forwarded-for", address);
    for _ in 0..20 {
        assert_eq!(Rig::status(from("1.1.1.1", &view("/a"))).await, StatusCode::NO_CONTENT);
    }
    let reply = from("6.6.6.6, 1.1.1.1", &view("/a")).send().await.unwrap();
    assert_eq!(reply.headers()["retry-after"], "1");
    assert_eq!(code(reply).await, (429, "address_rate".to_owned()));
    assert_eq!(Rig::status(from("1.1.1.2", &view("/b"))).await, StatusCode::NO_CONTENT);
    rig.clock.set(NOW.plus(Duration::from_secs(1)));
    assert_eq!(Rig::status(from("1.1.1.1", &view("/a"))).await, StatusCode::NO_CONTENT);
    // And a site, from many addresses.
    let many = json!({"site": "shop.example", "events": vec![json!({"url": "/c"}); 60]});
    assert_eq!(Rig::status(from("1.1.1.3", &many)).await, StatusCode::NO_CONTENT);
    let reply = from("1.1.1.4", &view("/c")).send().await.unwrap();
    assert_eq!(reply.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap(), 2);
    assert_eq!(code(reply).await, (429, "site_rate".to_owned()));
    let elsewhere = json!({"site": "other.example", "events": [{"url": "/"}]});
    let other_site = rig.client.post(rig.url("/v1/collect")).body(elsewhere.to_string());
    assert_eq!(Rig::status(other_site.header("x-forwarded-for", "1.1.1.4")).await, StatusCode::NO_CONTENT);
    assert_eq!((rig.refused("address_rate").await, rig.refused("site_rate").await), (1, 1));
    rig.rows(83, &["views"], &["url"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_post_is_refused_and_what_is_no_event_does_not_touch_its_neighbours() {
    let rig = Rig::start_with(|config| config.max_body_bytes = 2_000).await;
    let post = |body: String| rig.beacon(&Value::Null).body(body);
    assert_eq!(code(post("{".to_owned()).send().await.unwrap()).await, (400, "malformed".to_owned()));
    let large = format!(r#"{{"site":"shop.example","events":[{{"url":"/{}"}}]}}"#, "a".repeat(2_000));
    assert_eq!(code(post(large).send().await.unwrap()).await, (413, "too_large".to_owned()));
    let events = json!([{"url": "/fine"}, 7, {"url": "http://[::1"}, {"url": "/v", "values": {"bytes": -1}}]);
    let reply = rig.beacon(&json!({"site": "shop.example", "events": events})).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let expected = json!({"accepted": 1, "rejected": [
        {"index": 1, "reason": "unreadable"}, {"index": 2, "reason": "bad_url"}, {"index": 3, "reason": "negative_value"},
    ]});
    assert_eq!(reply.json::<Value>().await.unwrap(), expected);
    rig.rows(1, &["views"], &["url"]).await;
    assert_eq!(rig.metric("tidemark_edge_events_unreadable_total").await, 1);
    // Nodes know of those that were events: receipts show them.
    let http = Http::new(&rig.cluster.as_ref().unwrap().http_address.to_string());
    let answer = http.query(json!({"site": "shop.example", "from": "-1h"})).await;
    assert_eq!(answer["facts"]["rejected"], 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_not_to_be_tracked_is_not_counted_unless_the_edge_is_told_to() {
    for (ignore, counted) in [(false, 1), (true, 3)] {
        let rig = Rig::start_with(|config| config.ignore_do_not_track = ignore).await;
        for header in ["dnt", "sec-gpc"] {
            assert_eq!(
                Rig::status(rig.beacon(&view("/asked")).header(header, "1")).await,
                StatusCode::NO_CONTENT
            );
        }
        assert_eq!(Rig::status(rig.beacon(&view("/fine")).header("dnt", "0")).await, StatusCode::NO_CONTENT);
        rig.rows(counted, &["views"], &["url"]).await;
        assert_eq!(rig.refused("do_not_track").await, 3 - counted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_comes_again_under_its_name_counts_once() {
    let rig = Rig::start().await;
    let post = json!({"site": "shop.example", "id": "one", "events": [{"url": "/a"}]});
    for _ in 0..3 {
        assert_eq!(Rig::status(rig.beacon(&post)).await, StatusCode::NO_CONTENT);
    }
    assert_eq!(Rig::status(rig.beacon(&view("/a"))).await, StatusCode::NO_CONTENT);
    rig.rows(2, &["views"], &["url"]).await;
    assert_eq!(rig.refused("repeated").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_spool_is_full_senders_are_told_to_come_back_and_nothing_counts_twice_that_they_send_again()
{
    let mut rig = Rig::start_with(|config| config.spool_limit_bytes = 256 << 10).await;
    rig.cluster.as_mut().unwrap().lose_node(0).await;
    let post = |n: u64| {
        let visitor = |event| format!("{n}-{event}-{}", "v".repeat(200));
        // Texts that take room: URLs are kept, visitors are not.
        let events: Vec<Value> =
            (0..100).map(|event| json!({"url": format!("/{}", visitor(event))})).collect();
        json!({"site": "shop.example", "id": n.to_string(), "events": events})
    };
    let mut sent = 0;
    loop {
        let status = Rig::status(rig.beacon(&post(sent)).timeout(PATIENCE)).await;
        sent += 1;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert!(sent < 100, "a spool of 256 KiB has 2 MB of URLs");
        rig.clock.set(NOW.plus(Duration::from_secs(10 * sent)));
    }
    // Nobody knows yet what becomes of the last one: it is neither taken nor begun anew.
    let last = post(sent - 1);
    assert_eq!(code(rig.beacon(&last).send().await.unwrap()).await, (503, "unavailable".to_owned()));
    rig.cluster.as_mut().unwrap().start_node(0).await;
    let deadline = Instant::now() + PATIENCE;
    while Rig::status(rig.beacon(&last)).await != StatusCode::NO_CONTENT {
        assert!(Instant::now() < deadline, "the edge does not go on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.rows(100 * sent, &["views"], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_has_never_seen_a_node_tells_senders_to_come_back() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let rig = Rig::start_on(nobody, None, TestClock::at(NOW), |_| {}).await;
    assert_eq!(Rig::status(rig.get("/readyz")).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(Rig::status(rig.get("/healthz")).await, StatusCode::OK);
    let reply = rig.beacon(&view("/a")).send().await.unwrap();
    assert_eq!(reply.headers()["retry-after"], "1");
    assert_eq!(code(reply).await, (503, "unavailable".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_an_edge_and_every_reason_of_a_refusal_is_in_its_document_and_there_from_the_start() {
    let document = include_str!("../../docs/edge.md");
    let rig = Rig::start().await;
    let text = rig.get("/metrics").send().await.unwrap().text().await.unwrap();
    let mut exported = 0;
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let name = if kind == "counter" { format!("`{name}_total`") } else { format!("`{name}`") };
            assert!(document.contains(&name), "{name} is not in docs/edge.md");
            exported += 1;
        }
        if let Some(reason) = line.strip_prefix("tidemark_edge_requests_refused_total{reason=\"") {
            let reason = reason.split('"').next().unwrap();
            assert!(document.contains(&format!("`{reason}`")), "{reason} is not in docs/edge.md");
        }
    }
    assert_eq!(
        document.matches("| `tidemark_edge_").count() + 1,
        exported,
        "two are in one line of the document"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tracker_is_kept_by_browsers_and_what_is_not_there_is_told() {
    let rig = Rig::start().await;
    let first = rig.get("/tidemark.js").header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(
        (&first.headers()["content-encoding"], &first.headers()["cross-origin-resource-policy"]),
        (&"gzip".parse().unwrap(), &"cross-origin".parse().unwrap())
    );
    let tag = first.headers()["etag"].clone();
    assert!(first.bytes().await.unwrap().len() < 2_048);
    let again = rig.get("/tidemark.js").header("accept-encoding", "gzip").header("if-none-match", tag);
    assert_eq!(Rig::status(again).await, StatusCode::NOT_MODIFIED);
    assert!(rig.get("/tidemark.js").send().await.unwrap().text().await.unwrap().contains("localStorage"));
    assert_eq!(code(rig.get("/none").send().await.unwrap()).await, (404, "not_found".to_owned()));
    assert_eq!(code(rig.get("/v1/collect").send().await.unwrap()).await, (405, "unimplemented".to_owned()));
}
