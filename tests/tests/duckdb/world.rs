//! A node as a real process, the logs that are sent to it, and DuckDB beside it.
//!
//! Owns: starting the node, sending logs, finding the files that hold what is committed, asking both sides.
//! Does not own: what is asserted.

use crate::BUSY;
use crate::duck::Duck;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_rollup::time::EventTime;
use tidemark_tests::http::Http;
use tidemark_tests::logs::KnownLog;
use tidemark_tests::processes::{Process, run};

const READY_NODE: &str = "the node serves";
const READY_COORDINATOR: &str = "coordinator is listening";
/// The logs are of years ago, and a busy machine may take its time.
///
/// With two shards no URL is spread over lanes, so that a row of a segment has all there is of its key.
const SETTINGS: [&str; 14] = [
    "--shards",
    "2",
    "--accept-late",
    "50years",
    "--keep-five-minutes",
    "50years",
    "--keep-raw",
    "50years",
    "--keep-days",
    "50years",
    "--query-timeout",
    "60s",
    "--keep",
    "0s",
];
const BUSY_VISITORS: usize = 3_000;
const BUSY_PAGES: usize = 18_000;
/// The README's view, read once.
pub(crate) const TABLE: &str = "SET TimeZone = 'UTC';
SET VARIABLE segments = (SELECT string_split(trim(content, E'\\n'), E'\\n') FROM read_text('segments.txt'));
CREATE TABLE history AS SELECT * FROM read_parquet(getvariable('segments'), union_by_name = true);
";

/// A site's log: its days, from the first up to but not including `to`.
pub(crate) struct Log {
    pub(crate) site: &'static str,
    path: PathBuf,
    is_bitly: bool,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) days: BTreeSet<String>,
}

impl Log {
    pub(crate) fn known(site: &'static str, log: &KnownLog) -> Self {
        let days = log.answers["utc_days"].as_object().unwrap().keys().cloned().collect();
        Self::new(site, log.path.clone(), log.format.to_string() == "bitly", days)
    }

    pub(crate) fn new(site: &'static str, path: PathBuf, is_bitly: bool, days: BTreeSet<String>) -> Self {
        let midnight = |day: &String| EventTime::parse_rfc3339(&format!("{day}T00:00:00Z")).unwrap();
        let from = midnight(days.first().unwrap()).to_string();
        let to = midnight(days.last().unwrap()).plus(Duration::from_secs(86_400)).to_string();
        Self { site, path, is_bitly, from, to, days }
    }

    /// Hits that hardly have anything in common, of five minutes.
    pub(crate) fn busy(folder: &Path) -> Self {
        let mut text = String::new();
        for hit in 0..BUSY_VISITORS + BUSY_PAGES {
            let address = format!("10.{}.{}.{}", hit % 7, hit / 250 % 250, hit % 250);
            let time = format!("10/Mar/2024:12:0{}:{:02} +0000", hit / 60 % 5, hit % 60);
            let page = if hit < BUSY_VISITORS { "/busy".to_owned() } else { format!("/page/{hit}") };
            let bytes = 1_000_000 + hit * 977;
            let load_s = hit as f64 / 1000.0;
            writeln!(text, r#"{address} - - [{time}] "GET {page} HTTP/1.1" 200 {bytes} "-" "-" {load_s:.3}"#)
                .unwrap();
        }
        let path = folder.join("busy.log");
        std::fs::write(&path, text).unwrap();
        Self::new(BUSY, path, false, ["2024-03-10".to_owned()].into())
    }
}

/// A step of time in files and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    FiveMinutes,
    Day,
}

impl Step {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::Day => "1d",
        }
    }
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) duck: Duck,
    pub(crate) node: Process,
    pub(crate) http: Http,
    pub(crate) to: String,
}

impl World {
    pub(crate) async fn start(folder: tempfile::TempDir, duck: Duck, settings: &[&str]) -> Self {
        let data = folder.path().join("data").to_str().unwrap().to_owned();
        let mut arguments = vec!["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        arguments.extend(["--data", &data]);
        arguments.extend(SETTINGS);
        arguments.extend(settings);
        let node = Process::start(&arguments, READY_COORDINATOR).await.unwrap();
        let (http, to) = (Http::new(&node.address(READY_COORDINATOR)), node.address(READY_NODE));
        Self { folder, duck, node, http, to }
    }

    pub(crate) async fn restart(self, settings: &[&str]) -> Self {
        assert_eq!(self.node.terminate().await, Some(0));
        Self::start(self.folder, self.duck, settings).await
    }

    pub(crate) async fn replay(&self, log: &Log) {
        let to = format!("http://{}", self.to);
        let mut arguments = vec!["replay", log.path.to_str().unwrap(), "--site", log.site, "--to", &to];
        arguments.extend(["--keep-time", "--json"]);
        if log.is_bitly {
            arguments.extend(["--format", "bitly", "--keep-query"]);
        }
        let replayed = run(&arguments).await;
        assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, text) = Http::new(&self.to).get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        let number = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    pub(crate) async fn until_metric(&self, name: &str, is_right: impl Fn(u64) -> bool) {
        // It may be a second old.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut last = 0;
        for _ in 0..1200 {
            last = self.metric(name).await;
            if is_right(last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{name} stays {last}");
    }

    /// Writes the files that hold what is committed to `segments.txt`, where the SQL looks for them.
    pub(crate) async fn find_segments(&self, kind: &str, from: &str, to: &str) -> Vec<String> {
        let data = self.folder.path().join("data");
        let data = data.to_str().unwrap();
        let arguments =
            ["segments", "--shards", "2", "--data", data, "--kind", kind, "--from", from, "--to", to];
        let output = run(&arguments).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(self.folder.path().join("segments.txt"), &output.stdout).unwrap();
        let files = String::from_utf8(output.stdout).unwrap();
        files.lines().map(str::to_owned).collect()
    }

    pub(crate) fn sql(&self, sql: &str) -> Vec<Value> {
        self.duck.run(&format!("{TABLE}{sql}")).pop().unwrap()
    }

    /// Tidemark's answer: rows of numbers, after texts.
    pub(crate) async fn ask(&self, log: &Log, step: Option<Step>, mut question: Value) -> Vec<Vec<Value>> {
        question["site"] = json!(log.site);
        question["granularity"] = json!(step.map_or("all", Step::name));
        question["limit"] = json!(10_000);
        for (key, time) in [("from", &log.from), ("to", &log.to)] {
            if question[key].is_null() {
                question[key] = json!(time);
            }
        }
        self.http.rows(question).await
    }
}
