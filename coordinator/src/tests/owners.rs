//! Shards with several owners, some of which are slow, gone, or not ready.

use super::fake_node::{Call, Mood};
use super::still::{Still, still_config, view_of};
use super::world::event;
use crate::CoordinatorConfig;
use axum::http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1::RefusalReason;
use tidemark_proto::{SCHEMA_METADATA, v1};
use tidemark_rollup::member::{Member, MemberState, NodeId, View};
use tidemark_rollup::sharding::ShardCount;
use tokio::time::{Instant, sleep};
use tonic::Status;

const MS: Duration = Duration::from_millis(1);
/// How long an answer is waited for before anybody knows how long they take.
const HEDGE: Duration = Duration::from_millis(100);

fn traffic() -> Vec<v1::Event> {
    let visit = |at: usize| event("s.de", &format!("/{}", at % 97), &format!("v{}", at % 101), &[]);
    (0..1000).map(visit).collect()
}

fn totals() -> Value {
    json!({"site": "s.de", "measures": ["views", "visitors"]})
}

/// Asks for the totals; the answer, and how long it took.
async fn ask(still: &Still) -> (Value, Duration) {
    let start = Instant::now();
    let answer = still.ask(&totals()).await;
    (answer, start.elapsed())
}

fn assert_whole(answer: &Value) {
    assert_eq!(answer["rows"], json!([[1000, 101]]));
    let facts = &answer["facts"];
    assert_eq!((&facts["complete"], &facts["shardsAnswered"]), (&json!(true), &json!(64)), "{facts}");
    assert_eq!(facts["missing"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn each_shard_is_asked_of_one_owner_in_one_request_per_node() {
    let still = Still::of(3).await;
    still.feed(traffic());
    let (answer, took) = ask(&still).await;
    assert_whole(&answer);
    assert_eq!(took, Duration::ZERO);
    for node in &still.nodes {
        assert_eq!(node.take_calls(), [Call::Partial]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_owner_is_hedged_and_its_late_reply_does_not_count() {
    let still = Still::of(3).await;
    still.feed(traffic());
    for slow in [HEDGE + MS, Duration::from_secs(60)] {
        still.nodes[0].set_mood(Mood::Slow(slow));
        let (answer, took) = ask(&still).await;
        assert_whole(&answer);
        assert_eq!(took, HEDGE);
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(still.metric("tidemark_query_hedges_total").await, 4);
    assert_eq!(still.metric("tidemark_query_hedges_won_total").await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_not_sent_where_answers_are_fast() {
    let still = Still::of(3).await;
    still.feed(traffic());
    still.nodes[0].set_mood(Mood::Slow(HEDGE - MS));
    let (answer, took) = ask(&still).await;
    assert_whole(&answer);
    assert_eq!(took, HEDGE - MS);
    assert_eq!(still.metric("tidemark_query_hedges_total").await, 0);
    for node in &still.nodes {
        assert_eq!(node.take_calls(), [Call::Partial]);
    }
}

#[tokio::test(start_paused = true)]
async fn how_long_answers_take_decides_when_a_hedge_is_sent() {
    let still = Still::of(3).await;
    still.feed(traffic());
    still.nodes.iter().for_each(|node| node.set_mood(Mood::Slow(30 * MS)));
    for _ in 0..20 {
        assert_whole(&ask(&still).await.0);
    }
    still.nodes[1].set_mood(Mood::HangsOn(Call::Partial));
    let (answer, took) = ask(&still).await;
    assert_whole(&answer);
    assert_eq!(took, 60 * MS);
}

#[tokio::test(start_paused = true)]
async fn where_the_slow_reply_overlaps_with_a_hedge_the_one_that_completes_counts() {
    let still = Still::of(3).await;
    still.feed(traffic());
    still.nodes[0].set_mood(Mood::Slow(HEDGE + 10 * MS));
    // One hedge comes at once, the other one never does.
    still.nodes[1].set_mood(Mood::Well);
    still.nodes[2].set_mood(Mood::Slow(HEDGE - MS));
    let start = Instant::now();
    let question = totals();
    let hang = async {
        sleep(HEDGE - MS / 2).await;
        still.nodes[2].set_mood(Mood::HangsOn(Call::Partial));
    };
    let (answer, ()) = tokio::join!(still.ask(&question), hang);
    assert_whole(&answer);
    assert_eq!(start.elapsed(), HEDGE + 10 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_dead_owners_shards_are_answered_for_by_the_next_in_the_same_query() {
    let still = Still::of(3).await;
    still.feed(traffic());
    for dead in 0..3 {
        still.kill(dead);
        let (answer, took) = ask(&still).await;
        assert_whole(&answer);
        assert_eq!(took, Duration::ZERO);
        still.revive(dead);
    }
    assert!(still.metric("tidemark_query_asked_next_total").await >= 3);
}

#[tokio::test(start_paused = true)]
async fn shards_that_an_owner_is_not_ready_for_are_asked_of_the_next() {
    let still = Still::of(3).await;
    still.feed(traffic());
    let first = still.first_of(1);
    for lacks in [first[..2].to_vec(), first] {
        still.nodes[1].set_mood(Mood::Lacks(lacks));
        let (answer, took) = ask(&still).await;
        assert_whole(&answer);
        assert_eq!(took, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_cannot_be_read_is_made_up_for_by_the_next_owner() {
    let still = Still::of(3).await;
    still.feed(traffic());
    still.nodes[2].set_mood(Mood::Garbles);
    assert_whole(&ask(&still).await.0);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_becomes_ready_meanwhile_completes_the_answer() {
    let still = Still::of(2).await;
    still.feed(traffic());
    still.nodes.iter().for_each(|node| node.set_mood(Mood::Lacks(vec![7, 8])));
    let question = totals();
    let start = Instant::now();
    let ready = async {
        sleep(300 * MS).await;
        still.nodes[1].set_mood(Mood::Well);
    };
    let (answer, ()) = tokio::join!(still.ask(&question), ready);
    assert_whole(&answer);
    // Asked anew after 50, 100 and 200 ms.
    assert_eq!(start.elapsed(), 350 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_view_that_changes_meanwhile_is_followed_at_once() {
    let still = Still::of(3).await;
    let all = Arc::clone(&still.view.borrow());
    let view = |nodes: &[Member]| Arc::new(View::new(nodes.to_vec()).unwrap());
    let (two, third) = (view(&all.members()[..2]), view(&all.members()[2..]));
    still.view.send_replace(Arc::clone(&third));
    still.feed(traffic());
    // The coordinator knows of two nodes, and nobody can reach them.
    still.view.send_replace(two);
    [0, 1].into_iter().for_each(|node| still.kill(node));
    let start = Instant::now();
    let changed = async {
        sleep(123 * MS).await;
        still.view.send_replace(third);
    };
    let (answer, ()) = tokio::join!(ask(&still), changed);
    assert_whole(&answer.0);
    assert_eq!(start.elapsed(), 123 * MS);
    assert_eq!(still.nodes[2].take_calls(), [Call::Partial]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_partial_only_at_the_deadline_and_names_the_last_reason() {
    let still = Still::of(2).await;
    still.feed(traffic());
    still.kill(0);
    still.nodes[1].set_mood(Mood::Lacks(vec![3, 4]));
    let (answer, took) = ask(&still).await;
    assert_eq!(took, still_config().query_timeout);
    let facts = &answer["facts"];
    assert_eq!((&facts["complete"], &facts["shardsAnswered"]), (&json!(false), &json!(62)));
    let missing = facts["missing"].as_array().unwrap();
    assert_eq!(
        missing.iter().map(|missing| missing["shards"].as_u64().unwrap()).sum::<u64>(),
        2,
        "{missing:?}"
    );
    assert_eq!(still.metric("tidemark_query_shards_missing_total").await, 2);
}

#[tokio::test(start_paused = true)]
async fn shards_that_nobody_is_ready_to_answer_for_say_so() {
    let still = Still::of(1).await;
    let joining = Member { state: MemberState::Joining, ..still.nodes[0].member.clone() };
    still.view.send_replace(Arc::new(View::new(vec![joining]).unwrap()));
    let (answer, took) = ask(&still).await;
    assert_eq!(took, still_config().query_timeout);
    assert_eq!(answer["facts"]["missing"][0]["reason"], "no node is ready to answer for 64 shards yet");
}

#[tokio::test(start_paused = true)]
async fn as_many_nodes_away_as_a_shard_has_owners_may_have_events_that_nobody_else_has() {
    let still = Still::of(2).await;
    still.feed(traffic());
    let away = |names: &[&str]| names.iter().map(|name| NodeId::new(*name).unwrap()).collect();
    let view = |names: &[&str]| Arc::new(view_of(&still.nodes).with_missing(away(names)));
    still.view.send_replace(view(&["a"]));
    assert_whole(&ask(&still).await.0);

    // The nodes know of another one, or of the same.
    still.nodes[0].set_mood(Mood::Misses(vec!["a".into()]));
    assert_whole(&ask(&still).await.0);
    still.nodes[0].set_mood(Mood::Misses(vec!["b".into()]));
    for names in [&["a"][..], &["a", "b"]] {
        still.view.send_replace(view(names));
        let (answer, took) = ask(&still).await;
        assert_eq!((&answer["rows"], took), (&json!([[1000, 101]]), Duration::ZERO));
        let facts = &answer["facts"];
        assert_eq!((&facts["complete"], &facts["shardsAnswered"]), (&json!(false), &json!(64)));
        assert_eq!(
            (&facts["missing"][0]["node"], &facts["missing"][0]["shards"]),
            (&json!("a, b"), &json!(0))
        );
        let reason = facts["missing"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("until they are back"), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_long_ago_is_complete_whoever_is_away() {
    let still = Still::of(2).await;
    let away = ["a", "b"].map(|name| NodeId::new(name).unwrap()).to_vec();
    still.view.send_replace(Arc::new(view_of(&still.nodes).with_missing(away)));
    // It is 12:02:30 on the 22nd.
    for (to, complete) in [("2026-11-20T12:00:00Z", true), ("2026-11-20T12:05:00Z", false)] {
        let answer = still.ask(&json!({"site": "s.de", "from": "2026-11-20T00:00:00Z", "to": to})).await;
        assert_eq!(answer["facts"]["complete"], complete, "{to}");
    }
}

/// 4 shards and 8 values: a shard with over 2 values counts.
fn small() -> CoordinatorConfig {
    CoordinatorConfig { shards: ShardCount::new(4).unwrap(), dimension_values: 8, ..still_config() }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_fails_in_a_later_round_is_made_up_for_with_the_same_cut() {
    let travels: Vec<v1::Event> = (0..600)
        .map(|at| event("s.de", &format!("/{}", at % 40), "v", &[("country", &format!("c{}", at % 50))]))
        .collect();
    let question = json!({"site": "s.de", "groupBy": ["country"], "measures": ["views"]});
    let still = Still::with(3, small()).await;
    still.feed(travels);
    let well = still.ask(&question).await;
    assert_eq!(well["rows"].as_array().unwrap().len(), 9);
    for call in [Call::Census, Call::FoldedPartial] {
        for hanging in 0..3 {
            still.nodes[hanging].set_mood(Mood::HangsOn(call));
            let (start, answer) = (Instant::now(), still.ask(&question).await);
            assert!(start.elapsed() <= HEDGE, "{:?}", start.elapsed());
            assert_eq!(answer["rows"], well["rows"]);
            assert_eq!(answer["facts"]["complete"], true, "{}", answer["facts"]);
            still.nodes[hanging].set_mood(Mood::Well);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_goes_on_while_members_disagree_about_owners() {
    let still = Still::of(2).await;
    let agree = async {
        for reason in
            [RefusalReason::OwnersDiffer, RefusalReason::OwnerUnavailable, RefusalReason::TooFewOwners]
        {
            still.nodes.iter().for_each(|node| node.set_mood(Mood::RefusesRows(reason)));
            sleep(300 * MS).await;
        }
        still.nodes[1].set_mood(Mood::Well);
    };
    let body = r#"{"site":"s.de","url":"/"}"#.to_owned();
    let start = Instant::now();
    let ((status, _), ()) = tokio::join!(still.request(Method::POST, "/v1/events", body.clone()), agree);
    assert_eq!(status, 200);
    assert!((900 * MS..1100 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());

    still.nodes.iter().for_each(|node| node.set_mood(Mood::RefusesRows(RefusalReason::OwnersDiffer)));
    let start = Instant::now();
    let (status, reply) = still.request(Method::POST, "/v1/events", body).await;
    let reply = String::from_utf8(reply).unwrap();
    assert_eq!(status, 503, "{reply}");
    assert!(reply.contains("owners_differ") && reply.contains("it counts once"), "{reply}");
    let timeout = still_config().ingest_timeout;
    assert!((timeout - 100 * MS..=timeout).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn sites_are_complete_without_a_node_whose_shards_others_have() {
    let still = Still::of(3).await;
    still.feed(traffic());
    still.nodes[0].set_mood(Mood::HangsOn(Call::Partial));
    let mut client = still.analytics();
    let start = Instant::now();
    let reply = client.sites(v1::SitesRequest {}).await.unwrap().into_inner();
    assert_eq!((reply.sites, reply.complete), (vec!["s.de".to_owned()], true));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_away_ends_with_the_token() {
    let still = Still::of(1).await;
    assert_eq!(still.running.address().port(), 8100);
    still.stop.cancel();
    still.running.stopped().await;
}

/// What a node says whose schema lacks the measure that is asked for.
fn lacks(measure: &str) -> Mood {
    let mut status =
        Status::failed_precondition(format!("the schema of node n7 has no measure {measure} yet"));
    status.metadata_mut().insert(SCHEMA_METADATA, measure.parse().unwrap());
    Mood::Fails(status)
}

#[tokio::test(start_paused = true)]
async fn what_an_owners_schema_lacks_is_asked_of_the_next_owner_and_costs_no_answer() {
    let still = Still::of(3).await;
    still.feed(traffic());
    still.nodes[1].set_mood(lacks("visitors"));
    let (answer, took) = ask(&still).await;
    assert_whole(&answer);
    assert_eq!(took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn where_no_owners_schema_has_it_the_owners_are_named_at_once() {
    let still = Still::of(3).await;
    still.feed(traffic());
    still.nodes[..2].iter().for_each(|node| node.set_mood(lacks("visitors")));
    let (answer, took) = ask(&still).await;
    // They will not have learned it before the time is over.
    assert_eq!(took, Duration::ZERO);
    let facts = &answer["facts"];
    assert_eq!(facts["complete"], json!(false));
    let answered = facts["shardsAnswered"].as_u64().unwrap();
    assert!((1..64).contains(&answered), "{facts}");
    for missing in facts["missing"].as_array().unwrap() {
        assert!(["n0 (n0:1)", "n1 (n1:1)"].contains(&missing["node"].as_str().unwrap()), "{facts}");
        assert_eq!(missing["reason"], "the schema of node n7 has no measure visitors yet");
    }
    // Also where it is all of them: that is no mistake of whoever asks.
    still.nodes[2].set_mood(lacks("visitors"));
    let (answer, took) = ask(&still).await;
    assert_eq!((&answer["facts"]["shardsAnswered"], took), (&json!(0), Duration::ZERO));
    assert_eq!(answer["facts"]["complete"], json!(false));
}
