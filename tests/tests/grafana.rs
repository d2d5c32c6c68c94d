//! Grafana: whatever the dashboards of `deploy/grafana` ask for is there.
//!
//! Every URL is asked of a running cluster, and every selector has to find a value; every PromQL expression is parsed, and every
//! metric in it has to be in the text of `/metrics`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use promql_parser::parser::{self, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::time::Clock as _;
use tidemark_tests::history_support::{noon, quick};
use tidemark_tests::in_process::Cluster;

const INFINITY: &str = "yesoreyeram-infinity-datasource";
fn file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_yaml_ng::from_str(&file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dashboards() -> Vec<Value> {
    ["tidemark-content", "tidemark-cluster"]
        .map(|name| serde_json::from_str(&file(&format!("dashboards/{name}.json"))).unwrap())
        .into()
}

/// All objects below a value.
fn objects(value: &Value) -> Vec<&Value> {
    let below: Vec<&Value> = match value {
        Value::Object(fields) => fields.values().flat_map(objects).collect(),
        Value::Array(items) => items.iter().flat_map(objects).collect(),
        _ => Vec::new(),
    };
    value.is_object().then_some(value).into_iter().chain(below).collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// A URL as Grafana asks for it.
fn filled_in(url: &str, from: &str, to: &str) -> String {
    let url = url
        .replace("${site:percentencode}", "grafana.example")
        .replace("${granularity}", "5m")
        .replace("${__from:date:iso}", from)
        .replace("${__to:date:iso}", to);
    assert!(!url.contains('$'), "{url} has a variable that this test does not know");
    url
}

/// What the plugin makes of an answer: for each row of the root, the value of each column.
fn selected<'a>(answer: &'a Value, target: &Value) -> Vec<Vec<&'a Value>> {
    let root = &answer[text(target, "root_selector")];
    let rows: Vec<&Value> = match root {
        Value::Array(rows) => rows.iter().collect(),
        Value::Object(_) => vec![root],
        other => panic!("the root is {other}"),
    };
    let columns = target["columns"].as_array().unwrap();
    let pick = |row: &'a Value, selector: &str| {
        selector.split('.').fold(row, |value, part| match part.parse::<usize>() {
            Ok(position) if value.is_array() => &value[position],
            _ => &value[part],
        })
    };
    rows.into_iter()
        .map(|row| columns.iter().map(|column| pick(row, text(column, "selector"))).collect())
        .collect()
}

/// Whether a value is of the kind that a column is said to be of.
fn fits(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "timestamp" => value.as_str().is_some_and(|text| text.ends_with('Z') && text.contains('T')),
        other => panic!("no kind of column: {other}"),
    }
}

fn event(n: u64, time_ms: i64) -> v1::Event {
    let dimension = |(key, value): (&str, &str)| v1::event::DimensionsEntry {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
    };
    v1::Event {
        site: "grafana.example".into(),
        url: format!("/{}", n % 7).into(),
        time_ms,
        visitor_hash: n + 1,
        dimensions: [("referrer", "news.example"), ("country", "DE"), ("device", "mobile")]
            .map(dimension)
            .to_vec(),
        values: vec![v1::event::ValuesEntry { key: "load_ms".into(), value: 100 + n as i64 }],
        ..v1::Event::default()
    }
}

/// A cluster that has events of the last half hour and of a week ago, of which some are committed and verified.
async fn cluster() -> (Cluster, String, String) {
    let clock = noon();
    let cluster = Cluster::start(2, 4, clock.clone(), |node, coordinator| {
        quick(node, coordinator);
        node.times.accept_late = Duration::from_secs(10 * 86_400);
        node.verify_every = Some(Duration::from_millis(50));
    })
    .await;
    let now_ms = clock.now().as_unix_ms();
    let week_ms = 7 * 86_400_000;
    let ages = [0, 60_000, 600_000, 1_500_000, week_ms + 60_000, week_ms + 600_000];
    let events = (0..300_u64).map(|n| event(n, now_ms - ages[n as usize % ages.len()])).collect();
    let batch = v1::EventBatch { producer: vec![9; 16].into(), seq: 1, sealed_at_ms: now_ms, events };
    let mut client = IngestClient::connect(cluster.url(0)).await.unwrap();
    let acks = client.send_rows(futures::stream::iter([batch])).await.unwrap();
    let ack = acks.into_inner().message().await.unwrap().unwrap();
    assert_eq!((ack.accepted, ack.refused), (300, None));
    cluster.until("something is committed", |cluster| cluster.metric("tidemark_commits_total") > 0).await;
    clock.set(clock.now().plus(Duration::from_secs(30)));
    cluster.until("it is verified", |cluster| cluster.metric("tidemark_verified_buckets_total") > 0).await;
    let iso = |ago_ms: i64| {
        let time = tidemark_rollup::time::EventTime::from_unix_ms(now_ms - ago_ms).to_string();
        // Grafana writes milliseconds, always.
        time.replace('Z', ".000Z")
    };
    (cluster, iso(3_600_000), iso(-60_000))
}

