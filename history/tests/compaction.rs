//! Compaction: the same rows before and after, whatever happens in between.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

#[path = "support/world.rs"]
mod world;

use futures::FutureExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tidemark_history::compact::{CompactorSettings, plan};
use tidemark_history::faults::{Action, Faults};
use tidemark_history::receipts::receipts;
use tidemark_history::replacement::replace;
use tidemark_history::store::{Operation, Store};
use tidemark_proto::v1;
use world::{
    World, after, assert_same, bucket, catalog_settings, day, days, events, hours, naive, new_schema,
};

async fn assert_whole(world: &World) {
    let schema = &world.schema;
    assert_same(&world.five_minutes(schema).await, &naive(&world.events, schema, world.limit, false));
}

async fn assert_compacted(world: &World) {
    assert_whole(world).await;
    let schema = &world.schema;
    assert_same(&world.day_rows(schema).await, &naive(&world.events, schema, world.limit, true));
}

#[tokio::test]
async fn five_minute_rows_stay_and_rows_of_the_day_are_what_a_recount_says() {
    let mut world = World::new(8, 10_000).await;
    for seed in 0..3 {
        world.commit(&events(seed, 300, day(), &[0, 7, 100, 287])).await;
    }
    assert_whole(&world).await;
    let compactor = world.compactor(1);
    assert!(compactor.compact(day()).await.unwrap().is_some());
    assert_compacted(&world).await;
    assert!(compactor.compact(day()).await.unwrap().is_none(), "nothing is left to compact");

    // Late events of old and new buckets, twice.
    for seed in 3..5 {
        world.commit(&events(seed, 120, day(), &[7, 8])).await;
        assert_whole(&world).await;
        compactor.compact(day()).await.unwrap().unwrap();
        assert_compacted(&world).await;
    }
    assert!(world.verify(day()).await.is_equal());
}

#[tokio::test]
async fn how_many_rows_are_in_memory_at_once_changes_no_row() {
    for (limit, rows_at_once) in [(10_000, 60), (3, 60), (3, 7), (2, 1), (9, 1), (8, 7)] {
        let mut world = World::new(8, limit).await;
        for seed in 0..2 {
            world.commit(&events(seed, 200, day(), &[1, 2])).await;
        }
        let settings = CompactorSettings { rows_at_once, ..world.settings(1) };
        let compactor = world.compactor_with(settings);
        let done = compactor.compact(day()).await.unwrap().unwrap();
        assert!(done.message().days[0].five_minutes.len() > 1);
        assert_compacted(&world).await;
        // Compacted segments are inputs now.
        world.commit(&events(9, 50, day(), &[2])).await;
        compactor.compact(day()).await.unwrap().unwrap();
        assert_compacted(&world).await;
        let report = world.verify(day()).await;
        assert!(report.is_equal(), "{:?}", report.differences);
    }
}

#[tokio::test]
async fn values_beyond_the_limit_are_cut_over_all_shards_and_commits() {
    for limit in [1, 2, 5, 9] {
        let mut world = World::new(4, limit).await;
        for seed in 0..4 {
            world.commit(&events(seed, 60, day(), &[0, 5])).await;
        }
        assert_whole(&world).await;
        world.compactor(1).compact(day()).await.unwrap().unwrap();
        assert_compacted(&world).await;
        let report = world.verify(day()).await;
        assert!(report.is_equal(), "{:?}", report.differences);
    }
}

#[tokio::test]
async fn two_compactors_at_once_leave_one_result() {
    let mut world = World::new(4, 100).await;
    let next = day().next().unwrap();
    world.commit(&events(1, 200, day(), &[0, 9])).await;
    world.commit(&events(2, 200, next, &[0, 9])).await;
    let other = Arc::new(world.fresh().await);
    let [first, mut second] = [1, 2].map(|seed| world.compactor(seed));
    second = {
        let clock = Arc::clone(&world.clock) as Arc<dyn tidemark_rollup::time::Clock>;
        drop(second);
        tidemark_history::compact::Compactor::new(world.store.clone(), other, world.settings(2), clock)
    };
    let (a, b, c, d) =
        tokio::join!(first.compact(day()), second.compact(day()), first.compact(next), second.compact(next));
    for result in [a, b, c, d] {
        result.unwrap();
    }
    assert_compacted(&world).await;
    world.refresh().await;
    assert!(world.verify(day()).await.is_equal() && world.verify(next).await.is_equal());
}

