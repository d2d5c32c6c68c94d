//! What a shard shows to a query.
//!
//! Owns: which of what is in memory counts beside commits, and scanning open buckets.
//! Does not own: counting (`super`), scanning closed buckets (`crate::query`).

use super::super::actor::{LiveView, OpenPass, ShardView, ViewRequest};
use super::State;
use crate::committed::Committed;
use crate::query::Question;
use crate::rebuild::{uncovered, wait_for_journal};
use crate::shard::ShardError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_history::day::DayStart;
use tidemark_rollup::active;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::deltas::Mark;
use tidemark_rollup::event::{GRACE, MAX_AHEAD};
use tidemark_rollup::scan::{
    DistinctCounts, Scanned, is_near_limit, needs, ranges_of, scan_active, scan_all, scan_facts,
    scan_lasting, scan_order_uncut, scan_winners, shown, urls_alone,
};
use tidemark_rollup::shard::Relation;
use tidemark_rollup::time::{BucketStart, EventTime};

/// The window of `active` and what may be ahead of it touch no more buckets.
const MAX_ACTIVE_BUCKETS: usize = 3;

/// How what is in memory of a bucket stands to its commits.
enum Stand {
    /// It counts, beside what is committed.
    Alone,
    /// It counts, instead of what is committed.
    AloneDespiteCommits,
    /// Commits have all of it.
    LeftToCommits,
    /// It cannot be told: more is committed than the query knows.
    Outdated,
}

impl State {
    /// Shows the shard to so many of those who wait for it, at most. Whether there was anybody.
    pub(in crate::shard) async fn show(&mut self, most: usize) -> bool {
        let mut shown = 0;
        while shown < most
            && let Ok(ViewRequest { question, pass, reply }) = self.asked.try_recv()
        {
            // Who stopped waiting, which is their right, has no part in it.
            if !reply.is_closed() {
                self.drop_what_the_journal_lost().await;
                let _ = reply.send(self.view(&question, &pass));
                shown += 1;
            }
        }
        shown > 0
    }

    /// The same before a block that may have come earlier. One that is released keeps its turn: it may be taken into memory before those
    /// who ask have theirs.
    pub(in crate::shard) async fn show_before_a_block(&mut self, most: usize) -> bool {
        !self.is_released && self.show(most).await
    }

    /// The shard as a query sees it. One that was released while the query was on its way has nothing to show, and says so.
    fn view(&mut self, question: &Question, pass: &OpenPass) -> Result<ShardView, ShardError> {
        match self.is_released {
            true => Err(ShardError::Elsewhere),
            false => Ok(self.view_of_owned(question, pass)),
        }
    }

    fn view_of_owned(&mut self, question: &Question, pass: &OpenPass) -> ShardView {
        let Question { query, context, now, committed, days, untold, .. } = question;
        if committed.version() < self.evicted_at {
            question.outdated.store(true, Ordering::Relaxed);
            return ShardView::default();
        }
        let mut view = ShardView::default();
        let starts: Vec<BucketStart> = self
            .shard
            .buckets()
            .map(|bucket| bucket.start())
            .chain(self.in_journal.iter().copied())
            .filter(|&start| needs(query, start))
            .collect();
        let mut in_memory = Vec::new();
        for start in starts {
            if self.in_journal.contains(&start) {
                // Commits may cover some of it by now.
                match committed.coverage(start, self.shard.id()) {
                    Ok(_) => view.in_journal.push(start),
                    Err(day) if untold.contains_key(&day) => {}
                    Err(day) => view.unknown.push(day),
                }
                continue;
            }
            match self.stand(start, committed, days.contains(&DayStart::of(start))) {
                Ok(Stand::Alone) => in_memory.push(start),
                Ok(Stand::AloneDespiteCommits) => {
                    view.whole.push(start);
                    in_memory.push(start);
                }
                Ok(Stand::LeftToCommits) => {}
                // The answer says so.
                Err(day) if untold.contains_key(&day) => {}
                // History is not asked for who is active; that something is missing is told below.
                Err(_) if !ranges_of(query).any(|(from, to)| (from..to).contains(&start.time())) => {}
                Ok(Stand::Outdated) => {
                    question.outdated.store(true, Ordering::Relaxed);
                    return ShardView::default();
                }
                Err(day) => view.unknown.push(day),
            }
        }
        if !view.unknown.is_empty() {
            return ShardView { unknown: view.unknown, ..ShardView::default() };
        }
        let mut urls = Vec::new();
        let scan: &mut dyn FnMut(&[&Bucket]) -> Scanned = match pass {
            OpenPass::Everything => &mut |open| scan_all(open, query, context),
            OpenPass::Order => {
                &mut |open| match open.iter().map(|bucket| urls_alone(bucket, query)).collect() {
                    Some(copies) => {
                        urls = copies;
                        scan_facts(open, query, context)
                    }
                    None => scan_order_uncut(open, query, context),
                }
            }
            OpenPass::Winners(winners) => &mut |open| Scanned {
                partial: scan_winners(open, winners, query, context),
                distinct: DistinctCounts::default(),
            },
            OpenPass::Live { marks, anew } => {
                let known = marks.get(&self.shard.id()).copied();
                return self.live_view(view, question, known, *anew, &in_memory);
            }
        };
        let open = self.add_closed(&mut view, &in_memory, *now, |bucket| shown(bucket, query));
        let gap = self.active_gap(question);
        view.open = (!open.is_empty() || gap.is_some()).then(|| scan(&open));
        if let (Some(gap), Some(scanned)) = (gap, &mut view.open) {
            view.first_open = view.first_open.or_else(|| query.active_from());
            scanned.partial.facts.note_gap(gap);
        }
        view.closed.append(&mut urls);
        view
    }

