//! What is written is what is read: everything, and any part of it.
#![allow(missing_docs, clippy::unwrap_used)]

mod segment_common;

use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use proptest::prelude::*;
use segment_common::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_history::segment::{
    Footer, RollupWriter, RowGroup, Selection, WriteError, read_raw, write_raw, write_rollup,
};
use tidemark_proto::v1;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::EventTime;

/// The lines of several row groups: rows in the order of groups, facts sorted over all.
fn all_of(groups: &[SegmentRows], selection: &Selection) -> Vec<String> {
    let without = |facts: bool, rows: bool| Selection {
        facts: facts && selection.facts,
        rows: rows && selection.rows,
        ..selection.clone()
    };
    let lines = |selection: Selection| {
        groups.iter().flat_map(move |rows| expected(rows, &selection)).collect::<Vec<_>>()
    };
    let (rows, mut facts) = (lines(without(false, true)), lines(without(true, false)));
    facts.sort();
    [rows, facts].concat()
}

fn facts_sorted(rows: &SegmentRows, selection: &Selection) -> Vec<String> {
    let mut lines =
        expected(rows, &Selection { sites: None, urls: None, url_prefix: None, ..selection.clone() });
    let first = rows.len().min(lines.len());
    lines[first..].sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn rows_read_back_as_they_were_written(rows in any_rows(80)) {
        let written = write(std::slice::from_ref(&rows));
        let read = read(&written, &Selection::everything(&rows.schema));
        prop_assert_eq!(dump(&read), dump(&rows));
        prop_assert_eq!(&read.schema, &rows.schema);
        prop_assert_eq!(&read.facts, &rows.facts);
        prop_assert_eq!((&read.sites, &read.urls, &read.values), (&rows.sites, &rows.urls, &rows.values));
        prop_assert_eq!((&read.site, &read.url, &read.dimensions), (&rows.site, &rows.url, &rows.dimensions));
    }

    #[test]
    fn any_selection_of_several_row_groups_is_what_a_naive_filter_says(
        groups in prop::collection::vec(any_rows(40), 1..4),
        selection in any_selection(),
    ) {
        let read = read(&write(&groups), &selection);
        let is_asked = |name: &String| selection.dimensions.contains(name);
        prop_assert!(read.schema.dimensions().iter().all(is_asked));
        prop_assert_eq!(facts_sorted(&read, &selection), all_of(&groups, &selection));
        let ascend = |texts: &[String]| texts.is_sorted_by(|a, b| a < b);
        prop_assert!(ascend(&read.sites) && ascend(&read.urls) && read.values.iter().all(|values| ascend(values)));
        prop_assert!(read.values.iter().all(|values| values[0].is_empty()));
        prop_assert!(read.facts.is_sorted_by_key(|facts| (facts.site, facts.bucket, facts.shard)));
    }

    #[test]
    fn row_groups_without_any_of_the_shards_are_not_read(
        groups in prop::collection::vec(any_rows(20), 3),
        number in 0_u32..8,
    ) {
        let everything = Selection::everything(&schema());
        let selection = Selection { shards: Some(vec![shard(number)]), ..everything.clone() };
        let read = read(&write(&groups), &selection);
        // Group i is of the shards i and i + 1.
        let of_shard: Vec<SegmentRows> =
            (0..3).zip(groups).filter(|(at, _)| number == *at || number == *at + 1).map(|(_, rows)| rows).collect();
        prop_assert_eq!(facts_sorted(&read, &everything), all_of(&of_shard, &everything));
    }

    #[test]
    fn blocks_read_back_as_they_were_written(
        blocks in prop::collection::vec((any::<[u8; 16]>(), any::<u32>(), any::<u64>(), any::<i64>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..300)), 0..40),
    ) {
        let block = |(producer, shard, seq, sealed_at_ms, event_count, columns): ([u8; 16], _, _, _, _, Vec<u8>)| v1::Block {
            producer: producer.to_vec().into(), shard, seq, sealed_at_ms, event_count, columns: columns.into(),
        };
        let blocks: Vec<v1::Block> = blocks.into_iter().map(block).collect();
        let written = write_raw(&blocks).unwrap();
        prop_assert_eq!(read_raw(&written.to_segment(PATH), &written.bytes).unwrap(), blocks);
    }
}

