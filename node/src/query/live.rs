//! Queries that are asked again and again.
//!
//! Owns: what is kept from one time to the next, and reading only what came since.
//! Does not own: asking the shards and reading everything (`beside_history`), what came since (`tidemark_rollup::deltas`).
//!
//! What is kept is the node's part of the answer, uncut: all rows of closed buckets and history, and of open buckets up to a mark of
//! each shard. As long as the same buckets are closed, nothing new is committed and the shards know the marks, it and what was
//! counted since are the part of now. Otherwise everything is read, and kept anew. Visitors of the last five minutes change as time
//! goes by: they are read each time.

use super::{NodePart, Queries, QueryRefused, Question};
use crate::shard::{LiveView, OpenPass, ShardHandle, ShardView};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tidemark_history::catalog::History;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::deltas::Mark;
use tidemark_rollup::partial::{Partial, TooManyRows};
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{ScanContext, Scanned, scan_lasting};
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::{BucketStart, EventTime};
use tokio::time::{Instant, sleep};

/// At most so many queries are kept; those that were not asked for longest go.
const MAX_KEPT: usize = 512;
/// At most so many rows are kept, of all queries together.
const MAX_ROWS: usize = 2_000_000;
/// What was not asked for so long is forgotten.
const IDLE: Duration = Duration::from_secs(90);

/// A part of an answer, and whether who asks has it already.
pub(crate) struct LivePart {
    pub(crate) part: NodePart,
    /// 0 where nothing is kept.
    pub(crate) version: u64,
    /// It is the known one, and `part` has no rows.
    pub(crate) is_unchanged: bool,
}

/// Up to where shards were read. Each serves once.
type Marks = BTreeMap<ShardId, Mark>;

/// What makes two queries the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The query, which says its range in absolute times.
    query: String,
    shards: Vec<ShardId>,
}

impl Key {
    fn of(query: &Query, shards: &[ShardHandle]) -> Self {
        // The moment matters only for `active`, which is read each time; and for what has elapsed to be compared with.
        let elapsed = query.versus.map(|_| BucketStart::containing(query.as_of));
        let lasting = Query { as_of: elapsed.map_or(EventTime::EPOCH, BucketStart::time), ..query.clone() };
        Self { query: format!("{lasting:?}"), shards: shards.iter().map(ShardHandle::id).collect() }
    }
}

/// What is kept of all queries.
pub(super) struct Live {
    kept: Mutex<HashMap<Key, Arc<Slot>>>,
    /// Versions are never given twice, also not by the next life of this node.
    versions: AtomicU64,
}

/// What is kept of one query.
struct Slot {
    part: tokio::sync::Mutex<Option<Kept>>,
    rows: AtomicU64,
    asked: Mutex<Instant>,
}

struct Kept {
    version: u64,
    base: Base,
    all: Scanned,
}

/// What `all` is made of: as long as this stays, so does that.
struct Base {
    shards: BTreeMap<ShardId, ShardBase>,
    /// The catalog makes another one whenever something is committed.
    committed: Option<Arc<History>>,
}

impl Base {
    /// Takes these views' marks, where nothing else has changed; what came since the marks before, and who is active.
    fn went_on(
        &mut self,
        answered: &[ShardId],
        views: Vec<ShardView>,
    ) -> Option<(Vec<Arc<Bucket>>, Option<Scanned>)> {
        let (mut deltas, mut active) = (Vec::new(), None);
        for (shard, view) in answered.iter().zip(views) {
            let base = self.shards.get_mut(shard)?;
            let live = view.live.as_ref().filter(|_| view.unknown.is_empty())?;
            if !base.is_that_of(&view, live) {
                return None;
            }
            deltas.extend(live.since.as_ref()?.iter().cloned());
            base.mark = live.mark;
            merge_active(&mut active, view.active);
        }
        Some((deltas, active))
    }
}

pub(super) struct ShardBase {
    /// These have not been written to since, as long as they are there.
    closed: Vec<Weak<Bucket>>,
    whole: Vec<BucketStart>,
    in_journal: Vec<BucketStart>,
    open: Vec<BucketStart>,
    mark: Mark,
}

impl ShardBase {
    pub(super) fn of(view: &ShardView, live: &LiveView) -> Self {
        Self {
            closed: view.closed.iter().map(Arc::downgrade).collect(),
            whole: view.whole.clone(),
            in_journal: view.in_journal.clone(),
            open: live.open.clone(),
            mark: live.mark,
        }
    }

