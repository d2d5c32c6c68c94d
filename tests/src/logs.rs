//! Access logs with independently computed answers.
//!
//! The project ships a made-up log. Real ones are looked for at `TIDEMARK_TEST_DATA`; where they are absent, tests say so
//! and go on.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_client::QueryClient;
use tidemark_loadgen::log::{LogFormat, ParseOptions, parse_line};
use tidemark_loadgen::reader::LogReader;
use tidemark_loadgen::replay::{ReplayOptions, ReplayReport, Speed, replay};
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::canonical::{self, KeepParams};
use tidemark_rollup::time::{Clock, EventTime};

/// How old events of the logs may be: they are of years ago.
pub const ACCEPT_LATE: Duration = Duration::from_secs(50 * 366 * 86_400);

/// Up to so many visitors are counted exactly.
const EXACT_MAX: u64 = tidemark_rollup::measure::unique::EXACT_MAX as u64;

/// A log and what is known about it.
#[derive(Clone, Debug)]
pub struct KnownLog {
    /// The log.
    pub path: PathBuf,
    /// Its answers, as the reference script printed them.
    pub answers: Value,
    /// What its lines look like.
    pub format: LogFormat,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

impl KnownLog {
    fn open(path: PathBuf, answers: &Path, format: LogFormat) -> Self {
        let answers = std::fs::read_to_string(answers).unwrap();
        Self { path, answers: serde_json::from_str(&answers).unwrap(), format }
    }

    /// The log that ships with the project.
    pub fn sample() -> Self {
        let folder = root().join("tests/data");
        let path = folder.join("sample-combined.log");
        Self::open(path, &folder.join("sample-combined.answers.json"), LogFormat::Combined)
    }

    /// The real logs, as far as they are there.
    pub fn real() -> Vec<Self> {
        let folder = std::env::var_os("TIDEMARK_TEST_DATA")
            .map_or_else(|| root().join("../shared/data"), PathBuf::from);
        let logs = [
            ("elastic-apache-combined", "log.gz", LogFormat::Combined),
            ("usagov-bitly-clicks", "ndjson.gz", LogFormat::Bitly),
        ];
        let mut found = Vec::new();
        for (name, ending, format) in logs {
            let path = folder.join(format!("{name}.{ending}"));
            if path.exists() {
                found.push(Self::open(path, &folder.join(format!("{name}.answers.json")), format));
            } else {
                // Straight to the terminal: the test runner hides what passing tests print.
                let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {name} is not in {}", folder.display());
            }
        }
        found
    }

    /// A whole number of the answers, by path: `totals.hits`.
    pub fn number(&self, path: &str) -> u64 {
        let found = path.split('.').fold(&self.answers, |value, key| &value[key]);
        found.as_u64().unwrap_or_else(|| panic!("the answers have no number {path}"))
    }

    /// Replays the log as it is into a node.
    pub async fn replay(&self, site: &str, to: &str, producer: u128, clock: &dyn Clock) -> ReplayReport {
        let options = ReplayOptions {
            path: self.path.clone(),
            site: site.to_owned(),
            to: to.to_owned(),
            dial: Default::default(),
            format: self.format,
            keep_query: self.format == LogFormat::Bitly,
            shift_ms: 0,
            speed: Speed::Max,
            producer: ProducerId::from_u128(producer),
        };
        replay(&options, clock, |_| {}).await.unwrap()
    }

