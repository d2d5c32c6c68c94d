//! One pass over the store's records.
//!
//! Owns: what to list and read, in which order, and what it means when an object is gone.
//! Does not own: what the records mean (`history`), when to look (the caller).
//!
//! Order matters. A replacement is written before the commits that it replaces are deleted. So commits are listed before
//! replacements: whoever lists them the other way round may miss both.

use super::damage::Fault;
use super::history::History;
use super::{CatalogError, CatalogSettings, Scope};
use crate::commit::CommitRecord;
use crate::day::DayStart;
use crate::paths::{COMMITS, ObjectPath, REPLACEMENTS, commits_of};
use crate::replacement::ReplacementRecord;
use crate::retry::{Retry, RetryError, retry};
use crate::store::{ObjectInfo, Store, StoreError};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use tidemark_rollup::time::BucketStart;
use xxhash_rust::xxh3::xxh3_64;

/// So often a pass starts over because an object that was listed is gone; after that the object is called missing.
const PASSES: u32 = 4;

/// A commit's bucket and number.
type CommitKey = (BucketStart, u64);

/// What a pass found.
#[derive(Debug, Default)]
pub(super) struct Changes {
    replacements: Vec<ReplacementRecord>,
    faulty_replacements: Vec<(u64, Fault)>,
    commits: Vec<Arc<CommitRecord>>,
    faulty_commits: Vec<(CommitKey, Fault)>,
    listed: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    /// Whether an object that was listed was gone when it was read.
    lost_any: bool,
}

impl Changes {
    /// History with what was found.
    pub(super) fn apply(self, history: History) -> History {
        let mut history = self.apply_replacements(history);
        for record in self.commits {
            history = history.with_commit(record);
        }
        for ((bucket, number), fault) in self.faulty_commits {
            history = history.with_faulty_commit(bucket, number, fault);
        }
        history.with_list(&self.gone, &self.listed)
    }

    fn apply_replacements(&self, mut history: History) -> History {
        for record in &self.replacements {
            history = history.with_replacement(record);
        }
        for (number, fault) in &self.faulty_replacements {
            history = history.with_faulty_replacement(*number, fault.clone());
        }
        history
    }
}

/// One pass.
pub(super) struct Pass<'a> {
    store: &'a Store,
    settings: &'a CatalogSettings,
    before: Arc<History>,
}

impl<'a> Pass<'a> {
    pub(super) const fn new(store: &'a Store, settings: &'a CatalogSettings, before: Arc<History>) -> Self {
        Self { store, settings, before }
    }

    /// Lists and reads until nothing that was listed is gone.
    pub(super) async fn run(&self, scope: Scope<'_>) -> Result<Changes, CatalogError> {
        for _ in 1..PASSES {
            let changes = self.once(scope).await?;
            if !changes.lost_any {
                return Ok(changes);
            }
        }
        self.once(scope).await
    }

    async fn once(&self, scope: Scope<'_>) -> Result<Changes, CatalogError> {
        let commits = self.list_commits(scope).await?;
        let listed = self.list_replacements().await?;
        let gone = self.before.replacement_numbers().difference(&listed).copied().collect();
        let mut changes = Changes { listed, gone, ..Changes::default() };
        self.read_replacements(&mut changes).await?;
        let then = changes.apply_replacements(History::clone(&self.before));
        self.read_commits(&commits, &then, &mut changes).await?;
        self.find_vanished(scope, &commits, &then, &mut changes);
        Ok(changes)
    }

    async fn list_commits(&self, scope: Scope<'_>) -> Result<BTreeSet<CommitKey>, CatalogError> {
        let folders = match scope {
            Scope::All => vec![COMMITS.to_owned()],
            Scope::Days(days) => days.iter().map(|&day| commits_of(day)).collect(),
        };
        let lists: Vec<_> = stream::iter(folders)
            .map(|folder| self.list(folder))
            .buffer_unordered(self.settings.parallel)
            .try_collect()
            .await?;
        let key = |path| match path {
            ObjectPath::Commit { bucket, number } => Some((bucket, number)),
            _ => None,
        };
        Ok(lists.into_iter().flatten().filter_map(key).collect())
    }

    /// All of them: somebody who does not know the highest number may take a lower one that was cleaned up.
    async fn list_replacements(&self) -> Result<BTreeSet<u64>, CatalogError> {
        let number = |path| match path {
            ObjectPath::Replacement { number } => Some(number),
            _ => None,
        };
        Ok(self.list(REPLACEMENTS.to_owned()).await?.into_iter().filter_map(number).collect())
    }

