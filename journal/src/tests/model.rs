//! The journal against a naive model: lists of blocks, what commits cover, and which file has which block.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tempfile::{TempDir, tempdir};

const SHARDS: u32 = 2;
const BUCKETS: u32 = 3;

#[derive(Clone, Debug)]
enum Act {
    Append {
        shard: u32,
        buckets: BTreeSet<u32>,
        bytes: usize,
    },
    /// A block that was appended before, by its position among all of them.
    AppendAgain {
        which: usize,
    },
    /// Covers the blocks of which the bit (of their number, modulo 16) is set.
    Trim {
        shard: u32,
        bucket: u32,
        bits: u16,
    },
    Reopen,
}

fn any_act() -> impl Strategy<Value = Act> {
    let buckets = || prop::collection::btree_set(0..BUCKETS, 1..3);
    prop_oneof![
        6 => (0..SHARDS, buckets(), 0_usize..80).prop_map(|(shard, buckets, bytes)| Act::Append { shard, buckets, bytes }),
        1 => any::<usize>().prop_map(|which| Act::AppendAgain { which }),
        4 => (0..SHARDS, 0..BUCKETS, any::<u16>()).prop_map(|(shard, bucket, bits)| Act::Trim { shard, bucket, bits }),
        2 => (0..SHARDS, 0..BUCKETS).prop_map(|(shard, bucket)| Act::Trim { shard, bucket, bits: u16::MAX }),
        1 => Just(Act::Reopen),
    ]
}

/// Shard and number; a number is given once, so it orders blocks too.
type Key = (u32, u64);

struct Written {
    key: Key,
    file: u32,
}

/// A live block: the file that has it, and the buckets in which no commit covers it.
struct Live {
    file: u32,
    uncovered: BTreeSet<u32>,
}

struct Model {
    dir: TempDir,
    journal: Journal,
    /// By number: shard, buckets, bytes of the block.
    made: Vec<(u32, BTreeSet<u32>, usize)>,
    /// Every record in every file that must still be there, in append order.
    written: Vec<Written>,
    live: BTreeMap<Key, Live>,
    /// All that commits ever covered.
    covered: BTreeSet<(u32, u32, u64)>,
}

impl Model {
    fn new(segment_bytes: u64) -> Self {
        let dir = tempdir().unwrap();
        let (journal, _) = open(config(dir.path(), segment_bytes));
        let (made, written) = (Vec::new(), Vec::new());
        Self { dir, journal, made, written, live: BTreeMap::new(), covered: BTreeSet::new() }
    }

    fn act(&mut self, act: Act, segment_bytes: u64) {
        match act {
            Act::Append { shard, buckets, bytes } => {
                self.made.push((shard, buckets, bytes));
                self.append(self.made.len() as u64 - 1);
            }
            Act::AppendAgain { which } if !self.made.is_empty() => {
                self.append((which % self.made.len()) as u64)
            }
            Act::AppendAgain { .. } => {}
            Act::Trim { shard, bucket, bits } => self.trim(shard, bucket, bits),
            Act::Reopen => self.reopen(segment_bytes),
        }
    }

    fn append(&mut self, seq: u64) {
        let (shard_number, buckets, bytes) = self.made[seq as usize].clone();
        let (done, outcome) = done();
        let (id, block) = (id(1, shard_number, seq), block(1, shard_number, seq, bytes));
        self.journal.append(id, buckets.iter().map(|&number| bucket(number)).collect(), block, done);
        outcome.recv_timeout(PATIENCE).unwrap().unwrap();
        if !self.live.contains_key(&(shard_number, seq)) {
            let entries = self.journal.blocks(shard(shard_number));
            let last = entries.last().expect("it is kept");
            assert_eq!(last.id, id, "blocks are in append order");
            let file = last.at.file;
            self.written.push(Written { key: (shard_number, seq), file });
            // It is of no commit yet: a block that comes again after it was trimmed is a block like any other.
            self.covered.retain(|&(shard, _, covered)| (shard, covered) != (shard_number, seq));
            self.live.insert((shard_number, seq), Live { file, uncovered: buckets });
        }
    }

    fn trim(&mut self, shard_number: u32, bucket_number: u32, bits: u16) {
        let covered: Vec<u64> =
            (0..self.made.len() as u64).filter(|seq| bits & (1 << (seq % 16)) != 0).collect();
        for &seq in &covered {
            self.covered.insert((shard_number, bucket_number, seq));
        }
        self.trim_live();
        let pairs: Vec<(u128, u64)> = covered.iter().map(|&seq| (1, seq)).collect();
        self.journal.trim(shard(shard_number), bucket(bucket_number), &covering(&pairs));
    }

