//! A query of which history has a part.
//!
//! Owns: which part memory, the journal and segments have, each block once; and cutting rows as soon as a day is complete.
//! Does not own: which segments there are (`crate::sources`), reading them (`tidemark-history`).

use super::live::{ShardBase, merge_active};
use super::{NodePart, Queries, QueryRefused, Question, TRIES, merged, refs};
use crate::committed::Committed;
use crate::rebuild::{rollup_of, uncovered};
use crate::shard::{OpenPass, ShardHandle, ShardView};
use crate::sources::{Source, Sources, keep, sources};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_history::catalog::History;
use tidemark_history::day::DayStart;
use tidemark_history::reader::{Keep, ReadError};
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{ScanContext, Scanned, scan_all, scan_lasting};
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::{BucketStart, Granularity};

/// Parts of an answer that are read at a time.
const PARTS: usize = 16;
/// Buckets in memory that are scanned in one go.
const BUCKETS_AT_A_TIME: usize = 256;

/// Looking at the shards takes no time; they are asked again, so often, where something was committed meanwhile.
const VIEWS: usize = 20;

/// What the shards have, and what is left to history.
pub(super) struct Views {
    pub(super) answered: Vec<ShardId>,
    pub(super) views: Vec<ShardView>,
}

impl Views {
    /// What counts of segments beside them.
    pub(super) fn keep(&self) -> Keep {
        let whole = self.views.iter().map(|view| view.whole.clone());
        keep(&self.answered, self.answered.iter().copied().zip(whole))
    }
}

/// A piece that cannot be read because what is committed has changed.
struct Outdated;

impl Queries {
    pub(super) async fn beside_history(
        &self,
        shards: Vec<ShardHandle>,
        mut question: Arc<Question>,
    ) -> Result<NodePart, QueryRefused> {
        if let Some(cut) = self.cut(&question.query, shards.len())
            && let Some(part) = self.in_two_passes_beside_commits(shards.clone(), &mut question, cut).await
        {
            return Ok(part);
        }
        let Read { mut scanned, answered, query, .. } =
            self.read(shards, question, OpenPass::Everything, false).await;
        if query.groups_stay_in_one_shard() {
            scanned.partial.keep_first(&query);
        }
        Ok(NodePart { partial: scanned.partial.checked()?, distinct: scanned.distinct, answered })
    }

    /// Everything that these shards, the journal and history have. Where it `goes_on`, nothing is cut that open buckets may still
    /// add to.
    pub(super) async fn read(
        &self,
        shards: Vec<ShardHandle>,
        mut question: Arc<Question>,
        pass: OpenPass,
        goes_on: bool,
    ) -> Read {
        let mut tries = 0;
        loop {
            tries += 1;
            let views = self.views(&shards, &mut question, &pass).await;
            let keep = Arc::new(views.keep());
            let schema = &self.parts.rules.schema;
            let mut found = match question.committed.history() {
                Some(history) => sources(&question.query, schema, history, &question.days, &keep),
                None => Sources {
                    sources: Vec::new(),
                    gaps: ["history cannot be read yet: the store did not answer since the node started"
                        .to_owned()]
                    .into(),
                },
            };
            found.gaps.extend(question.untold.values().cloned());
            match self.merge(&question, views, found, keep, Merge { last_try: tries == TRIES, goes_on }).await
            {
                Ok(read) => return read,
                Err(Outdated) => question = self.look_again(&question).await,
            }
        }
    }

    /// The shards as the query sees them, once it is known how they stand to what is committed.
    pub(super) async fn views(
        &self,
        shards: &[ShardHandle],
        question: &mut Arc<Question>,
        pass: &OpenPass,
    ) -> Views {
        for _ in 0..VIEWS {
            let (answered, views) = self.views_of(shards, question, pass.clone()).await;
            let unknown: std::collections::BTreeSet<DayStart> =
                views.iter().flat_map(|view| view.unknown.iter().copied()).collect();
            if unknown.is_empty() && !question.outdated.load(Ordering::Relaxed) {
                return Views { answered, views };
            }
            let mut untold = question.untold.clone();
            for day in unknown {
                let told = tokio::time::timeout(self.timeout / 2, self.history.with_day(day)).await;
                let error = match told {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "the store does not answer".to_owned(),
                };
                if let Some(left_out) = self.seldom.untold_day.due() {
                    tracing::warn!(error, %day, left_out, "what is committed of a day cannot be told");
                }
                untold.insert(day, format!("events of {day} in memory: {error}"));
            }
            let renewed = self.question(&question.query, &question.context, question.now);
            *question = Arc::new(Question { untold, ..renewed });
        }
        Views { answered: Vec::new(), views: Vec::new() }
    }

    async fn look_again(&self, question: &Question) -> Arc<Question> {
        // Where that fails, the next try finds the same, and the last one says what is missing.
        self.history.look_for_all().await;
        Arc::new(self.question(&question.query, &question.context, question.now))
    }

