//! From the nodes' replies to an answer.
//!
//! Owns: merging, and the facts about who answered.
//! Does not own: what merging means (`tidemark_rollup::partial`), getting the replies (`rounds`).

use crate::fanout::Failure;
use crate::plan::{Part, Plan};
use crate::query::rounds::Outcome;
use tidemark_proto::v1;
use tidemark_rollup::answer;
use tidemark_rollup::partial::{Partial, TooManyRows};
use tidemark_rollup::query::Query;
use tidemark_rollup::time::Clock;

/// The answer that `outcomes`, one per part of the plan, give. A node whose reply cannot be read counts as missing.
pub(super) fn answer(
    plan: &Plan,
    outcomes: Vec<Outcome>,
    query: &Query,
    clock: &dyn Clock,
) -> Result<v1::Answer, TooManyRows> {
    let mut merged = Partial::new(query);
    let mut answered = 0;
    let mut missing = Vec::new();
    for (part, outcome) in plan.parts().iter().zip(outcomes) {
        let read = outcome.and_then(|reply| read(reply, query));
        if let Ok((partial, _)) = &read {
            merged.merge(partial);
        }
        let shards = read.as_ref().map_or(0, |(_, shards)| *shards);
        answered += shards;
        if shards < part.shards.len() {
            missing.push(missing_part(plan, part, shards, read.err()));
        }
    }
    if plan.parts().is_empty() {
        let reason = "the cluster has no members: start a node, or tell the coordinator where the nodes are";
        missing.push(plan.missing("no node".to_owned(), plan.shard_count() as usize, reason.to_owned()));
    }
    // Read after the nodes did: their newest event may be younger than the question.
    let mut answer = answer::answer(merged.checked()?, query, clock.now());
    let facts = answer.facts.get_or_insert_default();
    missing.append(&mut facts.missing);
    facts.complete = missing.is_empty();
    facts.shards_asked = plan.shard_count();
    facts.shards_answered = answered as u32;
    facts.missing = missing;
    Ok(answer)
}

/// A reply's rows, and how many shards they are of.
fn read(reply: v1::PartialReply, query: &Query) -> Result<(Partial, usize), Failure> {
    let partial = Partial::from_wire(reply.partial.unwrap_or_default(), query);
    let unreadable = || Failure::new("its reply cannot be read: run one version on all members");
    Ok((partial.ok_or_else(unreadable)?, reply.answered.len()))
}

fn missing_part(plan: &Plan, part: &Part, answered: usize, failure: Option<Failure>) -> v1::Missing {
    let reason = match failure {
        Some(failure) => failure.reason,
        None => "answered without these shards: they are not ready on this node".to_owned(),
    };
    plan.missing(part.name(), part.shards.len() - answered, reason)
}
