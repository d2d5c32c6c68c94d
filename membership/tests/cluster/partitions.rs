//! Parts of a cluster that lost each other.

use crate::net::{Cluster, FINE, ROUGH, address, names, node, pass};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn two_and_three_that_were_apart_for_a_minute_meet_again() {
    let mut times = Vec::new();
    for seed in 0..10 {
        let mut cluster = Cluster::empty(seed, if seed % 2 == 0 { FINE } else { ROUGH });
        for name in names(5) {
            cluster.start(&name, node(&name));
            if seed % 4 >= 2 {
                pass(0.13).await;
            }
        }
        cluster.settle().await;
        let all = names(5);
        cluster.cut(&all[..2], &all[2..]);
        pass(60.0).await;
        assert!(cluster.all()[0].1.len() == 2 || seed % 2 == 1);
        cluster.net.heal();
        let took = cluster.until(60, || cluster.agree()).await;
        times.push(took.unwrap_or_else(|| panic!("seed {seed} did not heal: {:?}", cluster.all())));
        pass(10.0).await;
        assert!(cluster.agree() || seed % 2 == 1, "seed {seed} fell apart again: {:?}", cluster.all());
    }
    times.sort();
    println!("2|3 apart for 60 s: whole again after {:?} (median), {:?} (most)", times[5], times[9]);
}

#[tokio::test(start_paused = true)]
async fn two_nodes_that_lost_each_other_meet_again_also_where_only_one_knows_a_seed() {
    let mut times = Vec::new();
    for seed in 0..10 {
        let mut cluster = Cluster::empty(seed, FINE);
        cluster.start("n0", node("n0").with_seeds(&[]));
        cluster.start("n1", node("n1").with_seeds(&["n0"]));
        cluster.settle().await;
        cluster.cut(&["n0".into()], &["n1".into()]);
        pass(60.0).await;
        assert_eq!(cluster.member("n0").sees(), ["n0"]);
        assert_eq!(cluster.member("n1").view().missing().len(), 1);
        cluster.net.heal();
        let took = cluster.until(60, || cluster.agree()).await;
        times.push(took.unwrap_or_else(|| panic!("seed {seed} did not heal: {:?}", cluster.all())));
    }
    times.sort();
    println!("1|1 apart for 60 s: whole again after {:?} (median), {:?} (most)", times[5], times[9]);
    assert!(times[9] < Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_member_without_seeds_finds_those_it_remembers() {
    let mut cluster = Cluster::empty(7, FINE);
    cluster.start("n0", node("n0").with_seeds(&[]));
    cluster.start("n1", node("n1").with_seeds(&["n0"]));
    cluster.settle().await;
    // The seed is away for good; n1 alone remembers n2, which has no seeds.
    cluster.start("n2", node("n2").with_seeds(&["n1"]));
    cluster.settle().await;
    cluster.cut(&["n2".into()], &["n0".into(), "n1".into()]);
    pass(30.0).await;
    cluster.crash("n0");
    pass(30.0).await;
    cluster.net.heal();
    assert!(cluster.until(30, || cluster.agree()).await.is_some(), "{:?}", cluster.all());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_in_one_direction_divides_nobody() {
    for seed in 0..4 {
        let cluster = Cluster::of(4, seed, FINE).await;
        cluster.net.cut(address("n1"), address("n2"));
        pass(60.0).await;
        assert!(cluster.agree(), "seed {seed}: others vouch for them: {:?}", cluster.all());
        assert!(cluster.running.values().all(|of| of.metric(&["gossip_rejoins_total"]) == 0));
        cluster.net.heal();
        pass(5.0).await;
        assert!(cluster.agree());
    }
}

#[tokio::test(start_paused = true)]
async fn one_who_only_hears_and_is_not_heard_comes_back_when_it_is() {
    for seed in 0..4 {
        let cluster = Cluster::of(4, seed, FINE).await;
        for other in ["n0", "n2", "n3"] {
            cluster.net.cut(address("n1"), address(other));
        }
        pass(30.0).await;
        assert!(cluster.member("n0").member("n1").is_none());
        cluster.net.heal();
        assert!(cluster.until(30, || cluster.agree()).await.is_some(), "seed {seed}: {:?}", cluster.all());
    }
}
