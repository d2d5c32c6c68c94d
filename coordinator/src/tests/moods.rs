//! Nodes in many moods at once.

use super::fake_node::{Call, Mood};
use super::still::{Still, still_config};
use super::world::event;
use crate::CoordinatorConfig;
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use tokio::runtime::Builder;
use tokio::time::Instant;
use tonic::Status;

const SHARDS: u32 = 16;

#[derive(Clone, Debug)]
enum Trouble {
    None,
    Dead,
    In(Mood),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        3 => Just(Trouble::None),
        1 => Just(Trouble::Dead),
        1 => Just(Trouble::In(Mood::Garbles)),
        1 => Just(Trouble::In(Mood::HangsOn(Call::Partial))),
        1 => Just(Trouble::In(Mood::Fails(Status::internal("broken")))),
        2 => prop::collection::vec(0..SHARDS, 0..12).prop_map(|shards| Trouble::In(Mood::Lacks(shards))),
        3 => (0_u64..400).prop_map(|ms| Trouble::In(Mood::Slow(Duration::from_millis(ms)))),
    ]
}

/// Asks while nodes are in these troubles, one after another.
async fn storm(troubles: Vec<Vec<Trouble>>) {
    let config = CoordinatorConfig {
        shards: ShardCount::new(SHARDS).unwrap(),
        replication: Replication::new(3).unwrap(),
        ..still_config()
    };
    let still = Still::with(4, config).await;
    still.feed((0..300).map(|at| event("s.de", &format!("/{}", at % 97), &format!("v{at}"), &[])).collect());
    for troubles in troubles {
        for (node, trouble) in troubles.iter().enumerate() {
            still.revive(node);
            still.nodes[node].set_mood(Mood::Well);
            match trouble {
                Trouble::None => {}
                Trouble::Dead => still.kill(node),
                Trouble::In(mood) => still.nodes[node].set_mood(mood.clone()),
            }
        }
        let start = Instant::now();
        let answer = still.ask(&json!({"site": "s.de", "measures": ["views", "visitors"]})).await;
        assert!(start.elapsed() <= still_config().query_timeout, "{troubles:?}");

        let facts = &answer["facts"];
        let number = |at: usize| answer["rows"][0][at].as_u64().unwrap_or(0);
        // Every event has a visitor of its own: a shard that counted twice would show.
        assert!(number(0) <= 300, "{troubles:?}: {answer}");
        assert_eq!(facts["complete"], facts["shardsAnswered"] == SHARDS, "{troubles:?}: {facts}");
        if facts["complete"] == true {
            assert_eq!((number(0), number(1).abs_diff(300) < 15), (300, true), "{troubles:?}: {answer}");
        }
        let answers = |trouble: &Trouble| matches!(trouble, Trouble::None | Trouble::In(Mood::Slow(_)));
        // Three of four own a shard: where two nodes answer, one of them owns it.
        if troubles.iter().filter(|trouble| answers(trouble)).count() >= 2 {
            assert_eq!(facts["complete"], true, "{troubles:?}: {facts}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_nodes_do_numbers_are_those_of_one_copy(
        troubles in prop::collection::vec(prop::collection::vec(trouble(), 4), 1..6),
    ) {
        Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(storm(troubles));
    }
}