    async fn merge(
        &self,
        question: &Arc<Question>,
        views: Views,
        found: Sources,
        keep: Arc<Keep>,
        Merge { last_try, goes_on }: Merge,
    ) -> Result<Read, Outdated> {
        let Views { answered, mut views } = views;
        let (mut bases, mut active) = (Vec::new(), None);
        for (&shard, view) in answered.iter().zip(&mut views) {
            bases.extend(view.live.as_ref().map(|live| (shard, ShardBase::of(view, live))));
            merge_active(&mut active, view.active.take());
        }
        // From the day of the first open bucket on, nothing is complete before everything is there.
        let first_open = views.iter().filter_map(|view| view.first_open).min().map(DayStart::of);
        let unit = |day: DayStart| first_open.map_or(day, |open| day.min(open));
        let mut pieces: Vec<(DayStart, BoxFuture<'_, ReadPiece>)> = Vec::new();
        let mut closed: BTreeMap<DayStart, Vec<Arc<Bucket>>> = BTreeMap::new();
        let mut open = Vec::new();
        for (&shard, view) in answered.iter().zip(views) {
            open.extend(view.open);
            for bucket in view.closed {
                closed.entry(unit(DayStart::of(bucket.start()))).or_default().push(bucket);
            }
            for bucket in view.in_journal {
                let day = unit(DayStart::of(bucket));
                pieces.push((
                    day,
                    at(day, self.scan_journal(question, shard, bucket, Merge { last_try, goes_on })),
                ));
            }
        }
        if let Some(day) = first_open.filter(|_| !open.is_empty()) {
            let query = Arc::clone(question);
            let merge = self.compute(move || merged(open, Scanned::new(&query.query)));
            pieces.push((day, at(day, async { Ok(Piece::memory(merge.await)) })));
        }
        for (day, buckets) in closed {
            for part in buckets.chunks(BUCKETS_AT_A_TIME) {
                pieces.push((day, at(day, self.scan_memory(question, part.to_vec(), goes_on))));
            }
        }
        for source in found.sources {
            let day = unit(source.day);
            pieces.push((day, at(day, self.scan_segment(question, source, Arc::clone(&keep), last_try))));
        }
        pieces.sort_by_key(|(day, _)| *day);
        let uncut_from = first_open.filter(|_| goes_on);
        let mut merging = Merging::new(question, pieces.iter().map(|(day, _)| *day), uncut_from);
        let pieces: Vec<BoxFuture<'_, ReadPiece>> = pieces.into_iter().map(|(_, piece)| piece).collect();
        let mut read = futures::stream::iter(pieces).buffer_unordered(PARTS);
        while let Some((day, piece)) = read.next().await {
            merging = merging.add(day, piece?).await;
        }
        let scanned = merging.finish(found.gaps);
        let committed = question.committed.history().cloned();
        Ok(Read { query: question.query.clone(), scanned, answered, committed, bases, active })
    }

    async fn scan_memory(
        &self,
        question: &Arc<Question>,
        closed: Vec<Arc<Bucket>>,
        goes_on: bool,
    ) -> Result<Piece, Outdated> {
        let question = Arc::clone(question);
        let scan =
            move || Piece::memory(scan_of(goes_on)(&refs(&closed), &question.query, &question.context));
        Ok(self.compute(scan).await)
    }

    /// What only the journal has of a bucket: it was evicted before it could be committed.
    async fn scan_journal(
        &self,
        question: &Arc<Question>,
        shard: ShardId,
        bucket: BucketStart,
        Merge { last_try, goes_on }: Merge,
    ) -> Result<Piece, Outdated> {
        let asked = Arc::clone(question);
        let (question, parts) = (Arc::clone(question), Arc::clone(&self.parts));
        let history = Arc::clone(&self.history);
        let scan = move || {
            let coverage_in = |committed: &Committed| committed.coverage(bucket, shard).ok().flatten();
            let covered = coverage_in(&question.committed).unwrap_or_default();
            let blocks = uncovered(&parts, shard, bucket, &covered);
            // What was committed since may have left the journal.
            if coverage_in(&history.committed()).unwrap_or_default() != covered {
                return Err(Outdated);
            }
            let rollup = rollup_of(&parts, shard, bucket, &blocks);
            let rollups: Vec<&Bucket> = rollup.iter().map(Arc::as_ref).collect();
            Ok(Piece::memory(scan_of(goes_on)(&rollups, &question.query, &question.context)))
        };
        match self.compute(scan).await {
            Err(Outdated) if last_try => Ok(Piece {
                gap: Some(format!("{} was committed while it was read; ask again", bucket.time())),
                ..Piece::memory(Scanned::new(&asked.query))
            }),
            other => other,
        }
    }

    async fn scan_segment(
        &self,
        question: &Arc<Question>,
        source: Source,
        keep: Arc<Keep>,
        last_try: bool,
    ) -> Result<Piece, Outdated> {
        let rollups = match self.history.reader.rollups(&source.segment, &source.want, &keep).await {
            Ok(rollups) => rollups,
            Err(ReadError::Gone { .. }) if !last_try => return Err(Outdated),
            Err(error) => {
                self.metrics.store_failed();
                if let Some(left_out) = self.seldom.lacks_history.due() {
                    tracing::error!(%error, left_out, "an answer lacks a part of history");
                }
                return Ok(Piece {
                    gap: Some(error.to_string()),
                    ..Piece::segment(Scanned::new(&question.query))
                });
            }
        };
        let question = Arc::clone(question);
        let scan = move || Piece::segment(scan_all(&refs(&rollups), &question.query, &question.context));
        Ok(self.compute(scan).await)
    }
}

/// Visitors of the last five minutes are read apart where the query goes on.
fn scan_of(goes_on: bool) -> fn(&[&Bucket], &Query, &ScanContext) -> Scanned {
    if goes_on { scan_lasting } else { scan_all }
}

/// How to merge.
#[derive(Clone, Copy)]
struct Merge {
    /// What cannot be read is a gap, not a reason to begin again.
    last_try: bool,
    /// Open buckets will be added to.
    goes_on: bool,
}

/// All that was read.
pub(super) struct Read {
    pub(super) query: Query,
    pub(super) scanned: Scanned,
    pub(super) answered: Vec<ShardId>,
    /// What was known to be committed.
    pub(super) committed: Option<Arc<History>>,
    /// What the shards had, where it was asked for to go on from there.
    pub(super) bases: Vec<(ShardId, ShardBase)>,
    /// Visitors of the last five minutes, likewise.
    pub(super) active: Option<Scanned>,
}

/// A piece that was read, and the day that is not complete without it.
type ReadPiece = (DayStart, Result<Piece, Outdated>);

fn at<'a>(
    day: DayStart,
    piece: impl Future<Output = Result<Piece, Outdated>> + Send + 'a,
) -> BoxFuture<'a, ReadPiece> {
    async move { (day, piece.await) }.boxed()
}

