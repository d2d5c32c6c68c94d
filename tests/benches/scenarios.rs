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
use tidemark_loadgen::load::search::Search;
use tidemark_tests::measured::{Cluster, cpu_seconds};
use tidemark_tests::processes::{Process, free_port, program, until_ready};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// How often the generator's CPU time is looked at, which cannot be when it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What a latency is measured at, of the highest rate that holds.
const SHARE: f64 = 0.6;
/// What 99 of 100 acknowledgements take at most at a rate that holds: several times what they take without a queue, so that a queue
/// which grows, however slowly, shows within a trial.
const HOLDS_MS: f64 = 250.0;
/// How long it is held, when it is looked for and when latencies are measured: what holds for three seconds need not hold for twenty.
const PACED_FOR: &str = "20s";
/// The first rate that is tried, and the highest.
const TRIED: (f64, f64) = (100_000.0, 3_200_000.0);

/// What is told of a scenario: name, unit, and whether more is better.
const FIGURES: [(&str, &str, bool); 10] = [
    ("eventsPerS", "events/s", true),
    ("serverCpuS", "CPU-s/M server", false),
    ("generatorCpuS", "CPU-s/M generator", false),
    ("ackP50Ms", "ack p50 ms", false),
    ("ackP99Ms", "ack p99 ms", false),
    ("ackP999Ms", "ack p99.9 ms", false),
    ("topUrlsP99Ms", "top 10 p99 ms", false),
    ("seriesP99Ms", "series p99 ms", false),
    ("memoryMb", "memory MB", false),
    ("memoryPerMillionMb", "MB/M views", false),
];

/// Shards of a single node, and of a cluster of three.
const SHARDS_OF_ONE: u32 = 8;
const SHARDS_OF_THREE: u32 = 64;

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
    if is_wanted(DAY) {
        eprintln!("running {DAY} ...");
        results.insert(DAY.to_owned(), measure_day().await);
    }
    print_table(&results, &baseline);
    print_notes(&results);
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
    /// As a cluster of that size would have: four for each core of a single node with two, and the default of several nodes.
    shards: u32,
    fill: &'static [&'static str],
    load: &'static [&'static str],
    /// Whether it is made for 20 s at a [share](SHARE) of the highest rate that holds; otherwise the flags say how much, and for how long.
    finds_rate: bool,
}

