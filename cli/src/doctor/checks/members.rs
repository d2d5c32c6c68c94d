//! Who is there, whether all see the same, and whether each shard has its owners.

use super::{list, words};
use crate::doctor::finding::Finding;
use crate::doctor::gather::{Observed, names};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How far clocks may be apart. Buckets close two seconds late, and events are judged by the clock of whoever sealed them.
const CLOCKS_APART: Duration = Duration::from_secs(2);

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    if let Err(error) = &observed.node {
        findings.push(Finding::critical(
            "node-unreachable",
            observed.to.clone(),
            format!("No node answers there: {error}."),
            "Start it, or name another one with --to; a coordinator is no node.",
        ));
    }
    presence(observed, findings);
    versions(observed, findings);
    settings(observed, findings);
    owners(observed, findings);
    clocks(observed, findings);
    strangers(observed, findings);
    for (id, view) in &observed.views {
        let expected = names(observed.members());
        if *view != expected {
            findings.push(Finding::warning(
                "views-differ",
                id.clone(),
                format!("It sees the nodes {}, and not {}.", list(view.iter().map(String::as_str)), list(expected.iter().map(String::as_str))),
                "Look again in a minute; if it stays so, datagrams (UDP) do not get through between some of them.",
            ));
        }
    }
}

fn presence(observed: &Observed, findings: &mut Vec<Finding>) {
    // As long as fewer are gone than a shard has owners, one that has everything is there.
    let owners = observed.placement().map_or(1, |placement| placement.replication as usize);
    let is_bad = observed.missing().len() >= owners;
    let finding = if is_bad { Finding::critical } else { Finding::warning };
    for id in observed.missing() {
        findings.push(finding(
            "node-missing",
            id.clone(),
            "It went without leaving, and may hold events that nobody else has.".to_owned(),
            "Start it again in its folder, under its name; where its disk is lost for good, start an empty one under its name."
                .to_owned(),
        ));
    }
    for member in observed.members() {
        if member.doubtful {
            findings.push(Finding::critical(
                "member-silent",
                member.id.clone(),
                format!("It does not answer at {}.", member.address),
                "See whether it runs, and whether TCP and UDP get through to it.",
            ));
        } else if member.role == "node" && member.status.is_none() {
            findings.push(Finding::warning(
                "node-slow",
                member.id.clone(),
                "It gossips, and does not say within a second how it is doing.",
                "Look at its processor and its log; it may be overloaded, or unreachable over TCP.",
            ));
        }
        if member.role == "node" && member.state != "active" && !member.doubtful {
            let behind = member.status.as_ref().map_or(0, |status| status.blocks_behind);
            findings.push(Finding::warning(
                "node-not-active",
                member.id.clone(),
                format!("It is {}, {behind} blocks behind.", member.state),
                "Wait until it is done; `tidemark members` shows how far it is.",
            ));
        }
    }
}

fn versions(observed: &Observed, findings: &mut Vec<Finding>) {
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for member in observed.members().iter().filter(|member| !member.version.is_empty()) {
        by_version.entry(&member.version).or_default().push(&member.id);
    }
    if by_version.len() > 1 {
        let each = by_version.iter().map(|(version, ids)| format!("{version}: {}", ids.join(", ")));
        findings.push(Finding::warning(
            "versions-differ",
            "cluster",
            format!("Members run different versions ({}).", each.collect::<Vec<_>>().join("; ")),
            "Finish the upgrade.",
        ));
    }
}

