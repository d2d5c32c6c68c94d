//! A network in memory and clusters on it, in virtual time.
//!
//! Owns: delay, loss, repetition, reordering and partitions, all drawn from a seed; starting and stopping members.
//! Does not own: what is expected of them.
#![allow(dead_code, reason = "the traffic example needs a part of it")]

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_membership::{
    ClusterFacts, ClusterKey, Membership, MembershipConfig, MembershipMetrics, Parts, Timing,
};
use tidemark_rollup::member::{Member, NodeId, Role, View};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{Clock, EventTime};
use tidemark_shell::datagrams::Datagrams;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) type Received = (Bytes, SocketAddr);

/// How the network behaves.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) delay_us: (u64, u64),
    pub(crate) loss: f64,
    pub(crate) repeat: f64,
}

pub(crate) const FINE: Weather = Weather { delay_us: (200, 500), loss: 0.0, repeat: 0.0 };
/// Some datagrams are lost, some come twice, and those of 20 ms overtake one another.
pub(crate) const ROUGH: Weather = Weather { delay_us: (200, 20_000), loss: 0.05, repeat: 0.05 };

struct Inner {
    rng: StdRng,
    weather: Weather,
    ports: BTreeMap<SocketAddr, mpsc::UnboundedSender<Received>>,
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    held: BTreeMap<SocketAddr, Vec<(SocketAddr, SocketAddr, Bytes)>>,
    sent: BTreeMap<SocketAddr, (u64, u64)>,
    record: bool,
    recorded: Vec<(SocketAddr, SocketAddr, Bytes)>,
}

#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<Inner>>);

impl Net {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            rng: StdRng::seed_from_u64(seed),
            weather,
            ports: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: BTreeMap::new(),
            sent: BTreeMap::new(),
            record: false,
            recorded: Vec::new(),
        })))
    }

    fn inner<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    pub(crate) fn open(&self, address: SocketAddr) -> Arc<dyn Datagrams> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.inner(|inner| inner.ports.insert(address, sender));
        Arc::new(Socket { net: self.clone(), address, receiver: tokio::sync::Mutex::new(receiver) })
    }

    pub(crate) fn close(&self, address: SocketAddr) {
        self.inner(|inner| inner.ports.remove(&address));
    }

    /// Nothing gets from one to the other.
    pub(crate) fn cut(&self, from: SocketAddr, to: SocketAddr) {
        self.inner(|inner| inner.cut.insert((from, to)));
    }

    pub(crate) fn heal(&self) {
        self.inner(|inner| inner.cut.clear());
    }

    /// What comes from or goes to an address waits, as if it were paused.
    pub(crate) fn hold(&self, address: SocketAddr) {
        self.inner(|inner| inner.held.insert(address, Vec::new()));
    }

    pub(crate) fn release(&self, address: SocketAddr) {
        let held = self.inner(|inner| inner.held.remove(&address)).unwrap_or_default();
        held.into_iter().for_each(|(from, to, bytes)| self.deliver(from, to, bytes));
    }

    pub(crate) fn record(&self) {
        self.inner(|inner| inner.record = true);
    }

    pub(crate) fn recorded(&self) -> Vec<(SocketAddr, SocketAddr, Bytes)> {
        self.inner(|inner| inner.recorded.clone())
    }

    /// Datagrams and bytes that an address has sent.
    pub(crate) fn sent(&self, address: SocketAddr) -> (u64, u64) {
        self.inner(|inner| inner.sent.get(&address).copied().unwrap_or_default())
    }

    /// Puts a datagram into a socket.
    pub(crate) fn deliver(&self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        self.inner(|inner| {
            for held in [from, to] {
                if let Some(waiting) = inner.held.get_mut(&held) {
                    return waiting.push((from, to, bytes));
                }
            }
            if let Some(port) = inner.ports.get(&to) {
                let _ = port.send((bytes, from));
            }
        });
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        let delays = self.inner(|inner| {
            let sent = inner.sent.entry(from).or_default();
            *sent = (sent.0 + 1, sent.1 + bytes.len() as u64);
            if inner.record {
                inner.recorded.push((from, to, bytes.clone()));
            }
            let Weather { delay_us: (least, most), loss, repeat } = inner.weather;
            if inner.cut.contains(&(from, to)) || inner.rng.random_bool(loss) {
                return Vec::new();
            }
            let copies = if inner.rng.random_bool(repeat) { 2 } else { 1 };
            (0..copies).map(|_| Duration::from_micros(inner.rng.random_range(least..=most))).collect()
        });
        for delay in delays {
            let (net, bytes) = (self.clone(), bytes.clone());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                net.deliver(from, to, bytes);
            });
        }
    }
}

struct Socket {
    net: Net,
    address: SocketAddr,
    receiver: tokio::sync::Mutex<mpsc::UnboundedReceiver<Received>>,
}

#[async_trait::async_trait]
impl Datagrams for Socket {
    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.net.send(self.address, to, bytes);
        Ok(())
    }

    async fn receive(&self) -> io::Result<Received> {
        match self.receiver.lock().await.recv().await {
            Some(received) => Ok(received),
            None => std::future::pending().await,
        }
    }
}

/// The time of day in virtual time, off by so many milliseconds.
pub(crate) struct VirtualClock {
    started: Instant,
    off_ms: i64,
}

impl Clock for VirtualClock {
    fn now(&self) -> EventTime {
        EventTime::from_unix_ms(1_790_000_000_000 + self.off_ms).plus(self.started.elapsed())
    }
}

/// What a member starts with, to be changed by a test.
#[derive(Clone)]
pub(crate) struct Start {
    pub(crate) config: MembershipConfig,
    pub(crate) off_ms: i64,
}

