//! History made of real parts, in a store in memory, and a naive second implementation to hold it against.
#![allow(unreachable_pub, missing_docs, dead_code, clippy::unwrap_used)]

#[path = "naive.rs"]
mod naive_rows;

use bytes::Bytes;
#[allow(unused_imports, reason = "each test file uses a part of it")]
pub use naive_rows::{assert_same, folds, naive, text_of};
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tidemark_history::catalog::{Catalog, CatalogSettings, Scope};
use tidemark_history::commit::{CommitOutcome, commit};
use tidemark_history::compact::{Compactor, CompactorSettings};
use tidemark_history::day::DayStart;
use tidemark_history::faults::FaultyStore;
use tidemark_history::paths::{BucketSegment, ObjectPath};
use tidemark_history::segment::{Footer, RowGroup, Selection, write_raw, write_rollup};
use tidemark_history::store::Store;
use tidemark_history::verify::{Report, Verifier};
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::slice::slice;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::{BucketStart, Clock, EventTime};

/// In the future of any store's clock: every object is old.
pub const DAY: &str = "2090-03-01";

pub fn day() -> DayStart {
    DayStart::parse(DAY).unwrap()
}

pub fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

pub fn days(days: u64) -> Duration {
    hours(24 * days)
}

/// The bucket that is `index`th of the day.
pub fn bucket(of: DayStart, index: usize) -> BucketStart {
    of.buckets().nth(index).unwrap()
}

pub fn after(of: DayStart) -> BucketStart {
    BucketStart::containing(of.end())
}

#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    pub fn set(&self, now: EventTime) {
        self.0.store(now.as_unix_ms(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> EventTime {
        EventTime::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Clone, Debug)]
pub struct Plain {
    pub site: String,
    pub url: String,
    pub time_ms: i64,
    pub kind: &'static str,
    pub visitor: Option<u32>,
    pub dimensions: BTreeMap<&'static str, String>,
    pub values: BTreeMap<&'static str, u64>,
}

/// Events in some buckets of a day.
pub fn events(seed: u64, count: usize, of: DayStart, buckets: &[usize]) -> Vec<Plain> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut one = || {
        let at = bucket(of, buckets[random.random_range(0..buckets.len())]);
        let mut dimensions = BTreeMap::new();
        let mut set = |name, values: u32, random: &mut StdRng| {
            let value = random.random_range(0..values);
            if value > 0 {
                dimensions.insert(name, format!("{name}{value}"));
            }
        };
        set("device", 3, &mut random);
        set("country", 12, &mut random);
        set("colour", 4, &mut random);
        let values = [("bytes", 5_000), ("load_ms", 300), ("depth", 9)];
        let values = values.map(|(name, most)| (name, random.random_range(0..most)));
        Plain {
            site: format!("site{}.com", random.random_range(0..3)),
            url: format!("/page/{}", random.random_range(0..8)),
            time_ms: at.time().as_unix_ms() + random.random_range(0..300_000),
            kind: if random.random_range(0..5) == 0 { "share" } else { "view" },
            visitor: Some(random.random_range(0..40)).filter(|&visitor| visitor > 2),
            dimensions,
            values: values.into_iter().filter(|(_, value)| value % 3 > 0).collect(),
        }
    };
    (0..count).map(|_| one()).collect()
}

fn to_wire(event: &Plain) -> v1::Event {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    v1::Event {
        site: bytes(&event.site),
        url: bytes(&event.url),
        time_ms: event.time_ms,
        kind: bytes(event.kind),
        visitor: event.visitor.map(|visitor| bytes(&format!("v{visitor}"))).unwrap_or_default(),
        visitor_hash: 0,
        dimensions: event
            .dimensions
            .iter()
            .map(|(name, value)| v1::event::DimensionsEntry { key: bytes(name), value: bytes(value) })
            .collect(),
        values: event
            .values
            .iter()
            .map(|(name, &value)| v1::event::ValuesEntry { key: bytes(name), value: value as i64 })
            .collect(),
    }
}

pub fn schema(dimensions: &[&str], measures: &[&str]) -> Arc<Schema> {
    let dimensions = dimensions.iter().map(|&name| name.to_owned()).collect();
    Arc::new(Schema::new(dimensions, measures.iter().map(|line| line.parse().unwrap()).collect()).unwrap())
}

pub const MEASURES: [&str; 5] = [
    "views=count(view)",
    "visitors=unique(visitor)",
    "sharers=unique(visitor, share)",
    "bytes=sum(bytes)",
    "load_ms=distribution(load_ms)",
];

pub fn old_schema() -> Arc<Schema> {
    schema(&["device", "country"], &MEASURES)
}

/// With a dimension and a measure more.
pub fn new_schema() -> Arc<Schema> {
    let measures = [&MEASURES[..], &["depth=sum(depth)"]].concat();
    schema(&["colour", "device", "country"], &measures)
}

pub struct World {
    pub inner: Arc<InMemory>,
    pub faulty: FaultyStore,
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub clock: Arc<TestClock>,
    pub shards: ShardCount,
    pub limit: u32,
    pub schema: Arc<Schema>,
    /// What is committed.
    pub events: Vec<Plain>,
    seq: u64,
    compactors: AtomicI64,
}