    /// A query over all of the log.
    pub fn query(&self, site: &str, measures: &[&str]) -> v1::Query {
        let at = |key: &str, offset: i64| {
            let seconds = self.answers["time"][key].as_i64().unwrap();
            EventTime::from_unix_ms((seconds + offset) * 1000).to_string()
        };
        v1::Query {
            site: site.to_owned(),
            from: at("min_epoch", 0),
            to: at("max_epoch", 1),
            measures: measures.iter().map(|&measure| measure.to_owned()).collect(),
            limit: 10_000,
            ..v1::Query::default()
        }
    }
}

/// Asserts that the cluster behind `at` gives the answers of the log; returns the facts of the total.
pub async fn assert_answers(log: &KnownLog, site: &str, at: &str) -> v1::Facts {
    let client = QueryClient::connect(at).await.unwrap();
    let ask = async |query: v1::Query| {
        let answer = client.query(query.clone()).await.unwrap();
        assert!(answer.facts.as_ref().unwrap().complete, "{query:?}: {:?}", answer.facts);
        answer
    };
    let total = ask(log.query(site, &["views", "visitors", "bytes"])).await;
    let numbers = numbers(&total.rows[0], 0);
    let combined = log.format == LogFormat::Combined;
    let malformed = if combined { log.number("totals.malformed_requests") } else { 0 };
    assert_eq!(malformed, 0, "a request without a target is a hit there and no event here");
    assert_eq!(numbers[0], log.number("totals.hits"));
    let visitors =
        log.number(if combined { "distinct.visitors_host_ua" } else { "distinct.visitor_standin" });
    assert!(numbers[1].abs_diff(visitors) * 50 <= visitors, "{} visitors instead of {visitors}", numbers[1]);
    if combined {
        assert_eq!(numbers[2], log.number("totals.bytes"));
    }

    assert_buckets(
        log,
        ask(v1::Query { granularity: "5m".into(), ..log.query(site, &["views", "visitors"]) }).await,
    );
    let days = ask(v1::Query { granularity: "1d".into(), ..log.query(site, &["views", "visitors"]) }).await;
    for row in &days.rows {
        let day = &log.answers["utc_days"][&text(&row.values[0])[..10]];
        let [hits, visitors] = [&day["hits"], &day["visitors"]].map(|number| number.as_u64().unwrap());
        let read = self::numbers(row, 1);
        assert_eq!(read[0], hits);
        assert!(read[1].abs_diff(visitors) * 50 <= visitors, "{} instead of {visitors}", read[1]);
    }
    assert_eq!(days.rows.len(), log.answers["utc_days"].as_object().unwrap().len());

    let by = async |group: &str| {
        let query = v1::Query { group_by: vec![group.to_owned()], ..log.query(site, &["views"]) };
        let answer = ask(query).await;
        answer.rows.iter().map(|row| (text(&row.values[0]), self::numbers(row, 1)[0])).collect::<Vec<_>>()
    };
    let top = |key: &str| -> Vec<(String, u64)> {
        let list = log.answers[key].as_array().unwrap_or_else(|| panic!("the answers have no list {key}"));
        list.iter().map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].as_u64().unwrap())).collect()
    };
    let urls = by("url").await;
    let expected = if combined { top("top_paths") } else { recounted_urls(log, site) };
    assert_eq!(urls[..expected.len()], expected);

    let referrers: Vec<_> = by("referrer").await;
    let (unset, set): (Vec<_>, Vec<_>) = referrers.into_iter().partition(|(host, _)| host.is_empty());
    assert_eq!(unset[0].1, log.number("no_referrer"));
    assert_eq!(set[..10], top("top_referrer_hosts"));
    assert_eq!(set.len() as u64, log.number("distinct_referrer_hosts"));
    if combined {
        assert_eq!(urls.len() as u64, log.number("distinct.paths"));
        let classes: BTreeMap<String, u64> = by("status").await.into_iter().collect();
        let expected: BTreeMap<String, u64> =
            serde_json::from_value(log.answers["status_classes"].clone()).unwrap();
        assert_eq!(classes, expected);
    } else {
        assert_eq!(by("country").await[..10], top("top_countries"));
    }
    total.facts.unwrap()
}

/// The ten most clicked URLs. The reference counts them as they stand in the log; several spellings may be one canonical
/// URL, so these are counted again, one by one.
fn recounted_urls(log: &KnownLog, site: &str) -> Vec<(String, u64)> {
    let options = ParseOptions { keep_query: true, ..ParseOptions::new(log.format, site) };
    let mut reader = LogReader::open(&log.path).unwrap();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(line) = reader.next_line().unwrap() {
        let Ok(Some(event)) = line.and_then(|line| parse_line(line, &options)) else { continue };
        let url = std::str::from_utf8(&event.url).unwrap();
        let url = canonical::url(site, url, &KeepParams::all()).unwrap().url.into_owned();
        *counts.entry(url).or_default() += 1;
    }
    let mut top: Vec<(String, u64)> = counts.into_iter().collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    top.truncate(10);
    top
}

fn assert_buckets(log: &KnownLog, series: v1::Answer) {
    let expected = log.answers["buckets"].as_object().unwrap();
    assert_eq!(series.rows.len(), expected.len());
    for row in &series.rows {
        let time = text(&row.values[0]);
        let read = numbers(row, 1);
        let [hits, visitors] = ["hits", "visitors"].map(|key| expected[&time][key].as_u64().unwrap());
        assert_eq!(read[0], hits, "hits at {time}");
        // Exact where small.
        let slack = if visitors <= EXACT_MAX { 0 } else { visitors / 50 };
        assert!(read[1].abs_diff(visitors) <= slack, "{} visitors instead of {visitors} at {time}", read[1]);
    }
}

fn text(value: &v1::Value) -> String {
    match &value.kind {
        Some(v1::value::Kind::Text(text)) => text.clone(),
        other => panic!("{other:?} is no text"),
    }
}

fn numbers(row: &v1::Row, from: usize) -> Vec<u64> {
    let number = |value: &v1::Value| match value.kind {
        Some(v1::value::Kind::Integer(integer)) => integer,
        ref other => panic!("{other:?} is no integer"),
    };
    row.values[from..].iter().map(number).collect()
}
