//! What is committed of one day.
//!
//! Owns: what a day's replacement and its buckets' commits mean together.
//! Does not own: other days, and how either was read.
//!
//! Invariants:
//! * The state is a function of the set of records it was given, in any order.
//! * It holds no commit that is replaced.

use super::damage::{Concerns, Damage, Fault};
use crate::commit::CommitRecord;
use crate::day::DayStart;
use crate::paths::ObjectPath;
use crate::replacement::ReplacementRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// The part of a replacement that is about one day.
#[derive(Clone, Debug, PartialEq)]
pub struct DayReplacement {
    /// The replacement's number.
    pub number: u64,
    /// The shard count of the cluster that wrote it.
    pub shard_count: u32,
    /// Why: "compaction", "rebuild" or "retention".
    pub reason: String,
    /// Who wrote it.
    pub writer: String,
    /// When, in milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
    /// What it says about the day; buckets ascend.
    pub day: v1::ReplacedDay,
}

impl DayReplacement {
    /// What a replacement says about its days.
    pub(super) fn all_of(record: &ReplacementRecord) -> impl Iterator<Item = (DayStart, Self)> + '_ {
        let message = record.message();
        record.days().zip(&message.days).map(|(start, day)| {
            let part = Self {
                number: record.number(),
                shard_count: message.shard_count,
                reason: message.reason.clone(),
                writer: message.writer.clone(),
                committed_at_ms: message.committed_at_ms,
                day: day.clone(),
            };
            (start, part)
        })
    }

    /// The path of the replacement.
    pub fn path(&self) -> ObjectPath {
        ObjectPath::Replacement { number: self.number }
    }

    /// What it says about a bucket.
    pub fn bucket(&self, bucket: BucketStart) -> Option<&v1::ReplacedBucket> {
        let seconds = bucket.as_unix_seconds();
        let at = self.day.buckets.binary_search_by_key(&seconds, |bucket| bucket.bucket_start_s).ok()?;
        self.day.buckets.get(at)
    }

    /// The bucket's commits up to this number are replaced; 0 for none.
    pub fn through(&self, bucket: BucketStart) -> u64 {
        self.bucket(bucket).map_or(0, |bucket| bucket.through)
    }

    fn throughs(&self) -> impl Iterator<Item = (BucketStart, u64)> + '_ {
        self.day.buckets.iter().filter_map(|bucket| {
            Some((BucketStart::from_unix_seconds(bucket.bucket_start_s)?, bucket.through))
        })
    }

    /// Every object that it names, and its own.
    pub(super) fn paths(&self) -> impl Iterator<Item = String> + '_ {
        let raw = self.day.buckets.iter().flat_map(|bucket| &bucket.raw);
        let segments = raw.chain(&self.day.five_minutes).chain(&self.day.days).chain(&self.day.coverage);
        segments.map(|segment| segment.path.clone()).chain([self.path().to_string()])
    }
}

/// What is committed of a bucket and not replaced.
#[derive(Clone, Debug, Default, PartialEq)]
struct BucketCommits {
    /// By number.
    held: Vec<Arc<CommitRecord>>,
    /// What is wrong, by number.
    faults: BTreeMap<u64, Fault>,
    /// Pairs of numbers, the lower first.
    overlaps: BTreeMap<(u64, u64), ShardId>,
}

impl BucketCommits {
    fn insert(&mut self, record: Arc<CommitRecord>) {
        let number = record.number();
        match self.held.binary_search_by_key(&number, |held| held.number()) {
            Ok(at) if *self.held[at] == *record => {
                self.faults.remove(&number);
            }
            Ok(_) => {
                tracing::error!(path = %record.path(), "a commit was changed; the first one read is kept");
                self.faults.insert(number, Fault::Changed);
            }
            Err(at) => {
                self.faults.remove(&number);
                for other in &self.held {
                    let Some(shard) = other.overlap(&record) else { continue };
                    let pair = (number.min(other.number()), number.max(other.number()));
                    tracing::error!(path = %record.path(), other = other.number(), %shard, "two commits cover the same block");
                    self.overlaps.insert(pair, shard);
                }
                self.held.insert(at, record);
            }
        }
    }

