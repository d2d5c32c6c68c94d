//! One simulation: a cluster comes up, has its troubles under load, heals, and has to add up.
//!
//! Owns: the order of all this, and what is told of it.
//! Does not own: troubles (`schedule`, `faults`), checks (`ledger`, `probe`, `finish`).

use super::faults::Cluster;
use super::ledger::SharedLedger;
use super::members::{Defect, Setup};
use super::schedule::Schedule;
use super::{load, probe};
use crate::entropy::repeatable;
use crate::world::{World, WorldConfig};
use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{BucketStart, EventTime};
use tokio_util::sync::CancellationToken;

/// Senders of events: one of blocks, one of rows.
const PRODUCERS: usize = 2;
/// So many lines of a trace are kept.
const TRACE_LINES: usize = 4_000;

/// How a schedule is simulated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What is wrong with the cluster on purpose.
    pub defect: Defect,
    /// Lines of the trace that are kept; 4,000 where not set.
    pub trace_lines: Option<usize>,
}

/// What came of a simulation.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What should have held and did not: empty where all is well.
    pub violations: Vec<String>,
    /// The latest lines of what happened.
    pub trace: Vec<String>,
    /// The hash of all that happened.
    pub hash: u64,
    /// How long it was in the simulated world,
    pub simulated: Duration,
    /// and in this one.
    pub took: Duration,
    /// Events that were acknowledged.
    pub events: u64,
    /// Answers that were looked at while things happened, and those of them that had to have all that was acknowledged.
    pub answers: (u64, u64),
}

thread_local! {
    /// Panics on this thread, also those that a runtime catches.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Simulates a schedule, from a world of its own on a thread of its own.
pub fn simulate(schedule: &Schedule, options: Options) -> Outcome {
    note_panics();
    let began = Instant::now();
    let mut outcome = repeatable(schedule.seed, || {
        PANICS.set(Some(Vec::new()));
        let ledger = SharedLedger::default();
        let run = AssertUnwindSafe(|| run(schedule, options, &ledger));
        let mut outcome = panic::catch_unwind(run).unwrap_or_default();
        outcome.violations = ledger.violations();
        outcome.violations.extend(PANICS.take().unwrap_or_default());
        outcome
    });
    outcome.took = began.elapsed();
    outcome
}

fn run(schedule: &Schedule, options: Options, ledger: &SharedLedger) -> Outcome {
    let mut cluster = begin(schedule, options, ledger);
    let stop = CancellationToken::new();
    begin_load(&mut cluster, &stop);
    trouble(&mut cluster, schedule);
    if ledger.violations().is_empty() {
        cluster.finish(&stop);
    }
    let (world, ledger) = (&cluster.world, ledger.lock());
    Outcome {
        trace: world.trace(),
        hash: world.hash(),
        simulated: world.elapsed(),
        events: ledger.acknowledged.values().sum(),
        answers: (ledger.answers, ledger.held),
        ..Outcome::default()
    }
}

/// A cluster that has started.
fn begin(schedule: &Schedule, options: Options, ledger: &SharedLedger) -> Cluster {
    let usual = WorldConfig::new(schedule.seed);
    let bucket = BucketStart::containing(usual.start);
    let config = WorldConfig {
        start: EventTime::from_unix_ms(bucket.end().as_unix_ms()).minus(schedule.before_end),
        quality: schedule.ways.clone(),
        trace_lines: options.trace_lines.unwrap_or(TRACE_LINES),
        ..usual
    };
    let start = config.start;
    let mut world = World::with(config);
    let nodes: Vec<_> =
        (0..schedule.nodes + schedule.joining).map(|number| world.add_host(&format!("n{number}"))).collect();
    let coordinators: Vec<_> =
        (0..schedule.coordinators).map(|number| world.add_host(&format!("c{number}"))).collect();
    let prober = world.add_host("prober");
    let setup = Setup {
        shards: ShardCount::new(schedule.shards).unwrap(),
        replication: Replication::new(schedule.replication).unwrap(),
        settle: schedule.settle,
        backup_flush: schedule.backup_flush,
        keep: schedule.keep,
        nodes: (0..schedule.nodes).map(ip).collect(),
        coordinators: (0..coordinators.len()).map(|at| ip(nodes.len() + at)).collect(),
        producers: PRODUCERS,
        start,
        defect: options.defect,
    };
    let hosts = (nodes, coordinators, prober);
    let mut cluster = Cluster::new(world, Arc::new(setup), ledger.clone(), hosts);
    (0..schedule.nodes).for_each(|node| cluster.start(node));
    (0..schedule.coordinators).for_each(|one| cluster.start_coordinator(one));
    cluster
}

/// The address of a host, by the order in which it was added.
pub(crate) fn ip(host: usize) -> String {
    Ipv4Addr::from_bits(0x0a00_0001 + host as u32).to_string()
}

fn begin_load(cluster: &mut Cluster, stop: &CancellationToken) {
    let parts = || (Arc::clone(&cluster.setup), cluster.ledger.clone(), stop.clone());
    let (blocks, rows, probes) = (parts(), parts(), parts());
    let world = &mut cluster.world;
    let (producer, sender) = (world.add_host("producer"), world.add_host("sender"));
    world.start(producer, |context| load::produce(context, blocks.0, blocks.1, blocks.2));
    world.start(sender, |context| load::send_rows(context, rows.0, rows.1, rows.2));
    world.start(cluster.prober, |context| probe::probe(context, probes.0, probes.1));
}

/// What the schedule says, until something is violated or everything heals.
fn trouble(cluster: &mut Cluster, schedule: &Schedule) {
    let violated = cluster.ledger.clone();
    let run_to = |cluster: &mut Cluster, at: Duration| {
        let rest = at.saturating_sub(cluster.world.elapsed());
        cluster.world.run_until(rest, |_| !violated.lock().violations.is_empty())
    };
    for step in &schedule.steps {
        if run_to(cluster, step.at) {
            return;
        }
        cluster.apply(&step.what);
    }
    if !run_to(cluster, schedule.heals_at) {
        cluster.heal();
    }
}

/// Has panics of simulated tasks noted, which their runtimes catch, and not printed.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_noted = PANICS.with_borrow_mut(|panics| match panics {
                Some(panics) => {
                    panics.push(info.to_string());
                    true
                }
                None => false,
            });
            if !is_noted {
                usual(info);
            }
        }));
    });
}
