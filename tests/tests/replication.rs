//! Several owners per shard: nodes that go, come back, join and leave cost neither events nor answers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_client::{Producer, ProducerConfig};
use tidemark_node::NodeConfig;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::member::{MemberState, View};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::PATIENCE;
use tidemark_tests::in_process::{Cluster, TestClock};

const SITE: &str = "example.com";

fn clock() -> Arc<TestClock> {
    TestClock::at(EventTime::parse_rfc3339("2026-11-22T12:03:00Z").unwrap())
}

async fn cluster(nodes: usize, clock: &Arc<TestClock>) -> Cluster {
    cluster_with(nodes, clock, |_| {}).await
}

async fn cluster_with(nodes: usize, clock: &Arc<TestClock>, change: impl Fn(&mut NodeConfig)) -> Cluster {
    Cluster::start(nodes, 16, clock.clone(), |node, _| {
        node.replication = Replication::DEFAULT;
        change(node);
    })
    .await
}

/// A producer of numbered events; each has a URL of its own.
struct Sender {
    producer: Producer,
    sent: u64,
}

impl Sender {
    async fn to(cluster: &Cluster, node: usize) -> Self {
        Self::as_producer(cluster, node, 5).await
    }

    async fn as_producer(cluster: &Cluster, node: usize, id: u128) -> Self {
        let config = ProducerConfig::new(cluster.url(node));
        Self { producer: Producer::connect(config, ProducerId::from_u128(id)).await.unwrap(), sent: 0 }
    }

    /// Sends so many events and waits until they are acknowledged.
    async fn send(&mut self, events: u64, now: EventTime) {
        let event = |n: u64| v1::Event {
            site: Bytes::from_static(SITE.as_bytes()),
            url: format!("/{n}").into(),
            visitor_hash: n + 1,
            time_ms: now.as_unix_ms(),
            ..Default::default()
        };
        self.producer.send((self.sent..self.sent + events).map(event).collect(), now).await.unwrap();
        self.producer.flush().await.unwrap();
        self.sent += events;
        let totals = self.producer.totals();
        assert_eq!(totals.accepted, self.sent, "{totals:?}");
    }
}

async fn answer(cluster: &Cluster) -> Value {
    cluster.http.query(json!({"site": SITE, "from": "-1h"})).await
}

async fn assert_complete(cluster: &Cluster, views: u64) {
    let answer = answer(cluster).await;
    assert_eq!(
        (&answer["facts"]["complete"], &answer["rows"][0][0]),
        (&json!(true), &json!(views)),
        "{answer}"
    );
}

