//! Rebuild: a site's past, counted anew from raw events with the present schema.
//!
//! Owns: which buckets can be counted anew, and what of their days is taken over as it is.
//! Does not own: counting (`tidemark_rollup::shard`), making segments and replacing (`compact`).
//!
//! Invariants:
//! * All days of a rebuild are replaced at once, or none.
//! * Rows of other sites and of other buckets are taken over as they are, under the schema that they had.
//! * Only what raw events tell completely is counted anew.

use crate::catalog::{Concerns, Day, Fault, History, Scope};
use crate::compact::day::{ByBucket, by_schema, group_of, is_expired, raw_segments, replaced_buckets};
use crate::compact::load::{Group, Pick, Raw, Rollup};
use crate::compact::make::first_bucket;
use crate::compact::replacing::Replaced;
use crate::compact::{CompactError, Compactor, TRIES, check_damage};
use crate::day::DayStart;
use crate::replacement::ReplacementRecord;
use crate::segment::Selection;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::time::BucketStart;

/// Why nothing was rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Rebuild a range without it.
    #[error("the raw events of bucket {} are no longer kept: rebuild from a later one on", .0.time())]
    RawGone(BucketStart),
    /// Only rows of whole days are left.
    #[error("of {0} only rows of the whole day are kept: rebuild all of it")]
    FiveMinutesGone(DayStart),
    /// Something else.
    #[error(transparent)]
    Compact(#[from] CompactError),
}

/// What was rebuilt.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// What holds now.
    pub record: Arc<ReplacementRecord>,
    /// Buckets that were counted anew.
    pub buckets: u64,
}

/// What is rebuilt.
#[derive(Clone, Debug)]
struct Asked {
    /// All where not set.
    site: Option<Arc<str>>,
    from: BucketStart,
    /// Exclusive.
    to: BucketStart,
    schema: Arc<Schema>,
}

impl Asked {
    fn includes(&self, bucket: BucketStart) -> bool {
        self.from <= bucket && bucket < self.to
    }

    fn includes_all_of(&self, day: DayStart) -> bool {
        self.from.time() <= day.time() && self.to.time() >= day.end()
    }

    fn days(&self) -> Vec<DayStart> {
        let days = std::iter::successors(Some(DayStart::of(self.from)), |day| day.next());
        days.take_while(|&day| first_bucket(day) < self.to).collect()
    }

    /// Whether nothing of the day is taken over: then it may be damaged.
    fn repairs(&self, day: DayStart) -> bool {
        self.site.is_none() && self.includes_all_of(day)
    }

    /// Narrows what is taken over of a segment to what is not counted anew.
    fn narrow(&self, rollup: &mut Rollup) {
        let all = Selection::everything(rollup.footer.schema());
        let of = |site: &Arc<str>| Selection { sites: Some(vec![site.to_string()]), ..all.clone() };
        let mine = self.site.as_ref().map_or_else(|| all.clone(), of);
        let before = Selection { to: self.from, ..mine.clone() };
        let after = Selection { from: self.to, ..mine.clone() };
        let within = Selection { from: self.from, to: self.to, rows: false, ..mine };
        let others = self.site.as_ref().map(|site| {
            let others = rollup.footer.sites().filter(|known| *known != &**site).map(str::to_owned);
            Selection { sites: Some(others.collect()), ..all.clone() }
        });
        let taken = others.into_iter().chain([before, after]);
        rollup.picks = taken.map(|selection| Pick { selection, duplicates_only: false }).collect();
        rollup.picks.push(Pick { selection: within, duplicates_only: true });
    }
}

/// The day's buckets to count anew.
///
/// # Errors
/// Where one cannot be.
fn buckets_of(day: &Day, asked: &Asked) -> Result<Vec<BucketStart>, RebuildError> {
    let committed = replaced_buckets(day).into_iter();
    let starts = committed.filter_map(|bucket| BucketStart::from_unix_seconds(bucket.bucket_start_s));
    let starts: Vec<BucketStart> = starts.filter(|&bucket| asked.includes(bucket)).collect();
    if let Some(&gone) = starts.iter().find(|&&bucket| raw_segments(day, bucket).is_empty()) {
        return Err(RebuildError::RawGone(gone));
    }
    if !starts.is_empty() && is_expired(day) && !asked.includes_all_of(day.start()) {
        return Err(RebuildError::FiveMinutesGone(day.start()));
    }
    Ok(starts)
}

