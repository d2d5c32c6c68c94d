//! The object store that all hosts share.
//!
//! Owns: one store in memory whose objects have simulated times, and each host's way to it, which may fail.
//! Does not own: how it fails (`tidemark_history::faults`).

use crate::time::Time;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use tidemark_history::faults::FaultyStore;

/// A store in memory. The one inside dates objects by the system's clock, which no simulation may see.
#[derive(Clone, Debug)]
pub(crate) struct SharedStore {
    inner: Arc<InMemory>,
    time: Arc<Time>,
    modified: Arc<Mutex<BTreeMap<Path, i64>>>,
}

impl SharedStore {
    pub(crate) fn new(time: Arc<Time>) -> Self {
        Self { inner: Arc::new(InMemory::new()), time, modified: Arc::default() }
    }

    /// A host's way to it.
    pub(crate) fn for_host(&self, seed: u64) -> FaultyStore {
        FaultyStore::new(Arc::new(self.clone()), seed)
    }

    fn modified(&self) -> MutexGuard<'_, BTreeMap<Path, i64>> {
        self.modified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, path: &Path) {
        let now = self.time.wall().as_unix_ms();
        self.modified().insert(path.clone(), now);
    }

    fn date(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let at_ms = self.modified().get(&meta.location).copied().unwrap_or_default();
        meta.last_modified = (UNIX_EPOCH + Duration::from_millis(at_ms.unsigned_abs())).into();
        meta
    }

    fn dated(
        &self,
        listed: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        listed.map_ok(move |meta| store.date(meta)).boxed()
    }
}

impl fmt::Display for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated store")
    }
}

#[async_trait::async_trait]
impl ObjectStore for SharedStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.inner.put_opts(path, payload, options).await?;
        self.touch(path);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        // Dated when it begins: near enough for whoever asks how old an object is.
        self.touch(path);
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let mut got = self.inner.get_opts(path, options).await?;
        got.meta = self.date(got.meta);
        Ok(got)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = self.inner.delete_stream(paths);
        deleted.inspect_ok(move |path| _ = store.modified().remove(path)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.dated(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.dated(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.objects = listed.objects.into_iter().map(|meta| self.date(meta)).collect();
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.touch(to);
        Ok(())
    }
}
