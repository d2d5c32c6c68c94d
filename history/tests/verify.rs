//! Verify: it says equal where all is, and finds what is not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

#[path = "support/world.rs"]
mod world;

use tidemark_history::verify::{At, Differs, Report};
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::rows::SegmentRows;
use world::{Flush, Plain, World, bucket, day, days, events};

#[track_caller]
fn assert_equal(report: &Report) {
    assert!(report.is_equal(), "{:#?}", report.differences);
}

/// A commit of one bucket, changed on the way.
async fn changed(shards: u32, change: impl FnOnce(&mut Flush)) -> (World, Report) {
    let mut world = World::new(shards, 10_000).await;
    let events = events(1, 120, day(), &[5]);
    let blocks = world.blocks(&events);
    let mut flush = world.flushes(&blocks).remove(&bucket(day(), 5)).unwrap();
    change(&mut flush);
    world.commit_flush(bucket(day(), 5), flush).await;
    let report = world.verify(day()).await;
    (world, report)
}

fn row_at(rows: &SegmentRows) -> usize {
    rows.len() / 2
}

#[tokio::test]
async fn everything_is_equal_after_flush_compaction_late_commits_and_rebuild() {
    let mut world = World::new(8, 10_000).await;
    world.commit(&events(1, 500, day(), &[0, 7, 200])).await;
    world.commit(&events(2, 100, day(), &[7])).await;
    let flushed = world.verify(day()).await;
    assert_equal(&flushed);
    assert_eq!((flushed.buckets, flushed.events, flushed.days), (4, 600, 0));
    assert!(flushed.rows > 100 && flushed.cells == flushed.rows * 5 && flushed.blocks > 30);
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    let compacted = world.verify(day()).await;
    assert_equal(&compacted);
    assert_eq!((compacted.buckets, compacted.events, compacted.days), (3, 600, 1));
    world.commit(&events(3, 100, day(), &[7])).await;
    assert_equal(&world.verify(day()).await);
    world
        .compactor(1)
        .rebuild(Some("site0.com"), bucket(day(), 7), bucket(day(), 8), &world::new_schema())
        .await
        .unwrap();
    let rebuilt = world.verify(day()).await;
    assert_equal(&rebuilt);
    assert_eq!((rebuilt.events, rebuilt.days), (700, 1));
}

#[tokio::test]
async fn one_changed_number_is_found() {
    let (_, report) = changed(4, |flush| {
        flush.change = Some(|rows| {
            let row = row_at(rows);
            let at = rows.schema.measure_index("bytes").unwrap();
            if let MeasureColumn::Integers(values) = &mut rows.measures[at] {
                values[row] += 1;
            }
        });
    })
    .await;
    assert_eq!(report.different, 1, "{:#?}", report.differences);
    let difference = &report.differences[0];
    assert_eq!(difference.at, At::Bucket(bucket(day(), 5)));
    assert_eq!(difference.differs, Differs::Measure("bytes".into()));
    let [stored, counted] =
        [&difference.stored, &difference.recomputed].map(|text| text.parse::<u64>().unwrap());
    assert_eq!(stored, counted + 1);
    assert!(difference.to_string().contains(&difference.url), "{difference}");
}

/// Many visitors of one URL, so that their sketch has registers.
fn crowd() -> Vec<Plain> {
    let one = events(1, 1, day(), &[5]).remove(0);
    (0..6_000).map(|visitor| Plain { visitor: Some(visitor), kind: "view", ..one.clone() }).collect()
}

#[tokio::test]
async fn one_changed_register_is_found() {
    let mut world = World::new(1, 10_000).await;
    let blocks = world.blocks(&crowd());
    let mut flush = world.flushes(&blocks).remove(&bucket(day(), 5)).unwrap();
    flush.change = Some(|rows| {
        let at = rows.schema.measure_index("visitors").unwrap();
        let MeasureColumn::Uniques(values) = &mut rows.measures[at] else { panic!("visitors are unique") };
        assert!(values[0].is_estimated());
        // A hash of nobody, of the highest rank.
        values[0].insert(1 << 50);
    });
    world.commit_flush(bucket(day(), 5), flush).await;
    let report = world.verify(day()).await;
    assert_eq!(report.different, 1, "{:#?}", report.differences);
    assert_eq!(report.differences[0].differs, Differs::Measure("visitors".into()));
}

#[tokio::test]
async fn visitors_that_are_counted_wrongly_everywhere_are_found_by_the_second_count() {
    let (_, report) = changed(1, |flush| {
        flush.change = Some(|rows| {
            let at = rows.schema.measure_index("visitors").unwrap();
            let MeasureColumn::Uniques(values) = &mut rows.measures[at] else {
                panic!("visitors are unique")
            };
            values.iter_mut().enumerate().for_each(|(row, value)| value.insert((row as u64 + 1) << 40));
        });
    })
    .await;
    let seconds =
        report.differences.iter().filter(|found| found.differs == Differs::Visitors("visitors".into()));
    assert_eq!(seconds.count(), 3, "{:#?}", report.differences);
}

#[tokio::test]
async fn a_missing_row_is_found() {
    let (_, report) = changed(4, |flush| {
        flush.change = Some(|rows| {
            // The last row, whole.
            let len = rows.len() - 1;
            rows.site.truncate(len);
            rows.url.truncate(len);
            rows.bucket.truncate(len);
            rows.dimensions.iter_mut().for_each(|column| column.truncate(len));
            rows.measures.iter_mut().for_each(|column| column.resize(len));
        });
    })
    .await;
    let rows = report.differences.iter().filter(|found| found.differs == Differs::Row);
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 1, "{:#?}", report.differences);
    assert_eq!((rows[0].stored.as_str(), rows[0].recomputed.as_str()), ("none", "a row"));
}