#[tokio::test]
async fn every_url_of_the_dashboards_is_answered_and_every_selector_finds_values() {
    let (cluster, from, to) = cluster().await;
    let dashboards = dashboards();
    let targets = dashboards.iter().flat_map(objects).filter(|object| object.get("root_selector").is_some());
    let mut asked = 0;
    for target in targets {
        assert_eq!(text(&target["datasource"], "type"), INFINITY);
        assert_eq!(
            (text(target, "type"), text(target, "parser"), text(target, "source")),
            ("json", "backend", "url")
        );
        let url = filled_in(text(target, "url"), &from, &to);
        let (status, body) = cluster.http.get(&url).await;
        assert_eq!(status, 200, "{url}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let rows = selected(&answer, target);
        assert!(!rows.is_empty(), "{url} has no rows: {body}");
        if let Some(columns) = answer["columns"].as_array()
            && text(target, "root_selector") == "rows"
            && text(target, "refId") != "site"
        {
            assert_eq!(columns.len(), target["columns"].as_array().unwrap().len(), "{url}: {columns:?}");
        }
        for (at, column) in target["columns"].as_array().unwrap().iter().enumerate() {
            let (name, kind) = (text(column, "text"), text(column, "type"));
            let values: Vec<&Value> =
                rows.iter().map(|row| row[at]).filter(|value| !value.is_null()).collect();
            assert!(!values.is_empty(), "{url}: nothing is at {} ({name}): {body}", column["selector"]);
            assert!(values.iter().all(|value| fits(value, kind)), "{url}: {name} is no {kind}: {values:?}");
        }
        asked += 1;
    }
    assert!(asked >= 15, "only {asked} URLs were found");
}

/// The names of metrics in an expression.
struct Metrics(BTreeSet<String>);

impl ExprVisitor for Metrics {
    type Error = String;

    fn pre_visit(&mut self, expr: &parser::Expr) -> Result<bool, String> {
        let mut note = |selector: &VectorSelector| self.0.extend(selector.name.clone());
        match expr {
            parser::Expr::VectorSelector(selector) => note(selector),
            parser::Expr::MatrixSelector(matrix) => note(&matrix.vs),
            _ => {}
        }
        Ok(true)
    }
}

fn metrics_of(expression: &str) -> BTreeSet<String> {
    let expression = expression.replace("$__rate_interval", "1m").replace("$node", ".*");
    let parsed = parser::parse(&expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut metrics = Metrics(BTreeSet::new());
    walk_expr(&mut metrics, &parsed).unwrap();
    assert!(!metrics.0.is_empty(), "{expression} names no metric");
    metrics.0
}

/// All PromQL of dashboards and alerts, and the metric of the list of nodes.
fn wanted() -> BTreeSet<String> {
    let (dashboards, alerts) = (dashboards(), yaml("alerts.yml"));
    let all = dashboards.iter().chain([&alerts]).flat_map(objects);
    let expressions: Vec<&str> = all.filter_map(|object| object.get("expr")?.as_str()).collect();
    assert!(expressions.len() > 30, "only {} expressions were found", expressions.len());
    let list = dashboards[1]["templating"]["list"][0]["query"]["query"].as_str().unwrap();
    let of_list = list.strip_prefix("label_values(").and_then(|rest| rest.split(',').next()).unwrap();
    expressions.into_iter().flat_map(metrics_of).chain([of_list.to_owned()]).collect()
}

#[tokio::test]
async fn every_metric_of_dashboards_and_alerts_is_in_the_text_of_metrics() {
    let (cluster, ..) = cluster().await;
    let mut page = String::new();
    for of in [cluster.http.clone(), cluster.http_of(0)] {
        let (status, text) = of.get("/metrics").await;
        assert_eq!(status, 200);
        page.push_str(&text);
    }
    let there: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    // Prometheus itself makes this one: whether a target could be scraped.
    let of_prometheus = |name: &String| name == "up";
    let lacking: Vec<String> =
        wanted().into_iter().filter(|name| !there.contains(name.as_str()) && !of_prometheus(name)).collect();
    assert!(lacking.is_empty(), "{lacking:?} are not in\n{page}");
}

#[test]
fn dashboards_refer_to_provisioned_data_sources_and_panels_neither_share_ids_nor_overlap() {
    let sources = yaml("provisioning/datasources/tidemark.yml");
    assert_eq!(sources["apiVersion"], 1);
    let known: BTreeSet<(&str, &str)> = sources["datasources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| (text(of, "type"), text(of, "uid")))
        .collect();
    let mut uids = BTreeSet::new();
    for dashboard in &dashboards() {
        assert!(uids.insert(text(dashboard, "uid").to_owned()));
        for source in objects(dashboard).into_iter().filter_map(|object| object.get("datasource")) {
            assert!(known.contains(&(text(source, "type"), text(source, "uid"))), "{source}");
        }
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len());
        let mut cells = BTreeSet::new();
        for panel in panels {
            let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{} is too wide", panel["title"]);
            for (x, y) in
                (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
            {
                assert!(cells.insert((x, y)), "{} overlaps another panel", panel["title"]);
            }
        }
    }
}

#[test]
fn provisioning_scraping_and_alerts_are_complete() {
    let provider = &yaml("provisioning/dashboards/tidemark.yml")["providers"][0];
    assert_eq!((text(provider, "type"), provider["options"]["path"].is_string()), ("file", true));
    let prometheus = yaml("prometheus.yml");
    let jobs = prometheus["scrape_configs"].as_array().unwrap();
    assert!(
        jobs.iter().all(|job| job["static_configs"][0]["targets"].is_array() && job["job_name"].is_string())
    );
    assert_eq!(prometheus["rule_files"][0], "alerts.yml");
    for rule in yaml("alerts.yml")["groups"][0]["rules"].as_array().unwrap() {
        assert!(
            rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string(),
            "{rule}"
        );
    }
}