fn check(history: &History, day: DayStart, asked: &Asked) -> Result<(), CompactError> {
    // A replacement that cannot be read may be of any day, and may hold for this one. A commit that cannot be read names raw
    // events that nobody else does: they would be gone for good.
    let hidden = history.damage_of(day).iter().any(|damage| {
        damage.concerns == Concerns::Everything || matches!(damage.fault, Fault::Unreadable(_))
    });
    if asked.repairs(day) && !hidden { Ok(()) } else { check_damage(history, day) }
}

impl Compactor {
    /// Counts a site anew (all sites, where none is named) in the buckets from `from` up to but not including `to`, under
    /// `schema`. `None` where nothing is committed there.
    ///
    /// For all sites and whole days it repairs what is damaged of these days, except for raw events.
    ///
    /// # Errors
    /// See [`RebuildError`]; nothing has changed then. Doing it again is harmless.
    pub async fn rebuild(
        &self,
        site: Option<&str>,
        from: BucketStart,
        to: BucketStart,
        schema: &Arc<Schema>,
    ) -> Result<Option<Rebuilt>, RebuildError> {
        let asked = Asked { site: site.map(Arc::from), from, to, schema: Arc::clone(schema) };
        let days = asked.days();
        for _ in 0..TRIES {
            self.catalog.refresh(Scope::Days(&days)).await.map_err(CompactError::from)?;
            let history = self.catalog.current();
            let (message, buckets) = match self.rebuilt(&history, &days, &asked).await {
                Ok(Some(rebuilt)) => rebuilt,
                Ok(None) => return Ok(None),
                Err(error) if self.are_outdated(&history, &days).await => {
                    tracing::debug!(%error, "rebuilding again: a day was replaced meanwhile");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Replaced::Done(record) = self.replace(&history, &message).await? {
                tracing::info!(?site, buckets, number = record.number(), "rebuilt from raw events");
                return Ok(Some(Rebuilt { record, buckets }));
            }
        }
        Err(CompactError::Busy.into())
    }

    async fn are_outdated(&self, then: &History, days: &[DayStart]) -> bool {
        for &day in days {
            if self.is_outdated(then, day).await {
                return true;
            }
        }
        false
    }

    async fn rebuilt(
        &self,
        history: &History,
        days: &[DayStart],
        asked: &Asked,
    ) -> Result<Option<(v1::Replacement, u64)>, RebuildError> {
        let mut planned = Vec::new();
        for day in days.iter().filter_map(|&day| history.day(day)) {
            check(history, day.start(), asked)?;
            let buckets = buckets_of(day, asked)?;
            if !buckets.is_empty() {
                planned.push((day, buckets));
            }
        }
        let total = planned.iter().map(|(_, buckets)| buckets.len() as u64).sum();
        let mut replaced = Vec::new();
        for (day, buckets) in planned {
            replaced.push(self.rebuilt_day(history, day, &buckets, asked).await?);
        }
        Ok((!replaced.is_empty()).then(|| (self.replacement("rebuild", replaced), total)))
    }

    async fn rebuilt_day(
        &self,
        history: &History,
        day: &Day,
        buckets: &[BucketStart],
        asked: &Asked,
    ) -> Result<v1::ReplacedDay, CompactError> {
        let coverage = self.coverage(history, day).await?;
        let groups = self.inputs(day, buckets, &coverage, asked).await?;
        let made = self.make(day.start(), &groups, !is_expired(day)).await?;
        Ok(v1::ReplacedDay {
            day_start_s: day.start().as_unix_seconds(),
            buckets: replaced_buckets(day),
            five_minutes: made.five_minutes,
            days: made.days,
            coverage: Some(self.put_coverage(day.start(), &coverage).await?),
        })
    }

    async fn inputs(
        &self,
        day: &Day,
        buckets: &[BucketStart],
        coverage: &ByBucket,
        asked: &Asked,
    ) -> Result<Vec<Group>, CompactError> {
        let mut rollups = self.rollups(day, asked.repairs(day.start())).await?;
        rollups.iter_mut().for_each(|rollup| asked.narrow(rollup));
        let rows = rollups.iter().map(|rollup| rollup.rows).sum();
        let mut groups = by_schema(rollups);
        let group = group_of(&mut groups, &asked.schema);
        group.schema = Arc::clone(&asked.schema);
        group.raw_rows = rows;
        group.raw = buckets
            .iter()
            .map(|&bucket| Raw {
                bucket,
                segments: raw_segments(day, bucket),
                coverage: coverage.get(&bucket).cloned().unwrap_or_default(),
                site: asked.site.clone(),
            })
            .collect();
        Ok(groups)
    }
}