fn scenarios() -> [(&'static str, Scenario); 10] {
    // Far more is due than can be sent, so the rate is what the machine makes.
    const BLOCKS: &[&str] = &["--rate", "2000000", "--for", "2s"];
    const VIRAL: &[&str] =
        &["--rate", "2000000", "--for", "2s", "--viral", "0.5", "--viral-after", "0s", "--viral-for", "1h"];
    const ROWS: &[&str] = &["--rate", "500000", "--for", "2s", "--form", "rows"];
    const PACED: &[&str] = &["--rate", "20000", "--for", "20s", "--linger", "10ms"];
    const FILL: &[&str] =
        &["--rate", "500000", "--for", "2s", "--run", "queried", "--late", "1", "--late-by", "25min"];
    // Batches of 20 ms instead of 50 are less of a burst, which a question may come into.
    const QUERIES: &[&str] = &["--run", "queried", "--queries", "30", "--seed", "2", "--linger", "20ms"];
    const QUERIED: &[&str] = &[
        "--run",
        "queried",
        "--queries",
        "30",
        "--seed",
        "2",
        "--linger",
        "20ms",
        "--rate",
        "100000",
        "--for",
        "10s",
    ];
    let one = |load| Scenario {
        nodes: 1,
        replication: 1,
        shards: SHARDS_OF_ONE,
        fill: &[],
        load,
        finds_rate: false,
    };
    let three = |load| Scenario { nodes: 3, shards: SHARDS_OF_THREE, ..one(load) };
    let found = |scenario| Scenario { finds_rate: true, ..scenario };
    [
        ("blocks, 1 node", one(BLOCKS)),
        ("rows, 1 node", one(ROWS)),
        ("viral blocks, 1 node", one(VIRAL)),
        ("blocks, 3 nodes, 1 owner", three(BLOCKS)),
        ("viral blocks, 3 nodes, 1 owner", three(VIRAL)),
        ("20,000/s, 3 nodes, 2 owners", Scenario { replication: 2, ..three(PACED) }),
        ("queries under 100,000/s, 1 node", Scenario { fill: FILL, ..one(QUERIED) }),
        ("60 %, 1 node", found(one(&[]))),
        ("60 %, 3 nodes, 2 owners", Scenario { replication: 2, ..found(three(&[])) }),
        ("60 %, queries, 1 node", Scenario { fill: FILL, ..found(one(QUERIES)) }),
    ]
}

impl Scenario {
    async fn measure(&self) -> Value {
        let found = match self.finds_rate {
            true => Some(self.highest_rate().await),
            false => None,
        };
        let cluster = self.filled_cluster().await;
        let rate = found.map(|highest| (highest * SHARE).round().max(1.0).to_string());
        let mut flags = self.load.to_vec();
        flags.extend(rate.iter().flat_map(|rate| ["--rate", rate, "--for", PACED_FOR]));
        let before = cluster.cpu_seconds();
        let (report, generator) = load(&members(&cluster), &flags).await;
        let server = cluster.cpu_seconds() - before;
        let mut figures = figures_of(&report, server, generator, cluster.memory_bytes());
        figures["highestPerS"] = json!(found);
        figures["shards"] = json!(self.shards);
        figures
    }

    /// A new one that had its first events: connections, threads and the first files are no part of what is measured.
    async fn filled_cluster(&self) -> Cluster {
        let cluster = Cluster::start_sharded(self.nodes, self.replication, self.shards, &[]).await;
        load(&members(&cluster), WARM).await;
        if !self.fill.is_empty() {
            load(&members(&cluster), self.fill).await;
        }
        cluster
    }

    /// The highest rate that holds. Each is tried on a cluster of its own, as what is measured then: with the fill alone.
    async fn highest_rate(&self) -> f64 {
        let mut search = Search::new(TRIED.0, TRIED.1);
        while let Some(rate) = search.next_rate() {
            let cluster = self.filled_cluster().await;
            let due = rate.round().to_string();
            let flags = [self.load, &["--rate", &due, "--for", PACED_FOR, "--retry-for", "10s"]].concat();
            let (report, _) = load(&members(&cluster), &flags).await;
            let p99_ms = report["acknowledgedMs"]["p99"].as_f64();
            let holds = report["good"] == true && p99_ms.is_some_and(|p99_ms| p99_ms <= HOLDS_MS);
            println!(
                "  {due} events/s: p99 {} ms, {}",
                p99_ms.map_or("?".to_owned(), number),
                if holds { "holds" } else { "does not hold" }
            );
            search.note(rate, holds);
        }
        search.held().unwrap_or(0.0)
    }
}

const WARM: &[&str] = &["--rate", "5000", "--for", "2s", "--run", "warm"];

fn members(cluster: &Cluster) -> [&str; 4] {
    ["--to", cluster.node(0), "--at", cluster.coordinator()]
}

fn figures_of(report: &Value, server: f64, generator: f64, memory_bytes: u64) -> Value {
    let millions = report["accepted"].as_f64().unwrap_or(0.0) / 1e6;
    let kinds = &report["queries"]["answeredMsByKind"];
    json!({
        "events": report["accepted"],
        "undelivered": report["undelivered"],
        "failedQueries": report["queries"]["failed"],
        "failures": report["failures"],
        "good": report["good"],
        "offeredPerS": report["offeredPerS"],
        "eventsPerS": report["achievedPerS"],
        "serverCpuS": server / millions,
        "generatorCpuS": generator / millions,
        "ackP50Ms": report["acknowledgedMs"]["p50"],
        "ackP99Ms": report["acknowledgedMs"]["p99"],
        "ackP999Ms": report["acknowledgedMs"]["p99.9"],
        "topUrlsP99Ms": kinds["topUrls"]["p99"],
        "seriesP99Ms": kinds["series"]["p99"],
        "memoryMb": memory_bytes as f64 / 1e6,
    })
}

const DAY: &str = "24 h, 10 million views";

/// What a node has in memory of a site's day. Nothing of it may leave memory, and nothing is written to segments, while it is measured:
/// buckets are kept for longer than their age, the budget is far away, and commits wait for longer than it takes.
async fn measure_day() -> Value {
    let folder = tempfile::tempdir().unwrap();
    let (data, address) = (folder.path().to_str().unwrap(), format!("127.0.0.1:{}", free_port()));
    let keeps_all = ["--keep", "48h", "--memory-budget", "16GiB", "--settle", "5min"];
    let shards = SHARDS_OF_ONE.to_string();
    let serves = ["node", "--listen", &address, "--data", data, "--shards", &shards];
    let quiet = ["--log", "warn,tidemark_node::start=info"];
    let node = Process::start(&[&serves[..], &keeps_all, &quiet].concat(), "the node serves").await.unwrap();
    until_ready(std::slice::from_ref(&address)).await;
    let to = ["--to", &address];
    load(&to, WARM).await;
    let (cpu_before, memory_before) = (cpu_seconds(node.id()), resident_bytes(node.id()));
    let site = ["--sites", "1", "--urls", "20000", "--late", "1", "--late-by", "24h"];
    let fast = ["--rate", "2000000", "--for", "5s", "--retry-for", "10min"];
    let (report, generator) = load(&to, &[&site[..], &fast].concat()).await;
    let (cpu, memory) = (cpu_seconds(node.id()) - cpu_before, resident_bytes(node.id()));
    let mut figures = figures_of(&report, cpu, generator, memory);
    let millions = report["accepted"].as_f64().unwrap_or(0.0) / 1e6;
    figures["shards"] = json!(SHARDS_OF_ONE);
    figures["memoryPerMillionMb"] = json!(memory.saturating_sub(memory_before) as f64 / 1e6 / millions);
    figures
}

fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Runs the generator; returns its report, and how much CPU time it took.
async fn load(to: &[&str], flags: &[&str]) -> (Value, f64) {
    let mut command = Command::new(program());
    command.args(["loadgen", "--json"]).args(to).args(flags);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
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
    let text = read.await.unwrap();
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{flags:?}: {error}: {text:?}")), used)
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

/// At which rates latencies were measured, and why something is not as it should be.
fn print_notes(results: &Map<String, Value>) {
    println!();
    for (name, result) in results {
        if let Some(highest) = result["highestPerS"].as_f64() {
            let rate = number(result["offeredPerS"].as_f64().unwrap_or(0.0));
            let highest = number(highest);
            println!(
                "{name}: at {rate} events/s, {:.0} % of the {highest} that held a p99 of {HOLDS_MS} ms",
                SHARE * 100.0
            );
        }
        if result["good"] != true {
            println!(
                "{name}: NOT ALL EVENTS COUNTED, {} undelivered: {}",
                result["undelivered"], result["failures"]
            );
        }
    }
}

fn number(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{:.0} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}
