//! Commits and replacements under one number: one wins, and everybody learns who.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod records;

use object_store::memory::InMemory;
use records::{bucket, commit, replacement};
use std::sync::Arc;
use tidemark_history::commit::{CommitError, CommitOutcome, commit as make};
use tidemark_history::faults::{Action, Faults, FaultyStore};
use tidemark_history::replacement::{ReplaceOutcome, replace};
use tidemark_history::retry::{Backoff, Retry, Retryable as _, retry};
use tidemark_history::store::{Location, Operation, Store};
use tidemark_proto::v1;
use tokio::task::JoinSet;

const WRITERS: u64 = 16;

async fn try_until_answered(store: &Store, number: u64, message: &v1::Commit) -> CommitOutcome {
    let settings = Retry { backoff: Backoff::default(), give_up: None, seed: message.attempt };
    retry(&settings, std::future::pending(), || make(store, number, message)).await.unwrap()
}

/// Writers race for one number; afterwards exactly one has it and the others know whose it is.
async fn race(store: &Store, number: u64) {
    let mut racers = JoinSet::new();
    for attempt in 0..WRITERS {
        let store = store.clone();
        racers.spawn(async move {
            let message = commit(bucket(7), &format!("n{attempt}"), attempt, [attempt]);
            (attempt, try_until_answered(&store, number, &message).await)
        });
    }
    let (mut winners, mut named) = (Vec::new(), Vec::new());
    for (attempt, outcome) in racers.join_all().await {
        match outcome {
            CommitOutcome::Committed(record) => {
                assert_eq!(record.message().attempt, attempt);
                winners.push(attempt);
            }
            CommitOutcome::Taken(record) => named.push(record.message().attempt),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert!(named.iter().all(|attempt| *attempt == winners[0]), "{named:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_writers_commits_in_memory() {
    let store = Store::open(&Location::Memory).unwrap();
    for number in 1..=20 {
        race(&store, number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_writers_commits_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::Folder(folder.path().to_owned())).unwrap();
    for number in 1..=10 {
        race(&store, number).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_many_writers_commits_where_the_store_fails_and_loses_replies() {
    for seed in 0..20 {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()), seed);
        faulty.set(Faults {
            error_share: 0.2,
            lost_reply_share: 0.3,
            already_exists_after_success: 0.2,
            ..Faults::default()
        });
        let store = Store::of(Arc::new(faulty));
        for number in 1..=3 {
            race(&store, number).await;
        }
    }
}

#[tokio::test]
async fn a_commit_whose_reply_was_lost_is_recognised() {
    for action in [Action::LoseReply, Action::AlreadyExists] {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()), 1);
        let store = Store::of(Arc::new(faulty.clone()));
        faulty
            .set_hook(move |operation, _| if operation == Operation::Create { action } else { Action::Pass });
        let ours = commit(bucket(7), "n1", 11, 0..5);
        assert!(matches!(make(&store, 1, &ours).await.unwrap(), CommitOutcome::Committed(_)));
        // The same attempt, put together again a little later.
        let again = v1::Commit { committed_at_ms: 5_000, ..ours.clone() };
        let CommitOutcome::Committed(record) = make(&store, 1, &again).await.unwrap() else { panic!() };
        assert_eq!(record.to_message(), ours, "history holds the first");
        let other_attempt = v1::Commit { attempt: 12, ..ours.clone() };
        let CommitOutcome::Taken(record) = make(&store, 1, &other_attempt).await.unwrap() else { panic!() };
        assert_eq!(record.to_message(), ours);
    }
}

#[tokio::test]
async fn one_of_many_replacements_gets_the_number() {
    let store = Store::open(&Location::Memory).unwrap();
    let [ours, theirs] = [1, 2].map(|attempt| replacement(attempt, &[(bucket(7), 3)]));
    assert!(matches!(replace(&store, 1, &ours).await.unwrap(), ReplaceOutcome::Committed(_)));
    assert!(matches!(replace(&store, 1, &ours).await.unwrap(), ReplaceOutcome::Committed(_)));
    let ReplaceOutcome::Taken(record) = replace(&store, 1, &theirs).await.unwrap() else { panic!() };
    assert_eq!(record.message(), &ours);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_it_is_written() {
    let store = Store::open(&Location::Memory).unwrap();
    let good = commit(bucket(7), "n1", 1, [1]);
    let shard = |shard| v1::ShardCoverage { shard, coverage: Some(v1::Coverage::default()) };
    let wrong = [
        (0, good.clone()),
        (1, v1::Commit { bucket_start_s: 7, ..good.clone() }),
        (1, v1::Commit { writer: "a/b".into(), ..good.clone() }),
        (1, v1::Commit { shard_count: 5, ..good.clone() }),
        (1, v1::Commit { coverage: vec![shard(4)], ..good.clone() }),
        (1, v1::Commit { coverage: vec![shard(1), shard(1)], ..good.clone() }),
        (1, v1::Commit { coverage: vec![v1::ShardCoverage { shard: 1, coverage: None }], ..good.clone() }),
        (1, v1::Commit { raw: Some(v1::Segment { path: "elsewhere".into(), ..Default::default() }), ..good }),
    ];
    for (number, message) in wrong {
        let error = make(&store, number, &message).await.unwrap_err();
        assert!(matches!(error, CommitError::Record(_)) && !error.retry_may_help(), "{error}");
    }
    let good = replacement(1, &[(bucket(7), 3)]);
    let day = good.days[0].clone();
    let next_day = v1::ReplacedDay { day_start_s: day.day_start_s + 86_400, ..day.clone() };
    for days in
        [vec![day.clone(), day.clone()], vec![next_day], vec![v1::ReplacedDay { day_start_s: 1, ..day }]]
    {
        replace(&store, 1, &v1::Replacement { days, ..good.clone() }).await.unwrap_err();
    }
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_number_whose_object_cannot_be_read_is_named() {
    let store = Store::open(&Location::Memory).unwrap();
    let ours = commit(bucket(7), "n1", 1, [1]);
    make(&store, 1, &ours).await.unwrap();
    let path = "commits/2026-11-21/00-35/00000001";
    let bytes = store.get(path).await.unwrap();
    store.put(path, bytes.slice(..bytes.len() - 3)).await.unwrap();
    let error = make(&store, 1, &ours).await.unwrap_err().to_string();
    assert!(error.starts_with(path) && error.contains("cut off"), "{error}");
    // A commit of another bucket in its place.
    let other = v1::Commit { bucket_start_s: bucket(8).as_unix_seconds(), ..ours.clone() };
    make(&store, 1, &other).await.unwrap();
    store.put(path, store.get("commits/2026-11-21/00-40/00000001").await.unwrap()).await.unwrap();
    let error = make(&store, 1, &ours).await.unwrap_err().to_string();
    assert!(error.contains("is a commit of bucket 2026-11-21T00:40:00Z"), "{error}");
}
