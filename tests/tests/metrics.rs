//! What `/metrics` of nodes, coordinators and edges shows is what `docs/metrics.md` says, and no more, whatever arrives.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use futures::StreamExt as _;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_edge::{Edge, EdgeConfig, EdgeMetrics, Sites};
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::Clock as _;
use tidemark_shell::link::Dial;
use tidemark_telemetry::Telemetry;
use tidemark_tests::http::Http;
use tidemark_tests::in_process::Cluster;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const DOCUMENT: &str = include_str!("../../docs/metrics.md");

/// A metric as the document has it, or as it is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Metric {
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
}

/// A label as the document has it.
struct Label {
    /// The values that there may be; empty where they are not named one by one.
    values: BTreeSet<String>,
    at_most: usize,
}

/// The cells of the document's tables whose first column has this name.
fn table(first: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut is_inside = false;
    for line in DOCUMENT.lines() {
        let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            is_inside = false;
            continue;
        };
        let cells: Vec<String> = inner.split('|').map(|cell| cell.trim().to_owned()).collect();
        match cells[0].as_str() {
            name if name == first => is_inside = true,
            name if name.starts_with("---") => {}
            _ if is_inside => rows.push(cells),
            _ => {}
        }
    }
    assert!(!rows.is_empty(), "the document has no table of {first}");
    rows
}

/// What stands between backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The document's metrics that this server has.
fn documented(server: &str) -> BTreeMap<String, Metric> {
    let is_member = server != "edge";
    let is_its = |row: &Vec<String>| match row[1].as_str() {
        "all" => true,
        "members" => is_member,
        from => from == server,
    };
    let rows = table("metric").into_iter().filter(is_its);
    let metric = |row: Vec<String>| {
        let name = quoted(&row[0]).pop_first().unwrap();
        assert!(!row[5].is_empty(), "{name} has no explanation");
        (name, Metric { kind: row[2].clone(), unit: row[3].clone(), labels: quoted(&row[4]) })
    };
    rows.map(metric).collect()
}

fn labels() -> BTreeMap<String, Label> {
    let label = |row: Vec<String>| {
        let values = if row[1].starts_with('`') { quoted(&row[1]) } else { BTreeSet::new() };
        (quoted(&row[0]).pop_first().unwrap(), Label { values, at_most: row[2].parse().unwrap() })
    };
    table("label").into_iter().map(label).collect()
}

/// A line of the text: the name, and labels without those of a histogram's buckets.
fn series(line: &str) -> (String, BTreeMap<String, String>) {
    let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_prefix('{').unwrap_or("}");
    while let Some((label, after)) = rest.split_once("=\"") {
        if label.contains('}') {
            break;
        }
        let end = after.find('"').unwrap();
        labels.insert(label.trim_start_matches(',').to_owned(), after[..end].to_owned());
        rest = &after[end + 1..];
    }
    labels.remove("le");
    (name.to_owned(), labels)
}

async fn page(http: &Http) -> String {
    let (status, page) = http.get("/metrics").await;
    assert_eq!(status, 200);
    page
}

/// What a page exports, by the name that a query uses, and the values of labels.
fn exported(page: &str) -> (BTreeMap<String, Metric>, BTreeMap<String, BTreeSet<String>>) {
    let (mut metrics, mut values) = (BTreeMap::new(), BTreeMap::<_, BTreeSet<String>>::new());
    let mut family: Option<(String, String, String)> = None;
    for line in page.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(help.len() > 5, "{line}");
                family = Some((name.to_owned(), String::new(), String::new()));
            }
            ["#", "TYPE", _, kind] => family.as_mut().unwrap().1 = kind.to_owned(),
            ["#", "UNIT", _, unit] => family.as_mut().unwrap().2 = unit.to_owned(),
            ["#", "EOF"] => {}
            _ => {
                let (base, kind, unit) = family.clone().unwrap();
                let name = match kind.as_str() {
                    "counter" => format!("{base}_total"),
                    "info" => format!("{base}_info"),
                    _ => base.clone(),
                };
                let (of, labels) = series(line);
                assert!(of.starts_with(&base), "{line} is not of {base}");
                for (label, value) in &labels {
                    values.entry(label.clone()).or_default().insert(value.clone());
                }
                let names: BTreeSet<String> = labels.into_keys().collect();
                let found = Metric { kind, unit, labels: names };
                let known = metrics.entry(name).or_insert_with(|| found.clone());
                assert_eq!(*known, found, "{line}: series of one metric differ in their labels");
            }
        }
    }
    (metrics, values)
}

