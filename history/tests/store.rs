//! The store's operations and the probe, over stores that keep their promises and stores that do not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::faults::{Action, Faults, FaultyStore};
use tidemark_history::probe::{ClusterError, ProbeError, join_cluster, probe};
use tidemark_history::retry::{Backoff, Retry, Retryable as _, retry};
use tidemark_history::store::{Created, Location, Operation, Store, StoreError};
use tidemark_rollup::sharding::ShardCount;

fn memory() -> Store {
    Store::open(&Location::Memory).unwrap()
}

fn folder() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Folder(folder.path().join("a/b"));
    (folder, Store::open(&location).unwrap())
}

fn faulty(seed: u64) -> (FaultyStore, Store) {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), seed);
    (faulty.clone(), Store::of(Arc::new(faulty)))
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn paths(store: &Store, folder: &str) -> Vec<String> {
    store.list(folder).await.unwrap().into_iter().map(|object| object.path).collect()
}

async fn does_what_it_says(store: &Store) {
    store.put("raw/b", text("0123456789")).await.unwrap();
    store.put("raw/b", text("0123456789")).await.unwrap();
    assert_eq!(store.get("raw/b").await.unwrap(), "0123456789");
    let parts = store.get_ranges("raw/b", &[7..9, 0..2, 3..3, 8..10]).await.unwrap();
    assert_eq!(parts, ["78", "01", "", "89"]);
    assert!(store.get_ranges("raw/b", &[]).await.unwrap().is_empty());
    for range in [8..12, 20..30] {
        let error = store.get_ranges("raw/b", &[0..1, range]).await.unwrap_err();
        assert!(matches!(error, StoreError::Short { .. }) && !error.retry_may_help(), "{error}");
        assert!(error.to_string().contains("raw/b"), "{error}");
    }

    assert_eq!(store.create("raw/c", text("ours")).await.unwrap(), Created::Yes);
    assert_eq!(store.create("raw/c", text("ours")).await.unwrap(), Created::Yes);
    assert_eq!(store.create("raw/c", text("theirs")).await.unwrap(), Created::Taken(text("ours")));
    assert_eq!(store.get("raw/c").await.unwrap(), "ours");

    for path in ["raw/a/2", "raw/a/1", "rawer/1"] {
        store.put(path, text("x")).await.unwrap();
    }
    assert_eq!(paths(store, "raw").await, ["raw/a/1", "raw/a/2", "raw/b", "raw/c"]);
    assert_eq!(paths(store, "").await.len(), 5);
    assert!(paths(store, "nothing").await.is_empty());
    let after = store.list_after("raw", "raw/a/2").await.unwrap();
    assert_eq!(after.iter().map(|object| object.path.as_str()).collect::<Vec<_>>(), ["raw/b", "raw/c"]);
    assert_eq!(after[0].size_bytes, 10);
    assert!(after[0].modified.as_unix_ms() > 0);

    store.delete("raw/b").await.unwrap();
    store.delete("raw/b").await.unwrap();
    for error in [
        store.get("raw/b").await.unwrap_err(),
        store.get_ranges("raw/b", std::slice::from_ref(&(0..1))).await.unwrap_err(),
    ] {
        assert!(error.is_not_found() && !error.retry_may_help(), "{error}");
        assert!(error.to_string().contains("raw/b"), "{error}");
    }
    let error = store.put("a//b", text("x")).await.unwrap_err();
    assert!(matches!(error, StoreError::Impossible { .. }), "{error}");
    probe(store, 1).await.unwrap();
    assert!(paths(store, "probe").await.is_empty());
}

#[tokio::test]
async fn memory_does_what_a_store_should() {
    does_what_it_says(&memory()).await;
}

