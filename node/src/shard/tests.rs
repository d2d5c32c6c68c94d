//! Shards that fail, and what becomes of bad input.

mod active;
mod asked;
mod owners;
mod two_passes;
mod world;

use crate::remembered::Remembered;
use bytes::Bytes;
use std::time::Duration;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1;
use tidemark_proto::v1::{Reason, RefusalReason};
use tidemark_rollup::sharding::ShardCount;
use world::{Cluster, NOW_MS, PATIENCE, batch, event, pages};

#[tokio::test]
async fn a_batch_sent_to_every_node_ten_times_counts_once() {
    let cluster = Cluster::of(&["a", "b", "c"], |_| {}).await;
    for round in 0..10 {
        let acks = cluster.rows(round % 3, vec![batch(1, pages(100)), batch(2, pages(50))]).await;
        assert_eq!(acks.iter().map(|ack| ack.accepted).collect::<Vec<_>>(), [100, 50]);
        let duplicate = if round == 0 { [0, 0] } else { [100, 50] };
        assert_eq!(acks.iter().map(|ack| ack.duplicate).collect::<Vec<_>>(), duplicate);
    }
    assert_eq!(cluster.views().await, 150);
}

#[tokio::test]
async fn a_shard_that_panics_is_rebuilt_and_the_node_lives_on() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    cluster.rows(0, vec![batch(1, pages(200))]).await;
    for shard in &cluster.nodes[0].shards {
        shard.panic();
    }
    cluster.views_become(200).await;
    let acks = cluster.rows(0, vec![batch(1, pages(200)), batch(2, pages(10))]).await;
    assert_eq!((acks[0].duplicate, acks[1].accepted), (200, 10));
    assert_eq!(cluster.views().await, 210);
    assert_eq!(cluster.metric("tidemark_shard_restarts_total"), Some(8));
}

#[tokio::test]
async fn a_shard_that_keeps_failing_stays_down_and_the_others_go_on() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    cluster.rows(0, vec![batch(1, pages(200))]).await;
    let shard = cluster.nodes[0].shards[3].clone();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while shard.is_up() {
        assert!(tokio::time::Instant::now() < deadline, "the shard is still up");
        shard.panic();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let left = cluster.views().await;
    assert!((1..200).contains(&left), "{left}");
    let acks = cluster.rows(0, vec![batch(2, pages(200))]).await;
    assert_eq!(acks[0].refused.as_ref().unwrap().reason(), RefusalReason::OwnerUnavailable);
}

#[test]
fn a_block_that_made_a_shard_fail_is_set_aside() {
    let remembered = Remembered::default();
    let id = tidemark_rollup::block::BlockId {
        producer: tidemark_rollup::block::ProducerId::from_u128(1),
        shard: ShardCount::DEFAULT.shard(0).unwrap(),
        seq: 5,
    };
    assert!(remembered.begin(id));
    assert_eq!(remembered.set_unfinished_aside(), Some(id));
    assert!(!remembered.begin(id), "its next copy must not be counted");
    assert_eq!(remembered.set_unfinished_aside(), None);
}

