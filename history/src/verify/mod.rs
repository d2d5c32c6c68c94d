//! Verify: what is stored, held against raw events.
//!
//! Owns: which parts of history are compared with what, and reading both.
//! Does not own: comparing (`bucket`, `days`, `compare`), what was found (`report`), mending it (`rebuild`).
//!
//! What is compared:
//! * of each commit that is not replaced, and of each bucket of a compacted day: the blocks with the coverage; rows, facts
//!   and visitors with those that the blocks make, by the same code that runs live, and visitors by other code besides;
//! * that no two commits of a bucket cover one block;
//! * of each compacted day: its rows with those of its five-minute rows, or where these are no longer kept with those that
//!   its blocks make.
//!
//! Not compared: repeated events, of which blocks know nothing.

mod bucket;
mod compare;
mod days;
mod recount;
mod report;

pub use report::{At, Difference, Differs, LISTED, Report};

use crate::catalog::{Catalog, CatalogError, Concerns, CoverageError, Day, Fault, History, Scope};
use crate::commit::CommitRecord;
use crate::compact::load::{Group, Loader, Pick, Rollup};
use crate::compact::make::by_bucket;
use crate::compact::objects::Objects;
use crate::compact::{CompactError, CompactorSettings, ObjectError};
use crate::replacement::DayCoverage;
use crate::segment::Selection;
use crate::store::Store;
use bucket::{Stored, Unit};
use compare::BySite;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;
use tidemark_shell::work;

/// Buckets that are compared at once.
const PARALLEL: usize = 3;