#[test]
fn blocks_of_many_row_groups_read_back_as_they_were_written() {
    let block = |seq: u64| v1::Block {
        producer: vec![(seq % 7) as u8; 16].into(),
        shard: seq as u32 % 64,
        seq,
        columns: seq.to_le_bytes().to_vec().into(),
        ..Default::default()
    };
    // Two whole row groups, and one more block.
    let blocks: Vec<v1::Block> = (0..2 * 16_384 + 1).map(block).collect();
    let written = write_raw(&blocks).unwrap();
    let reader = SerializedFileReader::new(written.bytes.clone()).unwrap();
    assert_eq!(reader.num_row_groups(), 3);
    assert_eq!(read_raw(&written.to_segment(PATH), &written.bytes).unwrap(), blocks);
}

/// More rows than a page holds, texts beyond their dictionary, and integers beyond theirs.
#[test]
fn columns_of_many_pages_read_back_whole_and_in_part() {
    let mut keys = BTreeMap::new();
    for at in 0..40_000_u64 {
        let site = format!("site-{}.example", at / 15_000);
        let url = format!("/{at:06}/{}", "x".repeat(450));
        let device = if at % 3 == 0 { String::new() } else { format!("device-{}", at % 7) };
        let numbers = Numbers {
            integers: [at % 5, at * 7919 % 100_003 * 1000, at],
            visitors: 1,
            values: (at % 2) as usize,
            seed: at,
        };
        keys.insert((site, url, (at % 2) as u32, [device, String::new(), "de".to_owned()]), numbers);
    }
    let rows = rows_of(&keys, &BTreeMap::new());
    let written = write(std::slice::from_ref(&rows));
    let everything = Selection::everything(&rows.schema);
    assert!(dump(&read(&written, &everything)) == dump(&rows));
    let one_site = Selection { sites: Some(vec!["site-1.example".to_owned()]), ..everything.clone() };
    assert!(dump(&read(&written, &one_site)) == expected(&rows, &one_site));
    let part =
        Selection { url_prefix: Some("/02".to_owned()), from: bucket(1), with_urls: false, ..one_site };
    let lines = expected(&rows, &part);
    assert_eq!(lines.len(), 5000);
    assert!(expected(&read(&written, &part), &Selection { url_prefix: None, ..part }) == lines);
    let url = format!("/{:06}/{}", 33_333, "x".repeat(450));
    let one_url = Selection { urls: Some(vec![url]), ..everything };
    assert_eq!(dump(&read(&written, &one_url)), expected(&rows, &one_url));
}

#[test]
fn a_url_that_a_segment_has_not_is_ruled_out_by_bounds_or_by_the_bloom_filter() {
    let mut keys = BTreeMap::new();
    for at in 0..1000 {
        let key = ("a.example".to_owned(), format!("/{at:04}"), 0, ["", "", ""].map(str::to_owned));
        keys.insert(key, Numbers { integers: [1, 1, 1], visitors: 0, values: 0, seed: 0 });
    }
    let written = write(&[rows_of(&keys, &BTreeMap::new())]);
    let segment = written.to_segment(PATH);
    let tail = written.bytes.slice(written.bytes.len() - written.footer_bytes as usize..);
    let footer = Footer::parse(&segment, &tail).unwrap();
    let plan = |url: String| {
        footer.plan(&Selection { urls: Some(vec![url]), ..Selection::everything(footer.schema()) })
    };
    assert!(plan("/1000".to_owned()).is_empty() && plan("/".to_owned()).is_empty());
    let ruled_out = (0..1000).filter(|at| {
        let plan = plan(format!("/{at:04}/x"));
        let blooms = fetch(&written.bytes, &plan.bloom_ranges());
        plan.apply_blooms(blooms).unwrap().is_empty()
    });
    // The filter is wrong once in a hundred times; the last URL is beyond the bounds.
    assert!(ruled_out.count() > 970);
    let bloom = &plan("/0500".to_owned()).bloom_ranges()[0];
    assert!(bloom.end - bloom.start <= 2100, "{bloom:?}");
}

