//! Routes, errors, and the small pages.

use super::fake_node::{Call, Mood};
use super::http_client;
use super::still::Still;
use super::world::{World, config, dead_member, event, parts};
use crate::{Coordinator, CoordinatorConfig, StartError};
use axum::http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::placement::Replication;
use tidemark_shell::link::Dial;
use tidemark_shell::port::Port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn a_question_means_the_same_in_a_body_and_in_parameters() {
    let world = World::of(1).await;
    let devices = ["mobile", "mobile", "tablet", "tv"];
    let events = devices.iter().map(|device| event("s.de", "/a", device, &[("device", device)]));
    world.feed(events.collect());
    let body = json!({
        "site": "s.de", "measures": ["views", "visitors"], "groupBy": ["url", "device"], "from": "-1h", "limit": 5,
        "filters": [{"dimension": "device", "in": ["mobile", "tablet"]}, {"dimension": "url", "prefix": "/"}],
    });
    let parameters = "/v1/query?site=s.de&measures=views,visitors&groupBy=url,device&from=-1h&limit=5\
                      &filter=device=mobile,tablet&filter=url^=/";
    let reply = world.get(parameters).await;
    assert_eq!((reply.status, reply.json()), (200, world.ask(&body).await));
    assert_eq!(reply.json()["rows"], json!([["/a", "mobile", 2, 1], ["/a", "tablet", 1, 1]]));
    assert!(reply.head.contains("content-type: application/json"), "{}", reply.head);
    assert!(
        reply.text().starts_with(r#"{"columns":["url","device","views","visitors"],"rows":"#),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn every_error_is_json_with_a_code_a_message_and_a_field() {
    let world = World::of(1).await;
    for (method, path, body, status, code, field) in [
        ("POST", "/v1/query", r#"{"site":"s.de","limit":10001}"#, 400, "invalid_argument", json!("limit")),
        ("POST", "/v1/query", r#"{"site":"s.de","top":10}"#, 400, "invalid_argument", json!("top")),
        ("POST", "/v1/query", r#"{"site":"#, 400, "invalid_argument", Value::Null),
        ("GET", "/v1/query", "", 400, "invalid_argument", json!("site")),
        ("GET", "/v1/query?site=s.de&groupBy=url,url", "", 400, "invalid_argument", json!("groupBy[1]")),
        ("PUT", "/v1/query", "", 405, "unimplemented", Value::Null),
        ("GET", "/v1/events", "", 405, "unimplemented", Value::Null),
        ("GET", "/v2/query", "", 404, "not_found", Value::Null),
    ] {
        let reply = http_client::request(world.address, method, path, body.as_bytes()).await;
        let error = reply.json();
        assert_eq!(
            (reply.status, &error["code"], &error["field"]),
            (status, &json!(code), &field),
            "{method} {path}"
        );
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert_eq!(error.as_object().unwrap().len(), 3);
        assert!(status != 405 || reply.head.contains("allow: "), "{}", reply.head);
    }
}

#[tokio::test]
async fn the_start_page_shows_how_to_send_and_to_ask_and_loads_nothing() {
    let world = World::of(1).await;
    let page = world.get("/start").await;
    assert!(page.head.contains("content-type: text/html"));
    assert!(page.text().contains("/v1/events") && page.text().contains("/v1/query?site=example.com"));
    for foreign in ["src=", "url(", "https://"] {
        assert!(!page.text().contains(foreign), "{foreign}");
    }
}

#[tokio::test]
async fn the_dashboard_is_served_with_all_that_it_loads_or_its_absence_is_explained() {
    let world = World::of(1).await;
    let page = world.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    if !tidemark_dashboard::ABSENT.is_empty() {
        assert!(page.text().contains("built without its dashboard"));
        return;
    }
    assert!(page.head.contains("cache-control: no-cache"), "{}", page.head);
    for asset in tidemark_dashboard::ASSETS.iter().filter(|asset| asset.is_immutable()) {
        let file = world.get(&format!("/{}", asset.path)).await;
        assert_eq!((file.status, file.body.as_slice()), (200, asset.plain), "{}", asset.path);
        assert!(file.head.contains("immutable"), "{}", file.head);
    }
    assert_eq!(world.get("/assets/none.js").await.status, 404);
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let world = World::of(1).await;
    world.ask(&json!({"site": "s.de"})).await;
    let reply = world.get("/metrics").await;
    assert!(reply.head.contains("content-type: application/openmetrics-text"), "{}", reply.head);
    assert!(reply.text().ends_with("# EOF\n"));
    assert!(reply.text().contains("tidemark_query_seconds_count 1"), "{}", reply.text());
}

#[tokio::test]
async fn ready_means_that_nodes_which_have_all_shards_answer() {
    let well = World::of(2).await;
    assert_eq!(well.get("/healthz").await.text(), "ok");
    let reply = well.get("/readyz").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"ready": true, "nodes": 2})));

    let dead = dead_member("dead");
    let world = World::with(1, vec![dead.clone()], config()).await;
    let reply = world.get("/readyz").await;
    let report = reply.json();
    assert_eq!((reply.status, &report["code"]), (503, &json!("unavailable")));
    assert_eq!(report["notReady"].as_array().unwrap().len(), 1);
    assert_eq!(report["notReady"][0]["node"], format!("dead ({})", dead.address));
    assert_eq!(world.get("/healthz").await.status, 200);

    let two_owners = CoordinatorConfig { replication: Replication::DEFAULT, ..config() };
    let world = World::with(1, vec![dead.clone()], two_owners).await;
    let reply = world.get("/readyz").await;
    assert_eq!((reply.status, &reply.json()["ready"]), (200, &json!(true)));
    assert_eq!(reply.json()["notReady"], report["notReady"]);

    assert_eq!(World::of(0).await.get("/readyz").await.status, 503);
}

#[tokio::test]
async fn a_coordinator_that_stops_is_alive_and_not_ready_whatever_its_nodes_say() {
    let world = Still::of(2).await;
    assert_eq!(world.request(Method::GET, "/readyz", String::new()).await.0, 200);
    world.stop.cancel();
    let (status, body) = world.request(Method::GET, "/readyz", String::new()).await;
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("stopping"), "{body}");
    assert_eq!(world.request(Method::GET, "/healthz", String::new()).await.0, 200);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let world = World::of(1).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"POST /v1/query HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    let mut head = [0; 12];
    timeout(Duration::from_secs(2), stream.read_exact(&mut head)).await.expect("a reply").unwrap();
    assert_eq!(&head, b"HTTP/1.1 408");
}

