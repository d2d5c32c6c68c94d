//! Exactly the rows that are wanted and kept.

use crate::common::{NOW_MS, Plain, plain};
use crate::made::{DAY, Made, all, keep_all, made, path, reader_of, seconds, store_of};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_history::reader::{Keep, Reader, ShardSet, Want};
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::{ShardCount, page_hash};
use tidemark_rollup::time::{BUCKET_SECONDS, BucketStart};

/// The rows of `rows` at these positions.
fn picked(rows: &SegmentRows, at: &[usize]) -> SegmentRows {
    fn pick<T: Clone>(values: &[T], at: &[usize]) -> Vec<T> {
        at.iter().map(|&at| values[at].clone()).collect()
    }
    SegmentRows {
        site: pick(&rows.site, at),
        url: pick(&rows.url, at),
        bucket: pick(&rows.bucket, at),
        dimensions: rows.dimensions.iter().map(|column| pick(column, at)).collect(),
        measures: rows
            .measures
            .iter()
            .map(|column| match column {
                MeasureColumn::Integers(values) => MeasureColumn::Integers(pick(values, at)),
                MeasureColumn::Uniques(values) => MeasureColumn::Uniques(pick(values, at)),
                MeasureColumn::Distributions(values) => MeasureColumn::Distributions(pick(values, at)),
            })
            .collect(),
        facts: Vec::new(),
        ..rows.clone()
    }
}

/// What should come, by asking each row that was written.
fn naive(made: &Made, want: &Want, keep: &Keep) -> Vec<Bucket> {
    let mut buckets = Vec::new();
    for rows in &made.groups {
        let wanted = |site: u32, bucket: BucketStart| {
            want.site.as_ref().is_none_or(|name| *name == rows.sites[site as usize])
                && (want.from..want.to).contains(&bucket)
        };
        let kept = |bucket, shard| {
            keep.shards.contains(shard)
                && !keep.whole.get(&bucket).is_some_and(|whole: &ShardSet| whole.contains(shard))
        };
        let at: Vec<usize> = (0..rows.len())
            .filter(|&row| {
                let (site, url) = (&rows.sites[rows.site[row] as usize], &rows.urls[rows.url[row] as usize]);
                want.rows
                    && wanted(rows.site[row], rows.bucket[row])
                    && want.urls.as_ref().is_none_or(|urls| urls.contains(url))
                    && want.url_prefix.as_ref().is_none_or(|prefix| url.starts_with(prefix.as_str()))
                    && kept(rows.bucket[row], made.shards.shard_of(page_hash(site, url)))
            })
            .collect();
        let facts = rows.facts.iter();
        let facts = facts.filter(|of| want.facts && wanted(of.site, of.bucket) && kept(of.bucket, of.shard));
        let rows = SegmentRows { facts: facts.cloned().collect(), ..picked(rows, &at) };
        buckets.extend(rows.to_buckets(made.shards, None, None));
    }
    buckets
}

/// What rollups hold, as text; without URLs where they are not wanted.
fn text_of<'a>(buckets: impl Iterator<Item = &'a Bucket>, want: &Want) -> String {
    let schema = Arc::new(Schema::new(want.dimensions.clone(), want.measures.clone()).unwrap());
    let shard = ShardCount::DEFAULT.shard(0).unwrap();
    let rows_of = |buckets: &[&Bucket]| {
        let parts: Vec<RollupPart<'_>> =
            buckets.iter().map(|bucket| RollupPart { shard, bucket, start: bucket.start() }).collect();
        SegmentRows::of(&schema, &parts, &Folds::default())
    };
    let mut rows = rows_of(&buckets.collect::<Vec<_>>());
    if !want.with_urls {
        (rows.urls, rows.url) = (vec![String::new()], vec![0; rows.len()]);
        let merged = rows.to_buckets(ShardCount::DEFAULT, None, None);
        rows = rows_of(&merged.iter().collect::<Vec<_>>());
    }
    let mut text = String::new();
    for row in 0..rows.len() {
        let dimensions: Vec<&str> = rows
            .dimensions
            .iter()
            .zip(&rows.values)
            .map(|(ids, values)| values[ids[row] as usize].as_str())
            .collect();
        let measures: Vec<String> = rows.measures.iter().map(|column| cell(column, row)).collect();
        text += &format!(
            "{:?} {} {} {dimensions:?} {measures:?}\n",
            rows.bucket[row], rows.sites[rows.site[row] as usize], rows.urls[rows.url[row] as usize],
        );
    }
    for facts in &rows.facts {
        text += &format!("{:?} {} {:?}\n", facts.bucket, rows.sites[facts.site as usize], facts.facts);
    }
    text
}

