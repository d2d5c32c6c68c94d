//! What a large site has in all is what its rows have: where totals are read instead of rows, nobody can tell.
#![allow(clippy::unwrap_used, reason = "what cannot be here is a failed test")]

mod common;

use common::{Cluster, NOW_MS, Plain, batches, parse, rows};
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
        site: if number % 97 == 0 { "small.com" } else { "large.com" }.to_owned(),
        url: format!("/page/{}", number % spread),
        time_ms: NOW_MS - ago_ms,
        kind: if scattered % 5 == 0 { "share" } else { "view" }.to_owned(),
        visitor: (scattered % 7 > 0).then_some(scattered % visitors),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn what_is_asked_of_whole_sites_is_answered_as_if_rows_were_read(
        visitors in prop::sample::select(vec![50_u32, 3_000, 1_000_000]),
        spread in prop::sample::select(vec![30_u32, 6_000, 1_000_000]),
        shards in prop::sample::select(vec![1_u32, 4]),
        seed in 0_u32..1_000,
    ) {
        let events: Vec<Plain> = (0..EVENTS).map(|number| event(number + seed, visitors, spread)).collect();
        let mut cluster = Cluster::new(1, shards, 10_000);
        for (at, batch) in batches(&events, SIZE).iter().enumerate() {
            for block in cluster.split(batch).blocks {
                cluster.apply(&block);
                // Once more, which counts nothing.
                cluster.apply(&block);
            }
            if at % 3 != 2 {
                continue;
            }
            for (site, group_by) in [("large.com", ""), ("*", ""), ("*", "site"), ("small.com", "site")] {
                for granularity in ["", "5m"] {
                    let whole = cluster.answer(&parse(&query(site, group_by, None, granularity)), false);
                    let by_site = cluster.answer(&parse(&query(site, group_by, Some(all("site")), granularity)), true);
                    for filter in [all("url"), all("device")] {
                        let row_by_row = cluster.answer(&parse(&query(site, group_by, Some(filter), granularity)), false);
                        prop_assert_eq!(rows(&whole), rows(&row_by_row), "{} by {:?}", site, group_by);
                    }
                    prop_assert_eq!(rows(&whole), rows(&by_site));
                    prop_assert!(!rows(&whole).is_empty());
                }
            }
        }
    }
}

#[test]
fn a_question_of_a_whole_site_looks_at_no_row_of_a_large_table() {
    let events: Vec<Plain> = (0..EVENTS).map(|number| event(number, 1_000_000, 1_000_000)).collect();
    let mut cluster = Cluster::new(1, 1, 10_000);
    let blocks: Vec<v1::Block> =
        batches(&events, SIZE).iter().flat_map(|batch| cluster.split(batch).blocks).collect();
    blocks.iter().for_each(|block| cluster.apply(block));
    let read = |query: &v1::Query| cluster.rows_scanned(&parse(query));
    let whole = read(&query("large.com", "", None, ""));
    assert!(whole < 2_000, "{whole}: the few rows of six buckets, and the totals of two");
    let filtered = read(&query("large.com", "", Some(all("url")), ""));
    assert!(filtered > 12_000, "{filtered}");
}