/// A flush knows of a row group's URLs only that they are no more than those of its sites and shards together.
#[test]
fn a_segment_is_the_same_however_far_its_urls_are_from_their_bound() {
    let mut keys = BTreeMap::new();
    for at in 0..1000 {
        let key = ("a.example".to_owned(), format!("/{at:04}"), 0, ["", "", ""].map(str::to_owned));
        keys.insert(key, Numbers { integers: [1, 1, 1], visitors: 0, values: 0, seed: 0 });
    }
    let rows = rows_of(&keys, &BTreeMap::new());
    let with_bound = |most_urls: u64| {
        let mut writer = RollupWriter::new(&rows.schema, most_urls, 300, shards()).unwrap();
        writer.push(RowGroup { shards: &[shard(0)], rows: &rows }).unwrap();
        writer.finish().unwrap().bytes
    };
    let exact = with_bound(1000);
    assert!([1001, 4000, 64_000].into_iter().all(|bound| with_bound(bound) == exact));
    // Too low a bound would show.
    assert_ne!(with_bound(100), exact);
}

#[test]
fn what_the_footer_says_is_what_was_written() {
    let mut keys = BTreeMap::new();
    for site in ["b.example", "a.example"] {
        let key = (site.to_owned(), "/".to_owned(), 0, ["", "", ""].map(str::to_owned));
        keys.insert(key, Numbers { integers: [1, 1, 1], visitors: 0, values: 0, seed: 0 });
    }
    let rows = rows_of(&keys, &BTreeMap::new());
    let written = write(&[rows.clone(), SegmentRows::new(schema()), rows]);
    let tail = written.bytes.slice(written.bytes.len() - written.footer_bytes as usize..);
    let footer = Footer::parse(&written.to_segment(PATH), &tail).unwrap();
    assert_eq!(footer.path(), PATH);
    assert_eq!(footer.row_seconds(), 300);
    assert_eq!(footer.shard_count(), shards());
    assert_eq!(footer.schema(), &schema());
    assert_eq!(footer.sites().collect::<Vec<_>>(), ["a.example", "b.example"]);
    // The row group in the middle is empty, and left out.
    assert_eq!(footer.shards().collect::<Vec<_>>(), [0, 1, 2, 3].map(shard));
    assert_eq!((footer.row_groups(), written.rows), (2, 4));
    assert!(footer.heap_bytes() > 500);
}

#[test]
fn a_segment_without_what_was_asked_for_is_read_as_empty_not_as_something_else() {
    let key = ("a.example".to_owned(), "/".to_owned(), 0, ["", "", ""].map(str::to_owned));
    let numbers = Numbers { integers: [7, 1, 1], visitors: 0, values: 0, seed: 0 };
    let written = write(&[rows_of(&BTreeMap::from([(key, numbers)]), &BTreeMap::new())]);
    let everything = Selection::everything(&schema());
    let with = |line: &str| {
        let measures = if line.is_empty() { Vec::new() } else { vec![line.parse().unwrap()] };
        dump(&read(&written, &Selection { dimensions: Vec::new(), measures, ..everything.clone() }))
    };
    let time = bucket(0).time();
    assert_eq!(with("views=count(share)"), [format!("a.example / {time} views=0")]);
    assert_eq!(with(""), [format!("a.example / {time} views=7")]);
}