fn cell(column: &MeasureColumn, row: usize) -> String {
    let mut bytes = Vec::new();
    match column {
        MeasureColumn::Integers(values) => return values[row].to_string(),
        MeasureColumn::Uniques(values) => values[row].encode(&mut bytes),
        MeasureColumn::Distributions(values) => values[row].encode(&mut bytes),
    }
    format!("{bytes:?}")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn read(runtime: &tokio::runtime::Runtime, reader: &Reader, made: &Made, want: &Want, keep: &Keep) -> String {
    let buckets = runtime.block_on(reader.rollups(&made.segment, want, keep)).unwrap();
    assert!(buckets.is_sorted_by(|a, b| a.start() < b.start()));
    text_of(buckets.iter().map(Arc::as_ref), want)
}

fn set(shards: ShardCount, bits: u32) -> ShardSet {
    shards.shards().filter(|shard| bits >> shard.get() & 1 == 1).collect()
}

/// Any shards, often all of them.
fn any_shards() -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(u32::MAX), 1 => any::<u32>()]
}

fn ago(buckets: u32) -> BucketStart {
    seconds((NOW_MS / 1000) as u32 - buckets * BUCKET_SECONDS)
}

prop_compose! {
    fn any_keep()(
        shards in any_shards(),
        whole in prop::collection::btree_map(prop_oneof![0_u32..26, 286_u32..296], any_shards(), 0..12),
    ) -> (u32, BTreeMap<u32, u32>) {
        (shards, whole)
    }
}

fn keep_of(shards: ShardCount, (kept, whole): &(u32, BTreeMap<u32, u32>)) -> Keep {
    let whole = whole.iter().map(|(&at, &of)| (ago(at), set(shards, of))).collect();
    Keep { shards: set(shards, *kept), whole }
}

