//! Rebuild: the past, counted anew under the present schema.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

#[path = "support/world.rs"]
mod world;

use std::sync::Arc;
use tidemark_history::faults::Action;
use tidemark_history::rebuild::{RebuildError, Rebuilt};
use tidemark_history::retention::Retention;
use tidemark_history::store::Operation;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::time::{BucketStart, EventTime};
use world::{Plain, World, after, assert_same, bucket, day, days, events, naive, new_schema, old_schema};

/// Rows under the present schema, where only these events were counted under it: the others have nothing of what is new.
fn expected(world: &World, is_new: impl Fn(&Plain) -> bool, of_days: bool) -> Vec<String> {
    let events: Vec<Plain> = world
        .events
        .iter()
        .map(|event| {
            let mut event = event.clone();
            if !is_new(&event) {
                event.dimensions.remove("colour");
                event.values.remove("depth");
            }
            event
        })
        .collect();
    naive(&events, &new_schema(), world.limit, of_days)
}

async fn assert_rows(world: &World, is_new: impl Fn(&Plain) -> bool + Copy) {
    let schema = new_schema();
    assert_same(&world.five_minutes(&schema).await, &expected(world, is_new, false));
    assert_same(&world.day_rows(&schema).await, &expected(world, is_new, true));
}

async fn of_others(world: &World, schema: &Arc<Schema>) -> (Vec<String>, Vec<String>) {
    let others = |rows: Vec<String>| rows.into_iter().filter(|row| !row.starts_with("site1.com ")).collect();
    (others(world.five_minutes(schema).await), others(world.day_rows(schema).await))
}

async fn rebuild(
    world: &World,
    site: Option<&str>,
    from: BucketStart,
    to: BucketStart,
) -> Result<Option<Rebuilt>, RebuildError> {
    world.compactor(world.paths().await.len() as u64).rebuild(site, from, to, &new_schema()).await
}

fn is_mine(event: &Plain) -> bool {
    event.site == "site1.com"
}

#[tokio::test]
async fn a_new_dimension_and_a_new_measure_reach_into_the_past_of_one_site() {
    for limit in [10_000, 3] {
        let mut world = World::new(4, limit).await;
        world.commit(&events(1, 300, day(), &[0, 7, 100])).await;
        world.compactor(1).compact(day()).await.unwrap().unwrap();
        world.commit(&events(2, 100, day(), &[7, 8])).await;
        let rebuilt = rebuild(&world, Some("site1.com"), bucket(day(), 0), after(day()));
        let rebuilt = rebuilt.await.unwrap().unwrap();
        assert_eq!(rebuilt.buckets, 4);
        assert_rows(&world, is_mine).await;
        let report = world.verify(day()).await;
        assert!(report.is_equal(), "{:?}", report.differences);

        // Again, and after another late commit.
        world.commit(&events(3, 100, day(), &[8, 200])).await;
        let again = rebuild(&world, Some("site1.com"), bucket(day(), 0), after(day()));
        again.await.unwrap().unwrap();
        assert_rows(&world, is_mine).await;
        assert!(world.verify(day()).await.is_equal());
    }
}

#[tokio::test]
async fn other_sites_and_other_buckets_stay_as_they_are() {
    let mut world = World::new(4, 10_000).await;
    world.commit(&events(1, 400, day(), &[0, 7, 100])).await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    let before = of_others(&world, &old_schema()).await;
    let (from, to) = (bucket(day(), 7), bucket(day(), 8));
    rebuild(&world, Some("site1.com"), from, to).await.unwrap().unwrap();
    assert_eq!(of_others(&world, &old_schema()).await, before);
    let within = |event: &Plain| {
        is_mine(event) && (from.time()..to.time()).contains(&EventTime::from_unix_ms(event.time_ms))
    };
    assert_rows(&world, within).await;
    let report = world.verify(day()).await;
    assert!(report.is_equal(), "{:?}", report.differences);
}

#[tokio::test]
async fn repeated_events_that_raw_events_do_not_tell_are_carried_over() {
    let mut world = World::new(4, 10_000).await;
    world.commit(&events(1, 300, day(), &[0, 7])).await;
    let receipts = async |world: &World| {
        let range = (bucket(day(), 0), after(day()));
        tidemark_history::receipts::receipts(&world.store, &world.catalog, world.shards, None, range)
            .await
            .unwrap()
    };
    let before = receipts(&world).await;
    for site in [Some("site1.com"), None] {
        rebuild(&world, site, bucket(day(), 0), after(day())).await.unwrap().unwrap();
        assert_eq!(receipts(&world).await, before);
    }
}

