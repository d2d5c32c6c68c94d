//! Retention: what outgrew its age goes, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

#[path = "support/world.rs"]
mod world;

use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;
use tidemark_history::day::DayStart;
use tidemark_history::retention::{Expiry, GarbageError, Retention, plan};
use tidemark_rollup::time::EventTime;
use world::{Plain, World, after, assert_same, bucket, day, days, events, hours, naive, old_schema};

const GRACE: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn each_kind_goes_when_it_is_old_enough_and_not_before() {
    let mut world = World::new(2, 100).await;
    world.commit(&events(1, 60, day(), &[0, 3])).await;
    let retention = Retention::default();
    let due = |world: &World, age| plan(&world.catalog.current(), day().end().plus(age), &retention);
    assert_eq!(due(&world, days(800)), [], "nothing goes before it is compacted");
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    let second = Duration::from_secs(1);
    let expiry = |five_minutes, raw, all| vec![Expiry { day: day(), five_minutes, raw, all }];
    assert_eq!(due(&world, days(9) - second), []);
    assert_eq!(due(&world, days(9)), expiry(true, false, false));
    assert_eq!(due(&world, days(30) - second), expiry(true, false, false));
    assert_eq!(due(&world, days(30)), expiry(true, true, false));
    assert_eq!(due(&world, days(730)), expiry(true, true, true));

    let expected = naive(&world.events, &world.schema, 100, true);
    let kinds = ["rollup/5m/", "raw/", "rollup/1d/", "coverage/", "commits/", "replacements/"];
    for (age, left) in [(9, [0, 2, 1, 1, 0, 1]), (30, [0, 0, 1, 1, 0, 1]), (730, [0, 0, 0, 1, 0, 1])] {
        world.clock.set(day().end().plus(days(age)));
        world.compactor(1).expire(&retention).await.unwrap().unwrap();
        assert!(world.compactor(1).expire(&retention).await.unwrap().is_none());
        world.clock.set(day().end().plus(days(age)).plus(GRACE));
        world.compactor(1).collect_garbage(GRACE).await.unwrap();
        let paths = world.paths().await;
        let counts = kinds.map(|kind| paths.iter().filter(|path| path.starts_with(kind)).count());
        assert_eq!(counts, left, "after {age} days: {paths:#?}");
        if age < 730 {
            assert_same(&world.day_rows(&world.schema).await, &expected);
        }
        let fresh = world.fresh().await;
        assert_eq!(fresh.current().damaged(), []);
        assert!(fresh.day_coverage(day()).await.unwrap().is_some());
        assert_eq!(fresh.current().next_number(bucket(day(), 0)), 2, "replaced commits stay replaced");
    }
}

#[tokio::test]
async fn many_days_go_in_one_replacement() {
    let mut world = World::new(2, 100).await;
    let of: Vec<DayStart> = std::iter::successors(Some(day()), |day| day.next()).take(4).collect();
    for (seed, &day) in of.iter().enumerate() {
        world.commit(&events(seed as u64, 20, day, &[0])).await;
        world.compactor(1).compact(day).await.unwrap().unwrap();
    }
    world.clock.set(of[2].end().plus(days(9)));
    let record = world.compactor(1).expire(&Retention::default()).await.unwrap().unwrap();
    assert_eq!(record.days().collect::<Vec<_>>(), of[..3]);
    assert_eq!(record.message().reason, "retention");
}

#[tokio::test]
async fn late_events_of_a_day_without_five_minute_rows_join_its_rows() {
    let mut world = World::new(4, 10_000).await;
    world.commit(&events(1, 100, day(), &[0, 3])).await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    world.clock.set(day().end().plus(days(10)));
    world.compactor(1).expire(&Retention::default()).await.unwrap().unwrap();
    world.commit(&events(2, 50, day(), &[3, 4])).await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    assert_same(&world.day_rows(&world.schema).await, &naive(&world.events, &world.schema, 10_000, true));
    assert_eq!(world.five_minutes(&world.schema).await, Vec::<String>::new());
    let report = world.verify(day()).await;
    assert!(report.is_equal() && report.days == 1, "{report:?}");
}

