//! Where the live blocks are, by shard and bucket.
//!
//! Owns: which blocks are live, in which of their buckets, and how many each file has.
//! Does not own: files, and the thread that fills them.
//!
//! Invariants:
//! * A block is live while it stands in the list of one of its buckets; `Slot::uncovered` counts those lists.
//! * A list is in append order. Files count up and offsets in a file do, so (file, offset) is that order too.

use crate::disk::FileNumber;
use hashbrown::HashTable;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use tidemark_rollup::block::{BlockId, ProducerId};
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// A block in the journal, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The block's identity.
    pub id: BlockId,
    pub(crate) at: Location,
}

impl Entry {
    /// Where its record is: what was written later has a greater place.
    pub fn place(&self) -> (u32, u64) {
        (self.at.file, self.at.offset)
    }

    /// Size of its record on disk, in bytes: a little more than the block's.
    pub fn record_bytes(&self) -> u32 {
        self.at.bytes
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) file: FileNumber,
    pub(crate) bytes: u32,
    pub(crate) offset: u64,
}

/// A live block: 48 bytes. Its buckets are not here; their lists have the slot's number.
struct Slot {
    producer: ProducerId,
    seq: u64,
    shard: ShardId,
    uncovered: u32,
    at: Location,
}

const _: () = assert!(size_of::<Slot>() <= 64);

impl Slot {
    fn id(&self) -> BlockId {
        BlockId { producer: self.producer, shard: self.shard, seq: self.seq }
    }

    fn entry(&self) -> Entry {
        Entry { id: self.id(), at: self.at }
    }
}

/// What a file has.
#[derive(Clone, Copy, Debug, Default)]
struct FileUse {
    bytes: u64,
    live: usize,
}

/// Sums over the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) disk_bytes: u64,
    pub(crate) live_bytes: u64,
    pub(crate) blocks: usize,
    pub(crate) files: usize,
}

/// What trimming left without live blocks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Trimmed {
    /// Files to delete: they are out of the index already.
    pub(crate) files: Vec<FileNumber>,
    /// Whether the file that is written to has none.
    pub(crate) active_is_dead: bool,
}

/// The live blocks.
#[derive(Default)]
pub(crate) struct Index {
    slots: Vec<Slot>,
    unused: Vec<u32>,
    by_id: HashTable<u32>,
    hasher: RandomState,
    lists: BTreeMap<(ShardId, BucketStart), Vec<u32>>,
    files: BTreeMap<FileNumber, FileUse>,
    /// The file that is written to: it is not deleted.
    active: Option<FileNumber>,
    totals: Totals,
}

impl Index {
    /// Sets the size of a file, which is thereby known.
    pub(crate) fn set_file_bytes(&mut self, file: FileNumber, bytes: u64) {
        let known = self.files.len();
        let entry = self.files.entry(file).or_default();
        self.totals.disk_bytes = self.totals.disk_bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        self.totals.files += self.files.len() - known;
    }

    /// Adds a block of a known file. `false`, and nothing changed, where it is live already or has no bucket.
    pub(crate) fn insert(&mut self, id: BlockId, at: Location, buckets: &[BucketStart]) -> bool {
        if buckets.is_empty() || self.contains(&id) {
            return false;
        }
        let slot =
            Slot { producer: id.producer, seq: id.seq, shard: id.shard, uncovered: buckets.len() as u32, at };
        let number = self.put(slot);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_id
            .insert_unique(hasher.hash_one(id), number, |&other| hasher.hash_one(slots[other as usize].id()));
        for &bucket in buckets {
            self.lists.entry((id.shard, bucket)).or_default().push(number);
        }
        self.files.entry(at.file).or_default().live += 1;
        self.totals.live_bytes += u64::from(at.bytes);
        self.totals.blocks += 1;
        true
    }

    fn put(&mut self, slot: Slot) -> u32 {
        match self.unused.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// Whether the block is live.
    pub(crate) fn contains(&self, id: &BlockId) -> bool {
        self.by_id.find(self.hasher.hash_one(id), |&slot| self.slots[slot as usize].id() == *id).is_some()
    }

    /// The live blocks of a bucket, in append order.
    pub(crate) fn blocks_of(&self, shard: ShardId, bucket: BucketStart) -> Vec<Entry> {
        let list = self.lists.get(&(shard, bucket)).map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|&slot| self.slots[slot as usize].entry()).collect()
    }

    /// The live blocks of a shard, each once, in append order.
    pub(crate) fn blocks(&self, shard: ShardId) -> Vec<Entry> {
        let lists = self.lists_of(shard).flat_map(|(_, list)| list);
        let mut entries: Vec<Entry> = lists.map(|&slot| self.slots[slot as usize].entry()).collect();
        entries.sort_unstable_by_key(|entry| (entry.at.file, entry.at.offset));
        entries.dedup();
        entries
    }

    fn lists_of(&self, shard: ShardId) -> impl Iterator<Item = (&(ShardId, BucketStart), &Vec<u32>)> {
        let first = BucketStart::containing(tidemark_rollup::time::EventTime::EPOCH);
        self.lists.range((shard, first)..).take_while(move |((of, _), _)| *of == shard)
    }

    /// The buckets with live blocks, by time, and how many they have.
    pub(crate) fn buckets(&self) -> Vec<(BucketStart, ShardId, usize)> {
        let mut buckets: Vec<_> =
            self.lists.iter().map(|(&(shard, bucket), list)| (bucket, shard, list.len())).collect();
        buckets.sort_unstable();
        buckets
    }

