//! Answers are a function of the events alone: not of the number of nodes or shards, not of the order of blocks, not of how
//! often they come. Held against a second, naive implementation.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

mod common;

use common::{Cluster, NOW_MS, Plain, fill, naive, now, parse, parse_at, plain, rows};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::lanes::LaneRules;
use tidemark_rollup::time::EventTime;

/// A query, and how long after [`NOW_MS`] it is asked.
fn any_query() -> impl Strategy<Value = (v1::Query, i64)> {
    let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
    let groups = prop::sample::select(vec![
        texts(&[]),
        texts(&["url"]),
        texts(&["country"]),
        texts(&["url", "country"]),
        texts(&["device", "country"]),
        texts(&["site"]),
        texts(&["site", "url"]),
    ]);
    let filter = prop::sample::select(vec![
        None,
        Some(v1::Filter { dimension: "device".into(), r#in: texts(&["device1", ""]), ..Default::default() }),
        Some(v1::Filter {
            dimension: "country".into(),
            not_in: texts(&["country3", "(other)"]),
            ..Default::default()
        }),
        Some(v1::Filter {
            dimension: "country".into(),
            prefix: Some("country1".into()),
            ..Default::default()
        }),
        Some(v1::Filter {
            dimension: "url".into(),
            r#in: texts(&["/page/2", "/page/3"]),
            ..Default::default()
        }),
        Some(v1::Filter { dimension: "site".into(), prefix: Some("site0".into()), ..Default::default() }),
    ]);
    (
        prop::sample::select(vec!["site0.com", "site1.com", "*"]),
        prop::sample::select(vec!["", "5m", "1h", "1d"]),
        groups,
        filter,
        prop::sample::select(vec![1_u32, 2, 5, 0]),
        prop::sample::select(vec!["", "", "1d", "5m"]),
        prop::sample::select(vec!["-10m", "-2h", "-3d"]),
        prop::sample::select(vec!["now", "2015-05-17T10:20:00Z", "2015-05-17T09:40:00Z"]),
        prop::sample::select(vec![0, -1, 90_000, 299_999, 3_600_000, -5_000_000]),
    )
        .prop_filter("an empty range", |(.., from, to, late)| {
            *to == "now" || (*from != "-10m" && *late <= 90_000)
        })
        .prop_map(move |(site, granularity, group_by, filter, limit, versus, from, to, late)| {
            let query = v1::Query {
                site: site.to_owned(),
                from: from.to_owned(),
                to: to.to_owned(),
                granularity: granularity.to_owned(),
                measures: ["views", "visitors", "bytes", "load_ms.p95"].map(str::to_owned).to_vec(),
                group_by,
                filters: filter.into_iter().collect(),
                order_by: String::new(),
                limit,
                versus: versus.to_owned(),
            };
            (query, late)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn every_cluster_gives_the_answer_that_the_events_give(
        events in prop::collection::vec(plain(), 0..80),
        size in 1_usize..40,
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        (query, late) in any_query(),
        limit in prop::sample::select(vec![2_u32, 5, 10_000]),
        // With the second one nearly every URL is in several shards.
        lanes in prop::sample::select(vec![LaneRules::default(), LaneRules { at_least_events: 2, times_average: 1 }]),
    ) {
        let query = parse_at(&query, EventTime::from_unix_ms(NOW_MS + late));
        let expected = naive(&events, &query, limit);
        for (nodes, shards) in [(1, 1), (1, 64), (3, 64), (3, 4)] {
            let mut cluster = Cluster::new(nodes, shards, limit);
            cluster.lanes = lanes;
            fill(&mut cluster, &events, size, &order);
            let answer = cluster.answer(&query, order.len() % 2 == 1);
            prop_assert_eq!(&rows(&answer), &expected, "{} nodes, {} shards", nodes, shards);
        }
    }

    #[test]
    fn open_and_closed_buckets_are_ordered_together(
        mut events in prop::collection::vec(plain(), 20..120),
        group_by in prop::sample::select(vec!["url", "url,device", "site,url"]),
        order_by in prop::sample::select(vec!["views", "visitors"]),
        limit in 1_u32..4,
    ) {
        // Two buckets, one of which is taken for open.
        events.iter_mut().for_each(|event| event.time_ms = NOW_MS - 1 - (NOW_MS - event.time_ms) % 600_000);
        let query = parse(&v1::Query {
            site: if group_by.contains("site") { "*" } else { "site0.com" }.to_owned(),
            measures: ["views", "visitors", "bytes", "load_ms.p95"].map(str::to_owned).to_vec(),
            group_by: group_by.split(',').map(str::to_owned).collect(),
            order_by: order_by.to_owned(),
            limit,
            ..v1::Query::default()
        });
        let mut cluster = Cluster::new(1, 1, 10_000);
        fill(&mut cluster, &events, 40, &[]);
        let apart = cluster.answer(&query, true);
        prop_assert_eq!(rows(&apart), rows(&cluster.answer(&query, false)));
        if order_by == "views" {
            prop_assert_eq!(rows(&apart), naive(&events, &query, 10_000));
        }
    }

    #[test]
    fn one_measure_is_answered_as_it_is_beside_others(
        events in prop::collection::vec(plain(), 0..80),
        order_by in prop::sample::select(vec!["views", "visitors", "load_ms.p95"]),
        granularity in prop::sample::select(vec!["", "5m"]),
        limit in prop::sample::select(vec![1_u32, 3, 0]),
        as_node in any::<bool>(),
    ) {
        let query = |measures: &[&str]| parse(&v1::Query {
            site: "site0.com".to_owned(),
            granularity: granularity.to_owned(),
            measures: measures.iter().map(|&measure| measure.to_owned()).collect(),
            group_by: vec!["url".to_owned()],
            order_by: order_by.to_owned(),
            limit,
            ..v1::Query::default()
        });
        let mut cluster = Cluster::new(3, 16, 10_000);
        fill(&mut cluster, &events, 20, &[]);
        let alone = cluster.answer(&query(&[order_by]), as_node);
        let mut beside = cluster.answer(&query(&["bytes", order_by]), as_node);
        let at = beside.columns.iter().position(|column| column == "bytes").unwrap();
        beside.rows.iter_mut().for_each(|row| _ = row.values.remove(at));
        prop_assert_eq!(rows(&alone), rows(&beside));
        let told = |answer: &v1::Answer| answer.facts.clone().map(|facts| (facts.freshness_ms, facts.late, facts.from_memory));
        prop_assert_eq!(told(&alone), told(&beside));
    }

    #[test]
    fn every_event_is_counted_or_rejected_with_a_reason_and_never_both(
        events in prop::collection::vec(plain(), 1..60),
        future in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut wire: Vec<v1::Event> = events.iter().map(common::to_wire).collect();
        for index in future {
            let at = index.index(wire.len());
            wire[at].time_ms = NOW_MS + 3_600_000;
        }
        let sent = wire.len();
        let bad = wire.iter().filter(|event| event.time_ms > NOW_MS).count();
        let mut cluster = Cluster::new(1, 16, 10_000);
        let split = cluster.split(&common::batch(1, 1, wire));
        prop_assert_eq!(split.rejected.len(), bad);
        let in_blocks: u32 = split.blocks.iter().map(|block| block.event_count).sum();
        prop_assert_eq!(in_blocks as usize, sent - bad);
        split.blocks.iter().for_each(|block| cluster.apply(block));
        let facts = |read: fn(&tidemark_rollup::table::SiteFacts) -> u64| -> u64 {
            let buckets = cluster.shards.iter().flat_map(|shard| shard.buckets());
            buckets.map(|bucket| bucket.sites().filter_map(|site| bucket.facts(site)).map(read).sum::<u64>()).sum()
        };
        prop_assert_eq!(facts(|facts| facts.counted) as usize, sent - bad);
        prop_assert_eq!(facts(|facts| facts.rejected_total()) as usize, bad);
    }
}

#[test]
fn a_value_beyond_the_limit_counts_under_other_and_the_facts_say_so() {
    let event = |n: u32| Plain {
        site: "site0.com".into(),
        url: format!("/{n}"),
        time_ms: NOW_MS - 1000,
        kind: "view".into(),
        visitor: None,
        dimensions: BTreeMap::from([("country", format!("c{n}")), ("device", "phone".into())]),
        values: BTreeMap::new(),
    };
    let events: Vec<Plain> = (0..50).map(event).collect();
    let query = v1::Query {
        site: "site0.com".into(),
        measures: vec!["views".into()],
        group_by: vec!["country".into()],
        ..Default::default()
    };
    let mut cluster = Cluster::new(3, 64, 10);
    fill(&mut cluster, &events, 7, &[]);
    let answer = cluster.answer(&parse(&query), false);
    assert_eq!(rows(&answer).len(), 11);
    assert_eq!(rows(&answer)[0], ["\"(other)\"", "40"]);
    assert_eq!(answer.facts.unwrap().capped, ["country"]);

    let by_device = v1::Query { group_by: vec!["device".into()], ..query };
    let answer = cluster.answer(&parse(&by_device), false);
    assert_eq!(rows(&answer), [["\"phone\"", "50"]]);
    assert!(answer.facts.unwrap().capped.is_empty());
}

#[test]
fn a_rollup_does_not_grow_with_values_beyond_the_limit() {
    let event = |n: u32| Plain {
        site: "site0.com".into(),
        url: "/".into(),
        time_ms: NOW_MS - 1000,
        kind: "view".into(),
        visitor: None,
        dimensions: BTreeMap::from([("country", format!("country number {n}"))]),
        values: BTreeMap::new(),
    };
    let events: Vec<Plain> = (0..50_000).map(event).collect();
    let mut cluster = Cluster::new(1, 1, 100);
    fill(&mut cluster, &events, 1000, &[]);
    // 100 values, and those that were among the smallest for a while: 100 ln 500 = 621 on average.
    let values = cluster.shards[0].row_count();
    assert!((101..1_200).contains(&values), "{values} rows");
    assert!(cluster.shards[0].heap_bytes() < 400_000, "{} bytes", cluster.shards[0].heap_bytes());
}

#[test]
fn late_events_are_counted_and_told() {
    let event = Plain {
        site: "site0.com".into(),
        url: "/".into(),
        time_ms: NOW_MS - 3_600_000,
        kind: "view".into(),
        visitor: None,
        dimensions: BTreeMap::new(),
        values: BTreeMap::new(),
    };
    let mut cluster = Cluster::new(1, 4, 100);
    fill(&mut cluster, &[event], 1, &[]);
    let query = v1::Query { site: "site0.com".into(), from: "-2h".into(), ..Default::default() };
    let facts = cluster.answer(&parse(&query), false).facts.unwrap();
    assert_eq!((facts.late, facts.from_memory, facts.freshness_ms), (1, 1, Some(3_600_000)));
    assert_eq!(now().as_unix_ms(), NOW_MS);
}

#[test]
fn rollups_from_before_a_dimension_and_a_measure_existed_read_as_empty() {
    use tidemark_rollup::answer::answer;
    use tidemark_rollup::bucket::Bucket;
    use tidemark_rollup::query::Query;
    use tidemark_rollup::scan::{ScanContext, scan, shown};
    use tidemark_rollup::schema::Schema;

    let event = Plain {
        site: "site0.com".into(),
        url: "/".into(),
        time_ms: NOW_MS - 1000,
        kind: "cart".into(),
        visitor: Some(1),
        dimensions: BTreeMap::from([("device", "phone".into())]),
        values: BTreeMap::new(),
    };
    let mut cluster = Cluster::new(1, 1, 100);
    fill(&mut cluster, &[event], 1, &[]);

    let old = Schema::default();
    let dimensions = [&["colour".to_owned()], old.dimensions()].concat();
    let measures = [&["carts=count(cart)".parse().unwrap()], old.measures()].concat();
    let new = Schema::new(dimensions, measures).unwrap();
    let wire = v1::Query {
        site: "site0.com".into(),
        measures: vec!["carts".into(), "visitors".into()],
        group_by: vec!["colour".into(), "device".into()],
        filters: vec![v1::Filter {
            dimension: "colour".into(),
            not_in: vec!["red".into()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let query = Query::parse(&wire, &new, now()).unwrap();
    let buckets: Vec<_> = cluster.shards[0].buckets().cloned().collect();
    let answer_of = |buckets: &[Arc<Bucket>], query: &Query| {
        let scanned = scan([buckets], query, &ScanContext::default());
        rows(&answer(scanned.partial, query, now()))
    };
    assert_eq!(answer_of(&buckets, &query), [["\"\"", "\"phone\"", "0", "1"]]);
    let by_colour = v1::Query { group_by: vec!["colour".into()], filters: vec![], ..wire };
    for query in [query, Query::parse(&by_colour, &new, now()).unwrap()] {
        let shown: Vec<_> = buckets.iter().map(|bucket| shown(bucket, &query)).collect();
        assert_eq!(answer_of(&shown, &query), answer_of(&buckets, &query));
    }
}
