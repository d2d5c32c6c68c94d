//! A store that fails, for tests (feature `test-util`).
//!
//! Owns: failing in the ways that real stores do, again and again the same way for the same seed.
//! Does not own: what is stored (the store inside).
//!
//! ```
//! # use std::sync::Arc;
//! # use object_store::memory::InMemory;
//! use tidemark_history::faults::{Action, Faults, FaultyStore};
//! use tidemark_history::store::{Operation, Store};
//!
//! let faulty = FaultyStore::new(Arc::new(InMemory::new()), 7);
//! let store = Store::of(Arc::new(faulty.clone()));
//! // One call in ten fails, and one write in ten happens although its reply is an error.
//! faulty.set(Faults { error_share: 0.1, lost_reply_share: 0.1, ..Faults::default() });
//! // The store is away.
//! faulty.set(Faults { away: true, ..Faults::default() });
//! // One object fails in one way.
//! faulty.set(Faults::default());
//! faulty.set_hook(|operation, path| match operation {
//!     Operation::Create if path.starts_with("commits/") => Action::LoseReply,
//!     _ => Action::AsSet,
//! });
//! ```
//! What happens to a call depends on the seed, the operation, the path, and how many such calls there were before: not on
//! the order in which tasks run.

use crate::retry::SplitMix64;
use crate::store::Operation;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How a store fails. The default: not at all.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The share of calls, from 0 to 1, that do nothing and reply with an error.
    pub error_share: f64,
    /// The share of writes and deletions that happen and reply with an error.
    pub lost_reply_share: f64,
    /// The share of creations that happen and reply that the object exists already, as S3 does when its client repeats a
    /// request by itself and meets its own first one.
    pub already_exists_after_success: f64,
    /// Each call takes a random time of this range.
    pub slow: Option<Range<Duration>>,
    /// Every call fails.
    pub away: bool,
}

/// What a hook does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// What [`Faults`] say.
    AsSet,
    /// It succeeds, as far as the store inside does.
    Pass,
    /// It does nothing and replies with an error.
    Fail,
    /// It happens and replies with an error.
    LoseReply,
    /// It happens and replies that the object exists already.
    AlreadyExists,
    /// It does nothing and replies that the object exists already, as S3 does to writers that are at it at once.
    Conflict,
    /// It happens and never replies.
    Hang,
}

type Hook = Arc<dyn Fn(Operation, &str) -> Action + Send + Sync>;

#[derive(Default)]
struct State {
    faults: Faults,
    hook: Option<Hook>,
    calls: HashMap<(Operation, String), u64>,
}

/// A store around another one that fails as told. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    seed: u64,
    state: Arc<Mutex<State>>,
}

impl FaultyStore {
    /// A store that does not fail yet.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        Self { inner, seed, state: Arc::default() }
    }

    /// Fails so from now on.
    pub fn set(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Asks `hook` what to do with each call from now on.
    pub fn set_hook(&self, hook: impl Fn(Operation, &str) -> Action + Send + Sync + 'static) {
        self.state().hook = Some(Arc::new(hook));
    }

    /// How many calls there were of an operation, whatever came of them.
    pub fn calls(&self, operation: Operation) -> u64 {
        let state = self.state();
        state.calls.iter().filter(|((called, _), _)| *called == operation).map(|(_, calls)| calls).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a call, and how long it takes.
    fn decide(&self, operation: Operation, path: &str) -> (Action, Duration) {
        let mut state = self.state();
        let calls = state.calls.entry((operation, path.to_owned())).or_default();
        *calls += 1;
        let seed = xxh3_64_with_seed(format!("{operation} {path} {calls}").as_bytes(), self.seed);
        let mut random = SplitMix64::new(seed);
        let delay = state.faults.slow.as_ref().map_or(Duration::ZERO, |slow| {
            slow.start + slow.end.saturating_sub(slow.start).mul_f64(random.next_share())
        });
        let asked = state.hook.clone();
        let set = state.faults.draw(operation, random.next_share());
        // Hooks may ask the store something.
        drop(state);
        match asked.map_or(Action::AsSet, |hook| hook(operation, path)) {
            Action::AsSet => (set, delay),
            action => (action, delay),
        }
    }

    /// Does what `call` does, or not, and replies with what came of it, or not.
    async fn run<T>(
        &self,
        operation: Operation,
        path: &str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let (action, delay) = self.decide(operation, path);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let exists = |why: &str| Error::AlreadyExists { path: path.to_owned(), source: why.into() };
        match action {
            Action::Fail => return Err(failed("the store failed before it did anything")),
            Action::Conflict => return Err(exists("others are at it")),
            _ => {}
        }
        let result = call.await?;
        match action {
            Action::LoseReply => Err(failed("the connection broke before the reply")),
            Action::AlreadyExists => Err(exists("it met itself")),
            Action::Hang => std::future::pending().await,
            _ => Ok(result),
        }
    }
}

impl Faults {
    /// What becomes of a call, given a random share.
    fn draw(&self, operation: Operation, share: f64) -> Action {
        let writes = matches!(operation, Operation::Put | Operation::Create | Operation::Delete);
        let lost_share = if writes { self.lost_reply_share } else { 0.0 };
        let exists_share =
            if operation == Operation::Create { self.already_exists_after_success } else { 0.0 };
        if self.away || share < self.error_share {
            Action::Fail
        } else if share < self.error_share + lost_share {
            Action::LoseReply
        } else if share < self.error_share + lost_share + exists_share {
            Action::AlreadyExists
        } else {
            Action::Pass
        }
    }
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let operation = match options.mode {
            PutMode::Create => Operation::Create,
            PutMode::Overwrite | PutMode::Update(_) => Operation::Put,
        };
        self.run(operation, path.as_ref(), self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.run(Operation::Put, path.as_ref(), self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.run(Operation::Get, path.as_ref(), self.inner.get_opts(path, options)).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.run(Operation::Get, path.as_ref(), self.inner.get_ranges(path, ranges)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |path: Path| {
            let store = store.clone();
            async move {
                let one = stream::iter([Ok(path.clone())]).boxed();
                let deleted = store.inner.delete_stream(one).try_for_each(|_| std::future::ready(Ok(())));
                store.run(Operation::Delete, path.as_ref(), deleted).await?;
                Ok(path)
            }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, owned) = (Arc::clone(&self.inner), prefix.cloned());
        self.listed(prefix, move || inner.list(owned.as_ref()))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, owned, offset) = (Arc::clone(&self.inner), prefix.cloned(), offset.clone());
        self.listed(prefix, move || inner.list_with_offset(owned.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let name = prefix.map_or("", AsRef::as_ref);
        self.run(Operation::List, name, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.run(Operation::Put, to.as_ref(), self.inner.copy_opts(from, to, options)).await
    }
}

impl FaultyStore {
    /// Lists after the decision: memory lists when it is called, not when the list is read.
    fn listed(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce() -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, name) = (self.clone(), prefix.map_or_else(String::new, ToString::to_string));
        let begun = async move {
            match store.run(Operation::List, &name, std::future::ready(Ok(()))).await {
                Ok(()) => list(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        begun.into_stream().flatten().boxed()
    }
}