#[tokio::test]
async fn a_folder_does_what_a_store_should() {
    let (_folder, store) = folder();
    does_what_it_says(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_does_what_a_store_should() {
    let (faulty, store) = faulty(1);
    faulty
        .set(Faults { slow: Some(Duration::from_millis(10)..Duration::from_secs(10)), ..Faults::default() });
    does_what_it_says(&store).await;
}

#[tokio::test]
async fn clones_of_a_store_share_it_and_openings_do_not() {
    let store = memory();
    store.clone().put("a", text("x")).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), "x");
    assert!(memory().get("a").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_object_whose_reply_was_lost_is_found_to_be_ours() {
    for action in [Action::LoseReply, Action::AlreadyExists] {
        let (faulty, store) = faulty(1);
        faulty
            .set_hook(move |operation, _| if operation == Operation::Create { action } else { Action::Pass });
        assert_eq!(store.create("a", text("ours")).await.unwrap(), Created::Yes, "{action:?}");
        assert_eq!(store.create("a", text("theirs")).await.unwrap(), Created::Taken(text("ours")));
    }
}

#[tokio::test]
async fn a_creation_that_did_not_happen_is_an_error_to_be_tried_again() {
    for action in [Action::Fail, Action::Conflict] {
        let (faulty, store) = faulty(1);
        faulty
            .set_hook(move |operation, _| if operation == Operation::Create { action } else { Action::Pass });
        let error = store.create("a", text("ours")).await.unwrap_err();
        assert!(error.may_have_happened() && error.retry_may_help(), "{error}");
        faulty.set_hook(|_, _| Action::Pass);
        assert_eq!(store.create("a", text("ours")).await.unwrap(), Created::Yes);
    }
}

#[tokio::test(start_paused = true)]
async fn every_call_has_a_time_limit() {
    let (faulty, store) = faulty(1);
    let store = store.with_timeout(Duration::from_secs(3));
    store.put("there", text("x")).await.unwrap();
    faulty.set_hook(|_, _| Action::Hang);
    let started = tokio::time::Instant::now();
    let errors = [
        store.put("a", text("x")).await.unwrap_err(),
        store.create("b", text("x")).await.unwrap_err(),
        store.get("there").await.unwrap_err(),
        store.get_ranges("there", std::slice::from_ref(&(0..1))).await.unwrap_err(),
        store.list("").await.unwrap_err(),
        store.delete("there").await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::TimedOut { .. }) && error.retry_may_help(), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    // What was written without a reply is found to be ours.
    faulty.set_hook(|_, _| Action::Pass);
    assert_eq!(store.create("b", text("x")).await.unwrap(), Created::Yes);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_half_of_the_time_is_used_in_the_end() {
    let (faulty, store) = faulty(3);
    faulty.set(Faults {
        error_share: 0.3,
        lost_reply_share: 0.2,
        already_exists_after_success: 0.1,
        ..Faults::default()
    });
    let settings = Retry { backoff: Backoff::default(), give_up: None, seed: 1 };
    for number in 0..50 {
        let path = format!("commits/{number}");
        let created =
            retry(&settings, std::future::pending(), || store.create(&path, text("ours"))).await.unwrap();
        assert_eq!(created, Created::Yes);
    }
    let list = retry(&settings, std::future::pending(), || store.list("commits")).await.unwrap();
    assert_eq!(list.len(), 50);
    assert!(faulty.calls(Operation::Create) > 60);
}

#[tokio::test]
async fn equal_seeds_fail_alike_in_any_order_of_calls() {
    let run = async |seed, order: Vec<u32>| {
        let (faulty, store) = faulty(seed);
        faulty.set(Faults { error_share: 0.5, ..Faults::default() });
        let mut failed = Vec::new();
        for number in order {
            if store.put(&number.to_string(), text("x")).await.is_err() {
                failed.push(number);
            }
        }
        failed.sort_unstable();
        failed
    };
    let there = run(1, (0..100).collect()).await;
    assert_eq!(there, run(1, (0..100).rev().collect()).await);
    assert_ne!(there, run(2, (0..100).collect()).await);
    assert!((30..70).contains(&there.len()));
}

/// In which way a store breaks the promise.
#[derive(Clone, Copy, Debug)]
enum Broken {
    IgnoresCondition,
    RefusesAndOverwrites,
    LooksFirst,
}

#[derive(Debug)]
struct BrokenStore(InMemory, Broken);

impl fmt::Display for BrokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken {:?}", self.1)
    }
}

#[async_trait]
impl ObjectStore for BrokenStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode != PutMode::Create {
            return self.0.put_opts(path, payload, options).await;
        }
        let exists = || object_store::Error::AlreadyExists { path: path.to_string(), source: "there".into() };
        let there = self.0.head(path).await.is_ok();
        match self.1 {
            Broken::IgnoresCondition => {}
            Broken::RefusesAndOverwrites if there => {
                self.0.put(path, payload).await?;
                return Err(exists());
            }
            Broken::RefusesAndOverwrites => {}
            Broken::LooksFirst if there => return Err(exists()),
            Broken::LooksFirst => tokio::task::yield_now().await,
        }
        self.0.put(path, payload).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn the_probe_refuses_stores_that_break_the_promise_in_any_way() {
    for broken in [Broken::IgnoresCondition, Broken::RefusesAndOverwrites, Broken::LooksFirst] {
        let store = Store::of(Arc::new(BrokenStore(InMemory::new(), broken)));
        let error = probe(&store, 5).await.unwrap_err();
        assert!(
            matches!(error, ProbeError::NotHonoured { .. }) && !error.retry_may_help(),
            "{broken:?}: {error}"
        );
        let message = error.to_string();
        assert!(message.contains("counted twice") && message.contains(&format!("{broken:?}")), "{message}");
        assert!(paths(&store, "").await.is_empty(), "{broken:?} leaves something behind");
    }
}

#[tokio::test(start_paused = true)]
async fn the_probe_accepts_a_store_that_fails_and_loses_replies() {
    for seed in 0..20 {
        let (faulty, store) = faulty(seed);
        let faults = Faults {
            error_share: 0.05,
            lost_reply_share: 0.3,
            already_exists_after_success: 0.2,
            ..Faults::default()
        };
        faulty.set(faults);
        let settings = Retry { backoff: Backoff::default(), give_up: None, seed };
        retry(&settings, std::future::pending(), || probe(&store, 9)).await.unwrap();
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_not_called_broken() {
    let (faulty, store) = faulty(1);
    faulty.set(Faults { away: true, ..Faults::default() });
    let error = probe(&store, 1).await.unwrap_err();
    assert!(matches!(error, ProbeError::Store(_)) && error.retry_may_help(), "{error}");
}

#[tokio::test]
async fn a_store_is_of_one_shard_count() {
    let shards = |count| ShardCount::new(count).unwrap();
    let (faulty, store) = faulty(1);
    faulty.set_hook(|operation, _| match operation {
        Operation::Create => Action::LoseReply,
        _ => Action::Pass,
    });
    join_cluster(&store, shards(64)).await.unwrap();
    join_cluster(&store, shards(64)).await.unwrap();
    let error = join_cluster(&store, shards(32)).await.unwrap_err().to_string();
    assert!(error.contains("64 shards") && error.contains("this one has 32"), "{error}");
    store.put("cluster", text("TMRK")).await.unwrap();
    let error = join_cluster(&store, shards(64)).await.unwrap_err();
    assert!(matches!(error, ClusterError::Record(_)) && error.to_string().starts_with("cluster "), "{error}");
}
