//! Blocks: the golden bytes, the published shard numbers, determinism, and bytes that nobody meant.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

mod common;

use bytes::Bytes;
use common::{Cluster, NOW_MS, batch};
use proptest::prelude::*;
use prost::Message as _;
use std::path::Path;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1;
use tidemark_rollup::block::{BlockError, DecodedBlock};
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::partial::Partial;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::{ShardCount, page_hash};
use tidemark_rollup::split::{Rules, split, split_encoded};
use tidemark_rollup::time::EventTime;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn dimension(key: &str, value: &str) -> v1::event::DimensionsEntry {
    v1::event::DimensionsEntry { key: bytes(key), value: bytes(value) }
}

fn value(key: &str, value: i64) -> v1::event::ValuesEntry {
    v1::event::ValuesEntry { key: bytes(key), value }
}

fn event(url: &str, ago_ms: i64) -> v1::Event {
    v1::Event { site: bytes("example.com"), url: bytes(url), time_ms: NOW_MS - ago_ms, ..Default::default() }
}

/// Every kind of column, one event rejected, one name ignored.
fn golden_batch() -> v1::EventBatch {
    let full = v1::Event {
        kind: bytes("engage"),
        visitor: bytes("visitor 1"),
        dimensions: vec![
            dimension("device", "mobile"),
            dimension("country", "IS"),
            dimension("planet", "mars"),
        ],
        values: vec![value("engaged_ms", 15_000), value("load_ms", 0)],
        ..event("https://Example.com/a/../caf\u{e9}?utm_campaign=spring&x=1#top", 70_000)
    };
    let hashed = v1::Event { visitor_hash: 0x0123_4567_89AB_CDEF, ..event("/", 0) };
    let future = event("/", -3_600_000);
    batch(0xAB, 7, vec![full, hashed, future, event("/", 1)])
}

fn golden_path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What the batch became before names outside the schema were kept for the archive.
const WITHOUT_UNKNOWN_NAMES: &str = "block-v1.bin";
const PRESENT: &str = "block-v1-all-names.bin";

fn events_of(block: Vec<u8>) -> Vec<v1::Event> {
    let block = v1::Block::decode(Bytes::from(block)).unwrap();
    let mut decoded = DecodedBlock::default();
    decoded.read(&block, ShardCount::new(1).unwrap()).unwrap();
    decoded.to_events()
}

#[test]
fn the_golden_block_is_made_byte_for_byte_and_reads_back() {
    let split = Cluster::new(1, 1, 10_000).split(&golden_batch());
    assert_eq!((split.blocks.len(), split.rejected.len(), split.ignored.len()), (1, 1, 1));
    let made = split.blocks[0].encode_to_vec();
    if std::env::var_os("TIDEMARK_WRITE_GOLDEN").is_some() {
        std::fs::write(golden_path(PRESENT), &made).unwrap();
    }
    let golden = std::fs::read(golden_path(PRESENT)).unwrap();
    assert_eq!(made, golden, "the same batch must make the same block everywhere and always");
    let planet = dimension("planet", "mars");
    assert!(events_of(golden)[0].dimensions.contains(&planet), "a later schema may count it");

    // Blocks of the journal, of the archive and of older producers must stay readable.
    let events = events_of(std::fs::read(golden_path(WITHOUT_UNKNOWN_NAMES)).unwrap());
    assert_eq!(
        events.iter().map(|event| event.url.clone()).collect::<Vec<_>>(),
        ["/caf%C3%A9", "/", "/"].map(bytes)
    );
    assert_eq!(
        events[0].dimensions,
        [dimension("campaign", "spring"), dimension("device", "mobile"), dimension("country", "IS")]
    );
    assert_eq!(events[0].values, [value("engaged_ms", 15_000), value("load_ms", 0)]);
    assert_eq!(events[1].visitor_hash, 0x0123_4567_89AB_CDEF);
    assert_eq!(events.iter().map(|event| NOW_MS - event.time_ms).collect::<Vec<_>>(), [70_000, 0, 1]);
    assert_eq!((events[0].kind.clone(), events[1].kind.clone()), (bytes("engage"), bytes("view")));
}

