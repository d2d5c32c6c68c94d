//! Joining, leaving, states.

use crate::net::{Cluster, FINE, ROUGH, address, id, names, node, pass};
use std::time::Duration;
use tidemark_rollup::member::{MemberState, Role, Zone};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn members_meet_through_one_seed_and_say_what_they_are() {
    let mut cluster = Cluster::empty(1, FINE);
    for name in names(5) {
        let mut start = node(&name).with_seeds(&["n0"]);
        start.config.zone = Some(format!("zone-{name}").parse::<Zone>().unwrap());
        cluster.start(&name, start);
    }
    let took = cluster.until(10, || cluster.agree()).await.expect("all meet");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let n4 = cluster.member("n0").member("n4").unwrap();
    assert_eq!((n4.state, n4.role, &*n4.address), (MemberState::Joining, Role::Node, "n4:7100"));
    assert_eq!((n4.zone.unwrap().to_string(), &*n4.version), ("zone-n4".into(), "0.1.0"));
    assert!(cluster.member("n4").membership.expects_others());
    assert!(!cluster.member("n0").membership.expects_others(), "its only seed is itself");
}

#[tokio::test(start_paused = true)]
async fn a_state_is_in_the_own_view_at_once_and_soon_in_all_others() {
    let cluster = Cluster::of(5, 2, ROUGH).await;
    let n3 = cluster.member("n3");
    let before = n3.own().incarnation;
    n3.membership.set_state(MemberState::Leaving).await;
    assert_eq!(n3.own().state, MemberState::Leaving);
    assert!(n3.own().incarnation > before);
    let told = cluster.until(10, || cluster.agree()).await.expect("all hear of it");
    assert!(told < Duration::from_secs(6), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_state_concluded_in_a_former_life_is_not_taken_on() {
    let cluster = Cluster::of(2, 2, FINE).await;
    let n0 = cluster.member("n0");
    let life = n0.own().incarnation;
    assert!(n0.membership.set_state_in(life, MemberState::Leaving).await);
    assert!(!n0.membership.set_state_in(life, MemberState::Active).await);
    assert_eq!(n0.own().state, MemberState::Leaving);
}

#[tokio::test(start_paused = true)]
async fn all_states_may_change_at_the_same_moment() {
    for seed in 0..8 {
        let cluster = Cluster::of(3, seed, ROUGH).await;
        for state in [MemberState::Leaving, MemberState::Active] {
            for running in cluster.running.values() {
                running.membership.set_state(state).await;
            }
        }
        assert!(cluster.until(10, || cluster.agree()).await.is_some(), "seed {seed}: {:?}", cluster.all());
        assert!(cluster.running.values().all(|of| of.own().state == MemberState::Active));
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_goes_from_all_views_within_a_second_and_is_not_missing() {
    for seed in 0..4 {
        let mut cluster = Cluster::of(5, seed, ROUGH).await;
        let start = Instant::now();
        cluster.member("n4").membership.leave().await;
        assert!(start.elapsed() <= Duration::from_secs(1));
        cluster.crash("n4");
        let gone = || cluster.running.values().all(|of| of.member("n4").is_none());
        let took = cluster.until(10, gone).await.expect("all drop it");
        assert!(took + start.elapsed() < Duration::from_secs(3), "{took:?}");
        pass(5.0).await;
        assert!(cluster.agree());
        assert!(cluster.running.values().all(|of| of.view().missing().is_empty()));
        // It may come again.
        cluster.start("n4", node("n4"));
        assert!(cluster.until(10, || cluster.agree()).await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_alone_leaves_at_once() {
    let mut cluster = Cluster::empty(1, FINE);
    cluster.start("n0", node("n0"));
    pass(0.1).await;
    let start = Instant::now();
    cluster.member("n0").membership.leave().await;
    assert!(start.elapsed() < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_is_a_member_that_is_active_from_the_start() {
    let mut cluster = Cluster::of(3, 4, FINE).await;
    let mut start = node("c9");
    start.config.role = Role::Coordinator;
    cluster.start("c9", start);
    assert!(cluster.until(5, || cluster.agree()).await.is_some());
    let seen = cluster.member("n0").member("c9").unwrap();
    assert_eq!((seen.role, seen.state), (Role::Coordinator, MemberState::Active));
    assert_eq!(cluster.member("n0").view().nodes().count(), 3);
    cluster.member("c9").membership.set_state(MemberState::Joining).await;
    assert_eq!(cluster.member("c9").own().state, MemberState::Active);
    cluster.crash("c9");
    assert!(cluster.until(10, || cluster.agree()).await.is_some());
    assert!(cluster.member("n0").view().missing().is_empty(), "it owned nothing");
}

#[tokio::test(start_paused = true)]
async fn sixty_four_members_with_long_names_meet_also_one_that_comes_late() {
    let long = |name: &str| {
        let mut start = node(name);
        start.config.id = id(&format!("{name}-{}", "x".repeat(63 - name.len())));
        start.config.zone = Some("z".repeat(64).parse().unwrap());
        start.config.address = format!("{}.example.internal:7100", "h".repeat(100));
        start
    };
    let mut cluster = Cluster::empty(5, FINE);
    for name in names(64) {
        // Sorted by the names that the view sorts by.
        cluster.start(long(&name).config.id.as_str(), long(&name));
    }
    let met = cluster.until(60, || cluster.agree()).await.expect("all meet");
    cluster.start(long("n64").config.id.as_str(), long("n64"));
    let late = cluster.until(60, || cluster.agree()).await.expect("the late one meets all");
    println!("64 members with the longest names met after {met:?}, a late one after {late:?}");
    assert!(late < Duration::from_secs(20), "{late:?}");
    assert_ne!(address("n64"), address("n63"));
}
