//! How much gossip costs: `cargo run -p tidemark-membership --example traffic`.
//!
//! Simulated members in steady state, for a minute of virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement")]

#[path = "../tests/cluster/net.rs"]
mod net;

use net::{Cluster, FINE, address, names, node, pass};

const SECONDS: f64 = 60.0;
/// What a member may send per second on average.
const MAX_BYTES: f64 = 20_000.0;

fn main() {
    println!("members  datagrams/s  bytes/s  (per member, sent; and the busiest, a seed)");
    for count in [3, 16, 64] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(measure(count));
    }
}

async fn measure(count: usize) {
    let mut cluster = Cluster::empty(1, FINE);
    for name in names(count) {
        cluster.start(&name, node(&name));
    }
    cluster.settle().await;
    pass(30.0).await;
    let sent = || names(count).iter().map(|name| cluster.net.sent(address(name))).collect::<Vec<_>>();
    let before = sent();
    pass(SECONDS).await;
    let rates: Vec<(f64, f64)> = sent()
        .iter()
        .zip(&before)
        .map(|(after, before)| ((after.0 - before.0) as f64 / SECONDS, (after.1 - before.1) as f64 / SECONDS))
        .collect();
    let mean = |of: fn(&(f64, f64)) -> f64| rates.iter().map(of).sum::<f64>() / count as f64;
    let most = rates.iter().map(|rate| rate.1).fold(0.0, f64::max);
    println!("{count:7}  {:11.1}  {:7.0}  {most:.0}", mean(|rate| rate.0), mean(|rate| rate.1));
    assert!(mean(|rate| rate.1) < MAX_BYTES && most < MAX_BYTES, "more than {MAX_BYTES} bytes per second");
    assert!(cluster.agree());
}
