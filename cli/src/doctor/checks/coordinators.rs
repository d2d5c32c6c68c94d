//! Coordinators: whether they answer, whom they see, and what they say of the way of events.

use super::list;
use crate::doctor::finding::Finding;
use crate::doctor::gather::{Observed, names};
use tidemark_proto::v1::Condition;

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    for seen in &observed.coordinators {
        let report = match &seen.report {
            Ok(report) => report,
            Err(error) => {
                findings.push(Finding::critical(
                    "coordinator-unreachable",
                    seen.name.clone(),
                    format!("No coordinator answers there: {error}."),
                    "Start it, or name another one with --at.",
                ));
                continue;
            }
        };
        let (sees, expected) = (names(&report.members), names(observed.members()));
        if observed.node.is_ok() && sees != expected {
            let sees =
                if sees.is_empty() { "none".to_owned() } else { list(sees.iter().map(String::as_str)) };
            findings.push(Finding::critical(
                "coordinator-sees-others",
                seen.name.clone(),
                format!("It sees other nodes than the node does: {sees} instead of {}.", list(expected.iter().map(String::as_str))),
                "Give it the same --seeds, --cluster and --cluster-key, and see that datagrams (UDP) get through to it.",
            ));
        }
    }
    // All of them tell of the same nodes.
    let Some(report) = observed.coordinators.iter().find_map(|seen| seen.report.as_ref().ok()) else {
        return;
    };
    for stage in &report.stages {
        let is_critical = match stage.condition() {
            Condition::OnFire => true,
            Condition::Questionable => false,
            Condition::Fine | Condition::Unspecified => continue,
        };
        let finding = if is_critical { Finding::critical } else { Finding::warning };
        findings.push(finding(
            "way-of-events",
            stage.name.clone(),
            stage.explanation.clone(),
            "docs/live.md has the stages and what each needs.",
        ));
    }
}
