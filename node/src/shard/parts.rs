//! What all shard actors of a node share.

use crate::journal::ShardJournal;
use crate::metrics::NodeMeter;
use tidemark_rollup::shard::ShardRules;
use tidemark_rollup::sharding::ShardId;

/// What all shard actors of a node share.
#[derive(Debug)]
pub struct ShardParts {
    /// What they count by.
    pub rules: ShardRules,
    /// One per shard of the cluster.
    pub journals: Vec<ShardJournal>,
    /// Where they report.
    pub metrics: NodeMeter,
}

impl ShardParts {
    /// The journal of a shard.
    pub fn journal(&self, id: ShardId) -> &ShardJournal {
        &self.journals[id.index()]
    }
}