#[tokio::test]
async fn garbage_is_what_nobody_names_for_longer_than_the_grace() {
    let mut world = World::new(2, 100).await;
    world.commit(&events(1, 60, day(), &[0, 3])).await;
    let before = world.paths().await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    let named = world.catalog.current().referenced_paths();
    // Left behind by somebody who was cut off, put there by somebody else, and by nobody we know.
    let lost = [
        "rollup/5m/2090-03-01/00-00/node-00000000000000ff.parquet",
        "raw/2090-03-01/00-00/node-00000000000000ff.parquet",
        "rollup/1d/2090-02-01/node-00000000000000ff-0.parquet",
        "coverage/2090-03-01/00000000000000ff",
        "probe/00000000000004d2-race",
    ];
    let foreign =
        ["rollup/5m/2090-03-01/notes.txt", "raw/readme", "mine/1", "commits/2090-03-01/00-00/1", "cluster"];
    for path in lost.iter().chain(&foreign) {
        world.store.put(path, "x".into()).await.unwrap();
    }
    let replaced = before.iter().filter(|path| !path.starts_with("raw/")).map(String::as_str);
    let expected: BTreeSet<&str> = replaced.chain(lost).collect();
    let compactor = world.compactor(2);

    // Whoever still reads the day as it was may go on for a while.
    let early = compactor.garbage(GRACE).await.unwrap();
    assert_eq!(
        early.paths,
        ["probe/00000000000004d2-race", "rollup/1d/2090-02-01/node-00000000000000ff-0.parquet"]
    );
    world.clock.set(day().end().plus(GRACE));
    let dry = compactor.garbage(GRACE).await.unwrap();
    assert_eq!(dry.paths.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    assert!(dry.bytes > 0);
    let all = world.paths().await;
    assert_eq!(compactor.collect_garbage(GRACE).await.unwrap(), dry);
    let left = world.paths().await;
    assert_eq!(all.difference(&left).cloned().collect::<Vec<_>>(), dry.paths);
    assert!(named.iter().all(|path| path == "cluster" || left.contains(path)));
    assert!(foreign.iter().all(|path| left.contains(*path)));
    assert_eq!(compactor.collect_garbage(GRACE).await.unwrap().paths, Vec::<String>::new());
}

#[tokio::test]
async fn young_objects_stay_whoever_wrote_them() {
    let world = World::new(2, 100).await;
    world.store.put("raw/2090-03-01/00-00/node-00000000000000ff.parquet", "x".into()).await.unwrap();
    // The store's own clock says when it was written.
    let written = world.store.list("raw").await.unwrap()[0].modified;
    world.clock.set(written.plus(GRACE).minus(Duration::from_millis(1)));
    assert_eq!(world.compactor(1).garbage(GRACE).await.unwrap().paths.len(), 0);
    world.clock.set(written.plus(GRACE));
    assert_eq!(world.compactor(1).garbage(GRACE).await.unwrap().paths.len(), 1);
}

#[tokio::test]
async fn nothing_is_deleted_while_anything_of_history_is_damaged() {
    let mut world = World::new(2, 100).await;
    world.commit(&events(1, 60, day(), &[0, 3])).await;
    world.compactor(1).compact(day()).await.unwrap().unwrap();
    world.commit(&events(2, 60, day(), &[3])).await;
    world.commit(&events(3, 60, day(), &[3])).await;
    world.clock.set(day().end().plus(days(3)));
    let named = world.catalog.current().referenced_paths();
    let all = world.paths().await;
    assert!(!world.compactor(1).garbage(GRACE).await.unwrap().paths.is_empty());
    for path in named.iter().filter(|path| *path != "cluster" && !path.ends_with("/00000003")) {
        let whole = world.store.get(path).await.unwrap();
        let is_record = path.starts_with("commits/") || path.starts_with("replacements/");
        world.store.delete(path).await.unwrap();
        let error = world.compactor(1).collect_garbage(GRACE).await.unwrap_err();
        let GarbageError::Damaged(unreadable) = &error else { panic!("{error}") };
        assert!(unreadable.first.iter().any(|text| text.contains(path)), "{path}: {error}");
        if is_record {
            world.store.put(path, whole.slice(..whole.len() - 1)).await.unwrap();
            let error = world.compactor(1).collect_garbage(GRACE).await.unwrap_err();
            assert!(error.to_string().contains(path.as_str()), "{path}: {error}");
        }
        world.store.put(path, whole).await.unwrap();
        assert_eq!(world.paths().await, all, "nothing was deleted for {path}");
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
    Commit { seed: u64, day: usize, bucket: usize },
    Compact { day: usize },
    Rebuild { day: usize, site: u8, whole: bool },
    Expire,
    Garbage,
    Wait { hours: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    let day = 0_usize..3;
    prop_oneof![
        4 => (any::<u64>(), day.clone(), 0_usize..4).prop_map(|(seed, day, bucket)| Act::Commit { seed, day, bucket }),
        3 => day.clone().prop_map(|day| Act::Compact { day }),
        1 => (day, 0_u8..4, any::<bool>()).prop_map(|(day, site, whole)| Act::Rebuild { day, site, whole }),
        2 => Just(Act::Expire),
        2 => Just(Act::Garbage),
        3 => (1_u64..24 * 12).prop_map(|hours| Act::Wait { hours }),
        1 => (1_u64..24 * 400).prop_map(|hours| Act::Wait { hours }),
    ]
}

/// What should be there of a day.
#[derive(Clone, Default)]
struct Model {
    open: Vec<Plain>,
    replaced: Vec<Plain>,
    /// Its five-minute rows are gone.
    expired: bool,
}

impl Model {
    fn replace(&mut self) {
        let nothing_left = self.replaced.is_empty() && !self.open.is_empty();
        // A day of which all is gone begins anew.
        self.expired &= !nothing_left;
        self.replaced.append(&mut self.open);
    }
}

async fn perform(world: &mut World, act: &Act, now: &mut EventTime, of: &[DayStart], models: &mut [Model]) {
    match *act {
        Act::Commit { seed, day, bucket } => {
            let events = events(seed, 12, of[day], &[bucket]);
            world.commit(&events).await;
            models[day].open.extend(events);
        }
        Act::Compact { day } => {
            world.compactor(1).compact(of[day]).await.unwrap();
            models[day].replace();
        }
        Act::Rebuild { day, site, whole } => {
            let site = (site < 3).then(|| format!("site{site}.com"));
            let to = if whole { after(of[day]) } else { bucket(of[day], 2) };
            // May be refused, and changes nothing then.
            let rebuilt =
                world.compactor(1).rebuild(site.as_deref(), bucket(of[day], 0), to, &old_schema()).await;
            if matches!(rebuilt, Ok(Some(_))) {
                models[day].replace();
            }
        }
        Act::Expire => {
            for expiry in plan(&world.catalog.current(), *now, &Retention::default()) {
                let model = &mut models[of.iter().position(|&day| day == expiry.day).unwrap()];
                model.expired |= expiry.five_minutes;
                if expiry.all {
                    model.replaced.clear();
                }
            }
            world.compactor(1).expire(&Retention::default()).await.unwrap();
        }
        Act::Garbage => _ = world.compactor(1).collect_garbage(GRACE).await.unwrap(),
        Act::Wait { hours: some } => {
            *now = now.plus(hours(some));
            world.clock.set(*now);
        }
    }
}

/// Everything that is named is there, and says what it should.
async fn check(world: &World, of: &[DayStart], models: &[Model]) {
    let history = world.fresh().await.current();
    assert_eq!(history.damaged(), []);
    let paths = world.paths().await;
    let named = history.referenced_paths();
    let missing: Vec<_> = named.iter().filter(|path| *path != "cluster" && !paths.contains(*path)).collect();
    assert_eq!(missing, Vec::<&String>::new());
    let (mut five_minutes, mut of_days) = (Vec::new(), Vec::new());
    for model in models {
        five_minutes.extend_from_slice(&model.open);
        if !model.expired {
            five_minutes.extend_from_slice(&model.replaced);
        }
        of_days.extend_from_slice(&model.replaced);
    }
    let schema = old_schema();
    assert_same(&world.five_minutes(&schema).await, &naive(&five_minutes, &schema, world.limit, false));
    assert_same(&world.day_rows(&schema).await, &naive(&of_days, &schema, world.limit, true));
    for &day in of {
        let report = world.verify(day).await;
        assert!(report.is_equal(), "{day}: {:#?}", report.differences);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_in_whatever_order_what_is_kept_is_there_and_right(acts in prop::collection::vec(act(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(2, 10_000).await;
            let of: Vec<DayStart> = std::iter::successors(Some(day()), |day| day.next()).take(3).collect();
            let mut models = vec![Model::default(); of.len()];
            let mut now = of[2].end();
            world.clock.set(now);
            for act in &acts {
                perform(&mut world, act, &mut now, &of, &mut models).await;
                check(&world, &of, &models).await;
            }
        });
    }
}
