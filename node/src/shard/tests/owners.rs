//! Blocks on their way to owners: who is gone, who hangs, and who is not known to the sender.

use super::world::{Cluster, FixedClock, batch, pages};
use futures::StreamExt as _;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::member::{Member, NodeId};
use tidemark_rollup::placement::{Placement, Replication};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::Clock as _;
use tokio::net::{TcpListener, TcpSocket};

#[tokio::test]
async fn an_owner_that_is_gone_is_told_to_the_producer_and_the_batch_can_be_sent_again() {
    // Held, so that no other test listens there.
    let held = TcpSocket::new_v4().unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = held.local_addr().unwrap().to_string();
    let gone = Member::node(NodeId::new("gone").unwrap(), address.clone());
    let cluster = Cluster::with(&["a"], vec![gone], |_| {}).await;
    let ack = cluster.rows(0, vec![batch(1, pages(100))]).await.remove(0);
    let refused = ack.refused.unwrap();
    assert_eq!(refused.reason(), RefusalReason::OwnerUnavailable);
    assert!(refused.retry_after_ms > 0 && refused.message.contains(&address), "{}", refused.message);
}

#[tokio::test]
async fn a_node_that_hangs_holds_up_its_own_blocks_and_no_others() {
    // It takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = Member::node(NodeId::new("hangs").unwrap(), silent.local_addr().unwrap().to_string());
    let cluster = Cluster::with(&["a"], vec![hangs], |_| {}).await;
    let view = cluster.nodes[0].view().borrow().clone();
    let placement = Placement::of(&view, ShardCount::new(8).unwrap(), Replication::ONE);
    let is_mine = |shard: u32| {
        let shard = ShardCount::new(8).unwrap().shard(shard).unwrap();
        placement.writers(shard).any(|node| node.id.as_str() == "a")
    };
    let rules = Rules {
        schema: None,
        keep_params: &KeepParams::all(),
        times: TimeRules::default(),
        shards: ShardCount::new(8).unwrap(),
    };
    let blocks =
        (1..=20).flat_map(|seq| split(&batch(seq, pages(64)), &rules, FixedClock.now()).unwrap().blocks);
    let (mine, stuck): (Vec<_>, Vec<_>) = blocks.partition(|block| is_mine(block.shard));
    let (expected, stuck_blocks) = (mine.len(), stuck.len());
    assert!(expected > 20 && stuck_blocks > 20, "{expected} {stuck_blocks}");
    let started = tokio::time::Instant::now();
    let mut client = IngestClient::connect(cluster.url(0)).await.unwrap();
    // Those that get stuck come first.
    let sent = futures::stream::iter(stuck.into_iter().chain(mine)).chain(futures::stream::pending());
    let mut acks = client.send_blocks(sent).await.unwrap().into_inner();
    for _ in 0..expected {
        let ack = acks.message().await.unwrap().unwrap();
        assert!(ack.refused.is_none() && is_mine(ack.shard), "{ack:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // The others are told after the time-out.
    for _ in 0..stuck_blocks {
        let refused = acks.message().await.unwrap().unwrap().refused.unwrap();
        assert_eq!(refused.reason(), RefusalReason::OwnerUnavailable);
    }
    // From then on it is left alone, and they are told at once.
    let (again, _) = (tokio::time::Instant::now(), cluster.rows(0, vec![batch(99, pages(64))]).await);
    assert!(again.elapsed() < Duration::from_secs(2), "{:?}", again.elapsed());
}

/// A block of one event.
fn one_block() -> v1::Block {
    let rules = Rules {
        schema: None,
        keep_params: &KeepParams::all(),
        times: TimeRules::default(),
        shards: ShardCount::new(8).unwrap(),
    };
    split(&batch(1, pages(1)), &rules, FixedClock.now()).unwrap().blocks.remove(0)
}

#[tokio::test]
async fn a_block_that_is_not_brought_to_an_owner_that_is_known_is_refused() {
    let cluster =
        Cluster::with(&["a", "b"], vec![], |config| config.replication = Replication::DEFAULT).await;
    let block = one_block();
    let mut client = ClusterClient::connect(cluster.url(0)).await.unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| NodeId::new(name).unwrap().key());
    for (writers, taken) in [(vec![a], false), (vec![a, c], false), (vec![a, b], true), (vec![a, b, c], true)]
    {
        let request = v1::ApplyRequest {
            shard_count: 8,
            blocks: vec![block.clone()],
            writers: vec![v1::Writers { nodes: writers.clone(), again: false }],
        };
        let ack = client.apply(request).await.unwrap().into_inner().acks.remove(0);
        let refused = ack.refused.as_ref().map(v1::Refusal::reason);
        assert_eq!(refused, (!taken).then_some(RefusalReason::OwnersDiffer), "{writers:?}");
    }
}

#[tokio::test]
async fn receipts_tell_what_senders_sent_again_and_not_what_members_bring_one_another_again() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    let mut client = ClusterClient::connect(cluster.url(0)).await.unwrap();
    let block = one_block();
    let writers = vec![NodeId::new("a").unwrap().key()];
    let mut duplicates = Vec::new();
    for again in [false, true, true, false] {
        let request = v1::ApplyRequest {
            shard_count: 8,
            blocks: vec![block.clone()],
            writers: vec![v1::Writers { nodes: writers.clone(), again }],
        };
        let ack = client.apply(request).await.unwrap().into_inner().acks.remove(0);
        assert_eq!((ack.refused, ack.accepted), (None, 1));
        let mut admin = AdminClient::connect(cluster.url(0)).await.unwrap();
        let asked = v1::ReceiptsRequest { from_s: 0, to_s: 1_800_000_000, ..v1::ReceiptsRequest::default() };
        let reply = admin.receipts(asked).await.unwrap().into_inner();
        duplicates.push(reply.receipts.iter().map(|receipt| receipt.duplicate).sum::<u64>());
    }
    assert_eq!(duplicates, [0, 0, 0, 1]);
}

#[tokio::test]
async fn who_is_asked_by_somebody_that_sees_a_node_it_has_not_met_is_ready_for_nothing() {
    let cluster = Cluster::of(&["a"], |_| {}).await;
    let mut client = ClusterClient::connect(cluster.url(0)).await.unwrap();
    let [a, b] = ["a", "b"].map(|name| NodeId::new(name).unwrap().key());
    let seen = |key| v1::SeenNode { key, incarnation: 1 };
    for (nodes, answered) in
        [(vec![], 8), (vec![seen(a)], 8), (vec![seen(a), seen(b)], 0), (vec![seen(b)], 0)]
    {
        let query = v1::Query { site: "example.com".into(), from: "-2h".into(), ..Default::default() };
        let request = v1::PartialRequest {
            query: Some(query),
            shards: (0..8).collect(),
            shard_count: 8,
            nodes: nodes.clone(),
            ..v1::PartialRequest::default()
        };
        let reply = client.query_partial(request).await.unwrap().into_inner();
        assert_eq!((reply.answered.len(), reply.not_ready.len()), (answered, 8 - answered), "{nodes:?}");
    }
}
