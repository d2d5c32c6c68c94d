//! What happens to a cluster, and when: a function of the seed.
//!
//! Owns: drawing schedules, and printing them.
//! Does not own: doing it (`faults`).

use crate::disk::DiskFaults;
use crate::net::Quality;
use crate::random::Random;
use std::fmt;
use std::time::Duration;
use tidemark_history::faults::Faults;

/// Something that happens. Nodes and coordinators are numbered, each from 0.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The node's process is killed.
    Kill(usize),
    /// The node's machine loses its power.
    LosePower(usize),
    /// All nodes do at once.
    LoseAllPower,
    /// The node is started, where it does not run: after a crash, after it left, or for the first time.
    Start(usize),
    /// All nodes are started that do not run, have begun before and did not leave.
    StartAll,
    /// The node stands for so long.
    Pause(usize, Duration),
    /// The node gets to run only this often; zero: always.
    Slow(usize, Duration),
    /// Nothing passes between this node and all others, coordinators and producers too.
    Isolate(usize),
    /// Nothing passes from these nodes to the others.
    CutOneWay(Vec<usize>),
    /// Nothing passes between these nodes and the others.
    Cut(Vec<usize>),
    /// Everything passes again.
    Heal,
    /// How good all ways are.
    Ways(Quality),
    /// How good the ways to and from a node are; `None`: as all others.
    WaysOf(usize, Quality),
    /// The node's clock is so far ahead, in milliseconds.
    Skew(usize, i64),
    /// How the node's way to the store is doing; `None`: that of all nodes.
    Store(Option<usize>, Faults),
    /// How the node's disk is doing.
    Disk(usize, DiskFaults),
    /// The node is told to leave.
    Leave(usize),
    /// The coordinator's process is killed.
    KillCoordinator(usize),
    /// The coordinator is started again.
    StartCoordinator(usize),
}

/// Something, and when.
#[derive(Clone, Debug)]
pub struct Step {
    /// After the start.
    pub at: Duration,
    /// What happens.
    pub what: Trouble,
}

/// A cluster, and what happens to it.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Everything follows from it.
    pub seed: u64,
    /// Nodes from the start.
    pub nodes: usize,
    /// Nodes that join later, by steps.
    pub joining: usize,
    /// Owners of each shard.
    pub replication: u8,
    /// Shards.
    pub shards: u32,
    /// Coordinators.
    pub coordinators: usize,
    /// How long before the end of a bucket it begins.
    pub before_end: Duration,
    /// How long late buckets settle.
    pub settle: Duration,
    /// How long owners wait for the first one to commit.
    pub backup_flush: Duration,
    /// How long committed buckets stay in memory.
    pub keep: Duration,
    /// How good ways are from the start.
    pub ways: Quality,
    /// What happens, by time.
    pub steps: Vec<Step>,
    /// When everything heals.
    pub heals_at: Duration,
}

/// Troubles begin after this, when members have found one another.
const QUIET: Duration = Duration::from_secs(4);
/// They begin within so long.
const TROUBLED: Duration = Duration::from_secs(28);

