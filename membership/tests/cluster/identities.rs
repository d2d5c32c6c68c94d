//! Members that start again, and members of one name.

use crate::net::{Cluster, FINE, ROUGH, Running, address, id, node, pass};
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_membership::Failure;

const HOUR_MS: i64 = 3_600_000;

fn elsewhere() -> SocketAddr {
    SocketAddr::from(([10, 0, 9, 9], 7101))
}

async fn failure(of: &Running) -> Option<Failure> {
    tokio::time::timeout(Duration::from_millis(1), of.membership.failed()).await.ok()
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_clock_went_back_an_hour_comes_back_in_one_step() {
    for pause in [0.1, 1.9, 10.0] {
        for moved in [false, true] {
            for seed in 0..2 {
                let mut cluster = Cluster::of(3, seed, ROUGH).await;
                let before = cluster.member("n1").own().incarnation;
                cluster.crash("n1");
                pass(pause).await;
                let mut start = node("n1").clock_off_by(-HOUR_MS);
                if moved {
                    start.config.gossip = elsewhere();
                }
                cluster.start("n1", start);
                let took = cluster.until(10, || cluster.agree()).await;
                assert!(took.is_some(), "pause {pause}, moved {moved}, seed {seed}: {:?}", cluster.all());
                let n1 = cluster.member("n1");
                assert!(n1.own().incarnation > before);
                assert!(n1.own().incarnation.0 < before.0 + 100, "it did not have to count");
                pass(10.0).await;
                assert!(cluster.agree());
                assert_eq!(failure(n1).await, None);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_with_a_folder_knows_by_itself_that_its_clock_went_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::empty(1, FINE);
    cluster.start("n0", node("n0").in_folder(folder.path().join("n0")));
    cluster.start("n1", node("n1"));
    cluster.settle().await;
    let before = cluster.member("n0").own().incarnation;
    cluster.crash("n0");
    pass(0.1).await;
    cluster.start("n0", node("n0").in_folder(folder.path().join("n0")).clock_off_by(-HOUR_MS));
    assert_eq!(cluster.member("n0").own().incarnation.0, before.0 + 1);
    assert!(cluster.until(5, || cluster.agree()).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_starts_again_at_another_address_replaces_its_former_self() {
    let mut cluster = Cluster::of(3, 1, FINE).await;
    cluster.crash("n1");
    pass(0.5).await;
    let mut start = node("n1");
    start.config.gossip = elsewhere();
    start.config.address = "other:7100".into();
    cluster.start("n1", start);
    assert!(cluster.until(5, || cluster.agree()).await.is_some());
    assert_eq!(cluster.member("n0").member("n1").unwrap().address, "other:7100");
    assert_eq!(failure(cluster.member("n1")).await, None);
}

#[tokio::test(start_paused = true)]
async fn of_two_members_of_one_name_the_older_one_ends_with_a_clear_error() {
    for off in [0, -HOUR_MS] {
        for seed in 0..3 {
            let mut cluster = Cluster::of(3, seed, FINE).await;
            pass(10.0).await;
            let mut start = node("n1").clock_off_by(off);
            start.config.gossip = elsewhere();
            cluster.start("other", start);
            let older = cluster.member("n1");
            let failed = tokio::time::timeout(Duration::from_secs(20), older.membership.failed()).await;
            assert_eq!(failed, Ok(Failure::Duplicate { id: id("n1"), address: elsewhere() }), "seed {seed}");
            assert_eq!(
                failed.unwrap().to_string(),
                "another member is called n1 at 10.0.9.9:7101: every member needs a name of its own"
            );
            cluster.crash("n1");
            pass(5.0).await;
            assert_eq!(failure(cluster.member("other")).await, None);
            assert_eq!(cluster.member("n0").sees(), ["n0", "n1", "n2"]);
            assert_ne!(address("n1"), elsewhere());
        }
    }
}
