//! Two nodes that both think they own every shard, over one store: history covers the union of their blocks once.
//!
//! Who gets which block is random; the seeds are printed, and `TIDEMARK_SEED` sets one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_client::ProducerConfig;
use tidemark_history::compact::{Compactor, plan};
use tidemark_history::faults::{Action, Faults, FaultyStore};
use tidemark_history::retry::SplitMix64;
use tidemark_history::store::{Operation, Store};
use tidemark_node::NodeConfig;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::history_support::{
    Counts, DAY, MINUTE, advance, ask, assert_sound, by_hand, catalog, counts, event, faulty_store, noon,
    quick, seeds, send_blocks, until_all_is_history,
};
use tidemark_tests::in_process::{Cluster, TestClock};

const SHARDS: u32 = 4;

/// A cluster of one that shares its store with others, and does not know them.
async fn alone(
    name: &str,
    store: &Store,
    clock: &Arc<TestClock>,
    change: impl Fn(&mut NodeConfig),
) -> Cluster {
    Cluster::start_on(Some(store.clone()), 1, SHARDS, clock.clone(), |node, coordinator| {
        quick(node, coordinator);
        node.id = NodeId::new(name).unwrap();
        change(node);
    })
    .await
}

/// Blocks for two writers, of which each gets some alone and most are for both.
struct Dealer {
    random: SplitMix64,
    seq: u64,
    events: Vec<v1::Event>,
}

impl Dealer {
    /// Batches of events of a few buckets: of now, of just before, and of the two days before.
    fn deal(&mut self, batches: u64, now: EventTime) -> [Vec<v1::Block>; 2] {
        let mut hands = [Vec::new(), Vec::new()];
        for _ in 0..batches {
            let ages = [Duration::ZERO, 6 * MINUTE, 12 * MINUTE, DAY, 2 * DAY - 60 * MINUTE];
            let first = self.events.len() as u64;
            let events: Vec<v1::Event> = (first..first + 12)
                .map(|n| event(n, now.minus(ages[(self.random.next() % ages.len() as u64) as usize])))
                .collect();
            let batch = v1::EventBatch {
                producer: ProducerId::from_u128(5).to_wire(),
                seq: self.seq,
                sealed_at_ms: now.as_unix_ms(),
                events: events.clone(),
            };
            self.seq += 1;
            self.events.extend(events);
            let rules = Rules {
                schema: None,
                keep_params: &ProducerConfig::new("").keep_params,
                times: TimeRules { accept_late: Duration::MAX },
                shards: ShardCount::new(SHARDS).unwrap(),
            };
            for block in split(&batch, &rules, now).unwrap().blocks {
                let who = self.random.next() % 10;
                if who > 1 {
                    hands[0].push(block.clone());
                }
                if !(2..4).contains(&who) {
                    hands[1].push(block);
                }
            }
        }
        for hand in &mut hands {
            for at in (1..hand.len()).rev() {
                hand.swap(at, (self.random.next() % (at as u64 + 1)) as usize);
            }
        }
        hands
    }

    fn counts(&self) -> Counts {
        counts(&self.events)
    }
}

/// Errors, and commits that conflict, are made twice, or whose replies are lost.
fn fail(faulty: &FaultyStore, seed: u64) {
    faulty.set(Faults { error_share: 0.1, lost_reply_share: 0.1, ..Faults::default() });
    let drawn = AtomicU64::new(seed);
    faulty.set_hook(move |operation, path| {
        let share = SplitMix64::new(drawn.fetch_add(1, Ordering::Relaxed)).next() % 10;
        match (operation, share) {
            (Operation::Create, 0..2) if path.starts_with("commits/") => Action::Conflict,
            (Operation::Create, 2..4) if path.starts_with("commits/") => Action::AlreadyExists,
            (Operation::Create, 4..6) if path.starts_with("commits/") => Action::LoseReply,
            _ => Action::AsSet,
        }
    });
}

