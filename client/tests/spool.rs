//! What is kept on disk while a cluster is away, and what becomes of it.

#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;
use support::{Cluster, Mood, NOW, PATIENCE, SHARDS, events, events_of};
use tidemark_client::{
    Backoff, ClientError, Producer, ProducerConfig, SendError, SpoolConfig, SpoolError, SyncPolicy, Totals,
    Why,
};
use tidemark_proto::v1::RefusalReason;
use tidemark_rollup::block::ProducerId;
use tokio::time::Instant;

const ID: ProducerId = ProducerId::from_u128(0xABCD);

/// Impatient, so that the tests are quick.
fn config(dir: &Path) -> ProducerConfig {
    let spool = SpoolConfig {
        sync: SyncPolicy::Interval(Duration::from_millis(1)),
        spool_after: Duration::from_millis(30),
        ..SpoolConfig::new(dir)
    };
    ProducerConfig {
        timeout: Duration::from_millis(500),
        backoff: Backoff { first: Duration::from_millis(2), most: Duration::from_millis(20) },
        spool: Some(spool),
        ..ProducerConfig::new("http://a:1")
    }
}

/// A producer as after a restart: the one before may still be letting go of the folder.
async fn start(cluster: &Cluster, config: &ProducerConfig, id: u128) -> Producer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let id = ProducerId::from_u128(id);
        match Producer::connect_with(config.clone(), id, cluster.parts(1)).await {
            Ok(producer) => return producer,
            Err(ClientError::Spool(SpoolError::Open(_))) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until that many events are on disk.
async fn spooled(producer: &mut Producer, events: u64) {
    let deadline = Instant::now() + PATIENCE;
    while producer.totals().spooled < events {
        assert!(Instant::now() < deadline, "not yet on disk: {:?}", producer.totals());
        tokio::time::sleep(Duration::from_millis(1)).await;
        producer.settle_ready().await.unwrap();
    }
}

fn add_up(totals: &Totals) {
    assert_eq!(totals.events + totals.recovered, totals.settled(), "{totals:?}");
}

#[tokio::test]
async fn what_could_not_be_brought_survives_a_crash_and_arrives_once_under_its_old_identity() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1", "b:1"]);
    let mut producer = start(&cluster, &config(dir.path()), 1).await;
    producer.try_send(events(100), NOW).unwrap().await;
    cluster.set_all(&Mood::Away);
    for _ in 0..3 {
        drop(producer.try_send(events(100), NOW).unwrap());
    }
    spooled(&mut producer, 300).await;
    // On disk it does not take room in memory: the flush is done although nobody is there.
    producer.flush().await.unwrap();
    drop(producer);
    // The cluster is away still, and another id is given.
    let mut producer = start(&cluster, &config(dir.path()), 2).await;
    assert_eq!(producer.id(), ProducerId::from_u128(1));
    assert_eq!((producer.found().events, producer.found().blocks), (300, 3 * u64::from(SHARDS)));
    let ticket = producer.try_send(events(100), NOW).unwrap();
    cluster.set_all(&Mood::Well);
    assert_eq!(ticket.await.accepted, 100);
    let totals = producer.finish().await.unwrap();
    assert_eq!((totals.events, totals.recovered, totals.accepted), (100, 300, 400));
    add_up(&totals);
    assert_eq!((cluster.events(), cluster.producers()), (500, 1));
    let seqs = cluster.seqs();
    assert_eq!(seqs[..4], [0, 1, 2, 3]);
    assert!(seqs[4] > 3 && seqs.len() == 5, "{seqs:?}");
    // Nothing is left for the next one.
    let producer = start(&cluster, &config(dir.path()), 3).await;
    assert_eq!(producer.close(PATIENCE).await.recovered, 0);
}

#[tokio::test]
async fn numbers_of_blocks_that_were_never_on_disk_are_not_used_again_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1"]);
    for life in 1..=4 {
        let mut producer = start(&cluster, &config(dir.path()), 1).await;
        for _ in 0..5 {
            producer.try_send(events(10), NOW).unwrap().await;
        }
        drop(producer);
        assert_eq!(cluster.events(), life * 50, "an identity was used twice");
    }
}