    fn forget_through(&mut self, through: u64) {
        self.held.retain(|held| held.number() > through);
        self.faults.retain(|&number, _| number > through);
        self.overlaps.retain(|&(lower, _), _| lower > through);
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.faults.is_empty()
    }

    fn numbers(&self) -> BTreeSet<u64> {
        self.held.iter().map(|held| held.number()).chain(self.faults.keys().copied()).collect()
    }

    fn damage(&self, bucket: BucketStart, through: u64, out: &mut Vec<Damage>) {
        let mut push = |number, fault| {
            let path = ObjectPath::Commit { bucket, number }.to_string();
            out.push(Damage { path, concerns: Concerns::Bucket(bucket), fault });
        };
        for (&number, fault) in &self.faults {
            push(number, fault.clone());
        }
        for (&(other, number), &shard) in &self.overlaps {
            push(number, Fault::Overlaps { other, shard });
        }
        // Numbers have no gaps: a commit takes the one after the highest. One entry stands for a whole gap.
        let mut previous = through;
        for number in self.numbers() {
            if number > previous.saturating_add(1) {
                push(previous + 1, Fault::Missing);
            }
            previous = number;
        }
    }
}

/// What is committed of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct BucketHistory<'a> {
    /// Its commits that are not replaced, by number.
    pub commits: &'a [Arc<CommitRecord>],
    /// Commits up to this number are replaced; 0 for none.
    pub through: u64,
    /// What replaces them.
    pub replaced_by: Option<&'a Arc<DayReplacement>>,
}

/// What is committed of a day.
#[derive(Clone, Debug, PartialEq)]
pub struct Day {
    start: DayStart,
    replacement: Option<Arc<DayReplacement>>,
    buckets: BTreeMap<BucketStart, Arc<BucketCommits>>,
    /// What was replaced of a bucket, where the replacement that holds replaces less. Empty unless somebody broke the
    /// rules.
    reopened: BTreeMap<BucketStart, u64>,
    /// The replacement that holds was here and is no longer in the store.
    replacement_is_missing: bool,
}

impl Day {
    pub(super) fn new(start: DayStart) -> Self {
        let (buckets, reopened) = (BTreeMap::new(), BTreeMap::new());
        Self { start, replacement: None, buckets, reopened, replacement_is_missing: false }
    }

    /// Which day.
    pub const fn start(&self) -> DayStart {
        self.start
    }

    /// The replacement that holds for the day: of those that name it, the one with the highest number.
    pub const fn replacement(&self) -> Option<&Arc<DayReplacement>> {
        self.replacement.as_ref()
    }