    /// Takes the covered blocks out of the bucket's list, and out of the journal where that was the last one.
    pub(crate) fn trim(&mut self, shard: ShardId, bucket: BucketStart, covered: &Coverage) -> Trimmed {
        let mut trimmed = Trimmed::default();
        let Some(list) = self.lists.get_mut(&(shard, bucket)) else { return trimmed };
        let mut gone = Vec::new();
        list.retain(|&number| {
            let slot = &mut self.slots[number as usize];
            let keep = !covered.contains(slot.producer, slot.seq);
            if !keep {
                slot.uncovered -= 1;
            }
            if slot.uncovered == 0 {
                gone.push(number);
            }
            keep
        });
        if list.is_empty() {
            self.lists.remove(&(shard, bucket));
        }
        for number in gone {
            trimmed.files.extend(self.remove(number));
        }
        trimmed.active_is_dead = self.active_is_dead();
        trimmed
    }

    /// Removes a block that no list has. Returns its file if that was the last one of it.
    fn remove(&mut self, number: u32) -> Option<FileNumber> {
        let slot = &self.slots[number as usize];
        let (id, at) = (slot.id(), slot.at);
        if let Ok(entry) = self.by_id.find_entry(self.hasher.hash_one(id), |&other| other == number) {
            entry.remove();
        }
        self.unused.push(number);
        self.totals.live_bytes -= u64::from(at.bytes);
        self.totals.blocks -= 1;
        self.files.get_mut(&at.file)?.live -= 1;
        self.remove_if_dead(at.file)
    }

    fn remove_if_dead(&mut self, file: FileNumber) -> Option<FileNumber> {
        if self.active == Some(file) || self.files.get(&file)?.live > 0 {
            return None;
        }
        let gone = self.files.remove(&file)?;
        self.totals.disk_bytes -= gone.bytes;
        self.totals.files -= 1;
        Some(file)
    }

    /// Says which file is written to from now on. Returns the former one if it has no live blocks.
    pub(crate) fn set_active(&mut self, file: Option<FileNumber>) -> Option<FileNumber> {
        let former = std::mem::replace(&mut self.active, file);
        former.and_then(|former| self.remove_if_dead(former))
    }

    /// Whether no block of the file that is written to is live.
    pub(crate) fn active_is_dead(&self) -> bool {
        self.active.is_some_and(|active| self.files.get(&active).is_some_and(|file| file.live == 0))
    }

    /// Takes out the files without live blocks, but for the one that is written to.
    pub(crate) fn remove_dead_files(&mut self) -> Vec<FileNumber> {
        let numbers: Vec<FileNumber> = self.files.keys().copied().collect();
        numbers.into_iter().filter_map(|file| self.remove_if_dead(file)).collect()
    }

    /// The sums.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{bucket, covering, id, shard};

    fn at(file: FileNumber, offset: u64) -> Location {
        Location { file, bytes: 10, offset }
    }

    fn seqs(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.id.seq).collect()
    }

    #[test]
    fn a_block_of_two_buckets_goes_when_both_are_covered() {
        let mut index = Index::default();
        index.set_file_bytes(1, 100);
        assert!(index.insert(id(1, 2, 1), at(1, 32), &[bucket(1), bucket(2)]));
        assert_eq!(index.trim(shard(2), bucket(1), &covering(&[(1, 1)])), Trimmed::default());
        assert!(index.blocks_of(shard(2), bucket(1)).is_empty());
        assert_eq!(seqs(&index.blocks_of(shard(2), bucket(2))), [1]);
        // The same again changes nothing.
        assert_eq!(index.trim(shard(2), bucket(1), &covering(&[(1, 1)])), Trimmed::default());
        assert_eq!(index.trim(shard(2), bucket(2), &covering(&[(1, 1)])).files, [1]);
        assert_eq!(index.totals(), Totals::default());
        assert!(!index.contains(&id(1, 2, 1)));
    }

    #[test]
    fn the_blocks_of_a_shard_come_once_and_in_append_order() {
        let mut index = Index::default();
        let blocks = [(7, vec![bucket(2)]), (5, vec![bucket(1), bucket(2)]), (6, vec![bucket(1)])];
        for (place, (seq, buckets)) in blocks.iter().enumerate() {
            assert!(index.insert(id(1, 2, *seq), at(1 + place as u32 / 2, 90 - place as u64), buckets));
        }
        assert!(index.insert(id(1, 3, 1), at(1, 32), &[bucket(1)]));
        // Two in file 1, of which the second one has the smaller offset, and one in file 2.
        assert_eq!(seqs(&index.blocks(shard(2))), [5, 7, 6]);
        assert_eq!(seqs(&index.blocks(shard(3))), [1]);
        assert_eq!(
            index.buckets(),
            [(bucket(1), shard(2), 2), (bucket(1), shard(3), 1), (bucket(2), shard(2), 2)]
        );
    }

    #[test]
    fn of_two_copies_the_first_counts() {
        let mut index = Index::default();
        assert!(index.insert(id(1, 2, 1), at(1, 32), &[bucket(1)]));
        assert!(!index.insert(id(1, 2, 1), at(1, 64), &[bucket(9)]));
        assert_eq!(index.blocks(shard(2))[0].at, at(1, 32));
        assert_eq!(index.buckets().len(), 1);
    }

    #[test]
    fn the_file_that_is_written_to_stays_until_another_is() {
        let mut index = Index::default();
        index.set_active(Some(1));
        index.set_file_bytes(1, 100);
        index.insert(id(1, 2, 1), at(1, 32), &[bucket(1)]);
        let trimmed = index.trim(shard(2), bucket(1), &covering(&[(1, 1)]));
        assert_eq!(trimmed, Trimmed { files: vec![], active_is_dead: true });
        assert_eq!(index.set_active(Some(2)), Some(1));
    }
}
