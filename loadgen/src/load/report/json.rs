//! A run as JSON.

use super::{milliseconds, told};
use crate::load::measured::{Latencies, Measured, QUESTIONS};
use crate::load::run::RunReport;
use serde_json::{Map, Value, json};

/// The run as one object. Latencies are in milliseconds.
pub fn json(report: &RunReport) -> Value {
    let total = report.total();
    let part_s = report.timeline.part().as_secs();
    let part = |(number, part): (u64, &Measured)| {
        json!({
            "atS": number * part_s,
            "due": part.due,
            "sent": part.sent,
            "accepted": part.accepted,
            "acknowledgedMs": latencies(&part.acknowledged),
            "answered": part.answers().count(),
            "answeredMs": latencies(&part.answers()),
            "failedQueries": part.failed_queries,
            "updates": part.updates,
            "lostSubscribers": part.lost_subscribers,
            "undelivered": part.undelivered,
        })
    };
    let parts: Vec<Value> = (0..).zip(report.timeline.parts()).map(part).collect();
    let by_kind: Map<String, Value> =
        QUESTIONS.iter().zip(&total.answered).map(|(&kind, of)| (kind.to_owned(), latencies(of))).collect();
    json!({
        "options": report.options,
        "tookS": report.took.as_secs_f64(),
        "offeredPerS": report.offered_per_second(),
        "achievedPerS": report.achieved_per_second(),
        "due": total.due,
        "sent": total.sent,
        "accepted": total.accepted,
        "rejected": total.rejected,
        "undelivered": total.undelivered,
        "sentTwice": total.duplicates,
        "retries": report.retries,
        "acknowledgedMs": latencies(&total.acknowledged),
        "queries": {
            "answered": total.answers().count(),
            "partial": total.partial_queries,
            "failed": total.failed_queries,
            "answeredMs": latencies(&total.answers()),
            "answeredMsByKind": by_kind,
        },
        "updates": total.updates,
        "subscribers": { "lost": total.lost_subscribers, "returned": total.returned_subscribers },
        "failures": report.failures,
        "verdict": report.verdict,
        "good": report.is_good(),
        "partS": part_s,
        "parts": parts,
    })
}

fn latencies(of: &Latencies) -> Value {
    let told = told(of).into_iter().map(|(name, duration)| (name.to_owned(), json!(milliseconds(duration))));
    Value::Object(told.collect::<Map<_, _>>())
}