/// Until then it answers, completely, for what it has got and has met.
async fn until_it_knows(cluster: &Cluster, (from, to): (EventTime, EventTime), union: &Counts) {
    let deadline = tokio::time::Instant::now() + 2 * MINUTE;
    loop {
        let views = ask(&cluster.http, from, to).await;
        for (url, count) in &views.by_url {
            assert!(*count <= union[url], "{count} views of {url}: {}", views.facts);
        }
        if views.is_complete() && views.by_url == *union {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "it never has the union: {}", views.facts);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn two_write(seed: u64, fails: bool, compacts: bool) {
    let (faulty, store) = faulty_store(seed);
    let clock = noon();
    let change = |node: &mut NodeConfig| {
        if compacts {
            node.compact_after = Duration::ZERO;
        }
    };
    let one = alone("one", &store, &clock, change).await;
    let two = alone("two", &store, &clock, change).await;
    if fails {
        fail(&faulty, seed);
    }
    let mut dealer = Dealer { random: SplitMix64::new(seed), seq: 0, events: Vec::new() };
    for _ in 0..4 {
        let [mine, theirs] = dealer.deal(30, clock.now());
        let urls = [one.url(0), two.url(0)];
        futures::join!(send_blocks(&urls[0], mine), send_blocks(&urls[1], theirs));
        // Both find the same buckets closed.
        advance(&clock, 6 * MINUTE);
        let commits = [&one, &two].map(|cluster| cluster.metric("tidemark_commits_total"));
        let [mine, theirs] = commits;
        let more = |cluster: &Cluster, than| {
            let committed = cluster.metric("tidemark_commits_total") > than;
            committed || cluster.metric("tidemark_unflushed_buckets") <= 1
        };
        one.until("one commits", |one| more(one, mine)).await;
        two.until("two commits", |two| more(two, theirs)).await;
    }
    faulty.set(Faults::default());
    faulty.set_hook(|_, _| Action::AsSet);
    advance(&clock, 10 * MINUTE);

    let (from, to) = (clock.now().minus(3 * DAY), clock.now());
    let union = dealer.counts();
    // Each of them answers with what the other one committed, once it has looked.
    for cluster in [&one, &two] {
        until_it_knows(cluster, (from, to), &union).await;
    }
    for cluster in [&one, &two] {
        let flushed = |cluster: &Cluster| {
            ["tidemark_unflushed_buckets", "tidemark_journal_blocks"].map(|name| cluster.metric(name))
                == [0, 0]
        };
        cluster.until("all is flushed", flushed).await;
    }
    let reader = alone("reader", &store, &clock, |node| node.keep = Duration::ZERO).await;
    until_all_is_history(&reader, (from, to), &union).await;
    if compacts {
        let replaced = |cluster: &Cluster| cluster.metric("tidemark_replaced_days_total") > 0;
        assert!(replaced(&one) || replaced(&two), "nobody compacted");
    }
    assert_sound(&store, SHARDS, dealer.events.len() as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_covers_the_union_of_what_two_writers_have_once() {
    for seed in seeds("two writers") {
        two_write(seed, false, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_covers_the_union_once_although_commits_conflict_and_replies_are_lost() {
    for seed in seeds("two writers and a failing store") {
        two_write(seed, true, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_covers_the_union_once_although_both_compact_what_both_still_write() {
    for seed in seeds("two writers that compact") {
        two_write(seed, true, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_two_compact_at_once_is_replaced_as_a_whole_and_answers_stay() {
    let (_, store) = faulty_store(1);
    let clock = noon();
    let one = alone("one", &store, &clock, |_| {}).await;
    let mut dealer = Dealer { random: SplitMix64::new(1), seq: 0, events: Vec::new() };
    let [mine, theirs] = dealer.deal(40, clock.now());
    send_blocks(&one.url(0), mine.into_iter().chain(theirs).collect()).await;
    advance(&clock, 20 * MINUTE);
    let (from, to) = (clock.now().minus(3 * DAY), clock.now());
    one.until("it commits", |one| one.metric("tidemark_commits_total") > 0).await;
    one.until("all is flushed", |one| one.metric("tidemark_unflushed_buckets") == 0).await;

    let catalogs = [catalog(&store).await, catalog(&store).await];
    let days = plan(&catalogs[0].current(), clock.now(), Some(Duration::ZERO));
    assert_eq!(days.len(), 2);
    let compactors = [0, 1].map(|who| {
        let settings = tidemark_history::compact::CompactorSettings { seed: who as u64, ..by_hand(SHARDS) };
        Compactor::new(store.clone(), Arc::clone(&catalogs[who]), settings, clock.clone())
    });
    for day in days {
        let (first, second) = futures::join!(compactors[0].compact(day), compactors[1].compact(day));
        let made = [first.unwrap(), second.unwrap()].into_iter().flatten().count();
        assert_eq!(made, 1, "the second one finds nothing to do");
    }
    let reader = alone("reader", &store, &clock, |node| node.keep = Duration::ZERO).await;
    until_all_is_history(&reader, (from, to), &dealer.counts()).await;
    assert_sound(&store, SHARDS, dealer.events.len() as u64).await;
}
