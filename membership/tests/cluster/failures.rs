//! Crashes, pauses, suspicions.

use crate::net::{Cluster, FINE, ROUGH, address, id, names, node, pass};
use std::time::Duration;
use tidemark_rollup::member::MemberState;

#[tokio::test(start_paused = true)]
async fn a_crash_is_seen_by_all_within_three_and_a_half_seconds() {
    for count in [3, 5, 7] {
        let mut times = Vec::new();
        for seed in 0..12 {
            let mut cluster = Cluster::of(count, seed, FINE).await;
            pass(seed as f64 * 0.037).await;
            cluster.crash("n1");
            let doubted =
                || cluster.running.values().all(|of| of.member("n1").is_none_or(|member| member.doubtful));
            let took = cluster.until(10, doubted).await.expect("all see it");
            assert!(took < Duration::from_millis(3500), "{count} members, seed {seed}: {took:?}");
            times.push(took);
            let missing = || cluster.running.values().all(|of| of.view().missing() == [id("n1")]);
            assert!(cluster.until(3, missing).await.is_some());
            assert!(cluster.agree());
        }
        times.sort();
        println!(
            "{count} members: a crash is seen by all after {:?} (median), {:?} (most)",
            times[6], times[11]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_suspicion_is_refuted() {
    let mut refuted = 0;
    for seed in 0..5 {
        let cluster = Cluster::of(3, seed, FINE).await;
        let before: Vec<_> = cluster.running.values().map(|of| of.own().incarnation).collect();
        // Nothing from n1 arrives for a moment.
        for other in ["n0", "n2"] {
            cluster.net.cut(address("n1"), address(other));
        }
        pass(0.9).await;
        cluster.net.heal();
        pass(10.0).await;
        assert!(cluster.agree(), "seed {seed}: {:?}", cluster.all());
        let after: Vec<_> = cluster.running.values().map(|of| of.own().incarnation).collect();
        assert_eq!(before, after, "nobody had to begin again");
        refuted += cluster.member("n1").metric(&["gossip_suspicions_total"]);
    }
    assert!(refuted > 0, "nobody was suspected: this test tests nothing");
}

#[tokio::test(start_paused = true)]
async fn a_pause_shorter_than_suspicion_does_not_cost_a_member_its_place() {
    for count in [2, 3, 5] {
        for seed in 0..5 {
            let cluster = Cluster::of(count, seed, FINE).await;
            let before = cluster.member("n1").own();
            cluster.net.hold(address("n1"));
            pass(1.0).await;
            cluster.net.release(address("n1"));
            pass(5.0).await;
            assert!(cluster.agree());
            assert_eq!(cluster.member("n1").own(), before, "{count} members, seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_given_up_comes_back_joining_in_a_later_life_and_is_missing_until_it_is_active() {
    for seed in 0..5 {
        let cluster = Cluster::of(4, seed, ROUGH).await;
        let before = cluster.member("n3").own();
        cluster.net.hold(address("n3"));
        pass(8.0).await;
        assert_eq!(cluster.member("n0").view().missing(), [id("n3")]);
        cluster.net.release(address("n3"));
        let n3 = cluster.member("n3");
        assert!(cluster.until(20, || cluster.agree()).await.is_some(), "seed {seed}: {:?}", cluster.all());
        assert!(n3.own().incarnation > before.incarnation);
        assert_eq!(n3.own().state, MemberState::Joining);
        assert_eq!(cluster.member("n0").view().missing(), [id("n3")], "it is back, and not active");
        assert!(n3.metric(&["gossip_rejoins_total"]) > 0);
        n3.membership.set_state(MemberState::Active).await;
        let complete = || cluster.member("n0").view().missing().is_empty();
        assert!(cluster.until(10, complete).await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_restarts_at_once_never_leaves_the_view() {
    let mut cluster = Cluster::of(3, 3, FINE).await;
    cluster.crash("n1");
    cluster.start("n1", node("n1"));
    for _ in 0..1000 {
        assert!(cluster.member("n0").member("n1").is_some());
        pass(0.01).await;
    }
    assert!(cluster.agree());
    assert_eq!(cluster.member("n0").member("n1").unwrap().state, MemberState::Joining);
    assert!(cluster.member("n0").view().missing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_view_says_who_this_member_is_before_others_can() {
    // Each member's own view is looked at whenever any other view changes.
    let cluster = Cluster::of(3, 6, FINE).await;
    cluster.net.hold(address("n2"));
    pass(6.0).await;
    cluster.net.release(address("n2"));
    for _ in 0..5000 {
        for running in cluster.running.values() {
            for seen in running.view().members() {
                let own = cluster.member(seen.id.as_str()).own();
                assert!(seen.incarnation <= own.incarnation, "{} was heard of before it knew", seen.id);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(cluster.agree());
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_datagrams() {
    let run = || async {
        let mut cluster = Cluster::empty(11, ROUGH);
        cluster.net.record();
        for name in names(5) {
            cluster.start(&name, node(&name));
        }
        pass(3.0).await;
        cluster.crash("n2");
        pass(5.0).await;
        cluster.start("n2", node("n2"));
        pass(3.0).await;
        cluster.net.recorded()
    };
    let (first, second) = (run().await, run().await);
    assert!(first.len() > 100);
    assert_eq!(first.len(), second.len());
    // Incarnations are times of day, which the second run has at the same distance from its own start.
    assert_eq!(first, second);
}
