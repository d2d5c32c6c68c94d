//! Watching the way of events, before fake nodes that say how they are doing.

use super::fake_node::{Call, FakeNode, Mood};
use super::world::{World, config, dead_member, now};
use crate::CoordinatorConfig;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::member::{Member, NodeId, Role, View};
use tidemark_rollup::placement::Replication;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Streaming};

const WITHIN: Duration = Duration::from_secs(10);

fn says(node: &FakeNode, received_events: u64, verified_buckets: u64) {
    let flow = v1::NodeFlow { received_events, verified_buckets, verifies: true, ..v1::NodeFlow::default() };
    node.set_status(v1::StatusReply {
        flow: Some(flow),
        shards_owned: 64,
        shards_ready: 64,
        ..v1::StatusReply::default()
    });
}

async fn watch(world: &World, every_ms: u32) -> Streaming<v1::Flow> {
    world.analytics().await.watch_flow(v1::FlowRequest { every_ms }).await.unwrap().into_inner()
}

async fn next(flow: &mut Streaming<v1::Flow>) -> v1::Flow {
    timeout(WITHIN, flow.message()).await.unwrap().unwrap().unwrap()
}

async fn until(flow: &mut Streaming<v1::Flow>, condition: impl Fn(&v1::Flow) -> bool) -> v1::Flow {
    let deadline = Instant::now() + WITHIN;
    loop {
        let report = next(flow).await;
        if condition(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "still not: {report:?}");
    }
}

fn stage<'a>(flow: &'a v1::Flow, name: &str) -> &'a v1::Stage {
    flow.stages.iter().find(|stage| stage.name == name).unwrap()
}

/// How often a node was asked how it is doing, since the last time.
fn asked(node: &FakeNode) -> usize {
    node.take_calls().into_iter().filter(|&call| call == Call::Status).count()
}

#[tokio::test]
async fn a_report_sums_what_nodes_say_and_has_members_and_placement() {
    let coordinator =
        Member { role: Role::Coordinator, ..Member::node(NodeId::new("c0").unwrap(), "127.0.0.1:1") };
    let world = World::with(2, vec![coordinator], config()).await;
    says(&world.nodes[0], 100, 3);
    says(&world.nodes[1], 20, 4);
    let mut flow = watch(&world, 200).await;
    let first = next(&mut flow).await;
    assert_eq!(first.time_ms, now().as_unix_ms());
    assert_eq!((stage(&first, "received").count, stage(&first, "verified").count), (120, 7));
    let members: Vec<(&str, &str, bool)> =
        first.members.iter().map(|member| (&*member.id, &*member.role, member.status.is_some())).collect();
    assert_eq!(members, [("c0", "coordinator", false), ("n0", "node", true), ("n1", "node", true)]);
    let placement = first.placement.unwrap();
    assert_eq!((placement.shard_count, placement.owners.len(), placement.nodes.len()), (64, 64, 2));

    says(&world.nodes[0], 180, 3);
    let later = until(&mut flow, |flow| stage(flow, "received").count == 200).await;
    assert!(stage(&later, "received").per_second > 0.0, "{later:?}");
}

