//! The object store, as history uses it.
//!
//! Owns: opening a store, the few operations that history needs, their time limits, and what their errors mean.
//! Does not own: trying again (`retry`), paths (`paths`), whether a store keeps its promises (`probe`).
//!
//! Invariant: [`Store::create`] never says [`Created::Yes`] where other bytes are at the path.

mod error;
mod location;

pub use error::{Object, Operation, StoreError};
pub use location::{Location, LocationError, OpenError};

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::time::EventTime;

/// How long a call may take, unless [`Store::with_timeout`] says otherwise; large objects get more.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// So many bytes lengthen the time limit of a call by a second: the slowest link that is worth waiting for.
const BYTES_PER_SECOND: u64 = 1 << 20;

/// An object store. Cheap to clone; clones share the store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    name: Arc<str>,
    timeout: Duration,
}

/// What came of creating an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is there with our bytes.
    Yes,
    /// Another object was there first: these are its bytes.
    Taken(Bytes),
}

/// An object of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was written last, by the store's clock.
    pub modified: EventTime,
}

impl Store {
    /// Opens a store; settings of S3 come from the environment (`AWS_*`).
    ///
    /// # Errors
    /// Says which setting to correct. The store itself is not asked yet: `probe` does that.
    pub fn open(location: &Location) -> Result<Self, OpenError> {
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Self::open_with(location, variables)
    }

    /// Opens a store with settings of S3 as pairs, named like environment variables: `AWS_ENDPOINT` (or
    /// `AWS_ENDPOINT_URL`), `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
    /// `AWS_ALLOW_HTTP` and all others that the crate `object_store` knows. Names without `AWS_` are ignored.
    ///
    /// # Errors
    /// Says which setting to correct.
    pub fn open_with(
        location: &Location,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, OpenError> {
        let inner = location::open(location, options)?;
        Ok(Self { inner, name: location.to_string().into(), timeout: TIMEOUT })
    }

    /// A store from elsewhere.
    pub fn of(inner: Arc<dyn ObjectStore>) -> Self {
        Self { name: inner.to_string().into(), inner, timeout: TIMEOUT }
    }

    /// This store with another time limit for each call. Objects get a second more per MiB.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Writes an object. For names that nobody else uses: what is there is overwritten.
    ///
    /// # Errors
    /// See [`StoreError`]. Doing the same again is harmless.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.write(Operation::Put, path, bytes).await
    }

