//! Figures of several nodes: what an event costs with more nodes and more owners, and how long a node takes to join.
//!
//! `cargo build --release && cargo bench -p tidemark-tests --bench cluster [-- cost|join|kill]`. All processes run on one
//! machine. Nothing here is asserted: it prints what it measured, on the machine it ran on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark may stop where it is"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_rollup::time::Clock as _;
use tidemark_tests::measured::{Cluster, prepared};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|wanted| name.contains(wanted));
    println!("{} cores", std::thread::available_parallelism().map_or(1, usize::from));
    if is_wanted("cost") {
        for (nodes, replication) in [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (8, 2)] {
            cost(nodes, replication).await;
        }
    }
    if is_wanted("kill") {
        kill().await;
    }
    if is_wanted("join") {
        join().await;
    }
}

/// CPU seconds of all nodes together for a million events.
async fn cost(nodes: usize, replication: u32) {
    let cluster = Cluster::start(nodes, replication).await;
    let batches = prepared(50);
    let mut producer = cluster.producer(1).await;
    // Connections, tables and the first files are no part of it.
    producer.send(batches[0].clone(), SystemClock.now()).await.unwrap();
    producer.flush().await.unwrap();
    let (before, started) = (cluster.cpu_seconds(), Instant::now());
    let mut events = 0;
    for _ in 0..5 {
        for batch in &batches {
            events += batch.len();
            producer.send(batch.clone(), SystemClock.now()).await.unwrap();
        }
    }
    producer.flush().await.unwrap();
    let (took, used) = (started.elapsed().as_secs_f64(), cluster.cpu_seconds() - before);
    let latency = producer.latency_us();
    println!(
        "cost: {nodes} nodes, R={replication}: {:.2} CPU-seconds per million events ({:.2} M events per CPU-second), {:.0} events/s with the sender on the same cores, block acknowledged after p50 {:.1} ms, p99 {:.1} ms",
        used / events as f64 * 1e6,
        events as f64 / used / 1e6,
        events as f64 / took,
        latency.value_at_quantile(0.5) as f64 / 1e3,
        latency.value_at_quantile(0.99) as f64 / 1e3,
    );
}

/// Kills one of three nodes with -9 while events stream; says how long answers are not complete, and when acknowledgements
/// come again.
async fn kill() {
    for round in 0..5 {
        let mut cluster = Cluster::start(3, 2).await;
        let mut producer = cluster.producer(round).await;
        let batch: Vec<v1::Event> = prepared(50).into_iter().next().unwrap();
        producer.send(batch.clone(), SystemClock.now()).await.unwrap();
        producer.flush().await.unwrap();
        let sent = batch.len() as u64;
        while cluster.views().await != (true, sent) {}
        let process = cluster.take_node(1 + (round as usize % 2));
        let killed = Instant::now();
        process.kill().await;
        let (mut asked, mut incomplete, mut slowest) = (0, 0, Duration::ZERO);
        let first = loop {
            let began = Instant::now();
            let (is_complete, views) = cluster.views().await;
            asked += 1;
            slowest = slowest.max(began.elapsed());
            assert!(!is_complete || views == sent, "{views} of {sent}");
            if is_complete {
                break killed.elapsed();
            }
            incomplete += 1;
        };
        // Blocks of its shards wait until others have its place.
        producer.send(batch.clone(), SystemClock.now()).await.unwrap();
        producer.flush().await.unwrap();
        let taken = killed.elapsed();
        println!(
            "kill: round {round}: first complete answer {:.2} s after kill -9 ({incomplete} of {asked} before it incomplete, slowest {:.2} s); events of its shards acknowledged after {:.2} s",
            first.as_secs_f64(),
            slowest.as_secs_f64(),
            taken.as_secs_f64()
        );
    }
}

/// A third node joins two that have ten million events which no commit covers, while more come in.
async fn join() {
    let mut cluster = Cluster::start(2, 2).await;
    let batches = prepared(50);
    let mut producer = cluster.producer(1).await;
    let mut sent = 0;
    let started = Instant::now();
    while sent < 10_000_000 {
        for batch in &batches {
            sent += batch.len() as u64;
            producer.send(batch.clone(), SystemClock.now()).await.unwrap();
        }
    }
    producer.flush().await.unwrap();
    println!("join: {sent} events sent in {:.0} s", started.elapsed().as_secs_f64());
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                producer.send(batches[0][..1_000].to_vec(), SystemClock.now()).await.unwrap();
                sent += 1_000;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            producer.flush().await.unwrap();
            sent
        }
    });
    let joined = Instant::now();
    cluster.start_node().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.node(0))).unwrap();
    let mut admin = AdminClient::new(channel.connect().await.unwrap());
    let (mut asked, mut incomplete, mut slowest) = (0, 0, Duration::ZERO);
    let took = loop {
        let began = Instant::now();
        let (is_complete, _) = cluster.views().await;
        slowest = slowest.max(began.elapsed());
        asked += 1;
        incomplete += u32::from(!is_complete);
        let reply = admin.members(v1::MembersRequest { with_status: false }).await.unwrap().into_inner();
        if reply.members.iter().any(|member| member.id == "n2" && member.state == "active") {
            break joined.elapsed();
        }
    };
    stop.store(true, Ordering::Relaxed);
    sent += load.await.unwrap();
    let (is_complete, views) = cluster.views().await;
    println!(
        "join: the third node was active after {:.1} s; {incomplete} of {asked} answers meanwhile were not complete, the slowest took {:.2} s; {views} of {sent} events in a complete answer: {is_complete}",
        took.as_secs_f64(),
        slowest.as_secs_f64()
    );
}