pub fn catalog_settings() -> CatalogSettings {
    CatalogSettings { give_up: Duration::ZERO, ..CatalogSettings::new(5) }
}

impl World {
    pub async fn new(shards: u32, limit: u32) -> Self {
        let inner = Arc::new(InMemory::new());
        let faulty = FaultyStore::new(Arc::clone(&inner) as Arc<dyn object_store::ObjectStore>, 7);
        let store = Store::of(Arc::new(faulty.clone()));
        let catalog = Arc::new(Catalog::load(store.clone(), catalog_settings()).await.unwrap());
        let clock = Arc::new(TestClock(AtomicI64::new(0)));
        clock.set(day().end());
        let shards = ShardCount::new(shards).unwrap();
        Self {
            inner,
            faulty,
            store,
            catalog,
            clock,
            shards,
            limit,
            schema: old_schema(),
            events: Vec::new(),
            seq: 0,
            compactors: AtomicI64::new(0),
        }
    }

    pub fn settings(&self, seed: u64) -> CompactorSettings {
        let writer = NodeId::new(format!("compactor-{seed}")).unwrap();
        CompactorSettings { group_rows: 40, ..CompactorSettings::new(self.shards, self.limit, writer, seed) }
    }

    /// A compactor whose names nobody else has.
    pub fn compactor(&self, seed: u64) -> Compactor {
        let seed = seed + 10 * self.compactors.fetch_add(1, Ordering::SeqCst) as u64;
        self.compactor_with(self.settings(seed))
    }

    pub fn compactor_with(&self, settings: CompactorSettings) -> Compactor {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Compactor::new(self.store.clone(), Arc::clone(&self.catalog), settings, clock)
    }

    pub async fn verify(&self, of: DayStart) -> Report {
        let verifier = Verifier::new(self.store.clone(), Arc::clone(&self.catalog), &self.settings(99));
        verifier.verify(bucket(of, 0), after(of)).await.unwrap()
    }

    pub fn rules(&self) -> ShardRules {
        ShardRules {
            schema: Arc::clone(&self.schema),
            shards: self.shards,
            times: TimeRules { accept_late: Duration::MAX },
            dimension_values: self.limit,
        }
    }

    /// Blocks of these events, none like any before.
    pub fn blocks(&mut self, events: &[Plain]) -> Vec<v1::Block> {
        let rules = self.rules();
        let keep_params = KeepParams::default();
        let by = Rules {
            schema: Some(&rules.schema),
            keep_params: &keep_params,
            times: rules.times,
            shards: rules.shards,
        };
        let mut blocks = Vec::new();
        for events in events.chunks(17) {
            self.seq += 1;
            let sealed_at_ms = events.iter().map(|event| event.time_ms).max().unwrap() + 1_000;
            let producer = vec![1 + (self.seq % 3) as u8; 16].into();
            let events = events.iter().map(to_wire).collect();
            let batch = v1::EventBatch { producer, seq: self.seq, sealed_at_ms, events };
            blocks.extend(split(&batch, &by, EventTime::from_unix_ms(sealed_at_ms)).unwrap().blocks);
        }
        blocks
    }

    /// Commits these events, as a node does: one commit per bucket.
    pub async fn commit(&mut self, events: &[Plain]) {
        let blocks = self.blocks(events);
        self.events.extend_from_slice(events);
        self.commit_blocks(&blocks).await;
    }

    pub async fn commit_blocks(&mut self, blocks: &[v1::Block]) {
        for (bucket, flush) in self.flushes(blocks) {
            self.commit_flush(bucket, flush).await;
        }
    }

    pub fn flushes(&self, blocks: &[v1::Block]) -> BTreeMap<BucketStart, Flush> {
        let rules = self.rules();
        let mut shards: BTreeMap<ShardId, Shard> = BTreeMap::new();
        let mut flushes: BTreeMap<BucketStart, Flush> = BTreeMap::new();
        for block in blocks {
            let id = rules.shards.shard(block.shard).unwrap();
            let shard = shards.entry(id).or_insert_with(|| Shard::new(id, rules.clone()));
            for bucket in shard.apply(block).unwrap().buckets {
                flushes.entry(bucket).or_default().raw.push(slice(block, bucket, &rules).unwrap());
            }
        }
        for (id, shard) in &shards {
            for bucket in shard.buckets() {
                flushes.get_mut(&bucket.start()).unwrap().rollups.push((*id, Arc::clone(bucket)));
            }
        }
        flushes
    }