fn settings(observed: &Observed, findings: &mut Vec<Finding>) {
    let of_nodes = observed.healths().map(|(id, health)| (id, health.shard_count, health.replication));
    let of_coordinators = observed.coordinators.iter().filter_map(|seen| {
        let placement = seen.report.as_ref().ok()?.placement.as_ref()?;
        Some((seen.name.as_str(), placement.shard_count, placement.replication))
    });
    let mut by_settings: BTreeMap<(u32, u32), Vec<&str>> = BTreeMap::new();
    for (id, shards, replication) in of_nodes.chain(of_coordinators) {
        by_settings.entry((shards, replication)).or_default().push(id);
    }
    if by_settings.len() > 1 {
        let each = by_settings.iter().map(|((shards, owners), ids)| {
            format!("{shards} shards and {owners} owners: {}", ids.join(", "))
        });
        findings.push(Finding::critical(
            "settings-differ",
            "cluster",
            format!("Members do not agree ({}).", each.collect::<Vec<_>>().join("; ")),
            "Start all members with the same --shards, --replication, --dimensions and --measures.",
        ));
    }
}

fn owners(observed: &Observed, findings: &mut Vec<Finding>) {
    let Some(placement) = observed.placement() else { return };
    let nodes = observed.members().iter().filter(|member| member.role == "node" && !member.doubtful).count();
    if nodes < placement.replication as usize {
        findings.push(Finding::critical(
            "owners-too-few",
            "cluster",
            format!("Each shard is to have {} owners, and {nodes} nodes are present.", placement.replication),
            "Start more nodes; until then what one of these has not committed is nowhere else.",
        ));
        return;
    }
    let silent: BTreeSet<&str> =
        observed.members().iter().filter(|member| member.doubtful).map(|member| member.id.as_str()).collect();
    let present =
        |&&at: &&u32| placement.nodes.get(at as usize).is_some_and(|node| !silent.contains(node.id.as_str()));
    let is_short = |owners: &&tidemark_proto::v1::Owners| {
        let settled = owners.writers.iter().take(owners.settled as usize);
        settled.filter(present).count() < placement.replication as usize
    };
    let short = placement.owners.iter().filter(is_short).count();
    if short > 0 {
        findings.push(Finding::warning(
            "replication-not-met",
            "cluster",
            format!(
                "{short} of {} shards have fewer than {} owners that have all of them.",
                placement.shard_count, placement.replication
            ),
            "Wait until repair is done, and see that no node is silent or joining.",
        ));
    }
}

fn clocks(observed: &Observed, findings: &mut Vec<Finding>) {
    let Ok(says) = &observed.node else { return };
    let allowed = CLOCKS_APART + says.uncertainty;
    for (id, health) in observed.healths() {
        let apart = Duration::from_millis(health.time_ms.abs_diff(says.asked_at_ms));
        if apart > allowed {
            let direction = if health.time_ms > says.asked_at_ms { "ahead of" } else { "behind" };
            findings.push(Finding::warning(
                "clocks-apart",
                id,
                format!("Its clock is {} {direction} the one here.", words(apart)),
                "Have both machines keep time (NTP): events from the future are rejected, and late ones too.",
            ));
        }
    }
}

/// Gossip that is dropped now.
fn strangers(observed: &Observed, findings: &mut Vec<Finding>) {
    for (id, health) in observed.healths() {
        let Some(before) = observed.before(id).and_then(|status| status.health.as_ref()) else { continue };
        for part in &health.gossip_dropped {
            let then =
                before.gossip_dropped.iter().find(|then| then.name == part.name).map_or(0, |then| then.count);
            let grown = part.count.saturating_sub(then);
            let (what, remedy) = match part.name.as_str() {
                "seal" => (
                    "with another key",
                    "Give all members the same --cluster-key, or keep somebody else's cluster away from this port.",
                ),
                "facts" => (
                    "of members with other settings",
                    "Start all members with the same --cluster, --shards, --replication, --dimensions and --measures.",
                ),
                "version" => ("of another version of gossip", "Upgrade whoever sends them."),
                // Copies and odd bytes come with networks; they say nothing about the cluster.
                _ => continue,
            };
            if grown > 0 {
                findings.push(Finding::warning(
                    "strangers",
                    id,
                    format!("It dropped {grown} datagrams {what} within {}.", words(observed.watched_for)),
                    remedy,
                ));
            }
        }
    }
}
