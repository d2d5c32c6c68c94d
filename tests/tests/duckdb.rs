//! History as others read it: plain SQL over committed segments gives the answers that Tidemark gives.
//!
//! The SQL of the README is run as it stands there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

#[path = "duckdb/duck.rs"]
mod duck;
#[path = "duckdb/world.rs"]
mod world;

use duck::Duck;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tidemark_node::clock::SystemClock;
use tidemark_rollup::lanes::names_of;
use tidemark_rollup::measure::unique::{self, STANDARD_ERROR};
use tidemark_rollup::time::EventTime;
use tidemark_tests::logs::KnownLog;
use tidemark_tests::processes::run;
use world::{Log, Step, TABLE, World};

/// The site that the README's SQL asks for.
const SITE: &str = "example.com";
/// One that has a page with more visitors than are counted exactly, and numbers that do not repeat.
const BUSY: &str = "busy.example";
/// Up to so many visitors are counted exactly.
const EXACT_MAX: u64 = unique::EXACT_MAX as u64;
const DIMENSIONS: [&str; 9] =
    ["referrer", "channel", "campaign", "country", "device", "browser", "section", "visitor_type", "status"];

/// The values of rows, in the order of `columns`, with times as Tidemark spells them.
fn values(rows: &[Value], columns: &[&str]) -> Vec<Vec<Value>> {
    let value = |row: &Value, column: &str| match (&row[column], column) {
        (Value::String(time), "time") => json!(time.replace(' ', "T").replace("+00", "Z")),
        (value, _) => value.clone(),
    };
    rows.iter().map(|row| columns.iter().map(|column| value(row, column)).collect()).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

/// The SQL of the README, without what stands before and after it.
fn sql_of_the_readme() -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, after) = readme.split_once("```sql\n").expect("the README has SQL");
    after.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_sql_over_segments_gives_tidemarks_answers() {
    let folder = tempfile::tempdir().unwrap();
    let duck = match Duck::install(Path::new(env!("CARGO_TARGET_TMPDIR")), folder.path()) {
        Ok(duck) => duck,
        Err(why) => {
            // Straight to the terminal: the test runner hides what passing tests print.
            let _ = writeln!(std::io::stderr().lock(), "SKIPPED: segments read by DuckDB: {why}");
            return;
        }
    };
    let mut logs = vec![Log::known(SITE, &KnownLog::sample()), Log::busy(folder.path())];
    for log in KnownLog::real() {
        let site = if log.format.to_string() == "bitly" { "bitly.example" } else { "combined.example" };
        logs.push(Log::known(site, &log));
    }

    // Nothing is flushed before the node stops, so that what comes again is in the segments' facts, and five minutes are one
    // commit.
    let world = World::start(folder, duck, &["--settle", "300s", "--compact-after", "50years"]).await;
    send_twice_and_wrong(&world, &logs[0]).await;
    world.replay(&logs[1]).await;
    let world = world.restart(&["--settle", "0s", "--compact-after", "50years"]).await;
    for log in &logs[2..] {
        world.replay(log).await;
    }
    world.until_metric("tidemark_unflushed_buckets", |buckets| buckets == 0).await;

    let flushed = world.find_segments("5m", "1990-01-01T00:00:00Z", "now").await;
    assert_lanes(&world);
    assert_readme(&world, &logs).await;
    assert_receipts(&world, "5m").await;
    assert_delta_encodings(&world, &["visitors", "load_ms"], &["bytes", "load_ms_sum"]);
    for log in &logs {
        assert_log(&world, log, Step::FiveMinutes).await;
    }
    assert_raw(&world).await;

    let days: BTreeSet<&String> = logs.iter().flat_map(|log| &log.days).collect();
    let world = world.restart(&["--settle", "0s", "--compact-after", "0s"]).await;
    world.until_metric("tidemark_replaced_days_total", |replaced| replaced >= days.len() as u64).await;
    let compacted = world.find_segments("5m", "1990-01-01T00:00:00Z", "now").await;
    assert!(compacted.len() < flushed.len() && compacted.iter().all(|file| !flushed.contains(file)));
    assert_readme(&world, &logs).await;
    assert_receipts(&world, "5m").await;
    assert_delta_encodings(&world, &["visitors", "load_ms"], &["bytes", "load_ms_sum"]);
    for step in [Step::FiveMinutes, Step::Day] {
        for log in &logs {
            assert_log(&world, log, step).await;
        }
    }
    assert_receipts(&world, "1d").await;
    assert_raw(&world).await;
    assert_eq!(world.node.terminate().await, Some(0));
}

