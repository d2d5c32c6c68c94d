//! What commits and replacements mean together, read at once or bit by bit, from stores that fail.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod records;

use bytes::Bytes;
use futures::FutureExt as _;
use object_store::memory::InMemory;
use records::{bucket, commit, commit_record, day, replacement, segment, shard};
use std::sync::Arc;
use tidemark_history::catalog::{
    Catalog, CatalogSettings, Concerns, Confirmed, CoverageError, Fault, History, Scope,
};
use tidemark_history::commit::{CommitOutcome, commit as make};
use tidemark_history::faults::{Action, Faults, FaultyStore};
use tidemark_history::paths::ObjectPath;
use tidemark_history::record::RecordFault;
use tidemark_history::replacement::{DayCoverage, ReplaceOutcome, ReplacementRecord, replace};
use tidemark_history::store::{Location, Operation, Store};
use tidemark_proto::v1;
use tidemark_rollup::time::BucketStart;

fn memory() -> Store {
    Store::open(&Location::Memory).unwrap()
}

fn faulty() -> (FaultyStore, Store) {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), 1);
    (faulty.clone(), Store::of(Arc::new(faulty)))
}

async fn load(store: &Store) -> Catalog {
    Catalog::load(store.clone(), CatalogSettings::new(1)).await.unwrap()
}

async fn committed(store: &Store, number: u64, message: &v1::Commit) {
    assert!(matches!(make(store, number, message).await.unwrap(), CommitOutcome::Committed(_)));
}

async fn replaced(store: &Store, number: u64, message: &v1::Replacement) {
    assert!(matches!(replace(store, number, message).await.unwrap(), ReplaceOutcome::Committed(_)));
}

fn commit_path(bucket: BucketStart, number: u64) -> String {
    ObjectPath::Commit { bucket, number }.to_string()
}

fn numbers(history: &History, bucket: BucketStart) -> Vec<u64> {
    history.bucket(bucket).commits.iter().map(|commit| commit.number()).collect()
}

#[tokio::test]
async fn a_commit_counts_until_a_replacement_of_its_day_replaces_it() {
    let store = memory();
    let catalog = load(&store).await;
    assert_eq!(catalog.current().next_number(bucket(3)), 1);
    for number in 1..=3 {
        committed(&store, number, &commit(bucket(3), "n1", number, [number])).await;
    }
    committed(&store, 1, &commit(bucket(4), "n2", 9, [1])).await;
    catalog.refresh(Scope::All).await.unwrap();
    let before = catalog.current();
    assert_eq!(numbers(&before, bucket(3)), [1, 2, 3]);
    assert_eq!(before.coverage_of(bucket(3), shard(1)), records::blocks(1..=3));
    assert!(before.coverage_of(bucket(3), shard(2)).is_empty());

    replaced(&store, 1, &replacement(1, &[(bucket(3), 2)])).await;
    catalog.refresh(Scope::Days(&[])).await.unwrap();
    let after = catalog.current();
    assert_eq!(numbers(&after, bucket(3)), [3]);
    assert_eq!(after.coverage_of(bucket(3), shard(1)), records::blocks([3]));
    assert_eq!((after.bucket(bucket(3)).through, after.next_number(bucket(3))), (2, 4));
    assert_eq!(after.bucket(bucket(3)).replaced_by.unwrap().number, 1);
    assert_eq!(numbers(&after, bucket(4)), [1]);
    assert!(after.bucket(bucket(4)).replaced_by.is_none());
    assert_eq!((after.next_replacement(), after.next_number(bucket(5))), (2, 1));
    assert!(after.coverage_segment(day("2026-11-21")).is_some());
    assert_eq!(numbers(&before, bucket(3)), [1, 2, 3], "a snapshot never changes");
    assert!(after.damaged().is_empty());
}

