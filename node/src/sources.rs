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
use tidemark_rollup::lanes::names_of;
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
        Test::In(urls) => {
            let pages: std::collections::BTreeSet<String> =
                urls.iter().flat_map(|url| names_of(url)).collect();
            Some(pages.into_iter().collect())
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_history::paths::{DaySegment, ObjectPath};
    use tidemark_history::replacement::ReplacementRecord;
    use tidemark_rollup::member::NodeId;

    fn day(text: &str) -> DayStart {
        DayStart::containing(EventTime::parse_rfc3339(&format!("2015-05-{text}T00:00:00Z")).unwrap())
    }

    /// A day whose buckets are merged into rows of five minutes and of the day.
    fn compacted(start: DayStart, with_five_minutes: bool) -> v1::ReplacedDay {
        let of = DaySegment { day: start, writer: NodeId::new("a").unwrap(), attempt: 1, n: 1 };
        let segment =
            |path: ObjectPath| v1::Segment { path: path.to_string(), rows: 1, ..v1::Segment::default() };
        let through = |bucket: BucketStart| v1::ReplacedBucket {
            bucket_start_s: bucket.as_unix_seconds(),
            through: 1,
            raw: vec![],
        };
        v1::ReplacedDay {
            day_start_s: start.as_unix_seconds(),
            buckets: start.buckets().map(through).collect(),
            five_minutes: with_five_minutes
                .then(|| segment(ObjectPath::DayFiveMinutes(of.clone())))
                .into_iter()
                .collect(),
            days: vec![segment(ObjectPath::DayRollup(of))],
            coverage: Some(segment(ObjectPath::Coverage { day: start, attempt: 1 })),
        }
    }

    fn history(with_five_minutes: bool) -> History {
        let message = v1::Replacement {
            shard_count: 8,
            writer: "a".into(),
            days: ["09", "10", "16"].map(|text| compacted(day(text), with_five_minutes)).to_vec(),
            ..v1::Replacement::default()
        };
        History::default().with_replacement(&ReplacementRecord::new(1, message).unwrap())
    }

    /// Asked at this time of the 17th, for two days by days over the same a week ago: the 9th and the 10th.
    fn query(time: &str) -> Query {
        let wire = v1::Query {
            site: "example.com".into(),
            from: "2015-05-16T00:00:00Z".into(),
            to: "2015-05-18T00:00:00Z".into(),
            granularity: "1d".into(),
            versus: "week".into(),
            ..v1::Query::default()
        };
        let now = EventTime::parse_rfc3339(&format!("2015-05-{time}Z")).unwrap();
        Query::parse(&wire, &Schema::default(), now).unwrap()
    }

    fn found(query: &Query, history: &History) -> (Vec<String>, BTreeSet<String>) {
        let days = whole_days(query, history);
        let found = sources(query, &Schema::default(), history, &days, &Keep::default());
        let name = |source: &Source| {
            let range = format!("{} to {}", source.want.from.time(), source.want.to.time());
            (source.segment.path[..20].to_owned(), range)
        };
        let names = found.sources.iter().map(name).map(|(path, range)| format!("{path} {range}"));
        (names.collect(), found.gaps)
    }

    #[test]
    fn a_day_of_which_only_a_part_is_compared_is_read_from_five_minute_rows() {
        let whole = |day: &str, next: &str| {
            format!("rollup/1d/2015-05-{day} 2015-05-{day}T00:00:00Z to 2015-05-{next}T00:00:00Z")
        };
        let (names, gaps) = found(&query("17T10:07:30"), &history(true));
        let part = "rollup/5m/2015-05-10 2015-05-10T00:00:00Z to 2015-05-10T10:05:00Z".to_owned();
        assert_eq!(names, [whole("09", "10"), part, whole("16", "17")]);
        assert!(gaps.is_empty());
        // When the 17th has ended, all of the 10th is compared.
        let (names, _) = found(&query("18T00:00:00"), &history(true));
        assert_eq!(names, [whole("09", "10"), whole("10", "11"), whole("16", "17")]);
    }

    #[test]
    fn where_five_minute_rows_are_gone_the_gap_says_why_they_are_needed() {
        let (names, gaps) = found(&query("17T10:07:30"), &history(false));
        assert_eq!(names.len(), 2);
        let gap = gaps.into_iter().collect::<Vec<_>>().join("\n");
        assert!(gap.starts_with("2015-05-10 is kept in days only") && gap.contains("has not ended"), "{gap}");
    }
}
