//! Compaction: a day's many small segments become a few large ones, and rows of the day.
//!
//! Owns: which days are compacted when, and making what replaces their commits.
//! Does not own: what commits and replacements mean together (`catalog`), what is kept for how long (`retention`),
//! counting anew (`rebuild`).
//!
//! ```text
//! plan(history, now) ─> day ─> inputs by schema ─> cuts ─> five-minute rows, rows of the day ─> coverage ─> replacement
//! ```
//!
//! Inputs of different schemas become segments of their own: a row says "not set" of a dimension that its schema has, and
//! nothing of one that it lacks, and a measure that was redefined keeps both meanings. So nothing is lost, and what raw
//! events say can be held against it.
//!
//! Invariants:
//! * Answers are the same before and after, but for the limit on values, which is exact after it.
//! * Whoever reads sees all of a compaction or nothing. What it leaves behind, where it is cut off, nobody names.

pub(crate) mod cuts;
pub(crate) mod day;
pub(crate) mod layout;
pub(crate) mod load;
pub(crate) mod make;
pub(crate) mod objects;
pub(crate) mod replacing;

pub use objects::ObjectError;

use crate::catalog::{Catalog, CatalogError, CoverageError, Damage, Day, History, Scope};
use crate::day::DayStart;
use crate::replacement::{ReplaceError, ReplacementRecord};
use crate::retry::{RetryError, SplitMix64};
use crate::segment::WriteError;
use crate::store::{Store, StoreError};
use day::{by_schema, is_expired, replaced_buckets};
use load::Loader;
use objects::Objects;
use replacing::Replaced;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::block::BlockError;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::{BucketStart, Clock, EventTime};
use xxhash_rust::xxh3::xxh3_64;

/// So often a day is made again because somebody else replaced it meanwhile.
pub(crate) const TRIES: u32 = 8;

/// What a compactor goes by.
#[derive(Clone, Debug)]
pub struct CompactorSettings {
    /// The cluster's shards.
    pub shards: ShardCount,
    /// Distinct values per site, dimension and bucket.
    pub dimension_values: u32,
    /// Who writes.
    pub writer: NodeId,
    /// Makes names unique and waits random; each process needs its own.
    pub seed: u64,
    /// Rows in memory at once, about. More makes fewer and larger segments, and takes 200 bytes each, about.
    pub rows_at_once: u64,
    /// Rows of a row group, at most. Fewer let a reader of one site read less; more pack better.
    pub group_rows: usize,
    /// Objects read at once.
    pub parallel: usize,
}

impl CompactorSettings {
    /// 4 million rows in memory at once, 65,536 in a row group, 8 objects read at once.
    pub const fn new(shards: ShardCount, dimension_values: u32, writer: NodeId, seed: u64) -> Self {
        Self {
            shards,
            dimension_values,
            writer,
            seed,
            rows_at_once: 4_000_000,
            group_rows: 65_536,
            parallel: 8,
        }
    }
}

/// Makes what replaces commits: by compaction, rebuild and retention. Any number may work at once, anywhere.
pub struct Compactor {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) settings: CompactorSettings,
    pub(crate) loader: Loader,
    pub(crate) clock: Arc<dyn Clock>,
    random: Mutex<SplitMix64>,
}

