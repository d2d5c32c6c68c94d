//! Defects that are planted are found: `cargo test -p tidemark-simulation --features planted-bugs --test bugs`.
#![cfg(feature = "planted-bugs")]

use std::io::Write as _;
use std::num::NonZeroUsize;
use tidemark_simulation::cluster::defects;
use tidemark_simulation::seeds::find;

/// Seeds that have to be enough for each.
const SEEDS: u64 = 100;

/// Defects that so many seeds do not find yet: see the README.
const HIDDEN: [&str; 2] = ["ReadyAtOnce", "SkipOwnersCheck"];

#[test]
fn each_planted_defect_that_is_not_hidden_is_found_within_a_hundred_seeds() {
    let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut not_found = Vec::new();
    for (name, defect) in defects().into_iter().filter(|(name, _)| !HIDDEN.contains(&name.as_str())) {
        let found = find(1..1 + SEEDS, jobs, defect);
        // Straight to the terminal: the test runner hides what passing tests print.
        let _ = writeln!(std::io::stderr().lock(), "{name}: {found:?}");
        if found.is_none() {
            not_found.push(name);
        }
    }
    assert_eq!(not_found, Vec::<String>::new());
}
