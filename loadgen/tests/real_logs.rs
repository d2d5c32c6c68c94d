//! Whole logs against the answers of an independent script.
//!
//! The sample log ships with the project. Two logs of real traffic do not: they hold data about real people. They are
//! looked for in `TIDEMARK_TEST_DATA` (relative to the workspace; `../shared/data` if unset), and a test whose log is
//! absent says so and passes.
// A test that panics says what is wrong; the helpers below are part of tests.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tidemark_loadgen::log::{LineFault, LogEvent, LogFormat, ParseOptions, parse_line};
use tidemark_loadgen::reader::{LogReader, scan_newest_time};

const BUCKET_S: i64 = 300;

#[test]
fn the_sample_log_has_the_answers_of_the_reference() {
    let log = workspace().join("tests/data/sample-combined.log");
    let (counts, answers) = compare(&log, ParseOptions::new(LogFormat::Combined, "example.com"));
    compare_combined(&counts, &answers);
    assert_eq!(counts.hits, 4_998);
    // All but the line in Common Log Format.
    assert_eq!(counts.with_load_time, counts.hits - 1);
}

#[test]
fn a_real_access_log_has_the_answers_of_the_reference() {
    let Some(log) = real_log("elastic-apache-combined.log.gz") else { return };
    let (counts, answers) = compare(&log, ParseOptions::new(LogFormat::Combined, "semicomplete.com"));
    compare_combined(&counts, &answers);
    assert_eq!(counts.with_load_time, 0);
    let internal = counts.referrers["www.semicomplete.com"] + counts.referrers["semicomplete.com"];
    assert_eq!(counts.dimensions[&("channel", "internal".into())], internal);
}

#[test]
fn a_real_click_log_has_the_answers_of_the_reference() {
    let Some(log) = real_log("usagov-bitly-clicks.ndjson.gz") else { return };
    // The reference counts whole target URLs.
    let options = ParseOptions { keep_query: true, ..ParseOptions::new(LogFormat::Bitly, "1.usa.gov") };
    let (counts, answers) = compare(&log, options);
    assert_eq!(
        counts.skipped,
        answers["totals"]["blank"].as_u64().unwrap() + number(&answers, "totals", "heartbeats")
    );
    assert_eq!(counts.visitors.len() as u64, number(&answers, "distinct", "visitor_standin"));
    assert_eq!(counts.pages.len() as u64, number(&answers, "distinct", "urls"));
    assert_eq!(top(&counts.pages, 10), listed(&answers["top_urls"]));
    assert_eq!(
        counts.dimensions[&("visitor_type", "returning".into())],
        number(&answers, "known_user_flag_nk", "1")
    );
    for (country, clicks) in listed(&answers["top_countries"]) {
        let counted = counts.dimensions.get(&("country", country.clone())).copied();
        // The reference lists clicks without a country under an empty name; an event leaves it out.
        assert_eq!(counted, (!country.is_empty()).then_some(clicks), "{country}");
    }
}

/// What a log adds up to.
#[derive(Default)]
struct Counts {
    lines: u64,
    skipped: u64,
    faults: BTreeMap<LineFault, u64>,
    hits: u64,
    bytes: i64,
    with_load_time: u64,
    newest_ms: Option<i64>,
    visitors: HashSet<u64>,
    pages: HashMap<String, u64>,
    referrers: HashMap<String, u64>,
    without_referrer: u64,
    dimensions: HashMap<(&'static str, String), u64>,
    buckets: BTreeMap<i64, (u64, HashSet<u64>)>,
}

impl Counts {
    fn of(log: &Path, options: &ParseOptions) -> Self {
        let mut counts = Self::default();
        let mut reader = LogReader::open(log).unwrap();
        while let Some(line) = reader.next_line().unwrap() {
            counts.lines += 1;
            match line.and_then(|line| parse_line(line, options)) {
                Ok(Some(event)) => counts.add(&event),
                Ok(None) => counts.skipped += 1,
                Err(fault) => *counts.faults.entry(fault).or_default() += 1,
            }
        }
        counts
    }

    fn add(&mut self, event: &LogEvent<'_>) {
        self.hits += 1;
        self.bytes += event.value("bytes").unwrap_or(0);
        self.with_load_time += u64::from(event.value("load_ms").is_some());
        self.newest_ms = self.newest_ms.max(Some(event.time_ms));
        self.visitors.insert(event.visitor_hash);
        *self.pages.entry(text(&event.url)).or_default() += 1;
        match event.dimension("referrer") {
            Some(host) => *self.referrers.entry(text(host)).or_default() += 1,
            None => self.without_referrer += 1,
        }
        for (name, value) in &event.dimensions {
            *self.dimensions.entry((*name, text(value))).or_default() += 1;
        }
        let seconds = event.time_ms.div_euclid(1_000);
        let (hits, visitors) = self.buckets.entry(seconds - seconds.rem_euclid(BUCKET_S)).or_default();
        *hits += 1;
        visitors.insert(event.visitor_hash);
    }