#[tokio::test]
async fn each_bad_event_has_its_reason_and_leaves_its_neighbours_counted() {
    let cluster = Cluster::of(&["a", "b"], |_| {}).await;
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let value = |value: i64| vec![v1::event::ValuesEntry { key: text("bytes"), value }];
    let bad = [
        (v1::Event { site: Bytes::new(), ..event("/") }, Reason::MissingSite),
        (v1::Event { site: text("a b"), ..event("/") }, Reason::BadSite),
        (event(""), Reason::MissingUrl),
        (event("http://[::1"), Reason::BadUrl),
        (event(&"/".repeat(2049)), Reason::UrlTooLong),
        (v1::Event { kind: text(&"k".repeat(65)), ..event("/") }, Reason::KindTooLong),
        (v1::Event { time_ms: NOW_MS + 60_001, ..event("/") }, Reason::FromFuture),
        (v1::Event { time_ms: NOW_MS - 48 * 3_600_000 - 1, ..event("/") }, Reason::TooLate),
        (v1::Event { values: value(-1), ..event("/") }, Reason::NegativeValue),
        (v1::Event { values: value((1 << 40) + 1), ..event("/") }, Reason::ValueTooLarge),
        (v1::Event { url: Bytes::from_static(b"/\xFF"), ..event("/") }, Reason::InvalidUtf8),
    ];
    let expected: Vec<Reason> = bad.iter().map(|(_, reason)| *reason).collect();
    let events = bad.into_iter().flat_map(|(event, _)| [event, self::event("/good")]).collect();
    let ack = cluster.rows(1, vec![batch(1, events)]).await.remove(0);
    assert_eq!(ack.rejected.iter().map(v1::Rejection::reason).collect::<Vec<_>>(), expected);
    assert_eq!(
        ack.rejected.iter().map(|rejection| rejection.index).collect::<Vec<_>>(),
        (0..11).map(|n| n * 2).collect::<Vec<_>>()
    );
    assert_eq!(ack.accepted, 11);
    assert_eq!(cluster.views().await, 11);
    for reason in expected {
        let line = format!("tidemark_events_rejected_total{{node=\"b\",reason=\"{}\"}}", reason.name());
        assert_eq!(cluster.metric(&line), Some(1), "{line}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_event_are_rejected_and_neither_their_batch_nor_the_stream() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    let mut broken = EncodedBatch::from(&batch(1, pages(3)));
    // A site of more bytes than there are.
    broken.events.insert(1, Bytes::from_static(&[0x0A, 9, b'x']));
    let acks = cluster.encoded_rows(0, vec![broken, EncodedBatch::from(&batch(2, pages(1)))]).await;
    let unreadable = v1::Rejection { index: 1, reason: Reason::Unreadable.into() };
    assert_eq!((acks[0].accepted, &acks[0].rejected), (3, &vec![unreadable]));
    assert_eq!(acks[1].accepted, 1);
    assert_eq!(cluster.views().await, 4);
    let line = "tidemark_events_rejected_total{node=\"a\",reason=\"unreadable\"}";
    assert_eq!(cluster.metric(line), Some(1));
}

#[tokio::test]
async fn what_is_ignored_is_told_and_the_event_counts() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    let dimension = |name: &str, value: String| v1::event::DimensionsEntry {
        key: Bytes::copy_from_slice(name.as_bytes()),
        value: value.into(),
    };
    let odd = v1::Event {
        dimensions: vec![dimension("planet", "mars".into()), dimension("device", "x".repeat(1025))],
        values: vec![v1::event::ValuesEntry { key: Bytes::from_static(b"weight"), value: 3 }],
        ..event("/")
    };
    let ack = cluster.rows(0, vec![batch(1, vec![odd])]).await.remove(0);
    assert_eq!((ack.accepted, ack.rejected.len()), (1, 0));
    let ignored: Vec<_> =
        ack.ignored.iter().map(|ignored| (ignored.name.as_str(), ignored.why().name())).collect();
    let expected =
        [("planet", "unknown_dimension"), ("device", "dimension_too_long"), ("weight", "unknown_value")];
    assert_eq!(ignored, expected.map(|(name, why)| (name, why.to_owned())));
    for why in ["unknown_dimension", "dimension_too_long", "unknown_value"] {
        let line = format!("tidemark_fields_ignored_total{{node=\"a\",reason=\"{why}\"}}");
        assert_eq!(cluster.metric(&line), Some(1), "{line}");
    }
}

#[tokio::test]
async fn batches_refused_as_a_whole_leave_their_neighbours_on_the_stream_counted() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    let large = batch(3, (0..4000).map(|n| event(&format!("/{n}{}", "x".repeat(1100)))).collect());
    let batches = vec![
        batch(1, pages(1)),
        batch(2, vec![]),
        large,
        v1::EventBatch { producer: Bytes::from_static(b"short"), ..batch(4, pages(1)) },
        v1::EventBatch { sealed_at_ms: NOW_MS + 120_000, ..batch(5, pages(1)) },
        batch(6, pages(2)),
    ];
    let acks = cluster.rows(0, batches).await;
    let outcomes: Vec<_> = acks.iter().map(|ack| ack.refused.as_ref().map(v1::Refusal::reason)).collect();
    let expected = [
        None,
        Some(RefusalReason::Empty),
        Some(RefusalReason::TooLarge),
        Some(RefusalReason::BadProducer),
        Some(RefusalReason::BadSealTime),
        None,
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(cluster.views().await, 3);
    assert_eq!(cluster.metric("tidemark_batches_refused_total{node=\"a\",reason=\"too_large\"}"), Some(1));
}

#[tokio::test]
async fn malformed_and_misplaced_blocks_are_refused_by_name() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    let block = v1::Block {
        producer: Bytes::from_static(&[1; 16]),
        shard: 2,
        seq: 1,
        sealed_at_ms: NOW_MS,
        event_count: 3,
        columns: Bytes::from_static(b"nonsense"),
    };
    let blocks = [
        block.clone(),
        v1::Block { shard: 99, ..block.clone() },
        v1::Block { producer: Bytes::new(), ..block.clone() },
        v1::Block { sealed_at_ms: 0, ..block.clone() },
        v1::Block { event_count: u32::MAX, ..block },
    ];
    let numbered = (1..).zip(blocks).map(|(seq, block)| v1::Block { seq, ..block }).collect();
    // They come in any order.
    let mut acks = cluster.blocks(0, numbered).await;
    acks.sort_by_key(|ack| ack.seq);
    let reasons: Vec<_> = acks.iter().map(|ack| ack.refused.as_ref().unwrap().reason()).collect();
    let expected = [
        RefusalReason::Malformed,
        RefusalReason::WrongShard,
        RefusalReason::BadProducer,
        RefusalReason::BadSealTime,
        RefusalReason::TooLarge,
    ];
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn a_node_over_its_memory_budget_refuses_events_and_still_answers() {
    let cluster = Cluster::of(&["a"], |config| config.memory_budget_bytes = 1).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut seq = 0;
    let refused = loop {
        seq += 1;
        let ack = cluster.rows(0, vec![batch(seq, pages(10))]).await.remove(0);
        if let Some(refused) = ack.refused {
            break refused;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing was refused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(refused.reason(), RefusalReason::Overloaded);
    assert!(refused.retry_after_ms > 0 && refused.message.contains("memory_budget"), "{}", refused.message);
    assert_eq!(cluster.views().await, (seq - 1) * 10);
}

#[tokio::test]
async fn a_full_journal_refuses_events_the_node_answers_and_takes_events_again_when_commits_made_room() {
    let cluster = Cluster::of(&["a"], |config| {
        config.journal_limit_bytes = Some(60_000);
        config.settle = Duration::from_secs(2);
    })
    .await;
    // Of a bucket that is closed: it is committed when nothing came for two seconds.
    let hour_ago = |n: usize| v1::Event { time_ms: NOW_MS - 3_600_000, ..event(&format!("/{n}")) };
    let send = |seq: u64| cluster.rows(0, vec![batch(seq, (0..400).map(hour_ago).collect())]);
    let deadline = tokio::time::Instant::now() + PATIENCE * 6;
    let mut seq = 0;
    let refused = loop {
        seq += 1;
        if let Some(refused) = send(seq).await.remove(0).refused {
            break refused;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing was refused");
    };
    assert_eq!(refused.reason(), RefusalReason::Overloaded);
    assert!(refused.retry_after_ms > 0 && refused.message.contains("journal"), "{}", refused.message);
    // Some shards may have taken their part of the batch that was refused.
    let views = cluster.views().await;
    assert!(((seq - 1) * 400..seq * 400).contains(&views), "{views} views of {seq} batches");
    while send(seq).await.remove(0).refused.is_some() {
        assert!(tokio::time::Instant::now() < deadline, "it does not recover");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.views_become(seq * 400).await;
}

#[tokio::test]
async fn in_flight_bytes_are_given_back() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    cluster.rows(0, (0..50).map(|seq| batch(seq, pages(100))).collect()).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while cluster.metric("tidemark_in_flight_bytes") != Some(0) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", cluster.metric("tidemark_in_flight_bytes"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