/// Sends the first log twice, by the same producer, and an event that is rejected.
async fn send_twice_and_wrong(world: &World, log: &Log) {
    let event = |second: u32, bytes: i64| {
        let time = log.from.replace("00:00:00Z", &format!("04:20:{second:02}Z"));
        json!({"site": SITE, "url": "/posted", "time": time, "visitor": "v", "values": {"bytes": bytes}})
    };
    let events: Vec<Value> = (0..7).map(|second| event(second, 5)).chain([event(7, -1)]).collect();
    let (status, reply) = world.http.post("/v1/events", json!(events).to_string()).await;
    assert_eq!((status, &reply["accepted"]), (200, &json!(7)), "{reply}");
    let to = format!("http://{}", world.to);
    let first = KnownLog::sample().replay(SITE, &to, 1, &SystemClock).await.totals;
    let again = KnownLog::sample().replay(SITE, &to, 1, &SystemClock).await.totals;
    assert_eq!((first.duplicate, again.duplicate), (0, first.accepted));
}

/// The README's view reads the lanes of a URL as the URL, and leaves all other names alone.
fn assert_lanes(world: &World) {
    let sql = sql_of_the_readme();
    let (_, view) = sql.split_once("REPLACE (").expect("the view replaces the URL");
    let (fold, _) = view.split_once(" AS url)").expect("the view replaces the URL");
    let lanes = names_of("/a").map(|page| (page, "/a".to_owned()));
    let others = ["/", "/a#16", "/a#01", "/a#top", "/a/2"].map(|page| (page.to_owned(), page.to_owned()));
    for (page, url) in lanes.chain(others) {
        let found = world.duck.run(&format!("SELECT {fold} AS url FROM (VALUES ('{page}')) AS pages(url);"));
        assert_eq!(found[0][0]["url"], json!(url), "{page}");
    }
}

async fn assert_readme(world: &World, logs: &[Log]) {
    let results = world.duck.run(&sql_of_the_readme());
    let [top, series, visitors, _] = &results[..] else { panic!("{} statements", results.len()) };

    let first = &logs[0];
    let question = json!({"groupBy": ["url"], "measures": ["views", "bytes"], "orderBy": "views"});
    let mut expected = world.ask(first, None, question).await;
    expected.truncate(top.len());
    assert!(!top.is_empty());
    assert_eq!(values(top, &["url", "views", "bytes"]), expected);

    let mut by_time: BTreeMap<String, u64> = BTreeMap::new();
    let mut exact: BTreeMap<(String, String), u64> = BTreeMap::new();
    for log in logs {
        for row in world.ask(log, Some(Step::FiveMinutes), json!({"measures": ["views", "visitors"]})).await {
            let time = row[0].as_str().unwrap().to_owned();
            *by_time.entry(time.clone()).or_default() += number(&row[1]);
            exact.insert((log.site.to_owned(), time), number(&row[2]));
        }
    }
    let found: BTreeMap<String, u64> = values(series, &["time", "views"])
        .iter()
        .map(|row| (row[0].as_str().unwrap().to_owned(), number(&row[1])))
        .collect();
    assert_eq!(found, by_time);

    for row in values(visitors, &["site", "time", "visitors"]) {
        let key = (row[0].as_str().unwrap().to_owned(), row[1].as_str().unwrap().to_owned());
        let expected = exact.remove(&key).unwrap();
        // A set of registers has no hashes to be told apart: that one page is left out of the SQL's count.
        if key.0 == BUSY {
            assert!(expected > EXACT_MAX);
        } else {
            assert_visitors(number(&row[2]), expected, &format!("{key:?}"));
        }
    }
    assert!(exact.is_empty(), "{exact:?}");
}

