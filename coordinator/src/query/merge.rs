//! From the nodes' replies to an answer.
//!
//! Owns: merging, and the facts about how many shards answered.
//! Does not own: what merging means (`tidemark_rollup::partial`), getting the replies (`rounds`), what is missing
//! (`missing`).

use super::missing;
use super::rounds::Gathered;
use crate::plan::Plan;
use std::collections::BTreeSet;
use tidemark_proto::v1;
use tidemark_rollup::answer;
use tidemark_rollup::partial::{Partial, TooManyRows};
use tidemark_rollup::query::Query;
use tidemark_rollup::time::Clock;

/// The answer that `gathered` gives, under the plan of now.
pub(super) fn answer(
    plan: &Plan,
    gathered: Gathered,
    query: &Query,
    clock: &dyn Clock,
) -> Result<v1::Answer, TooManyRows> {
    let Gathered { pieces, lost } = gathered;
    let mut merged = Partial::new(query);
    let mut answered = 0;
    let mut away: BTreeSet<String> = plan.view().missing().iter().map(ToString::to_string).collect();
    merged.merge_all(pieces.iter().map(|piece| piece.content.partial.as_ref()));
    for piece in &pieces {
        answered += piece.answered.len();
        away.extend(piece.content.reply.missing_nodes.iter().cloned());
    }
    let shards = answered + lost.len();
    assert_eq!(shards, plan.shard_count() as usize, "every shard counts once, or is missing");
    // Read after the nodes did: their newest event may be younger than the question.
    let now = clock.now();
    let mut answer = answer::answer(merged.checked()?, query, now);
    let facts = answer.facts.get_or_insert_default();
    let mut missing = missing::shards(plan, &lost);
    missing.extend(missing::members(plan, &away, query, now));
    missing.append(&mut facts.missing);
    facts.complete = missing.is_empty();
    facts.shards_asked = plan.shard_count();
    facts.shards_answered = answered as u32;
    facts.missing = missing;
    Ok(answer)
}
