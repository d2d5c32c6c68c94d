//! The world: hosts, what connects them, and the passing of time.
//!
//! Owns: ticks, who runs in which order, and everything that happens to hosts.
//! Does not own: what their processes do.
//!
//! A tick: what is due is delivered, then each host lives through the tick, in the order in which hosts were added.

mod events;

use crate::context::HostContext;
use crate::disk::SimDisk;
use crate::host::{Host, Running};
use crate::net::{HostId, Net, Quality, Up};
use crate::random::Random;
use crate::store::SharedStore;
use crate::time::{SimClock, Time};
use futures::FutureExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_rollup::time::EventTime;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How often connections are looked at.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// What a world is made with.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// All chance is drawn from it.
    pub seed: u64,
    /// Hosts run so long before messages are delivered again. Shorter is nearer to the truth, as nothing arrives sooner than
    /// with the next tick; longer is faster. Whole milliseconds.
    pub tick: Duration,
    /// What true clocks show at the start.
    pub start: EventTime,
    /// How good ways are that nothing else is said of.
    pub quality: Quality,
    /// How many lines of the trace are kept; its hash is of all.
    pub trace_lines: usize,
}

impl WorldConfig {
    /// Ticks of 10 ms from 2026-11-22 10:00 on, a good local network, the latest 10,000 lines.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            tick: Duration::from_millis(10),
            start: EventTime::from_unix_ms(1_795_341_600_000),
            quality: Quality::default(),
            trace_lines: 10_000,
        }
    }
}

/// A simulated world. Not to be used within a runtime.
pub struct World {
    tick: Duration,
    now: Duration,
    checked: Duration,
    time: Arc<Time>,
    net: Arc<Net>,
    hosts: Vec<Host>,
    store: SharedStore,
    /// Of what happens to hosts. The network and each disk have others, so that one does not move the other's.
    random: Random,
    seed: u64,
    folder: TempDir,
}

impl World {
    /// A world of this seed, with defaults.
    pub fn new(seed: u64) -> Self {
        Self::with(WorldConfig::new(seed))
    }

    /// A world.
    ///
    /// # Panics
    /// Where the tick is no whole milliseconds, or there is no place for a folder.
    pub fn with(config: WorldConfig) -> Self {
        let is_whole = config.tick.as_millis() > 0 && config.tick.subsec_nanos().is_multiple_of(1_000_000);
        assert!(is_whole, "a tick is one or more whole milliseconds: timers are");
        let mut random = Random::new(config.seed);
        let time = Time::new(config.start);
        let net = Net::new(Arc::clone(&time), random.next(), config.trace_lines, config.quality);
        // In memory where there is such a folder: what is there is synced by nobody.
        // Of the same name for the same seed, unless another such world lives: names are in messages, and messages in traces.
        let name = format!("tidemark-simulation-{:016x}", config.seed);
        let folder = tempfile::Builder::new()
            .prefix(&name)
            .rand_bytes(0)
            .tempdir_in("/dev/shm")
            .or_else(|_| TempDir::with_prefix_in("tidemark-simulation-", "/dev/shm"))
            .or_else(|_| TempDir::with_prefix("tidemark-simulation-"))
            .expect("there is a folder for temporary files");
        Self {
            tick: config.tick,
            now: Duration::ZERO,
            checked: Duration::ZERO,
            store: SharedStore::new(Arc::clone(&time)),
            time,
            net,
            hosts: Vec::new(),
            random,
            seed: config.seed,
            folder,
        }
    }

