//! A cluster under churn for half an hour: whether memory, files, threads and tasks stay what they are.
//!
//! `cargo bench -p tidemark-tests --bench soak -- 30m`; shorter for a look. Two nodes, two owners of each shard, and a coordinator, as
//! processes of the release build. First the cluster gets an hour of
//! events, which is what questions reach back over. Then, all the time: a generator runs for twenty seconds with sites, URLs, visitors, producers, connections,
//! questions and subscribers of its own, proves its counts, and is followed by another one; every second connections come and go, some in
//! the middle of a request. Ends with 1 where memory, files, threads or tasks grew or a generator found something wrong; rows in memory are shown.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark may stop where it is"
)]

use std::collections::BTreeMap;
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tidemark_tests::http::Http;
use tidemark_tests::measured::Cluster;
use tidemark_tests::processes::program;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, interval, sleep};

/// What is not looked at: tables fill, caches warm up, the first buckets are flushed and leave memory. At least this, or two fifths.
const WARM_UP: Duration = Duration::from_secs(10 * 60);
/// Events a second: a machine may do something else beside it.
const RATE: &str = "1000";
/// How long a generator runs.
const RUN: &str = "20s";
/// Connections that come and go each second.
const CONNECTIONS: usize = 20;
/// Buckets end every five minutes, and memory goes up and down with them: what is compared are means of that long.
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// How much a mean may be above the first one.
const GROWTH: f64 = 1.05;

/// What a process has.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    resident_mb: f64,
    files: f64,
    threads: f64,
    tasks: f64,
    /// In memory: what most of the memory is for.
    rows: f64,
}

impl Sample {
    const NAMES: [&str; 5] = ["resident MB", "files", "threads", "tasks", "rows"];

    fn numbers(self) -> [f64; 5] {
        [self.resident_mb, self.files, self.threads, self.tasks, self.rows]
    }

    async fn of(address: &str) -> Option<Self> {
        let (_, page) = Http::new(address).try_get("/metrics").await?;
        // With labels or without.
        let of = |line: &str, name: &str| -> Option<f64> {
            line.strip_prefix(name)?.strip_prefix(['{', ' '])?.rsplit(' ').next()?.parse().ok()
        };
        let value = |name: &str| page.lines().find_map(|line| of(line, name));
        Some(Self {
            resident_mb: value("process_resident_memory_bytes")? / 1e6,
            files: value("process_open_fds")?,
            threads: value("process_threads")?,
            tasks: value("tidemark_tasks")?,
            // Coordinators have none.
            rows: value("tidemark_rollup_rows").unwrap_or_default(),
        })
    }
}