/// All series of a page, but for those of calls that members make of one another, which come in their own time, and for how calls ended:
/// which of two ends of a stream goes first is chance. Methods and codes are compared with the document's.
fn all_series(page: &str) -> BTreeSet<String> {
    let is_own = |line: &str| line.contains("method=\"Cluster/") || line.contains("method=\"Health/");
    let lines = page.lines().filter(|line| !line.starts_with('#') && !is_own(line));
    let names = lines.map(|line| line.rsplit_once(' ').unwrap().0);
    names.map(|name| name.split(",code=").next().unwrap().to_owned()).collect()
}

/// Does with a cluster whatever users can do, under `count` names that begin with `stem`.
async fn exercise(cluster: &Cluster, stem: &str, count: u64) {
    let now_ms = SystemClock.now().as_unix_ms();
    let hostile = ["\"", "\n", "\\", "{x=\"y\"}", "é", " ", "#", ","];
    let event = |n: u64| {
        let odd = hostile[n as usize % hostile.len()];
        let dimension =
            |key: String, value: String| v1::event::DimensionsEntry { key: key.into(), value: value.into() };
        v1::Event {
            site: (if n.is_multiple_of(3) {
                format!("{stem}{odd}{n}")
            } else {
                format!("{stem}-{n}.example")
            })
            .into(),
            url: format!("/{stem}{odd}{n}?{n}").into(),
            time_ms: if n.is_multiple_of(5) { now_ms - (n as i64) * 1_000_000_000 } else { now_ms },
            kind: format!("{stem}{odd}{n}").into(),
            visitor: format!("{stem}{n}").into(),
            dimensions: vec![
                dimension(format!("{stem}{odd}{n}"), "x".to_owned()),
                dimension("country".to_owned(), format!("{stem}{odd}{n}")),
            ],
            values: vec![v1::event::ValuesEntry { key: format!("{stem}{odd}{n}").into(), value: -1 }],
            ..v1::Event::default()
        }
    };
    for node in 0..2 {
        let producer = format!("{stem}{node}................").into_bytes()[..16].to_vec();
        let batch = v1::EventBatch {
            producer: producer.into(),
            seq: 1,
            sealed_at_ms: now_ms,
            events: (0..count).map(event).collect(),
        };
        let mut client = IngestClient::connect(cluster.url(node)).await.unwrap();
        let batches = [batch.clone(), v1::EventBatch::default(), batch];
        let acks = client.send_rows(futures::stream::iter(batches)).await.unwrap().into_inner();
        assert_eq!(acks.collect::<Vec<_>>().await.len(), 3);
    }
    for n in 0..count.min(40) {
        let odd = hostile[n as usize % hostile.len()];
        let (site, name) = (format!("{stem}-{n}.example"), format!("{stem}{odd}{n}"));
        for body in [
            json!({ "site": site }),
            json!({ "site": site, "group_by": [name] }),
            json!({ "site": name, "filters": [{ "dimension": name, "in": [name] }] }),
        ] {
            cluster.http.post("/v1/query", body.to_string()).await;
        }
        cluster
            .http
            .post("/v1/events", json!([{ "site": name, "url": "/", (name.clone()): name }]).to_string())
            .await;
        cluster.http.post("/v1/events", name.clone()).await;
        for http in [&cluster.http, &cluster.http_of(0)] {
            for path in ["/healthz", "/readyz", "/metrics"] {
                http.get(path).await;
            }
            http.get(&format!("/{stem}-{n}")).await;
            http.get(&format!("/assets/{stem}-{n}")).await;
            http.post(&format!("/tidemark.v1.Ingest/{stem}-{n}"), "").await;
            http.post("/healthz", "").await;
        }
        unknown_method(&cluster.url(0), &format!("/tidemark.v1.Cluster/{stem}{n}")).await;
        unknown_method(&format!("http://{}", cluster.http_address), &format!("/{stem}.{n}/Call")).await;
    }
    let mut analytics = AnalyticsClient::connect(format!("http://{}", cluster.http_address)).await.unwrap();
    analytics.describe(v1::DescribeRequest {}).await.unwrap();
    let query = v1::Query { site: format!("{stem}-1.example"), ..v1::Query::default() };
    let subscription = v1::Subscription { query: Some(query), ..v1::Subscription::default() };
    let request = v1::SubscribeRequest { subscriptions: vec![subscription] };
    let mut updates = analytics.subscribe(request).await.unwrap().into_inner();
    assert!(updates.message().await.unwrap().is_some());
}