    fn is_that_of(&self, view: &ShardView, live: &LiveView) -> bool {
        let same = |(then, now): (&Weak<Bucket>, &Arc<Bucket>)| std::ptr::eq(then.as_ptr(), Arc::as_ptr(now));
        self.closed.len() == view.closed.len()
            && self.closed.iter().zip(&view.closed).all(same)
            && (&self.whole, &self.in_journal, &self.open) == (&view.whole, &view.in_journal, &live.open)
    }
}

impl Live {
    pub(super) fn new(now: EventTime) -> Arc<Self> {
        // Milliseconds since the epoch, and a million versions in each.
        let first = (now.as_unix_ms().max(1) as u64) << 20;
        Arc::new(Self { kept: Mutex::default(), versions: AtomicU64::new(first) })
    }

    fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed)
    }

    fn slot(self: &Arc<Self>, key: Key) -> Arc<Slot> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            tokio::spawn(forget_idle(Arc::downgrade(self)));
        }
        let now = Instant::now();
        let slot = Arc::clone(kept.entry(key).or_insert_with(|| {
            Arc::new(Slot { part: Default::default(), rows: AtomicU64::new(0), asked: Mutex::new(now) })
        }));
        *slot.asked.lock().unwrap_or_else(PoisonError::into_inner) = now;
        make_room(&mut kept);
        slot
    }
}

fn make_room(kept: &mut HashMap<Key, Arc<Slot>>) {
    let rows = |kept: &HashMap<Key, Arc<Slot>>| -> u64 {
        kept.values().map(|slot| slot.rows.load(Ordering::Relaxed)).sum()
    };
    while kept.len() > 1 && (kept.len() > MAX_KEPT || rows(kept) > MAX_ROWS as u64) {
        let asked = |slot: &Slot| *slot.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(oldest) = kept.iter().min_by_key(|(_, slot)| asked(slot)).map(|(key, _)| key.clone()) else {
            return;
        };
        kept.remove(&oldest);
    }
}

/// Forgets what nobody asks for, until there is nothing.
async fn forget_idle(live: Weak<Live>) {
    loop {
        sleep(IDLE / 3).await;
        let Some(live) = live.upgrade() else { return };
        let mut kept = live.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, slot| slot.asked.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < IDLE);
        if kept.is_empty() {
            return;
        }
    }
}

