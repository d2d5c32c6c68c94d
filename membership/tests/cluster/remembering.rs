//! Whom a member remembers over a restart.

use crate::net::{Cluster, FINE, id, node, pass};
use std::path::Path;

async fn cluster_of_three(folder: &Path) -> Cluster {
    let mut cluster = Cluster::empty(1, FINE);
    for name in ["n0", "n1", "n2"] {
        // The first one has itself as seed: the others remember it, or come to it.
        cluster.start(name, node(name).with_seeds(&["n0"]).in_folder(folder.join(name)));
    }
    cluster.settle().await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_node_that_went_while_this_one_was_away_is_missing_after_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster_of_three(folder.path()).await;
    assert!(!cluster.member("n0").membership.expects_others(), "its only seed is itself");
    cluster.crash("n0");
    cluster.crash("n2");
    pass(10.0).await;
    cluster.start("n0", node("n0").with_seeds(&["n0"]).in_folder(folder.path().join("n0")));
    assert!(cluster.member("n0").membership.expects_others(), "it knew others");
    pass(2.5).await;
    assert!(cluster.member("n0").view().missing().is_empty(), "it may be on its way");
    pass(1.0).await;
    assert_eq!(cluster.member("n0").view().missing(), [id("n2")]);
    cluster.start("n2", node("n2").in_folder(folder.path().join("n2")));
    assert!(cluster.until(10, || cluster.agree()).await.is_some());
    cluster.settle().await;
    assert!(cluster.running.values().all(|of| of.view().missing().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_normal_restart_of_all_makes_nobody_missing() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster_of_three(folder.path()).await;
    for name in ["n0", "n1", "n2"] {
        cluster.crash(name);
    }
    pass(5.0).await;
    for name in ["n0", "n1", "n2"] {
        cluster.start(name, node(name).in_folder(folder.path().join(name)));
    }
    for _ in 0..100 {
        assert!(cluster.running.values().all(|of| of.view().missing().is_empty()));
        pass(0.1).await;
    }
    assert!(cluster.agree());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_left_while_this_one_was_away_is_not_missing_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster_of_three(folder.path()).await;
    cluster.crash("n0");
    pass(5.0).await;
    cluster.member("n2").membership.leave().await;
    cluster.crash("n2");
    pass(30.0).await;
    cluster.start("n0", node("n0").in_folder(folder.path().join("n0")));
    pass(15.0).await;
    assert!(cluster.agree());
    assert!(cluster.member("n0").view().missing().is_empty(), "n1 knows that it left");
}

#[tokio::test(start_paused = true)]
async fn without_a_folder_nobody_is_remembered() {
    let mut cluster = Cluster::of(3, 1, FINE).await;
    cluster.crash("n0");
    cluster.crash("n2");
    pass(10.0).await;
    cluster.start("n0", node("n0"));
    pass(10.0).await;
    assert!(cluster.member("n0").view().missing().is_empty());
    assert_eq!(cluster.member("n1").view().missing(), [id("n0"), id("n2")]);
}
