//! The first rows of groups, in two passes: all shards are asked for their order first, and then for the rest of the rows that stay.
//!
//! Owns: both passes, what may be cut between them, and telling whether memory has all that they need.
//! Does not own: which rows stay (`tidemark_rollup::scan`), answering where history has a part (`beside_history`).

use super::beside_history::Views;
use super::{NodePart, Queries, QueryRefused, Question, Shown, merged, refs};
use crate::shard::{OpenPass, ShardHandle, ShardView};
use crate::sources::sources;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_rollup::partial::{Partial, PartialFacts, TooManyRows};
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{
    DistinctCounts, Scanned, ranges_of, scan_order, scan_order_uncut, scan_winners, winners,
};
use tidemark_rollup::sharding::ShardId;

/// Where memory did not have all, the next one that might be answered by memory alone is tried after so long: after a restart what is
/// committed stays out of memory, and each try is a scan of open buckets that comes to nothing.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What may be dropped once the order is known, of what is not among the first rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Rows of each shard: their groups are nowhere else.
    EachShard,
    /// Rows of all shards together: they are all that the question is asked of, and nothing will be merged with them.
    AllShards,
}

/// What the first pass came to.
struct Order {
    /// The rows that stay, with what orders them.
    winners: Arc<Partial>,
    facts: PartialFacts,
    distinct: DistinctCounts,
}

impl Cut {
    /// Whether it may be made although only these of the shards that were asked have answered: the others' part would be merged with
    /// what is left.
    fn stands(self, answered: &[ShardId], asked: usize) -> bool {
        self == Self::EachShard || answered.len() == asked
    }
}

impl Queries {
    /// What of the answer to this query may be cut, where so many shards are asked; `None` where one pass does as well.
    pub(super) fn cut(&self, query: &Query, shards: usize) -> Option<Cut> {
        match query.groups_stay_in_one_shard() {
            true => Some(Cut::EachShard),
            false if shards == self.parts.rules.shards.get() as usize && query.is_ordered_at_less_cost() => {
                Some(Cut::AllShards)
            }
            false => None,
        }
    }

    /// The part of these shards where nothing of the range is committed; `None` where one is silent without which nothing may be cut.
    pub(super) async fn in_two_passes(
        &self,
        mut shards: Vec<ShardHandle>,
        question: &Arc<Question>,
        cut: Cut,
    ) -> Result<Option<NodePart>, QueryRefused> {
        let asked = shards.len();
        let (answered, views) = self.views_in_memory(&shards, question, OpenPass::Order).await;
        if !cut.stands(&answered, asked) {
            return Ok(None);
        }
        shards.retain(|shard| answered.contains(&shard.id()));
        let order = self.order(views, question, cut).await?;
        if question.query.is_answered_by_its_order() {
            return Ok(Some(order.part(answered)));
        }
        // The open buckets may have grown since; the rows show what there is now, in the order found before.
        let pass = OpenPass::Winners(Arc::clone(&order.winners));
        let (answered, views) = self.views_in_memory(&shards, question, pass).await;
        if !cut.stands(&answered, asked) {
            return Ok(None);
        }
        Ok(Some(self.rest(order, Views { answered, views }, question).await))
    }

