//! Where blocks go and what is told about them, with a cluster that behaves as it is told. Time is paused: what waits, waits
//! for what it says it waits for.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::{Cluster, Mood, NOW, PATIENCE, SHARDS, event, events, events_of, placement, until};
use tidemark_client::{BatchConfig, Batcher, ClientError, Producer, ProducerConfig, SendError, Totals, Why};
use tidemark_proto::v1::{Reason, RefusalReason};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::{Clock, EventTime};
use tokio::time::Instant;

const ID: ProducerId = ProducerId::from_u128(0xABCD);

fn config() -> ProducerConfig {
    ProducerConfig::new("http://a:1")
}

async fn connect(cluster: &Cluster, config: ProducerConfig) -> Producer {
    Producer::connect_with(config, ID, cluster.parts(1)).await.unwrap()
}

fn add_up(totals: &Totals) {
    assert_eq!(totals.events + totals.recovered, totals.settled(), "{totals:?}");
}

#[tokio::test(start_paused = true)]
async fn blocks_go_straight_to_the_owners_of_their_shards() {
    let cluster = Cluster::of(&["a:1", "b:1"]);
    let mut producer = connect(&cluster, config()).await;
    let outcome = producer.try_send(events(100), NOW).unwrap().await;
    assert_eq!((outcome.events, outcome.accepted, outcome.is_delivered()), (100, 100, true));
    let came = cluster.came();
    assert_eq!(came.len(), SHARDS as usize);
    for block in came {
        assert_eq!(block.node, ["a:1", "b:1"][block.shard as usize % 2], "{block:?}");
    }
    let totals = producer.finish().await.unwrap();
    assert_eq!((totals.accepted, totals.retries, cluster.events()), (100, 0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_placement_moves_blocks_to_the_new_owners() {
    let cluster = Cluster::of(&["a:1", "b:1", "c:1"]);
    cluster.place(placement(&["a:1"]));
    let mut producer = connect(&cluster, config()).await;
    producer.try_send(events(100), NOW).unwrap().await;
    assert!(cluster.came().iter().all(|block| block.node == "a:1"));
    cluster.place(placement(&["b:1", "c:1"]));
    until("blocks go to the new owners", || {
        drop(producer.try_send(events(100), NOW));
        cluster.came().last().is_some_and(|block| block.node != "a:1")
    })
    .await;
    let before = cluster.came().len();
    producer.try_send(events(100), NOW).unwrap().await;
    for block in &cluster.came()[before..] {
        assert_eq!(block.node, ["b:1", "c:1"][block.shard as usize % 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_hangs_does_not_hold_up_blocks_of_others_and_its_own_go_to_the_next_owner() {
    let cluster = Cluster::of(&["a:1", "b:1"]);
    cluster.set("b:1", Mood::Hang);
    let mut producer = connect(&cluster, config()).await;
    let started = Instant::now();
    let stuck = producer.try_send(events_of(1, 5), NOW).unwrap();
    for _ in 0..20 {
        assert_eq!(producer.try_send(events_of(0, 5), NOW).unwrap().await.accepted, 5);
    }
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    assert_eq!(stuck.await.accepted, 5);
    // The time-out, and a pause.
    assert!(started.elapsed() < Duration::from_secs(11), "{:?}", started.elapsed());
    assert_eq!(producer.finish().await.unwrap().accepted, 105);
}

#[tokio::test(start_paused = true)]
async fn a_slow_owner_slows_its_own_blocks_only() {
    let cluster = Cluster::of(&["a:1", "b:1"]);
    cluster.set("b:1", Mood::Slow(Duration::from_secs(3)));
    let config = ProducerConfig { max_in_flight_per_node: 2, ..config() };
    let mut producer = connect(&cluster, config).await;
    let started = Instant::now();
    let slow: Vec<_> = (0..6).map(|_| producer.try_send(events_of(1, 1), NOW).unwrap()).collect();
    for _ in 0..20 {
        producer.try_send(events_of(0, 1), NOW).unwrap().await;
    }
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    for ticket in slow {
        assert_eq!(ticket.await.accepted, 1);
    }
    // Two at a time, and nobody is asked twice.
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
    let totals = producer.finish().await.unwrap();
    assert_eq!((totals.accepted, totals.duplicate, totals.retries), (26, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_blocks_of_each_shard_have_consecutive_numbers_also_where_batches_do_not_reach_every_shard() {
    let cluster = Cluster::of(&["a:1", "b:1"]);
    let mut producer = connect(&cluster, config()).await;
    for round in 0..12 {
        let shards = if round % 4 == 0 { vec![0, 1] } else { vec![round % 2] };
        let events = shards.iter().flat_map(|&shard| events_of(shard, 2)).collect();
        assert!(producer.try_send(events, NOW).unwrap().await.is_delivered());
    }
    let seqs = cluster.seqs_by_shard();
    assert_eq!(seqs, BTreeMap::from([(0, (0..6).collect()), (1, (0..9).collect())]));
}

#[tokio::test(start_paused = true)]
async fn a_lost_acknowledgement_leads_to_a_duplicate_that_counts_once() {
    let cluster = Cluster::of(&["a:1", "b:1"]);
    cluster.set("a:1", Mood::LoseAcks);
    let mut producer = connect(&cluster, config()).await;
    let outcome = producer.try_send(events_of(0, 7), NOW).unwrap().await;
    assert_eq!((outcome.accepted, outcome.duplicate), (7, 7));
    assert_eq!((cluster.events(), cluster.blocks()), (7, 1));
    let totals = producer.finish().await.unwrap();
    assert_eq!((totals.accepted, totals.duplicate, totals.retries), (7, 7, 1));
}

#[tokio::test(start_paused = true)]
async fn retries_back_off_and_each_block_of_a_line_that_breaks_again_and_again_arrives() {
    let cluster = Cluster::of(&["a:1"]);
    cluster.set("a:1", Mood::Refuse(RefusalReason::Overloaded, 1));
    let mut producer = connect(&cluster, config()).await;
    let ticket = producer.try_send(events_of(0, 1), NOW).unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let came = cluster.came();
    let pauses: Vec<Duration> = came.windows(2).map(|pair| pair[1].after - pair[0].after).collect();
    assert!(pauses[0] <= Duration::from_millis(60), "{pauses:?}");
    assert!(pauses[6..].iter().all(|pause| *pause >= Duration::from_millis(800)), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(2_010)), "{pauses:?}");
    // Now it hangs up after each block.
    cluster.set("a:1", Mood::HangUp);
    assert_eq!(ticket.await.accepted, 1);
    producer.send(events(100), NOW).await.unwrap();
    let totals = producer.finish().await.unwrap();
    assert_eq!((totals.accepted, cluster.events()), (101, 101));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_good_is_told_by_ticket_error_and_totals() {
    let cluster = Cluster::of(&["a:1", "b:1"]);
    cluster.set("b:1", Mood::Refuse(RefusalReason::Malformed, 0));
    let mut producer = connect(&cluster, config()).await;
    let batch = [events_of(0, 3), events_of(1, 4)].concat();
    let outcome = producer.try_send(batch, NOW).unwrap().await;
    assert_eq!((outcome.events, outcome.accepted, outcome.undelivered_events()), (7, 3, 4));
    assert!(matches!(outcome.undelivered[0].why, Why::Refused { reason: RefusalReason::Malformed, .. }));
    let error = producer.settle_ready().await.expect_err("a refusal");
    assert!(matches!(error, ClientError::Refused { reason: RefusalReason::Malformed, .. }), "{error}");
    producer.settle_ready().await.expect("it is told once");
    let totals = producer.finish().await.unwrap();
    assert_eq!((totals.accepted, totals.refused), (3, 4));
    add_up(&totals);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_as_long_as_it_said_and_gets_its_events_back() {
    let cluster = Cluster::of(&["a:1"]);
    let config = ProducerConfig { max_in_flight: 2, retry_for: PATIENCE, ..config() };
    let mut producer = connect(&cluster, config).await;
    cluster.set("a:1", Mood::Away);
    let (_a, _b) = (producer.try_send(events_of(0, 1), NOW), producer.try_send(events_of(0, 1), NOW));
    let started = Instant::now();
    let Err(SendError::Full { events: back, blocks: 2, .. }) = producer.try_send(events_of(0, 9), NOW) else {
        panic!("there is room?")
    };
    assert_eq!((back.len(), started.elapsed()), (9, Duration::ZERO));
    let within = Duration::from_millis(1_234);
    let error = producer.send_within(back, NOW, within).await.expect_err("no room");
    assert!(started.elapsed() - within < Duration::from_millis(5), "{:?}", started.elapsed());
    assert_eq!(error.into_events().len(), 9);
    assert_eq!(producer.totals().events, 2, "nothing was taken");
    // With room again, the same call goes through, and numbers have no gap.
    cluster.set("a:1", Mood::Well);
    let ticket = producer.send_within(events_of(0, 9), NOW, PATIENCE).await.unwrap();
    assert_eq!(ticket.await.accepted, 9);
    assert_eq!(cluster.seqs(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn without_a_spool_blocks_are_given_up_in_the_end_and_that_is_told() {
    let cluster = Cluster::of(&["a:1", "b:1"]);
    let config = ProducerConfig { retry_for: Duration::from_secs(5), ..config() };
    let mut producer = connect(&cluster, config).await;
    cluster.set_all(&Mood::Away);
    let ticket = producer.try_send(events(50), NOW).unwrap();
    let error = producer.flush().await.expect_err("nobody is there");
    assert!(matches!(error, ClientError::Unacknowledged { .. }), "{error}");
    let outcome = ticket.await;
    assert_eq!(outcome.undelivered_events(), 50);
    let Why::GivenUp { waited, last } = &outcome.undelivered[0].why else { panic!("{outcome:?}") };
    assert!((5..6).contains(&waited.as_secs()), "{waited:?}");
    assert!(last.contains("killed") || last.contains("refused"), "{last}");
    let totals = producer.close(Duration::ZERO).await;
    assert_eq!(totals.given_up, 50);
    add_up(&totals);
}

#[tokio::test(start_paused = true)]
async fn bad_events_are_told_by_their_place_and_the_others_count() {
    let cluster = Cluster::of(&["a:1"]);
    let mut producer = connect(&cluster, config()).await;
    let batch = vec![event("/a"), event(""), event("/b"), event(&"x".repeat(3_000))];
    let outcome = producer.try_send(batch, NOW).unwrap().await;
    assert_eq!(outcome.rejected_at, [(1, Reason::MissingUrl), (3, Reason::UrlTooLong)]);
    assert_eq!((outcome.accepted, outcome.rejected_events()), (2, 2));
    let Err(SendError::Batch { events: back, .. }) = producer.try_send(vec![event("/"); 65_537], NOW) else {
        panic!("that many events?")
    };
    assert_eq!(back.len(), 65_537);
    let totals = producer.finish().await.unwrap();
    assert_eq!(totals.rejected[&Reason::MissingUrl], 1);
    add_up(&totals);
}

#[tokio::test(start_paused = true)]
async fn a_block_that_no_node_would_take_is_refused_here() {
    let cluster = Cluster::of(&["a:1"]);
    let mut producer = connect(&cluster, config()).await;
    // Each page once, with a long name.
    let long = |page: u64| event(&format!("/{page}/{}", "x".repeat(2_000)));
    let outcome = producer.try_send((0..20_000).map(long).collect(), NOW).unwrap().await;
    assert_eq!(outcome.undelivered_events(), 20_000);
    assert!(matches!(outcome.undelivered[0].why, Why::Refused { reason: RefusalReason::TooLarge, .. }));
    let totals = producer.close(PATIENCE).await;
    assert_eq!((totals.refused, cluster.came().len()), (20_000, 0));
    add_up(&totals);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_is_dropped_says_so_to_whoever_holds_a_ticket() {
    let cluster = Cluster::of(&["a:1"]);
    let mut producer = connect(&cluster, config()).await;
    cluster.set("a:1", Mood::Hang);
    let ticket = producer.try_send(vec![event("/a"), event("")], NOW).unwrap();
    drop(producer);
    let outcome = ticket.await;
    assert_eq!((outcome.events, outcome.undelivered_events(), outcome.rejected_events()), (2, 1, 1));
    assert_eq!(outcome.undelivered[0].why, Why::Abandoned);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_configured_is_replaced_by_others_once_they_are_known() {
    let cluster = Cluster::of(&["a:1", "b:1"]);
    let mut producer = connect(&cluster, config()).await;
    cluster.set("a:1", Mood::Away);
    // Its watcher learns of the change from the other node.
    let mut without_a = placement(&["b:1"]);
    without_a.owners.iter_mut().for_each(|owners| owners.writers = vec![0]);
    cluster.place(without_a);
    producer.send(events(100), NOW).await.unwrap();
    let totals = producer.finish().await.unwrap();
    assert_eq!(totals.accepted, 100);
    assert!(cluster.came().iter().all(|block| block.node == "b:1"));
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let cluster = Cluster::of(&["a:1", "b:1", "c:1"]);
        let mut producer = connect(&cluster, config()).await;
        for round in 0..30_u64 {
            let mood = match round % 5 {
                0 => Mood::LoseAcks,
                1 => Mood::Refuse(RefusalReason::OwnersDiffer, 5),
                2 => Mood::Away,
                3 => Mood::Slow(Duration::from_millis(70)),
                _ => Mood::Well,
            };
            cluster.set(["a:1", "b:1", "c:1"][round as usize % 3], mood);
            producer.send(events(40), NOW).await.unwrap();
            tokio::time::sleep(Duration::from_millis(13 * round)).await;
        }
        cluster.set_all(&Mood::Well);
        let totals = producer.finish().await.unwrap();
        assert_eq!((totals.accepted, cluster.events()), (1_200, 1_200));
        assert!(totals.retries > 0);
        runs.push((cluster.came(), totals));
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_blocks_go_to_owners_and_a_node_that_is_killed_and_comes_back_gets_its_own_again() {
    let (cluster, addresses) = Cluster::listening(2).await;
    let config = ProducerConfig::new(format!("http://{}", addresses[0]));
    let mut producer = Producer::connect(config, ID).await.unwrap();
    producer.try_send(events(100), NOW).unwrap().await;
    for block in cluster.came() {
        assert_eq!(block.node, addresses[block.shard as usize % 2]);
    }
    cluster.set(&addresses[1], Mood::Away);
    let outcome = producer.send_within(events(100), NOW, PATIENCE).await.unwrap().await;
    assert_eq!(outcome.accepted, 100);
    cluster.set(&addresses[1], Mood::Well);
    until("the node is trusted again", || {
        drop(producer.try_send(events_of(1, 1), NOW));
        cluster.came().last().is_some_and(|block| block.node == addresses[1])
    })
    .await;
    let totals = producer.finish().await.unwrap();
    assert_eq!(totals.accepted, totals.events);
    assert_eq!(cluster.events(), totals.events);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_none_and_one_where_nobody_is_are_told_apart() {
    let cluster = Cluster::of(&["a:1"]);
    for address in ["a:1", "http://a", "ftp://a:1", "http://a:1/path"] {
        let error = Producer::connect_with(ProducerConfig::new(address), ID, cluster.parts(1)).await;
        assert!(matches!(error, Err(ClientError::Address { .. })), "{address}");
    }
    cluster.set("a:1", Mood::Away);
    let error = Producer::connect_with(config(), ID, cluster.parts(1)).await.expect_err("nobody is there");
    let ClientError::Unreachable { address, message } = error else { panic!("{error}") };
    assert_eq!((address.as_str(), message.as_str()), ("http://a:1", "connection refused"));
}

struct At(EventTime);

impl Clock for At {
    fn now(&self) -> EventTime {
        self.0
    }
}

#[tokio::test(start_paused = true)]
async fn single_events_are_sent_when_they_are_enough_or_old_enough() {
    let cluster = Cluster::of(&["a:1"]);
    let producer = connect(&cluster, config()).await;
    let config = BatchConfig { events: 10, ..BatchConfig::default() };
    let mut batcher = Batcher::new(producer, config, Arc::new(At(NOW)));
    for n in 0..9 {
        assert!(batcher.push(event(&format!("/{n}"))).await.unwrap().is_none());
    }
    let outcome = batcher.push(event("/9")).await.unwrap().expect("ten are enough").await;
    assert_eq!(outcome.accepted, 10);
    let started = Instant::now();
    batcher.push(event("/10")).await.unwrap();
    batcher.due().await;
    assert!(started.elapsed() >= Duration::from_millis(50) && started.elapsed() < Duration::from_millis(55));
    let outcome = batcher.send().await.unwrap().expect("it is due").await;
    assert_eq!((outcome.accepted, batcher.waiting()), (1, 0));
    batcher.push(event("/11")).await.unwrap();
    let totals = batcher.close(PATIENCE).await.unwrap();
    assert_eq!((totals.accepted, cluster.events()), (12, 12));
}

#[tokio::test(start_paused = true)]
async fn a_batcher_that_finds_no_room_keeps_its_batch_and_gives_the_next_event_back() {
    let cluster = Cluster::of(&["a:1"]);
    let producer = connect(&cluster, ProducerConfig { max_in_flight: 1, ..config() }).await;
    cluster.set("a:1", Mood::Away);
    let config = BatchConfig { events: 2, ..BatchConfig::default() };
    let mut batcher = Batcher::new(producer, config, Arc::new(At(NOW)));
    let mut taken = 0;
    let started = Instant::now();
    let back = loop {
        match batcher.push(event("/a")).await {
            Ok(_) => taken += 1,
            Err(error) => break error.into_events(),
        }
    };
    assert_eq!((taken, back.len(), batcher.waiting()), (4, 1, 2));
    // Two pushes waited for room.
    assert!(started.elapsed() < Duration::from_millis(220), "{:?}", started.elapsed());
    cluster.set("a:1", Mood::Well);
    let totals = batcher.close(PATIENCE).await.unwrap();
    assert_eq!((totals.accepted, cluster.events()), (4, 4));
}
