//! What is committed, at one moment.
//!
//! Owns: what commits and replacements mean together, for all days.
//! Does not own: reading them (`Catalog`), one day's rules (`day`).
//!
//! Invariants:
//! * For each day the replacement with the highest number holds, entirely.
//! * A commit whose number is not above what is replaced of its bucket does not count.
//! * The state is a function of the set of records it was given, in any order.

use super::damage::{Concerns, Damage, Fault};
use super::day::{BucketHistory, Day, DayReplacement};
use crate::commit::CommitRecord;
use crate::day::DayStart;
use crate::paths::ObjectPath;
use crate::replacement::ReplacementRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// What is committed, at one moment. Cheap to clone, and never changes: `with_…` makes another one, which shares all days
/// but those that differ.
///
/// # Memory
/// A commit that is not replaced takes about 1 kB, 30 bytes per shard and producer that it covers, and its sites' names;
/// one that is replaced takes nothing. A day's replacement takes about 150 bytes per segment that it names, that is
/// 150 bytes per bucket and node as long as raw events are kept, and 30 bytes per bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    days: Arc<BTreeMap<DayStart, Arc<Day>>>,
    replacements: Arc<Replacements>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Replacements {
    /// Numbers of those that were read, whether or not they hold for a day.
    known: BTreeSet<u64>,
    faults: BTreeMap<u64, Fault>,
}

/// The sites that have rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    /// As far as commits name them.
    pub named: BTreeSet<String>,
    /// Whether these are all: commits of more than a thousand sites name none, and replacements never do. Where they are
    /// not all, the segments' indexes tell the others.
    pub complete: bool,
}

impl History {
    /// This history and one more commit.
    #[must_use]
    pub fn with_commit(mut self, record: Arc<CommitRecord>) -> Self {
        let day = DayStart::of(record.bucket());
        self.change(day, |day| day.add_commit(record));
        self
    }

    /// This history and one more replacement.
    #[must_use]
    pub fn with_replacement(mut self, record: &ReplacementRecord) -> Self {
        for (day, part) in DayReplacement::all_of(record) {
            self.change(day, |day| day.add_replacement(Arc::new(part)));
        }
        let replacements = Arc::make_mut(&mut self.replacements);
        replacements.known.insert(record.number());
        replacements.faults.remove(&record.number());
        self
    }

    /// This history, in which something is wrong with a commit.
    #[must_use]
    pub fn with_faulty_commit(mut self, bucket: BucketStart, number: u64, fault: Fault) -> Self {
        self.change(DayStart::of(bucket), |day| day.add_fault(bucket, number, fault));
        self
    }

    /// This history, in which a replacement cannot be read.
    #[must_use]
    pub fn with_faulty_replacement(mut self, number: u64, fault: Fault) -> Self {
        Arc::make_mut(&mut self.replacements).faults.insert(number, fault);
        self
    }

    /// This history, after replacements of these numbers were found to be no longer in the store, and still there.
    #[must_use]
    pub(super) fn with_list(mut self, gone: &BTreeSet<u64>, there: &BTreeSet<u64>) -> Self {
        let is_missing = |day: &Day| {
            let number = day.replacement()?.number;
            let missing = gone.contains(&number);
            (missing != day.replacement_is_missing() && (missing || there.contains(&number)))
                .then_some(missing)
        };
        let days = self.days.iter().filter_map(|(&start, day)| Some((start, is_missing(day)?)));
        for (start, missing) in days.collect::<Vec<_>>() {
            tracing::error!(day = %start, missing, "a replacement is gone from the store, or is back");
            self.change(start, |day| day.set_replacement_missing(missing));
        }
        if self
            .replacements
            .known
            .iter()
            .chain(self.replacements.faults.keys())
            .any(|number| gone.contains(number))
        {
            let held: BTreeSet<u64> =
                self.days.values().filter_map(|day| Some(day.replacement()?.number)).collect();
            let replacements = Arc::make_mut(&mut self.replacements);
            replacements.known.retain(|number| !gone.contains(number) || held.contains(number));
            replacements.faults.retain(|number, _| !gone.contains(number));
        }
        self
    }

    fn change(&mut self, start: DayStart, change: impl FnOnce(&mut Day)) {
        let days = Arc::make_mut(&mut self.days);
        let day = days.entry(start).or_insert_with(|| Arc::new(Day::new(start)));
        change(Arc::make_mut(day));
        if day.is_empty() {
            days.remove(&start);
        }
    }

    /// What is committed of a day, if anything is.
    pub fn day(&self, day: DayStart) -> Option<&Arc<Day>> {
        self.days.get(&day)
    }

    /// The days that have anything, from the first of the range up to but not including its end.
    pub fn days(&self, range: Range<DayStart>) -> impl DoubleEndedIterator<Item = &Arc<Day>> {
        let range = if range.start <= range.end { range } else { range.start..range.start };
        self.days.range(range).map(|(_, day)| day)
    }

    /// All days that have anything.
    pub fn all_days(&self) -> impl DoubleEndedIterator<Item = &Arc<Day>> {
        self.days.values()
    }