    fn trim_live(&mut self) {
        for (&(shard, seq), live) in &mut self.live {
            live.uncovered.retain(|&bucket| !self.covered.contains(&(shard, bucket, seq)));
        }
        self.live.retain(|_, live| !live.uncovered.is_empty());
    }

    /// Each file on disk has a live block, and each live block's file is on disk.
    fn reopen(&mut self, segment_bytes: u64) {
        let needed: BTreeSet<u32> = self.live.values().map(|live| live.file).collect();
        self.journal.close();
        let on_disk: BTreeSet<u32> =
            files(self.dir.path()).iter().filter_map(|name| crate::disk::file_number(name)).collect();
        assert_eq!(on_disk, needed, "files are deleted exactly when no block in them is live");
        let (journal, recovered) = open(config(self.dir.path(), segment_bytes));
        self.journal = journal;
        assert!(recovered.cut.is_empty() && recovered.damaged.is_empty());
        // All that is in those files is back, until trimmed again. Nothing that is not covered is missing.
        self.written.retain(|written| on_disk.contains(&written.file));
        let before = std::mem::take(&mut self.live);
        for Written { key, file } in &self.written {
            // Of two copies the first counts.
            let uncovered = self.made[key.1 as usize].1.clone();
            self.live.entry(*key).or_insert(Live { file: *file, uncovered });
        }
        self.check();
        for number in 0..SHARDS {
            for bucket_number in 0..BUCKETS {
                let covered = self
                    .covered
                    .iter()
                    .filter(|&&(shard, bucket, _)| (shard, bucket) == (number, bucket_number));
                let pairs: Vec<(u128, u64)> = covered.map(|&(_, _, seq)| (1, seq)).collect();
                self.journal.trim(shard(number), bucket(bucket_number), &covering(&pairs));
            }
        }
        self.trim_live();
        let uncovered = |live: &BTreeMap<Key, Live>| -> Vec<(Key, BTreeSet<u32>)> {
            live.iter().map(|(key, live)| (*key, live.uncovered.clone())).collect()
        };
        assert_eq!(uncovered(&self.live), uncovered(&before));
    }

    fn check(&self) {
        let mut counts = BTreeMap::new();
        for number in 0..SHARDS {
            let live = self.journal.blocks(shard(number));
            assert!(
                live.windows(2)
                    .all(|pair| (pair[0].at.file, pair[0].at.offset) < (pair[1].at.file, pair[1].at.offset))
            );
            let found: BTreeSet<Key> = live.iter().map(|entry| (number, entry.id.seq)).collect();
            let expected = self.live.keys().filter(|key| key.0 == number);
            assert_eq!(found, expected.copied().collect());
            for entry in &live {
                let bytes = self.made[entry.id.seq as usize].2;
                assert_eq!(self.journal.read(entry).unwrap(), block(1, number, entry.id.seq, bytes));
            }
            for bucket_number in 0..BUCKETS {
                let of_bucket = self.journal.blocks_of(shard(number), bucket(bucket_number));
                let found: BTreeSet<Key> = of_bucket.iter().map(|entry| (number, entry.id.seq)).collect();
                let expected = self
                    .live
                    .iter()
                    .filter(|(key, live)| key.0 == number && live.uncovered.contains(&bucket_number));
                assert_eq!(found, expected.map(|(key, _)| *key).collect());
                assert!(of_bucket.iter().all(|entry| live.contains(entry)));
                counts.insert((bucket(bucket_number), shard(number)), found.len());
            }
        }
        counts.retain(|_, count| *count > 0);
        let expected: Vec<_> =
            counts.into_iter().map(|((bucket, shard), count)| (bucket, shard, count)).collect();
        assert_eq!(self.journal.buckets(), expected);
        assert_eq!(self.journal.usage().blocks, self.live.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_block_stays_until_commits_cover_it_in_all_its_buckets_and_a_file_until_its_blocks_go(
        acts in prop::collection::vec(any_act(), 1..60),
        segment_bytes in prop_oneof![Just(1_u64), Just(400), Just(1 << 20)],
    ) {
        let mut model = Model::new(segment_bytes);
        for act in acts.into_iter().chain([Act::Reopen]) {
            model.act(act, segment_bytes);
            model.check();
        }
    }
}