pub(crate) struct Running {
    pub(crate) membership: Membership,
    pub(crate) gossip: SocketAddr,
    shutdown: CancellationToken,
    registry: prometheus_client::registry::Registry,
}

impl Running {
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.membership.view().borrow())
    }

    pub(crate) fn member(&self, name: &str) -> Option<Member> {
        self.view().member(&id(name)).cloned()
    }

    pub(crate) fn own(&self) -> Member {
        self.member(self.membership.id().as_str()).unwrap()
    }

    /// The names of those present and not doubtful.
    pub(crate) fn sees(&self) -> Vec<String> {
        let view = self.view();
        view.members().iter().filter(|member| !member.doubtful).map(|member| member.id.to_string()).collect()
    }

    /// The value of a metric, found by what its line contains.
    pub(crate) fn metric(&self, parts: &[&str]) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| parts.iter().all(|part| line.contains(part)));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }
}

pub(crate) struct Cluster {
    pub(crate) net: Net,
    pub(crate) running: BTreeMap<String, Running>,
    started: Instant,
    seed: u64,
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("n{at}")).collect()
}

pub(crate) fn address(name: &str) -> SocketAddr {
    let number: u8 = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(200);
    SocketAddr::from(([10, 0, 0, number + 1], 7101))
}

pub(crate) fn facts() -> ClusterFacts {
    ClusterFacts {
        cluster: "test".into(),
        shards: ShardCount::new(64).unwrap(),
        replication: Replication::DEFAULT,
        schema: Schema::default().outline(),
    }
}

/// A node whose seeds are the first three.
pub(crate) fn node(name: &str) -> Start {
    let config = MembershipConfig {
        id: id(name),
        role: Role::Node,
        zone: None,
        address: format!("{name}:7100"),
        gossip: address(name),
        seeds: names(3).iter().map(|seed| address(seed).to_string()).collect(),
        facts: facts(),
        key: ClusterKey::of("secret"),
        timing: Timing::default(),
        folder: None,
        version: "0.1.0".into(),
    };
    Start { config, off_ms: 0 }
}

impl Start {
    pub(crate) fn with_seeds(mut self, seeds: &[&str]) -> Self {
        self.config.seeds = seeds.iter().map(|seed| address(seed).to_string()).collect();
        self
    }

    pub(crate) fn in_folder(mut self, folder: PathBuf) -> Self {
        self.config.folder = Some(folder);
        self
    }

    pub(crate) fn clock_off_by(mut self, off: i64) -> Self {
        self.off_ms = off;
        self
    }
}

impl Cluster {
    pub(crate) fn empty(seed: u64, weather: Weather) -> Self {
        Self { net: Net::new(seed, weather), running: BTreeMap::new(), started: Instant::now(), seed }
    }

    /// So many nodes that see one another, all of them active.
    pub(crate) async fn of(count: usize, seed: u64, weather: Weather) -> Self {
        let mut cluster = Self::empty(seed, weather);
        for name in names(count) {
            cluster.start(&name, node(&name));
        }
        cluster.settle().await;
        cluster
    }

    pub(crate) async fn settle(&self) {
        assert!(self.until(30, || self.agree()).await.is_some(), "members did not meet: {:?}", self.all());
        for running in self.running.values() {
            running.membership.set_state(tidemark_rollup::member::MemberState::Active).await;
        }
        let active =
            || self.running.values().all(|of| of.view().members().iter().all(|m| m.state.name() == "active"));
        assert!(self.until(30, || self.agree() && active()).await.is_some(), "not active: {:?}", self.all());
    }

    pub(crate) fn start(&mut self, as_name: &str, start: Start) {
        let gossip = start.config.gossip;
        let mut registry = prometheus_client::registry::Registry::default();
        let parts = Parts {
            clock: Arc::new(VirtualClock { started: self.started, off_ms: start.off_ms }),
            datagrams: self.net.open(gossip),
            meter: MembershipMetrics::new(&mut registry).of(&start.config.id),
            seed: self.seed,
        };
        let shutdown = CancellationToken::new();
        let membership = Membership::start(start.config, parts, shutdown.clone()).unwrap();
        self.running.insert(as_name.into(), Running { membership, gossip, shutdown, registry });
    }

    /// Ends a member without a word.
    pub(crate) fn crash(&mut self, name: &str) {
        let was = self.running.remove(name).unwrap();
        was.shutdown.cancel();
        self.net.close(was.gossip);
    }

    pub(crate) fn member(&self, name: &str) -> &Running {
        &self.running[name]
    }

    pub(crate) fn cut(&self, some: &[String], others: &[String]) {
        for a in some {
            for b in others {
                self.net.cut(address(a), address(b));
                self.net.cut(address(b), address(a));
            }
        }
    }

    /// Whether all that run see all that run, and nobody else, in their present identities.
    pub(crate) fn agree(&self) -> bool {
        let all: Vec<Member> = self.running.values().map(Running::own).collect();
        self.running.values().all(|of| of.view().members() == all)
    }

    pub(crate) fn all(&self) -> Vec<(String, Vec<String>)> {
        self.running.iter().map(|(name, of)| (name.clone(), of.sees())).collect()
    }

    /// Waits for something, at most so many seconds; says how long it took.
    pub(crate) async fn until(&self, seconds: u64, is_so: impl Fn() -> bool) -> Option<Duration> {
        until(seconds, is_so).await
    }
}

pub(crate) async fn until(seconds: u64, is_so: impl Fn() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if is_so() {
            return Some(start.elapsed());
        }
        if start.elapsed() > Duration::from_secs(seconds) {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
