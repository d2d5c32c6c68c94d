//! Who is active is a function of the events and of the moment alone. Held against a naive count of the raw events.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

mod common;

use common::{Cluster, Fields, NOW_MS, Plain, fill, parse_at, rows};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_proto::v1;
use tidemark_rollup::query::Query;
use tidemark_rollup::time::{BucketStart, EventTime};

fn at(after_now_ms: i64) -> EventTime {
    EventTime::from_unix_ms(NOW_MS + after_now_ms)
}

/// An event of the last eleven minutes, or a little ahead of the clock.
fn recent() -> impl Strategy<Value = Plain> {
    let strategy = (common::plain(), prop_oneof![3 => -60_000_i64..310_000, 1 => 310_000_i64..660_000]);
    strategy.prop_map(|(event, ago)| Plain { time_ms: NOW_MS - ago, ..event })
}

/// (views of the range, visitors in the window's slices), by group; as text, in order, cut.
fn naive(events: &[Plain], query: &Query, limit: u32) -> Vec<Vec<String>> {
    let as_of = query.as_of.as_unix_ms();
    let newest_slice_end =
        (0..).map(|slice| as_of - as_of % 10_000 + slice * 10_000).find(|end| *end >= as_of).unwrap();
    let mut groups: BTreeMap<Vec<String>, (u64, BTreeSet<u32>)> = BTreeMap::new();
    for (event, key) in Fields::of(events, limit).selected(events, query) {
        let in_range = (query.from..query.to).contains(&EventTime::from_unix_ms(event.time_ms));
        let slice_start = event.time_ms - event.time_ms % 10_000;
        let is_active = event.visitor.is_some() && slice_start >= newest_slice_end - 300_000;
        if !in_range && !is_active {
            continue;
        }
        let (views, active) = groups.entry(key).or_default();
        *views += u64::from(in_range && event.kind == "view");
        active.extend(event.visitor.filter(|_| is_active));
    }
    let mut groups: Vec<_> =
        groups.into_iter().map(|(key, (views, active))| (key, views, active.len() as u64)).collect();
    let by_active = query.measures[query.order_by].name == "active";
    let order = |&(_, views, active): &(Vec<String>, u64, u64)| if by_active { active } else { views };
    groups.sort_by(|a, b| order(b).cmp(&order(a)).then_with(|| a.0.cmp(&b.0)));
    groups.truncate(query.limit);
    let text = |(key, views, active): (Vec<String>, u64, u64)| {
        let key = key.iter().map(|text| format!("{text:?}"));
        key.chain([views.to_string(), active.to_string()]).collect()
    };
    groups.into_iter().map(text).collect()
}