#[tokio::test]
async fn closing_puts_what_is_left_on_disk_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1"]);
    let patient = |mut config: ProducerConfig| {
        config.spool.as_mut().unwrap().spool_after = PATIENCE;
        config
    };
    let mut producer = start(&cluster, &patient(config(dir.path())), 1).await;
    cluster.set("a:1", Mood::Hang);
    let ticket = producer.try_send(events(60), NOW).unwrap();
    let totals = producer.close(Duration::from_millis(20)).await;
    assert_eq!((totals.events, totals.accepted, totals.spooled), (60, 0, 60));
    add_up(&totals);
    let outcome = ticket.await;
    assert_eq!(outcome.undelivered_events(), 60);
    assert!(outcome.undelivered.iter().all(|block| block.why == Why::Spooled));
    cluster.set("a:1", Mood::Well);
    let totals = start(&cluster, &config(dir.path()), 1).await.finish().await.unwrap();
    assert_eq!((totals.recovered, totals.accepted, cluster.events()), (60, 60, 60));
}

#[tokio::test]
async fn a_full_spool_keeps_the_oldest_and_callers_are_told_that_there_is_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1"]);
    let mut config = config(dir.path());
    config.max_in_flight = 8;
    config.spool.as_mut().unwrap().limit_bytes = 256 << 10;
    let mut producer = start(&cluster, &config, 1).await;
    cluster.set("a:1", Mood::Away);
    // Batches of some 20 KB, each of a shard of its own, until one is refused.
    let batch = || {
        let mut batch = events_of(0, 1_000);
        (0..).zip(&mut batch).for_each(|(n, event)| event.visitor_hash = u64::MAX - n);
        batch
    };
    let mut taken = 0;
    let mut tickets = Vec::new();
    let refused = loop {
        match producer.send_within(batch(), NOW, Duration::from_millis(700)).await {
            Ok(ticket) => tickets.push(ticket),
            Err(SendError::Full { events, .. }) => break events,
            Err(error) => panic!("{error}"),
        }
        taken += 1;
        assert!(taken < 100, "it has no bound");
    };
    assert_eq!(refused.len(), 1_000);
    let size: u64 = std::fs::read_dir(dir.path().join("blocks"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size <= (256 << 10) + 1_000, "{size}");
    // What is on disk is what came first; what was in memory is given up when there is no room for it.
    let totals = producer.close(Duration::ZERO).await;
    add_up(&totals);
    let (kept, lost) = ((totals.spooled / 1_000) as usize, (totals.given_up / 1_000) as usize);
    assert_eq!((kept + lost, lost), (taken, 8), "{totals:?}");
    for (at, ticket) in tickets.into_iter().enumerate() {
        let outcome = ticket.await;
        let spooled = outcome.undelivered[0].why == Why::Spooled;
        assert_eq!(spooled, at < kept, "{at}: {outcome:?}");
    }
    cluster.set("a:1", Mood::Well);
    let totals = start(&cluster, &config, 1).await.finish().await.unwrap();
    assert_eq!((totals.recovered, totals.accepted), (kept as u64 * 1_000, kept as u64 * 1_000));
    assert_eq!(cluster.seqs(), (0..kept as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cluster_that_is_back_gets_old_and_new_blocks_side_by_side_and_the_disk_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1", "b:1"]);
    let mut config = config(dir.path());
    config.max_in_flight = 16;
    config.spool.as_mut().unwrap().window = 4;
    let mut producer = start(&cluster, &config, 1).await;
    cluster.set_all(&Mood::Away);
    for _ in 0..50 {
        drop(producer.send_within(events(40), NOW, PATIENCE).await.unwrap());
    }
    spooled(&mut producer, 50 * 40 - 640).await;
    cluster.set_all(&Mood::Slow(Duration::from_millis(2)));
    let outcome = producer.send_within(events(40), NOW, PATIENCE).await.unwrap().await;
    assert_eq!(outcome.accepted, 40);
    assert!(cluster.blocks() < 51 * SHARDS as usize, "new blocks need not wait for all old ones");
    let totals = producer.finish().await.unwrap();
    assert_eq!((totals.accepted, totals.spooled, cluster.events()), (51 * 40, 0, 51 * 40));
    let left = start(&cluster, &config, 1).await;
    assert_eq!(left.found().blocks, 0);
}

#[tokio::test]
async fn a_block_that_is_refused_for_good_after_it_was_on_disk_is_told_and_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1"]);
    let mut producer = start(&cluster, &config(dir.path()), 1).await;
    cluster.set("a:1", Mood::Away);
    let ticket = producer.try_send(events_of(0, 5), NOW).unwrap();
    spooled(&mut producer, 5).await;
    cluster.set("a:1", Mood::Refuse(RefusalReason::BadSealTime, 0));
    let outcome = ticket.await;
    assert!(matches!(outcome.undelivered[0].why, Why::Refused { reason: RefusalReason::BadSealTime, .. }));
    let totals = producer.close(PATIENCE).await;
    assert_eq!((totals.refused, totals.spooled), (5, 0));
    add_up(&totals);
    assert_eq!(start(&cluster, &config(dir.path()), 1).await.found().blocks, 0);
}

#[tokio::test]
async fn folders_that_are_not_what_they_should_be_are_refused_with_what_to_do() {
    let cluster = Cluster::of(&["a:1"]);
    let connect = |dir: &Path| Producer::connect_with(config(dir), ID, cluster.parts(1));
    let dir = tempfile::tempdir().unwrap();
    let mut producer = start(&cluster, &config(dir.path()), 1).await;
    // Two producers in one folder would use each number twice.
    let error = connect(dir.path()).await.expect_err("it is in use").to_string();
    assert!(error.contains("another folder"), "{error}");
    cluster.set("a:1", Mood::Away);
    drop(producer.try_send(events(10), NOW).unwrap());
    drop(producer.close(Duration::ZERO).await);
    cluster.set("a:1", Mood::Well);
    let sequence = dir.path().join("sequence");
    let good = std::fs::read(&sequence).unwrap();
    std::fs::remove_file(&sequence).unwrap();
    let error = connect(dir.path()).await.expect_err("it is gone").to_string();
    assert!(error.contains("put it back"), "{error}");
    std::fs::write(&sequence, &good[..20]).unwrap();
    let error = connect(dir.path()).await.expect_err("it is damaged").to_string();
    assert!(error.contains("damaged") && error.contains("another folder"), "{error}");
    // The file of another producer.
    let other = tempfile::tempdir().unwrap();
    drop(start(&cluster, &config(other.path()), 77).await.close(Duration::ZERO).await);
    std::fs::copy(other.path().join("sequence"), &sequence).unwrap();
    let error = connect(dir.path()).await.expect_err("it is another's").to_string();
    assert!(error.contains("another folder"), "{error}");
    std::fs::write(&sequence, good).unwrap();
    let totals = connect(dir.path()).await.unwrap().finish().await.unwrap();
    assert_eq!(totals.recovered, 10, "nothing was lost by all that");
}

#[tokio::test]
async fn an_old_copy_of_the_sequence_file_does_not_lead_to_numbers_of_blocks_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1"]);
    let mut first = start(&cluster, &config(dir.path()), 1).await;
    cluster.set("a:1", Mood::Away);
    drop(first.try_send(events(10), NOW).unwrap());
    drop(first.close(Duration::ZERO).await);
    let old = std::fs::read(dir.path().join("sequence")).unwrap();
    let mut second = start(&cluster, &config(dir.path()), 1).await;
    drop(second.try_send(events(10), NOW).unwrap());
    drop(second.close(Duration::ZERO).await);
    std::fs::write(dir.path().join("sequence"), old).unwrap();
    let mut third = start(&cluster, &config(dir.path()), 1).await;
    cluster.set("a:1", Mood::Well);
    drop(third.try_send(events(10), NOW).unwrap());
    let totals = third.finish().await.unwrap();
    assert_eq!((totals.accepted, totals.duplicate, cluster.events()), (30, 0, 30));
}