/// Why there is no report. What is damaged is part of a report.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Try again later.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Try again later.
    #[error(transparent)]
    Coverage(#[from] CoverageError),
    /// Try again later.
    #[error(transparent)]
    Read(#[from] CompactError),
}

/// Holds what is stored against raw events.
#[derive(Debug)]
pub struct Verifier {
    catalog: Arc<Catalog>,
    loader: Loader,
    rows_at_once: u64,
}

impl Verifier {
    /// A verifier over `store`, whose catalog is `catalog`. Writes nothing.
    pub fn new(store: Store, catalog: Arc<Catalog>, settings: &CompactorSettings) -> Self {
        let objects = Objects::new(store, settings.shards, settings.seed);
        let (limit, parallel) = (settings.dimension_values, settings.parallel.max(1));
        let loader = Loader { objects, limit, parallel };
        Self { catalog, loader, rows_at_once: settings.rows_at_once }
    }

    /// Verifies the buckets from `from` up to but not including `to`, and the days that they are of.
    ///
    /// # Errors
    /// Where the store cannot be read. What is damaged or missing is a difference.
    pub async fn verify(&self, from: BucketStart, to: BucketStart) -> Result<Report, VerifyError> {
        self.catalog.refresh(Scope::All).await?;
        let history = self.catalog.current();
        let mut report = Report::default();
        for day in
            history.all_days().filter(|day| day.start().time() < to.time() && day.start().end() > from.time())
        {
            let buckets = from.max(crate::compact::make::first_bucket(day.start()))..to;
            let found = self.day(&history, day, &buckets).await?;
            report.merge(found);
        }
        Ok(report)
    }

    /// Verifies what one commit has of its bucket, as far as its raw events are kept. Whether it is replaced meanwhile is for the
    /// caller to see: its objects may be gone then.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub async fn verify_commit(&self, commit: Arc<CommitRecord>) -> Result<Report, VerifyError> {
        self.commit(commit).await
    }

    async fn day(
        &self,
        history: &History,
        day: &Day,
        range: &Range<BucketStart>,
    ) -> Result<Report, VerifyError> {
        let mut report = Report::default();
        damage(history, day, range, &mut report);
        let coverage = match self.catalog.day_coverage(day.start()).await {
            Ok(coverage) => coverage,
            Err(error @ (CoverageError::Record(_) | CoverageError::Store(_))) if is_gone(&error) => {
                report.add(Difference::of(At::Day(day.start()), Differs::Object, "coverage", error));
                None
            }
            Err(error) => return Err(error.into()),
        };
        overlaps(day, coverage.as_deref(), range, &mut report);
        let commits = day.commits().filter(|commit| range.contains(&commit.bucket())).cloned();
        let commits: Vec<Arc<CommitRecord>> = commits.collect();
        let mut checks = stream::iter(commits).map(|commit| self.commit(commit)).buffer_unordered(PARALLEL);
        while let Some(found) = checks.try_next().await? {
            report.merge(found);
        }
        if let Some(coverage) = coverage {
            self.replaced(day, &coverage, range, &mut report).await?;
        }
        Ok(report)
    }

    /// A commit that is not replaced.
    async fn commit(&self, commit: Arc<CommitRecord>) -> Result<Report, VerifyError> {
        let bucket = commit.bucket();
        let Some(raw) = &commit.message().raw else {
            return Ok(Report { without_raw: 1, ..Report::default() });
        };
        let mut group = Vec::new();
        if let Some(rollup) = &commit.message().rollup {
            match self.loader.objects.footer(rollup).await {
                Ok(footer) => group.push(Rollup::whole(footer, rollup.rows, false)),
                Err(error) => return damaged(At::Bucket(bucket), error),
            }
        }
        let mut stored = Vec::new();
        for rollup in group {
            let group =
                Group { rollups: vec![rollup.clone()], ..Group::new(Arc::clone(rollup.footer.schema())) };
            match self.stored(&group).await {
                Ok(mut found) => {
                    stored.push((Arc::clone(&group.schema), found.remove(&bucket).unwrap_or_default()))
                }
                Err(error) => return damaged_read(At::Bucket(bucket), error),
            }
        }
        let coverage = commit.shards().map(|shard| (shard, commit.coverage(shard))).collect();
        self.unit(bucket, stored, std::slice::from_ref(raw), coverage).await
    }

    /// What a group stores, by bucket.
    async fn stored(&self, group: &Group) -> Result<BTreeMap<BucketStart, Rows>, CompactError> {
        let loaded = self.loader.load(group, &(0..self.loader.objects.shards.get())).await?;
        let mut by: BTreeMap<BucketStart, Rows> = by_bucket(&loaded.buckets)
            .into_iter()
            .map(|(start, rollups)| (start, (rollups, BySite::new())))
            .collect();
        for ((site, bucket, _), facts) in &loaded.facts {
            by.entry(*bucket).or_default().1.entry(site.clone()).or_default().merge(facts);
        }
        Ok(by)
    }

    async fn unit(
        &self,
        bucket: BucketStart,
        stored: Vec<(Arc<Schema>, Rows)>,
        raw: &[v1::Segment],
        coverage: BTreeMap<ShardId, Coverage>,
    ) -> Result<Report, VerifyError> {
        let mut blocks = Vec::new();
        for segment in raw {
            match self.loader.objects.blocks(segment).await {
                Ok(more) => blocks.extend(more),
                Err(error) => return damaged(At::Bucket(bucket), error),
            }
        }
        let stored =
            stored.into_iter().map(|(schema, (rollups, facts))| Stored { schema, rollups, facts }).collect();
        let rules = self.loader.rules(&Arc::new(Schema::default()));
        let unit = Unit { bucket, stored, blocks, coverage, rules };
        Ok(work::run_apart(move || unit.verify()).await)
    }

    /// What is replaced of a day.
    async fn replaced(
        &self,
        day: &Day,
        coverage: &DayCoverage,
        range: &Range<BucketStart>,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let Some(holds) = day.replacement() else { return Ok(()) };
        let at = At::Day(day.start());
        let groups = match self.groups(&holds.day.five_minutes, false).await {
            Ok(groups) => groups,
            Err(error) => return note(at, error, report),
        };
        let mut buckets = Vec::new();
        for bucket in &holds.day.buckets {
            let start = BucketStart::from_unix_seconds(bucket.bucket_start_s);
            let Some(start) = start.filter(|start| range.contains(start)) else { continue };
            if bucket.raw.is_empty() {
                report.without_raw += 1;
            } else if groups.is_empty() && !holds.day.days.is_empty() {
                report.without_rows += 1;
            } else {
                buckets.push((start, bucket.raw.clone(), shards_of(coverage, start)));
            }
        }
        let rows: u64 = holds.day.five_minutes.iter().map(|segment| segment.rows).sum();
        let chunks = rows.div_ceil(self.rows_at_once.max(1)).max(1);
        let len = buckets.len().div_ceil(usize::try_from(chunks).unwrap_or(usize::MAX)).max(1);
        while !buckets.is_empty() {
            let rest = buckets.split_off(len.min(buckets.len()));
            self.chunk(&groups, buckets, at, report).await?;
            buckets = rest;
        }
        self.days(day, groups, coverage, report).await
    }

    /// Some buckets of a compacted day, whose rows are in memory at once.
    async fn chunk(
        &self,
        groups: &[Group],
        buckets: Vec<Replaced>,
        at: At,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else { return Ok(()) };
        let (from, to) = (first.0, BucketStart::containing(last.0.end()));
        let mut stored = Vec::new();
        for group in groups {
            let mut narrowed = Group::new(Arc::clone(&group.schema));
            narrowed.rollups = group.rollups.iter().map(|rollup| within(rollup, from, to)).collect();
            match self.stored(&narrowed).await {
                Ok(found) => stored.push((Arc::clone(&group.schema), found)),
                Err(error) => return note(at, error, report),
            }
        }
        let checks = stream::iter(buckets).map(|(bucket, raw, coverage)| {
            let parts = stored
                .iter()
                .filter_map(|(schema, found)| Some((Arc::clone(schema), found.get(&bucket)?.clone())));
            let parts = parts.collect();
            async move { self.unit(bucket, parts, &raw, coverage).await }
        });
        let mut checks = checks.buffer_unordered(PARALLEL);
        while let Some(found) = checks.try_next().await? {
            report.merge(found);
        }
        Ok(())
    }

    /// Segments by schema.
    async fn groups(&self, segments: &[v1::Segment], of_days: bool) -> Result<Vec<Group>, CompactError> {
        let mut rollups = Vec::new();
        for segment in segments {
            let footer = self.loader.objects.footer(segment).await?;
            rollups.push(Rollup::whole(footer, segment.rows, of_days));
        }
        Ok(crate::compact::day::by_schema(rollups))
    }
}

