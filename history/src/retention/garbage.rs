//! Objects that nobody names any more.
//!
//! Owns: which objects of the store may go, and deleting them.
//! Does not own: what stops naming them (`retention`, `compact`).
//!
//! Invariants:
//! * What history names, or may come to name, stays: by a list that is older than the history, an age that no flush and no
//!   compaction reaches, and the age of whatever replaced the object, so that whoever still reads the day as it was can.
//! * Objects whose paths are not ours stay.
//! * While anything of history cannot be read, everything stays: what it names is not known.

use crate::catalog::{Catalog, CatalogError, CatalogSettings, Damage, History, Scope};
use crate::compact::Compactor;
use crate::paths::ObjectPath;
use crate::retry::{RetryError, retry};
use crate::store::{ObjectInfo, Store, StoreError};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::time::Duration;
use tidemark_rollup::time::EventTime;

/// The folders of history.
const FOLDERS: [&str; 6] = ["commits", "coverage", "probe", "raw", "replacements", "rollup"];

/// So much that is wrong is told.
const TOLD: usize = 10;

/// Garbage that could not be deleted, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
    /// Try again later.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Try again later.
    #[error("cannot clean up: {0}")]
    Store(#[from] RetryError<StoreError>),
    /// Nothing was deleted. Restore what is damaged, or rebuild its days.
    #[error("nothing is cleaned up while history is damaged: {0}")]
    Damaged(Unreadable),
}

/// What is wrong with history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// How much.
    pub total: usize,
    /// The first few of it.
    pub first: Vec<String>,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.first.join("; "))?;
        if self.total > self.first.len() {
            write!(f, "; and {} more", self.total - self.first.len())?;
        }
        Ok(())
    }
}

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Paths, ascending.
    pub paths: Vec<String>,
    /// Their size, in bytes.
    pub bytes: u64,
}

/// What of a list may go.
pub(super) fn garbage(listed: &[ObjectInfo], history: &History, now: EventTime, grace: Duration) -> Garbage {
    let referenced = history.referenced_paths();
    let is_old = |moment: EventTime| moment.plus(grace) <= now;
    let replaced_at: BTreeMap<_, _> = history
        .all_days()
        .filter_map(|day| {
            let at = day.replacement()?.committed_at_ms;
            Some((day.start(), EventTime::from_unix_ms(at)))
        })
        .collect();
    let newest = replaced_at.values().max();
    let may_go = |object: &&ObjectInfo| {
        let Ok(path) = object.path.parse::<ObjectPath>() else { return false };
        let replaced_at = match &path {
            ObjectPath::Cluster => return false,
            ObjectPath::Probe { .. } => None,
            ObjectPath::Replacement { .. } => newest,
            _ => path.day().and_then(|day| replaced_at.get(&day)),
        };
        !referenced.contains(&object.path)
            && is_old(object.modified)
            && replaced_at.is_none_or(|&moment| is_old(moment))
    };
    let going: Vec<&ObjectInfo> = listed.iter().filter(may_go).collect();
    Garbage {
        paths: going.iter().map(|object| object.path.clone()).collect(),
        bytes: going.iter().map(|object| object.size_bytes).sum(),
    }
}

fn damaged(history: &History) -> Result<(), GarbageError> {
    let damage = history.damaged();
    refuse(damage.iter().map(Damage::to_string).collect())
}

fn refuse(wrong: Vec<String>) -> Result<(), GarbageError> {
    match wrong.is_empty() {
        true => Ok(()),
        false => {
            let total = wrong.len();
            let first = wrong.into_iter().take(TOLD).collect();
            Err(GarbageError::Damaged(Unreadable { total, first }))
        }
    }
}

impl Compactor {
    /// What would be deleted now: objects that are older than `grace` and that nobody names for longer than that.
    ///
    /// # Errors
    /// See [`GarbageError`].
    pub async fn garbage(&self, grace: Duration) -> Result<Garbage, GarbageError> {
        // In this order: what is committed after the list was made is in the history.
        let listed = self.list().await?;
        let store: Store = self.loader.objects.store.clone();
        let catalog = Catalog::load(store, CatalogSettings::new(self.settings.seed)).await?;
        let history = catalog.current();
        damaged(&history)?;
        // Who begins anew cannot tell a replacement that is lost from one that never was; who knew it can.
        self.catalog.refresh(Scope::All).await?;
        damaged(&self.catalog.current())?;
        self.check_all_there(&listed, &history).await?;
        Ok(garbage(&listed, &history, self.clock.now(), grace))
    }

    /// Deletes what [`garbage`](Self::garbage) says.
    ///
    /// # Errors
    /// See [`GarbageError`]. Doing it again is harmless.
    pub async fn collect_garbage(&self, grace: Duration) -> Result<Garbage, GarbageError> {
        let garbage = self.garbage(grace).await?;
        let store = &self.loader.objects.store;
        let delete = |path: &String| {
            let path = path.clone();
            async move {
                let again = self.loader.objects.retry(&path);
                retry(&again, pending(), || store.delete(&path)).await
            }
        };
        let deleted = stream::iter(garbage.paths.iter().map(delete)).buffer_unordered(self.loader.parallel);
        deleted.try_for_each(|()| std::future::ready(Ok(()))).await?;
        if !garbage.paths.is_empty() {
            tracing::info!(objects = garbage.paths.len(), bytes = garbage.bytes, "cleaned up");
        }
        Ok(garbage)
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, RetryError<StoreError>> {
        let store = &self.loader.objects.store;
        let mut listed = Vec::new();
        for folder in FOLDERS {
            listed.extend(retry(&self.loader.objects.retry(folder), pending(), || store.list(folder)).await?);
        }
        Ok(listed)
    }

    /// A segment that history names and the store lacks is damage too.
    async fn check_all_there(&self, listed: &[ObjectInfo], history: &History) -> Result<(), GarbageError> {
        let missing = |listed: &[ObjectInfo]| -> Vec<String> {
            let there: BTreeSet<&str> = listed.iter().map(|object| object.path.as_str()).collect();
            let named = history.referenced_paths().into_iter();
            let cluster = ObjectPath::Cluster.to_string();
            named.filter(|path| *path != cluster && !there.contains(path.as_str())).collect()
        };
        if missing(listed).is_empty() {
            return Ok(());
        }
        // Committed after the list was made, most likely.
        let missing = missing(&self.list().await?);
        refuse(missing.into_iter().map(|path| format!("{path} is named and not there")).collect())
    }
}
