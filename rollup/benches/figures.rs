//! The figures that the project promises of its core, on one thread.
//!
//! `cargo bench -p tidemark-rollup` prints them; `docs/figures.md` says what they mean and what they were where.
//! One hour of made-up traffic: 50 sites, 200,000 URLs (Zipf 1.1), 1,000,000 visitors, the default schema with five
//! dimensions, a visitor and two values set.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, LogNormal, Zipf};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{ScanContext, Scanned, scan};
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Rooms, Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::EventTime;

/// Counts what is allocated, so that "everything counted" is what the allocator was asked for and not our own estimate.
struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator; only counters are added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        HELD_BYTES.fetch_add(new_size, Ordering::Relaxed);
        HELD_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const URLS: usize = 200_000;
const SITES: usize = 50;
const START_MS: i64 = 1_700_000_400_000;
const HOUR_MS: i64 = 3_600_000;

fn main() {
    println!(
        "apply, query and memory of the core; 1 thread of {} cores\n",
        std::thread::available_parallelism().unwrap()
    );
    // `cargo bench -p tidemark-rollup -- query` takes only what has that in its name.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let figures: [(&str, fn()); 8] = [
        ("apply", || apply("apply blocks", 2_000_000, Sealed::AfterTheHour)),
        ("apply live", || apply("apply live blocks", 2_000_000, Sealed::AtOnce)),
        ("apply to shards", || apply_to_shards("8,192 to 64 shards", 2_000_000, 8_192)),
        ("apply to shards, few", || apply_to_shards("256 to 64 shards", 1_000_000, 256)),
        ("split", || rows_per_second(500_000)),
        ("query of 50 sites", || query("50 sites", 1_000_000, SITES)),
        ("query of 1 site", || query("1 site", 1_000_000, 1)),
        ("memory", memory),
    ];
    figures.iter().filter(|(name, _)| name.contains(&filter)).for_each(|(_, figure)| figure());
}

fn rules(shards: u32) -> ShardRules {
    ShardRules {
        schema: Arc::new(Schema::default()),
        shards: ShardCount::new(shards).unwrap(),
        times: TimeRules::default(),
        dimension_values: tidemark_rollup::census::DEFAULT_LIMIT,
    }
}

/// When blocks are sealed: what is active is noted only of blocks that are sealed soon after their events.
#[derive(Clone, Copy)]
enum Sealed {
    AfterTheHour,
    AtOnce,
}

/// Made-up events, in order of time.
struct Traffic {
    rng: StdRng,
    zipf: Zipf<f64>,
    load_ms: LogNormal<f64>,
    sites: usize,
    at: usize,
    total: usize,
}

impl Traffic {
    fn new(sites: usize, total: usize) -> Self {
        let rng = StdRng::seed_from_u64(42);
        Self {
            rng,
            zipf: Zipf::new(URLS as f64, 1.1).unwrap(),
            load_ms: LogNormal::new(6.0, 0.8).unwrap(),
            sites,
            at: 0,
            total,
        }
    }

