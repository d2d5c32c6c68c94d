//! What commits cover, as the node knows it at a moment.
//!
//! Owns: looking up the coverage of a shard's bucket, over commits and what replaced them.
//! Does not own: reading commits (`tidemark-history`), when that is done (`history`).
//!
//! Nobody here waits for the store: what is not known is said to be so, and whoever needs it has it loaded.

use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_history::catalog::History;
use tidemark_history::day::DayStart;
use tidemark_history::replacement::DayCoverage;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// At most so many days' coverage is held; that of the days longest ago goes first.
const MAX_DAYS: usize = 64;

/// What is committed, at a moment.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    history: Option<Arc<History>>,
    /// The coverage of days whose commits are replaced, and by which replacement.
    days: BTreeMap<DayStart, (u64, Arc<DayCoverage>)>,
    /// Blocks of commits that are replaced, per shard, over all days that were looked at.
    replaced: Arc<BTreeMap<ShardId, Coverage>>,
    /// All was read that there was when the node first could.
    is_read: bool,
    /// Something of history is damaged.
    is_damaged: bool,
    /// Counts up with each change.
    version: u64,
}

impl Committed {
    /// What is committed; `None` as long as the node could not read it.
    pub fn history(&self) -> Option<&Arc<History>> {
        self.history.as_ref()
    }

    /// Tells older knowledge from newer.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether all is known that was committed when the node first could read it; blocks may be met before.
    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// Whether nothing of history is known to be damaged.
    pub fn is_sound(&self) -> bool {
        !self.is_damaged
    }

    /// The same with newer commits.
    #[must_use]
    pub fn with_history(&self, history: Arc<History>) -> Self {
        let holds = |day: &DayStart, number: u64| {
            let replacement = history.day(*day).and_then(|day| day.replacement().cloned());
            replacement.is_some_and(|replacement| replacement.number == number)
        };
        let days = self.days.iter().filter(|(day, (number, _))| holds(day, *number));
        let days = days.map(|(day, known)| (*day, known.clone())).collect();
        let is_damaged = !history.damaged().is_empty();
        Self {
            history: Some(history),
            days,
            replaced: Arc::clone(&self.replaced),
            is_read: self.is_read,
            is_damaged,
            version: self.version + 1,
        }
    }

    /// The same, and all is read that there was.
    #[must_use]
    pub fn read(&self) -> Self {
        Self { is_read: true, version: self.version + 1, ..self.clone() }
    }

    /// The same with the coverage of a day, as this replacement of it has it.
    #[must_use]
    pub fn with_day(&self, day: DayStart, replacement: u64, coverage: Arc<DayCoverage>) -> Self {
        let mut replaced = (*self.replaced).clone();
        for (_, packed) in coverage.buckets() {
            for shard in packed.shards() {
                replaced.entry(shard).or_default().merge(&packed.of(shard));
            }
        }
        let mut days = self.days.clone();
        days.insert(day, (replacement, coverage));
        while days.len() > MAX_DAYS {
            days.pop_first();
        }
        Self { days, replaced: Arc::new(replaced), version: self.version + 1, ..self.clone() }
    }

    /// Whether the coverage of a day is here, as this replacement of it has it.
    pub(crate) fn has_day(&self, day: DayStart, replacement: u64) -> bool {
        self.days.get(&day).is_some_and(|(number, _)| *number == replacement)
    }

    /// What commits cover of a shard's bucket; `None` where there is none.
    ///
    /// # Errors
    /// The day, where its commits are replaced and its coverage has to be loaded first.
    pub fn coverage(&self, bucket: BucketStart, shard: ShardId) -> Result<Option<Coverage>, DayStart> {
        let Some(history) = &self.history else { return Ok(None) };
        let of_bucket = history.bucket(bucket);
        let mut covered = history.coverage_of(bucket, shard);
        let day = DayStart::of(bucket);
        // A day that is no longer kept has no coverage either; nothing of it can come again.
        if of_bucket.through > 0 && history.coverage_segment(day).is_some() {
            let (_, known) = self.days.get(&day).ok_or(day)?;
            covered.merge(&known.of(bucket, shard));
        }
        Ok((!covered.is_empty()).then_some(covered))
    }

    /// All blocks of a shard that commits are known to cover.
    pub fn known(&self, shard: ShardId) -> Coverage {
        let mut known = self.replaced.get(&shard).cloned().unwrap_or_default();
        let days = self.history.iter().flat_map(|history| history.all_days());
        days.flat_map(|day| day.commits()).for_each(|commit| known.merge(&commit.coverage(shard)));
        known
    }
}