/// Waits until no node lacks what another one has, and none has anything that it does not answer for.
async fn until_repaired(cluster: &Cluster, owned: u64) {
    cluster
        .until_within(PATIENCE, "all owners have everything", |cluster| {
            let ready = cluster.metric("tidemark_shards_ready");
            ready == owned && cluster.metric("tidemark_shards_owned") == owned
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_goes_without_a_word_costs_no_event_and_no_answer() {
    let clock = clock();
    let mut cluster = cluster(3, &clock).await;
    let mut sender = Sender::to(&cluster, 0).await;
    sender.send(1_000, clock.now()).await;
    assert_complete(&cluster, 1_000).await;

    cluster.lose_node(2).await;
    let lost = Instant::now();
    // Others answer for its shards at once.
    assert_complete(&cluster, 1_000).await;
    // And take its place.
    sender.send(1_000, clock.now()).await;
    assert_complete(&cluster, 2_000).await;
    assert!(lost.elapsed() < Duration::from_secs(20), "{:?}", lost.elapsed());
    cluster.until_active(0, 2).await;
    cluster.until_active(1, 2).await;

    // Now each of the two has everything.
    assert_complete(&cluster, 2_000).await;
    cluster.lose_node(1).await;
    // Two of two owners have gone without a word: who knows what they had. That is noticed after a moment.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = answer(&cluster).await;
        assert_eq!(answer["rows"][0][0], json!(2_000), "{answer}");
        if answer["facts"]["complete"] == false {
            assert!(answer["facts"]["missing"].to_string().contains("n1"), "{answer}");
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_gets_what_it_missed() {
    let clock = clock();
    let mut cluster = cluster(2, &clock).await;
    let mut sender = Sender::to(&cluster, 0).await;
    sender.send(500, clock.now()).await;
    cluster.lose_node(1).await;
    sender.send(500, clock.now()).await;
    cluster.start_node(1).await;
    until_repaired(&cluster, 32).await;
    sender.send(500, clock.now()).await;
    // What it missed is answered by it alone.
    cluster.lose_node(0).await;
    assert_complete(&cluster, 1_500).await;
    assert!(cluster.metric("tidemark_repair_blocks_pulled_total") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_hands_over_even_where_it_is_the_only_owner() {
    let clock = clock();
    let mut cluster = cluster_with(2, &clock, |node| node.replication = Replication::ONE).await;
    let mut sender = Sender::to(&cluster, 0).await;
    sender.send(1_000, clock.now()).await;
    cluster.stop_node(1).await;
    assert_complete(&cluster, 1_000).await;
    sender.send(1_000, clock.now()).await;
    assert_complete(&cluster, 2_000).await;
    cluster.start_node(1).await;
    assert_complete(&cluster, 2_000).await;
    cluster.stop_node(0).await;
    assert_complete(&cluster, 2_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_restarted_and_nothing_is_lost_or_doubled() {
    let clock = clock();
    let mut cluster = cluster(3, &clock).await;
    let mut sender = Sender::to(&cluster, 1).await;
    for node in [0, 1, 2, 0] {
        sender.send(300, clock.now()).await;
        cluster.stop_node(node).await;
        sender.send(300, clock.now()).await;
        assert_complete(&cluster, sender.sent).await;
        cluster.start_node(node).await;
        assert_complete(&cluster, sender.sent).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_enough_owners_nothing_is_taken_and_the_sender_is_told() {
    let clock = clock();
    let mut cluster = cluster_with(2, &clock, |node| node.min_owners = 2.try_into().unwrap()).await;
    let mut sender = Sender::to(&cluster, 0).await;
    sender.send(100, clock.now()).await;
    cluster.lose_node(1).await;
    cluster.until_active(0, 1).await;
    let event = json!([{"site": SITE, "url": "/x", "visitor": "v"}]).to_string();
    let (status, reply) = cluster.http.post("/v1/events", event.clone()).await;
    assert_eq!(status, 503, "{reply}");
    assert!(reply["message"].as_str().unwrap().contains("min_owners"), "{reply}");
    cluster.start_node(1).await;
    let (status, reply) = cluster.http.post("/v1/events", event).await;
    assert_eq!((status, &reply["accepted"]), (200, &json!(1)), "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_owner_flushes_and_all_trim() {
    let clock = clock();
    let mut cluster = cluster_with(3, &clock, |node| node.settle = Duration::from_millis(100)).await;
    let mut sender = Sender::to(&cluster, 0).await;
    sender.send(1_000, clock.now()).await;
    let in_journals = |cluster: &Cluster| cluster.metric("tidemark_journal_blocks");
    cluster.until("all owners have the blocks", |cluster| in_journals(cluster) == 2 * 16).await;
    clock.set(clock.now().plus(Duration::from_secs(600)));
    cluster.until("all journals are empty", |cluster| cluster.metric("tidemark_journal_blocks") == 0).await;
    let committed = cluster.metric("tidemark_committed_rows_total");
    assert!((1_000..1_200).contains(&committed), "{committed} rows of 1,000 events were committed");
    assert_complete(&cluster, 1_000).await;
    for node in 0..3 {
        cluster.stop_node(node).await;
    }
    for node in 0..3 {
        cluster.start_node(node).await;
    }
    assert_complete(&cluster, 1_000).await;
}

/// Asks again and again until both nodes of a cluster are active, own their shards and nothing is missing. On the way, an answer that
/// says it is complete has to have `before`; and `all` where the coordinator had heard of both nodes when it was asked.
async fn assert_never_lacking(cluster: &Cluster, before: u64, all: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let has_met = are_active(&cluster.seen_by_coordinator.borrow());
        let answer = answer(cluster).await;
        let (is_complete, views) = (answer["facts"]["complete"] == true, answer["rows"][0][0].as_u64());
        let least = if has_met { all } else { before };
        assert!(!is_complete || views >= Some(least), "{least} were acknowledged: {answer}");
        if has_met && is_complete && cluster.metric("tidemark_shards_ready") == 16 {
            return;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_first_words_are_lost_answers_for_nothing_before_it_has_what_others_have() {
    let clock = clock();
    let mut cluster = cluster_with(1, &clock, |node| node.replication = Replication::ONE).await;
    let mut sender = Sender::to(&cluster, 0).await;
    for _ in 0..40 {
        sender.send(2_000, clock.now()).await;
    }
    let late = cluster.add_node();
    // It serves, joins and sees nobody.
    let gossip = cluster.begin_muffled(late, None).await;
    assert_eq!(states(&cluster.view(late).borrow()), [MemberState::Joining]);
    gossip.open();
    assert_never_lacking(&cluster, sender.sent, sender.sent).await;
    assert!(cluster.metric("tidemark_repair_blocks_pulled_total") > 0, "it owns some shards");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_took_that_began_alone_is_not_missing_in_silence_when_it_meets_others() {
    let clock = clock();
    let mut cluster = cluster_with(1, &clock, |node| node.replication = Replication::ONE).await;
    let mut sender = Sender::to(&cluster, 0).await;
    sender.send(2_000, clock.now()).await;
    let late = cluster.add_node();
    let gossip = cluster.begin_muffled(late, None).await;
    // It waits for others for a while, in which it takes nothing, and then takes itself for all there is.
    let mut taken_alone = Sender::as_producer(&cluster, late, 6).await;
    taken_alone.send(2_000, clock.now()).await;
    assert_eq!(states(&cluster.view(late).borrow()), [MemberState::Active]);
    for _ in 1..40 {
        taken_alone.send(2_000, clock.now()).await;
    }
    gossip.open();
    assert_never_lacking(&cluster, sender.sent, sender.sent + taken_alone.sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_say_who_took_events_alone_as_long_as_it_cannot_be_compared_with() {
    let clock = clock();
    let mut cluster = cluster(1, &clock).await;
    let mut sender = Sender::to(&cluster, 0).await;
    sender.send(2_000, clock.now()).await;
    assert_complete(&cluster, 2_000).await;
    let late = cluster.add_node();
    // Nobody serves there, so that none of the others can have what it takes.
    let gossip = cluster.begin_muffled(late, Some("127.0.0.1:1")).await;
    cluster.until_active(late, 1).await;
    Sender::as_producer(&cluster, late, 6).await.send(1_000, clock.now()).await;
    assert_complete(&cluster, 2_000).await;
    gossip.open();
    until_all_active(&cluster).await;
    // Each shard has an owner that answers.
    let answer = answer(&cluster).await;
    assert_eq!(
        (&answer["facts"]["complete"], &answer["rows"][0][0]),
        (&json!(false), &json!(2_000)),
        "{answer}"
    );
    assert!(answer["facts"]["missing"].to_string().contains("n1 began apart"), "{answer}");
}

fn states(view: &View) -> Vec<MemberState> {
    view.nodes().map(|node| node.state).collect()
}

/// Waits until the coordinator has heard of two active nodes.
async fn until_all_active(cluster: &Cluster) {
    cluster.until("both nodes are active", |cluster| are_active(&cluster.seen_by_coordinator.borrow())).await;
}

fn are_active(view: &View) -> bool {
    view.nodes().count() == 2 && view.nodes().all(|node| node.state == MemberState::Active)
}
