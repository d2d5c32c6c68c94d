//! Members whose schemas are not the same: while one is rolled out, and where two contradict each other.

use crate::net::{Cluster, FINE, ROUGH, Start, facts, id, names, node, pass, until};
use std::time::Duration;
use tidemark_membership::{ClusterFacts, Failure};
use tidemark_rollup::member::MemberState;
use tidemark_rollup::schema::{Measure, Schema};

/// A node that counts something more than the others.
fn with_measure(name: &str, line: &str) -> Start {
    let mut measures = Schema::default().measures().to_vec();
    measures.push(line.parse::<Measure>().unwrap());
    let schema = Schema::new(Schema::default().dimensions().to_vec(), measures).unwrap();
    let mut start = node(name);
    start.config.facts = ClusterFacts { schema: schema.outline(), ..facts() };
    start
}

/// Whether some member has ended, or will within so many seconds.
async fn has_ended(cluster: &Cluster, name: &str, within: u64) -> Option<Failure> {
    let ended = cluster.member(name).membership.failed();
    tokio::time::timeout(Duration::from_secs(within), ended).await.ok()
}

#[tokio::test(start_paused = true)]
async fn a_schema_is_rolled_out_member_by_member_and_all_hear_each_other_all_the_while() {
    for (seed, weather) in [(1, FINE), (2, ROUGH), (3, ROUGH), (4, ROUGH)] {
        let mut cluster = Cluster::of(4, seed, weather).await;
        for name in names(4) {
            cluster.member(&name).membership.set_state(MemberState::Leaving).await;
            pass(1.0).await;
            cluster.member(&name).membership.leave().await;
            cluster.crash(&name);
            pass(1.0).await;
            cluster.start(&name, with_measure(&name, "likes=count(like)"));
            let took = until(20, || cluster.agree()).await;
            assert!(took.is_some(), "seed {seed}, {name}: {:?}", cluster.all());
            cluster.settle().await;
            // They go on hearing each other.
            pass(10.0).await;
            assert!(until(5, || cluster.agree()).await.is_some(), "seed {seed}, {name}: {:?}", cluster.all());
        }
        for name in names(4) {
            assert_eq!(has_ended(&cluster, &name, 0).await, None);
            assert_eq!(cluster.member(&name).metric(&["gossip_rejoins_total"]), 0, "seed {seed}, {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn members_of_two_schemas_that_start_at_once_meet_as_fast_as_others() {
    let mut cluster = Cluster::empty(5, FINE);
    for name in names(5) {
        let is_new = ["n1", "n3"].contains(&name.as_str());
        cluster.start(&name, if is_new { with_measure(&name, "likes=count(like)") } else { node(&name) });
    }
    let took = cluster.until(10, || cluster.agree()).await.expect("all meet");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_means_something_else_by_a_name_ends_also_where_others_agree_with_it() {
    for weather in [FINE, ROUGH] {
        let mut cluster = Cluster::of(3, 6, weather).await;
        cluster.start("n5", with_measure("n5", "likes=count(like)"));
        cluster.settle().await;
        pass(20.0).await;
        // Two of the old members never heard of likes: they agree with both.
        cluster.start("n7", with_measure("n7", "likes=count(love)"));
        let ended = has_ended(&cluster, "n7", 8).await.expect("it is refused");
        assert!(
            matches!(&ended, Failure::Refused { by, difference, .. } if *by == id("n5") && difference.fact == "schema")
        );
        let text = ended.to_string();
        assert!(text.contains("its schema is one where likes means something else"), "{text}");
        for name in ["n0", "n1", "n2", "n5"] {
            assert_eq!(has_ended(&cluster, name, 1).await, None, "{name} was here first");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_redefines_a_name_of_all_is_refused() {
    let mut cluster = Cluster::of(3, 7, FINE).await;
    let mut start = node("n7");
    let measures = vec!["views=count(visit)".parse::<Measure>().unwrap()];
    start.config.facts.schema = Schema::new(Vec::new(), measures).unwrap().outline();
    cluster.start("n7", start);
    let ended = has_ended(&cluster, "n7", 5).await.expect("it is refused").to_string();
    assert!(ended.ends_with("and here it is one with views=count(visit)"), "{ended}");
    assert_eq!(cluster.member("n0").sees(), ["n0", "n1", "n2"]);
}