    /// What is committed of one of its buckets.
    pub fn bucket(&self, bucket: BucketStart) -> BucketHistory<'_> {
        BucketHistory {
            commits: self.buckets.get(&bucket).map_or(&[], |commits| &commits.held),
            through: self.through(bucket),
            replaced_by: self.replacement.as_ref().filter(|holds| holds.through(bucket) > 0),
        }
    }

    /// Buckets that have commits which are not replaced, ascending.
    pub fn open_buckets(&self) -> impl Iterator<Item = BucketStart> + '_ {
        self.buckets.iter().filter(|(_, commits)| !commits.held.is_empty()).map(|(&bucket, _)| bucket)
    }

    /// All commits that are not replaced, by bucket and number.
    pub fn commits(&self) -> impl Iterator<Item = &Arc<CommitRecord>> {
        self.buckets.values().flat_map(|commits| &commits.held)
    }

    /// Commits that cannot be read, are missing or were changed, with the paths that they have.
    pub(super) fn faulty_paths(&self) -> impl Iterator<Item = String> + '_ {
        self.buckets.iter().flat_map(|(&bucket, commits)| {
            commits.faults.keys().map(move |&number| ObjectPath::Commit { bucket, number }.to_string())
        })
    }

    /// All commits that are not replaced, and those that cannot be read.
    pub(super) fn commit_keys(&self) -> BTreeSet<(BucketStart, u64)> {
        let of = |(&bucket, commits): (&BucketStart, &Arc<BucketCommits>)| {
            commits.numbers().into_iter().map(move |number| (bucket, number)).collect::<Vec<_>>()
        };
        self.buckets.iter().flat_map(of).collect()
    }

    /// What is wrong with the day, as far as reading its records showed.
    pub fn damage(&self) -> Vec<Damage> {
        let mut damage = Vec::new();
        for (&bucket, commits) in &self.buckets {
            commits.damage(bucket, self.through(bucket), &mut damage);
        }
        let Some(holds) = &self.replacement else { return damage };
        for (&bucket, &through) in &self.reopened {
            let fault = Fault::Reopens { replaces: holds.through(bucket), through };
            damage.push(Damage { path: holds.path().to_string(), concerns: Concerns::Bucket(bucket), fault });
        }
        if self.replacement_is_missing {
            let (path, concerns) = (holds.path().to_string(), Concerns::Day(self.start));
            damage.push(Damage { path, concerns, fault: Fault::Missing });
        }
        damage
    }

    /// The number that the bucket's next commit takes.
    pub fn next_number(&self, bucket: BucketStart) -> u64 {
        let highest =
            self.buckets.get(&bucket).map_or(0, |commits| commits.numbers().last().copied().unwrap_or(0));
        highest.max(self.through(bucket)).saturating_add(1)
    }

    /// Commits of the bucket up to this number are replaced.
    pub(super) fn through(&self, bucket: BucketStart) -> u64 {
        let holds = self.replacement.as_ref().map_or(0, |holds| holds.through(bucket));
        holds.max(self.reopened.get(&bucket).copied().unwrap_or(0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.replacement.is_none() && self.buckets.is_empty()
    }

    pub(super) fn holds(&self, bucket: BucketStart, number: u64) -> bool {
        self.buckets
            .get(&bucket)
            .is_some_and(|commits| commits.held.binary_search_by_key(&number, |held| held.number()).is_ok())
    }

    pub(super) fn has_fault(&self, bucket: BucketStart, number: u64) -> bool {
        self.buckets.get(&bucket).is_some_and(|commits| commits.faults.contains_key(&number))
    }

    pub(super) fn add_commit(&mut self, record: Arc<CommitRecord>) {
        let bucket = record.bucket();
        if record.number() > self.through(bucket) {
            Arc::make_mut(self.buckets.entry(bucket).or_default()).insert(record);
        }
    }

    pub(super) fn add_fault(&mut self, bucket: BucketStart, number: u64, fault: Fault) {
        if number > self.through(bucket) {
            Arc::make_mut(self.buckets.entry(bucket).or_default()).faults.insert(number, fault);
        }
    }

    pub(super) const fn replacement_is_missing(&self) -> bool {
        self.replacement_is_missing
    }

    pub(super) fn set_replacement_missing(&mut self, missing: bool) {
        self.replacement_is_missing = missing;
    }

    pub(super) fn add_replacement(&mut self, part: Arc<DayReplacement>) {
        if self.replacement.as_ref().is_some_and(|holds| holds.number == part.number) {
            return;
        }
        let before = self.replacement.take();
        let all = before.iter().chain([&part]).flat_map(|each| each.throughs());
        let mut replaced: BTreeMap<BucketStart, u64> = BTreeMap::new();
        for (bucket, through) in all.chain(std::mem::take(&mut self.reopened)) {
            let highest = replaced.entry(bucket).or_default();
            *highest = through.max(*highest);
        }
        let part_is_newer = before.as_ref().is_none_or(|before| before.number < part.number);
        let holds = match before {
            Some(before) if !part_is_newer => before,
            _ => part,
        };
        if part_is_newer {
            self.replacement_is_missing = false;
        }
        for (&bucket, commits) in &mut self.buckets {
            if let Some(&through) = replaced.get(&bucket) {
                Arc::make_mut(commits).forget_through(through);
            }
        }
        self.buckets.retain(|_, commits| !commits.is_empty());
        replaced.retain(|&bucket, through| *through > holds.through(bucket));
        if !replaced.is_empty() {
            tracing::error!(path = %holds.path(), day = %self.start, "a replacement replaces less than one before it");
        }
        self.reopened = replaced;
        self.replacement = Some(holds);
    }
}