/// What could not be compacted, rebuilt or expired. Nothing has changed, but for objects that nobody names.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// Try again later.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Restore the day's coverage, or rebuild the day; try again later where the store is away.
    #[error(transparent)]
    Coverage(#[from] CoverageError),
    /// Where the object is at fault, restore it or rebuild its day; try again later where the store is away.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Try again later.
    #[error("cannot store a segment: {0}")]
    Store(#[from] RetryError<StoreError>),
    /// Try again later.
    #[error("cannot replace commits: {0}")]
    Replace(#[from] RetryError<ReplaceError>),
    /// A bug: report it.
    #[error("cannot write a segment: {0}")]
    Write(#[from] WriteError),
    /// Restore what is missing, or rebuild the day for all sites.
    #[error("{day} is damaged: {damage}")]
    Damaged {
        /// The day.
        day: DayStart,
        /// The first thing that is wrong.
        damage: Box<Damage>,
    },
    /// The bucket's raw events are damaged. Restore them.
    #[error("an archived block of bucket {} cannot be counted: {source}", bucket.time())]
    Block {
        /// The bucket.
        bucket: BucketStart,
        /// What is wrong with the block.
        source: BlockError,
    },
    /// The bucket's raw events are not all there. Restore them.
    #[error("the raw events of bucket {} lack blocks of shard {shard} that its commits cover", bucket.time())]
    RawIncomplete {
        /// The bucket.
        bucket: BucketStart,
        /// The first shard that lacks some.
        shard: ShardId,
    },
    /// Others replace all the time. Try again later.
    #[error("others replaced the same days again and again; try again later")]
    Busy,
}

/// Finished days with commits that are not replaced, oldest first: their end, and their newest commit, are `compact_after`
/// ago. Where that is not set, all days with such commits, whatever the time. Damaged days are left out.
pub fn plan(history: &History, now: EventTime, compact_after: Option<Duration>) -> Vec<DayStart> {
    let is_due = |day: &Day| {
        let Some(newest) = day.commits().map(|commit| commit.message().committed_at_ms).max() else {
            return false;
        };
        let old = |moment: EventTime| compact_after.is_none_or(|after| moment.plus(after) <= now);
        old(day.start().end()) && old(EventTime::from_unix_ms(newest))
    };
    let due = history.all_days().filter(|day| is_due(day)).map(|day| day.start());
    due.filter(|&day| {
        let damage = history.damage_of(day);
        if let Some(damage) = damage.first() {
            tracing::warn!(%day, %damage, "a damaged day is not compacted");
        }
        damage.is_empty()
    })
    .collect()
}

/// The first thing that is wrong with a day, as an error.
pub(crate) fn check_damage(history: &History, day: DayStart) -> Result<(), CompactError> {
    match history.damage_of(day).into_iter().next() {
        Some(damage) => Err(CompactError::Damaged { day, damage: Box::new(damage) }),
        None => Ok(()),
    }
}

impl Compactor {
    /// A compactor over `store`, whose catalog is `catalog`.
    pub fn new(
        store: Store,
        catalog: Arc<Catalog>,
        settings: CompactorSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let objects = Objects::new(store, settings.shards, settings.seed);
        let (limit, parallel) = (settings.dimension_values, settings.parallel.max(1));
        // A seed that is used again after a restart must not make the same names again.
        let seed = settings.seed ^ xxh3_64(&clock.now().as_unix_ms().to_le_bytes());
        let random = Mutex::new(SplitMix64::new(seed));
        Self { catalog, loader: Loader { objects, limit, parallel }, settings, clock, random }
    }

    /// A random number, which nobody else has.
    pub(crate) fn attempt(&self) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Compacts a day: all its commits so far are replaced. `None` where there are none that are not replaced already.
    ///
    /// # Errors
    /// See [`CompactError`]. Doing it again is harmless.
    pub async fn compact(&self, day: DayStart) -> Result<Option<Arc<ReplacementRecord>>, CompactError> {
        for _ in 0..TRIES {
            self.catalog.refresh(Scope::Days(&[day])).await?;
            let history = self.catalog.current();
            check_damage(&history, day)?;
            let Some(committed) = history.day(day).filter(|day| day.open_buckets().next().is_some()) else {
                return Ok(None);
            };
            let replaced = match self.compacted(&history, committed).await {
                Ok(replaced) => replaced,
                // Somebody else may have replaced the day and cleaned up what this was reading.
                Err(error) if self.is_outdated(&history, day).await => {
                    tracing::debug!(%day, %error, "compacting again: the day was replaced meanwhile");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let message = self.replacement("compaction", vec![replaced]);
            if let Replaced::Done(record) = self.replace(&history, &message).await? {
                tracing::info!(%day, number = record.number(), "compacted a day");
                return Ok(Some(record));
            }
        }
        Err(CompactError::Busy)
    }

    async fn compacted(&self, history: &History, day: &Day) -> Result<v1::ReplacedDay, CompactError> {
        let groups = by_schema(self.rollups(day, false).await?);
        let made = self.make(day.start(), &groups, !is_expired(day)).await?;
        let coverage = self.coverage(history, day).await?;
        Ok(v1::ReplacedDay {
            day_start_s: day.start().as_unix_seconds(),
            buckets: replaced_buckets(day),
            five_minutes: made.five_minutes,
            days: made.days,
            coverage: Some(self.put_coverage(day.start(), &coverage).await?),
        })
    }

    /// Whether somebody else replaced the day since.
    pub(crate) async fn is_outdated(&self, then: &History, day: DayStart) -> bool {
        let number = |history: &History| Some(history.day(day)?.replacement()?.number);
        self.catalog.refresh(Scope::Days(&[day])).await.is_ok()
            && number(then) != number(&self.catalog.current())
    }
}

impl std::fmt::Debug for Compactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compactor").field("settings", &self.settings).finish_non_exhaustive()
    }
}