    fn event(&mut self) -> v1::Event {
        // Spread the popular pages over all sites.
        let page = self.zipf.sample(&mut self.rng) as usize;
        let site = page * 31 % self.sites;
        let referrer = self.rng.random_range(0..200);
        let dimensions = [
            ("referrer", format!("www.referrer-{referrer}.example")),
            ("channel", ["search", "social", "link", "direct"][referrer % 4].to_owned()),
            ("country", format!("C{}", self.rng.random_range(0..60))),
            ("device", ["mobile", "desktop", "tablet"][self.rng.random_range(0..3)].to_owned()),
            ("visitor_type", ["new", "returning"][self.rng.random_range(0..2)].to_owned()),
        ];
        let values = [
            ("load_ms", self.load_ms.sample(&mut self.rng) as i64),
            ("engaged_ms", self.rng.random_range(0..60_000)),
        ];
        let time_ms = START_MS + HOUR_MS * self.at as i64 / self.total as i64;
        self.at += 1;
        v1::Event {
            site: Bytes::from(format!("site-{site}.example.com")),
            url: Bytes::from(format!("/articles/2026/some-words-of-a-title-{page}")),
            time_ms,
            kind: Bytes::from_static(b"view"),
            visitor: Bytes::new(),
            visitor_hash: mix(self.rng.random_range(0..1_000_000)),
            dimensions: dimensions
                .into_iter()
                .map(|(key, value)| v1::event::DimensionsEntry {
                    key: Bytes::from_static(key.as_bytes()),
                    value: value.into(),
                })
                .collect(),
            values: values
                .into_iter()
                .map(|(key, value)| v1::event::ValuesEntry { key: Bytes::from_static(key.as_bytes()), value })
                .collect(),
        }
    }

    fn batch(&mut self, seq: u64, events: usize) -> v1::EventBatch {
        let events = (0..events).map(|_| self.event()).collect();
        let sealed_at_ms = START_MS + HOUR_MS;
        v1::EventBatch { producer: Bytes::from_static(&[1; 16]), seq, sealed_at_ms, events }
    }

    /// All events as blocks.
    fn blocks(&mut self, rules: &ShardRules, batch: usize, sealed: Sealed) -> Vec<v1::Block> {
        let batches = self.total / batch;
        let split = |seq| {
            let mut batch = self.batch(seq as u64, batch);
            if let (Sealed::AtOnce, Some(last)) = (sealed, batch.events.last()) {
                batch.sealed_at_ms = last.time_ms;
            }
            split_batch(&batch, rules)
        };
        (0..batches).flat_map(split).collect()
    }
}

fn mix(number: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())
}

fn split_batch(batch: &v1::EventBatch, rules: &ShardRules) -> Vec<v1::Block> {
    let keep_params = KeepParams::default();
    let rules = Rules {
        schema: Some(&rules.schema),
        keep_params: &keep_params,
        times: rules.times,
        shards: rules.shards,
    };
    split(batch, &rules, EventTime::from_unix_ms(START_MS + HOUR_MS)).unwrap().blocks
}

/// Blocks of 1,000 events into one shard that holds all URLs.
fn apply(name: &str, total: usize, sealed: Sealed) {
    let rules = rules(1);
    let blocks = Traffic::new(SITES, total).blocks(&rules, 1000, sealed);
    let wire_bytes: usize = blocks.iter().map(|block| block.columns.len()).sum();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let mut shard = Shard::new(rules.shards.shard(0).unwrap(), rules.clone());
        let held = HELD_BYTES.load(Ordering::Relaxed);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        let started = Instant::now();
        for block in &blocks {
            shard.apply(block).unwrap();
        }
        let took = started.elapsed();
        best = best.min(took);
        println!(
            "{name:<24}{:>9.0} events/s  ({} rows, {:.1} bytes/row, {:.2} allocations/event, {:.1} bytes/event on the wire)",
            total as f64 / took.as_secs_f64(),
            shard.row_count(),
            (HELD_BYTES.load(Ordering::Relaxed) - held) as f64 / shard.row_count() as f64,
            (ALLOCATIONS.load(Ordering::Relaxed) - allocations) as f64 / total as f64,
            wire_bytes as f64 / total as f64,
        );
    }
    let best = total as f64 / best.as_secs_f64();
    println!("{:<24}{best:>9.0} events/s\n", format!("{name}, best"));
}

