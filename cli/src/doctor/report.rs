//! What was found, as text and as JSON.

use super::finding::Finding;
use super::gather::Observed;
use serde_json::json;

/// A text for people.
pub(super) fn text(observed: &Observed, findings: &[Finding]) -> String {
    let mut text = format!("{}\n", summary(observed));
    if findings.is_empty() {
        text.push_str("Healthy: nothing was found.\n");
    }
    for Finding { severity, check, subject, what, remedy } in findings {
        let severity = severity.name().to_ascii_uppercase();
        text.push_str(&format!("\n{severity} {check}: {subject}\n  {what}\n  To do: {remedy}\n"));
    }
    text
}

fn counted(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn summary(observed: &Observed) -> String {
    let members = observed.members();
    let of = |role: &str| members.iter().filter(|member| member.role == role).count();
    let placed = observed.placement().map_or_else(String::new, |placement| {
        let (shards, owners) = (placement.shard_count as usize, placement.replication as usize);
        format!(", {}, {} each", counted(shards, "shard"), counted(owners, "owner"))
    });
    format!("{}, {}{placed}.", counted(of("node"), "node"), counted(of("coordinator"), "coordinator"))
}

/// The same for programs.
pub(super) fn json(observed: &Observed, findings: &[Finding]) -> String {
    let members: Vec<_> = observed
        .members()
        .iter()
        .map(|member| json!({ "id": member.id, "role": member.role, "state": member.state, "version": member.version }))
        .collect();
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "severity": finding.severity.name(),
                "check": finding.check,
                "subject": finding.subject,
                "what": finding.what,
                "remedy": finding.remedy,
            })
        })
        .collect();
    let report = json!({ "healthy": findings.is_empty(), "members": members, "findings": findings });
    format!("{report}\n")
}
