//! One trace goes through a coordinator and the nodes it asks, and arrives at a collector.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_tests::PATIENCE;
use tidemark_tests::processes::{start_all, until_ready};
use tokio::time::Instant;

/// A span that a collector was told of.
#[derive(Clone, Debug)]
struct Seen {
    service: String,
    instance: String,
    name: String,
    kind: i32,
    trace: String,
    id: String,
    parent: String,
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector of our own, and what it was told.
async fn collector() -> (String, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let take = move |body: Bytes| async move {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for spans in request.resource_spans {
            let resource = spans.resource.unwrap();
            let attribute = |name: &str| {
                let found = resource.attributes.iter().find(|attribute| attribute.key == name).unwrap();
                match found.value.as_ref().unwrap().value.as_ref().unwrap() {
                    Value::StringValue(text) => text.clone(),
                    other => panic!("{other:?}"),
                }
            };
            let (service, instance) = (attribute("service.name"), attribute("service.instance.id"));
            for span in spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                told.lock().unwrap().push(Seen {
                    service: service.clone(),
                    instance: instance.clone(),
                    name: span.name,
                    kind: span.kind,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                });
            }
        }
        Vec::<u8>::new()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (format!("http://{address}"), seen)
}

/// The spans of a trace, once they are as `is_whole` wants them.
async fn trace(seen: &Mutex<Vec<Seen>>, id: &str, is_whole: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = seen.lock().unwrap().clone();
        let of: Vec<Seen> = all.iter().filter(|span| span.trace == id).cloned().collect();
        if is_whole(&of) {
            return of;
        }
        assert!(Instant::now() < deadline, "{id}: {of:#?}\nof {} spans", all.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn children<'a>(of: &'a [Seen], parent: &str, kind: i32, name: &str) -> Vec<&'a Seen> {
    of.iter().filter(|span| span.parent == parent && span.kind == kind && span.name == name).collect()
}

async fn ask(address: &str, path: &str, traceparent: &str, body: String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request =
        client.post(format!("http://{address}{path}")).header("traceparent", traceparent).body(body);
    let reply = request.send().await.unwrap();
    assert_eq!(reply.status(), 200, "{}", reply.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_spans_a_coordinator_and_two_nodes_with_the_right_parents() {
    _ = rustls::crypto::ring::default_provider().install_default();
    let (collector, seen) = collector().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let ready = ["the node serves", "the node serves", "coordinator is listening"];
    let (addresses, processes) = start_all(3, &ready, |addresses| {
        let seeds = addresses[..2].join(",");
        // Nothing that begins by itself is collected: one trace in so many that it never is.
        let traced = ["--otlp", &collector, "--otlp-one-in", "1000000000"];
        let node = |me: usize| {
            let (id, data, store) = (format!("n{me}"), format!("{folder}/{me}"), format!("{folder}/history"));
            let settings = ["node", "--id", &id, "--listen", &addresses[me], "--seeds", &seeds];
            let kept = ["--data", &data, "--store", &store];
            settings.iter().chain(&kept).chain(&traced).map(|&text| text.to_owned()).collect()
        };
        let coordinator = ["coordinator", "--http", &addresses[2], "--seeds", &seeds, "--id", "front"];
        let coordinator = coordinator.iter().chain(&traced).map(|&text| text.to_owned()).collect();
        vec![node(0), node(1), coordinator]
    })
    .await;
    until_ready(&addresses).await;

    // A question.
    let (id, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let question = json!({ "site": "example.com" }).to_string();
    ask(&addresses[2], "/v1/query", &format!("00-{id}-{parent}-01"), question.clone()).await;
    let nodes = |of: &[Seen]| of.iter().filter(|span| span.service == "tidemark-node").count();
    let spans =
        trace(&seen, id, |of| nodes(of) >= 2 && !children(of, parent, SERVER, "/v1/query").is_empty()).await;
    let root = children(&spans, parent, SERVER, "/v1/query");
    assert_eq!(root.len(), 1, "{spans:#?}");
    assert_eq!((root[0].service.as_str(), root[0].instance.as_str()), ("tidemark-coordinator", "front"));
    let calls = children(&spans, &root[0].id, CLIENT, "Cluster/QueryPartial");
    let answered: Vec<&Seen> =
        calls.iter().flat_map(|call| children(&spans, &call.id, SERVER, "Cluster/QueryPartial")).collect();
    let instances: BTreeSet<&str> = answered.iter().map(|span| span.instance.as_str()).collect();
    assert_eq!(instances, BTreeSet::from(["n0", "n1"]), "{spans:#?}");
    assert!(answered.iter().all(|span| span.service == "tidemark-node"));

    // Events, which one node passes on to the other.
    let id = "1af7651916cd43dd8448eb211c80319c";
    let events: Vec<_> = (0..50).map(|n| json!({ "site": "example.com", "url": format!("/{n}") })).collect();
    ask(&addresses[2], "/v1/events", &format!("00-{id}-{parent}-01"), json!(events).to_string()).await;
    let spans = trace(&seen, id, |of| {
        let applied = of.iter().any(|span| span.kind == SERVER && span.name == "Cluster/Apply");
        applied && nodes(of) >= 3 && !children(of, parent, SERVER, "/v1/events").is_empty()
    })
    .await;
    let mut at = children(&spans, parent, SERVER, "/v1/events")[0];
    for (kind, name) in [
        (CLIENT, "Ingest/SendRows"),
        (SERVER, "Ingest/SendRows"),
        (CLIENT, "Cluster/Apply"),
        (SERVER, "Cluster/Apply"),
    ] {
        at = children(&spans, &at.id, kind, name).first().unwrap_or_else(|| panic!("{name}: {spans:#?}"));
    }
    let began = spans.iter().find(|span| span.kind == SERVER && span.name == "Ingest/SendRows").unwrap();
    assert_ne!(at.instance, began.instance, "the owners are two nodes");

    // Who does not want spans has none, and nothing else was collected.
    let id = "2af7651916cd43dd8448eb211c80319c";
    ask(&addresses[2], "/v1/query", &format!("00-{id}-{parent}-00"), question).await;
    for process in processes.into_iter().rev() {
        assert_eq!(process.terminate().await, Some(0));
    }
    let others: Vec<Seen> =
        seen.lock().unwrap().iter().filter(|span| !span.trace.contains("af7651916")).cloned().collect();
    assert!(others.is_empty(), "{others:#?}");
    assert!(!seen.lock().unwrap().iter().any(|span| span.trace == id));
}