#[tokio::test]
async fn nodes_are_asked_once_a_second_for_all_who_watch_and_not_at_all_for_none() {
    let world = World::of(1).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(asked(&world.nodes[0]), 0);
    let mut watching = Vec::new();
    for _ in 0..5 {
        watching.push(watch(&world, 200).await);
    }
    let began = Instant::now();
    for _ in 0..3 {
        for flow in &mut watching {
            next(flow).await;
        }
    }
    let seconds = began.elapsed().as_secs() as usize;
    let times = asked(&world.nodes[0]);
    assert!((3..=seconds + 3).contains(&times), "{times} in {seconds} s");

    drop(watching);
    // A call that was under way may still arrive; then there are none.
    let deadline = Instant::now() + WITHIN;
    loop {
        asked(&world.nodes[0]);
        sleep(Duration::from_millis(1500)).await;
        if asked(&world.nodes[0]) == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "still asked");
    }
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_a_member_without_status() {
    let world = World::with(1, vec![dead_member("x")], config()).await;
    let mut flow = watch(&world, 200).await;
    let report = next(&mut flow).await;
    let has_status: Vec<bool> = report.members.iter().map(|member| member.status.is_some()).collect();
    assert_eq!(has_status, [true, false]);
    assert_eq!(stage(&report, "received").condition(), v1::Condition::Questionable);

    world.nodes[0].set_mood(Mood::HangsOn(Call::Status));
    let report = until(&mut flow, |flow| flow.members.iter().all(|member| member.status.is_none())).await;
    assert!(stage(&report, "received").explanation.starts_with("n0 and x did not say"), "{report:?}");
}

#[tokio::test]
async fn nodes_that_are_missing_are_named_and_as_many_as_there_are_owners_are_on_fire() {
    let settings = CoordinatorConfig { replication: Replication::new(2).unwrap(), ..config() };
    let world = World::with(3, Vec::new(), settings).await;
    let mut flow = watch(&world, 200).await;
    assert_eq!(stage(&next(&mut flow).await, "counted").condition(), v1::Condition::Fine);
    let members = |nodes: &[FakeNode]| nodes.iter().map(|node| node.member.clone()).collect();
    for (left, condition) in [(2, v1::Condition::Questionable), (1, v1::Condition::OnFire)] {
        let missing = world.nodes[left..].iter().map(|node| node.member.id.clone()).collect();
        let view = View::new(members(&world.nodes[..left])).unwrap().with_missing(missing);
        world.view.send(Arc::new(view)).unwrap();
        let report = until(&mut flow, |flow| flow.missing.len() == 3 - left).await;
        assert_eq!(stage(&report, "counted").condition(), condition);
        assert_eq!(report.placement.unwrap().nodes.len(), left);
    }
}

#[tokio::test]
async fn how_often_has_limits_and_a_stream_ends_with_the_coordinator() {
    let world = World::of(1).await;
    for every_ms in [1, 199, 60_001] {
        let refused = world.analytics().await.watch_flow(v1::FlowRequest { every_ms }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("every_ms: "), "{refused}");
    }
    let mut flow = watch(&world, 60_000).await;
    next(&mut flow).await;
    world.stop.cancel();
    let ended = timeout(WITHIN, flow.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
}

#[tokio::test]
async fn one_report_and_what_can_be_asked_are_there_as_json() {
    let world = World::of(2).await;
    says(&world.nodes[0], 100, 3);
    let reply = world.get("/v1/flow").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.head.contains("content-type: application/json"), "{}", reply.head);
    let flow = reply.json();
    assert_eq!(flow["stages"][0]["name"], "received");
    assert_eq!(flow["stages"][0]["count"], 100);
    assert_eq!(flow["stages"][0]["condition"], "fine");
    assert_eq!(flow["stages"].as_array().unwrap().len(), 8);
    assert_eq!(flow["members"][0]["status"]["flow"]["receivedEvents"], 100);
    assert_eq!(flow["placement"]["shardCount"], 64);
    // The next one tells how fast it goes, although nobody watched meanwhile.
    says(&world.nodes[0], 200, 3);
    let rate = &world.get("/v1/flow").await.json()["stages"][0]["perSecond"];
    assert!(rate.as_f64().unwrap() > 0.0, "{rate}");

    let description = world.get("/v1/describe").await.json();
    assert_eq!(description["dimensions"][0], "referrer");
    assert_eq!(description["measures"][0], serde_json::json!({"name": "views", "kind": "count"}));
    let described = world.analytics().await.describe(v1::DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!(described.measures.last().unwrap().kind, "active");
    assert_eq!(description["measures"].as_array().unwrap().len(), described.measures.len());
}