#[test]
fn a_batch_is_split_alike_whatever_the_schema_knows_of_its_values() {
    let with = |value| v1::Event { values: vec![value], ..event("/", 1) };
    let events = vec![
        with(value("engaged_ms", -1)),
        with(value("colour_temperature", -1)),
        with(value("colour_temperature", i64::MAX)),
        with(value("colour_temperature", 6_500)),
    ];
    let (keep_params, schema) = (KeepParams::default(), Schema::default());
    let shards = ShardCount::new(1).unwrap();
    let split_with = |schema| {
        let rules = Rules { schema, keep_params: &keep_params, times: TimeRules::default(), shards };
        split(&batch(1, 1, events.clone()), &rules, EventTime::from_unix_ms(NOW_MS)).unwrap()
    };
    let (by_node, by_producer) = (split_with(Some(&schema)), split_with(None));
    assert_eq!(by_node.rejected.iter().map(|rejection| rejection.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((by_node.rejected, by_node.blocks), (by_producer.rejected, by_producer.blocks));
}

#[test]
fn bytes_that_are_no_event_are_rejected_between_events_that_count() {
    let mut encoded = EncodedBatch::from(&batch(1, 1, vec![event("/a", 1), event("/b", 1), event("/c", 1)]));
    // A site of more bytes than there are.
    encoded.events[1] = Bytes::from_static(&[0x0A, 9, b'x']);
    let (keep_params, shards) = (KeepParams::default(), ShardCount::new(1).unwrap());
    let rules = Rules { schema: None, keep_params: &keep_params, times: TimeRules::default(), shards };
    let split = split_encoded(&encoded, &rules, EventTime::from_unix_ms(NOW_MS)).unwrap();
    let unreadable = v1::Rejection { index: 1, reason: v1::Reason::Unreadable.into() };
    assert_eq!((split.blocks[0].event_count, split.rejected), (2, vec![unreadable]));
    let counted = v1::Columns::decode(split.blocks[0].columns.clone()).unwrap().rejected;
    assert_eq!(
        counted.iter().map(|rejected| (&*rejected.site, rejected.events)).collect::<Vec<_>>(),
        [("", 1)]
    );
}

/// The pages whose hashes `docs/blocks.md` publishes: clients in other languages check theirs against them.
const PAGES: [(&str, &str); 7] = [
    ("example.com", "/"),
    ("example.com", "/a"),
    ("example.com", "/a#0"),
    ("example.com", "/a#1"),
    ("example.com", "/articles/2026/some-words"),
    ("m\u{fc}nchen.example", "/caf%C3%A9?page=2"),
    ("other.example", "https://cdn.example.net/app.js"),
];

#[test]
fn pages_have_the_published_hashes_and_shards() {
    let document = include_str!("../../docs/blocks.md");
    let shards = ShardCount::DEFAULT;
    for (site, url) in PAGES {
        let hash = page_hash(site, url);
        let row = format!("| `{site}` | `{url}` | `{hash:016x}` | {} |", shards.shard_of(hash));
        assert!(document.contains(&row), "docs/blocks.md lacks the row {row}");
    }
}

fn any_row() -> impl Strategy<Value = v1::Event> {
    let text = prop_oneof![
        "[a-z.]{0,12}".prop_map(|text| bytes(&text)),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from),
        Just(Bytes::from("x".repeat(1500))),
    ];
    let url = prop_oneof![
        "/[a-z]{0,3}(\\?[a-z=&]{0,8})?".prop_map(|text| bytes(&text)),
        "https?://[a-z.]{1,12}/[a-zé ]{0,5}".prop_map(|text| bytes(&text)),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from),
    ];
    let site = prop_oneof![8 => Just(bytes("example.com")), 1 => text.clone()];
    let time = prop_oneof![4 => 0_i64..90_000_000, 1 => any::<i64>().prop_map(|ms| ms / 2)];
    let name = prop::sample::select(vec!["device", "country", "planet", ""]);
    let names = prop::sample::select(vec!["load_ms", "bytes", "weight"]);
    (
        (site, url, time, text.clone(), text.clone(), any::<u64>()),
        prop::collection::vec((name, text), 0..4),
        prop::collection::vec((names, prop_oneof![0_i64..1000, any::<i64>()]), 0..3),
    )
        .prop_map(|((site, url, ago, kind, visitor, visitor_hash), dimensions, values)| v1::Event {
            site,
            url,
            time_ms: NOW_MS.saturating_sub(ago),
            kind: if kind.len() > 8 { Bytes::new() } else { kind },
            visitor,
            visitor_hash,
            dimensions: dimensions
                .into_iter()
                .map(|(key, value)| v1::event::DimensionsEntry { key: bytes(key), value })
                .collect(),
            values: values.into_iter().map(|(key, value)| self::value(key, value)).collect(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn the_same_batch_makes_the_same_blocks_whoever_splits_it_and_when(
        rows in prop::collection::vec(any_row(), 1..40),
        later_ms in 0_i64..60_000_000,
    ) {
        let batch = batch(1, 1, rows);
        let keep_params = KeepParams::default();
        let schema = Schema::default();
        let shards = ShardCount::DEFAULT;
        let rules = Rules { schema: Some(&schema), keep_params: &keep_params, times: TimeRules::default(), shards };
        let first = split(&batch, &rules, EventTime::from_unix_ms(NOW_MS)).unwrap();
        let second = split(&batch.clone(), &rules, EventTime::from_unix_ms(NOW_MS + later_ms)).unwrap();
        prop_assert_eq!(&first.blocks, &second.blocks);
        prop_assert_eq!(&first.rejected, &second.rejected);
        let encoded = split_encoded(&EncodedBatch::from(&batch), &rules, EventTime::from_unix_ms(NOW_MS)).unwrap();
        prop_assert_eq!(&first.blocks, &encoded.blocks);
        prop_assert_eq!((&first.rejected, &first.ignored), (&encoded.rejected, &encoded.ignored));
    }

    #[test]
    fn whatever_is_split_can_be_read_and_no_event_is_lost(rows in prop::collection::vec(any_row(), 1..40)) {
        let sent = rows.len();
        let split = Cluster::new(1, 16, 10_000).split(&batch(1, 1, rows));
        let mut decoded = DecodedBlock::default();
        let mut read = 0;
        for block in &split.blocks {
            prop_assert_eq!(decoded.read(block, ShardCount::new(16).unwrap()), Ok(()));
            read += decoded.to_events().len();
        }
        prop_assert_eq!(read + split.rejected.len(), sent);
    }

    #[test]
    fn events_come_out_of_their_blocks_as_they_were_sent_whatever_came_before_them(
        rows in prop::collection::vec((0..3_u8, 0..9_u8, 0..3_u8, any::<bool>(), 0..3_u8), 1..60),
    ) {
        let to_event = |(site, url, kind, turned, text): (u8, u8, u8, bool, u8)| {
            let mut dimensions = vec![dimension("country", &format!("c{text}")), dimension("device", "tv")];
            let mut values = vec![value("bytes", i64::from(text)), value("load_ms", 7)];
            if turned {
                dimensions.reverse();
                values.reverse();
            }
            v1::Event {
                site: bytes(&format!("{site}.example")),
                kind: bytes(&format!("kind{kind}")),
                dimensions,
                values,
                ..event(&format!("/{url}"), 5)
            }
        };
        let sent: Vec<v1::Event> = rows.into_iter().map(to_event).collect();
        let split = Cluster::new(1, 16, 10_000).split(&batch(1, 1, sent.clone()));
        let mut decoded = DecodedBlock::default();
        let mut read = Vec::new();
        for block in &split.blocks {
            prop_assert_eq!(decoded.read(block, ShardCount::new(16).unwrap()), Ok(()));
            read.extend(decoded.to_events());
        }
        // Blocks have the order of their shards.
        let [read, sent] = [read, sent].map(|events| {
            let mut events = sorted(events);
            events.sort_by_cached_key(|event| format!("{event:?}"));
            events
        });
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn events_read_from_a_block_make_the_same_block_again(rows in prop::collection::vec(any_row(), 1..40)) {
        let cluster = Cluster::new(1, 1, 10_000);
        let first = cluster.split(&batch(1, 1, rows));
        prop_assume!(first.rejected.is_empty() || first.blocks.iter().any(|block| block.event_count > 0));
        let mut decoded = DecodedBlock::default();
        decoded.read(&first.blocks[0], ShardCount::new(1).unwrap()).unwrap();
        let events = sorted(decoded.to_events());
        prop_assume!(!events.is_empty());
        let again = cluster.split(&batch(1, 1, events.clone()));
        decoded.read(&again.blocks[0], ShardCount::new(1).unwrap()).unwrap();
        prop_assert_eq!(sorted(decoded.to_events()), events);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_panic(
        columns in prop::collection::vec(any::<u8>(), 0..200),
        event_count in prop_oneof![0_u32..20, any::<u32>()],
    ) {
        let block = v1::Block { producer: vec![0; 16].into(), event_count, columns: columns.into(), ..Default::default() };
        apply_and_ask(&block);
    }

    #[test]
    fn damaged_blocks_are_refused_or_counted_but_never_panic(
        rows in prop::collection::vec(any_row(), 1..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        event_count in prop::option::of(0_u32..30),
    ) {
        let split = Cluster::new(1, 1, 10_000).split(&batch(1, 1, rows));
        for block in split.blocks {
            let mut columns = block.columns.to_vec();
            for (at, byte) in &damage {
                let at = at.index(columns.len());
                columns[at] = *byte;
            }
            let event_count = event_count.unwrap_or(block.event_count);
            apply_and_ask(&v1::Block { columns: columns.into(), event_count, ..block });
        }
    }

    #[test]
    fn structured_nonsense_is_refused_or_counted_but_never_panics(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 9),
        base_time_ms in any::<i64>(),
        event_count in 0_u32..12,
        text in "[a-z./]{0,20}",
    ) {
        let mut parts = parts.into_iter().map(Bytes::from);
        let mut next = || parts.next().unwrap_or_default();
        let columns = v1::Columns {
            dictionary: text.into(),
            dictionary_lengths: next(),
            page_site: next(),
            page_url: next(),
            page: next(),
            base_time_ms,
            time: next(),
            kind: next(),
            visitor: next(),
            dimensions: vec![v1::Column { name: "device".into(), data: next() }],
            values: vec![v1::Column { name: "load_ms".into(), data: next() }],
            rejected: vec![],
        };
        let block = v1::Block { producer: vec![0; 16].into(), event_count, columns: columns.encode_to_vec().into(), ..Default::default() };
        apply_and_ask(&block);
    }

    #[test]
    fn arbitrary_partials_are_refused_or_merged_but_never_panic(
        row_count in prop_oneof![0_u32..6, any::<u32>()],
        time in prop::collection::vec(any::<u8>(), 0..8),
        ids in prop::collection::vec(any::<u8>(), 0..8),
        values in prop::collection::vec("[a-c]{0,2}", 0..4),
        sketches in prop::collection::vec(any::<u8>(), 0..40),
        lengths in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let query = v1::Query {
            site: "example.com".into(),
            measures: vec!["views".into(), "visitors".into()],
            group_by: vec!["url".into()],
            ..Default::default()
        };
        let query = common::parse(&query);
        let wire = v1::Partial {
            time: time.into(),
            row_count,
            groups: vec![v1::GroupColumn { values, ids: ids.into() }],
            measures: vec![
                v1::MeasureColumn::default(),
                v1::MeasureColumn { sketch_lengths: lengths.into(), sketches: sketches.into(), ..Default::default() },
            ],
            facts: None,
        };
        if let Some(partial) = Partial::from_wire(wire, &query) {
            let mut merged = Partial::new(&query);
            merged.merge(&partial);
            tidemark_rollup::answer::answer(merged, &query, common::now());
        }
    }
}

/// An event's dimensions and values have no order.
fn sorted(mut events: Vec<v1::Event>) -> Vec<v1::Event> {
    for event in &mut events {
        event.dimensions.sort_by(|a, b| a.key.cmp(&b.key));
        event.values.sort_by(|a, b| a.key.cmp(&b.key));
    }
    events
}

/// Applies a block that may be anything; what comes of it must be consistent.
fn apply_and_ask(block: &v1::Block) {
    let mut cluster = Cluster::new(1, 1, 10_000);
    let before = cluster.shards[0].row_count();
    match cluster.shards[0].apply(block) {
        Err(_) => assert_eq!(cluster.shards[0].row_count(), before, "a refused block counts nothing"),
        Ok(applied) => {
            let rejected: u32 = applied.rejected.values().sum();
            assert_eq!(applied.counted + applied.duplicate + rejected, block.event_count);
            let again = cluster.shards[0].apply(block).unwrap();
            assert_eq!((again.counted, again.duplicate), (0, applied.counted + applied.duplicate));
        }
    }
}

#[test]
fn a_batch_without_times_sent_again_in_a_later_bucket_counts_once() {
    let mut cluster = Cluster::new(1, 1, 10_000);
    let untimed = v1::Event { time_ms: 0, ..event("/", 0) };
    let batch = v1::EventBatch { sealed_at_ms: 0, ..batch(1, 1, vec![untimed]) };
    let keep_params = KeepParams::default();
    let schema = Schema::default();
    let rules = Rules {
        schema: Some(&schema),
        keep_params: &keep_params,
        times: TimeRules::default(),
        shards: ShardCount::new(1).unwrap(),
    };
    for (minutes, counted) in [(0, 1), (10, 0)] {
        let split = split(&batch, &rules, EventTime::from_unix_ms(NOW_MS + minutes * 60_000)).unwrap();
        let applied = cluster.shards[0].apply(&split.blocks[0]).unwrap();
        assert_eq!((applied.counted, applied.duplicate), (counted, 1 - counted));
    }
    assert_eq!(cluster.shards[0].buckets().count(), 1);
}

#[test]
fn a_block_with_a_url_of_another_shard_is_refused_whole() {
    let wide = Cluster::new(1, 64, 10_000);
    let mut block = wide.split(&batch(1, 1, vec![event("/", 0)])).blocks.remove(0);
    block.shard = (block.shard + 1) % 64;
    let mut decoded = DecodedBlock::default();
    let error = decoded.read(&block, ShardCount::DEFAULT).unwrap_err();
    assert!(matches!(error, BlockError::WrongShard { .. }), "{error}");
}

#[test]
fn events_in_blocks_are_judged_like_rows() {
    let mut cluster = Cluster::new(1, 1, 10_000);
    let lenient = Rules {
        schema: None,
        keep_params: &KeepParams::all(),
        times: TimeRules { accept_late: std::time::Duration::MAX },
        shards: ShardCount::new(1).unwrap(),
    };
    let old = event("/?keep=1", 49 * 3_600_000);
    let batch = batch(1, 1, vec![old, event("/?keep=1", 1000)]);
    let block = split(&batch, &lenient, common::now()).unwrap().blocks.remove(0);
    let applied = cluster.shards[0].apply(&block).unwrap();
    assert_eq!((applied.counted, applied.rejected.get(&v1::Reason::TooLate)), (1, Some(&1)));
    let query = v1::Query { site: "example.com".into(), group_by: vec!["url".into()], ..Default::default() };
    assert_eq!(common::rows(&cluster.answer(&common::parse(&query), false)), [["\"/?keep=1\"", "1"]]);
}