prop_compose! {
    fn any_want()(
        site in prop::option::of(0_u32..5),
        urls in prop::option::weighted(0.3, prop::collection::btree_set(0_u32..8, 0..4)),
        prefix in prop::option::weighted(0.2, prop::sample::select(vec!["/", "/page/1", "/page/", "/x"])),
        (from, to) in prop_oneof![
            1 => Just((400_u32, 0_u32)),
            1 => (0_u32..30, 0_u32..30),
            1 => (200_u32..300, 0_u32..300),
        ],
        dimensions in prop::sample::select(vec![vec![], vec!["device"], vec!["country", "device"]]),
        measures in prop::sample::subsequence(Schema::default().measures().to_vec(), 1..=6),
        with_urls in any::<bool>(),
        parts in prop::sample::select(vec![(true, true), (true, false), (false, true)]),
    ) -> Want {
        Want {
            site: site.map(|site| format!("site{site}.com")),
            urls: urls.map(|urls| urls.into_iter().map(|url| format!("/page/{url}")).collect()),
            url_prefix: prefix.map(str::to_owned),
            from: ago(from),
            to: ago(to),
            dimensions: dimensions.into_iter().map(str::to_owned).collect(),
            measures,
            with_urls,
            rows: parts.0,
            facts: parts.1,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_comes_is_what_a_naive_filter_leaves_whatever_the_caches_hold(
        events in prop::collection::vec(plain(), 1..80),
        shards in prop::sample::select(vec![1_u32, 4, 8]),
        of_a_group in 1_usize..5,
        wants in prop::collection::vec(any_want(), 1..4),
        keeps in prop::collection::vec(any_keep(), 1..4),
    ) {
        let made = made("rollup/any.parquet", &events, shards, of_a_group, BUCKET_SECONDS);
        let runtime = runtime();
        let (_, store) = runtime.block_on(store_of(&[&made]));
        let reader = runtime.block_on(reader_of(&store, &made));
        for round in 0..2 {
            for want in &wants {
                for keep in &keeps {
                    let keep = keep_of(made.shards, keep);
                    let expected = text_of(naive(&made, want, &keep).iter(), want);
                    let came = read(&runtime, &reader, &made, want, &keep);
                    prop_assert_eq!(came, expected, "{:?} {:?} round {}", want, keep, round);
                }
            }
        }
        prop_assert!(reader.usage().fetches <= 1 + (wants.len() * keeps.len()) as u64);
    }

    #[test]
    fn of_days_come_the_days_that_are_wanted(
        events in prop::collection::vec(plain(), 1..60),
        shards in any_shards(),
        from in 0_u32..400,
        to in 0_u32..400,
        want in any_want(),
    ) {
        let made = made("rollup/any.parquet", &events, 4, 2, DAY);
        let runtime = runtime();
        let (_, store) = runtime.block_on(store_of(&[&made]));
        let reader = runtime.block_on(reader_of(&store, &made));
        let keep = Keep { shards: set(made.shards, shards), whole: BTreeMap::new() };
        let want = Want { from: ago(from), to: ago(to), ..want };
        let day = seconds(want.from.as_unix_seconds() / DAY * DAY);
        let days = Want { from: if want.from < want.to { day } else { want.from }, ..want.clone() };
        let expected = text_of(naive(&made, &days, &keep).iter(), &want);
        for _ in 0..2 {
            prop_assert_eq!(read(&runtime, &reader, &made, &want, &keep), expected.clone());
        }
    }
}

/// One event per bucket of an hour, in two shards at least.
fn hour() -> Vec<Plain> {
    let event = |at: u32| Plain {
        site: "site0.com".into(),
        url: format!("/page/{}", at % 16),
        time_ms: NOW_MS - 1 - i64::from(at / 16) * 300_000,
        kind: "view".into(),
        visitor: Some(at),
        dimensions: BTreeMap::new(),
        values: BTreeMap::new(),
    };
    (0..192).map(event).collect()
}

#[tokio::test]
async fn buckets_that_memory_answers_for_are_left_out_of_a_part_that_stays_the_same() {
    let made = made("rollup/5m/2015-05-17/a-0000000000000001-0.parquet", &hour(), 4, 4, BUCKET_SECONDS);
    let (_, store) = store_of(&[&made]).await;
    let reader = reader_of(&store, &made).await;
    let mut keep = keep_all(made.shards);
    for at in 0..12 {
        let came = reader.rollups(&made.segment, &all(), &keep).await.unwrap();
        assert_eq!(came.len(), 12 - at as usize);
        keep.whole.insert(ago(at + 1), made.shards.shards().collect());
    }
    assert_eq!((reader.usage().misses, reader.usage().fetches), (1, 1));
}

#[tokio::test]
async fn a_part_stays_the_same_while_a_query_moves_on_in_time() {
    let event = &hour()[..16];
    let made = made(&path(1), event, 4, 4, BUCKET_SECONDS);
    let (_, store) = store_of(&[&made]).await;
    let reader = reader_of(&store, &made).await;
    let keep = keep_all(made.shards);
    for at in 0..10 {
        let want = Want { from: ago(20 + at), to: ago(at), ..all() };
        let came = reader.rollups(&made.segment, &want, &keep).await.unwrap();
        assert_eq!(came.len(), usize::from(at == 0));
    }
    assert_eq!(reader.usage().misses, 1);
    let later = Want { to: seconds(ago(0).as_unix_seconds() + DAY), ..all() };
    assert_eq!(reader.rollups(&made.segment, &later, &keep).await.unwrap().len(), 1);
    assert_eq!((reader.usage().misses, reader.usage().hits), (1, 1));
}

#[tokio::test]
async fn a_path_that_names_another_bucket_hides_no_rows() {
    let made = made("rollup/5m/2015-05-17/03-00/a-0000000000000001.parquet", &hour(), 4, 4, BUCKET_SECONDS);
    let (_, store) = store_of(&[&made]).await;
    let reader = reader_of(&store, &made).await;
    let came = reader.rollups(&made.segment, &all(), &keep_all(made.shards)).await.unwrap();
    assert_eq!(came.len(), 12);
}