impl Queries {
    /// As [`answer`](Self::answer), for a query that was asked before and will be again: by who knows the part of version `known`.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn answer_live(
        &self,
        shards: Vec<ShardHandle>,
        query: Query,
        context: ScanContext,
        now: EventTime,
        known: u64,
    ) -> Result<LivePart, QueryRefused> {
        let _admitted = self.admitted.try_acquire().map_err(|_| QueryRefused::Busy(self.max_queries))?;
        let slot = self.live.slot(Key::of(&query, &shards));
        let mut kept = slot.part.lock().await;
        let question = Arc::new(self.question(&query, &context, now));
        let fresh = match kept.take() {
            Some(kept) => self.continued(&shards, &question, kept).await,
            None => Err(Marks::new()),
        };
        let read = if fresh.is_ok() { "since" } else { "everything" };
        let (next, active) = match fresh {
            Ok(found) => found,
            Err(marks) => match self.read_all(&shards, question, marks).await? {
                ReadAll::Whole(next, active) => (*next, active),
                ReadAll::Part(part) => {
                    return Ok(LivePart { part, version: 0, is_unchanged: false });
                }
            },
        };
        slot.rows.store(next.all.partial.len() as u64, Ordering::Relaxed);
        let (version, is_unchanged) = (next.version, next.version == known && active.is_none());
        let answered = next.base.shards.keys().copied().collect();
        // Who asks for visitors of the last five minutes is told each time.
        let version = if active.is_some() { self.live.next_version() } else { version };
        self.metrics.query_answered();
        self.metrics.live_query_answered(if is_unchanged { "nothing" } else { read });
        if is_unchanged {
            *kept = Some(next);
            let part = NodePart { partial: Partial::new(&query), distinct: Default::default(), answered };
            return Ok(LivePart { part, version, is_unchanged });
        }
        let cut = self.compute(move || {
            let part = part_of(&next, active, &query, answered);
            part.map(|part| (next, part))
        });
        let (next, part) = cut.await?;
        *kept = Some(next);
        Ok(LivePart { part, version, is_unchanged })
    }

    /// What is kept and what came since.
    ///
    /// # Errors
    /// The newest marks, where that is not all there is.
    async fn continued(
        &self,
        shards: &[ShardHandle],
        question: &Arc<Question>,
        mut kept: Kept,
    ) -> Result<(Kept, Option<Scanned>), Marks> {
        let mut marks: Marks = kept.base.shards.iter().map(|(&shard, base)| (shard, base.mark)).collect();
        let is_same = match (question.committed.history(), &kept.base.committed) {
            (Some(now), Some(then)) => Arc::ptr_eq(now, then),
            _ => false,
        };
        if question.needs_history() && !is_same {
            return Err(marks);
        }
        let pass = OpenPass::Live { marks: Arc::new(marks.clone()), anew: false };
        let (answered, views) = self.views_of(shards, question, pass).await;
        let given = answered.iter().zip(&views);
        marks.extend(given.filter_map(|(&shard, view)| Some((shard, view.live.as_ref()?.mark))));
        if answered.len() != shards.len() || question.outdated.load(Ordering::Relaxed) {
            return Err(marks);
        }
        let Some((deltas, active)) = kept.base.went_on(&answered, views) else { return Err(marks) };
        if deltas.is_empty() {
            return Ok((kept, active));
        }
        let (question, next) = (Arc::clone(question), self.live.next_version());
        let merged = self.compute(move || {
            let refs: Vec<&Bucket> = deltas.iter().map(Arc::as_ref).collect();
            let new = scan_lasting(&refs, &question.query, &question.context);
            let has_facts = new.partial.facts != Default::default();
            if !new.partial.is_empty() || has_facts {
                kept.all.merge(&new);
                kept.version = next;
            }
            kept
        });
        Ok((merged.await, active))
    }

    async fn read_all(
        &self,
        shards: &[ShardHandle],
        question: Arc<Question>,
        marks: Marks,
    ) -> Result<ReadAll, QueryRefused> {
        let pass = OpenPass::Live { marks: Arc::new(marks), anew: true };
        let read = self.read(shards.to_vec(), question, pass, true).await;
        let mut bases = BTreeMap::new();
        bases.extend(read.bases);
        let (all, committed) = (read.scanned, read.committed);
        // What is not complete, or not known for sure, is asked for anew as a whole.
        if bases.len() != shards.len() || !all.partial.facts.gaps.is_empty() {
            let mut part = NodePart { partial: all.partial, distinct: all.distinct, answered: read.answered };
            if let Some(active) = read.active {
                part.partial.merge(&active.partial);
            }
            if read.query.groups_stay_in_one_shard() {
                part.partial.keep_first(&read.query);
            }
            part.partial = part.partial.checked()?;
            return Ok(ReadAll::Part(part));
        }
        let base = Base { shards: bases, committed };
        let kept = Kept { version: self.live.next_version(), base, all };
        Ok(ReadAll::Whole(Box::new(kept), read.active))
    }
}

/// The part as it is sent: of groups that stay in one shard only the first rows.
fn part_of(
    kept: &Kept,
    active: Option<Scanned>,
    query: &Query,
    answered: Vec<ShardId>,
) -> Result<NodePart, TooManyRows> {
    let mut distinct = kept.all.distinct.clone();
    let cuts = query.groups_stay_in_one_shard();
    let partial = match active {
        None if cuts => kept.all.partial.first(query),
        None => kept.all.partial.clone(),
        Some(active) => {
            let mut all = kept.all.partial.clone();
            all.merge(&active.partial);
            distinct.merge(&active.distinct);
            if cuts {
                all.keep_first(query);
            }
            all
        }
    };
    Ok(NodePart { partial: partial.checked()?, distinct, answered })
}

/// Everything, read.
enum ReadAll {
    /// And how to go on from there.
    Whole(Box<Kept>, Option<Scanned>),
    /// Some of it is missing.
    Part(NodePart),
}

pub(super) fn merge_active(all: &mut Option<Scanned>, more: Option<Scanned>) {
    match (all, more) {
        (Some(all), Some(more)) => all.merge(&more),
        (all @ None, more) => *all = more,
        (Some(_), None) => {}
    }
}