#[tokio::test]
async fn days_are_found_by_range() {
    let store = memory();
    for text in ["2026-11-20", "2026-11-21", "2026-11-23"] {
        committed(&store, 1, &commit(day(text).buckets().last().unwrap(), "n1", 1, [1])).await;
    }
    let history = load(&store).await.current();
    let days =
        |from, to| history.days(day(from)..day(to)).map(|day| day.start().to_string()).collect::<Vec<_>>();
    assert_eq!(days("2026-11-20", "2026-11-23"), ["2026-11-20", "2026-11-21"]);
    assert_eq!(days("2026-11-21", "2026-11-24"), ["2026-11-21", "2026-11-23"]);
    assert!(days("2026-11-24", "2026-11-20").is_empty());
    assert!(history.day(day("2026-11-22")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_catalog_loads_from_a_store_that_often_fails() {
    let (faulty, store) = faulty();
    for number in 1..=100 {
        committed(&store, number, &commit(bucket(3), "n1", number, [number])).await;
    }
    replaced(&store, 1, &replacement(1, &[(bucket(3), 40)])).await;
    faulty.set(Faults { error_share: 0.3, ..Faults::default() });
    // On a task of its own, as nodes do: the future has to be `Send`.
    let catalog = tokio::spawn(Catalog::load(store, CatalogSettings::new(1))).await.unwrap().unwrap();
    assert_eq!(numbers(&catalog.current(), bucket(3)), (41..=100).collect::<Vec<_>>());
    faulty.set(Faults { away: true, ..Faults::default() });
    let error = catalog.refresh(Scope::All).await.unwrap_err().to_string();
    assert!(error.contains("gave up after") && error.contains("cannot list commits"), "{error}");
    assert_eq!(numbers(&catalog.current(), bucket(3)).len(), 60, "what was known stays");
}

#[tokio::test]
async fn replaced_commits_are_not_read_and_known_ones_not_again() {
    let (faulty, store) = faulty();
    for number in 1..=10 {
        committed(&store, number, &commit(bucket(3), "n1", number, [number])).await;
    }
    replaced(&store, 1, &replacement(1, &[(bucket(3), 8)])).await;
    let catalog = load(&store).await;
    assert_eq!(faulty.calls(Operation::Get), 3, "two commits and the replacement");
    let mut watch = catalog.watch();
    catalog.refresh(Scope::All).await.unwrap();
    assert_eq!(faulty.calls(Operation::Get), 3);
    assert!(!watch.has_changed().unwrap(), "nothing new, nobody is woken");
    committed(&store, 11, &commit(bucket(3), "n1", 11, [11])).await;
    catalog.refresh(Scope::Days(&[day("2026-11-20")])).await.unwrap();
    assert!(!watch.has_changed().unwrap(), "another day was asked for");
    catalog.refresh(Scope::Days(&[day("2026-11-21")])).await.unwrap();
    assert_eq!(numbers(&watch.borrow_and_update(), bucket(3)), [9, 10, 11]);
    assert_eq!(faulty.calls(Operation::Get), 4);
}

#[tokio::test]
async fn a_damaged_commit_is_named_with_its_bucket_and_read_again_later() {
    let store = memory();
    for number in 1..=3 {
        committed(&store, number, &commit(bucket(3), "n1", number, [number])).await;
    }
    let path = commit_path(bucket(3), 3);
    let good = store.get(&path).await.unwrap();
    store.put(&path, good.slice(..40)).await.unwrap();
    let catalog = load(&store).await;
    let history = catalog.current();
    let damage = history.damaged();
    assert_eq!(damage.len(), 1);
    assert_eq!((damage[0].path.as_str(), damage[0].concerns), (path.as_str(), Concerns::Bucket(bucket(3))));
    assert!(matches!(damage[0].fault, Fault::Unreadable(RecordFault::Truncated { found: 40, .. })));
    assert!(damage[0].to_string().starts_with(&path), "{}", damage[0]);
    assert_eq!(history.damage_of(day("2026-11-21")), damage);
    assert!(history.damage_of(day("2026-11-20")).is_empty());
    assert_eq!(numbers(&history, bucket(3)), [1, 2]);
    assert_eq!(history.next_number(bucket(3)), 4, "its number is taken all the same");
    assert!(history.referenced_paths().contains(&path), "nobody cleans it up");

    store.put(&path, good).await.unwrap();
    catalog.refresh(Scope::All).await.unwrap();
    assert_eq!(numbers(&catalog.current(), bucket(3)), [1, 2, 3]);
    assert!(catalog.current().damaged().is_empty());
}

#[tokio::test]
async fn a_damaged_replacement_concerns_everything() {
    let store = memory();
    replaced(&store, 1, &replacement(1, &[(bucket(3), 2)])).await;
    store.put("replacements/00000002", Bytes::from_static(b"what")).await.unwrap();
    let catalog = load(&store).await;
    let history = catalog.current();
    assert_eq!(history.damage_of(day("2001-01-01"))[0].concerns, Concerns::Everything);
    assert_eq!(history.next_replacement(), 3);
    store.delete("replacements/00000002").await.unwrap();
    catalog.refresh(Scope::All).await.unwrap();
    assert!(catalog.current().damaged().is_empty());
}

#[tokio::test]
async fn gaps_overlaps_and_what_vanished_are_damage() {
    let store = memory();
    committed(&store, 1, &commit(bucket(3), "n1", 1, 0..5)).await;
    committed(&store, 2, &commit(bucket(3), "n2", 2, 4..6)).await;
    committed(&store, 5, &commit(bucket(3), "n2", 3, [9])).await;
    let catalog = load(&store).await;
    let faults = |history: &History| -> Vec<(String, Fault)> {
        history.damaged().into_iter().map(|damage| (damage.path, damage.fault)).collect()
    };
    let overlap = (commit_path(bucket(3), 2), Fault::Overlaps { other: 1, shard: shard(1) });
    let gap = (commit_path(bucket(3), 3), Fault::Missing);
    assert_eq!(faults(&catalog.current()), [overlap.clone(), gap.clone()]);

    let bytes = store.get(&commit_path(bucket(3), 5)).await.unwrap();
    store.delete(&commit_path(bucket(3), 5)).await.unwrap();
    catalog.refresh(Scope::All).await.unwrap();
    let vanished = (commit_path(bucket(3), 5), Fault::Missing);
    assert_eq!(faults(&catalog.current()), [vanished, overlap.clone(), gap.clone()]);
    assert_eq!(numbers(&catalog.current(), bucket(3)), [1, 2, 5], "what was read is kept");
    store.put(&commit_path(bucket(3), 5), bytes).await.unwrap();
    catalog.refresh(Scope::All).await.unwrap();
    assert_eq!(faults(&catalog.current()), [overlap, gap]);

    replaced(&store, 1, &replacement(1, &[(bucket(3), 4)])).await;
    catalog.refresh(Scope::All).await.unwrap();
    assert!(faults(&catalog.current()).is_empty(), "a rebuilt day is whole");
    store.delete("replacements/00000001").await.unwrap();
    catalog.refresh(Scope::All).await.unwrap();
    assert_eq!(faults(&catalog.current()), [("replacements/00000001".to_owned(), Fault::Missing)]);
    assert_eq!(catalog.current().bucket(bucket(3)).through, 4);
}

#[tokio::test]
async fn a_replacement_that_replaces_less_than_one_before_is_damage_in_any_order() {
    let [more, less] = [5, 3].map(|through| replacement(through, &[(bucket(3), through)]));
    let [more, less] =
        [(1, more), (2, less)].map(|(number, message)| ReplacementRecord::new(number, message).unwrap());
    let five = commit_record(5, commit(bucket(3), "n1", 1, [5]));
    let one_way =
        History::default().with_replacement(&more).with_replacement(&less).with_commit(Arc::clone(&five));
    let other_way = History::default().with_commit(five).with_replacement(&less).with_replacement(&more);
    assert_eq!(one_way, other_way);
    assert!(numbers(&one_way, bucket(3)).is_empty());
    assert_eq!(one_way.next_number(bucket(3)), 6);
    let damage = one_way.damaged();
    assert_eq!(damage[0].fault, Fault::Reopens { replaces: 3, through: 5 });
    assert_eq!(damage[0].path, "replacements/00000002");
}

/// Compacts bucket 3 behind a reader's back when it makes its first call of an operation on a path.
fn compact_at(faulty: &FaultyStore, store: &Store, operation: Operation, start: &'static str) {
    let done = std::sync::atomic::AtomicBool::new(false);
    let store = store.clone();
    faulty.set_hook(move |called, path| {
        if called == operation
            && path.starts_with(start)
            && !done.swap(true, std::sync::atomic::Ordering::SeqCst)
        {
            let compact = async {
                replaced(&store, 1, &replacement(1, &[(bucket(3), 2)])).await;
                for number in 1..=2 {
                    store.delete(&commit_path(bucket(3), number)).await.unwrap();
                }
            };
            compact.now_or_never().expect("memory never waits");
        }
        Action::Pass
    });
}

#[tokio::test]
async fn a_compaction_in_the_middle_of_a_pass_leaves_nothing_out() {
    for (operation, start) in
        [(Operation::List, "commits"), (Operation::List, "replacements"), (Operation::Get, "commits")]
    {
        let (faulty, store) = faulty();
        for number in 1..=3 {
            committed(&store, number, &commit(bucket(3), "n1", number, [number])).await;
        }
        compact_at(&faulty, &store, operation, start);
        let history = load(&store).await.current();
        assert_eq!(numbers(&history, bucket(3)), [3], "{operation} {start}");
        assert_eq!(history.bucket(bucket(3)).through, 2);
        assert!(history.damaged().is_empty(), "{:?}", history.damaged());
    }
}

#[tokio::test]
async fn a_listed_object_that_can_never_be_read_is_missing() {
    let (faulty, store) = faulty();
    committed(&store, 1, &commit(bucket(3), "n1", 1, [1])).await;
    let inner = store.clone();
    faulty.set_hook(move |operation, path| {
        let bytes = Bytes::from_static(b"x");
        match operation {
            // There in lists only.
            Operation::List if path == "commits" => {
                inner.put(&commit_path(bucket(4), 1), bytes).now_or_never().unwrap().unwrap();
            }
            Operation::List => inner.delete(&commit_path(bucket(4), 1)).now_or_never().unwrap().unwrap(),
            _ => {}
        }
        Action::Pass
    });
    let damage = load(&store).await.current().damaged();
    assert_eq!((damage.len(), &damage[0].fault), (1, &Fault::Missing));
    assert_eq!(damage[0].concerns, Concerns::Bucket(bucket(4)));
}

#[tokio::test]
async fn a_commit_under_a_number_that_was_replaced_meanwhile_is_not_confirmed() {
    let store = memory();
    let catalog = load(&store).await;
    replaced(&store, 1, &replacement(1, &[(bucket(3), 2)])).await;
    // Commits 1 and 2 were cleaned up, and this writer knows of neither.
    let number = catalog.current().next_number(bucket(3));
    let CommitOutcome::Committed(record) =
        make(&store, number, &commit(bucket(3), "n1", 1, [1])).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(catalog.confirm(&record).await.unwrap(), Confirmed::Replaced);
    let number = catalog.current().next_number(bucket(3));
    assert_eq!(number, 3);
    let CommitOutcome::Committed(record) =
        make(&store, number, &commit(bucket(3), "n1", 2, [1])).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(catalog.confirm(&record).await.unwrap(), Confirmed::Holds);
}

fn day_coverage(attempt: u64, seqs: std::ops::Range<u64>) -> (Bytes, v1::Segment) {
    let coverage = v1::ShardCoverage { shard: 1, coverage: Some(records::blocks(seqs).to_wire()) };
    let bucket = v1::BucketCoverage { bucket_start_s: bucket(3).as_unix_seconds(), shards: vec![coverage] };
    let path = ObjectPath::Coverage { day: day("2026-11-21"), attempt };
    DayCoverage::encode(&path, &v1::DayCoverage { buckets: vec![bucket] })
}

#[tokio::test]
async fn what_a_day_covered_is_read_once_and_found_again_after_another_compaction() {
    let (faulty, store) = faulty();
    let today = day("2026-11-21");
    let compact = async |number: u64| {
        let (bytes, segment) = day_coverage(number, 0..number);
        store.put(&segment.path, bytes).await.unwrap();
        let mut message = replacement(number, &[(bucket(3), number)]);
        message.days[0].coverage = Some(segment.clone());
        replaced(&store, number, &message).await;
        segment.path
    };
    let first = compact(1).await;
    let catalog = load(&store).await;
    assert!(catalog.day_coverage(day("2026-11-20")).await.unwrap().is_none());
    let coverage = catalog.day_coverage(today).await.unwrap().unwrap();
    assert_eq!(coverage.of(bucket(3), shard(1)), records::blocks(0..1));
    assert!(coverage.of(bucket(4), shard(1)).is_empty() && coverage.of(bucket(3), shard(0)).is_empty());
    let gets = faulty.calls(Operation::Get);
    catalog.day_coverage(today).await.unwrap().unwrap();
    assert_eq!(faulty.calls(Operation::Get), gets);

    compact(2).await;
    store.delete(&first).await.unwrap();
    let catalog = load(&store).await;
    let second = compact(3).await;
    store.delete(&ObjectPath::Coverage { day: today, attempt: 2 }.to_string()).await.unwrap();
    let coverage = catalog.day_coverage(today).await.unwrap().unwrap();
    assert_eq!(coverage.of(bucket(3), shard(1)), records::blocks(0..3));

    let bytes = store.get(&second).await.unwrap();
    for bad in [bytes.slice(1..), [&bytes[..bytes.len() - 1], b"?"].concat().into()] {
        store.put(&second, bad).await.unwrap();
        let error = load(&store).await.day_coverage(today).await.unwrap_err();
        assert!(matches!(&error, CoverageError::Record(record) if record.path == second), "{error}");
    }
    store.delete(&second).await.unwrap();
    let error = load(&store).await.day_coverage(today).await.unwrap_err();
    assert!(matches!(error, CoverageError::Store(_)) && error.to_string().contains(&second), "{error}");
}

#[tokio::test]
async fn what_history_needs_is_what_its_records_name() {
    let store = memory();
    let kept = commit(bucket(3), "n1", 2, [2]);
    committed(&store, 1, &commit(bucket(3), "n1", 1, [1])).await;
    committed(&store, 2, &kept).await;
    let raw = ObjectPath::Raw(tidemark_history::paths::BucketSegment {
        bucket: bucket(3),
        writer: tidemark_rollup::member::NodeId::new("n9").unwrap(),
        attempt: 9,
    });
    let mut holds = replacement(2, &[(bucket(3), 1)]);
    holds.days[0].buckets[0].raw.push(segment(&raw));
    replaced(&store, 1, &replacement(1, &[(bucket(3), 1)])).await;
    replaced(&store, 2, &holds).await;
    replaced(&store, 3, &v1::Replacement { days: vec![], ..holds }).await;
    let history = load(&store).await.current();
    let needed: Vec<String> = history.referenced_paths().into_iter().collect();
    let mut expected = vec![
        "cluster".to_owned(),
        commit_path(bucket(3), 2),
        "coverage/2026-11-21/0000000000000002".to_owned(),
        raw.to_string(),
        kept.raw.unwrap().path,
        kept.rollup.unwrap().path,
        "replacements/00000002".to_owned(),
        "replacements/00000003".to_owned(),
    ];
    expected.sort();
    assert_eq!(needed, expected);
}

#[tokio::test]
async fn sites_are_those_that_commits_name_and_it_is_known_whether_they_are_all() {
    let history = History::default()
        .with_commit(commit_record(1, commit(bucket(3), "n1", 1, [1])))
        .with_commit(commit_record(2, commit(bucket(3), "n2", 2, [2])));
    let sites = history.sites();
    assert!(sites.complete);
    assert_eq!(sites.named.into_iter().collect::<Vec<_>>(), ["n1.example.com", "n2.example.com"]);
    let many = v1::Commit { sites: vec![], ..commit(bucket(4), "n1", 3, [3]) };
    assert!(!history.with_commit(commit_record(1, many)).sites().complete);
}
