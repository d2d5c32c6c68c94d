//! A run in a few lines.

use super::told;
use crate::load::failures::Reasons;
use crate::load::measured::{Latencies, QUESTIONS};
use crate::load::run::RunReport;
use std::fmt::Write as _;
use std::time::Duration;

/// Differences that are listed; all of them are in the JSON.
const LISTED: usize = 10;

/// The summary.
pub fn text(report: &RunReport) -> String {
    let (total, mut out) = (report.total(), String::new());
    let seconds = report.took.as_secs_f64();
    let (offered, achieved) = (report.offered_per_second(), report.achieved_per_second());
    // Writing to a string cannot fail.
    let _ = writeln!(out, "offered       {} events, {}/s", whole(total.due), whole(offered as u64));
    let _ = writeln!(
        out,
        "acknowledged  {} events, {}/s over {seconds:.1} s",
        whole(total.accepted),
        whole(achieved as u64)
    );
    let unsent = total.due - total.sent.min(total.due);
    for (what, events) in
        [("not sent", unsent), ("undelivered", total.undelivered), ("rejected", total.rejected)]
    {
        if events > 0 {
            let _ = writeln!(out, "{what:<13} {} events", whole(events));
        }
    }
    let _ = writeln!(
        out,
        "sent again    {} times; {} events sent twice on purpose",
        whole(report.retries),
        whole(total.duplicates)
    );
    reasons(&mut out, "blocks or batches failed", &report.failures.blocks);
    reasons(&mut out, "events were rejected", &report.failures.rejected);
    latencies(&mut out, "acknowledgement, since due", &total.acknowledged);
    if report.options.queries_per_second > 0.0 {
        let answered = total.answers().count();
        let (partial, failed) = (total.partial_queries, total.failed_queries);
        let _ = writeln!(
            out,
            "queries       {} answered, {} of them in part; {} failed",
            whole(answered),
            whole(partial),
            whole(failed)
        );
        reasons(&mut out, "queries failed", &report.failures.queries);
        for (kind, of) in QUESTIONS.iter().zip(&total.answered) {
            latencies(&mut out, &format!("answer, since due, {kind}"), of);
        }
    }
    if report.options.subscribers > 0 {
        let _ = writeln!(
            out,
            "subscribers   {}, with {} updates; lost {} times, came back {} times",
            report.options.subscribers,
            whole(total.updates),
            whole(total.lost_subscribers),
            whole(total.returned_subscribers)
        );
        reasons(&mut out, "subscribers were lost", &report.failures.subscribers);
    }
    if let Some(verdict) = &report.verdict {
        let of = format!("{} numbers compared with what was sent", whole(verdict.compared));
        let unsure = match verdict.unsure {
            0 => String::new(),
            unsure => format!("; {} events may be counted or not", whole(unsure)),
        };
        match verdict.is_equal() {
            true => _ = writeln!(out, "verified      {of}: all as they should be{unsure}"),
            false => _ = writeln!(out, "NOT VERIFIED  {of}: {} differ{unsure}", whole(verdict.differing)),
        }
        for difference in verdict.differences.iter().take(LISTED) {
            let (at_least, at_most) = (difference.at_least, difference.at_most);
            let expected = match at_least == at_most {
                true => format!("{at_least}"),
                false => format!("{at_least:.1} to {at_most:.1}"),
            };
            let found = difference.cluster.map_or("nothing".to_owned(), |found| found.to_string());
            let (site, of, measure) = (&difference.site, &difference.of, difference.measure);
            let _ = writeln!(out, "  {site} {of} {measure}: {found} instead of {expected}");
        }
    }
    out
}

fn latencies(out: &mut String, of: &str, latencies: &Latencies) {
    let told: Vec<String> =
        told(latencies).into_iter().map(|(name, latency)| format!("{name} {}", short(latency))).collect();
    if !told.is_empty() {
        let _ = writeln!(out, "{of}:  {}", told.join("  "));
    }
}

/// Why something failed, the most frequent reason first.
fn reasons(out: &mut String, what: &str, reasons: &Reasons) {
    if reasons.total() > 0 {
        let _ = writeln!(out, "why {what}:");
    }
    for (reason, count) in reasons.most_often_first() {
        let _ = writeln!(out, "  {} times: {reason}", whole(count));
    }
}

/// A latency in milliseconds, or in seconds where it is long.
fn short(latency: Duration) -> String {
    match latency.as_secs_f64() {
        seconds if seconds >= 10.0 => format!("{seconds:.1} s"),
        seconds if seconds >= 0.1 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{:.2} ms", seconds * 1e3),
    }
}

/// A number with a comma every three digits.
fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_latencies_are_short_and_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(whole), ["0", "999", "1,000", "1,234,567"]);
        let spelled = [Duration::from_micros(1_234), Duration::from_millis(345), Duration::from_secs(12)];
        assert_eq!(spelled.map(short), ["1.23 ms", "345 ms", "12.0 s"]);
    }
}