#[test]
fn rows_that_break_their_contract_are_refused() {
    let key = |site: &str| (site.to_owned(), "/".to_owned(), 0, ["", "", ""].map(str::to_owned));
    let numbers = Numbers { integers: [7, 1, 1], visitors: 1, values: 1, seed: 0 };
    let keys = BTreeMap::from([(key("a.example"), numbers.clone()), (key("b.example"), numbers)]);
    let good = rows_of(&keys, &BTreeMap::new());
    let breaks: [fn(&mut SegmentRows); 6] = [
        |rows| rows.site.reverse(),
        |rows| rows.sites.reverse(),
        |rows| rows.url[0] = 9,
        |rows| rows.dimensions[1].truncate(1),
        |rows| rows.values[0] = vec!["mobile".to_owned()],
        |rows| rows.measures.truncate(1),
    ];
    for (at, damage) in breaks.iter().enumerate() {
        let mut rows = good.clone();
        damage(&mut rows);
        let written = write_rollup(&[RowGroup { shards: &[], rows: &rows }], 300, shards());
        assert!(matches!(written, Err(WriteError::Rows(_))), "{at}");
    }
    let other = SegmentRows::new(Arc::new(Schema::default()));
    let groups = [RowGroup { shards: &[], rows: &good }, RowGroup { shards: &[], rows: &other }];
    assert!(matches!(write_rollup(&groups, 300, shards()), Err(WriteError::Schema)));
    assert!(matches!(write_rollup(&[], 300, shards()), Err(WriteError::Schema)));
    let block = v1::Block { producer: vec![1; 15].into(), ..v1::Block::default() };
    assert!(matches!(write_raw(&[block]), Err(WriteError::Block { at: 0, .. })));
}

fn event(at: u64) -> v1::Event {
    let text = |text: String| bytes::Bytes::from(text);
    let entry =
        |key: &'static str, value: String| v1::event::DimensionsEntry { key: key.into(), value: text(value) };
    let value = |key: &'static str, value| v1::event::ValuesEntry { key: key.into(), value };
    v1::Event {
        site: text(format!("s{}.example", at % 3)),
        url: text(format!("/{}", at * 7 % 101)),
        time_ms: i64::from(START_S) * 1000 + (at * 997 % 900_000) as i64,
        kind: "view".into(),
        visitor: text(format!("v{}", at % 61)),
        dimensions: vec![entry("country", format!("c{}", at % 5)), entry("device", format!("d{}", at % 31))],
        values: vec![
            value("load_ms", (at % 2000) as i64),
            value("bytes", if at.is_multiple_of(50) { -1 } else { at as i64 }),
        ],
        ..v1::Event::default()
    }
}

#[test]
fn rollups_that_went_through_a_segment_are_the_same_rollups() {
    let rules = ShardRules {
        schema: Arc::new(Schema::default()),
        shards: shards(),
        times: TimeRules::default(),
        dimension_values: 10,
    };
    let mut memory: Vec<Shard> = shards().shards().map(|id| Shard::new(id, rules.clone())).collect();
    let now = EventTime::from_unix_ms(i64::from(START_S) * 1000 + 900_000);
    for seq in 0..20 {
        let events = (0..200).map(|at| event(seq * 200 + at)).collect();
        let batch =
            v1::EventBatch { producer: vec![1; 16].into(), seq, sealed_at_ms: now.as_unix_ms(), events };
        let keep_params = KeepParams::default();
        let rules = Rules {
            schema: Some(&rules.schema),
            keep_params: &keep_params,
            times: rules.times,
            shards: shards(),
        };
        for block in split(&batch, &rules, now).unwrap().blocks {
            memory[block.shard as usize].apply(&block).unwrap();
        }
    }
    // Two row groups of four shards each.
    let groups: Vec<SegmentRows> = memory
        .chunks(4)
        .map(|some| {
            let parts = some.iter().flat_map(|shard| {
                shard.buckets().map(|bucket| RollupPart { shard: shard.id(), bucket, start: bucket.start() })
            });
            SegmentRows::of(&rules.schema, &parts.collect::<Vec<_>>(), &Folds::default())
        })
        .collect();
    assert!(groups.iter().map(SegmentRows::len).sum::<usize>() > 1000);
    let read = read(&write(&groups), &Selection::everything(&rules.schema));
    for (at, group) in groups.iter().enumerate() {
        let mut buckets = Vec::new();
        for id in shards().shards().filter(|id| id.index() / 4 == at) {
            let keep = move |_, shard| shard == id;
            let of_shard = read.to_buckets(shards(), Some(10), Some(&keep));
            buckets.extend(of_shard.into_iter().map(|bucket| (id, bucket)));
        }
        let parts =
            buckets.iter().map(|(shard, bucket)| RollupPart { shard: *shard, bucket, start: bucket.start() });
        let again = SegmentRows::of(&rules.schema, &parts.collect::<Vec<_>>(), &Folds::default());
        assert_eq!(dump(&again), dump(group));
    }
}
