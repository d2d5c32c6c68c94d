//! Viral URLs: whatever share of the events one has, no shard gets more than its lanes, and answers are those of one URL.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

mod common;

use common::{Cluster, NOW_MS, Plain, batch, fill, naive, parse, rows, to_wire};
use std::collections::BTreeMap;
use tidemark_proto::v1;
use tidemark_rollup::lanes::{LANES, LaneRules, spread_url};

/// Lanes in batches of a few hundred events.
const SOON: LaneRules = LaneRules { at_least_events: 128, times_average: 4 };

/// Every second event is of `/viral`; the others are of 500 URLs.
fn viral_events(count: u32) -> Vec<Plain> {
    let event = |n: u32| Plain {
        site: "site0.com".into(),
        url: if n.is_multiple_of(2) { "/viral".to_owned() } else { format!("/page/{}", n * 7 % 500) },
        time_ms: NOW_MS - 1 - i64::from(n % 3) * 300_000,
        kind: "view".into(),
        visitor: Some(n % 1_000),
        dimensions: BTreeMap::from([
            ("device", format!("device{}", n % 3)),
            ("country", format!("c{}", n % 7)),
        ]),
        values: BTreeMap::from([("load_ms", n % 90), ("bytes", n)]),
    };
    (0..count).map(event).collect()
}

fn query(group_by: &[&str], limit: u32) -> v1::Query {
    v1::Query {
        site: "site0.com".into(),
        from: "-30m".into(),
        measures: ["views", "visitors", "bytes", "load_ms.p95"].map(str::to_owned).to_vec(),
        group_by: group_by.iter().map(|&group| group.to_owned()).collect(),
        limit,
        ..v1::Query::default()
    }
}

#[test]
fn a_url_with_half_of_all_events_loads_no_shard_with_more_than_some_lanes_of_it() {
    let cluster = Cluster::new(1, 64, 10_000);
    let events = viral_events(8_192);
    let split = cluster.split(&batch(1, 1, events.iter().map(to_wire).collect()));
    assert_eq!(split.blocks.iter().map(|block| block.event_count).sum::<u32>(), 8_192);
    let most = split.blocks.iter().map(|block| block.event_count).max().unwrap();
    // A lane has 4,096 / 16 events; few shards have more than three.
    assert!(most <= 4 * 4_096 / LANES + 200, "{most} events in one shard");
}

#[test]
fn a_batch_without_a_viral_url_has_no_lanes() {
    let mut cluster = Cluster::new(1, 64, 10_000);
    let events: Vec<Plain> = viral_events(8_192).into_iter().filter(|event| event.url != "/viral").collect();
    fill(&mut cluster, &events, 4_096, &[]);
    let small = viral_events(200);
    fill(&mut cluster, &small, 200, &[]);
    let answer = cluster.answer(&parse(&query(&["url"], 10_000)), false);
    assert!(rows(&answer).iter().all(|row| !row[0].contains('#')));
    let pages: u32 = cluster.shards.iter().map(|shard| shard.row_count() as u32).sum();
    assert!(pages > 0);
}

