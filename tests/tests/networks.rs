//! Networks that fall apart, lose and delay: real ones, of network namespaces of this machine.
//!
//! It takes root and `ip` of iproute2; where they are missing, that is said and nothing is tested. `TIDEMARK_PARTITION` sets
//! how many seconds the network is apart, 60 without it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use tidemark_tests::PATIENCE;
use tidemark_tests::churn::load::{Finished, Load};
use tidemark_tests::churn::members::{Member, assert_same, unrest, until, until_owners, views};
use tidemark_tests::churn::probes::Probes;
use tidemark_tests::netns::wire::{Badness, Wires};
use tidemark_tests::netns::{Namespace, Net, missing};
use tidemark_tests::processes::run;

/// Events a second of each producer.
const RATE: u64 = 1_000;
const PROBE_EVERY: Duration = Duration::from_millis(100);
const PORT: u16 = 7_100;

/// One after the other: each keeps the machine busy.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Straight to the terminal: the test runner hides what passing tests print.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "networks: {line}");
}

fn is_skipped(test: &str) -> bool {
    let why = missing();
    if let Some(why) = &why {
        say(&format!("SKIPPED {test}: there can be no networks here: {why}"));
    }
    why.is_some()
}

/// Members in hosts of a network.
struct Cluster {
    nodes: BTreeMap<usize, Member>,
    coordinators: BTreeMap<usize, Member>,
    net: Net,
}

impl Cluster {
    /// Starts nodes and coordinators in these hosts, each named after it.
    async fn start(
        net: Net,
        ip: fn(usize) -> String,
        nodes: &[usize],
        coordinators: &[usize],
        folder: &Path,
    ) -> Self {
        let address = |at: usize| format!("{}:{PORT}", ip(at));
        // Of each side one.
        let seeds = [nodes[0], nodes[nodes.len() - 1]].map(address).join(",");
        let mut cluster = Self { nodes: BTreeMap::new(), coordinators: BTreeMap::new(), net };
        for &at in nodes {
            let node = Member::node(&format!("n{at}"), &address(at), &seeds, folder);
            cluster.nodes.insert(at, node.by_way_of(cluster.net.host(at).exec()));
        }
        for &at in coordinators {
            let coordinator = Member::coordinator(&format!("c{at}"), &address(at), &seeds);
            cluster.coordinators.insert(at, coordinator.by_way_of(cluster.net.host(at).exec()));
        }
        for member in cluster.nodes.values_mut().chain(cluster.coordinators.values_mut()) {
            member.start().await;
        }
        cluster
    }

    fn addresses(&self, hosts: impl IntoIterator<Item = usize>) -> Vec<String> {
        hosts.into_iter().map(|at| self.nodes[&at].address.clone()).collect()
    }

    /// Waits until each node sees all others and answers for what it owns; `from` this host.
    async fn until_peace(&self, from: usize, what: &str) {
        let nodes: BTreeMap<String, String> =
            self.nodes.values().map(|node| (node.id.clone(), node.address.clone())).collect();
        until(what, PATIENCE, || {
            let nodes = nodes.clone();
            let told = self.net.host(from).run(async move { unrest(&nodes).await });
            async { told.await.unwrap() }
        })
        .await;
    }

    /// Every coordinator tells of each URL what was acknowledged.
    async fn assert_views(&self, finished: &Finished) {
        for (&at, coordinator) in &self.coordinators {
            let address = coordinator.address.clone();
            let told = self.net.host(at).run(async move { views(&address).await });
            assert_same(&told.await.unwrap(), &finished.views, &coordinator.id);
        }
    }