    /// The same where something of the range is committed; `None` where memory has not all of it as well, so that history must be read,
    /// where there are too many rows to order at once, and where a shard is silent without which nothing may be cut.
    pub(super) async fn in_two_passes_beside_commits(
        &self,
        mut shards: Vec<ShardHandle>,
        question: &mut Arc<Question>,
        cut: Cut,
    ) -> Option<NodePart> {
        let asked = shards.len();
        let now_ms = question.now.as_unix_ms();
        if !self.memory_may_have_all(question) || now_ms < self.one_pass_until_ms.load(Ordering::Relaxed) {
            return None;
        }
        let views = self.views(&shards, question, &OpenPass::Order).await;
        if views.answered.is_empty() || !cut.stands(&views.answered, asked) {
            // That says nothing of memory.
            return None;
        }
        if !self.memory_has_all(&views, question) {
            self.one_pass_until_ms.store(now_ms + TRY_AGAIN_AFTER.as_millis() as i64, Ordering::Relaxed);
            return None;
        }
        let Views { answered, views } = views;
        shards.retain(|shard| answered.contains(&shard.id()));
        let order = self.order(views, question, cut).await.ok()?;
        if question.query.is_answered_by_its_order() {
            return Some(order.part(answered));
        }
        let pass = OpenPass::Winners(Arc::clone(&order.winners));
        let views = self.views(&shards, question, &pass).await;
        // Otherwise some of it went out of memory meanwhile.
        let is_there = self.memory_has_all(&views, question) && cut.stands(&views.answered, asked);
        match is_there {
            true => Some(self.rest(order, views, question).await),
            false => None,
        }
    }

    /// Whether what is asked for is young enough to be in memory although it is committed.
    fn memory_may_have_all(&self, question: &Question) -> bool {
        let first_kept = question.now.minus(self.keep);
        let is_kept = ranges_of(&question.query).all(|(from, _)| from >= first_kept);
        is_kept && question.days.is_empty() && question.untold.is_empty()
    }

    /// Whether these shards answer without history, although something of the range is committed.
    fn memory_has_all(&self, views: &Views, question: &Question) -> bool {
        let Some(history) = question.committed.history() else { return false };
        let is_told = question.untold.is_empty() && views.views.iter().all(|view| view.in_journal.is_empty());
        let schema = &self.parts.rules.schema;
        let found = sources(&question.query, schema, history, &question.days, &views.keep());
        is_told && !views.answered.is_empty() && found.sources.is_empty() && found.gaps.is_empty()
    }

    async fn order(
        &self,
        views: Vec<ShardView>,
        question: &Arc<Question>,
        cut: Cut,
    ) -> Result<Order, TooManyRows> {
        let scan = move |shown: Shown, Question { query, context, .. }: &Question| {
            let mut open = merged(shown.open, Scanned::new_order(query));
            match cut {
                Cut::EachShard => scan_order(&refs(&shown.closed), Some(open), query, context),
                Cut::AllShards => {
                    open.merge(&scan_order_uncut(&refs(&shown.closed), query, context));
                    open
                }
            }
        };
        let merge = |parts, Question { query, .. }: &Question| {
            let mut order = merged(parts, Scanned::new_order(query));
            order.partial = order.partial.checked()?;
            Ok::<_, TooManyRows>(winners(order, query))
        };
        let (winners, facts, distinct) = self.scan_on_all_cores(views, question, scan, merge).await?;
        Ok(Order { winners: Arc::new(winners), facts, distinct })
    }

    /// All columns of the rows that stay.
    async fn rest(&self, order: Order, views: Views, question: &Arc<Question>) -> NodePart {
        let Views { answered, views } = views;
        let winners = Arc::clone(&order.winners);
        let scan = move |shown: Shown, Question { query, context, .. }: &Question| {
            let partial = scan_winners(&refs(&shown.closed), &winners, query, context);
            merged(shown.open, Scanned { partial, distinct: DistinctCounts::default() })
        };
        let merge = |parts, Question { query, .. }: &Question| merged(parts, Scanned::new(query)).partial;
        let mut partial = self.scan_on_all_cores(views, question, scan, merge).await;
        let gaps = std::mem::replace(&mut partial.facts, order.facts).gaps;
        gaps.into_iter().for_each(|gap| partial.facts.note_gap(gap));
        NodePart { partial, distinct: order.distinct, answered }
    }
}

impl Order {
    /// The answer of these shards, where their order is all that is asked for.
    fn part(self, answered: Vec<ShardId>) -> NodePart {
        let mut partial = Arc::unwrap_or_clone(self.winners);
        partial.facts = self.facts;
        NodePart { partial, distinct: self.distinct, answered }
    }
}