    /// Adds a host. Nothing runs on it yet.
    pub fn add_host(&mut self, name: &str) -> HostId {
        let (id, ip) = self.net.add(name);
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).expect("the world's folder can be written");
        let trash = self.folder.path().join(format!(".{name}.deleted"));
        let disk = SimDisk::new(Arc::clone(&self.time), self.random.fork(), trash)
            .expect("the world's folder can be written");
        self.hosts.push(Host {
            id,
            name: name.into(),
            ip,
            clock: SimClock::new(Arc::clone(&self.time)),
            disk,
            folder,
            store: self.store.for_host(self.random.next()),
            running: None,
            paused_until: None,
            every: Duration::ZERO,
        });
        id
    }

    /// Starts a process on the host, which must have none. It lives until `main` ends, or until something ends it.
    ///
    /// # Panics
    /// Where the host has a process.
    pub fn start<F>(&mut self, host: HostId, main: impl FnOnce(HostContext) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let host = &mut self.hosts[host.0];
        assert!(host.running.is_none(), "{} has a process", host.name);
        let process = self.net.begin(host.id);
        let context = host.context(&self.net, process, xxh3_64_with_seed(host.name.as_bytes(), self.seed));
        let main = main(context);
        host.running = Some(Running::start(self.now, |runtime| runtime.spawn(main)));
    }

    /// Starts a process again after whatever became of the last one: [`start`](Self::start) by the name that reads well.
    pub fn restart<F>(&mut self, host: HostId, main: impl FnOnce(HostContext) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(host, main);
    }

    /// Has time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Has time pass until the condition holds, which is looked at between ticks, for so long at most. Returns whether it holds.
    pub fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while !condition(self) {
            if self.now >= end {
                return false;
            }
            self.step();
        }
        true
    }

    /// Does something in the host's process while time passes, for so long at most. `None` where it takes longer, or
    /// the process ends before. What takes longer is given up.
    ///
    /// # Panics
    /// Where the host has no process, and where `what` panics.
    pub fn call<T, F>(
        &mut self,
        host: HostId,
        limit: Duration,
        what: impl FnOnce(HostContext) -> F,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let seed = self.random.next();
        let at = &self.hosts[host.0];
        let running = at.running.as_ref().expect("the host has a process");
        let mut task = running.spawn(what(at.context(&self.net, self.net.process(host), seed)));
        if !self.run_until(limit, |_| task.is_finished()) {
            task.abort();
            return None;
        }
        match (&mut task).now_or_never()? {
            Ok(value) => Some(value),
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // It went with its process.
                Err(_) => None,
            },
        }
    }

    fn step(&mut self) {
        let end = self.now + self.tick;
        for host in &mut self.hosts {
            if host.paused_until.is_some_and(|until| until <= self.now) {
                host.paused_until = None;
                self.net.set_paused(host.id, false);
            }
        }
        self.net.deliver();
        if self.now >= self.checked + CHECK_EVERY {
            self.checked = self.now;
            self.net.check_connections();
        }
        for host in &mut self.hosts {
            if host.tick(&self.time, self.now, end) {
                host.disk.detach();
                self.net.end(host.id, Up::Refusing);
                host.end();
            }
        }
        self.now = end;
        self.time.set(end);
    }

    /// What has passed since the start.
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// What a true clock shows.
    pub fn now(&self) -> EventTime {
        self.time.wall()
    }

    /// Whether the host has a process.
    pub fn is_running(&self, host: HostId) -> bool {
        self.hosts[host.0].running.is_some()
    }

    /// The hosts, in the order in which they were added.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        (0..self.hosts.len()).map(HostId)
    }

    /// A host's name.
    pub fn name(&self, host: HostId) -> &str {
        &self.hosts[host.0].name
    }

    /// Where a host has its files.
    pub fn folder(&self, host: HostId) -> PathBuf {
        self.hosts[host.0].folder.clone()
    }

    /// The hash of everything that happened. Equal seeds and equal doings give equal hashes.
    pub fn hash(&self) -> u64 {
        self.net.lock().0.trace.hash()
    }

    /// The latest lines of what happened.
    pub fn trace(&self) -> Vec<String> {
        self.net.lock().0.trace.lines().map(str::to_owned).collect()
    }

    /// A number for the scenario's own decisions.
    pub fn draw(&mut self) -> u64 {
        self.random.next()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world of seed {} ends at {:?}", self.seed, self.now);
        }
        self.hosts.iter_mut().for_each(Host::abandon);
    }
}