impl Schedule {
    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5EED);
        let random = &mut random;
        let nodes = 3 + random.up_to(4) as usize;
        let mut schedule = Self {
            seed,
            nodes,
            joining: if nodes < 7 { random.up_to(1) as usize } else { 0 },
            replication: [1, 2, 2, 2, 3][random.up_to(4) as usize],
            shards: [8, 8, 16][random.up_to(2) as usize],
            coordinators: 1 + random.up_to(1) as usize,
            before_end: ms(random, 2_000, 45_000),
            settle: ms(random, 800, 2_000),
            backup_flush: ms(random, 2_000, 6_000),
            keep: [Duration::ZERO, Duration::from_secs(86_400)][random.up_to(1) as usize],
            ways: if random.happens(0.5) { Quality::default() } else { bad_ways(random) },
            steps: Vec::new(),
            heals_at: QUIET + TROUBLED,
        };
        if schedule.joining > 0 {
            let node = nodes;
            schedule.add(Trouble::Start(node), QUIET + ms(random, 0, 25_000));
        }
        for _ in 0..3 + random.up_to(6) {
            let at = QUIET + ms(random, 0, TROUBLED.as_millis() as u64);
            schedule.trouble(random, at);
        }
        schedule.steps.sort_by_key(|step| step.at);
        let last = schedule.steps.last().map_or(QUIET, |step| step.at);
        schedule.heals_at = last + Duration::from_millis(500);
        schedule
    }

    fn add(&mut self, what: Trouble, at: Duration) {
        self.steps.push(Step { at, what });
    }

    /// One trouble that begins at a time, and its end.
    fn trouble(&mut self, random: &mut Random, at: Duration) {
        let node = random.up_to(self.nodes as u64 + self.joining as u64 - 1) as usize;
        let after = at + ms(random, 300, 9_000);
        match random.up_to(19) {
            0 | 1 => {
                self.add(Trouble::Kill(node), at);
                self.add(Trouble::Start(node), after);
            }
            2 | 3 => {
                self.add(Trouble::LosePower(node), at);
                self.add(Trouble::Start(node), after);
            }
            4 => {
                self.add(Trouble::LoseAllPower, at);
                self.add(Trouble::StartAll, after);
            }
            5 => self.add(Trouble::Pause(node, ms(random, 100, 1_500)), at),
            6 => self.add(Trouble::Pause(node, ms(random, 2_500, 9_000)), at),
            7 => {
                self.add(Trouble::Slow(node, ms(random, 30, 300)), at);
                self.add(Trouble::Slow(node, Duration::ZERO), after);
            }
            8 => {
                self.add(Trouble::Isolate(node), at);
                self.add(Trouble::Heal, after);
            }
            9 | 10 => {
                let some = self.some_nodes(random);
                self.add(Trouble::Cut(some), at);
                self.add(Trouble::Heal, after);
            }
            11 => {
                let some = self.some_nodes(random);
                self.add(Trouble::CutOneWay(some), at);
                self.add(Trouble::Heal, after);
            }
            12 => {
                self.add(Trouble::Ways(bad_ways(random)), at);
                self.add(Trouble::Ways(self.ways.clone()), after);
            }
            13 => {
                self.add(Trouble::WaysOf(node, slow_ways(random)), at);
                self.add(Trouble::WaysOf(node, self.ways.clone()), after);
            }
            14 => {
                let ahead_ms = random.up_to(2_000) as i64 - 1_000;
                let by = if random.happens(0.2) { 20 } else { 1 };
                self.add(Trouble::Skew(node, ahead_ms * by), at);
                if random.happens(0.5) {
                    self.add(Trouble::Skew(node, 0), after);
                }
            }
            15 => {
                let of = random.happens(0.5).then_some(node);
                self.add(Trouble::Store(of, bad_store(random)), at);
                self.add(Trouble::Store(of, Faults::default()), after);
            }
            16 => {
                self.add(Trouble::Disk(node, bad_disk(random)), at);
                self.add(Trouble::Disk(node, DiskFaults::default()), after);
            }
            17 | 18 => {
                self.add(Trouble::Leave(node), at);
                if random.happens(0.5) {
                    self.add(Trouble::Start(node), after + Duration::from_secs(4));
                }
            }
            _ => {
                let one = random.up_to(self.coordinators as u64 - 1) as usize;
                self.add(Trouble::KillCoordinator(one), at);
                self.add(Trouble::StartCoordinator(one), after);
            }
        }
    }

    /// Some of the nodes: not none and not all.
    fn some_nodes(&self, random: &mut Random) -> Vec<usize> {
        let all = self.nodes + self.joining;
        let count = 1 + random.up_to(all as u64 - 2) as usize;
        let first = random.up_to(all as u64 - 1) as usize;
        (0..count).map(|at| (first + at) % all).collect()
    }
}

fn ms(random: &mut Random, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + random.up_to(to - from))
}

/// A network that loses, doubles and delays datagrams.
fn bad_ways(random: &mut Random) -> Quality {
    let most = Duration::from_millis(2 + random.up_to(25));
    let share = |random: &mut Random| random.up_to(60) as f64 / 1000.0;
    Quality {
        latency: Duration::from_micros(300)..most,
        loss: share(random),
        duplicates: share(random),
        stragglers: share(random),
    }
}

fn slow_ways(random: &mut Random) -> Quality {
    let least = Duration::from_millis(20 + random.up_to(200));
    Quality {
        latency: least..least * 2,
        loss: random.up_to(200) as f64 / 1000.0,
        duplicates: 0.05,
        stragglers: 0.1,
    }
}

fn bad_store(random: &mut Random) -> Faults {
    match random.up_to(3) {
        0 => Faults { away: true, ..Faults::default() },
        1 => Faults { error_share: 0.3, lost_reply_share: 0.3, ..Faults::default() },
        2 => Faults { lost_reply_share: 0.2, already_exists_after_success: 0.5, ..Faults::default() },
        _ => Faults {
            slow: Some(Duration::from_millis(50)..Duration::from_millis(100 + random.up_to(2_500))),
            error_share: 0.1,
            ..Faults::default()
        },
    }
}

fn bad_disk(random: &mut Random) -> DiskFaults {
    let usual = DiskFaults::default();
    match random.up_to(3) {
        0 => DiskFaults { capacity_bytes: Some(random.up_to(60_000)), ..usual },
        1 => DiskFaults { failing_writes: 0.1, ..usual },
        2 => DiskFaults { failing_syncs: 0.1, ..usual },
        _ => DiskFaults { takes: Duration::from_millis(20)..Duration::from_millis(900), ..usual },
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} nodes and {} that join, {} owners of each of {} shards, {} coordinators",
            self.seed, self.nodes, self.joining, self.replication, self.shards, self.coordinators
        )?;
        writeln!(
            f,
            "  a bucket ends after {:?}; settles {:?}, backup after {:?}, kept {:?}, {:?}",
            self.before_end, self.settle, self.backup_flush, self.keep, self.ways
        )?;
        for step in &self.steps {
            writeln!(f, "  {:>7.3} s  {:?}", step.at.as_secs_f64(), step.what)?;
        }
        writeln!(f, "  {:>7.3} s  everything heals", self.heals_at.as_secs_f64())
    }
}
