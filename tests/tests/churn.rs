//! Members that come, go and hang, under load: nothing is lost, nothing counts twice, and questions are answered.
//!
//! Real processes, real signals, the program's own timing. `TIDEMARK_CHURN_RATE` sets how many events a second are sent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use tidemark_node::clock::SystemClock;
use tidemark_rollup::time::Clock as _;
use tidemark_tests::churn::here;
use tidemark_tests::churn::load::{Finished, Load};
use tidemark_tests::churn::members::{self, Member, assert_same, unrest, until, until_owners, views};
use tidemark_tests::churn::probes::Probes;
use tidemark_tests::processes::{free_port, run, until_ready};

/// Events a second, unless the environment says otherwise.
const RATE: u64 = 20_000;
const PRODUCERS: u64 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// How soon after a kill others own what the dead node owned,
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(5);
/// and answers are complete again.
const COMPLETE_WITHIN: Duration = Duration::from_secs(6);
/// How soon after a change every node answers for all that it owns.
const PEACE_WITHIN: Duration = Duration::from_secs(90);
/// When waiting for one has no sense any more.
const LONGEST: Duration = Duration::from_secs(30);
/// A pause that others need not notice, and one that they must.
const SHORT_PAUSE: Duration = Duration::from_millis(700);
const LONG_PAUSE: Duration = Duration::from_secs(8);

/// Straight to the terminal: the test runner hides what passing tests print.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "churn: {line}");
}

struct Cluster {
    nodes: Vec<Member>,
    coordinators: Vec<Member>,
    probes: Probes,
    /// When answers could be incomplete for a while.
    disruptions: Vec<Instant>,
    begun: Instant,
}

impl Cluster {
    /// Nodes that are to be there, each by its name.
    fn present(&self) -> BTreeMap<String, String> {
        self.nodes.iter().map(|node| (node.id.clone(), node.address.clone())).collect()
    }

    fn names_without(&self, node: usize) -> BTreeSet<String> {
        let others = self.nodes.iter().filter(|other| other.id != self.nodes[node].id);
        others.map(|other| other.id.clone()).collect()
    }

    async fn until_peace(&self, after: &str) {
        let (present, begun) = (self.present(), Instant::now());
        until(&format!("peace after {after}"), PEACE_WITHIN, || unrest(&present)).await;
        let total = self.begun.elapsed().as_secs_f32();
        say(&format!(
            "{after}: all is well {:.1} s later ({total:.0} s in all)",
            begun.elapsed().as_secs_f32()
        ));
    }

    /// Waits until both coordinators have answered completely since `from`; returns how long the slower one took.
    async fn until_complete(&self, from: Instant) -> Duration {
        let mut slowest = Duration::ZERO;
        for coordinator in 0..self.coordinators.len() {
            slowest = slowest.max(loop {
                if let Some(first) = self.probes.first_complete(coordinator, from) {
                    break first - from;
                }
                let last = || self.probes.all().pop();
                assert!(from.elapsed() < LONGEST, "no complete answer since: {:?}", last());
                tokio::time::sleep(Duration::from_millis(10)).await;
            });
        }
        slowest
    }

    async fn kill_and_restart(&mut self, node: usize) {
        let (others, survivor) =
            (self.names_without(node), self.nodes[(node + 1) % self.nodes.len()].address.clone());
        let at = Instant::now();
        self.nodes[node].kill().await;
        self.disruptions.push(at);
        let taken_over = until_owners(&survivor, &others, at).await;
        let complete = self.until_complete(at).await;
        say(&format!(
            "kill -9 of {}: others own its shards after {:.2} s, first complete answer after {:.2} s",
            self.nodes[node].id,
            taken_over.as_secs_f32(),
            complete.as_secs_f32()
        ));
        let last = || self.probes.all().into_iter().rfind(|probe| !probe.complete).map(|probe| probe.why);
        assert!(
            taken_over < TAKEN_OVER_WITHIN && complete < COMPLETE_WITHIN,
            "the last incomplete answer: {:?}",
            last()
        );
        self.nodes[node].start().await;
        self.until_peace("it is started again").await;
    }

