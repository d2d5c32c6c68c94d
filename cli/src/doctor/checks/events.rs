//! What answers lack, and what became of events.

use super::percent;
use crate::doctor::finding::Finding;
use crate::doctor::gather::Observed;

/// From which share on rejected and late events of the last hour are worth a look, in percent.
const REJECTED_PERCENT: u64 = 1;
const LATE_PERCENT: u64 = 10;

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    let (facts, views) = match &observed.answer {
        None => return,
        Some(Ok(answer)) => answer,
        Some(Err(error)) => {
            findings.push(Finding::critical(
                "no-answer",
                "cluster",
                format!("A question about the last hour is not answered: {error}."),
                "Look at the coordinator's log, and at its limits on queries.",
            ));
            return;
        }
    };
    if !facts.complete {
        let missing = facts.missing.iter().map(|missing| format!("{} ({})", missing.node, missing.reason));
        findings.push(Finding::critical(
            "partial-answers",
            "cluster",
            format!(
                "Answers lack something: {} of {} shards answer; {}.",
                facts.shards_answered,
                facts.shards_asked,
                missing.collect::<Vec<_>>().join("; ")
            ),
            "See to the nodes that are named.",
        ));
    }
    let rejected = percent(facts.rejected, facts.rejected + views);
    if rejected >= REJECTED_PERCENT {
        findings.push(Finding::warning(
            "events-rejected",
            "cluster",
            format!("{} events of the last hour were rejected, {rejected} % of all.", facts.rejected),
            "`tidemark receipt --site '*' --since 1h` tells the reasons by site.",
        ));
    }
    let late = percent(facts.late, *views);
    if late >= LATE_PERCENT {
        findings.push(Finding::warning(
            "events-late",
            "cluster",
            format!(
                "{} events of the last hour came after their five minutes had ended, {late} %.",
                facts.late
            ),
            "They count, but not at once: see what holds producers up, like a spool that is emptied.",
        ));
    }
}
