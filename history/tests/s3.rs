//! The same over S3, as far as a local one can be had.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod records;

use bytes::Bytes;
use records::{bucket, commit};
use std::io::Write as _;
use std::path::Path;
use tidemark_history::catalog::{Catalog, CatalogSettings};
use tidemark_history::commit::{CommitOutcome, commit as make};
use tidemark_history::moto::Moto;
use tidemark_history::probe::{join_cluster, probe};
use tidemark_history::retry::{Backoff, Retry, retry};
use tidemark_history::store::{Created, Location, Store, StoreError};
use tidemark_rollup::sharding::ShardCount;
use tokio::task::JoinSet;

fn moto() -> Option<Moto> {
    let started = Moto::start(Path::new(env!("CARGO_TARGET_TMPDIR")))
        .and_then(|moto| moto.create_bucket("history").map(|()| moto));
    match started {
        Ok(moto) => Some(moto),
        Err(error) => {
            // Straight to the terminal: the test runner hides what passing tests print.
            let _ = writeln!(std::io::stderr().lock(), "SKIPPED: history over S3: {error}");
            None
        }
    }
}

fn open(moto: &Moto, location: &str) -> Store {
    let location: Location = location.parse().unwrap();
    Store::open_with(&location, moto.options()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_does_what_a_store_should_and_one_of_many_writers_commits() {
    let Some(moto) = moto() else { return };
    for location in ["s3://history", "s3://history/a/prefix"] {
        let store = open(&moto, location);
        probe(&store, 77).await.unwrap();
        join_cluster(&store, ShardCount::DEFAULT).await.unwrap();
        does_what_it_says(&store).await;
        for number in 1..=3 {
            race(&store, number).await;
        }
        let catalog = Catalog::load(store, CatalogSettings::new(1)).await.unwrap();
        assert_eq!(catalog.current().bucket(bucket(7)).commits.len(), 3);
    }
    let within = open(&moto, "s3://history").list("a/prefix/commits").await.unwrap();
    assert_eq!(within.len(), 3, "a prefix begins the paths of its store");
}

async fn does_what_it_says(store: &Store) {
    let bytes = Bytes::from((0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    store.put("raw/1", bytes.clone()).await.unwrap();
    assert_eq!(store.get("raw/1").await.unwrap(), bytes);
    let parts = store.get_ranges("raw/1", &[799_990..800_000, 0..4, 400_000..400_004]).await.unwrap();
    assert_eq!(parts, [bytes.slice(799_990..), bytes.slice(..4), bytes.slice(400_000..400_004)]);
    for range in [799_990..800_001, 900_000..900_001] {
        let error = store.get_ranges("raw/1", &[range]).await.unwrap_err();
        assert!(matches!(error, StoreError::Short { .. }), "{error}");
    }
    assert_eq!(store.create("raw/2", Bytes::from_static(b"ours")).await.unwrap(), Created::Yes);
    assert_eq!(
        store.create("raw/2", Bytes::from_static(b"theirs")).await.unwrap(),
        Created::Taken(Bytes::from_static(b"ours"))
    );
    let listed = store.list("raw").await.unwrap();
    assert_eq!(listed.iter().map(|object| object.path.as_str()).collect::<Vec<_>>(), ["raw/1", "raw/2"]);
    assert_eq!(store.list_after("raw", "raw/1").await.unwrap(), listed[1..]);
    for _ in 0..2 {
        store.delete("raw/1").await.unwrap();
    }
    assert!(store.get("raw/1").await.unwrap_err().is_not_found());
}

async fn race(store: &Store, number: u64) {
    let mut racers = JoinSet::new();
    for attempt in 0..12 {
        let store = store.clone();
        racers.spawn(async move {
            let message = commit(bucket(7), &format!("n{attempt}"), attempt, [number * 100 + attempt]);
            let settings = Retry { backoff: Backoff::default(), give_up: None, seed: attempt };
            retry(&settings, std::future::pending(), || make(&store, number, &message)).await.unwrap()
        });
    }
    let outcomes = racers.join_all().await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, CommitOutcome::Committed(_))).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_an_error_about_the_store_and_no_absent_object() {
    let Some(moto) = moto() else { return };
    let store = open(&moto, "s3://nowhere");
    let error = store.put("raw/1", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(!error.is_not_found(), "{error}");
    assert!(error.to_string().contains("s3://nowhere"), "{error}");
}