    async fn end(mut self, folder: &Path) {
        for member in self.nodes.values_mut().chain(self.coordinators.values_mut()) {
            member.terminate().await;
        }
        let history = folder.join("history");
        let verified = run(&["verify", "--store", history.to_str().unwrap(), "--from", "-3h"]).await;
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

/// Runs tasks of load and probes in a host.
fn within(host: &Namespace) -> impl Fn(futures::future::BoxFuture<'static, ()>) {
    |task| drop(host.run(task))
}

async fn until_complete(probes: &Probes, coordinator: usize, from: Instant) -> Duration {
    until("an answer is complete", PATIENCE, || async move {
        probes.first_complete(coordinator, from).is_none().then(|| format!("coordinator {coordinator}"))
    })
    .await;
    probes.first_complete(coordinator, from).expect("it is there") - from
}

fn partition() -> Duration {
    let seconds = std::env::var("TIDEMARK_PARTITION").map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(60))
}

fn assert_none_wrong(probes: &Probes) {
    let (wrong, began) = (probes.wrong(), probes.all().first().map(|probe| probe.asked));
    for probe in wrong.iter().take(10) {
        let after = began.map(|began| probe.asked - began).unwrap_or_default();
        say(&format!("wrong after {after:.2?}: {probe:?}"));
    }
    assert!(wrong.is_empty(), "{} complete answers are wrong", wrong.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_in_two_takes_events_on_both_sides_never_looks_complete_and_counts_each_once_when_it_heals()
{
    let _turn = TURN.lock().await;
    if is_skipped("a partition of 2 | 3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Left: nodes 0 and 1, coordinator 2, clients 3. Right: nodes 4 to 6, coordinator 7, clients 8.
    let sides = [(vec![0, 1], 2, 3), (vec![4, 5, 6], 7, 8)];
    let cluster =
        Cluster::start(Net::new(4, 5), Net::plain_ip, &[0, 1, 4, 5, 6], &[2, 7], folder.path()).await;
    cluster.until_peace(3, "all are started").await;
    let mut load = Load::new();
    for (nodes, _, clients) in &sides {
        let nodes = cluster.addresses(nodes.iter().copied());
        load.add(RATE, &nodes, &within(cluster.net.host(*clients)));
    }
    let both = |least: [u64; 2]| {
        let load = &load;
        async move {
            let acknowledged = [0, 1].map(|side| load.acknowledged_of(side));
            (acknowledged[0] <= least[0] || acknowledged[1] <= least[1]).then(|| format!("{acknowledged:?}"))
        }
    };
    until("both sides have acknowledgements", PATIENCE, || both([0, 0])).await;
    let mut probes = Probes::new(load.tally(), PROBE_EVERY);
    for (_, coordinator, clients) in &sides {
        probes.add(&cluster.coordinators[coordinator].address, &within(cluster.net.host(*clients)));
    }
    let begun = Instant::now();
    let whole = [until_complete(&probes, 0, begun).await, until_complete(&probes, 1, begun).await];
    say(&format!("whole: complete answers after {whole:.2?}"));

    let before = [0, 1].map(|side| load.acknowledged_of(side));
    cluster.net.cut(true);
    let cut = Instant::now();
    for (nodes, _, clients) in &sides {
        let address = cluster.addresses([nodes[0]]).remove(0);
        let owners: BTreeSet<String> = nodes.iter().map(|at| format!("n{at}")).collect();
        let took = cluster.net.host(*clients).run(async move { until_owners(&address, &owners, cut).await });
        say(&format!("cut: {} nodes are by themselves after {:.2?}", nodes.len(), took.await.unwrap()));
    }
    let apart = [0, 1].map(|side| load.acknowledged_of(side));
    until("both sides acknowledge by themselves", PATIENCE, || both(apart)).await;
    tokio::time::sleep(partition().saturating_sub(cut.elapsed())).await;
    let healing = Instant::now();
    let after = [0, 1].map(|side| load.acknowledged_of(side));
    cluster.net.cut(false);
    let healed = Instant::now();
    let events = [after[0] - before[0], after[1] - before[1]];
    say(&format!("apart for {:.1?}: {events:?} events acknowledged by the sides", healing - cut));
    let slept = (healing - cut).as_secs();
    assert!(events.iter().all(|&events| events > RATE * slept / 4), "a side took in too little: {events:?}");

    let complete = [until_complete(&probes, 0, healed).await, until_complete(&probes, 1, healed).await];
    say(&format!("healed: complete answers after {complete:.2?}"));
    cluster.until_peace(8, "all are together again").await;
    say(&format!("healed: all have everything after {:.1?}", healed.elapsed()));
    let finished = load.finish().await;
    cluster.assert_views(&finished).await;
    probes.stop();
    let all = probes.all();
    let apart: Vec<_> = all.iter().filter(|probe| probe.asked > cut && probe.answered < healing).collect();
    let looked: Vec<_> = apart.iter().filter(|probe| probe.complete).collect();
    say(&format!(
        "{} answers while apart, {} of them complete; {} events in all",
        apart.len(),
        looked.len(),
        finished.events
    ));
    assert!(apart.len() > 50, "too few answers to tell anything: {}", apart.len());
    assert!(
        looked.is_empty(),
        "{} answers look complete: {:?}",
        looked.len(),
        &looked[..looked.len().min(3)]
    );
    assert_none_wrong(&probes);
    cluster.end(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_wires_that_lose_and_delay_everything_is_counted_once_also_when_a_node_is_killed() {
    let _turn = TURN.lock().await;
    if is_skipped("5 % loss and 50 ms delay") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Nodes 0 to 4, coordinator 5, clients 6; the wires meet at 7.
    let (nodes, coordinator, clients, middle) = ([0, 1, 2, 3, 4], 5, 6, 7);
    let net = Net::new(4, 4);
    let badness = Badness { lost_per_mille: 50, delay: Duration::from_millis(50) };
    let mut wires = Wires::lay(&net, middle, badness, 7);
    let mut cluster = Cluster::start(net, Wires::ip, &nodes, &[coordinator], folder.path()).await;
    cluster.until_peace(clients, "all are started").await;
    let mut load = Load::new();
    for _ in 0..2 {
        let nodes = cluster.addresses(nodes);
        load.add(RATE, &nodes, &within(cluster.net.host(clients)));
    }
    until("something is acknowledged", PATIENCE, || async {
        (load.tally().acknowledged() == 0).then(String::new)
    })
    .await;
    let mut probes = Probes::new(load.tally(), PROBE_EVERY);
    let address = cluster.coordinators[&coordinator].address.clone();
    probes.add(&address, &within(cluster.net.host(clients)));
    let begun = Instant::now();
    until_complete(&probes, 0, begun).await;

    let killed = Instant::now();
    cluster.nodes.get_mut(&2).unwrap().kill().await;
    let complete = until_complete(&probes, 0, killed).await;
    say(&format!("a node killed: first complete answer after {complete:.2?}"));
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(begun.elapsed())).await;
    cluster.nodes.get_mut(&2).unwrap().start().await;
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(begun.elapsed())).await;

    let finished = load.finish().await;
    probes.stop();
    assert_none_wrong(&probes);
    cluster.assert_views(&finished).await;
    let (success, _) = probes.success(&[killed], Duration::from_secs(6));
    let (carried, lost) = wires.traffic.counts();
    say(&format!(
        "{} events at {} a second, {} counted again, {} blocks sent again; {} of {} answers complete; {lost} packets lost, {carried} arrived",
        finished.events, finished.rate, finished.duplicate, finished.retries, success.complete, success.asked
    ));
    let share = lost as f64 / (lost + carried) as f64;
    assert!(wires.are_up() && (0.04..0.06).contains(&share), "wires lose {share}");
    cluster.end(folder.path()).await;
}