/// Puts a replacement of these days into the store in the very moment that somebody creates one of this number.
fn overtake(world: &World, number: u64, days: Vec<v1::ReplacedDay>) {
    let behind = Store::of(Arc::clone(&world.inner) as Arc<dyn object_store::ObjectStore>);
    let message = v1::Replacement {
        shard_count: world.shards.get(),
        writer: "other".into(),
        attempt: 1,
        committed_at_ms: 0,
        reason: "compaction".into(),
        days,
    };
    let path = format!("replacements/{number:08}");
    world.faulty.set_hook(move |operation, of| {
        if operation == Operation::Create && of == path {
            let _ = replace(&behind, number, &message).now_or_never().unwrap().unwrap();
        }
        Action::AsSet
    });
}

#[tokio::test]
async fn a_number_that_is_taken_for_another_day_costs_no_more_than_the_next_number() {
    let mut world = World::new(2, 100).await;
    world.commit(&events(1, 60, day(), &[0])).await;
    let next = day().next().unwrap().as_unix_seconds();
    overtake(&world, 1, vec![v1::ReplacedDay { day_start_s: next, ..Default::default() }]);
    let record = world.compactor(1).compact(day()).await.unwrap().unwrap();
    assert_eq!(record.number(), 2);
    assert_compacted(&world).await;
    let segments = world.paths().await.into_iter().filter(|path| path.starts_with("rollup/1d/")).count();
    assert_eq!(segments, 1, "it was made once");
}

#[tokio::test]
async fn a_day_that_somebody_else_replaces_meanwhile_is_made_again_of_what_they_made() {
    let mut world = World::new(2, 100).await;
    world.commit(&events(1, 60, day(), &[0])).await;
    let compactor = world.compactor(1);
    let first = compactor.compact(day()).await.unwrap().unwrap();
    world.commit(&events(2, 60, day(), &[0, 1])).await;
    overtake(&world, 2, first.message().days.clone());
    let record = compactor.compact(day()).await.unwrap().unwrap();
    assert_eq!(record.number(), 3);
    assert_compacted(&world).await;
    let segments = world.paths().await.into_iter().filter(|path| path.starts_with("rollup/1d/")).count();
    assert_eq!(segments, 3, "it was made twice");
}