    async fn list(&self, folder: String) -> Result<Vec<ObjectPath>, CatalogError> {
        let objects = retry(&self.retry(&folder), pending(), || self.store.list(&folder)).await?;
        let parse = |object: ObjectInfo| {
            let parsed = object.path.parse();
            if let Err(error) = &parsed {
                tracing::warn!(%error, "ignored");
            }
            parsed.ok()
        };
        Ok(objects.into_iter().filter_map(parse).collect())
    }

    async fn read_replacements(&self, changes: &mut Changes) -> Result<(), CatalogError> {
        let unknown = changes.listed.iter().copied().filter(|&number| !self.before.has_replacement(number));
        let unknown: Vec<u64> = unknown.collect();
        let mut reads = stream::iter(unknown)
            .map(async |number| {
                let path = ObjectPath::Replacement { number }.to_string();
                Ok::<_, CatalogError>((number, self.read(&path).await?))
            })
            .buffer_unordered(self.settings.parallel);
        while let Some((number, bytes)) = reads.try_next().await? {
            let fault = match bytes.map(|bytes| ReplacementRecord::decode(number, &bytes)) {
                Some(Ok(record)) => {
                    changes.replacements.push(record);
                    continue;
                }
                Some(Err(fault)) => Fault::Unreadable(fault),
                None => Fault::Missing,
            };
            changes.lost_any |= fault == Fault::Missing;
            tracing::error!(path = %ObjectPath::Replacement { number }, %fault, "a replacement cannot be read");
            changes.faulty_replacements.push((number, fault));
        }
        Ok(())
    }

    async fn read_commits(
        &self,
        listed: &BTreeSet<CommitKey>,
        then: &History,
        changes: &mut Changes,
    ) -> Result<(), CatalogError> {
        let unknown = listed.iter().copied().filter(|&(bucket, number)| !then.has_commit(bucket, number));
        let unknown: Vec<CommitKey> = unknown.collect();
        let mut reads = stream::iter(unknown)
            .map(async |(bucket, number)| {
                let path = ObjectPath::Commit { bucket, number }.to_string();
                Ok::<_, CatalogError>(((bucket, number), self.read(&path).await?))
            })
            .buffer_unordered(self.settings.parallel);
        while let Some(((bucket, number), bytes)) = reads.try_next().await? {
            let fault = match bytes.map(|bytes| CommitRecord::decode(bucket, number, &bytes)) {
                Some(Ok(record)) => {
                    changes.commits.push(Arc::new(record));
                    continue;
                }
                Some(Err(fault)) => Fault::Unreadable(fault),
                None => Fault::Missing,
            };
            changes.lost_any |= fault == Fault::Missing;
            tracing::error!(path = %ObjectPath::Commit { bucket, number }, %fault, "a commit cannot be read");
            changes.faulty_commits.push(((bucket, number), fault));
        }
        Ok(())
    }

    /// What was known before, is not replaced, and is no longer in the list.
    fn find_vanished(
        &self,
        scope: Scope<'_>,
        listed: &BTreeSet<CommitKey>,
        then: &History,
        changes: &mut Changes,
    ) {
        let asked = |day: DayStart| match scope {
            Scope::All => true,
            Scope::Days(days) => days.contains(&day),
        };
        for day in self.before.all_days().filter(|day| asked(day.start())) {
            for (bucket, number) in day.commit_keys() {
                let replaced = number <= then.bucket(bucket).through;
                if !replaced && !listed.contains(&(bucket, number)) {
                    tracing::error!(path = %ObjectPath::Commit { bucket, number }, "a commit is gone from the store");
                    changes.faulty_commits.push(((bucket, number), Fault::Missing));
                }
            }
        }
    }

    /// An object's bytes; `None` where it is gone.
    async fn read(&self, path: &str) -> Result<Option<Bytes>, RetryError<StoreError>> {
        match retry(&self.retry(path), pending(), || self.store.get(path)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(RetryError::Failed(StoreError::NotFound(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn retry(&self, path: &str) -> Retry {
        let seed = self.settings.seed ^ xxh3_64(path.as_bytes());
        Retry { backoff: self.settings.backoff, give_up: Some(self.settings.give_up), seed }
    }
}
