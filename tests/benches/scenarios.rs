//! The end-to-end scenarios of `bench/README.md`: real processes of the release build, driven by `tidemark loadgen`.
//!
//! `bench/run.sh` runs it. Nothing here is asserted: it prints what it measured, on the machine it ran on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark may stop where it is"
)]

use serde_json::{Map, Value, json};
use std::process::Stdio;
use std::time::Duration;
use tidemark_tests::measured::{Cluster, cpu_seconds};
use tidemark_tests::processes::program;
use tokio::io::AsyncReadExt as _;

/// How often the generator's CPU time is looked at, which cannot be when it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What is told of a scenario: name, unit, and whether more is better.
const FIGURES: [(&str, &str, bool); 9] = [
    ("eventsPerS", "events/s", true),
    ("serverCpuS", "CPU-s/M server", false),
    ("generatorCpuS", "CPU-s/M generator", false),
    ("ackP50Ms", "ack p50 ms", false),
    ("ackP99Ms", "ack p99 ms", false),
    ("ackP999Ms", "ack p99.9 ms", false),
    ("topUrlsP99Ms", "top 10 p99 ms", false),
    ("seriesP99Ms", "series p99 ms", false),
    ("memoryMb", "memory MB", false),
];

struct Arguments {
    only: Option<String>,
    json: Option<String>,
    baseline: Option<String>,
}

impl Arguments {
    fn read() -> Self {
        let mut read = Self { only: None, json: None, baseline: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => read.json = arguments.next(),
                "--baseline" => read.baseline = arguments.next(),
                "--bench" => {}
                other => read.only = Some(other.to_owned()),
            }
        }
        read
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::read();
    let baseline: Value = arguments.baseline.as_ref().map_or(Value::Null, |file| {
        serde_json::from_str(&std::fs::read_to_string(file).expect("the baseline can be read")).unwrap()
    });
    let is_wanted = |name: &str| arguments.only.as_deref().is_none_or(|wanted| name.contains(wanted));
    let mut results = Map::new();
    for (name, scenario) in scenarios() {
        if is_wanted(name) {
            eprintln!("running {name} ...");
            results.insert(name.to_owned(), scenario.measure().await);
        }
    }
    print_table(&results, &baseline);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all = json!({ "cores": cores, "scenarios": results });
    if let Some(file) = arguments.json {
        std::fs::write(file, format!("{all:#}\n")).expect("the results can be written");
    }
}

/// A cluster, what it is filled with first, and what is measured then.
struct Scenario {
    nodes: usize,
    replication: u32,
    fill: &'static [&'static str],
    load: &'static [&'static str],
}

fn scenarios() -> [(&'static str, Scenario); 7] {
    // Far more is due than can be sent, so the rate is what the machine makes.
    const BLOCKS: &[&str] = &["--rate", "2000000", "--for", "2s"];
    const VIRAL: &[&str] =
        &["--rate", "2000000", "--for", "2s", "--viral", "0.5", "--viral-after", "0s", "--viral-for", "1h"];
    const ROWS: &[&str] = &["--rate", "500000", "--for", "2s", "--form", "rows"];
    const PACED: &[&str] = &["--rate", "20000", "--for", "20s"];
    const FILL: &[&str] =
        &["--rate", "500000", "--for", "2s", "--run", "queried", "--late", "1", "--late-by", "25min"];
    const QUERIED: &[&str] =
        &["--rate", "100000", "--for", "10s", "--run", "queried", "--queries", "30", "--seed", "2"];
    let one = |load| Scenario { nodes: 1, replication: 1, fill: &[], load };
    [
        ("blocks, 1 node", one(BLOCKS)),
        ("rows, 1 node", one(ROWS)),
        ("viral blocks, 1 node", one(VIRAL)),
        ("blocks, 3 nodes, 1 owner", Scenario { nodes: 3, ..one(BLOCKS) }),
        ("viral blocks, 3 nodes, 1 owner", Scenario { nodes: 3, ..one(VIRAL) }),
        ("20,000/s, 3 nodes, 2 owners", Scenario { nodes: 3, replication: 2, ..one(PACED) }),
        ("queries under 100,000/s, 1 node", Scenario { fill: FILL, ..one(QUERIED) }),
    ]
}

impl Scenario {
    async fn measure(&self) -> Value {
        let cluster = Cluster::start(self.nodes, self.replication).await;
        // Connections, threads and the first files are no part of it.
        load(&cluster, &["--rate", "5000", "--for", "2s", "--run", "warm"]).await;
        if !self.fill.is_empty() {
            load(&cluster, self.fill).await;
        }
        let before = cluster.cpu_seconds();
        let (report, generator) = load(&cluster, self.load).await;
        let server = cluster.cpu_seconds() - before;
        let millions = report["accepted"].as_f64().unwrap_or(0.0) / 1e6;
        let kinds = &report["queries"]["answeredMsByKind"];
        json!({
            "events": report["accepted"],
            "undelivered": report["undelivered"],
            "failedQueries": report["queries"]["failed"],
            "eventsPerS": report["achievedPerS"],
            "serverCpuS": server / millions,
            "generatorCpuS": generator / millions,
            "ackP50Ms": report["acknowledgedMs"]["p50"],
            "ackP99Ms": report["acknowledgedMs"]["p99"],
            "ackP999Ms": report["acknowledgedMs"]["p99.9"],
            "topUrlsP99Ms": kinds["topUrls"]["p99"],
            "seriesP99Ms": kinds["series"]["p99"],
            "memoryMb": cluster.memory_bytes() as f64 / 1e6,
        })
    }
}

/// Runs the generator; returns its report, and how much CPU time it took.
async fn load(cluster: &Cluster, arguments: &[&str]) -> (Value, f64) {
    let mut command = tokio::process::Command::new(program());
    command.args(["loadgen", "--json", "--to", cluster.node(0), "--at", cluster.coordinator()]);
    let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let (pid, mut out) = (child.id().unwrap(), child.stdout.take().unwrap());
    let read = tokio::spawn(async move {
        let mut text = String::new();
        out.read_to_string(&mut text).await.unwrap();
        text
    });
    let mut used = 0.0;
    while child.try_wait().unwrap().is_none() {
        used = cpu_seconds(pid).max(used);
        tokio::time::sleep(LOOK).await;
    }
    (serde_json::from_str(&read.await.unwrap()).unwrap(), used)
}

fn print_table(results: &Map<String, Value>, baseline: &Value) {
    print!("{:<34}", "");
    FIGURES.iter().for_each(|(_, unit, _)| print!("{unit:>19}"));
    println!();
    for (name, result) in results {
        print!("{name:<34}");
        for (key, _, is_better) in FIGURES {
            let was = baseline["scenarios"][name][key].as_f64().filter(|&was| was > 0.0);
            let cell = match (result[key].as_f64(), was) {
                (None, _) => "-".to_owned(),
                (Some(is), None) => number(is),
                (Some(is), Some(was)) => {
                    let change = (is / was - 1.0) * 100.0;
                    let mark = match (change > 0.0) == is_better {
                        _ if change.abs() < 0.5 => "",
                        true => "+",
                        false => "-",
                    };
                    format!("{} ({change:+.0} %{mark})", number(is))
                }
            };
            print!("{cell:>19}");
        }
        println!();
    }
    if !baseline.is_null() {
        println!("\nIn brackets: against the baseline; a + after it is better, a - worse.");
    }
}

fn number(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{:.0} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}
