//! What a large site has in all is what its rows have: where totals are read instead of rows, nobody can tell.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

mod common;

use common::{Cluster, NOW_MS, Plain, batches, fill, parse, rows};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tidemark_proto::v1;

/// So many rows of a table make totals, and more: two buckets of one shard have as many each, and six of others a few.
const EVENTS: u32 = 14_000;
const SIZE: usize = 1_500;

fn event(number: u32, visitors: u32, spread: u32) -> Plain {
    let scattered = number.wrapping_mul(2_654_435_761) >> 8;
    let ago_ms = match number % 16 {
        0 => 900_000 + i64::from(scattered % 1_800_000),
        of if of % 2 == 1 => 1 + i64::from(scattered % 290_000),
        _ => 310_000 + i64::from(scattered % 280_000),
    };
    let value = |name, share: u32, value| (scattered % 10 < share).then_some((name, value));
    Plain {
        site: if number.is_multiple_of(97) { "small.com" } else { "large.com" }.to_owned(),
        url: format!("/page/{}", number % spread),
        time_ms: NOW_MS - ago_ms,
        kind: if scattered.is_multiple_of(5) { "share" } else { "view" }.to_owned(),
        visitor: (!scattered.is_multiple_of(7)).then_some(scattered % visitors),
        dimensions: BTreeMap::from([("device", format!("device{}", number % 3))]),
        values: [value("bytes", 5, scattered % 10_000), value("load_ms", 8, scattered % 3_000)]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn query(site: &str, group_by: &str, filter: Option<v1::Filter>, granularity: &str) -> v1::Query {
    v1::Query {
        site: site.to_owned(),
        from: "-1h".to_owned(),
        granularity: granularity.to_owned(),
        measures: ["views", "shares", "visitors", "bytes", "load_ms.p95", "load_ms.max", "load_ms.mean"]
            .map(str::to_owned)
            .to_vec(),
        group_by: group_by.split_terminator(',').map(str::to_owned).collect(),
        filters: filter.into_iter().collect(),
        versus: "5m".to_owned(),
        ..v1::Query::default()
    }
}

/// Lets all through, row by row.
fn all(dimension: &str) -> v1::Filter {
    v1::Filter { dimension: dimension.to_owned(), prefix: Some(String::new()), ..Default::default() }
}

/// Counts the events and asks of whole sites now and then. Returns how many rows are looked at for the last question.
fn whole_sites_are_answered_as_if_rows_were_read(events: &[Plain], shards: u32) -> u64 {
    let mut cluster = Cluster::new(1, shards, 10_000);
    let batches = batches(events, SIZE);
    for (at, batch) in batches.iter().enumerate() {
        for block in cluster.split(batch).blocks {
            cluster.apply(&block);
            // Once more, which counts nothing.
            cluster.apply(&block);
        }
        if at % 3 != 2 && at + 1 < batches.len() {
            continue;
        }
        for (site, group_by) in [("large.com", ""), ("*", ""), ("*", "site"), ("small.com", "site")] {
            for granularity in ["", "5m"] {
                let ask = |filter| {
                    rows(&cluster.answer(&parse(&query(site, group_by, filter, granularity)), false))
                };
                let whole = ask(None);
                assert!(!whole.is_empty());
                assert_eq!(whole, ask(Some(all("site"))));
                for row_by_row in ["url", "device"].map(|dimension| ask(Some(all(dimension)))) {
                    assert_eq!(whole, row_by_row, "{site} by {group_by:?}, {granularity:?}");
                }
            }
        }
    }
    cluster.rows_scanned(&parse(&query("large.com", "", None, "")))
}

#[test]
fn what_is_asked_of_large_sites_is_answered_as_if_rows_were_read() {
    for visitors in [50, 3_000, 1_000_000] {
        let events: Vec<Plain> = (0..EVENTS).map(|number| event(number, visitors, EVENTS)).collect();
        let read = whole_sites_are_answered_as_if_rows_were_read(&events, 1);
        assert!(read < 2_000, "{read}: totals are read of the two large tables");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn what_is_asked_of_whole_sites_is_answered_as_if_rows_were_read(
        visitors in prop::sample::select(vec![50_u32, 3_000, 1_000_000]),
        spread in 20_u32..EVENTS,
        shards in prop::sample::select(vec![1_u32, 4]),
        first in 0_u32..1_000,
    ) {
        let events: Vec<Plain> = (first..first + EVENTS).map(|number| event(number, visitors, spread)).collect();
        whole_sites_are_answered_as_if_rows_were_read(&events, shards);
    }
}

#[test]
fn totals_count_as_memory() {
    let bytes_of = |count: u32| {
        let mut cluster = Cluster::new(1, 1, 10_000);
        let of_now = |number| Plain { time_ms: NOW_MS - 1_000, ..event(number, 1_000_000, EVENTS) };
        let events: Vec<Plain> = (0..)
            .filter(|number| !u32::is_multiple_of(*number, 97))
            .map(of_now)
            .take(count as usize)
            .collect();
        // In one block, so that columns have room for these rows and no others.
        fill(&mut cluster, &events, count as usize, &[]);
        cluster.shards[0].heap_bytes()
    };
    let (without, with) = (bytes_of(4_095), bytes_of(4_096));
    assert!((40_000..50_000).contains(&(with - without)), "{without} and {with} bytes");
}

/// A shard with all events, nearly each of which is a row, of so many visitors.
fn with_a_large_site(visitors: u32) -> Cluster {
    let events: Vec<Plain> = (0..EVENTS).map(|number| event(number, visitors, 1_000_000)).collect();
    let mut cluster = Cluster::new(1, 1, 10_000);
    fill(&mut cluster, &events, SIZE, &[]);
    cluster
}

#[test]
fn a_question_of_a_whole_site_looks_at_no_row_of_a_large_table() {
    let cluster = with_a_large_site(1_000_000);
    let read = |query: &v1::Query| cluster.rows_scanned(&parse(query));
    let whole = read(&query("large.com", "", None, ""));
    assert!(whole < 2_000, "{whole}: the few rows of six buckets, and the totals of two");
    let filtered = read(&query("large.com", "", Some(all("url")), ""));
    assert!(filtered > 12_000, "{filtered}");
}

#[test]
fn who_is_active_on_a_large_site_is_read_from_its_log() {
    let cluster = with_a_large_site(3_000);
    let ask = |filter| {
        let wire = query("large.com", "", filter, "");
        let measures = vec!["visitors".to_owned(), "active".to_owned()];
        rows(&cluster.answer(&parse(&v1::Query { measures, versus: String::new(), ..wire }), false))
    };
    let (whole, row_by_row) = (ask(None), ask(Some(all("url"))));
    assert_eq!(whole, row_by_row);
    let count = |column: usize| whole[0][column].parse::<u32>().unwrap();
    assert!(0 < count(1) && count(1) < count(0), "{whole:?}");
}
