//! Whatever the order in which records are met, history is what a naive model says.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod records;

use proptest::prelude::*;
use records::{commit, commit_record, day, replacement};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_history::catalog::{Catalog, CatalogSettings, History, Scope};
use tidemark_history::commit::{CommitRecord, commit as make};
use tidemark_history::day::DayStart;
use tidemark_history::replacement::{ReplacementRecord, replace};
use tidemark_history::store::{Location, Store};
use tidemark_rollup::time::BucketStart;

const DAYS: [&str; 3] = ["2026-11-20", "2026-11-21", "2026-11-22"];
const BUCKETS: usize = 3;

fn bucket(day_index: usize, index: usize) -> BucketStart {
    day(DAYS[day_index]).buckets().nth(index * 100).unwrap()
}

/// What happens: a flush of a bucket, or a compaction of some days.
#[derive(Clone, Debug)]
enum Event {
    Flush { day: usize, bucket: usize },
    Compact { days: Vec<usize> },
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..DAYS.len(), 0..BUCKETS).prop_map(|(day, bucket)| Event::Flush { day, bucket }),
        1 => prop::sample::subsequence(vec![0, 1, 2], 1..=3).prop_map(|days| Event::Compact { days }),
    ]
}

#[derive(Clone, Debug)]
enum Record {
    Commit(Arc<CommitRecord>),
    Replacement(ReplacementRecord),
}

/// The naive model: all commits by bucket, and the last compaction's numbers by bucket.
#[derive(Default, Debug)]
struct Model {
    numbers: BTreeMap<BucketStart, u64>,
    through: BTreeMap<BucketStart, u64>,
    holds: BTreeMap<DayStart, u64>,
    replacements: u64,
}

impl Model {
    fn record(&mut self, event: &Event, attempt: u64) -> Record {
        match event {
            Event::Flush { day, bucket: index } => {
                let bucket = bucket(*day, *index);
                let number = self.numbers.entry(bucket).or_default();
                *number += 1;
                Record::Commit(commit_record(*number, commit(bucket, "n1", attempt, [attempt])))
            }
            Event::Compact { days } => {
                self.replacements += 1;
                let mut replaced = Vec::new();
                for &index in days {
                    self.holds.insert(day(DAYS[index]), self.replacements);
                    for bucket in (0..BUCKETS).map(|at| bucket(index, at)) {
                        if let Some(&number) = self.numbers.get(&bucket) {
                            self.through.insert(bucket, number);
                            replaced.push((bucket, number));
                        }
                    }
                }
                // Days without a bucket are not named by the helper.
                let named: Vec<DayStart> = replaced.iter().map(|&(bucket, _)| DayStart::of(bucket)).collect();
                for &index in days {
                    if !named.contains(&day(DAYS[index])) {
                        self.holds.remove(&day(DAYS[index]));
                    }
                }
                Record::Replacement(
                    ReplacementRecord::new(self.replacements, replacement(attempt, &replaced)).unwrap(),
                )
            }
        }
    }

    fn check(&self, history: &History) -> Result<(), TestCaseError> {
        for (day_index, index) in (0..DAYS.len()).flat_map(|day| (0..BUCKETS).map(move |index| (day, index)))
        {
            let bucket = bucket(day_index, index);
            let number = self.numbers.get(&bucket).copied().unwrap_or(0);
            let through = self.through.get(&bucket).copied().unwrap_or(0);
            let state = history.bucket(bucket);
            let held: Vec<u64> = state.commits.iter().map(|commit| commit.number()).collect();
            prop_assert_eq!(held, (through + 1..=number).collect::<Vec<_>>());
            prop_assert_eq!(state.through, through);
            prop_assert_eq!(history.next_number(bucket), number.max(through) + 1);
            let holds = history.day(DayStart::of(bucket)).and_then(|day| day.replacement());
            prop_assert_eq!(holds.map(|holds| holds.number), self.holds.get(&DayStart::of(bucket)).copied());
        }
        prop_assert_eq!(history.next_replacement(), self.replacements + 1);
        prop_assert!(history.damaged().is_empty(), "{:?}", history.damaged());
        Ok(())
    }
}

async fn write(store: &Store, record: &Record) {
    match record {
        Record::Commit(record) => drop(make(store, record.number(), &record.to_message()).await.unwrap()),
        Record::Replacement(record) => drop(replace(store, record.number(), record.message()).await.unwrap()),
    }
}

async fn load(store: &Store) -> Catalog {
    Catalog::load(store.clone(), CatalogSettings::new(1)).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn records_met_in_any_order_make_the_history_that_the_model_says(
        events in prop::collection::vec(any_event(), 0..24),
        order in any::<u64>(),
        refresh_at in any::<prop::sample::Index>(),
    ) {
        let mut model = Model::default();
        let records: Vec<Record> =
            events.iter().enumerate().map(|(attempt, event)| model.record(event, attempt as u64)).collect();

        let mut shuffled = records.clone();
        let mut random = tidemark_history::retry::SplitMix64::new(order);
        shuffled.sort_by_cached_key(|_| random.next());
        let history = shuffled.iter().fold(History::default(), |history, record| match record {
            Record::Commit(record) => history.with_commit(Arc::clone(record)),
            Record::Replacement(record) => history.with_replacement(record),
        });
        model.check(&history)?;

        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(&Location::Memory).unwrap();
            let refresh_at = refresh_at.index(records.len() + 1);
            for record in &records[..refresh_at] {
                write(&store, record).await;
            }
            let catalog = load(&store).await;
            for record in &records[refresh_at..] {
                write(&store, record).await;
            }
            catalog.refresh(Scope::Days(&DAYS.map(day))).await.unwrap();
            let at_once = load(&store).await;
            prop_assert_eq!(&*at_once.current(), &history);
            prop_assert_eq!(&*catalog.current(), &history);
            // Cleaning up what is not needed changes nothing.
            let needed = history.referenced_paths();
            for object in store.list("").await.unwrap() {
                if !needed.contains(&object.path) {
                    store.delete(&object.path).await.unwrap();
                }
            }
            catalog.refresh(Scope::All).await.unwrap();
            let cleaned = load(&store).await;
            model.check(&catalog.current())?;
            model.check(&cleaned.current())
        })?;
    }
}