/// Calls of the store that a compaction makes.
async fn compacting(world: &World, at: usize, action: Action) -> usize {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    world.faulty.set_hook(move |_, _| match counted.fetch_add(1, Ordering::SeqCst) {
        call if call >= at => action,
        _ => Action::AsSet,
    });
    let catalog = tidemark_history::catalog::Catalog::load(world.store.clone(), catalog_settings()).await;
    if let Ok(catalog) = catalog {
        let clock = Arc::clone(&world.clock) as Arc<dyn tidemark_rollup::time::Clock>;
        let settings = world.settings(1_000 + at as u64);
        let compactor = tidemark_history::compact::Compactor::new(
            world.store.clone(),
            Arc::new(catalog),
            settings,
            clock,
        );
        let patience = std::time::Duration::from_secs(5);
        // Hangs, or is tried again for a while: either way it is dropped in the middle.
        let _ = tokio::time::timeout(patience, compactor.compact(day())).await;
    }
    world.faulty.set_hook(|_, _| Action::AsSet);
    calls.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn whoever_is_cut_off_at_any_call_of_the_store_leaves_history_whole() {
    for action in [Action::Fail, Action::LoseReply, Action::Hang] {
        let mut world = World::new(2, 3).await;
        world.commit(&events(1, 60, day(), &[0, 1])).await;
        world.compactor(7).compact(day()).await.unwrap().unwrap();
        world.commit(&events(2, 40, day(), &[1, 2])).await;
        for at in 0.. {
            let calls = compacting(&world, at, action).await;
            assert_whole(&world).await;
            let history = world.fresh().await.current();
            if history.day(day()).unwrap().commits().count() == 0 {
                assert_compacted(&world).await;
                assert!(at > 5, "{action:?} at {at}");
                if calls <= at {
                    break;
                }
                world.commit(&events(at as u64 + 10, 5, day(), &[2])).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_now_and_then_is_asked_again() {
    let mut world = World::new(4, 100).await;
    world.commit(&events(1, 200, day(), &[0, 9, 10])).await;
    world.faulty.set(Faults {
        error_share: 0.2,
        lost_reply_share: 0.2,
        already_exists_after_success: 0.2,
        ..Faults::default()
    });
    let catalog = loop {
        let settings = tidemark_history::catalog::CatalogSettings::new(3);
        if let Ok(catalog) = tidemark_history::catalog::Catalog::load(world.store.clone(), settings).await {
            break Arc::new(catalog);
        }
    };
    let clock = Arc::clone(&world.clock) as Arc<dyn tidemark_rollup::time::Clock>;
    let compactor =
        tidemark_history::compact::Compactor::new(world.store.clone(), catalog, world.settings(1), clock);
    compactor.compact(day()).await.unwrap().unwrap();
    world.faulty.set(Faults::default());
    assert_compacted(&world).await;
    world.refresh().await;
    assert_eq!(world.catalog.current().day(day()).unwrap().replacement().unwrap().number, 1);
}

#[tokio::test]
async fn days_are_due_when_they_and_their_newest_commit_are_old_enough() {
    let mut world = World::new(2, 100).await;
    world.commit(&events(1, 20, day(), &[0])).await;
    let (now, wait) = (day().end(), Some(hours(1)));
    let due = |now, wait| plan(&world.catalog.current(), now, wait);
    assert_eq!(due(now, wait), []);
    assert_eq!(due(now.plus(hours(1)), wait), [day()]);
    assert_eq!(due(day().time(), None), [day()]);
    // A late commit starts the wait anew.
    world.clock.set(now.plus(hours(2)));
    world.commit(&events(2, 20, day(), &[3])).await;
    let due = |now, wait| plan(&world.catalog.current(), now, wait);
    assert_eq!(due(now.plus(hours(2)), wait), []);
    assert_eq!(due(now.plus(hours(3)), wait), [day()]);
    world.compactor(1).compact(day()).await.unwrap();
    assert_eq!(plan(&world.catalog.current(), now.plus(days(9)), wait), []);
}

#[tokio::test]
async fn commits_of_different_schemas_lose_nothing() {
    let mut world = World::new(4, 100).await;
    world.commit(&events(1, 100, day(), &[0, 1])).await;
    world.schema = new_schema();
    world.commit(&events(2, 100, day(), &[1, 2])).await;
    let before = world.five_minutes(&new_schema()).await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    assert_same(&world.five_minutes(&new_schema()).await, &before);
    let report = world.verify(day()).await;
    assert!(report.is_equal(), "{:?}", report.differences);
    assert_eq!(report.buckets, 3);
}

#[tokio::test]
async fn receipts_say_the_same_before_and_after_and_of_whole_days_where_buckets_are_gone() {
    let mut world = World::new(4, 100).await;
    world.commit(&events(1, 200, day(), &[0, 7])).await;
    world.commit(&events(2, 50, day(), &[7])).await;
    let (from, to) = (bucket(day(), 0), after(day()));
    let read = async |world: &World, from, to| {
        receipts(&world.store, &world.catalog, world.shards, None, (from, to)).await.unwrap()
    };
    let before = read(&world, from, to).await;
    let counted: u64 = before.values().map(|receipt| receipt.facts.counted).sum();
    assert_eq!(counted, 250);
    assert!(before.values().all(|receipt| receipt.facts.duplicate > 0 && !receipt.of_day));
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    assert_eq!(read(&world, from, to).await, before);
    let one = receipts(&world.store, &world.catalog, world.shards, Some("site1.com"), (bucket(day(), 7), to));
    let one = one.await.unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one.values().next(), before.get(&(bucket(day(), 7), "site1.com".to_owned())));

    world.clock.set(day().end().plus(days(10)));
    world.compactor(1).expire(&Default::default()).await.unwrap().unwrap();
    let of_days = read(&world, from, to).await;
    assert_eq!(of_days.len(), 3);
    for ((start, site), receipt) in of_days {
        assert!(start == from && receipt.of_day);
        let of_site = before.iter().filter(|((_, of), _)| *of == site);
        let (mut counted, mut duplicate) = (0, 0);
        of_site.for_each(|(_, receipt)| {
            counted += receipt.facts.counted;
            duplicate += receipt.facts.duplicate;
        });
        assert_eq!((receipt.facts.counted, receipt.facts.duplicate), (counted, duplicate));
    }
}
