//! What a shard's buckets held at a mark, and what was counted since, is what they hold now.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

mod common;

use common::{Plain, batches, now, parse, plain, rows};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::answer::answer;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::deltas::Mark;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::scan::{ScanContext, Scanned, scan_lasting};
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};

fn shard() -> Shard {
    let shards = ShardCount::new(1).unwrap();
    let rules = ShardRules {
        schema: Arc::new(Schema::default()),
        shards,
        times: TimeRules::default(),
        dimension_values: 1_000,
    };
    Shard::new(shards.shards().next().unwrap(), rules)
}

fn blocks(events: &[Plain]) -> Vec<v1::Block> {
    let (schema, keep_params) = (Schema::default(), KeepParams::default());
    let rules = Rules {
        schema: Some(&schema),
        keep_params: &keep_params,
        times: TimeRules::default(),
        shards: ShardCount::new(1).unwrap(),
    };
    let batches = batches(events, 5);
    batches.iter().flat_map(|batch| split(batch, &rules, now()).unwrap().blocks).collect()
}

fn query() -> v1::Query {
    let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
    v1::Query {
        site: "*".into(),
        from: "-3d".into(),
        granularity: "5m".into(),
        measures: texts(&["views", "visitors", "load_ms.p95", "bytes"]),
        group_by: texts(&["url", "country"]),
        ..v1::Query::default()
    }
}

fn scanned(buckets: &[Arc<Bucket>]) -> Scanned {
    let refs: Vec<&Bucket> = buckets.iter().map(Arc::as_ref).collect();
    scan_lasting(&refs, &parse(&query()), &ScanContext { share: 1_000, ..ScanContext::default() })
}

/// Rows and facts, but how many rollups were read for them.
fn told(scanned: Scanned) -> (Vec<Vec<String>>, v1::Facts) {
    let answer = answer(scanned.partial, &parse(&query()), now());
    (rows(&answer), v1::Facts { from_memory: 0, ..answer.facts.unwrap() })
}

fn all(shard: &Shard) -> Scanned {
    let buckets: Vec<Arc<Bucket>> = shard.buckets().cloned().collect();
    scanned(&buckets)
}

proptest! {
    #[test]
    fn a_mark_and_what_came_since_are_what_there_is(
        events in prop::collection::vec(plain(), 1..200),
        asks in prop::collection::vec(any::<bool>(), 40),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let mut shard = shard();
        let mut blocks = blocks(&events);
        let repeated: Vec<v1::Block> = repeats.iter().map(|at| blocks[at.index(blocks.len())].clone()).collect();
        blocks.extend(repeated);
        let (mut mark, _) = shard.follow(None, now(), || 1);
        let mut held = all(&shard);
        for (block, asks) in blocks.iter().zip(asks.iter().cycle()) {
            shard.apply(block).unwrap();
            if *asks {
                let (next, since) = shard.follow(Some(mark), now(), || panic!("a mark is known"));
                held.merge(&scanned(&since.unwrap()));
                mark = next;
                prop_assert_eq!(told(held.clone()), told(all(&shard)));
            }
        }
    }
}

/// What happens to a shard that several ask.
#[derive(Clone, Debug)]
enum Step {
    Count,
    /// One of those who ask asks, so many milliseconds later, with its last mark or one that served already.
    Ask {
        who: usize,
        again: bool,
        after_ms: u64,
    },
    LetGo,
}

fn step() -> impl Strategy<Value = Step> {
    let ask = (0..3_usize, prop::bool::weighted(0.1), prop_oneof![0..2_000_u64, 0..100_000_u64]);
    prop_oneof![
        3 => Just(Step::Count),
        2 => ask.prop_map(|(who, again, after_ms)| Step::Ask { who, again, after_ms }),
        1 => Just(Step::LetGo),
    ]
}

/// One who asks.
#[derive(Default)]
struct Asker {
    /// The last mark, and what was known there; and the same of the time before.
    known: Option<(Mark, Scanned)>,
    before: Option<(Mark, Scanned)>,
}