    /// The same for a query that is left open: with a mark, and what was counted since the one before.
    fn live_view(
        &mut self,
        mut view: ShardView,
        question: &Question,
        known: Option<Mark>,
        anew: bool,
        in_memory: &[BucketStart],
    ) -> ShardView {
        let (query, context) = (&question.query, &question.context);
        let epoch = || self.parts.epochs.fetch_add(1, Ordering::Relaxed);
        let (mark, since) = self.shard.follow(known, question.now, epoch);
        // As they are: that a bucket is still the same is how it is known that nothing was counted in it.
        let open = self.add_closed(&mut view, in_memory, question.now, Arc::clone);
        let since = since.filter(|_| !anew && !is_near_limit(&open, query, context));
        let starts = open.iter().map(|bucket| bucket.start()).collect();
        view.open = (since.is_none() && !open.is_empty()).then(|| scan_lasting(&open, query, context));
        view.live = Some(LiveView { mark, open: starts, since });
        view.active = query.active_from().map(|_| {
            let all: Vec<&Bucket> = self.buckets_of(in_memory).map(Arc::as_ref).collect();
            let mut active = scan_active(&all, query, context);
            self.active_gap(question).into_iter().for_each(|gap| active.partial.facts.note_gap(gap));
            active
        });
        view
    }

    /// Adds what is to be taken of the closed ones of these buckets to the view; returns those that are open: until they have ended
    /// and waited for stragglers.
    fn add_closed(
        &self,
        view: &mut ShardView,
        in_memory: &[BucketStart],
        now: EventTime,
        take: impl Fn(&Arc<Bucket>) -> Arc<Bucket>,
    ) -> Vec<&Bucket> {
        let closed_before = now.minus(GRACE);
        let (closed, open): (Vec<_>, Vec<_>) =
            self.buckets_of(in_memory).partition(|bucket| bucket.start().end() <= closed_before);
        view.closed = closed.into_iter().map(take).collect();
        view.first_open = open.iter().map(|bucket| bucket.start()).min();
        open.into_iter().map(Arc::as_ref).collect()
    }

    fn buckets_of(&self, starts: &[BucketStart]) -> impl Iterator<Item = &Arc<Bucket>> {
        starts.iter().filter_map(|&start| self.shard.bucket(start))
    }

    /// What the answer lacks of who is active: memory, which alone knows slices, may be without blocks that commits have, where
    /// it was made after these.
    fn active_gap(&self, Question { query, committed, .. }: &Question) -> Option<String> {
        let last = BucketStart::containing(query.as_of.plus(MAX_AHEAD));
        let lacks = |start: BucketStart| match committed.coverage(start, self.shard.id()) {
            Ok(None) => false,
            Ok(Some(coverage)) => self.shard.relation(start, &coverage) != Relation::Whole,
            Err(_) => true,
        };
        let buckets = std::iter::successors(query.active_from(), |start| Some(start.next()));
        let lacking =
            buckets.take_while(|&start| start <= last).take(MAX_ACTIVE_BUCKETS).filter(|&start| lacks(start));
        let complete_at = lacking.last()?.end().plus(active::WINDOW);
        let minutes = (complete_at.as_unix_ms() - query.as_of.as_unix_ms()).max(0) as u64 / 60_000 + 1;
        Some(format!(
            "active: some visitors of the last five minutes are only in history; complete again in {minutes}m"
        ))
    }

    /// Whether what is in memory of a bucket counts beside its commits; it is made so that it can be told.
    fn stand(&mut self, start: BucketStart, committed: &Committed, as_day: bool) -> Result<Stand, DayStart> {
        let Some(coverage) = committed.coverage(start, self.shard.id())? else { return Ok(Stand::Alone) };
        match self.shard.relation(start, &coverage) {
            Relation::Absent => Ok(Stand::LeftToCommits),
            Relation::Remainder => Ok(Stand::Alone),
            Relation::Whole if !as_day => Ok(Stand::AloneDespiteCommits),
            // The journal may lack what was committed since.
            _ if committed.version() < self.parts.committed.borrow().version() => Ok(Stand::Outdated),
            Relation::Whole | Relation::Mixed => {
                wait_for_journal(&self.parts, self.shard.id());
                self.shard.forget(start);
                self.evicted_at = self.evicted_at.max(committed.version());
                for block in uncovered(&self.parts, self.shard.id(), start, &coverage) {
                    if let Err(error) = self.shard.restore(&block, &|of| of == start) {
                        tracing::error!(shard = %self.shard.id(), %error, "a block of the journal cannot be read any more");
                    }
                }
                let is_there = self.shard.bucket(start).is_some();
                Ok(if is_there { Stand::Alone } else { Stand::LeftToCommits })
            }
        }
    }
}
