//! The blocks that a node has acknowledged.
//!
//! Owns: each shard's blocks in the order they were counted, which is what a shard is rebuilt from.
//! Does not own: rollups.
//!
//! It is in memory: it survives a shard, not the process. Each shard has a lock of its own, which only its actor
//! takes in the long run.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidemark_proto::v1;
use tidemark_rollup::block::BlockId;

/// At most so many blocks that made a shard fail are remembered; older ones are forgotten first.
pub const MAX_QUARANTINED: usize = 1024;

/// One shard's blocks.
#[derive(Debug, Default)]
pub struct ShardJournal(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    blocks: Vec<v1::Block>,
    bytes: u64,
    /// The block that is being counted. Still set when the shard starts: that block made it fail.
    counting: Option<BlockId>,
    quarantined: VecDeque<BlockId>,
}

impl ShardJournal {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code under this lock panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a block is about to be counted. `false` where it made the shard fail before.
    pub fn begin(&self, id: BlockId) -> bool {
        let mut state = self.state();
        if state.quarantined.contains(&id) {
            return false;
        }
        state.counting = Some(id);
        true
    }

    /// Notes that the block was read, and keeps it where something of it was counted.
    pub fn end(&self, counted: Option<v1::Block>) {
        let mut state = self.state();
        state.counting = None;
        if let Some(block) = counted {
            state.bytes += size_bytes(&block) as u64;
            state.blocks.push(block);
        }
    }

    /// Sets the block aside that was being counted when the shard failed, if there is one.
    pub fn quarantine_unfinished(&self) -> Option<BlockId> {
        let mut state = self.state();
        let unfinished = state.counting.take()?;
        if state.quarantined.len() == MAX_QUARANTINED {
            state.quarantined.pop_front();
        }
        state.quarantined.push_back(unfinished);
        Some(unfinished)
    }

    /// All blocks, in the order they were counted. Their bytes are shared, not copied.
    pub fn blocks(&self) -> Vec<v1::Block> {
        self.state().blocks.clone()
    }

    /// Bytes that the blocks take.
    pub fn size_bytes(&self) -> u64 {
        self.state().bytes
    }
}

/// Bytes that a block takes in memory.
pub fn size_bytes(block: &v1::Block) -> usize {
    size_of::<v1::Block>() + block.producer.len() + block.columns.len()
}
