//! What is wrong with what was seen. Pure.
//!
//! Owns: the list of checks, one file per subject.
//! Does not own: asking (`gather`), the form of the report.

mod certificates;
mod coordinators;
mod events;
mod members;
mod nodes;

use super::finding::Finding;
use super::gather::Observed;
use std::time::Duration;

/// All checks, the worst findings first.
pub(super) fn all(observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    members::check(observed, &mut findings);
    nodes::check(observed, &mut findings);
    coordinators::check(observed, &mut findings);
    events::check(observed, &mut findings);
    certificates::check(observed, &mut findings);
    findings.sort();
    findings.dedup();
    findings
}

/// A time in words, to the second.
fn words(time: Duration) -> String {
    let seconds = Duration::from_secs(time.as_secs());
    if seconds.is_zero() { format!("{time:?}") } else { humantime::format_duration(seconds).to_string() }
}

/// A share in whole percent.
fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { (u128::from(part) * 100 / u128::from(whole)) as u64 }
}

/// Names as a list.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}
