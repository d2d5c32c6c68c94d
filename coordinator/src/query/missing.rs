//! What an answer lacks, in its facts.
//!
//! Owns: who is named for shards that nobody answered for, and when nodes that are away may have events that nobody else has.
//! Does not own: which shards those are (`asking`), gaps in history (the nodes find them).

use super::asking::Lost;
use crate::plan::{NO_NODES, Plan};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::event::DEFAULT_ACCEPT_LATE;
use tidemark_rollup::query::Query;
use tidemark_rollup::time::EventTime;

/// How old what only memory and journals have can be: what producers may still deliver late by default. Whatever is older was
/// committed long ago.
const UNCOMMITTED: Duration = DEFAULT_ACCEPT_LATE;

/// An entry per node and reason.
pub(super) fn shards(plan: &Plan, lost: &BTreeMap<u32, Lost>) -> Vec<v1::Missing> {
    let mut counts: BTreeMap<&Lost, usize> = BTreeMap::new();
    lost.values().for_each(|lost| *counts.entry(lost).or_default() += 1);
    let entry = |(lost, count): (&Lost, usize)| {
        let (node, reason) = match lost {
            Lost::NoReader if plan.view().nodes().next().is_none() => {
                ("no node".to_owned(), NO_NODES.to_owned())
            }
            Lost::NoReader => {
                ("no node".to_owned(), format!("no node is ready to answer for {count} shards yet"))
            }
            Lost::Failed { peer, reason } => (peer.to_string(), reason.to_string()),
        };
        plan.missing(node, count, reason)
    };
    counts.into_iter().map(entry).collect()
}

/// An entry for nodes that are `away` without having left, where there are as many as a shard has owners: a block can have been
/// on all of them and on nobody else. Nothing, where all that the query asks for is committed anyway.
pub(super) fn members(
    plan: &Plan,
    away: &BTreeSet<String>,
    query: &Query,
    now: EventTime,
) -> Option<v1::Missing> {
    if away.len() < usize::from(plan.replication().get()) || query.to <= now.minus(UNCOMMITTED) {
        return None;
    }
    let names: Vec<&str> = away.iter().map(String::as_str).collect();
    let reason = "went without leaving: until they are back, there may be events that nobody else has";
    Some(plan.missing(names.join(", "), 0, reason.to_owned()))
}