/// Calls what there is not.
async fn unknown_method(url: &str, path: &str) {
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::StatusRequest, v1::StatusReply>::default();
    let request = tonic::Request::new(v1::StatusRequest {});
    let status = client.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
}

/// An edge before a cluster's nodes, and its HTTP side.
struct TestEdge {
    http: Http,
    _stop: DropGuard,
    _folder: tempfile::TempDir,
}

impl TestEdge {
    async fn start(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sites = Sites::parse(["edge.example"]).unwrap();
        let config =
            EdgeConfig { spool: folder.path().to_owned(), ..EdgeConfig::new(vec![cluster.url(0)], sites) };
        let mut registry = Registry::default();
        let parts = tidemark_edge::Parts {
            access: tidemark_access::Access::OPEN,
            tls: None,
            clock: Arc::new(SystemClock),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            connect: Arc::new(Dial::default()),
            producer: ProducerId::from_u128(0xED),
            entropy: Arc::new(|bytes| {
                bytes.fill(7);
                Ok(())
            }),
            geo: None,
            metrics: EdgeMetrics::new(&mut registry),
            telemetry: Telemetry::new(&mut registry, "test"),
            registry: Arc::new(Mutex::new(registry)),
        };
        let stop = CancellationToken::new();
        let edge = Edge::start(config, parts, stop.clone()).await.unwrap();
        let http = Http::new(&edge.address().to_string());
        let deadline = tokio::time::Instant::now() + tidemark_tests::PATIENCE;
        while http.get("/readyz").await.0 != 200 {
            assert!(tokio::time::Instant::now() < deadline, "the edge is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { http, _stop: stop.drop_guard(), _folder: folder }
    }

    /// Does with it whatever users can do.
    async fn exercise(&self, stem: &str, count: u64) {
        for n in 0..count {
            for site in ["edge.example".to_owned(), format!("{stem}{n}.example"), format!("{stem}\"{n}")] {
                let post = json!({ "site": site, "events": [{ "url": format!("/{stem}{n}") }, { stem: n }] });
                self.http.post("/v1/collect", post.to_string()).await;
                self.http.get(&format!("/t.gif?site={site}&url=/{stem}{n}&{stem}{n}=x")).await;
            }
            self.http.post("/v1/collect", format!("{stem}{n}")).await;
            for path in ["/healthz", "/readyz", "/metrics", "/tidemark.js", &format!("/{stem}{n}")] {
                self.http.get(path).await;
            }
            self.http.post("/healthz", "").await;
        }
    }
}

async fn cluster() -> Cluster {
    Cluster::start(2, 4, Arc::new(SystemClock), |_, _| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_documented_and_what_is_documented_is_exported() {
    let cluster = cluster().await;
    let edge = TestEdge::start(&cluster).await;
    exercise(&cluster, "a", 20).await;
    edge.exercise("a", 3).await;
    let mut values = BTreeMap::<String, BTreeSet<String>>::new();
    let all =
        [("node", cluster.http_of(0)), ("coordinator", cluster.http.clone()), ("edge", edge.http.clone())];
    for (server, http) in all {
        let (exported, of_labels) = exported(&page(&http).await);
        let documented = documented(server);
        for (name, metric) in &exported {
            assert_eq!(
                Some(metric),
                documented.get(name),
                "{name}, exported by a {server}, and as documented"
            );
        }
        // Without tokens nobody is refused.
        let is_lacking =
            |name: &&String| !exported.contains_key(*name) && *name != "tidemark_access_refused_total";
        let lacking: Vec<&String> = documented.keys().filter(is_lacking).collect();
        assert!(lacking.is_empty(), "{lacking:?} are documented, and a {server} does not export them");
        of_labels.into_iter().for_each(|(label, of)| values.entry(label).or_default().extend(of));
    }
    let labels = labels();
    for (name, values) in &values {
        let label = labels.get(name).unwrap_or_else(|| panic!("the label {name} is not documented"));
        assert!(values.len() <= label.at_most, "{name} has {} values: {values:?}", values.len());
        let others: Vec<&String> = values
            .iter()
            .filter(|value| !label.values.is_empty() && !label.values.contains(*value))
            .collect();
        assert!(others.is_empty(), "{name} has values that are not documented: {others:?}");
    }
    let unused: Vec<&String> = labels.keys().filter(|label| !values.contains_key(*label)).collect();
    assert!(unused.is_empty(), "{unused:?} are documented as labels, and no metric has them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_sites_urls_and_hostile_names_adds_not_a_single_time_series() {
    let cluster = cluster().await;
    let edge = TestEdge::start(&cluster).await;
    let https = [cluster.http_of(0), cluster.http.clone(), edge.http.clone()];
    let mut before = Vec::new();
    exercise(&cluster, "before", 40).await;
    edge.exercise("before", 5).await;
    for http in &https {
        before.push(all_series(&page(http).await));
    }
    exercise(&cluster, "flood", 2_000).await;
    edge.exercise("flood", 50).await;
    for (http, before) in https.iter().zip(before) {
        let page = page(http).await;
        let added: Vec<String> = all_series(&page).difference(&before).cloned().collect();
        assert!(added.is_empty(), "{added:#?}");
        assert!(!page.contains("flood"), "a name of the outside is in the text");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_process_takes_and_how_many_are_connected_is_what_the_system_says() {
    let cluster = cluster().await;
    let http = cluster.http_of(0);
    let value = |page: &str, name: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let before = page(&http).await;
    assert!(value(&before, "process_resident_memory_bytes ") > 1e6);
    assert!(value(&before, "process_threads ") >= 2.0);
    assert!(value(&before, "process_max_fds ") >= value(&before, "process_open_fds "));
    let open = "tidemark_connections_open{server=\"node\"}";
    let held: Vec<_> = futures::stream::iter(0..20)
        .then(|_| async { IngestClient::connect(cluster.url(0)).await.unwrap() })
        .collect()
        .await;
    let deadline = tokio::time::Instant::now() + tidemark_tests::PATIENCE;
    let during = loop {
        let during = page(&http).await;
        if value(&during, open) >= value(&before, open) + 20.0 {
            break during;
        }
        assert!(tokio::time::Instant::now() < deadline, "{before}\n{during}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Both ends are of this process.
    assert!(value(&during, "process_open_fds ") >= 40.0);
    drop(held);
    while value(&page(&http).await, open) > value(&before, open) + 5.0 {
        assert!(tokio::time::Instant::now() < deadline, "connections stay open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
