//! The hot paths one by one, with criterion: making blocks, reading them, counting them, asking, merging, and the wire.
//!
//! `cargo bench -p tidemark-rollup --bench hot_paths [-- NAME]`. What a whole hour costs is in `figures`; this shows which part of it
//! became slower. One thread; 50 sites, 20,000 URLs, five dimensions, a visitor and two values.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may stop where it is")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::block::DecodedBlock;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::partial::Partial;
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{ScanContext, scan_all};
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::EventTime;

const START_MS: i64 = 1_700_000_400_000;
const EVENTS: u64 = 1_000;

fn rules(shards: u32) -> ShardRules {
    ShardRules {
        schema: Arc::new(Schema::default()),
        shards: ShardCount::new(shards).unwrap(),
        times: TimeRules::default(),
        dimension_values: tidemark_rollup::census::DEFAULT_LIMIT,
    }
}

/// Numbers that look random and are the same each time.
fn mix(number: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())
}

fn event(number: u64) -> v1::Event {
    let random = mix(number);
    // Squared, so that some URLs are much more popular than others.
    let url = (random % 20_000) * (random >> 20 & 0xffff) / 65_536;
    let entry = |key: &'static str, value: String| v1::event::DimensionsEntry {
        key: Bytes::from_static(key.as_bytes()),
        value: value.into(),
    };
    let value = |key: &'static str, value: u64| v1::event::ValuesEntry {
        key: Bytes::from_static(key.as_bytes()),
        value: value as i64,
    };
    v1::Event {
        site: format!("site-{}.example.com", url % 50).into(),
        url: format!("/articles/2026/some-words-of-a-title-{url}").into(),
        time_ms: START_MS + (number % 200_000) as i64,
        kind: Bytes::from_static(b"view"),
        visitor: Bytes::new(),
        visitor_hash: mix(random % 1_000_000),
        dimensions: vec![
            entry("referrer", format!("www.referrer-{}.example", random >> 8 & 127)),
            entry("channel", ["search", "social", "link", "direct"][(random >> 16 & 3) as usize].to_owned()),
            entry("country", format!("C{}", random >> 24 & 63)),
            entry(
                "device",
                ["mobile", "desktop", "tablet", "mobile"][(random >> 32 & 3) as usize].to_owned(),
            ),
            entry("visitor_type", ["new", "returning"][(random >> 40 & 1) as usize].to_owned()),
        ],
        values: vec![value("load_ms", 50 + random % 3_000), value("engaged_ms", random % 60_000)],
    }
}

fn batch(seq: u64) -> v1::EventBatch {
    let events = (seq * EVENTS..(seq + 1) * EVENTS).map(event).collect();
    let producer = Bytes::from_static(&[1; 16]);
    v1::EventBatch { producer, seq, sealed_at_ms: START_MS + 300_000, events }
}

fn blocks_of(batch: &v1::EventBatch, rules: &ShardRules) -> Vec<v1::Block> {
    let keep_params = KeepParams::default();
    let of = Rules {
        schema: Some(&rules.schema),
        keep_params: &keep_params,
        times: rules.times,
        shards: rules.shards,
    };
    split(batch, &of, EventTime::from_unix_ms(START_MS + 300_000)).unwrap().blocks
}

fn filled(rules: &ShardRules, batches: u64) -> Shard {
    let mut shard = Shard::new(rules.shards.shard(0).unwrap(), rules.clone());
    (0..batches)
        .flat_map(|seq| blocks_of(&batch(seq), rules))
        .for_each(|block| _ = shard.apply(&block).unwrap());
    shard
}

fn ingest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("events");
    group.throughput(Throughput::Elements(EVENTS));
    let rows = batch(0);
    for shards in [1, 64] {
        let rules = rules(shards);
        group.bench_function(format!("split rows into blocks of {shards} shards"), |bencher| {
            bencher.iter(|| blocks_of(black_box(&rows), &rules));
        });
    }
    let rules = rules(1);
    let block = blocks_of(&rows, &rules).remove(0);
    let mut decoded = DecodedBlock::default();
    group.bench_function("decode a block", |bencher| {
        bencher.iter(|| decoded.read(black_box(&block), rules.shards).unwrap());
    });
    // The same events under a new number each time: no new rows.
    let mut shard = filled(&rules, 100);
    let mut seq = 1_000;
    group.bench_function("apply to 100,000 events, rows that are there", |bencher| {
        bencher.iter(|| {
            seq += 1;
            shard.apply(black_box(&v1::Block { seq, ..block.clone() })).unwrap()
        });
    });
    group.bench_function("apply to an empty shard, new rows", |bencher| {
        let empty = || Shard::new(rules.shards.shard(0).unwrap(), rules.clone());
        bencher.iter_batched(
            empty,
            |mut shard| {
                _ = shard.apply(black_box(&block)).unwrap();
                shard
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn answers(criterion: &mut Criterion) {
    let rules = rules(1);
    let shard = filled(&rules, 100);
    let buckets: Vec<&Bucket> = shard.buckets().map(Arc::as_ref).collect();
    let mut group = criterion.benchmark_group("answers");
    for (name, measures, group_by) in [
        ("top 10 URLs", &["views"][..], &["url"][..]),
        ("referrers with visitors and p95", &["views", "visitors", "load_ms.p95"], &["referrer"]),
    ] {
        let question = v1::Query {
            site: "site-0.example.com".into(),
            from: EventTime::from_unix_ms(START_MS).to_string(),
            to: EventTime::from_unix_ms(START_MS + 300_000).to_string(),
            measures: measures.iter().map(|&measure| measure.to_owned()).collect(),
            group_by: group_by.iter().map(|&group| group.to_owned()).collect(),
            limit: 10,
            ..v1::Query::default()
        };
        let query = Query::parse(&question, &rules.schema, EventTime::from_unix_ms(START_MS)).unwrap();
        let context = ScanContext { share: 10_000, ..ScanContext::default() };
        group.bench_function(format!("scan: {name}"), |bencher| {
            bencher.iter(|| scan_all(black_box(&buckets), &query, &context));
        });
        let partial = scan_all(&buckets, &query, &context).partial;
        assert!(!partial.is_empty());
        group.bench_function(format!("merge a partial: {name}"), |bencher| {
            bencher.iter_batched(
                || partial.clone(),
                |mut mine| {
                    mine.merge(black_box(&partial));
                    mine
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("partial to the wire and back: {name}"), |bencher| {
            bencher.iter(|| Partial::from_wire(black_box(&partial).to_wire(), &query).unwrap());
        });
    }
    group.finish();
}

criterion_group!(hot_paths, ingest, answers);
criterion_main!(hot_paths);
