//! `simulate`: clusters by seeds.
//!
//! Owns: flags, running seeds on several threads, and telling what came of them.
//! Does not own: simulations (`tidemark_simulation::cluster`).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program of the command line")]

use clap::Parser;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidemark_simulation::cluster::{Defect, Options, Outcome, Schedule, defects, simulate};
use tidemark_simulation::seeds::{find, run_seeds};

/// Simulates whole clusters: random troubles under load, then everything heals and has to add up
#[derive(Debug, Parser)]
struct Flags {
    /// How many seeds
    #[arg(long, default_value_t = 200)]
    seeds: u64,

    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,

    /// This one alone
    #[arg(long)]
    seed: Option<u64>,

    /// Print the schedule and the trace of each seed
    #[arg(long)]
    trace: bool,

    /// Simulations at a time; as many as there are processors where not set
    #[arg(long)]
    jobs: Option<NonZeroUsize>,

    /// Plant a defect, and find it (with the feature planted-bugs)
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,

    /// Plant each defect in turn, and find it within the seeds
    #[arg(long)]
    bugs: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let jobs = flags.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let (first, seeds) = flags.seed.map_or((flags.first, flags.seeds), |seed| (seed, 1));
    if flags.bugs {
        return find_all(first, seeds, jobs);
    }
    let defect = match &flags.bug {
        None => Defect::default(),
        Some(name) => match defects().into_iter().find(|(of, _)| of == name) {
            Some((_, defect)) => defect,
            None => {
                let names: Vec<String> = defects().into_iter().map(|(name, _)| name).collect();
                eprintln!("no defect is called {name}; there are: {}", names.join(", "));
                return ExitCode::from(2);
            }
        },
    };
    let trace_lines = flags.trace.then_some(10_000_000);
    let options = Options { defect, trace_lines };
    let (began, mut failed, mut simulated, mut events) = (Instant::now(), Vec::new(), Duration::ZERO, 0);
    run_seeds(
        first..first + seeds,
        jobs,
        |seed| {
            let schedule = Schedule::of(seed);
            let outcome = simulate(&schedule, options);
            (schedule, outcome)
        },
        |seed, (schedule, outcome)| {
            simulated += outcome.simulated;
            events += outcome.events;
            tell(&schedule, &outcome, flags.trace, flags.bug.as_deref());
            if !outcome.violations.is_empty() {
                failed.push(seed);
            }
            true
        },
    );
    let took = began.elapsed().as_secs_f64();
    failed.sort_unstable();
    println!(
        "{seeds} seeds, {} failed {failed:?}: {took:.1} s, {:.0} seeds a minute, {:.0} simulated seconds a second, {events} events",
        failed.len(),
        seeds as f64 / took * 60.0,
        simulated.as_secs_f64() / took,
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tells what came of a seed.
fn tell(schedule: &Schedule, outcome: &Outcome, with_trace: bool, bug: Option<&str>) {
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe has seen enough.
    let _ = if with_trace || !outcome.violations.is_empty() {
        writeln!(out, "{}", tidemark_simulation::seeds::report(schedule, outcome, with_trace, bug))
    } else {
        writeln!(
            out,
            "seed {}: well, {} events, {} answers of which {} were held to all, {:.0} s in {:.1} s",
            schedule.seed,
            outcome.events,
            outcome.answers.0,
            outcome.answers.1,
            outcome.simulated.as_secs_f64(),
            outcome.took.as_secs_f64()
        )
    };
}

/// Finds each defect, and prints within how many seeds.
fn find_all(first: u64, seeds: u64, jobs: NonZeroUsize) -> ExitCode {
    if defects().is_empty() {
        eprintln!("there are no defects in this program: build it with --features planted-bugs");
        return ExitCode::from(2);
    }
    let mut all_found = true;
    println!("| bug | found at seed | seeds needed | what was seen |\n|---|---|---|---|");
    for (name, defect) in defects() {
        match find(first..first + seeds, jobs, defect) {
            Some((seed, what)) => println!("| {name} | {seed} | {} | {what} |", seed - first + 1),
            None => {
                all_found = false;
                println!("| {name} | not found | over {seeds} | |");
            }
        }
    }
    if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