proptest! {
    #[test]
    fn whoever_asks_whenever_with_whatever_mark_is_told_all_that_came_since_or_nothing(
        events in prop::collection::vec(plain(), 1..200),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut shard = shard();
        let mut blocks = blocks(&events).into_iter().cycle();
        let mut askers: [Asker; 3] = Default::default();
        let (mut time, mut epochs) = (now(), 0);
        for step in steps {
            match step {
                Step::Count => _ = shard.apply(&blocks.next().unwrap()).unwrap(),
                Step::LetGo => shard.let_go_of_the_absent(time),
                Step::Ask { who, again, after_ms } => {
                    time = time.plus(Duration::from_millis(after_ms));
                    let asker = &mut askers[who];
                    let from = if again { asker.before.take() } else { asker.known.take() };
                    let mark = from.as_ref().map(|(mark, _)| *mark);
                    let (next, since) = shard.follow(mark, time, || {
                        epochs += 1;
                        epochs
                    });
                    let told_now = match (from.clone(), since) {
                        (Some((_, mut held)), Some(since)) => {
                            held.merge(&scanned(&since));
                            held
                        }
                        (_, since) => {
                            prop_assert!(since.is_none() || from.is_some());
                            all(&shard)
                        }
                    };
                    prop_assert_eq!(told(told_now.clone()), told(all(&shard)));
                    (asker.before, asker.known) = (from, Some((next, told_now)));
                }
            }
        }
    }
}

#[test]
fn what_was_made_anew_knows_no_marks() {
    let mut shard = shard();
    let blocks = blocks(&[sample()]);
    let (mark, since) = shard.follow(None, now(), || 1);
    assert!(since.is_none());
    let (mark, since) = shard.follow(Some(mark), now(), || 2);
    assert_eq!(since.map(|since| since.len()), Some(0));
    shard.restore(&blocks[0], &|_| true).unwrap();
    let (next, since) = shard.follow(Some(mark), now(), || 3);
    assert!(since.is_none());
    assert!(shard.follow(Some(next), now(), || 4).1.is_some());
}

