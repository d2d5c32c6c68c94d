//! Room for reading and counting blocks.
//!
//! Owns: who gets which room, and how many are kept.
//! Does not own: what is done in one (`super`).

use crate::block::DecodedBlock;
use crate::bucket::Scratch;
use crate::time::BucketStart;
use std::sync::{Arc, Mutex};

/// Room for reading and counting blocks, reused from block to block.
///
/// Shards that share it ([`Shard::sharing`](super::Shard::sharing)) find it in the processor's caches, where one of a shard's own is not any more
/// when the shard's next block comes.
#[derive(Clone, Debug)]
#[allow(clippy::vec_box, reason = "a room is a kilobyte of pointers, and is moved with each block")]
pub struct Rooms {
    rooms: Arc<Mutex<Vec<Box<Room>>>>,
    kept: usize,
}

#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) decoded: DecodedBlock,
    pub(super) counting: CountingRoom,
}

#[derive(Debug, Default)]
pub(super) struct CountingRoom {
    pub(super) scratch: Scratch,
    /// Per event of the block at hand, in order of bucket.
    pub(super) placed: Vec<(BucketStart, u32)>,
    pub(super) events: Vec<u32>,
}

impl Rooms {
    /// Room for shards that count on so many threads: no more is kept.
    pub fn for_threads(threads: usize) -> Self {
        Self { rooms: Arc::default(), kept: threads }
    }

    /// What was given back last is what the caches have. Never waits: where another shard is at it this moment, there is new room.
    pub(super) fn take(&self) -> Box<Room> {
        self.rooms.try_lock().ok().and_then(|mut rooms| rooms.pop()).unwrap_or_default()
    }

    /// Keeps it, unless there is enough: who got new room while others were at it would leave one more each time.
    pub(super) fn give_back(&self, room: Box<Room>) {
        if let Ok(mut rooms) = self.rooms.try_lock()
            && rooms.len() < self.kept
        {
            rooms.push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_room_is_kept_than_there_are_threads_however_often_two_are_at_it_at_once() {
        let rooms = Rooms::for_threads(2);
        for _ in 0..100 {
            let held = rooms.rooms.lock().unwrap();
            let new = rooms.take();
            drop(held);
            rooms.give_back(new);
        }
        assert_eq!(rooms.rooms.lock().unwrap().len(), 2);
    }

    #[test]
    fn what_was_given_back_last_is_taken_first() {
        let rooms = Rooms::for_threads(2);
        let mut last = Box::<Room>::default();
        last.counting.events.push(7);
        rooms.give_back(Box::default());
        rooms.give_back(last);
        assert_eq!(rooms.take().counting.events, [7]);
        assert!(rooms.take().counting.events.is_empty());
    }
}
