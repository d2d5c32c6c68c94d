//! What keeps a node from its work, and how near its limits it is.

use super::{percent, words};
use crate::doctor::finding::Finding;
use crate::doctor::gather::Observed;
use std::time::Duration;
use tidemark_proto::v1;

/// How old what is not committed may be: five minutes of a bucket, and time to settle and flush.
const UNCOMMITTED: Duration = Duration::from_secs(30 * 60);
/// From which share of a limit on a node is near it. Rollups leave memory from four fifths of their budget on, which is fine.
const NEAR_PERCENT: u64 = 90;
const NEAR_MEMORY_PERCENT: u64 = 90;
/// Times the disk's reserve that should be free.
const DISK_RESERVES: u64 = 8;

pub(super) fn check(observed: &Observed, findings: &mut Vec<Finding>) {
    for (member, status) in observed.nodes() {
        shards(&member.id, status, findings);
        journal(observed, &member.id, status, findings);
    }
    for (id, health) in observed.healths() {
        store(id, health, findings);
        limits(id, health, findings);
    }
}

fn shards(id: &str, status: &v1::StatusReply, findings: &mut Vec<Finding>) {
    let health = status.health.clone().unwrap_or_default();
    if health.shards_down > 0 {
        findings.push(Finding::critical(
            "shards-down",
            id,
            format!("{} of its shards failed, and could not be started again.", health.shards_down),
            "Its log says why; restart the node, and report it.",
        ));
    }
    if health.recovering {
        findings.push(Finding::warning(
            "recovering",
            id,
            "It counts what its journal has, and answers when it is done.",
            "Wait; `/readyz` says when.",
        ));
    } else if status.shards_ready < status.shards_owned {
        findings.push(Finding::warning(
            "shards-not-ready",
            id,
            format!(
                "It answers for {} of the {} shards it owns, and lacks {} blocks.",
                status.shards_ready, status.shards_owned, status.blocks_behind
            ),
            "Wait until it has compared with the others; if it stays so, look at its log and at whether it reaches them.",
        ));
    }
}

fn journal(observed: &Observed, id: &str, status: &v1::StatusReply, findings: &mut Vec<Finding>) {
    let flow = status.flow.clone().unwrap_or_default();
    if !flow.journal_refuses.is_empty() {
        findings.push(Finding::critical(
            "journal-full",
            id,
            format!("Nothing is acknowledged there: {}.", flow.journal_refuses),
            "Make room on the disk or raise --journal-limit; and see why commits do not make room (the store, the log).",
        ));
    }
    if status.oldest_uncommitted_s > 0 {
        let oldest_ms = i64::from(status.oldest_uncommitted_s) * 1000;
        let age = Duration::from_millis(u64::try_from(observed.now.as_unix_ms() - oldest_ms).unwrap_or(0));
        let is_due = flow.oldest_unflushed_s > 0;
        if age > UNCOMMITTED && is_due {
            let grown = status
                .journal_blocks
                .saturating_sub(observed.before(id).map_or(u64::MAX, |was| was.journal_blocks));
            findings.push(Finding::warning(
                "journal-not-trimmed",
                id,
                format!(
                    "The journal keeps {} blocks, the oldest of {} ago, because no commit covers them{}.",
                    status.journal_blocks,
                    words(age),
                    if grown > 0 {
                        format!("; {grown} more within {}", words(observed.watched_for))
                    } else {
                        String::new()
                    }
                ),
                "See why flushing does not get on: the store, the node's log, tidemark_flush_failures_total.",
            ));
        }
    }
}

fn store(id: &str, health: &v1::NodeHealth, findings: &mut Vec<Finding>) {
    if !health.store_away.is_empty() {
        findings.push(Finding::critical(
            "store-away",
            id,
            format!(
                "Its object store has not answered for {}: {}. Events are taken in all the same, and wait in the journal.",
                words(Duration::from_millis(health.store_away_ms)),
                health.store_away.trim_end_matches('.')
            ),
            "See to the store, its address and its credentials; nothing is lost while the journal has room.",
        ));
    }
}

fn limits(id: &str, health: &v1::NodeHealth, findings: &mut Vec<Finding>) {
    let mut near = |check, what: &str, used, limit, from, remedy: &str| {
        let share = percent(used, limit);
        if limit > 0 && share >= from {
            findings.push(Finding::warning(
                check,
                id,
                format!("{what} at {share} % of the limit ({used} of {limit} bytes)."),
                remedy,
            ));
        }
    };
    near(
        "memory-near-limit",
        "Memory is",
        health.memory_bytes,
        health.memory_budget_bytes,
        NEAR_MEMORY_PERCENT,
        "Raise --memory-budget, add nodes, or keep fewer dimensions: at fifteen sixteenths of it senders are told to wait.",
    );
    near(
        "in-flight-near-limit",
        "What is taken in and not acknowledged is",
        health.in_flight_bytes,
        health.in_flight_limit_bytes,
        NEAR_PERCENT,
        "See what acknowledgements wait for (tidemark_journal_lag_seconds, other owners), or raise --in-flight-bytes.",
    );
    near(
        "journal-near-limit",
        "The journal is",
        health.journal_bytes,
        health.journal_limit_bytes,
        NEAR_PERCENT,
        "Raise --journal-limit, or see why commits do not make room.",
    );
    if let Some(free) = health.disk_free_bytes
        && free < health.disk_reserve_bytes.saturating_mul(DISK_RESERVES)
    {
        findings.push(Finding::warning(
            "disk-near-full",
            id,
            format!(
                "The journal's disk has {free} bytes free; below {} nothing is taken in.",
                health.disk_reserve_bytes
            ),
            "Make room on the disk.",
        ));
    }
}