/// Rollups and facts of a bucket.
type Rows = (Vec<Arc<tidemark_rollup::bucket::Bucket>>, BySite);

/// A bucket, its raw segments, and the blocks that are in them.
type Replaced = (BucketStart, Vec<v1::Segment>, BTreeMap<ShardId, Coverage>);

fn within(rollup: &Rollup, from: BucketStart, to: BucketStart) -> Rollup {
    let selection = Selection { from, to, ..Selection::everything(rollup.footer.schema()) };
    Rollup { picks: vec![Pick { selection, duplicates_only: false }], ..rollup.clone() }
}

fn shards_of(coverage: &DayCoverage, bucket: BucketStart) -> BTreeMap<ShardId, Coverage> {
    let packed = coverage.buckets().find(|&(start, _)| start == bucket);
    let of =
        packed.into_iter().flat_map(|(_, packed)| packed.shards().map(|shard| (shard, packed.of(shard))));
    of.collect()
}

/// What reading the records showed already.
fn damage(history: &History, day: &Day, range: &Range<BucketStart>, report: &mut Report) {
    for damage in history.damage_of(day.start()) {
        let at = match damage.concerns {
            Concerns::Bucket(bucket) if range.contains(&bucket) => At::Bucket(bucket),
            Concerns::Bucket(_) => continue,
            Concerns::Day(_) | Concerns::Everything => At::Day(day.start()),
        };
        // Overlaps are looked for here, with what is replaced as well.
        if !matches!(damage.fault, Fault::Overlaps { .. }) {
            report.add(Difference::of(at, Differs::Object, damage, "what commits need"));
        }
    }
}

/// Blocks that two commits of a bucket cover, or one of them and the commits that are replaced.
fn overlaps(day: &Day, coverage: Option<&DayCoverage>, range: &Range<BucketStart>, report: &mut Report) {
    for bucket in day.open_buckets().filter(|bucket| range.contains(bucket)) {
        let at = At::Bucket(bucket);
        let mut before: BTreeMap<ShardId, Coverage> = BTreeMap::new();
        if let Some(coverage) = coverage {
            before = shards_of(coverage, bucket);
        }
        for commit in day.bucket(bucket).commits {
            for shard in commit.shards() {
                let mine = commit.coverage(shard);
                let others = before.entry(shard).or_default();
                if !others.is_disjoint(&mine) {
                    let twice =
                        format!("blocks of shard {shard} in {} and in a commit before it", commit.path());
                    report.add(Difference::of(at, Differs::Blocks, twice, "each block once"));
                }
                others.merge(&mine);
            }
        }
    }
}

fn is_gone(error: &CoverageError) -> bool {
    match error {
        CoverageError::Record(_) => true,
        CoverageError::Store(crate::retry::RetryError::Failed(error)) => error.is_not_found(),
        CoverageError::Store(_) | CoverageError::Catalog(_) => false,
    }
}

/// A damaged object is a difference, one that cannot be reached now an error.
fn damaged(at: At, error: ObjectError) -> Result<Report, VerifyError> {
    damaged_read(at, error.into())
}

fn damaged_read(at: At, error: CompactError) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    note(at, error, &mut report).map(|()| report)
}

fn note(at: At, error: CompactError, report: &mut Report) -> Result<(), VerifyError> {
    match &error {
        CompactError::Object(object) if !object.is_damage() => return Err(error.into()),
        CompactError::Object(_) | CompactError::Block { .. } | CompactError::RawIncomplete { .. } => {}
        _ => return Err(error.into()),
    }
    report.add(Difference::of(at, Differs::Object, error, "what was committed"));
    Ok(())
}
