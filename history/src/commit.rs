//! Commits: what makes a bucket's segments part of history.
//!
//! Owns: writing a commit under a number that is free, telling our own commit from somebody else's, and checking what a
//! commit says.
//! Does not own: which number is free (`catalog`), the segments (they are there before).
//!
//! Invariant: under one number of a bucket there is one commit, for ever, and everybody reads the same.

use crate::packed::PackedCoverage;
use crate::paths::ObjectPath;
use crate::record::{self, RecordError, RecordFault, RecordKind};
use crate::retry::Retryable;
use crate::store::{Created, Store, StoreError};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// A commit that was checked, with its number.
///
/// Its coverage is kept packed: about 30 bytes per shard and producer.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitRecord {
    bucket: BucketStart,
    number: u64,
    /// Without its coverage.
    message: v1::Commit,
    coverage: PackedCoverage,
}

impl CommitRecord {
    /// A commit from its message, where that makes sense.
    ///
    /// # Errors
    /// Says what does not.
    pub fn new(number: u64, mut message: v1::Commit) -> Result<Self, RecordFault> {
        let nonsense = |what: String| Err(RecordFault::Nonsense(what));
        if number == 0 {
            return nonsense("commits are numbered from 1".into());
        }
        let Some(bucket) = BucketStart::from_unix_seconds(message.bucket_start_s) else {
            return nonsense(format!("no bucket starts at second {}", message.bucket_start_s));
        };
        if let Err(error) = NodeId::new(&*message.writer) {
            return nonsense(format!("its writer: {error}"));
        }
        for segment in message.rollup.iter().chain(&message.raw) {
            if let Err(error) = segment.path.parse::<ObjectPath>() {
                return nonsense(error.to_string());
            }
        }
        let coverage = std::mem::take(&mut message.coverage);
        let coverage = PackedCoverage::new(message.shard_count, &coverage).map_err(RecordFault::Nonsense)?;
        Ok(Self { bucket, number, message, coverage })
    }

    /// Reads the commit at a path.
    ///
    /// # Errors
    /// Says what is wrong with the object.
    pub fn decode(bucket: BucketStart, number: u64, bytes: &[u8]) -> Result<Self, RecordFault> {
        let record = Self::new(number, record::decode(RecordKind::Commit, bytes)?)?;
        match record.bucket == bucket {
            true => Ok(record),
            false => Err(RecordFault::Nonsense(format!("it is a commit of bucket {}", record.bucket.time()))),
        }
    }

    /// The bucket.
    pub const fn bucket(&self) -> BucketStart {
        self.bucket
    }

    /// Counts from 1 in each bucket.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Its path.
    pub fn path(&self) -> ObjectPath {
        ObjectPath::Commit { bucket: self.bucket, number: self.number }
    }

    /// What it says, except for its coverage, which is left out here.
    pub const fn message(&self) -> &v1::Commit {
        &self.message
    }

    /// All that it says.
    pub fn to_message(&self) -> v1::Commit {
        v1::Commit { coverage: self.coverage.to_wire(), ..self.message.clone() }
    }

    /// The blocks of a shard that it covers.
    pub fn coverage(&self, shard: ShardId) -> Coverage {
        self.coverage.of(shard)
    }

    /// The shards that it covers blocks of, ascending.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.coverage.shards()
    }

    /// The first shard of which both commits cover the same block; there is none unless somebody broke the rules.
    pub fn overlap(&self, other: &Self) -> Option<ShardId> {
        self.coverage.overlap(&other.coverage)
    }

    /// Whether both are the same attempt of the same writer.
    pub fn is_same_attempt(&self, other: &Self) -> bool {
        (self.message.attempt, &self.message.writer) == (other.message.attempt, &other.message.writer)
    }

    /// Memory that it takes, about, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let sites: usize = self.message.sites.iter().map(|site| site.len() + size_of::<String>()).sum();
        size_of::<Self>() + sites + self.coverage.memory_bytes()
    }
}

/// What came of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitOutcome {
    /// The number is ours. The record is what history holds: where a former try under the same attempt got through, it is
    /// that one's.
    ///
    /// This alone does not let a journal be trimmed: see [`Catalog::confirm`](crate::catalog::Catalog::confirm).
    Committed(Arc<CommitRecord>),
    /// The number is somebody else's: subtract what their commit covers, and try the next number with new segments and a
    /// new attempt.
    Taken(Arc<CommitRecord>),
}

/// A commit that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Ours makes no sense, or what is under the number cannot be read. The latter blocks the bucket until the object is
    /// restored or the bucket's day rebuilt.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Where [`StoreError::may_have_happened`], it may be made or may yet be: try again with the same number and message
    /// until there is an answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Retryable for CommitError {
    fn retry_may_help(&self) -> bool {
        match self {
            Self::Record(_) => false,
            Self::Store(error) => error.retry_may_help(),
        }
    }
}

/// Commits segments, which are in the store already, under a number of their bucket.
///
/// # Errors
/// See [`CommitError`].
pub async fn commit(store: &Store, number: u64, message: &v1::Commit) -> Result<CommitOutcome, CommitError> {
    let at = |fault: RecordFault| {
        fault.at(format_args!("commit {number} of the bucket at second {}", message.bucket_start_s))
    };
    let ours = CommitRecord::new(number, message.clone()).map_err(at)?;
    let path = ours.path().to_string();
    match store.create(&path, record::encode(RecordKind::Commit, message)).await? {
        Created::Yes => Ok(CommitOutcome::Committed(Arc::new(ours))),
        Created::Taken(bytes) => {
            let theirs = CommitRecord::decode(ours.bucket, number, &bytes).map_err(|fault| fault.at(path))?;
            Ok(match theirs.is_same_attempt(&ours) {
                true => CommitOutcome::Committed(Arc::new(theirs)),
                false => CommitOutcome::Taken(Arc::new(theirs)),
            })
        }
    }
}
