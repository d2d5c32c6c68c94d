//! Networks of one machine: network namespaces, joined by veth pairs and bridges.
//!
//! Owns: making and removing them, running things in them, and taking networks apart (`Net::cut`).
//! Does not own: bad wires (`wire`), what runs there.
//!
//! All networks have the shape of two switches with a cable between them:
//!
//! ```text
//! host 0 ── switch left ══ trunk ══ switch right ── host 2
//! host 1 ──┘                             └───────── host 3
//! ```
//!
//! It takes root and `ip` of iproute2, nothing else: kernels without netem and nftables will do.

pub mod wire;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::oneshot;

/// What namespaces of these tests are called first; the process's number and a running one follow.
const PREFIX: &str = "tidemark-";

/// Why there can be no networks here, where that is so.
pub fn missing() -> Option<String> {
    let probe = format!("{PREFIX}{}-probe", std::process::id());
    let mut steps = vec![format!("netns add {probe}")];
    steps.push(format!("-n {probe} link add name probe0 type veth peer name probe1"));
    steps.push(format!("-n {probe} link add name switch type bridge"));
    let failed = steps.iter().find_map(|step| ip(step).err());
    let _ = ip(&format!("netns del {probe}"));
    failed
}

/// Runs `ip`.
fn ip(arguments: &str) -> Result<String, String> {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip of iproute2 cannot be run: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The same, where it must succeed.
fn must(arguments: &str) {
    ip(arguments).unwrap_or_else(|error| panic!("{error}"));
}

/// A network namespace; removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        must(&format!("netns add {name}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `ip` in it.
    fn ip(&self, arguments: &str) {
        must(&format!("-n {} {arguments}", self.name));
    }

    /// What runs a program in it: `ip netns exec NAME`.
    pub fn exec(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Runs a future on a thread and a runtime of its own in it.
    pub fn run<F>(&self, future: F) -> oneshot::Receiver<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let (done, told) = oneshot::channel();
        let path = format!("/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).unwrap();
            // Of this thread alone, and of threads that it starts.
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = done.send(runtime.block_on(future));
        });
        told
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// Removes what is left of earlier runs: their processes are gone, and what they started in namespaces goes with these.
fn remove_leftovers() {
    for line in ip("netns list").unwrap_or_default().lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(process) = process.filter(|process| process.parse::<u32>().is_ok()) else { continue };
        if std::path::Path::new("/proc").join(process).exists() {
            continue;
        }
        let inside = ip(&format!("netns pids {name}")).unwrap_or_default();
        for id in inside.split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", id]).status();
        }
        let _ = ip(&format!("netns del {name}"));
    }
}

/// Hosts at two switches, and the cable between the switches.
#[derive(Debug)]
pub struct Net {
    // Hosts first: what runs there ends before the switches go.
    hosts: Vec<Namespace>,
    switches: Namespace,
}

impl Net {
    /// So many hosts at the left switch and at the right one.
    pub fn new(left: usize, right: usize) -> Self {
        remove_leftovers();
        let switches = Namespace::new();
        switches.ip("link add name trunk0 type veth peer name trunk1");
        for (switch, trunk) in [("left", "trunk0"), ("right", "trunk1")] {
            switches.ip(&format!("link add name {switch} type bridge"));
            switches.ip(&format!("link set {trunk} master {switch}"));
            switches.ip(&format!("link set {trunk} up"));
            switches.ip(&format!("link set {switch} up"));
        }
        let mut net = Self { hosts: Vec::new(), switches };
        for at in 0..left + right {
            net.plug_in(at, if at < left { "left" } else { "right" });
        }
        net
    }

    fn plug_in(&mut self, at: usize, switch: &str) {
        let host = Namespace::new();
        self.switches.ip(&format!("link add name port{at} type veth peer name eth0 netns {}", host.name));
        self.switches.ip(&format!("link set port{at} master {switch}"));
        self.switches.ip(&format!("link set port{at} up"));
        host.ip(&format!("addr add {}/24 dev eth0", Self::plain_ip(at)));
        host.ip("link set eth0 up");
        self.hosts.push(host);
    }

    /// A host.
    pub fn host(&self, at: usize) -> &Namespace {
        &self.hosts[at]
    }

    /// A host's address.
    pub fn plain_ip(at: usize) -> String {
        format!("10.77.0.{}", at + 1)
    }

    /// Pulls the cable between the switches, or plugs it in again.
    pub fn cut(&self, is_cut: bool) {
        self.switches.ip(&format!("link set trunk0 {}", if is_cut { "down" } else { "up" }));
    }
}