#[tokio::test]
async fn it_stops_at_once_where_nothing_is_under_way() {
    let mut world = World::of(1).await;
    // One connection that said nothing, and one kept open after a reply.
    let _silent = TcpStream::connect(world.address).await.unwrap();
    let mut kept = TcpStream::connect(world.address).await.unwrap();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    kept.read_u8().await.unwrap();

    world.stop.cancel();
    let running = world.running.take().unwrap();
    timeout(Duration::from_secs(2), running.stopped()).await.expect("stops");
    assert!(TcpStream::connect(world.address).await.is_err());
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_it_stops() {
    let mut world = World::of(1).await;
    world.nodes[0].set_mood(Mood::HangsOn(Call::Partial));
    let running = world.running.take().unwrap();
    let start = Instant::now();
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.stop.cancel();
        running.stopped().await;
    };
    let question = json!({"site": "s.de"});
    let (answer, ()) = tokio::join!(world.ask(&question), stopping);
    assert_eq!(answer["facts"]["complete"], false);
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let world = World::of(0).await;
    let taken = CoordinatorConfig { http: world.address, ..config() };
    let parts = parts(world.view.subscribe(), Port::At(taken.http), Arc::new(Dial::default()));
    let error = Coordinator::start(taken, parts, Default::default()).await.unwrap_err();
    assert!(matches!(error, StartError::Bind { .. }));
    assert!(error.to_string().contains(&world.address.to_string()));
}