    /// What is committed of a bucket.
    pub fn bucket(&self, bucket: BucketStart) -> BucketHistory<'_> {
        match self.days.get(&DayStart::of(bucket)) {
            Some(day) => day.bucket(bucket),
            None => BucketHistory { commits: &[], through: 0, replaced_by: None },
        }
    }

    /// The number that the bucket's next commit takes: the one after the highest that is there or replaced.
    pub fn next_number(&self, bucket: BucketStart) -> u64 {
        self.days.get(&DayStart::of(bucket)).map_or(1, |day| day.next_number(bucket))
    }

    /// The number that the next replacement takes.
    pub fn next_replacement(&self) -> u64 {
        let replacements = &self.replacements;
        let faulty = replacements.faults.last_key_value().map(|(number, _)| number);
        replacements.known.last().max(faulty).map_or(1, |highest| highest.saturating_add(1))
    }

    /// The blocks of a shard that the bucket's commits cover which are not replaced. What the replaced ones covered is in
    /// the day's [`coverage_segment`](Self::coverage_segment).
    pub fn coverage_of(&self, bucket: BucketStart, shard: ShardId) -> Coverage {
        let mut coverage = Coverage::default();
        for commit in self.bucket(bucket).commits {
            coverage.merge(&commit.coverage(shard));
        }
        coverage
    }

    /// The object that says what a day's replaced commits covered.
    pub fn coverage_segment(&self, day: DayStart) -> Option<&v1::Segment> {
        self.day(day)?.replacement()?.day.coverage.as_ref()
    }

    /// Every object that history needs: records, and all that they name. Whatever else is in the store may be deleted once
    /// it is older than any flush or compaction takes, except of days that are damaged: what a record that cannot be read
    /// names is not known here.
    pub fn referenced_paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::from([ObjectPath::Cluster.to_string()]);
        for day in self.days.values() {
            paths.extend(day.replacement().iter().flat_map(|holds| holds.paths()));
            paths.extend(day.faulty_paths());
            for commit in day.commits() {
                let segments = [&commit.message().rollup, &commit.message().raw];
                paths.extend(segments.into_iter().flatten().map(|segment| segment.path.clone()));
                paths.insert(commit.path().to_string());
            }
        }
        // The highest one tells the next one's number.
        let numbers = self.replacements.faults.keys().chain(self.replacements.known.last());
        paths.extend(numbers.map(|&number| ObjectPath::Replacement { number }.to_string()));
        paths
    }

    /// The sites that have rows.
    pub fn sites(&self) -> Sites {
        let mut sites = Sites { named: BTreeSet::new(), complete: true };
        for day in self.days.values() {
            let replaced = day.replacement().is_some_and(|holds| !holds.day.days.is_empty());
            sites.complete &= !replaced;
            for commit in day.commits() {
                let message = commit.message();
                let has_rows = message.rollup.as_ref().is_some_and(|rollup| rollup.rows > 0);
                sites.complete &= !(message.sites.is_empty() && has_rows);
                for site in &message.sites {
                    if !sites.named.contains(site) {
                        sites.named.insert(site.clone());
                    }
                }
            }
        }
        sites
    }

    /// What is wrong, as far as reading the records showed. Looks at all days.
    pub fn damaged(&self) -> Vec<Damage> {
        let faulty = self.replacements.faults.iter().map(|(&number, fault)| Damage {
            path: ObjectPath::Replacement { number }.to_string(),
            concerns: Concerns::Everything,
            fault: fault.clone(),
        });
        faulty.chain(self.days.values().flat_map(|day| day.damage())).collect()
    }

    /// What is wrong that concerns a day.
    pub fn damage_of(&self, day: DayStart) -> Vec<Damage> {
        let mut damage = self.damaged_replacements();
        damage.extend(self.day(day).iter().flat_map(|day| day.damage()));
        damage
    }

    fn damaged_replacements(&self) -> Vec<Damage> {
        let nothing = Self { days: Arc::default(), replacements: Arc::clone(&self.replacements) };
        nothing.damaged()
    }

    /// Whether both share everything, and so are equal. Equal ones need not.
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.days, &other.days) && Arc::ptr_eq(&self.replacements, &other.replacements)
    }

    /// Whether a commit needs no reading: it is here, or it is replaced.
    pub(super) fn has_commit(&self, bucket: BucketStart, number: u64) -> bool {
        self.days.get(&DayStart::of(bucket)).is_some_and(|day| {
            number <= day.through(bucket) || (day.holds(bucket, number) && !day.has_fault(bucket, number))
        })
    }

    /// Whether a replacement needs no reading.
    pub(super) fn has_replacement(&self, number: u64) -> bool {
        self.replacements.known.contains(&number) && !self.replacements.faults.contains_key(&number)
    }

    /// Numbers of all replacements that are known, or known to be faulty.
    pub(super) fn replacement_numbers(&self) -> BTreeSet<u64> {
        let faulty = self.replacements.faults.keys();
        self.replacements.known.iter().chain(faulty).copied().collect()
    }
}