#[derive(Clone, Debug)]
enum Step {
    Send(u64),
    Mood(usize, u8),
    Wait(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1..60_u64).prop_map(Step::Send),
        4 => (0..3_usize, 0..8_u8).prop_map(|(node, mood)| Step::Mood(node, mood)),
        3 => (0..60_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn through_failures_and_restarts_each_event_has_one_outcome_and_all_arrive_once(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let nodes = ["a:1", "b:1", "c:1"];
            let cluster = Cluster::of(&nodes);
            let mut config = config(dir.path());
            config.max_in_flight = 12;
            config.timeout = Duration::from_millis(60);
            config.spool.as_mut().unwrap().window = 3;
            let mut producer = start(&cluster, &config, 1).await;
            let (mut taken, mut tickets) = (0, Vec::new());
            for step in steps {
                match step {
                    Step::Send(count) => {
                        let sent = producer.send_within(events(count), NOW, Duration::from_millis(50)).await;
                        if let Ok(ticket) = sent {
                            taken += count;
                            tickets.push((count, ticket));
                        }
                    }
                    Step::Mood(node, mood) => cluster.set(nodes[node], match mood {
                        0 => Mood::Away,
                        1 => Mood::Hang,
                        2 => Mood::LoseAcks,
                        3 => Mood::Refuse(RefusalReason::OwnersDiffer, 3),
                        4 => Mood::HangUp,
                        5 => Mood::Slow(Duration::from_millis(20)),
                        _ => Mood::Well,
                    }),
                    Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                    Step::Restart => {
                        let totals = producer.close(Duration::from_millis(5)).await;
                        add_up(&totals);
                        assert_eq!(totals.given_up + totals.refused, 0, "{totals:?}");
                        for (count, ticket) in std::mem::take(&mut tickets) {
                            let outcome = ticket.await;
                            assert_eq!(outcome.accepted + outcome.undelivered_events(), count);
                            assert!(outcome.undelivered.iter().all(|block| block.why == Why::Spooled));
                        }
                        producer = start(&cluster, &config, 1).await;
                    }
                }
            }
            cluster.set_all(&Mood::Well);
            let totals = producer.finish().await.unwrap();
            add_up(&totals);
            assert_eq!(totals.events + totals.recovered, totals.accepted);
            for (count, ticket) in tickets {
                assert_eq!(ticket.await.accepted, count);
            }
            assert_eq!(cluster.events(), taken);
        });
    }
}