    /// Writes an object only if nothing is at the path.
    ///
    /// Stores may reply with an error, or with "exists already", to a write that happened: wherever the reply leaves that
    /// open, the object is read back, and is ours if its bytes are. So give bytes that nobody else writes.
    ///
    /// # Errors
    /// See [`StoreError`]. Where [`StoreError::may_have_happened`], the object may be there or may appear later: go on with
    /// the same path and the same bytes until there is an answer, or never use the bytes elsewhere.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let error = match self.write(Operation::Create, path, bytes.clone()).await {
            Ok(()) => return Ok(Created::Yes),
            Err(error) if !error.may_have_happened() => return Err(error),
            Err(error) => error,
        };
        match self.get(path).await {
            Ok(found) if found == bytes => Ok(Created::Yes),
            Ok(found) => Ok(Created::Taken(found)),
            // Also S3's 409 to writers who were at it at once, of whom none may have won.
            Err(_) => Err(error),
        }
    }

    async fn write(&self, operation: Operation, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let mode = if operation == Operation::Create { PutMode::Create } else { PutMode::Overwrite };
        let limit = self.limit(bytes.len() as u64);
        let write = async |path: Path| {
            let options = PutOptions { mode, ..PutOptions::default() };
            self.inner.put_opts(&path, bytes.into(), options).await.map(|_| ())
        };
        self.call(operation, path, limit, write).await
    }

    /// Reads an object.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        // Its size is not known before the store replies, so reply and body have a limit each.
        let read = async |path: Path| self.inner.get(&path).await;
        let result = self.call(Operation::Get, path, self.timeout, read).await?;
        let limit = self.limit(result.meta.size);
        self.call(Operation::Get, path, limit, async |_| result.bytes().await).await
    }

    /// Reads parts of an object, several at once. The parts come in the order of `ranges`; empty ones are not asked for.
    ///
    /// # Errors
    /// See [`StoreError`]; [`StoreError::Short`] where the object ends before a part does.
    pub async fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let asked: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        let bytes = asked.iter().map(|range| range.end - range.start).sum();
        let read = async |path: Path| match asked.is_empty() {
            true => Ok(Vec::new()),
            false => self.inner.get_ranges(&path, &asked).await,
        };
        let parts = match self.call(Operation::Get, path, self.limit(bytes), read).await {
            Ok(parts) => parts,
            Err(error) => return Err(self.explain(error, path, &asked).await),
        };
        let mut parts = parts.into_iter();
        let part = |range: &Range<u64>| {
            let part = if range.is_empty() { Bytes::new() } else { parts.next().unwrap_or_default() };
            match range.is_empty() || part.len() as u64 == range.end - range.start {
                true => Ok(part),
                false => Err(self.short(path, range, part.len() as u64)),
            }
        };
        ranges.iter().map(part).collect()
    }

    /// Stores say in many ways that an object ends before a part of it does, none of which trying again helps.
    async fn explain(&self, error: StoreError, path: &str, asked: &[Range<u64>]) -> StoreError {
        let head = async |path: Path| self.inner.head(&path).await;
        match (&error, self.call(Operation::Get, path, self.timeout, head).await) {
            (StoreError::Failed { .. }, Ok(meta)) => match asked.iter().find(|range| range.end > meta.size) {
                Some(range) => self.short(path, range, meta.size.saturating_sub(range.start)),
                None => error,
            },
            _ => error,
        }
    }

    fn short(&self, path: &str, range: &Range<u64>, found: u64) -> StoreError {
        let object = self.object(Operation::Get, path);
        StoreError::Short { object, from: range.start, wanted: range.end - range.start, found }
    }

    /// The objects in a folder and the folders below it, by path. The folder's name is taken whole: `raw` does not list
    /// `rawer/1`. An empty name lists all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.list_from(folder, None).await
    }

    /// The objects in a folder whose paths come after `after`, by path.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_after(&self, folder: &str, after: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.list_from(folder, Some(after)).await
    }

    async fn list_from(&self, folder: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, StoreError> {
        let parse =
            |text: &str| Path::parse(text).map_err(|error| self.error(Operation::List, folder, error.into()));
        let path = parse(folder)?;
        let prefix = (!path.is_root()).then_some(&path);
        let mut stream = match after {
            Some(after) => self.inner.list_with_offset(prefix, &parse(after)?),
            None => self.inner.list(prefix),
        };
        let mut objects = Vec::new();
        // The limit is for each step, thus for each page of a long list.
        loop {
            let next = tokio::time::timeout(self.timeout, stream.try_next()).await;
            let next = next.map_err(|_| self.timed_out(Operation::List, folder, self.timeout))?;
            match next.map_err(|error| self.error(Operation::List, folder, error))? {
                Some(meta) => objects.push(ObjectInfo::from(meta)),
                None => break,
            }
        }
        // Folders of a disk are listed in any order.
        objects.sort_unstable();
        Ok(objects)
    }

    /// Deletes an object; none there is as good.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let delete = async |path: Path| match self.inner.delete(&path).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other,
        };
        self.call(Operation::Delete, path, self.timeout, delete).await
    }

    /// Calls the store, with a limit.
    async fn call<T>(
        &self,
        operation: Operation,
        path: &str,
        limit: Duration,
        call: impl AsyncFnOnce(Path) -> object_store::Result<T>,
    ) -> Result<T, StoreError> {
        let parsed = Path::parse(path).map_err(|error| self.error(operation, path, error.into()))?;
        match tokio::time::timeout(limit, call(parsed)).await {
            Ok(result) => result.map_err(|error| self.error(operation, path, error)),
            Err(_) => Err(self.timed_out(operation, path, limit)),
        }
    }

    fn limit(&self, bytes: u64) -> Duration {
        self.timeout + Duration::from_secs(bytes / BYTES_PER_SECOND)
    }

    fn object(&self, operation: Operation, path: &str) -> Object {
        Object { operation, path: path.to_owned(), store: self.name.to_string() }
    }

    fn error(&self, operation: Operation, path: &str, error: object_store::Error) -> StoreError {
        StoreError::new(self.object(operation, path), error)
    }

    fn timed_out(&self, operation: Operation, path: &str, waited: Duration) -> StoreError {
        StoreError::TimedOut { object: self.object(operation, path), waited }
    }
}

impl From<ObjectMeta> for ObjectInfo {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            path: meta.location.into(),
            size_bytes: meta.size,
            modified: EventTime::from_unix_ms(meta.last_modified.timestamp_millis()),
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