#[tokio::test]
async fn changed_facts_are_found_but_for_repeated_events() {
    let (_, report) = changed(4, |flush| {
        flush.change = Some(|rows| {
            rows.facts[0].facts.late += 1;
            rows.facts[1].facts.duplicate += 7;
        });
    })
    .await;
    assert_eq!(report.different, 1, "{:#?}", report.differences);
    assert_eq!(report.differences[0].differs, Differs::Facts);
}

#[tokio::test]
async fn an_extra_block_and_a_lost_one_are_found() {
    let (_, report) = changed(4, |flush| {
        let mut extra = flush.raw[0].clone();
        extra.seq += 1_000;
        flush.raw.push(extra);
    })
    .await;
    assert!(
        report.differences.iter().any(|found| found.differs == Differs::Blocks),
        "{:#?}",
        report.differences
    );
    let (_, report) = changed(4, |flush| drop(flush.raw.remove(3))).await;
    assert!(
        report.differences.iter().any(|found| found.differs == Differs::Blocks),
        "{:#?}",
        report.differences
    );
    let (_, report) = changed(4, |flush| flush.raw.push(flush.raw[0].clone())).await;
    assert_eq!(report.different, 1, "{:#?}", report.differences);
    assert!(report.differences[0].stored.ends_with("twice"));
}

#[tokio::test]
async fn commits_that_cover_one_block_twice_are_found_replaced_or_not() {
    for compacted in [false, true] {
        let mut world = World::new(2, 10_000).await;
        let events = events(1, 60, day(), &[5]);
        let blocks = world.blocks(&events);
        world.commit_blocks(&blocks).await;
        if compacted {
            world.compactor(1).compact(day()).await.unwrap().unwrap();
        }
        assert_equal(&world.verify(day()).await);
        world.commit_blocks(&blocks[..1]).await;
        let report = world.verify(day()).await;
        assert_eq!(report.different, 1, "{:#?}", report.differences);
        assert_eq!(report.differences[0].differs, Differs::Blocks);
    }
}

#[tokio::test]
async fn truncated_changed_and_missing_segments_are_found_of_commits_and_of_compacted_days() {
    for compacted in [false, true] {
        let mut world = World::new(4, 10_000).await;
        world.commit(&events(1, 200, day(), &[5, 6])).await;
        if compacted {
            world.compactor(1).compact(day()).await.unwrap().unwrap();
        }
        assert_equal(&world.verify(day()).await);
        let history = world.catalog.current();
        let mut named = history.referenced_paths();
        named.retain(|path| path.starts_with("rollup/") || path.starts_with("raw/"));
        assert!(named.len() >= 4);
        for path in named {
            let whole = world.store.get(&path).await.unwrap();
            for damage in 0..4 {
                match damage {
                    0 => world.store.put(&path, whole.slice(..whole.len() - 100)).await.unwrap(),
                    1 => world.store.put(&path, whole.slice(..whole.len() / 2)).await.unwrap(),
                    2 => {
                        let mut bytes = whole.to_vec();
                        bytes[whole.len() / 3] ^= 0x10;
                        world.store.put(&path, bytes.into()).await.unwrap();
                    }
                    _ => world.store.delete(&path).await.unwrap(),
                }
                let report = world.verify(day()).await;
                // A filter on URLs is not read for whole segments; all other bytes are.
                let found = report.differences.iter().any(|found| found.differs == Differs::Object);
                assert!(found || damage == 2, "{path}, {damage}: {:#?}", report.differences);
            }
            world.store.put(&path, whole).await.unwrap();
            assert_equal(&world.verify(day()).await);
        }
    }
}

#[tokio::test]
async fn a_changed_row_of_a_compacted_bucket_and_of_a_day_is_found() {
    // What a commit has wrong, compaction takes over into both kinds of rows: only raw events tell.
    let (world, report) = changed(4, |flush| {
        flush.change = Some(|rows| {
            let at = rows.schema.measure_index("load_ms").unwrap();
            let MeasureColumn::Distributions(values) = &mut rows.measures[at] else {
                panic!("a distribution")
            };
            values[0].record(77);
        });
    })
    .await;
    assert_eq!(report.different, 1);
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    let report = world.verify(day()).await;
    assert_eq!(report.different, 1, "{:#?}", report.differences);
    assert_eq!(report.differences[0].differs, Differs::Measure("load_ms".into()));
    assert_eq!(report.days, 1, "the day's rows are those of its five-minute rows");
    // Once these are gone, the day itself is held against raw events.
    world.clock.set(day().end().plus(days(10)));
    world.compactor(1).expire(&Default::default()).await.unwrap().unwrap();
    let report = world.verify(day()).await;
    assert_eq!(report.different, 1, "{:#?}", report.differences);
    assert_eq!(report.differences[0].at, At::Day(day()));
}

#[tokio::test]
async fn buckets_without_raw_events_are_told_and_not_compared() {
    let mut world = World::new(2, 10_000).await;
    world.commit(&events(1, 60, day(), &[5, 6])).await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    world.clock.set(day().end().plus(days(31)));
    world.compactor(1).expire(&Default::default()).await.unwrap().unwrap();
    let report = world.verify(day()).await;
    assert_equal(&report);
    assert_eq!((report.buckets, report.without_raw, report.days), (0, 2, 0));
}
