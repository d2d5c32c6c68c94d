//! What journaling costs: throughput, processor time per event, and latency, with the disk asked for every group.
//!
//! `cargo bench -p tidemark-journal` prints it; `cargo bench -p tidemark-journal -- DIR` uses another disk than the one of
//! temporary files. Blocks are of 1,000 events and 70 KB, as the default schema makes them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tidemark_journal::{Journal, JournalConfig, SyncPolicy};
use tidemark_proto::v1;
use tidemark_rollup::block::{BlockId, ProducerId};
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{BUCKET_SECONDS, BucketStart};

const EVENTS: u64 = 1_000;
const BLOCK_BYTES: usize = 70_000;
const BLOCKS: u64 = 10_000;

fn main() {
    let dir = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let base = dir.map_or_else(std::env::temp_dir, Into::into);
    let columns = noise(BLOCK_BYTES);
    println!(
        "{BLOCK_BYTES} bytes and {EVENTS} events per block; CPU includes the system's on behalf of this process"
    );
    for (in_flight, blocks) in [(1, BLOCKS / 5), (4, BLOCKS), (16, BLOCKS), (64, BLOCKS)] {
        append(&base, SyncPolicy::Always, in_flight, blocks, &columns);
    }
    append(&base, SyncPolicy::Interval(SyncPolicy::DEFAULT_INTERVAL), 64, BLOCKS, &columns);
    open(&base, &columns);
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(next).collect()
}

/// Seconds of processor time that this process has had.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // User and system time, in hundredths of a second.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

fn id(seq: u64) -> BlockId {
    let shard = ShardCount::DEFAULT.shard((seq % 64) as u32).unwrap();
    BlockId { producer: ProducerId::from_u128(7), shard, seq }
}

fn bucket(seq: u64) -> BucketStart {
    BucketStart::from_unix_seconds(BUCKET_SECONDS * (seq / 1000) as u32).unwrap()
}

fn block(seq: u64, columns: &bytes::Bytes) -> v1::Block {
    v1::Block {
        producer: ProducerId::from_u128(7).to_wire(),
        shard: (seq % 64) as u32,
        seq,
        sealed_at_ms: 1_700_000_400_000,
        event_count: EVENTS as u32,
        columns: columns.clone(),
    }
}

/// Appends so many blocks, each as soon as one of those in flight is kept. Returns the latencies.
fn fill(journal: &Journal, blocks: u64, in_flight: u64, columns: &[u8]) -> Vec<Duration> {
    let columns = bytes::Bytes::copy_from_slice(columns);
    let (sender, kept) = channel();
    let send = |seq| {
        let (sender, began) = (sender.clone(), Instant::now());
        let done = Box::new(move |outcome: Result<(), _>| {
            outcome.unwrap();
            sender.send(began.elapsed()).unwrap();
        });
        journal.append(id(seq), vec![bucket(seq)], block(seq, &columns), done);
    };
    (0..in_flight).for_each(send);
    let mut latencies = Vec::new();
    for seq in in_flight..blocks + in_flight {
        latencies.push(kept.recv().unwrap());
        if seq < blocks {
            send(seq);
        }
    }
    latencies.sort_unstable();
    latencies
}

fn append(base: &Path, sync: SyncPolicy, in_flight: u64, blocks: u64, columns: &[u8]) {
    let dir = tempfile::tempdir_in(base).unwrap();
    let (journal, _) =
        Journal::open(JournalConfig { sync, ..JournalConfig::new(dir.path()) }, ShardCount::DEFAULT).unwrap();
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let latencies = fill(&journal, blocks, in_flight, columns);
    journal.close();
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "append, sync {sync}, {in_flight:>2} in flight: {:>4.0} MB/s, {:>6.0} blocks/s, {:.3} CPU-s per million events, \
         kept after p50 {:?} p99 {:?}",
        blocks as f64 * BLOCK_BYTES as f64 / wall / 1e6,
        blocks as f64 / wall,
        cpu * 1e6 / (blocks * EVENTS) as f64,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
}

fn open(base: &Path, columns: &[u8]) {
    let dir = tempfile::tempdir_in(base).unwrap();
    let config = JournalConfig::new(dir.path());
    let (journal, _) = Journal::open(config.clone(), ShardCount::DEFAULT).unwrap();
    fill(&journal, BLOCKS, 64, columns);
    drop(journal);
    for _ in 0..3 {
        let (journal, recovered) = Journal::open(config.clone(), ShardCount::DEFAULT).unwrap();
        assert_eq!(recovered.blocks as u64, BLOCKS);
        let seconds = recovered.took.as_secs_f64();
        println!(
            "open {} MB from memory: {:?}, {:.0} MB/s",
            recovered.bytes / 1_000_000,
            recovered.took,
            recovered.bytes as f64 / seconds / 1e6
        );
        drop(journal);
    }
    let (journal, _) = Journal::open(config, ShardCount::DEFAULT).unwrap();
    let began = Instant::now();
    let mut read = 0;
    for shard in ShardCount::DEFAULT.shards() {
        for entry in journal.blocks(shard) {
            read += journal.read(&entry).unwrap().columns.len();
        }
    }
    println!("read all blocks, by shard: {:.0} MB/s", read as f64 / began.elapsed().as_secs_f64() / 1e6);
    let began = Instant::now();
    let mut coverage = Coverage::default();
    for seq in 0..BLOCKS {
        coverage.insert(ProducerId::from_u128(7), seq);
    }
    for (bucket, shard, _) in journal.buckets() {
        journal.trim(shard, bucket, &coverage);
    }
    println!(
        "trim all {BLOCKS} blocks in {} buckets: {:?}, {} left",
        BLOCKS.div_ceil(1000) * 64,
        began.elapsed(),
        journal.usage().blocks
    );
}
