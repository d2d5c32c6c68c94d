//! Which segments a query needs.
//!
//! Owns: choosing among commits, five-minute rows and rows of days; telling what is missing. Pure.
//! Does not own: reading them (`tidemark-history`), scanning what was read (`query`).

use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_history::catalog::{Day, History};
use tidemark_history::day::DayStart;
use tidemark_history::reader::{Keep, ShardSet, Want};
use tidemark_proto::v1;
use tidemark_rollup::query::{Field, Query, SiteSelection, Test};
use tidemark_rollup::scan::ranges_of;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::{BucketStart, EventTime, Granularity};

/// A segment that a query needs, or a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) segment: v1::Segment,
    pub(crate) day: DayStart,
    pub(crate) want: Arc<Want>,
}

/// What a query needs of history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) sources: Vec<Source>,
    /// What it needs and history has not.
    pub(crate) gaps: BTreeSet<String>,
}

/// The days that a query can take as wholes, from rows of days.
pub(crate) fn whole_days(query: &Query, history: &History) -> BTreeSet<DayStart> {
    if !matches!(query.granularity, Granularity::Day | Granularity::All) {
        return BTreeSet::new();
    }
    let ranges: Vec<(EventTime, EventTime)> = ranges_of(query).collect();
    let is_whole = |day: DayStart| {
        let touching = ranges.iter().filter(|(from, to)| *from < day.end() && day.time() < *to);
        touching.into_iter().all(|(from, to)| *from <= day.time() && day.end() <= *to)
    };
    let days = ranges.iter().flat_map(|range| days_of(history, *range));
    let with_rows = days.filter(|day| day.replacement().is_some_and(|holds| !holds.day.days.is_empty()));
    with_rows.map(|day| day.start()).filter(|&day| is_whole(day)).collect()
}

fn days_of(history: &History, (from, to): (EventTime, EventTime)) -> impl Iterator<Item = &Arc<Day>> {
    let first = DayStart::containing(from);
    history.all_days().filter(move |day| first <= day.start() && day.start().time() < to)
}

/// The segments that `query` needs beside what memory answers for, which is `keep.whole`.
pub(crate) fn sources(
    query: &Query,
    schema: &Schema,
    history: &History,
    as_days: &BTreeSet<DayStart>,
    keep: &Keep,
) -> Sources {
    let mut found = Sources::default();
    let ranges: Vec<(EventTime, EventTime)> = ranges_of(query).collect();
    let days: BTreeSet<DayStart> =
        ranges.iter().flat_map(|range| days_of(history, *range)).map(|day| day.start()).collect();
    for day in days.iter().filter_map(|&day| history.day(day)) {
        for damage in history.damage_of(day.start()) {
            found.gaps.insert(damage.to_string());
        }
        let needed: Vec<BucketStart> = day
            .start()
            .buckets()
            .filter(|bucket| ranges.iter().any(|(from, to)| (*from..*to).contains(&bucket.time())))
            .collect();
        let (Some(&first), Some(&last)) = (needed.first(), needed.last()) else { continue };
        let want = Arc::new(want(query, schema, first, last.next()));
        found.add_day(query, day, &needed, &want, as_days.contains(&day.start()), keep);
    }
    found
}

impl Sources {
    fn add_day(
        &mut self,
        query: &Query,
        day: &Day,
        needed: &[BucketStart],
        want: &Arc<Want>,
        as_day: bool,
        keep: &Keep,
    ) {
        let start = day.start();
        let mut add = |segment: &v1::Segment| {
            self.sources.push(Source { segment: segment.clone(), day: start, want: Arc::clone(want) });
        };
        if let Some(holds) = day.replacement() {
            let replaced = |bucket: &&BucketStart| holds.through(**bucket) > 0;
            let (segments, other) = match as_day {
                true => (&holds.day.days, &holds.day.five_minutes),
                false => (&holds.day.five_minutes, &holds.day.days),
            };
            let mut asked = needed.iter().filter(replaced).peekable();
            if asked.peek().is_some() && segments.is_empty() {
                self.gaps.insert(match other.is_empty() {
                    true => format!("{start} is no longer kept"),
                    false => format!("{start} is kept in days only: {}", how_to_ask_for_whole(query, start)),
                });
            } else if as_day || !asked.all(|&bucket| memory_has(bucket, None, keep)) {
                segments.iter().for_each(&mut add);
            }
        }
        for &bucket in needed {
            for commit in day.bucket(bucket).commits {
                let message = commit.message();
                let may_have_site = match &query.site {
                    SiteSelection::One(site) => message.sites.is_empty() || message.sites.contains(site),
                    SiteSelection::All => true,
                };
                let shards: Vec<ShardId> =
                    commit.shards().filter(|&shard| keep.shards.contains(shard)).collect();
                if may_have_site && !shards.is_empty() && !memory_has(bucket, Some(&shards), keep) {
                    message.rollup.iter().for_each(&mut add);
                }
            }
        }
    }
}

/// How to ask so that rows of days can answer for `day`.
fn how_to_ask_for_whole(query: &Query, day: DayStart) -> &'static str {
    let is_cut = query.versus_until().is_some()
        && query
            .versus_range()
            .is_some_and(|(from, to)| from <= day.time() && day.time() < to && to < day.end());
    match is_cut {
        true => {
            "the day that is compared with it has not ended, so only a part of it counts; ask until a midnight before now"
        }
        false => "ask with granularity 1d, for whole days",
    }
}

/// Whether memory answers for these shards of a bucket, or for all that are asked for.
fn memory_has(bucket: BucketStart, shards: Option<&[ShardId]>, keep: &Keep) -> bool {
    let Some(whole) = keep.whole.get(&bucket) else { return false };
    match shards {
        Some(shards) => shards.iter().all(|&shard| whole.contains(shard)),
        None => whole.is_superset(&keep.shards),
    }
}

/// What a query needs of each segment.
fn want(query: &Query, schema: &Schema, from: BucketStart, to: BucketStart) -> Want {
    let of_urls = || query.filters.iter().filter(|filter| filter.field == Field::Url);
    let urls = of_urls().find_map(|filter| match &filter.test {
        Test::In(urls) => Some(urls.iter().cloned().collect()),
        Test::NotIn(_) | Test::Prefix(_) => None,
    });
    let url_prefix = of_urls().find_map(|filter| match &filter.test {
        Test::Prefix(prefix) => Some(prefix.clone()),
        Test::In(_) | Test::NotIn(_) => None,
    });
    let measures = query.columns.iter().filter_map(|column| schema.measure_index(&column.name));
    Want {
        site: match &query.site {
            SiteSelection::One(site) => Some(site.clone()),
            SiteSelection::All => None,
        },
        urls,
        url_prefix,
        from,
        to,
        dimensions: query.dimensions().into_iter().map(str::to_owned).collect(),
        measures: measures.map(|index| schema.measures()[index].clone()).collect(),
        with_urls: query.group_by.contains(&Field::Url) || of_urls().next().is_some(),
        rows: true,
        facts: true,
    }
}

/// What counts of segments: these shards, but not where memory answers for them.
pub(crate) fn keep(shards: &[ShardId], whole: impl Iterator<Item = (ShardId, Vec<BucketStart>)>) -> Keep {
    let mut keep = Keep { shards: ShardSet::default(), whole: std::collections::BTreeMap::new() };
    shards.iter().for_each(|&shard| keep.shards.insert(shard));
    for (shard, buckets) in whole {
        buckets.into_iter().for_each(|bucket| keep.whole.entry(bucket).or_default().insert(shard));
    }
    keep
}