#[tokio::test]
async fn a_batch_is_safe_once_it_is_on_disk_although_nobody_is_there_and_a_crash_then_loses_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1", "b:1"]);
    let mut config = config(dir.path());
    config.spool.as_mut().unwrap().spool_after = Duration::ZERO;
    let mut producer = start(&cluster, &config, 1).await;
    cluster.set_all(&Mood::Away);
    let mut tickets = Vec::new();
    for _ in 0..3 {
        let mut ticket = producer.try_send(events(100), NOW).unwrap();
        assert_eq!(ticket.safe().await, Ok(()));
        // Whoever asks again is told the same.
        assert_eq!(ticket.safe().await, Ok(()));
        tickets.push(ticket);
    }
    // A crash: nobody waited for the spool, and nothing was put away.
    drop(producer);
    cluster.set_all(&Mood::Well);
    let totals = start(&cluster, &config, 2).await.finish().await.unwrap();
    assert_eq!((totals.recovered, totals.accepted, cluster.events()), (300, 300, 300));
}

#[tokio::test]
async fn what_is_acknowledged_is_safe_and_what_is_refused_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::of(&["a:1"]);
    // Nothing goes to disk by itself.
    let mut config = config(dir.path());
    config.spool.as_mut().unwrap().spool_after = PATIENCE;
    let mut producer = start(&cluster, &config, 1).await;
    let mut ticket = producer.try_send(events(10), NOW).unwrap();
    assert_eq!(ticket.safe().await, Ok(()));
    assert_eq!(ticket.await.accepted, 10);
    cluster.set_all(&Mood::Refuse(RefusalReason::Malformed, 0));
    let mut ticket = producer.try_send(events(10), NOW).unwrap();
    assert!(matches!(ticket.safe().await, Err(Why::Refused { .. })));
    assert_eq!(ticket.await.undelivered_events(), 10);
    cluster.set_all(&Mood::Hang);
    let mut ticket = producer.try_send(events(10), NOW).unwrap();
    drop(producer);
    assert_eq!(ticket.safe().await, Err(Why::Abandoned));
}
