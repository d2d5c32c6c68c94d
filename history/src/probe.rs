//! Whether a store keeps the promise that history stands on, and whether it is this cluster's.
//!
//! Owns: the test of create-if-absent, and the facts that all members of a store agree on (the object `cluster`).
//! Does not own: trying again where the store is away.

use crate::paths::ObjectPath;
use crate::record::{self, RecordError, RecordKind};
use crate::retry::Retryable;
use crate::store::{Created, Store, StoreError};
use bytes::Bytes;
use futures::future::try_join_all;
use tidemark_rollup::sharding::ShardCount;

/// So many create the same object at once: stores that are not atomic let several of them win, though not every time.
const RACERS: u8 = 8;

/// A store that history must not use, or that cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Use another store.
    #[error(
        "{store} does not honour create-if-absent ({what}): two members could commit the same events and history would \
         be counted twice. Use another store: Amazon S3 or one that takes `If-None-Match: *`, or a folder"
    )]
    NotHonoured {
        /// The store.
        store: String,
        /// What it did.
        what: &'static str,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Retryable for ProbeError {
    fn retry_may_help(&self) -> bool {
        match self {
            Self::NotHonoured { .. } => false,
            Self::Store(error) => error.retry_may_help(),
        }
    }
}

/// Tests that the store creates an object only where none is: one after the other, and many at once.
///
/// `unique` is a random number that no other probe uses; trying again takes the same one. The objects are deleted
/// afterwards.
///
/// # Errors
/// [`ProbeError::NotHonoured`] says to use another store.
pub async fn probe(store: &Store, unique: u64) -> Result<(), ProbeError> {
    let [path, race_path] = [false, true].map(|race| ObjectPath::Probe { unique, race }.to_string());
    let verdict = match one_after_the_other(store, &path, unique).await? {
        Some(what) => Some(what),
        None => at_once(store, &race_path, unique).await?,
    };
    for path in [path, race_path] {
        if let Err(error) = store.delete(&path).await {
            tracing::warn!(%error, "a probe's object stays behind; it is harmless");
        }
    }
    match verdict {
        None => Ok(()),
        Some(what) => Err(ProbeError::NotHonoured { store: store.to_string(), what }),
    }
}

fn contents(unique: u64, who: u8) -> Bytes {
    format!("tidemark probe {unique:016x} by {who}").into()
}

async fn one_after_the_other(
    store: &Store,
    path: &str,
    unique: u64,
) -> Result<Option<&'static str>, StoreError> {
    let [first, second] = [0, 1].map(|who| contents(unique, who));
    if store.create(path, first.clone()).await? != Created::Yes {
        return Ok(Some("it found an object where none was"));
    }
    match store.create(path, second).await? {
        Created::Yes => return Ok(Some("it replaced an object")),
        Created::Taken(found) if found != first => return Ok(Some("it changed an object")),
        Created::Taken(_) => {}
    }
    Ok((store.get(path).await? != first).then_some("it changed an object"))
}

async fn at_once(store: &Store, path: &str, unique: u64) -> Result<Option<&'static str>, StoreError> {
    let racer = async |who| store.create(path, contents(unique, who)).await;
    let outcomes = try_join_all((0..RACERS).map(racer)).await?;
    let there = store.get(path).await?;
    let won = |(who, outcome): (u8, &Created)| match outcome {
        Created::Yes => contents(unique, who) == there,
        Created::Taken(found) => *found == there,
    };
    let winners = outcomes.iter().filter(|outcome| **outcome == Created::Yes).count();
    let agreed = (0..RACERS).zip(&outcomes).all(won);
    Ok((winners != 1 || !agreed).then_some("several that created an object at once were told that they did"))
}

/// The object `cluster`.
#[derive(Clone, PartialEq, prost::Message)]
struct ClusterFacts {
    #[prost(uint32, tag = "1")]
    shard_count: u32,
}

/// Why a member must not use this store.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Set the shard count that the store was created with, or use another store or prefix.
    #[error(
        "{store} holds the history of a cluster of {found} shards, this one has {configured}: set shards to {found}, or \
         use another store or prefix"
    )]
    Shards {
        /// The store.
        store: String,
        /// The count that the store was created with.
        found: u32,
        /// The count that this member has.
        configured: u32,
    },
    /// Restore the object `cluster`.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Retryable for ClusterError {
    fn retry_may_help(&self) -> bool {
        match self {
            Self::Shards { .. } | Self::Record(_) => false,
            Self::Store(error) => error.retry_may_help(),
        }
    }
}

/// Holds this member to the facts of the store's cluster; the first member writes them.
///
/// # Errors
/// [`ClusterError::Shards`] where the store is of a cluster with another shard count.
pub async fn join_cluster(store: &Store, shards: ShardCount) -> Result<(), ClusterError> {
    let facts = ClusterFacts { shard_count: shards.get() };
    let path = ObjectPath::Cluster.to_string();
    match store.create(&path, record::encode(RecordKind::Cluster, &facts)).await? {
        Created::Yes => Ok(()),
        Created::Taken(bytes) => {
            let found: ClusterFacts =
                record::decode(RecordKind::Cluster, &bytes).map_err(|fault| fault.at(path))?;
            let (found, configured) = (found.shard_count, shards.get());
            match found == configured {
                true => Ok(()),
                false => Err(ClusterError::Shards { store: store.to_string(), found, configured }),
            }
        }
    }
}
