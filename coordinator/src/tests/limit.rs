//! More values of a dimension than the limit, spread over nodes.

use super::fake_node::{Call, Mood};
use super::world::{PATIENCE, World, config, event};
use crate::CoordinatorConfig;
use serde_json::{Value, json};
use tidemark_proto::v1;
use tidemark_rollup::sharding::ShardCount;
use tokio::time::Instant;

/// 4 shards and 8 values: a shard with over 2 values counts.
fn small() -> CoordinatorConfig {
    CoordinatorConfig { shards: ShardCount::new(4).unwrap(), dimension_values: 8, ..config() }
}

/// Views from `countries` countries on 40 URLs, so that every shard has some.
fn travels(countries: usize) -> Vec<v1::Event> {
    let visit = |at: usize| {
        let (url, visitor, country) =
            (format!("/{}", at % 40), format!("v{at}"), format!("c{}", at % countries));
        event("s.de", &url, &visitor, &[("country", &country)])
    };
    (0..600).map(visit).collect()
}

fn by_country() -> Value {
    json!({"site": "s.de", "groupBy": ["country"], "measures": ["views", "visitors"]})
}

#[tokio::test]
async fn two_nodes_cut_where_one_with_everything_would() {
    let two = World::with(2, Vec::new(), small()).await;
    let one =
        World::with(1, Vec::new(), CoordinatorConfig { shards: ShardCount::new(1).unwrap(), ..small() })
            .await;
    for world in [&one, &two] {
        // 7 countries per URL at most, 13 in all.
        world.feed(travels(13));
    }
    for question in [
        by_country(),
        json!({"site": "s.de", "groupBy": ["country", "url"], "limit": 1000}),
        json!({"site": "s.de", "measures": ["visitors"], "filters": [{"dimension": "country", "in": ["(other)", "c1"]}]}),
        json!({"site": "*", "groupBy": ["country"], "granularity": "5m", "versus": "5m"}),
    ] {
        let (one, two) = (one.ask(&question).await, two.ask(&question).await);
        assert_eq!(one["rows"], two["rows"], "{question}");
        assert_eq!((&two["facts"]["complete"], &two["facts"]["capped"]), (&json!(true), &json!(["country"])));
    }
    for node in &two.nodes {
        assert_eq!(node.take_calls(), [Call::Partial, Call::Census, Call::FoldedPartial].repeat(4));
    }
    let metrics = two.get("/metrics").await.text();
    assert!(metrics.contains("tidemark_query_census_rounds_total 4"), "{metrics}");
}

#[tokio::test]
async fn the_rows_are_the_limit_and_the_rest() {
    let world = World::with(2, Vec::new(), small()).await;
    world.feed(travels(50));
    let answer = world.ask(&by_country()).await;
    let rows = answer["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 9);
    assert_eq!(rows[0][0], "(other)");
    assert_eq!(rows.iter().map(|row| row[1].as_u64().unwrap()).sum::<u64>(), 600);
}

#[tokio::test]
async fn a_census_that_finds_no_more_than_the_limit_changes_nothing() {
    let world = World::with(2, Vec::new(), small()).await;
    world.feed(travels(8));
    let answer = world.ask(&by_country()).await;
    assert_eq!(answer["rows"].as_array().unwrap().len(), 8);
    assert_eq!(answer["facts"]["capped"], json!([]));
    assert_eq!(world.nodes[0].take_calls(), [Call::Partial, Call::Census]);
}

#[tokio::test]
async fn who_takes_no_part_in_a_census_is_missing_although_it_finds_nothing() {
    let world = World::with(2, Vec::new(), small()).await;
    world.feed(travels(8));
    world.nodes[1].set_mood(Mood::HangsOn(Call::Census));
    let facts = world.ask(&by_country()).await["facts"].take();
    let lost = world.shards_of(&world.nodes[1].member.id);
    assert_eq!((&facts["complete"], &facts["missing"][0]["shards"]), (&json!(false), &json!(lost)));
    assert_eq!(facts["shardsAnswered"], 4 - lost);
}

#[tokio::test]
async fn few_values_need_no_census() {
    let world = World::with(2, Vec::new(), small()).await;
    world.feed(travels(2));
    world.ask(&by_country()).await;
    assert_eq!(world.nodes[0].take_calls(), [Call::Partial]);
}

#[tokio::test]
async fn a_node_that_fails_in_a_later_round_is_missing_and_the_others_agree_without_it() {
    let more_shards =
        CoordinatorConfig { shards: ShardCount::new(16).unwrap(), dimension_values: 32, ..config() };
    let world = World::with(3, Vec::new(), more_shards).await;
    world.feed(travels(50));
    for call in [Call::Census, Call::FoldedPartial] {
        world.nodes[2].set_mood(Mood::HangsOn(call));
        let start = Instant::now();
        let answer = world.ask(&by_country()).await;
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        let missing = answer["facts"]["missing"].as_array().unwrap();
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0]["node"].as_str().unwrap().starts_with("n2 "), "{missing:?}");
        assert_eq!(answer["rows"].as_array().unwrap().len(), 33);
        assert_eq!(world.nodes[0].take_calls(), [Call::Partial, Call::Census, Call::FoldedPartial]);
    }
}

#[tokio::test]
async fn a_node_that_hangs_leaves_the_others_the_time_to_agree() {
    let world = World::with(2, Vec::new(), small()).await;
    world.feed(travels(50));
    world.nodes[1].set_mood(Mood::HangsOn(Call::Partial));
    let start = Instant::now();
    let answer = world.ask(&by_country()).await;
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert_eq!(world.nodes[0].take_calls(), [Call::Partial, Call::Census, Call::FoldedPartial]);
    assert_eq!(answer["rows"].as_array().unwrap().len(), 9);
    assert_eq!(answer["facts"]["missing"].as_array().unwrap().len(), 1);
}
