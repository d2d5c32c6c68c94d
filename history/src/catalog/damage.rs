//! What is wrong with history.
//!
//! Owns: kinds of damage, what they concern, and how they are told.

use crate::day::DayStart;
use crate::record::RecordFault;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// Something that history needs and has not got, or has and should not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Path of the object at fault.
    pub path: String,
    /// Whose answers are not complete, or not right.
    pub concerns: Concerns,
    /// What is wrong.
    pub fault: Fault,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.path, self.fault)
    }
}

/// What damage concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concerns {
    /// Any day: a replacement that cannot be read may be of any.
    Everything,
    /// One day.
    Day(DayStart),
    /// One bucket.
    Bucket(BucketStart),
}

impl Concerns {
    /// Whether it concerns the day.
    pub fn day(self, day: DayStart) -> bool {
        match self {
            Self::Everything => true,
            Self::Day(damaged) => damaged == day,
            Self::Bucket(bucket) => DayStart::of(bucket) == day,
        }
    }

    /// Whether it concerns the bucket.
    pub fn bucket(self, bucket: BucketStart) -> bool {
        match self {
            Self::Everything => true,
            Self::Day(damaged) => damaged == DayStart::of(bucket),
            Self::Bucket(damaged) => damaged == bucket,
        }
    }
}

/// What is wrong with an object of history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its events are missing from answers. It is read again at each refresh.
    #[error(transparent)]
    Unreadable(#[from] RecordFault),
    /// Its events are missing from answers, unless it was known before and is kept in memory. Restore it, or rebuild the
    /// day.
    #[error("is not there: restore it, or rebuild its day")]
    Missing,
    /// The store holds something else under the path than before, which no member does. The first one read is kept.
    #[error("was changed: somebody wrote to the store who is no member; rebuild its day")]
    Changed,
    /// Events are counted twice. Rebuild the day.
    #[error("covers blocks of shard {shard} that commit {other} covers too: rebuild its day")]
    Overlaps {
        /// The number of the other commit.
        other: u64,
        /// The first shard of which both cover the same block.
        shard: ShardId,
    },
    /// A replacement with a higher number replaces less. Commits up to `through` stay replaced. Rebuild the day.
    #[error(
        "replaces commits up to {replaces} only, after another replaced those up to {through}: rebuild its day"
    )]
    Reopens {
        /// What it replaces.
        replaces: u64,
        /// What was replaced.
        through: u64,
    },
}