#[tokio::test]
async fn all_days_change_at_once() {
    let mut world = World::new(2, 10_000).await;
    let next = day().next().unwrap();
    for of in [day(), next] {
        world.commit(&events(1, 100, of, &[0, 7])).await;
    }
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    world.compactor(1).compact(next).await.unwrap().unwrap();
    let before = (world.five_minutes(&old_schema()).await, world.day_rows(&old_schema()).await);
    // Cut off when the first day is made and the second is not: none has changed.
    let hook_fails = |operation: Operation, path: &str| match path {
        path if operation == Operation::Put && path.starts_with("rollup/1d/2090-03-02/") => Action::Hang,
        _ => Action::AsSet,
    };
    world.faulty.set_hook(hook_fails);
    let cut_off = rebuild(&world, None, bucket(day(), 0), after(next));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), cut_off).await.is_err());
    world.faulty.set_hook(|_, _| Action::AsSet);
    assert_eq!((world.five_minutes(&old_schema()).await, world.day_rows(&old_schema()).await), before);
    let rebuilt = rebuild(&world, None, bucket(day(), 0), after(next)).await.unwrap().unwrap();
    assert_eq!(rebuilt.record.message().days.len(), 2);
    assert_rows(&world, |_| true).await;
}

#[tokio::test]
async fn nothing_is_rebuilt_without_raw_events_and_the_bucket_is_named() {
    let mut world = World::new(2, 10_000).await;
    world.commit(&events(1, 100, day(), &[0, 7])).await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    world.clock.set(day().end().plus(days(31)));
    let keeps_rows = Retention { five_minutes: days(100), ..Retention::default() };
    world.compactor(1).expire(&keeps_rows).await.unwrap().unwrap();
    let error = rebuild(&world, None, bucket(day(), 3), after(day())).await.unwrap_err();
    assert!(matches!(error, RebuildError::RawGone(gone) if gone == bucket(day(), 7)), "{error}");
    assert!(error.to_string().contains("2090-03-01T00:35:00Z"), "{error}");
    let nothing = rebuild(&world, None, bucket(day(), 3), bucket(day(), 4)).await;
    assert!(nothing.unwrap().is_none());
    assert_same(
        &world.five_minutes(&old_schema()).await,
        &naive(&world.events, &old_schema(), 10_000, false),
    );
}

#[tokio::test]
async fn of_a_day_without_five_minute_rows_all_is_rebuilt_or_nothing() {
    for limit in [10_000, 3] {
        let mut world = World::new(2, limit).await;
        world.commit(&events(1, 200, day(), &[0, 7])).await;
        world.compactor(1).compact(day()).await.unwrap().unwrap();
        world.clock.set(day().end().plus(days(10)));
        world.compactor(1).expire(&Retention::default()).await.unwrap().unwrap();
        let report = world.verify(day()).await;
        assert!(report.is_equal() && report.days == 1 && report.without_rows == 2, "{report:?}");
        let part = rebuild(&world, Some("site1.com"), bucket(day(), 0), bucket(day(), 1));
        assert!(matches!(part.await.unwrap_err(), RebuildError::FiveMinutesGone(of) if of == day()));
        let all = rebuild(&world, Some("site1.com"), bucket(day(), 0), after(day()));
        all.await.unwrap().unwrap();
        assert_eq!(world.five_minutes(&new_schema()).await, Vec::<String>::new());
        assert_same(&world.day_rows(&new_schema()).await, &expected(&world, is_mine, true));
    }
}

#[tokio::test]
async fn what_is_damaged_of_a_day_is_repaired_from_raw_events_of_all_sites() {
    let mut world = World::new(4, 10_000).await;
    world.commit(&events(1, 200, day(), &[0, 7])).await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    world.commit(&events(2, 100, day(), &[7])).await;
    let rollups = world.paths().await.into_iter().filter(|path| path.starts_with("rollup/"));
    for path in rollups.collect::<Vec<_>>() {
        let mut bytes = world.store.get(&path).await.unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        world.store.put(&path, bytes.into()).await.unwrap();
    }
    assert!(!world.verify(day()).await.is_equal());
    let part = rebuild(&world, Some("site1.com"), bucket(day(), 0), after(day()));
    assert!(part.await.is_err());
    rebuild(&world, None, bucket(day(), 0), after(day())).await.unwrap().unwrap();
    assert_rows(&world, |_| true).await;
    assert!(world.verify(day()).await.is_equal());
}
