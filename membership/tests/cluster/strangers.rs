//! Those who do not belong: other keys, other facts, datagrams that were recorded or forged.

use crate::net::{Cluster, FINE, Start, address, node, pass};
use bytes::Bytes;
use std::time::Duration;
use tidemark_membership::{ClusterKey, Failure, StartError};
use tidemark_rollup::sharding::ShardCount;

#[tokio::test(start_paused = true)]
async fn a_wrong_key_never_joins_and_is_counted() {
    let mut cluster = Cluster::of(3, 1, FINE).await;
    let mut start = node("n7");
    start.config.key = ClusterKey::of("another secret");
    cluster.start("n7", start);
    pass(60.0).await;
    assert_eq!(cluster.member("n7").sees(), ["n7"]);
    assert_eq!(cluster.member("n0").sees(), ["n0", "n1", "n2"]);
    assert!(cluster.member("n0").metric(&["gossip_dropped_total", "\"seal\""]) > 10);
}

fn with_32_shards(name: &str) -> Start {
    let mut start = node(name);
    start.config.facts.shards = ShardCount::new(32).unwrap();
    start
}

#[tokio::test(start_paused = true)]
async fn a_wrong_shard_count_is_refused_and_the_error_names_both_values() {
    let mut cluster = Cluster::of(3, 1, FINE).await;
    cluster.start("n7", with_32_shards("n7"));
    let refused =
        tokio::time::timeout(Duration::from_secs(5), cluster.member("n7").membership.failed()).await.unwrap();
    assert!(matches!(&refused, Failure::Refused { difference, .. } if difference.fact == "shard count"));
    let text = refused.to_string();
    assert!(text.ends_with("refuses this member: its shard count is 64, and here it is 32"), "{text}");
    assert!(cluster.member("n0").metric(&["gossip_dropped_total", "\"facts\""]) > 0);
    assert_eq!(cluster.member("n0").sees(), ["n0", "n1", "n2"]);
    // It is silent from then on.
    let sent = cluster.net.sent(address("n7"));
    pass(20.0).await;
    assert_eq!(cluster.net.sent(address("n7")), sent);
}

#[tokio::test(start_paused = true)]
async fn one_member_with_other_facts_does_not_keep_the_others_from_meeting() {
    let mut cluster = Cluster::empty(1, FINE);
    cluster.start("n0", with_32_shards("n0"));
    cluster.start("n1", node("n1"));
    cluster.start("n2", node("n2"));
    tokio::time::timeout(Duration::from_secs(5), cluster.member("n0").membership.failed()).await.unwrap();
    for name in ["n1", "n2"] {
        assert_eq!(cluster.member(name).sees(), ["n1", "n2"]);
        let failed =
            tokio::time::timeout(Duration::from_secs(10), cluster.member(name).membership.failed()).await;
        assert!(failed.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn recorded_and_forged_datagrams_change_nothing() {
    let mut cluster = Cluster::empty(1, FINE);
    cluster.net.record();
    for name in ["n0", "n1", "n2"] {
        cluster.start(name, node(name));
    }
    cluster.settle().await;
    pass(5.0).await;
    cluster.member("n2").membership.leave().await;
    cluster.crash("n2");
    pass(3.0).await;
    cluster.start("n2", node("n2"));
    cluster.settle().await;
    let (recorded, before) = (cluster.net.recorded(), cluster.member("n0").view());
    let rejoins = |name: &str| cluster.member(name).metric(&["gossip_rejoins_total"]);
    for (from, to, bytes) in &recorded {
        cluster.net.deliver(*from, *to, bytes.clone());
        // To somebody else, and with one bit changed.
        for name in ["n0", "n1", "n2"] {
            cluster.net.deliver(*from, address(name), bytes.clone());
        }
        let mut forged = bytes.to_vec();
        let at = forged.len() / 2;
        forged[at] ^= 1;
        cluster.net.deliver(*from, *to, Bytes::from(forged));
        cluster.net.deliver(*from, *to, Bytes::from_static(b"hello"));
    }
    pass(10.0).await;
    assert_eq!(cluster.member("n0").view(), before);
    assert!(cluster.agree());
    assert_eq!((rejoins("n0"), rejoins("n1"), rejoins("n2")), (0, 0, 0));
    let dropped = |reason: &str| cluster.member("n0").metric(&["gossip_dropped_total", reason]);
    assert!(dropped("\"replay\"") > 50, "{}", dropped("\"replay\""));
    assert!(dropped("\"seal\"") > 50 && dropped("\"version\"") > 50);
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_work_are_refused_before_anything_is_sent() {
    let reason = |change: fn(&mut Start)| {
        let mut start = node("n0");
        change(&mut start);
        let cluster = Cluster::empty(1, FINE);
        let parts = tidemark_membership::Parts {
            clock: std::sync::Arc::new(Fixed),
            datagrams: cluster.net.open(start.config.gossip),
            meter: tidemark_membership::MembershipMetrics::default().of(&start.config.id),
            seed: 1,
        };
        tidemark_membership::Membership::start(start.config, parts, Default::default()).unwrap_err()
    };
    assert!(matches!(reason(|s| s.config.gossip.set_port(0)), StartError::Unreachable(_)));
    assert!(matches!(reason(|s| s.config.address = "host".into()), StartError::Address(_)));
    assert!(matches!(reason(|s| s.config.seeds.push("host".into())), StartError::Seed(_)));
    assert!(matches!(reason(|s| s.config.version = "v".repeat(99)), StartError::Version(_)));
    assert!(matches!(reason(|s| s.config.facts.cluster.clear()), StartError::Cluster(_)));
    assert!(matches!(reason(|s| s.config.timing.probe_timeout *= 2), StartError::Timing));
    assert!(matches!(reason(|s| s.config.folder = Some("/dev/null/x".into())), StartError::Folder { .. }));
}

struct Fixed;

impl tidemark_rollup::time::Clock for Fixed {
    fn now(&self) -> tidemark_rollup::time::EventTime {
        tidemark_rollup::time::EventTime::EPOCH
    }
}
