//! What became of a log, for people and for programs.
//!
//! Owns: the lines of the report and their names.
//! Does not own: the numbers (`tidemark_loadgen::replay`).

use crate::output;
use crate::show::grid::{Align, Grid};
use crate::show::number::{age, decimal, thousands};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Duration;
use tidemark_loadgen::replay::ReplayReport;

/// The report as a table.
pub(super) fn text(file: &Path, report: &ReplayReport) -> String {
    let mut grid = Grid::new(vec![(file.display().to_string(), Align::Left), (String::new(), Align::Right)]);
    let mut line = |name: &str, value: String| grid.push(vec![name.to_owned(), value]);
    line("lines", thousands(report.lines));
    line("  skipped", thousands(report.skipped));
    line("  not usable", thousands(report.faults.values().sum()));
    for (fault, &lines) in &report.faults {
        line(&format!("    {}", fault.name()), thousands(lines));
    }
    let totals = &report.totals;
    line("events", thousands(totals.events));
    line("  accepted", thousands(totals.accepted));
    line("    of these duplicate", thousands(totals.duplicate));
    line("  rejected", thousands(totals.rejected.values().sum()));
    for (reason, &events) in &totals.rejected {
        line(&format!("    {}", reason.name()), thousands(events));
    }
    line("times moved by", moved(report.shifted_ms));
    line("took", took(report.took));
    line("events per second", thousands(per_second(report)));
    line("acknowledged in, p50", latency(report, 0.5));
    line("acknowledged in, p99", latency(report, 0.99));
    line("blocks sent again", thousands(totals.retries));
    grid.draw(output::terminal_width())
}

/// The report as JSON.
pub(super) fn json(file: &Path, report: &ReplayReport) -> Value {
    let totals = &report.totals;
    let faults = report.faults.iter().map(|(fault, &lines)| (fault.name().to_owned(), lines.into()));
    let rejected = totals.rejected.iter().map(|(reason, &events)| (reason.name(), events.into()));
    json!({
        "file": file.display().to_string(),
        "lines": report.lines,
        "skipped": report.skipped,
        "faults": faults.collect::<Map<_, _>>(),
        "events": totals.events,
        "accepted": totals.accepted,
        "duplicate": totals.duplicate,
        "rejected": rejected.collect::<Map<_, _>>(),
        "retries": totals.retries,
        "shiftedMs": report.shifted_ms,
        "tookMs": u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        "eventsPerSecond": per_second(report),
        "acknowledgedMs": {
            "p50": report.latency_us.value_at_quantile(0.5) as f64 / 1000.0,
            "p99": report.latency_us.value_at_quantile(0.99) as f64 / 1000.0,
        },
    })
}

fn per_second(report: &ReplayReport) -> u64 {
    (report.totals.events as f64 / report.took.as_secs_f64().max(0.001)) as u64
}

fn took(took: Duration) -> String {
    format!("{} s", decimal(took.as_secs_f64(), crate::show::number::Unit::Count))
}

fn latency(report: &ReplayReport, quantile: f64) -> String {
    format!("{:.1} ms", report.latency_us.value_at_quantile(quantile) as f64 / 1000.0)
}

fn moved(shifted_ms: i64) -> String {
    match shifted_ms {
        0 => "nothing".to_owned(),
        ms if ms < 0 => format!("-{}", age(ms.unsigned_abs())),
        ms => format!("+{}", age(ms.unsigned_abs())),
    }
}

#[cfg(test)]
pub(super) use tests::sample;

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;
    use std::collections::BTreeMap;
    use tidemark_client::Totals;
    use tidemark_loadgen::log::LineFault;
    use tidemark_proto::v1::Reason;

    pub(in crate::replay) fn sample() -> ReplayReport {
        let mut latency_us = Histogram::new(3).unwrap();
        latency_us.record_n(12_300, 98).unwrap();
        latency_us.record_n(45_000, 2).unwrap();
        let totals = Totals {
            events: 9_988,
            accepted: 9_981,
            duplicate: 40,
            rejected: BTreeMap::from([(Reason::BadUrl, 7)]),
            retries: 2,
            ..Totals::default()
        };
        ReplayReport {
            lines: 10_001,
            skipped: 1,
            faults: BTreeMap::from([(LineFault::BadTime, 2), (LineFault::MalformedRequest, 10)]),
            totals,
            shifted_ms: -7_200_000,
            took: Duration::from_millis(2_000),
            latency_us,
        }
    }

    #[test]
    fn the_report_accounts_for_every_line_and_every_event() {
        let expected = "
 access.log
────────────────────────────────
 lines                    10,001
   skipped                     1
   not usable                 12
     bad_time                  2
     malformed_request        10
 events                    9,988
   accepted                9,981
     of these duplicate       40
   rejected                    7
     bad_url                   7
 times moved by             -2 h
 took                      2.0 s
 events per second         4,994
 acknowledged in, p50    12.3 ms
 acknowledged in, p99    45.0 ms
 blocks sent again             2
";
        assert_eq!(text(Path::new("access.log"), &sample()), expected[1..]);
    }

    #[test]
    fn the_report_as_json_has_the_same_numbers() {
        let expected = json!({
            "file": "logs/access.log", "lines": 10_001, "skipped": 1,
            "faults": {"bad_time": 2, "malformed_request": 10},
            "events": 9_988, "accepted": 9_981, "duplicate": 40, "rejected": {"bad_url": 7}, "retries": 2,
            "shiftedMs": -7_200_000, "tookMs": 2_000, "eventsPerSecond": 4_994,
            "acknowledgedMs": {"p50": 12.303, "p99": 45.023},
        });
        assert_eq!(json(Path::new("logs/access.log"), &sample()), expected);
    }
}
