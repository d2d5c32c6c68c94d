//! Blocks that could not be brought, on disk.
//!
//! Owns: a folder with a journal of blocks and the file of sequence numbers beside it.
//! Does not own: which blocks are kept and when they are sent again (`desk`).

use crate::config::SpoolConfig;
use crate::desk::Key;
use crate::error::SpoolError;
use crate::sequence::{RESERVE, Sequence};
use std::fs;
use std::path::PathBuf;
use tidemark_journal::{Damage, Entry, Journal, JournalConfig};
use tidemark_proto::v1;
use tidemark_rollup::block::{BlockId, ProducerId};
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::BucketStart;

/// The journal keeps blocks by bucket. What buckets a block has does not matter here, so neighbours in the sequence share one,
/// and a block is found among so many.
const PER_BUCKET: u64 = 64;
const BUCKETS: u64 = u32::MAX as u64 / tidemark_rollup::time::BUCKET_SECONDS as u64;

/// What was in a spool when its producer was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolFound {
    /// Blocks, which are sent again. Some may have been acknowledged before: those count once all the same.
    pub blocks: u64,
    /// Their events.
    pub events: u64,
    /// Bytes that should have been blocks and cannot be read; copies are set aside where it says. Their events are lost.
    pub damaged: Vec<Damage>,
}

/// An open spool.
#[derive(Clone)]
pub(crate) struct Spool {
    dir: PathBuf,
    journal: Journal,
    producer: ProducerId,
    shards: ShardCount,
}

/// A spool that was opened.
pub(crate) struct Opened {
    pub(crate) spool: Spool,
    /// Of the folder, not the one that was given, where the folder has one.
    pub(crate) producer: ProducerId,
    /// The first number that no shard has used.
    pub(crate) next_seq: u64,
    /// And the first that must not be used yet.
    pub(crate) reserved: u64,
    /// Each as a batch of its own.
    pub(crate) blocks: Vec<(Key, u32)>,
    pub(crate) found: SpoolFound,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Spool {
    /// The shard count that the folder's blocks were made for, where it was used before.
    pub(crate) fn shards_of(config: &SpoolConfig) -> Result<Option<ShardCount>, SpoolError> {
        Ok(Sequence::read(&config.dir)?.map(|sequence| sequence.shards))
    }

    /// Opens the folder, or begins it for the producer `id`. Blocks the thread.
    pub(crate) fn open(
        config: &SpoolConfig,
        id: ProducerId,
        shards: ShardCount,
    ) -> Result<Opened, SpoolError> {
        let dir = config.dir.clone();
        fs::create_dir_all(&dir).map_err(|source| SpoolError::Io {
            act: "make the folder",
            path: dir.clone(),
            source,
        })?;
        let limit = config.limit_bytes;
        let journal = JournalConfig {
            sync: config.sync,
            limit_bytes: Some(limit),
            // A file goes when all its blocks are brought: of a small spool, too, some have to go soon.
            segment_bytes: (limit / 8).clamp(64 << 10, 16 << 20),
            ..JournalConfig::new(dir.join("blocks"))
        };
        let (journal, recovered) = Journal::open(journal, shards)?;
        // Under the journal's lock: nobody else writes the file now.
        let sequence = Sequence::read(&dir)?;
        let producer = sequence.map_or(id, |sequence| sequence.producer);
        let mut found = SpoolFound { damaged: recovered.damaged, ..SpoolFound::default() };
        let (mut blocks, mut next_seq) = (Vec::new(), sequence.map_or(0, |sequence| sequence.reserved));
        let mut entries: Vec<Entry> = shards.shards().flat_map(|shard| journal.blocks(shard)).collect();
        // What came first goes first.
        entries.sort_unstable_by_key(Entry::place);
        for (entry, batch) in entries.into_iter().zip(0..) {
            if sequence.is_none() {
                return Err(SpoolError::NoSequence { dir });
            }
            if entry.id.producer != producer {
                return Err(SpoolError::Foreign { dir, found: entry.id.producer, ours: producer });
            }
            // The file may be an old copy that somebody put back.
            next_seq = next_seq.max(entry.id.seq.saturating_add(1));
            let events = journal.read(&entry).map_err(SpoolError::Read)?.event_count;
            found.blocks += 1;
            found.events += u64::from(events);
            blocks.push((Key { batch, shard: entry.id.shard.get(), seq: entry.id.seq }, events));
        }
        let spool = Self { dir, journal, producer, shards };
        let reserved = spool.reserve(next_seq)?;
        Ok(Opened { spool, producer, next_seq, reserved, blocks, found })
    }

    /// Reserves numbers from `next` on. When it returns, it is on disk that all below what it returns may have been used.
    pub(crate) fn reserve(&self, next: u64) -> Result<u64, SpoolError> {
        let reserved = next.saturating_add(RESERVE);
        Sequence { producer: self.producer, shards: self.shards, reserved }.write(&self.dir)?;
        Ok(reserved)
    }

    /// Puts a block on disk; `done` is called, from another thread, when it is there or cannot be.
    pub(crate) fn append(&self, block: v1::Block, done: impl FnOnce(Result<(), String>) + Send + 'static) {
        let Some(shard) = self.shards.shard(block.shard) else {
            return done(Err(format!("there is no shard {}", block.shard)));
        };
        let id = BlockId { producer: self.producer, shard, seq: block.seq };
        let told = move |outcome: Result<(), tidemark_journal::AppendError>| {
            done(outcome.map_err(|error| format!("the spool does not take it: {error}")));
        };
        self.journal.append(id, vec![bucket(id.seq)], block, Box::new(told));
    }

    /// Reads a block. Blocks the thread.
    pub(crate) fn read(&self, key: Key) -> Result<v1::Block, String> {
        let shard = self.shard(key).ok_or("there is no such shard")?;
        let entries = self.journal.blocks_of(shard, bucket(key.seq));
        let entry = entries.iter().find(|entry| entry.id.seq == key.seq).ok_or("it is not in the spool")?;
        self.journal.read(entry).map_err(|error| error.to_string())
    }

    /// Takes a block off the disk.
    pub(crate) fn trim(&self, key: Key) {
        if let Some(shard) = self.shard(key) {
            let mut covered = Coverage::default();
            covered.insert(self.producer, key.seq);
            self.journal.trim(shard, bucket(key.seq), &covered);
        }
    }

    /// Lets go of the folder. Blocks the thread.
    pub(crate) fn close(&self) {
        self.journal.close();
    }

    fn shard(&self, key: Key) -> Option<ShardId> {
        self.shards.shard(key.shard)
    }
}

fn bucket(seq: u64) -> BucketStart {
    let number = (seq / PER_BUCKET % BUCKETS) as u32;
    let seconds = number.saturating_mul(tidemark_rollup::time::BUCKET_SECONDS);
    BucketStart::containing(tidemark_rollup::time::EventTime::from_unix_ms(i64::from(seconds) * 1000))
}