fn any_question() -> impl Strategy<Value = v1::Query> {
    let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
    let groups = prop::sample::select(
        [&[][..], &["url"], &["country"], &["url", "country"], &["site"], &["site", "url"]]
            .map(texts)
            .to_vec(),
    );
    let filter = prop::sample::select(vec![
        None,
        Some(v1::Filter { dimension: "device".into(), r#in: texts(&["device1", ""]), ..Default::default() }),
        Some(v1::Filter {
            dimension: "country".into(),
            not_in: texts(&["country3", "(other)"]),
            ..Default::default()
        }),
        Some(v1::Filter { dimension: "url".into(), prefix: Some("/page/2".into()), ..Default::default() }),
    ]);
    let sites = prop::sample::select(vec!["site0.com", "*"]);
    let order_by = prop::sample::select(vec!["active", "views"]);
    (sites, groups, filter, prop::sample::select(vec![1_u32, 2, 0]), order_by).prop_map(
        |(site, group_by, filter, limit, order_by)| v1::Query {
            site: site.to_owned(),
            measures: ["views", "active"].map(str::to_owned).to_vec(),
            group_by,
            filters: filter.into_iter().collect(),
            order_by: order_by.to_owned(),
            limit,
            ..v1::Query::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_cluster_counts_the_visitors_that_the_events_have(
        events in prop::collection::vec(recent(), 0..80),
        size in 1_usize..40,
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        question in any_question(),
        from in prop::sample::select(vec!["-1h", "-1m", "-1s"]),
        slide in 1_i64..70_000,
        limit in prop::sample::select(vec![2_u32, 10_000]),
    ) {
        let question = v1::Query { from: from.to_owned(), ..question };
        for (nodes, shards) in [(1, 1), (3, 16)] {
            let mut cluster = Cluster::new(nodes, shards, limit);
            fill(&mut cluster, &events, size, &order);
            for moment in (0..7).map(|step| at(step * slide)) {
                let query = parse_at(&question, moment);
                let expected = naive(&events, &query, limit);
                let answer = cluster.answer(&query, order.len() % 2 == 1);
                prop_assert_eq!(rows(&answer), expected, "{} nodes, {} shards, as of {}", nodes, shards, moment);
            }
        }
    }

    #[test]
    fn what_is_dropped_when_the_window_has_passed_changes_no_number(
        events in prop::collection::vec(recent(), 1..60),
        slides in prop::collection::vec(0_i64..120_000, 1..8),
    ) {
        let question = v1::Query {
            site: "*".into(),
            measures: vec!["active".into()],
            group_by: vec!["url".into()],
            ..Default::default()
        };
        let (mut kept, mut dropping) = (Cluster::new(1, 4, 100), Cluster::new(1, 4, 100));
        fill(&mut kept, &events, 10, &[]);
        fill(&mut dropping, &events, 10, &[]);
        let mut after = 0;
        for slide in slides {
            after += slide;
            let before = tidemark_rollup::active::first_kept(at(after));
            dropping.shards.iter_mut().for_each(|shard| shard.forget_slices(before));
            let query = parse_at(&question, at(after));
            prop_assert_eq!(rows(&dropping.answer(&query, false)), rows(&kept.answer(&query, false)));
        }
    }
}

fn visit(visitor: u32, after_now_ms: i64) -> Plain {
    Plain {
        site: "site0.com".into(),
        url: format!("/{visitor}"),
        time_ms: NOW_MS + after_now_ms,
        kind: "engage".into(),
        visitor: Some(visitor),
        dimensions: BTreeMap::new(),
        values: BTreeMap::new(),
    }
}

fn active(cluster: &Cluster, moment: EventTime) -> Vec<Vec<String>> {
    let question =
        v1::Query { site: "site0.com".into(), measures: vec!["active".into()], ..v1::Query::default() };
    rows(&cluster.answer(&parse_at(&question, moment), false))
}

#[test]
fn a_visitor_is_active_for_five_minutes_less_a_slice_and_then_it_is_zero_by_itself() {
    let mut cluster = Cluster::new(1, 4, 100);
    fill(&mut cluster, &[visit(1, 0), visit(1, 9_999), visit(2, 9_999), visit(3, 10_000)], 10, &[]);
    assert_eq!(active(&cluster, at(0)), [["3"]], "times ahead of the clock count");
    assert_eq!(active(&cluster, at(300_000)), [["3"]]);
    assert_eq!(active(&cluster, at(300_001)), [["1"]]);
    assert_eq!(active(&cluster, at(310_000)), [["1"]]);
    assert_eq!(active(&cluster, at(310_001)), [["0"]]);
}

#[test]
fn the_same_at_then_is_no_number_and_other_measures_have_theirs() {
    let mut cluster = Cluster::new(1, 4, 100);
    let view = |ago: i64| Plain { kind: "view".into(), ..visit(1, -ago) };
    fill(&mut cluster, &[view(1_000), view(301_000), view(301_000)], 10, &[]);
    let question = v1::Query {
        site: "site0.com".into(),
        from: "-5m".into(),
        measures: ["views", "active"].map(str::to_owned).to_vec(),
        versus: "5m".into(),
        ..Default::default()
    };
    assert_eq!(rows(&cluster.answer(&parse_at(&question, at(0)), false)), [["1", "1", "2", "-"]]);
}

#[test]
fn the_log_takes_room_that_is_told_and_given_back() {
    let mut cluster = Cluster::new(1, 1, 100);
    let visits: Vec<Plain> = (0..5_000).map(|n| visit(n % 10, -(i64::from(n) % 200_000))).collect();
    let late: Vec<Plain> =
        visits.iter().map(|event| Plain { time_ms: event.time_ms - 400_000, ..event.clone() }).collect();
    fill(&mut cluster, &late, 1_000, &[]);
    let without = cluster.shards[0].heap_bytes();
    assert!(without < 5_000 * 13, "{without} bytes for visitors that were never active");
    for batch in common::batches(&visits, 1_000) {
        let batch = v1::EventBatch { seq: batch.seq + 100, ..batch };
        cluster.split(&batch).blocks.iter().for_each(|block| cluster.apply(block));
    }
    let with = cluster.shards[0].heap_bytes();
    assert!((5_000 * 13..5_000 * 26).contains(&(with - without)), "{without} bytes, then {with}");
    cluster.shards[0].forget_slices(BucketStart::containing(at(0)));
    let then = cluster.shards[0].heap_bytes();
    assert!(then < with - 5_000 * 13 && then < without + 20_000, "{without} bytes, then {with}, then {then}");
}