/// Gives the cluster the hour that questions reach back over: otherwise there is more of it to look at with every minute.
async fn fill(cluster: &Cluster) {
    let (to, at) = (format!("http://{}", cluster.node(0)), format!("http://{}", cluster.coordinator()));
    let load = [
        "loadgen", "--to", &to, "--at", &at, "--rate", "20000", "--for", "60s", "--sites", "5", "--urls",
        "20000",
    ];
    let past =
        ["--visitors", "50000", "--late", "1", "--late-by", "1h", "--queries", "0", "--subscribers", "0"];
    let ran = Command::new(program()).args(load).args(past).stdin(Stdio::null()).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// One generator after the other; how each ended.
async fn generate(cluster: &Cluster, until: Instant) -> BTreeMap<String, u32> {
    let mut ends = BTreeMap::new();
    let (to, at) = (format!("http://{}", cluster.node(0)), format!("http://{}", cluster.coordinator()));
    for seed in 1.. {
        if Instant::now() >= until {
            break;
        }
        let seed = seed.to_string();
        let load = ["loadgen", "--to", &to, "--at", &at, "--rate", RATE, "--for", RUN, "--seed", &seed];
        let about =
            ["--sites", "5", "--urls", "20000", "--visitors", "50000", "--late", "0.01", "--late-by", "2min"];
        let askers = ["--queries", "5", "--subscribers", "20", "--producers", "3", "--verify"];
        let ran = Command::new(program())
            .args(load)
            .args(about)
            .args(askers)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        let end = match ran.status.code() {
            Some(0) => "counted what was sent".to_owned(),
            code => format!("ended with {code:?}"),
        };
        if !ran.status.success() {
            println!("generator {seed} {end}:\n{said}");
        }
        *ends.entry(end).or_default() += 1;
    }
    ends
}

/// Connections that come and go: some ask, some hang up in the middle of it, some say nothing.
async fn connect(cluster: &Cluster, until: Instant) {
    let addresses = [cluster.coordinator(), cluster.node(0), cluster.node(1)];
    let mut second = interval(Duration::from_secs(1));
    while Instant::now() < until {
        second.tick().await;
        for at in 0..CONNECTIONS {
            let Ok(mut stream) = TcpStream::connect(addresses[at % addresses.len()]).await else { continue };
            let said: &[u8] = match at % 4 {
                0 => b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
                1 => b"POST /v1/query HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"site\"",
                2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
                _ => b"",
            };
            // Whether it is heard does not matter.
            let _ = stream.write_all(said).await;
        }
    }
}

/// Samples of each process, with the time since the begin.
async fn look(
    processes: &[(String, String)],
    begin: Instant,
    until: Instant,
) -> Vec<Vec<(Duration, Sample)>> {
    let mut samples = vec![Vec::new(); processes.len()];
    while Instant::now() < until {
        for ((_, address), samples) in processes.iter().zip(&mut samples) {
            samples.extend(Sample::of(address).await.map(|sample| (begin.elapsed(), sample)));
        }
        sleep(Duration::from_secs(2)).await;
    }
    samples
}

fn means(samples: &[(Duration, Sample)], warm_up: Duration, lasts: Duration) -> Vec<[f64; 5]> {
    let windows = ((lasts - warm_up).as_secs() / WINDOW.as_secs()).max(2) as u32;
    let each = WINDOW.min((lasts - warm_up) / windows);
    let window = |at: u32| {
        let (from, to) = (warm_up + each * at, warm_up + each * (at + 1));
        let within: Vec<[f64; 5]> = samples
            .iter()
            .filter(|(time, _)| (from..to).contains(time))
            .map(|(_, sample)| sample.numbers())
            .collect();
        std::array::from_fn(|number| {
            within.iter().map(|numbers| numbers[number]).sum::<f64>() / within.len().max(1) as f64
        })
    };
    (0..windows).map(window).collect()
}

fn main() -> ExitCode {
    let lasts = std::env::args().skip(1).find_map(|argument| minutes(&argument)).unwrap_or(30);
    let lasts = Duration::from_secs(60 * lasts);
    let warm_up = WARM_UP.min(lasts * 2 / 5);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        // History answers for what is over, as it does after a day; and caches are full after minutes, as they are after a day.
        let cluster =
            Cluster::start_with(2, 2, &["--keep", "0s", "--settle", "2s", "--cache-memory", "16MiB"]).await;
        let processes: Vec<(String, String)> = (0..2)
            .map(|at| (format!("node {at}"), cluster.node(at).to_owned()))
            .chain([("coordinator".to_owned(), cluster.coordinator().to_owned())])
            .collect();
        fill(&cluster).await;
        let begin = Instant::now();
        let until = begin + lasts;
        let (ends, (), samples) =
            tokio::join!(generate(&cluster, until), connect(&cluster, until), look(&processes, begin, until));
        println!(
            "{} minutes, of which {} to warm up; means of five minutes, one after the other",
            lasts.as_secs() / 60,
            warm_up.as_secs() / 60
        );
        let mut grew = false;
        for ((name, _), samples) in processes.iter().zip(&samples) {
            let means = means(samples, warm_up, lasts);
            for (number, what) in Sample::NAMES.into_iter().enumerate() {
                let of: Vec<f64> = means.iter().map(|mean| mean[number]).collect();
                // Of a dozen of something one more or less is no growth.
                let most = of[0] * GROWTH + if number == 0 { 0.0 } else { 2.0 };
                // Rows are as many as the generators sent in five minutes.
                let is_judged = what != "rows";
                let too_much = is_judged && of.iter().any(|&mean| mean > most);
                grew |= too_much;
                let shown: Vec<String> = of.iter().map(|mean| format!("{mean:9.1}")).collect();
                println!("{name:<12} {what:<12} {} {}", shown.join(" "), if too_much { "GREW" } else { "" });
            }
        }
        let mut wrong = false;
        for (end, times) in &ends {
            wrong |= end != "counted what was sent";
            println!("{times} generators {end}");
        }
        if grew || wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    })
}

fn minutes(text: &str) -> Option<u64> {
    text.strip_suffix('m')?.parse().ok()
}
