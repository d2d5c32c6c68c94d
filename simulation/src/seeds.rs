//! Many simulations.
//!
//! Owns: running seeds on several threads, and telling of one that failed so that it can be replayed.
//! Does not own: a simulation (`cluster`).

use crate::cluster::{Defect, Options, Outcome, Schedule, simulate};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// So many lines of a failed simulation's trace are printed.
const LINES: usize = 40;

/// Runs seeds, `jobs` at a time, each on one thread. `done` is told of each as it ends, until it says `false`.
pub fn run_seeds<T: Send>(
    seeds: Range<u64>,
    jobs: NonZeroUsize,
    run: impl Fn(u64) -> T + Sync,
    done: impl FnMut(u64, T) -> bool + Send,
) {
    let (next, goes_on) = (AtomicU64::new(seeds.start), AtomicBool::new(true));
    let done = Mutex::new(done);
    std::thread::scope(|scope| {
        for _ in 0..jobs.get() {
            scope.spawn(|| {
                while goes_on.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = run(seed);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    if !done(seed, result) {
                        goes_on.store(false, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// The first seed that finds a defect, and what it sees.
pub fn find(seeds: Range<u64>, jobs: NonZeroUsize, defect: Defect) -> Option<(u64, String)> {
    let mut found: Option<(u64, String)> = None;
    let options = Options { defect, trace_lines: Some(0) };
    run_seeds(
        seeds,
        jobs,
        |seed| simulate(&Schedule::of(seed), options),
        |seed, outcome| {
            let Some(what) = outcome.violations.first() else { return true };
            if found.as_ref().is_none_or(|(first, _)| seed < *first) {
                let what: String = what.chars().take(140).collect();
                found = Some((seed, what.replace('\n', " ")));
            }
            false
        },
    );
    found
}

/// What came of a simulation, and how to replay it.
pub fn report(schedule: &Schedule, outcome: &Outcome, with_trace: bool, bug: Option<&str>) -> String {
    let mut text = schedule.to_string();
    let lines = if with_trace { outcome.trace.len() } else { LINES };
    let skipped = outcome.trace.len().saturating_sub(lines);
    for line in &outcome.trace[skipped..] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "    {line}");
    }
    for violation in &outcome.violations {
        let _ = writeln!(text, "  VIOLATED: {violation}");
    }
    let bug = bug.map_or_else(String::new, |bug| format!(" --features planted-bugs -- --bug {bug}"));
    let separator = if bug.is_empty() { " --" } else { "" };
    let _ = write!(
        text,
        "  hash {:016x}; replay: cargo run -p tidemark-simulation --bin simulate{bug}{separator} --seed {} --trace",
        outcome.hash, schedule.seed
    );
    text
}
