//! What all shard actors of a node share.

use crate::changes::Changes;
use crate::committed::Committed;
use crate::metrics::NodeMeter;
use crate::owners::Owners;
use crate::planted::Planted;
use crate::remembered::Remembered;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use tidemark_journal::Journal;
use tidemark_rollup::shard::{Rooms, ShardRules};
use tidemark_rollup::sharding::ShardId;
use tokio::sync::{Semaphore, watch};

/// What all shard actors of a node share.
pub struct ShardParts {
    /// What they count by.
    pub rules: ShardRules,
    /// Where they count.
    pub rooms: Rooms,
    /// What they are rebuilt from.
    pub journal: Journal,
    /// One per shard of the cluster.
    pub remembered: Vec<Remembered>,
    /// What is committed, as far as the node knows by now. Not to know a commit costs work, never a wrong number.
    pub committed: watch::Receiver<Arc<Committed>>,
    /// Who owns what at the moment.
    pub(crate) owners: watch::Receiver<Arc<Owners>>,
    /// The node's defect, in a simulation that has to find it.
    pub planted: Planted,
    /// Shards that are rebuilt at a time: one per core.
    pub rebuilding: Semaphore,
    /// Buckets that were evicted while only the journal has them, in all shards. Too many after a shard failed, never too few.
    pub in_journal: AtomicUsize,
    /// The next epoch of marks.
    pub epochs: AtomicU64,
    /// Where they tell what they have counted something for.
    pub(crate) changes: Changes,
    /// Where they report.
    pub metrics: NodeMeter,
}

impl ShardParts {
    /// What a shard's actors leave to the next one.
    pub fn remembered(&self, id: ShardId) -> &Remembered {
        &self.remembered[id.index()]
    }
}
