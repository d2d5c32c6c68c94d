//! What outlives a shard's actor.
//!
//! Owns: which block a shard is counting, which ones made it fail before, and which one went to the journal last.
//! Does not own: the blocks (`tidemark-journal`), starting shards again (`shard::supervisor`).
//!
//! Each shard has a lock of its own, which only its actor takes in the long run.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidemark_rollup::block::BlockId;

/// At most so many blocks that made a shard fail are remembered; older ones are forgotten first.
const MAX_QUARANTINED: usize = 1024;

/// What one shard's next actor must know. It does not outlive the process: a block that is still in the journal then is
/// tried, and set aside, again.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The block that is being counted. Still set when the shard starts: that block made it fail.
    counting: Option<BlockId>,
    set_aside: VecDeque<BlockId>,
    appended: Option<BlockId>,
}

impl Remembered {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code under this lock panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a block is about to be counted. `false` where it made the shard fail before.
    pub fn begin(&self, id: BlockId) -> bool {
        let mut state = self.state();
        if state.set_aside.contains(&id) {
            return false;
        }
        state.counting = Some(id);
        true
    }

    /// Notes that a block goes to the journal.
    pub fn note_appended(&self, id: BlockId) {
        self.state().appended = Some(id);
    }

    /// The block that went to the journal last. When its outcome is known, so is that of all before it.
    pub fn last_appended(&self) -> Option<BlockId> {
        self.state().appended
    }

    /// Notes that the block was read.
    pub fn end(&self) {
        self.state().counting = None;
    }

    /// Sets the block aside that was being counted when the shard failed, if there is one.
    pub fn set_unfinished_aside(&self) -> Option<BlockId> {
        let mut state = self.state();
        let unfinished = state.counting.take()?;
        if state.set_aside.len() == MAX_QUARANTINED {
            state.set_aside.pop_front();
        }
        state.set_aside.push_back(unfinished);
        Some(unfinished)
    }
}
