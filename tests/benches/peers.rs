//! The job on which others were measured (`docs/figures.md`): an hour of 2,000,000 events into one node, then five questions.
//!
//! `cargo build --release && cargo bench -p tidemark-tests --bench peers`. Real processes, the generator among them, on one machine; questions are
//! asked one after the other by the Rust client, through the coordinator, after the events came in. Nothing is asserted.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may stop where it is")]

use std::time::{Duration, Instant};
use tidemark_client::QueryClient;
use tidemark_proto::v1;
use tidemark_tests::measured::Cluster;
use tidemark_tests::processes::run;

const EVENTS: f64 = 2_000_000.0;
/// How often each question is asked.
const TIMES: usize = 200;
const SITE: &str = "site-0.peers.example";

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn filter(dimension: &str, value: &str) -> v1::Filter {
    v1::Filter { dimension: dimension.to_owned(), r#in: texts(&[value]), ..v1::Filter::default() }
}

fn questions() -> [(&'static str, v1::Query); 5] {
    let of_site = v1::Query { site: SITE.to_owned(), from: "-65m".to_owned(), ..v1::Query::default() };
    [
        (
            "Q1 top 10 URLs of a site, 30 min",
            v1::Query {
                from: "-30m".to_owned(),
                measures: texts(&["views"]),
                group_by: texts(&["url"]),
                limit: 10,
                ..of_site.clone()
            },
        ),
        (
            "Q2 a site's hour in 5 min steps: views, visitors, p95",
            v1::Query {
                granularity: "5m".to_owned(),
                measures: texts(&["views", "visitors", "load_ms.p95"]),
                ..of_site.clone()
            },
        ),
        (
            "Q3 top 10 referrers of a URL",
            v1::Query {
                measures: texts(&["views"]),
                group_by: texts(&["referrer"]),
                filters: vec![filter("url", "/stories/2026/some-words-of-a-title-0")],
                limit: 10,
                ..of_site.clone()
            },
        ),
        (
            "Q4 visitors of a site where device and country",
            v1::Query {
                measures: texts(&["visitors"]),
                filters: vec![filter("device", "mobile"), filter("country", "AC")],
                ..of_site.clone()
            },
        ),
        (
            "Q5 top 100 URLs of all sites by visitors",
            v1::Query {
                site: "*".to_owned(),
                measures: texts(&["visitors"]),
                group_by: texts(&["site", "url"]),
                order_by: "visitors".to_owned(),
                limit: 100,
                ..of_site
            },
        ),
    ]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "2,000,000 events of an hour, 50 sites, 200,000 URLs, into one node; {cores} cores, shared with the generator\n"
    );
    let cluster = Cluster::start(1, 1).await;
    let to = ["--to", cluster.node(0), "--at", cluster.coordinator()];
    let before = cluster.cpu_seconds();
    let load = ["loadgen", "--json", "--run", "peers", "--late", "1", "--late-by", "1h", "--duplicates", "0"];
    let output = run(&[&load[..], &["--rate", "2000000", "--for", "1s"], &to].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cpu_s = cluster.cpu_seconds() - before;
    println!("{:<56}{:>9.0} k", "events per CPU-second of the node", EVENTS / cpu_s / 1e3);
    println!("{:<56}{:>9.0} MB", "resident memory of the node", cluster.memory_bytes() as f64 / 1e6);
    let client = QueryClient::connect(&format!("http://{}", cluster.coordinator())).await.unwrap();
    for (name, query) in questions() {
        let mut times: Vec<Duration> = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let asked = Instant::now();
            let answer = client.query(query.clone()).await.unwrap();
            times.push(asked.elapsed());
            assert!(!answer.rows.is_empty() && answer.facts.unwrap().complete, "{name}");
        }
        times.sort_unstable();
        let ms = |at: usize| times[at].as_secs_f64() * 1e3;
        println!("{name:<56}{:>9.1} / {:.1} ms", ms(TIMES / 2 - 1), ms(TIMES * 99 / 100 - 1));
    }
}
