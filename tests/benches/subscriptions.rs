//! What subscribers cost: 2,000 of them with 50 different questions, while 20,000 events a second come in.
//!
//! `cargo build --release && cargo bench -p tidemark-tests --bench subscriptions`. Three nodes with one owner per shard and a
//! coordinator, all processes on one machine. Each part lasts longer than five minutes, so that a bucket fills, closes and is committed
//! meanwhile. Nothing here is asserted: it prints what it measured, on the machine it ran on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark may stop where it is"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_rollup::time::Clock as _;
use tidemark_tests::measured::{Cluster, prepared};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

const SITES: u64 = 10;
const EVENTS_PER_SECOND: u64 = 20_000;
const SUBSCRIBERS: usize = 2_000;
/// Subscribers that share a connection.
const PER_CONNECTION: usize = 100;
const PART: Duration = Duration::from_secs(330);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let part = std::env::args().find_map(|argument| argument.parse().ok()).map_or(PART, Duration::from_secs);
    println!("{} cores", std::thread::available_parallelism().map_or(1, usize::from));
    let cluster = Cluster::start(3, 1).await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = tokio::spawn(load(cluster.producer(1).await, Arc::clone(&stop), Arc::clone(&sent)));

    let without = measure(&cluster, &sent, part).await;
    println!("without subscribers: {without}");
    let updates = Arc::new(AtomicU64::new(0));
    let mut subscribers = subscribe(&cluster, &updates).await;
    // The first answers, which read everything.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = updates.load(Ordering::Relaxed);
    let with = measure(&cluster, &sent, part).await;
    let told = updates.load(Ordering::Relaxed) - before;
    println!("with {SUBSCRIBERS} subscribers of {} questions: {with}", questions().len());
    println!(
        "subscribers cost {:.2} cores; {:.0} updates a second",
        with.nodes + with.coordinator - without.nodes - without.coordinator,
        told as f64 / part.as_secs_f64()
    );
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    subscribers.shutdown().await;
}

/// Cores that were kept busy.
struct Used {
    nodes: f64,
    coordinator: f64,
    events_per_second: f64,
}

impl std::fmt::Display for Used {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { nodes, coordinator, events_per_second } = self;
        write!(
            f,
            "nodes {nodes:.2} cores, coordinator {coordinator:.2} cores, {events_per_second:.0} events/s"
        )
    }
}

async fn measure(cluster: &Cluster, sent: &AtomicU64, part: Duration) -> Used {
    let cpu = || (cluster.cpu_seconds(), cluster.coordinator_cpu_seconds(), sent.load(Ordering::Relaxed));
    let (started, before) = (Instant::now(), cpu());
    tokio::time::sleep(part).await;
    let (after, seconds) = (cpu(), started.elapsed().as_secs_f64());
    Used {
        nodes: (after.0 - before.0) / seconds,
        coordinator: (after.1 - before.1) / seconds,
        events_per_second: (after.2 - before.2) as f64 / seconds,
    }
}

/// Sends events steadily until it is told to stop.
async fn load(mut producer: tidemark_client::Producer, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) {
    let batches = prepared(SITES);
    let size = (EVENTS_PER_SECOND / 20) as usize;
    let slices: Vec<&[v1::Event]> = batches.iter().flat_map(|batch| batch.chunks_exact(size)).collect();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for slice in slices.iter().cycle() {
        ticks.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        producer.send(slice.to_vec(), SystemClock.now()).await.unwrap();
        sent.fetch_add(size as u64, Ordering::Relaxed);
    }
    producer.flush().await.unwrap();
}

/// What a dashboard asks, for each site.
fn questions() -> Vec<v1::Query> {
    let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
    let of_site = |site: u64| {
        let question = |from: &str, measures: &[&str], group_by: &[&str]| v1::Query {
            site: format!("site{site}.example"),
            from: from.into(),
            measures: texts(measures),
            group_by: texts(group_by),
            limit: 10,
            ..v1::Query::default()
        };
        [
            question("-5m", &["active"], &[]),
            question("-1h", &["views", "visitors"], &["url"]),
            question("-1h", &["views", "visitors"], &["country"]),
            question("-1h", &["load_ms.p50", "load_ms.p95", "load_ms.p99"], &[]),
            v1::Query {
                granularity: "5m".into(),
                versus: "7d".into(),
                ..question("-1h", &["views", "visitors"], &[])
            },
        ]
    };
    (0..SITES).flat_map(of_site).collect()
}

async fn subscribe(cluster: &Cluster, updates: &Arc<AtomicU64>) -> JoinSet<()> {
    let (questions, mut subscribers) = (questions(), JoinSet::new());
    for connection in 0..SUBSCRIBERS / PER_CONNECTION {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.coordinator())).unwrap();
        let client = AnalyticsClient::new(endpoint.connect().await.unwrap());
        for at in 0..PER_CONNECTION {
            let query = questions[(connection * PER_CONNECTION + at) % questions.len()].clone();
            let (mut client, updates) = (client.clone(), Arc::clone(updates));
            subscribers.spawn(async move {
                let subscription = v1::Subscription { query: Some(query), ..v1::Subscription::default() };
                let request = v1::SubscribeRequest { subscriptions: vec![subscription] };
                let mut stream = client.subscribe(request).await.unwrap().into_inner();
                while stream.message().await.unwrap().is_some() {
                    updates.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    subscribers
}
