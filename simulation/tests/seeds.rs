//! Whole clusters: 200 schedules of troubles, each of which has to add up in the end.
//!
//! `TIDEMARK_SIM_FIRST` and `TIDEMARK_SIM_SEEDS` choose others.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::process::Command;
use std::time::{Duration, Instant};
use tidemark_simulation::cluster::{Options, Schedule, simulate};
use tidemark_simulation::seeds::{report, run_seeds};

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

fn jobs() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Straight to the terminal: the test runner hides what passing tests print.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{what}");
}

#[test]
fn whatever_happens_every_acknowledged_event_is_counted_once_when_all_is_well_again() {
    let first = number("TIDEMARK_SIM_FIRST", 1);
    let seeds = number("TIDEMARK_SIM_SEEDS", 200);
    let (began, mut done, mut failed, mut simulated) = (Instant::now(), 0, Vec::new(), Duration::ZERO);
    let run = |seed| {
        let schedule = Schedule::of(seed);
        let outcome = simulate(&schedule, Options::default());
        (schedule, outcome)
    };
    run_seeds(first..first + seeds, jobs(), run, |seed, (schedule, outcome)| {
        done += 1;
        simulated += outcome.simulated;
        if !outcome.violations.is_empty() {
            say(&report(&schedule, &outcome, false, None));
            failed.push(seed);
        }
        if done % 25 == 0 || done == seeds {
            say(&format!(
                "simulated {done} of {seeds} seeds from {first} on, {:.0} s of clusters in {:.0} s",
                simulated.as_secs_f64(),
                began.elapsed().as_secs_f64()
            ));
        }
        true
    });
    failed.sort_unstable();
    assert_eq!(failed, Vec::<u64>::new(), "these seeds found something; see above how to replay them");
}

/// In processes of their own: one that simulated something before goes on from that in something that is not found yet.
#[test]
fn the_same_seed_is_the_same_life_in_a_process_of_its_own() {
    for seed in ["3", "8", "21"] {
        let lives = [(); 2].map(|()| {
            let simulate =
                Command::new(env!("CARGO_BIN_EXE_simulate")).args(["--seed", seed, "--trace"]).output();
            let told = String::from_utf8(simulate.unwrap().stdout).unwrap();
            // The last line tells how long it took.
            told.lines().rev().skip(1).map(str::to_owned).collect::<Vec<String>>()
        });
        assert!(lives[0].len() > 1_000, "seed {seed}: {:?}", lives[0].last());
        assert!(lives[0] == lives[1], "seed {seed}: {:?} and {:?}", lives[0].first(), lives[1].first());
    }
}