/// Events of one bucket into 64 shards, in blocks of what a batch has for each: what a node does. Between two blocks of one shard
/// come those of all others, so nothing of it is in the processor's caches any more.
fn apply_to_shards(name: &str, total: usize, batch: usize) {
    let rules = rules(64);
    let mut traffic = Traffic::new(SITES, total);
    let split = |seq| {
        let mut batch = traffic.batch(seq as u64, batch);
        batch.events.iter_mut().for_each(|event| event.time_ms = START_MS + (event.time_ms - START_MS) / 12);
        batch.sealed_at_ms = batch.events.last().unwrap().time_ms;
        split_batch(&batch, &rules)
    };
    let blocks: Vec<v1::Block> = (0..total / batch).flat_map(split).collect();
    let events: u32 = blocks.iter().map(|block| block.event_count).sum();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let rooms = Rooms::for_threads(1);
        let mut shards: Vec<Shard> =
            rules.shards.shards().map(|id| Shard::new(id, rules.clone()).sharing(&rooms)).collect();
        let started = Instant::now();
        for block in &blocks {
            shards[block.shard as usize].apply(block).unwrap();
        }
        let took = started.elapsed();
        best = best.min(took);
        println!(
            "{name:<24}{:>9.0} events/s  ({:.1} us/block of {:.1} events, {} rows)",
            f64::from(events) / took.as_secs_f64(),
            took.as_secs_f64() * 1e6 / blocks.len() as f64,
            f64::from(events) / blocks.len() as f64,
            shards.iter().map(Shard::row_count).sum::<usize>(),
        );
    }
    let name = format!("{name}, best");
    println!("{name:<24}{:>9.0} events/s\n", f64::from(events) / best.as_secs_f64());
}

/// Rows into blocks, as a node does for clients that do not make blocks.
fn rows_per_second(total: usize) {
    let rules = rules(64);
    let mut traffic = Traffic::new(SITES, total);
    let batches: Vec<v1::EventBatch> = (0..total / 1000).map(|seq| traffic.batch(seq as u64, 1000)).collect();
    let started = Instant::now();
    let blocks: usize = batches.iter().map(|batch| split_batch(batch, &rules).len()).sum();
    let took = started.elapsed();
    println!(
        "split rows into blocks  {:>9.0} events/s  ({blocks} blocks)\n",
        total as f64 / took.as_secs_f64()
    );
}

/// 64 shards with together about `rows` rows in six buckets; asked on one thread, merged as a node does.
fn query(name: &str, rows: usize, sites: usize) {
    let rules = rules(64);
    let mut shards: Vec<Shard> = rules.shards.shards().map(|id| Shard::new(id, rules.clone())).collect();
    let mut traffic = Traffic::new(sites, rows * 3);
    let mut seq = 0;
    // Half an hour of six buckets.
    while shards.iter().map(Shard::row_count).sum::<usize>() < rows {
        let mut batch = traffic.batch(seq, 8000);
        batch.events.iter_mut().for_each(|event| event.time_ms = START_MS + (event.time_ms - START_MS) / 2);
        for block in split_batch(&batch, &rules) {
            shards[block.shard as usize].apply(&block).unwrap();
        }
        seq += 1;
    }
    let rows: usize = shards.iter().map(Shard::row_count).sum();
    let buckets: Vec<Vec<Arc<Bucket>>> =
        shards.iter().map(|shard| shard.buckets().cloned().collect()).collect();
    println!("queries over {rows} live rows of {name}, 64 shards, {} buckets", buckets[0].len());
    for (what, measures, group_by, granularity) in [
        ("top 10 URLs by views", &["views"][..], &["url"][..], ""),
        ("top 10 URLs with uniques, p95", &["views", "visitors", "load_ms.p95"], &["url"], ""),
        ("referrers by views", &["views"], &["referrer"], ""),
        ("referrers with uniques", &["views", "visitors"], &["referrer"], ""),
        ("site total with uniques, p95", &["views", "visitors", "load_ms.p95"], &[], ""),
        ("the same in steps of 5 minutes", &["views", "visitors", "load_ms.p95"], &[], "5m"),
    ] {
        let query = v1::Query {
            site: "site-0.example.com".into(),
            from: EventTime::from_unix_ms(START_MS).to_string(),
            to: EventTime::from_unix_ms(START_MS + HOUR_MS).to_string(),
            measures: measures.iter().map(|&measure| measure.to_owned()).collect(),
            group_by: group_by.iter().map(|&group| group.to_owned()).collect(),
            granularity: granularity.to_owned(),
            limit: 10,
            ..v1::Query::default()
        };
        let query = Query::parse(&query, &rules.schema, EventTime::from_unix_ms(START_MS)).unwrap();
        let (p50, p99) = percentiles(|| ask(&buckets, &query));
        let (p50_all, p99_all) = percentiles(|| ask_on_all_cores(&buckets, &query));
        println!(
            "  {what:<31} p50 {p50:>7.2?}  p99 {p99:>7.2?}   on all cores: p50 {p50_all:>7.2?}  p99 {p99_all:>7.2?}"
        );
    }
    println!();
}