/// A piece of the answer.
struct Piece {
    scanned: Scanned,
    is_segment: bool,
    gap: Option<String>,
}

impl Piece {
    fn memory(scanned: Scanned) -> Self {
        Self { scanned, is_segment: false, gap: None }
    }

    fn segment(scanned: Scanned) -> Self {
        Self { scanned, is_segment: true, gap: None }
    }
}

/// Pieces by day, and what complete days have come to.
struct Merging {
    question: Arc<Question>,
    days: BTreeMap<DayStart, (usize, Scanned)>,
    /// Of these days more will come later.
    uncut_from: Option<DayStart>,
    all: Scanned,
    /// Values that segments have: several parts of one dimension count together.
    in_segments: tidemark_rollup::scan::DistinctCounts,
}

impl Merging {
    fn new(
        question: &Arc<Question>,
        pieces: impl Iterator<Item = DayStart>,
        uncut_from: Option<DayStart>,
    ) -> Self {
        let mut days: BTreeMap<DayStart, (usize, Scanned)> = BTreeMap::new();
        for day in pieces {
            days.entry(day).or_insert_with(|| (0, Scanned::new(&question.query))).0 += 1;
        }
        let all = Scanned::new(&question.query);
        Self { question: Arc::clone(question), days, uncut_from, all, in_segments: Default::default() }
    }

    async fn add(mut self, day: DayStart, piece: Piece) -> Self {
        // Merging takes its time: away from the threads that serve connections.
        tidemark_shell::work::run(move || {
            self.merge(day, piece);
            self
        })
        .await
    }

    fn merge(&mut self, day: DayStart, mut piece: Piece) {
        if piece.is_segment {
            self.in_segments.merge(&std::mem::take(&mut piece.scanned.distinct));
        }
        if let Some(gap) = piece.gap {
            piece.scanned.partial.facts.note_gap(gap);
        }
        let Some((left, scanned)) = self.days.get_mut(&day) else { return };
        scanned.merge(&piece.scanned);
        *left -= 1;
        if *left > 0 {
            return;
        }
        let Some((_, mut complete)) = self.days.remove(&day) else { return };
        let query = &self.question.query;
        let goes_on = self.uncut_from.is_some_and(|from| day >= from);
        // Steps of a day or less have all their rows now, so those that stay are known.
        if !goes_on && query.granularity != Granularity::All && query.groups_stay_in_one_shard() {
            complete.partial.keep_first(query);
        }
        self.all.merge(&complete);
    }

    fn finish(mut self, gaps: std::collections::BTreeSet<String>) -> Scanned {
        self.in_segments.drop_within(self.question.context.share);
        self.all.distinct.merge(&self.in_segments);
        gaps.into_iter().for_each(|gap| self.all.partial.facts.note_gap(gap));
        self.all
    }
}