    async fn pause(&mut self, node: usize, pause: Duration) {
        let (others, survivor) =
            (self.names_without(node), self.nodes[(node + 1) % self.nodes.len()].address.clone());
        let at = Instant::now();
        self.nodes[node].signal("STOP").await;
        self.disruptions.push(at);
        if pause > TAKEN_OVER_WITHIN {
            let taken_over = until_owners(&survivor, &others, at).await;
            say(&format!("SIGSTOP: others own its shards after {:.2} s", taken_over.as_secs_f32()));
        }
        tokio::time::sleep(pause.saturating_sub(at.elapsed())).await;
        self.nodes[node].signal("CONT").await;
        let complete = self.until_complete(at).await;
        assert!(complete < COMPLETE_WITHIN, "first complete answer after {complete:?}");
        let what = format!(
            "SIGSTOP of {} for {pause:?}, first complete answer after {complete:.2?}",
            self.nodes[node].id
        );
        self.until_peace(&what).await;
    }

    async fn restart_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].terminate().await;
            self.nodes[node].start().await;
            self.until_peace(&format!("{} is restarted", self.nodes[node].id)).await;
        }
        for at in 0..self.coordinators.len() {
            // As whoever restarts one has its callers ask the other one meanwhile.
            self.probes.ask(at, false);
            self.coordinators[at].terminate().await;
            self.coordinators[at].start().await;
            until_ready(&[self.coordinators[at].address.clone()]).await;
            self.probes.ask(at, true);
        }
    }

    async fn drain(&mut self, node: usize) {
        let mut drained = self.nodes.remove(node);
        let to = format!("http://{}", drained.address);
        let output = run(&["drain", "--to", &to]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        drained.ended().await;
        self.until_peace(&format!("{} is drained", drained.id)).await;
    }

    /// Asserts what must hold of every answer, and how many were complete.
    fn judge(&self) {
        let (success, failed) = self.probes.success(&self.disruptions, COMPLETE_WITHIN);
        let all = self.probes.all();
        let complete = all.iter().filter(|probe| probe.complete).count();
        say(&format!(
            "{} answers, {complete} of them complete; outside detection windows {} of {} ({:.3} %)",
            all.len(),
            success.complete,
            success.asked,
            success.percent()
        ));
        let at = |when: Instant| (when - self.begun).as_secs_f32();
        for probe in failed.iter().take(20) {
            let (from, to) = (at(probe.asked), at(probe.answered));
            say(&format!("not complete: c{} at {from:.2}-{to:.2} s: {:.300}", probe.coordinator, probe.why));
        }
        let gone_back = self.probes.gone_back();
        for (probe, most) in gone_back.iter().take(10) {
            say(&format!(
                "gone back: c{} at {:.2} s from {most} to {}",
                probe.coordinator,
                at(probe.asked),
                probe.views
            ));
        }
        say(&format!("answers that went back: {}", gone_back.len()));
        let wrong = self.probes.wrong();
        assert!(
            wrong.is_empty(),
            "{} complete answers are wrong: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
        assert!(success.percent() > 99.9, "only {:.3} % complete", success.percent());
    }

    /// Waits until commits cover everything but what is of buckets that are open still.
    async fn until_committed(&self) {
        let opened = (now_s() / 300 - 1) * 300;
        let address = &self.nodes[0].address;
        until("closed buckets are committed", Duration::from_secs(120), || async move {
            let reply = members::members(address).await.ok()?;
            let statuses = reply.members.iter().filter_map(|member| member.status.as_ref());
            let waits = |status: &tidemark_proto::v1::StatusReply| {
                status.oldest_uncommitted_s != 0 && u64::from(status.oldest_uncommitted_s) < opened
            };
            let waiting = statuses.filter(|status| waits(status)).count();
            (waiting > 0).then(|| format!("{reply:?}"))
        })
        .await;
    }
}

fn now_s() -> u64 {
    u64::try_from(SystemClock.now().as_unix_ms() / 1_000).unwrap()
}

fn rate() -> u64 {
    std::env::var("TIDEMARK_CHURN_RATE")
        .map_or(RATE, |rate| rate.parse().expect("TIDEMARK_CHURN_RATE is a number"))
}

async fn start(folder: &Path, load: &mut Load) -> Cluster {
    let addresses: Vec<String> = (0..7).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let seeds = addresses[..3].join(",");
    let mut nodes: Vec<Member> =
        (0..5).map(|at| Member::node(&format!("n{at}"), &addresses[at], &seeds, folder)).collect();
    let mut coordinators: Vec<Member> =
        (0..2).map(|at| Member::coordinator(&format!("c{at}"), &addresses[5 + at], &seeds)).collect();
    for member in nodes.iter_mut().chain(&mut coordinators) {
        member.start().await;
    }
    until_ready(&addresses).await;
    let probes = Probes::new(load.tally(), PROBE_EVERY);
    let mut cluster = Cluster { nodes, coordinators, probes, disruptions: Vec::new(), begun: Instant::now() };
    cluster.until_peace("5 nodes and 2 coordinators are started").await;
    for _ in 0..PRODUCERS {
        load.add(rate() / PRODUCERS, &addresses[..5], &here);
    }
    // Before the first event there is nothing to compare with.
    until("something is acknowledged", tidemark_tests::PATIENCE, || async {
        (load.tally().acknowledged() == 0).then(String::new)
    })
    .await;
    for address in &addresses[5..] {
        cluster.probes.add(address, &here);
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_pauses_restarts_joins_and_a_drain_under_load_lose_nothing_double_nothing_and_questions_are_answered()
 {
    let folder = tempfile::tempdir().unwrap();
    let mut load = Load::new();
    let mut cluster = start(folder.path(), &mut load).await;
    until("a hundred complete answers", tidemark_tests::PATIENCE, || async {
        let complete = cluster.probes.complete();
        (complete < 100).then(|| complete.to_string())
    })
    .await;

    cluster.kill_and_restart(1).await;
    cluster.pause(2, SHORT_PAUSE).await;
    cluster.pause(3, LONG_PAUSE).await;
    cluster.restart_all().await;
    let seeds = cluster.nodes[1].address.clone();
    for id in ["n5", "n6"] {
        let address = format!("127.0.0.1:{}", free_port());
        let mut node = Member::node(id, &address, &seeds, folder.path());
        node.start().await;
        cluster.nodes.push(node);
    }
    cluster.until_peace("n5 and n6 have joined").await;
    cluster.drain(0).await;
    cluster.kill_and_restart(3).await;

    let tally = load.tally().clone();
    let finished = load.finish().await;
    cluster.probes.stop();
    say(&format!(
        "{} events at {} a second of {} that were to be; {} counted again, {} blocks sent again",
        finished.events,
        finished.rate,
        rate(),
        finished.duplicate,
        finished.retries
    ));
    assert_eq!(tally.acknowledged(), finished.events);
    cluster.judge();
    for coordinator in &cluster.coordinators {
        assert_same(&views(&coordinator.address).await, &finished.views, &coordinator.id);
    }
    end(cluster, &finished, folder.path()).await;
}

/// Stops all nodes, one after the other: each hands over what is not committed to those that stay. The last one, started again,
/// answers from history, and what it was handed over from its journal.
async fn end(mut cluster: Cluster, finished: &Finished, folder: &Path) {
    cluster.until_committed().await;
    // A seed, which the coordinators look for when all others are gone.
    let seed = cluster.nodes.iter().position(|node| node.id == "n1").unwrap();
    let mut last = cluster.nodes.remove(seed);
    for node in &mut cluster.nodes {
        node.terminate().await;
    }
    last.terminate().await;
    let history = folder.join("history");
    let verified = run(&["verify", "--store", history.to_str().unwrap(), "--from", "-3h"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    last.start().await;
    let all = views(&cluster.coordinators[0].address).await;
    assert_same(&all, &finished.views, "history with one journal");
    last.terminate().await;
    for coordinator in &mut cluster.coordinators {
        coordinator.terminate().await;
    }
    say(&format!("ended well after {:.0} s", cluster.begun.elapsed().as_secs_f32()));
}