/// Facts are receipts.
async fn assert_receipts(world: &World, kind: &str) {
    world.find_segments(kind, "1990-01-01T00:00:00Z", "now").await;
    let readme = sql_of_the_readme();
    let told = world.duck.run(&readme).pop().unwrap();
    let columns = ["site", "time", "counted", "duplicate", "rejected", "late"];
    let mut found: BTreeMap<(String, String), [u64; 4]> = BTreeMap::new();
    for row in values(&told, &columns) {
        let [site, time] = [&row[0], &row[1]].map(|text| text.as_str().unwrap().to_owned());
        found.insert((site, time), [2, 3, 4, 5].map(|at| number(&row[at])));
    }
    let node = format!("http://{}", world.to);
    let arguments = ["receipt", "--site", "*", "--from", "1990-01-01T00:00:00Z", "--node", &node, "--json"];
    let output = run(&arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let receipts: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut expected: BTreeMap<(String, String), [u64; 4]> = BTreeMap::new();
    for receipt in receipts["receipts"].as_array().unwrap() {
        let time = receipt["time"].as_str().unwrap();
        let time = if kind == "1d" { format!("{}T00:00:00Z", &time[..10]) } else { time.to_owned() };
        let rejected = receipt["rejected"].as_object().unwrap().values().map(number).sum();
        let numbers = [&receipt["counted"], &receipt["duplicate"], &receipt["late"]].map(number);
        let all =
            expected.entry((receipt["site"].as_str().unwrap().to_owned(), time)).or_insert([0, 0, 0, 0]);
        for (sum, more) in all.iter_mut().zip([numbers[0], numbers[1], rejected, numbers[2]]) {
            *sum += more;
        }
    }
    assert_eq!(found, expected);
    let total = &receipts["total"];
    assert!(number(&total["duplicate"]) > 0 && total["rejected"]["negative_value"] == 1, "{total}");
    world.find_segments("5m", "1990-01-01T00:00:00Z", "now").await;
}

/// What is large is packed in ways that not every reader knows; this one does.
fn assert_delta_encodings(world: &World, binaries: &[&str], integers: &[&str]) {
    let found = world.sql(
        "SELECT DISTINCT path_in_schema AS name, encodings FROM parquet_metadata(getvariable('segments'))",
    );
    let has = |name: &str, encoding: &str| {
        found.iter().any(|row| row["name"] == name && row["encodings"].as_str().unwrap().contains(encoding))
    };
    assert!(binaries.iter().all(|name| has(name, "DELTA_LENGTH_BYTE_ARRAY")), "{found:?}");
    assert!(integers.iter().all(|name| has(name, "DELTA_BINARY_PACKED")), "{found:?}");
}

/// Archived blocks have the events that were counted.
async fn assert_raw(world: &World) {
    world.find_segments("raw", "1990-01-01T00:00:00Z", "now").await;
    let sums = world.sql(
        "SELECT sum(event_count) AS events, count(*) AS parts, count(DISTINCT (producer, shard, seq)) AS blocks FROM history",
    );
    world.find_segments("5m", "1990-01-01T00:00:00Z", "now").await;
    let counted = world.sql("SELECT sum(events_counted) AS events FROM history");
    assert_eq!(sums[0]["events"], counted[0]["events"]);
    assert!(number(&sums[0]["parts"]) >= number(&sums[0]["blocks"]), "{sums:?}");
}

/// Sums, counts, visitors and times of a site, in files of rows of `step`.
async fn assert_log(world: &World, log: &Log, step: Step) {
    world.find_segments(step.name(), &log.from, &log.to).await;
    let of_site = format!("FROM history WHERE site = '{}' AND url IS NOT NULL", log.site);
    let sql = [
        // In total, by URL, by step of time.
        format!(
            "SELECT sum(views) AS views, sum(bytes) AS bytes, coalesce(sum(load_ms_count), 0) AS timed, \
             sum(load_ms_sum) AS ms, max(load_ms_max) AS slowest {of_site};"
        ),
        format!(
            "SELECT url, sum(views) AS views, sum(bytes) AS bytes {of_site} \
             GROUP BY url ORDER BY views DESC, url LIMIT 10000;"
        ),
        format!(
            "SELECT time, sum(views) AS views, sum(bytes) AS bytes {of_site} GROUP BY time ORDER BY time;"
        ),
        sql_of_exact_visitors(&of_site),
        sql_of_rows(log, &of_site),
    ];
    let results = world.duck.run(&format!("{TABLE}{}", sql.concat()));
    let [total, urls, steps, visitors, rows] = &results[..] else { panic!("{} results", results.len()) };

    let measures = ["views", "bytes", "load_ms.count", "load_ms.mean", "load_ms.max"];
    let told = world.ask(log, None, json!({ "measures": measures })).await;
    let found = values(total, &["views", "bytes", "timed", "slowest"]);
    assert_eq!(found[0], [0, 1, 2, 4].map(|at| told[0][at].clone()), "{step:?} {}", log.site);
    if let (Some(sum), Some(mean)) = (total[0]["ms"].as_u64(), told[0][3].as_f64()) {
        let expected = sum as f64 / number(&told[0][2]) as f64;
        assert!((expected - mean).abs() <= expected * 1e-12, "{expected} {mean}");
    }
    let question = json!({"groupBy": ["url"], "measures": ["views", "bytes"], "orderBy": "views"});
    assert_eq!(values(urls, &["url", "views", "bytes"]), world.ask(log, None, question).await);
    let told = world.ask(log, Some(step), json!({"measures": ["views", "bytes"]})).await;
    assert_eq!(values(steps, &["time", "views", "bytes"]), told);
    assert_exact_visitors(world, log, step, visitors).await;
    assert_rows(world, log, step, rows).await;
}

/// Hashes tell visitors exactly; Tidemark does so up to a limit.
fn assert_visitors(exact: u64, told: u64, what: &str) {
    // Four standard errors.
    let slack = if exact <= EXACT_MAX { 0.0 } else { 4.0 * STANDARD_ERROR * exact as f64 };
    assert!(exact.abs_diff(told) as f64 <= slack, "{what}: {told} instead of {exact}");
}

fn sql_of_exact_visitors(of_site: &str) -> String {
    format!(
        "WITH sketches AS (SELECT time, hex(visitors) AS digits, octet_length(visitors) % 8 AS head {of_site}),
              registers AS (SELECT DISTINCT time FROM sketches WHERE regexp_matches(digits, '^8[12]10')),
              hashes AS (SELECT time, unnest([substring(digits, 2 * head + 16 * i + 1, 16)
                                              FOR i IN range(length(digits) // 16)]) AS hash
                         FROM sketches WHERE time NOT IN (FROM registers))
         SELECT time, count(DISTINCT hash) AS visitors FROM hashes GROUP BY time ORDER BY time;"
    )
}

/// Visitors of each step, from the hashes of its rows.
async fn assert_exact_visitors(world: &World, log: &Log, step: Step, found: &[Value]) {
    let told = world.ask(log, Some(step), json!({"measures": ["visitors"]})).await;
    let told: BTreeMap<&str, u64> =
        told.iter().map(|row| (row[0].as_str().unwrap(), number(&row[1]))).collect();
    for row in values(found, &["time", "visitors"]) {
        let told = told[row[0].as_str().unwrap()];
        assert_visitors(number(&row[1]), told, &format!("{step:?} {row:?}"));
    }
    // Steps that have a row with registers are left out: these logs have one at most.
    assert!(found.len() + 1 >= told.len(), "{} of {}", found.len(), told.len());
}

fn sql_of_rows(log: &Log, of_site: &str) -> String {
    let set: Vec<String> = DIMENSIONS.iter().map(|name| format!("coalesce({name}, '') AS {name}")).collect();
    let first = log.days.first().unwrap();
    let busy = if log.site == BUSY { "AND url = '/busy'" } else { "" };
    format!(
        "SELECT time, url, {}, sum(views) AS views, max(visitors_estimate) AS visitors {of_site} {busy} \
         AND time >= '{first} 00:00:00+00' AND time < TIMESTAMPTZ '{first} 00:00:00+00' + INTERVAL 1 DAY \
         GROUP BY ALL HAVING count(*) = 1;",
        set.join(", ")
    )
}

/// The estimates beside the sketches, of rows of the first day that no other row shares its key with.
async fn assert_rows(world: &World, log: &Log, step: Step, found: &[Value]) {
    assert!(!found.is_empty());
    let keys: Vec<&str> = ["url"].into_iter().chain(DIMENSIONS).collect();
    let to = EventTime::parse_rfc3339(&log.from).unwrap().plus(Duration::from_secs(86_400)).to_string();
    let mut question = json!({"groupBy": keys, "measures": ["views", "visitors"], "to": to});
    if log.site == BUSY {
        question["filters"] = json!([{"dimension": "url", "in": ["/busy"]}]);
    }
    let told: BTreeSet<String> =
        world.ask(log, Some(step), question).await.iter().map(|row| json!(row).to_string()).collect();
    let columns: Vec<&str> = ["time"].into_iter().chain(keys).chain(["views", "visitors"]).collect();
    for row in values(found, &columns) {
        assert!(told.contains(&json!(row).to_string()), "{step:?} {row:?}");
    }
    let most = found.iter().map(|row| number(&row["visitors"])).max().unwrap();
    assert!(most > EXACT_MAX || log.site != BUSY, "one row has more visitors than are counted exactly");
}