#[test]
fn answers_are_those_of_one_url_for_every_question_and_number_of_shards() {
    let events = viral_events(1_800);
    let filters = [
        None,
        Some(v1::Filter {
            dimension: "url".into(),
            r#in: vec!["/viral".into(), "/page/7".into()],
            ..Default::default()
        }),
        Some(v1::Filter { dimension: "url".into(), not_in: vec!["/viral".into()], ..Default::default() }),
        Some(v1::Filter { dimension: "url".into(), prefix: Some("/vi".into()), ..Default::default() }),
        Some(v1::Filter { dimension: "device".into(), r#in: vec!["device1".into()], ..Default::default() }),
    ];
    for (nodes, shards) in [(1, 64), (3, 16)] {
        let mut cluster = Cluster::new(nodes, shards, 10_000);
        cluster.lanes = SOON;
        fill(&mut cluster, &events, 600, &[]);
        for groups in [&["url"][..], &["url", "country"], &["country"], &[]] {
            for limit in [1, 1_000] {
                for filter in &filters {
                    for granularity in ["", "5m"] {
                        let filters = filter.iter().cloned().collect();
                        let wire =
                            v1::Query { filters, granularity: granularity.into(), ..query(groups, limit) };
                        let query = parse(&wire);
                        let expected = naive(&events, &query, 10_000);
                        for as_node in [false, true] {
                            let answer = cluster.answer(&query, as_node);
                            assert_eq!(rows(&answer), expected, "{nodes} nodes, {shards} shards, {wire:?}");
                        }
                    }
                }
            }
        }
    }
}

/// What the URL had before it was viral is in its own shard alone, where other URLs have more.
#[test]
fn what_a_viral_url_has_in_its_own_shard_counts_although_it_would_not_be_among_the_first_there() {
    let plain = viral_events(1).remove(0);
    let event = |url: &str, n: u32| Plain { url: url.to_owned(), visitor: Some(n), ..plain.clone() };
    // 20 events of few producers, and 17 in lanes: 37 in all, against 30 of each of 640 others.
    let mut cluster = Cluster::new(4, 64, 10_000);
    let mut events: Vec<Plain> = (0..640 * 30).map(|n| event(&format!("/page/{}", n % 640), n)).collect();
    events.extend((0..20).map(|n| event("/viral", n)));
    fill(&mut cluster, &events, 100, &[]);
    let spread: Vec<Plain> = (0..17).map(|n| event("/viral", n)).collect();
    cluster.lanes = LaneRules { at_least_events: 17, times_average: 1 };
    let batch = batch(9, 1, spread.iter().map(to_wire).collect());
    let split = cluster.split(&batch);
    assert!(split.blocks.len() > 8, "{} blocks", split.blocks.len());
    split.blocks.iter().for_each(|block| cluster.apply(block));
    events.extend(spread);

    for granularity in ["", "5m"] {
        let query = parse(&v1::Query { granularity: granularity.into(), ..query(&["url"], 1) });
        let expected = naive(&events, &query, 10_000);
        for as_node in [false, true] {
            assert_eq!(rows(&cluster.answer(&query, as_node)), expected);
        }
    }
}

#[test]
fn in_each_bucket_the_first_event_of_a_viral_url_is_in_the_urls_own_shard() {
    let cluster = Cluster::new(1, 64, 10_000);
    let split = cluster.split(&batch(1, 1, viral_events(4_000).iter().map(to_wire).collect()));
    let mut decoded = tidemark_rollup::block::DecodedBlock::default();
    let mut lanes: BTreeMap<String, std::collections::BTreeSet<i64>> = BTreeMap::new();
    for block in &split.blocks {
        decoded.read(block, tidemark_rollup::sharding::ShardCount::DEFAULT).unwrap();
        for event in decoded.to_events() {
            let page = std::str::from_utf8(&event.url).unwrap();
            if spread_url(page) == Some("/viral") {
                lanes.entry(page.to_owned()).or_default().insert(event.time_ms / 300_000);
            }
        }
    }
    assert_eq!(lanes.len(), LANES as usize);
    let of_first = &lanes["/viral#0"];
    assert_eq!(of_first.len(), 3);
    assert!(lanes.values().all(|buckets| buckets.is_subset(of_first)));
}

#[test]
fn whether_a_url_is_spread_does_not_depend_on_which_of_its_events_count() {
    let mut cluster = Cluster::new(1, 64, 10_000);
    cluster.lanes = SOON;
    let mut events: Vec<Plain> = (0..150).map(|_| viral_events(1).remove(0)).collect();
    // Of older events a node would say that they are too late; a producer does not know how late that is.
    events.iter_mut().take(30).for_each(|event| event.time_ms -= 72 * 3_600_000);
    let split = cluster.split(&batch(1, 1, events.iter().map(to_wire).collect()));
    assert_eq!(
        (split.rejected.len(), split.blocks.iter().map(|block| block.event_count).sum::<u32>()),
        (30, 120)
    );
    assert!(split.blocks.len() > 8, "{} blocks", split.blocks.len());
}