fn sample() -> Plain {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    plain().new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

/// Counts one event more.
fn count_one(shard: &mut Shard, seq: u64) {
    let batch = common::batch(1, seq, vec![common::to_wire(&sample())]);
    let (schema, keep_params) = (Schema::default(), KeepParams::default());
    let shards = ShardCount::new(1).unwrap();
    let rules =
        Rules { schema: Some(&schema), keep_params: &keep_params, times: TimeRules::default(), shards };
    split(&batch, &rules, now()).unwrap().blocks.iter().for_each(|block| _ = shard.apply(block).unwrap());
}

/// Events that are in these.
fn counted(since: Option<Vec<Arc<Bucket>>>) -> u64 {
    let of = |bucket: &Bucket, site: &str| {
        bucket.facts(site).map_or(0, |facts| facts.counted + facts.rejected_total())
    };
    since.unwrap().iter().map(|bucket| bucket.sites().map(|site| of(bucket, site)).sum::<u64>()).sum()
}

#[test]
fn marks_of_long_ago_are_forgotten_and_cost_nothing() {
    let mut shard = shard();
    let (first, _) = shard.follow(None, now(), || 1);
    for seq in 1..200 {
        count_one(&mut shard, seq);
        shard.follow(None, now(), || 2);
    }
    assert!(shard.follow(Some(first), now(), || 2).1.is_none());
}

#[test]
fn each_of_two_who_ask_at_their_own_times_gets_what_came_since_its_mark() {
    let mut shard = shard();
    let (mut often, _) = shard.follow(None, now(), || 1);
    let (mut seldom, _) = shard.follow(None, now(), || 2);
    for seq in 1..=40 {
        count_one(&mut shard, seq);
        let (next, since) = shard.follow(Some(often), now(), || 3);
        assert_eq!(counted(since), 1);
        often = next;
        if seq % 10 == 0 {
            let (next, since) = shard.follow(Some(seldom), now(), || 4);
            assert_eq!(counted(since), 10);
            seldom = next;
        }
    }
}

#[test]
fn what_everyone_has_is_not_kept() {
    let mut shard = shard();
    let (mut mark, _) = shard.follow(None, now(), || 1);
    let mut sizes = Vec::new();
    for seq in 1..=50 {
        count_one(&mut shard, seq);
        mark = shard.follow(Some(mark), now(), || 2).0;
        sizes.push(kept_bytes(&shard));
    }
    assert!(sizes.iter().all(|&bytes| bytes < NEXT_TO_NOTHING), "{sizes:?}");
}

/// Less than any rollup takes: that there are marks.
const NEXT_TO_NOTHING: usize = 200;

/// What is kept beside the buckets.
fn kept_bytes(shard: &Shard) -> usize {
    let buckets: usize = shard.buckets().map(|bucket| bucket.heap_bytes() + size_of::<Bucket>()).sum();
    shard.heap_bytes() - buckets - shard.coverage().heap_bytes()
}

#[test]
fn who_stays_away_much_longer_than_before_is_not_waited_for() {
    let mut shard = shard();
    let second = |second| now().plus(Duration::from_secs(second));
    // One asks every ten seconds, and two every second, one of which goes.
    let (mut seldom, _) = shard.follow(None, second(0), || 1);
    let (mut often, _) = shard.follow(None, second(0), || 2);
    let (mut gone, _) = shard.follow(None, second(0), || 3);
    for at in 1..=100 {
        count_one(&mut shard, at);
        often = shard.follow(Some(often), second(at), || 4).0;
        if at <= 50 {
            gone = shard.follow(Some(gone), second(at), || 5).0;
        }
        if at % 10 == 0 {
            let (next, since) = shard.follow(Some(seldom), second(at), || 6);
            assert_eq!(counted(since), 10, "of {at}");
            seldom = next;
        }
        shard.let_go_of_the_absent(second(at));
        assert!(
            at < 60 || kept_bytes(&shard) > NEXT_TO_NOTHING || at % 10 == 0,
            "for the one that asks seldom"
        );
    }
    assert!(kept_bytes(&shard) < NEXT_TO_NOTHING);
    assert!(shard.follow(Some(gone), second(101), || 7).1.is_none());
}

#[test]
fn who_asks_every_minute_is_waited_for_once_that_is_known() {
    let mut shard = shard();
    let second = |second| now().plus(Duration::from_secs(second));
    let (mut often, _) = shard.follow(None, second(0), || 1);
    let (mut seldom, _) = shard.follow(None, second(0), || 2);
    for minute in 1..=5_u64 {
        for at in 1..=60 {
            let at = 60 * (minute - 1) + at;
            (1..=9).for_each(|more| count_one(&mut shard, 9 * at + more));
            often = shard.follow(Some(often), second(at), || 3).0;
            shard.let_go_of_the_absent(second(at));
        }
        let (next, since) = shard.follow(Some(seldom), second(60 * minute), || 4);
        assert_eq!(since.is_some(), minute > 1, "{minute}");
        // Who has to read everything is given another mark for it, and is still known to ask seldom.
        seldom = if since.is_some() { next } else { shard.follow(Some(next), second(60 * minute), || 5).0 };
    }
}

#[test]
fn marks_that_nobody_comes_back_for_take_no_room_where_nothing_happens() {
    let mut shard = shard();
    count_one(&mut shard, 1);
    for at in 0..10_000 {
        let now = now().plus(Duration::from_secs(at));
        shard.follow(None, now, || 1);
        shard.let_go_of_the_absent(now);
    }
    // Those of the last fifteen seconds.
    assert!(kept_bytes(&shard) < 1_000, "{}", kept_bytes(&shard));
}

#[test]
fn where_little_happens_who_stays_away_is_waited_for() {
    let mut shard = shard();
    let second = |second| now().plus(Duration::from_secs(second));
    let mut mark = shard.follow(None, second(0), || 1).0;
    for at in 1..=5 {
        count_one(&mut shard, at);
        // An hour later than the time before.
        let time = second(3600 * at * at);
        shard.let_go_of_the_absent(time);
        let (next, since) = shard.follow(Some(mark), time, || 2);
        assert_eq!(counted(since), 1);
        mark = next;
    }
}

#[test]
fn of_two_who_stay_away_only_the_one_is_waited_for_after_whom_little_came() {
    let mut shard = shard();
    let first = shard.follow(None, now(), || 1).0;
    (1..=300).for_each(|seq| count_one(&mut shard, seq));
    let second = shard.follow(None, now(), || 2).0;
    (301..=600).for_each(|seq| count_one(&mut shard, seq));
    let later = now().plus(Duration::from_secs(16));
    shard.let_go_of_the_absent(later);
    assert!(shard.follow(Some(first), later, || 3).1.is_none());
    assert_eq!(counted(shard.follow(Some(second), later, || 4).1), 300);
}

#[test]
fn nothing_is_kept_where_nobody_comes_back() {
    let mut shard = shard();
    let mark = shard.follow(None, now(), || 1).0;
    for seq in 1..=600 {
        count_one(&mut shard, seq);
    }
    assert!(kept_bytes(&shard) > NEXT_TO_NOTHING);
    let later = now().plus(Duration::from_secs(16));
    shard.let_go_of_the_absent(later);
    assert_eq!(kept_bytes(&shard), 0);
    assert!(shard.follow(Some(mark), later, || 2).1.is_none());
}

#[test]
fn who_never_comes_back_costs_no_more_than_some_marks() {
    let mut shard = shard();
    let mut mark = shard.follow(None, now(), || 1).0;
    // Somebody who asks once and goes.
    shard.follow(None, now(), || 2);
    let mut sizes = Vec::new();
    for seq in 1..=200 {
        count_one(&mut shard, seq);
        mark = shard.follow(Some(mark), now(), || 3).0;
        sizes.push(shard.heap_bytes());
    }
    let most = *sizes.iter().max().unwrap();
    assert!(sizes[10] < most, "it is kept for as long as there is room: {sizes:?}");
    assert!(sizes[199] < sizes[10], "and then no more: {sizes:?}");
}