    pub async fn commit_flush(&mut self, bucket: BucketStart, flush: Flush) {
        self.seq += 1;
        let number = self.catalog.current().next_number(bucket);
        let groups = flush.groups(&self.schema);
        let groups: Vec<RowGroup<'_>> =
            groups.iter().map(|(shards, rows)| RowGroup { shards, rows }).collect();
        let rollup = write_rollup(&groups, 300, self.shards).unwrap();
        let raw = write_raw(&flush.raw).unwrap();
        let name = BucketSegment { bucket, writer: NodeId::new("node").unwrap(), attempt: self.seq };
        let paths = [ObjectPath::BucketRollup(name.clone()).to_string(), ObjectPath::Raw(name).to_string()];
        self.store.put(&paths[0], rollup.bytes.clone()).await.unwrap();
        self.store.put(&paths[1], raw.bytes.clone()).await.unwrap();
        let coverage = |(shard, bucket): &(ShardId, Arc<Bucket>)| v1::ShardCoverage {
            shard: shard.get(),
            coverage: Some(flush.coverage.as_ref().unwrap_or(bucket.coverage()).to_wire()),
        };
        let message = v1::Commit {
            bucket_start_s: bucket.as_unix_seconds(),
            shard_count: self.shards.get(),
            writer: "node".into(),
            attempt: self.seq,
            committed_at_ms: self.clock.now().as_unix_ms(),
            rollup: Some(rollup.to_segment(&paths[0])),
            raw: Some(raw.to_segment(&paths[1])),
            coverage: flush.rollups.iter().map(coverage).collect(),
            sites: Vec::new(),
        };
        match commit(&self.store, number, &message).await.unwrap() {
            CommitOutcome::Committed(record) => self.catalog.note_commit(record),
            CommitOutcome::Taken(_) => panic!("nobody else commits here"),
        }
    }

    /// A catalog that knows only what is in the store.
    pub async fn fresh(&self) -> Catalog {
        Catalog::load(self.store.clone(), catalog_settings()).await.unwrap()
    }

    async fn read(&self, segment: &v1::Segment) -> SegmentRows {
        let tail = segment.size_bytes - segment.footer_bytes..segment.size_bytes;
        let tail = self.store.get_ranges(&segment.path, &[tail]).await.unwrap().remove(0);
        let footer = Footer::parse(segment, &tail).unwrap();
        let plan = footer.plan(&Selection::everything(footer.schema()));
        plan.read(self.store.get_ranges(&segment.path, &plan.ranges()).await.unwrap()).unwrap()
    }

    /// All five-minute rows that are committed, as text.
    pub async fn five_minutes(&self, schema: &Arc<Schema>) -> Vec<String> {
        let history = self.fresh().await.current();
        assert_eq!(history.damaged(), []);
        let mut segments = Vec::new();
        for day in history.all_days() {
            segments.extend(day.replacement().iter().flat_map(|holds| holds.day.five_minutes.clone()));
            segments.extend(day.commits().filter_map(|commit| commit.message().rollup.clone()));
        }
        self.text(&segments, schema, &folds(&self.events, self.limit), Some(self.limit)).await
    }

    /// All rows of days.
    pub async fn day_rows(&self, schema: &Arc<Schema>) -> Vec<String> {
        let history = self.fresh().await.current();
        let holds = history.all_days().filter_map(|day| day.replacement());
        let segments: Vec<v1::Segment> = holds.flat_map(|holds| holds.day.days.clone()).collect();
        self.text(&segments, schema, &Folds::default(), None).await
    }

    async fn text(
        &self,
        segments: &[v1::Segment],
        schema: &Arc<Schema>,
        folds: &Folds,
        limit: Option<u32>,
    ) -> Vec<String> {
        let mut buckets = Vec::new();
        for segment in segments {
            buckets.extend(self.read(segment).await.to_buckets(self.shards, limit, None));
        }
        let shard = self.shards.shard(0).unwrap();
        let parts: Vec<RollupPart<'_>> =
            buckets.iter().map(|bucket| RollupPart { shard, bucket, start: bucket.start() }).collect();
        text_of(&SegmentRows::of(schema, &parts, folds))
    }

    pub async fn paths(&self) -> BTreeSet<String> {
        self.store.list("").await.unwrap().into_iter().map(|object| object.path).collect()
    }

    pub async fn refresh(&self) {
        self.catalog.refresh(Scope::All).await.unwrap();
    }
}

/// What is committed of a bucket at once.
#[derive(Default)]
pub struct Flush {
    pub raw: Vec<v1::Block>,
    pub rollups: Vec<(ShardId, Arc<Bucket>)>,
    /// Instead of that of each rollup.
    pub coverage: Option<Coverage>,
    /// Changes the rows before they are written.
    pub change: Option<fn(&mut SegmentRows)>,
}

impl Flush {
    fn groups(&self, schema: &Arc<Schema>) -> Vec<(Vec<ShardId>, SegmentRows)> {
        let group = |rollups: &[(ShardId, Arc<Bucket>)]| {
            let shards: Vec<ShardId> = rollups.iter().map(|&(shard, _)| shard).collect();
            let parts: Vec<RollupPart<'_>> = rollups
                .iter()
                .map(|(_, bucket)| RollupPart { shard: shards[0], bucket, start: bucket.start() })
                .collect();
            let mut rows = SegmentRows::of(schema, &parts, &Folds::default());
            rows.facts.iter_mut().for_each(|facts| facts.facts.duplicate = 2);
            (shards, rows)
        };
        let mut groups: Vec<_> = self.rollups.chunks(2).map(group).collect();
        if let Some(change) = self.change {
            change(&mut groups[0].1);
        }
        groups
    }
}