fn ask(buckets: &[Vec<Arc<Bucket>>], query: &Query) -> Duration {
    let started = Instant::now();
    let context = ScanContext { share: 156, ..ScanContext::default() };
    let found = scan(buckets.iter().map(Vec::as_slice), query, &context);
    let answer = tidemark_rollup::answer::answer(found.partial, query, EventTime::from_unix_ms(START_MS));
    assert!(!answer.rows.is_empty());
    started.elapsed()
}

/// The same over several threads, each with a part of the shards, merged at the end: what a node does.
fn ask_on_all_cores(buckets: &[Vec<Arc<Bucket>>], query: &Query) -> Duration {
    let started = Instant::now();
    let context = ScanContext { share: 156, ..ScanContext::default() };
    let threads = std::thread::available_parallelism().unwrap().get();
    let parts: Vec<Vec<Arc<Bucket>>> =
        buckets.chunks(buckets.len().div_ceil(threads)).map(<[Vec<_>]>::concat).collect();
    let found: Vec<Scanned> = std::thread::scope(|scope| {
        let scans: Vec<_> =
            parts.iter().map(|part| scope.spawn(|| scan([part.as_slice()], query, &context))).collect();
        scans.into_iter().map(|scan| scan.join().unwrap()).collect()
    });
    let mut merged = Scanned::new(query);
    found.iter().for_each(|found| merged.merge(found));
    let answer = tidemark_rollup::answer::answer(merged.partial, query, EventTime::from_unix_ms(START_MS));
    assert!(!answer.rows.is_empty());
    started.elapsed()
}

fn percentiles(ask: impl Fn() -> Duration) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..200).map(|_| ask()).collect();
    times.sort_unstable();
    (times[99], times[197])
}

/// Rows with one visitor and one sample each: every event has its own URL and tuple.
fn memory() {
    for rows in [10_000, 100_000, 1_000_000, 1_100_000, 1_900_000] {
        let rules = rules(1);
        let mut shard = Shard::new(rules.shards.shard(0).unwrap(), rules.clone());
        let mut traffic = Traffic::new(1, rows);
        let held = HELD_BYTES.load(Ordering::Relaxed);
        for seq in 0..rows / 1000 {
            let mut batch = traffic.batch(seq as u64, 1000);
            for (at, event) in batch.events.iter_mut().enumerate() {
                event.url = Bytes::from(format!("/articles/{:08}", (seq * 1000 + at) % URLS));
                event.time_ms = START_MS;
            }
            for block in split_batch(&batch, &rules) {
                shard.apply(&block).unwrap();
            }
        }
        drop(traffic);
        let held = HELD_BYTES.load(Ordering::Relaxed) - held;
        println!(
            "memory, {:>9} rows    {:>6.1} bytes/row, everything counted; {:>6.1} by our own estimate",
            shard.row_count(),
            held as f64 / shard.row_count() as f64,
            shard.heap_bytes() as f64 / shard.row_count() as f64,
        );
    }
}