    fn with_status(&self, class: &str) -> u64 {
        self.dimensions.get(&("status", class.to_owned())).copied().unwrap_or(0)
    }
}

/// Counts a log and compares what both formats share.
fn compare(log: &Path, options: ParseOptions) -> (Counts, Value) {
    let counts = Counts::of(log, &options);
    let answers = answers_beside(log);
    assert_eq!(counts.lines, number(&answers, "totals", "lines"));
    assert_eq!(counts.faults.values().sum::<u64>(), number(&answers, "totals", "parse_failures"));
    assert_eq!(counts.hits, number(&answers, "totals", "hits"));
    assert_eq!(counts.without_referrer, answers["no_referrer"].as_u64().unwrap());
    assert_eq!(counts.referrers.len() as u64, answers["distinct_referrer_hosts"].as_u64().unwrap());
    assert_eq!(top(&counts.referrers, 10), listed(&answers["top_referrer_hosts"]));

    let newest_ms = answers["time"]["max_epoch"].as_i64().unwrap() * 1_000;
    assert_eq!(counts.newest_ms, Some(newest_ms));
    assert_eq!(scan_newest_time(log, options.format).unwrap(), Some(newest_ms));
    compare_buckets(&counts, &answers);
    (counts, answers)
}

fn compare_buckets(counts: &Counts, answers: &Value) {
    assert_eq!(answers["bucket_seconds"].as_i64(), Some(BUCKET_S));
    let expected = answers["buckets"].as_object().unwrap();
    assert_eq!(counts.buckets.len(), expected.len());
    for (start, bucket) in expected {
        let start: jiff::Timestamp = start.parse().unwrap();
        let (hits, visitors) = &counts.buckets[&start.as_second()];
        assert_eq!(Some(*hits), bucket["hits"].as_u64(), "{start}");
        assert_eq!(Some(visitors.len() as u64), bucket["visitors"].as_u64(), "{start}");
    }
}

fn compare_combined(counts: &Counts, answers: &Value) {
    assert_eq!(
        number(answers, "totals", "malformed_requests"),
        0,
        "such lines would be hits there and faults here"
    );
    assert_eq!(counts.skipped, number(answers, "totals", "blank"));
    assert_eq!(counts.bytes.unsigned_abs(), number(answers, "totals", "bytes"));
    assert_eq!(counts.visitors.len() as u64, number(answers, "distinct", "visitors_host_ua"));
    assert_eq!(counts.pages.len() as u64, number(answers, "distinct", "paths"));
    assert_eq!(top(&counts.pages, 10), listed(&answers["top_paths"]));
    for class in ["1xx", "2xx", "3xx", "4xx", "5xx"] {
        let expected = answers["status_classes"][class].as_u64().unwrap_or(0);
        assert_eq!(counts.with_status(class), expected, "{class}");
    }
}

fn number(answers: &Value, group: &str, name: &str) -> u64 {
    answers[group][name].as_u64().unwrap_or_else(|| panic!("the answers have no {group}.{name}"))
}

/// A list of names and counts, as the answers have it.
fn listed(list: &Value) -> Vec<(String, u64)> {
    let pair = |pair: &Value| (pair[0].as_str().unwrap().to_owned(), pair[1].as_u64().unwrap());
    list.as_array().unwrap().iter().map(pair).collect()
}

/// The most frequent names, ties in the order of their code points.
fn top(counts: &HashMap<String, u64>, length: usize) -> Vec<(String, u64)> {
    let mut all: Vec<_> = counts.iter().map(|(name, count)| (name.clone(), *count)).collect();
    all.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    all.truncate(length);
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn real_log(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TIDEMARK_TEST_DATA").unwrap_or_else(|| "../shared/data".into());
    let log = workspace().join(folder).join(name);
    if log.exists() {
        return Some(log);
    }
    // Not `eprintln`, which the test runner hides when a test passes.
    let notice =
        format!("SKIPPED: no {}; set TIDEMARK_TEST_DATA to the folder that holds it\n", log.display());
    io::stderr().write_all(notice.as_bytes()).unwrap();
    None
}

/// `x.log` and `x.log.gz` have their answers in `x.answers.json`.
fn answers_beside(log: &Path) -> Value {
    let name = log.file_name().unwrap().to_str().unwrap();
    let stem = name.split('.').next().unwrap();
    let answers = fs::read(log.with_file_name(format!("{stem}.answers.json"))).unwrap();
    serde_json::from_slice(&answers).unwrap()
}
