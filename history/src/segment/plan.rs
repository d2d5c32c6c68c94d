//! What of a segment a question needs.
//!
//! Owns: the selection, which row groups and sites can matter to it, and which bytes to fetch.
//! Does not own: fetching (the caller), reading rows (`read`).

use super::error::SegmentError;
use super::fetched::Fetched;
use super::footer::{ChunkAt, Group, Parsed};
use super::layout::{Fact, Kind};
use super::read;
use super::thrift::after_struct;
use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use std::ops::Range;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::schema::{Measure, Schema, Source};
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::{BucketStart, EventTime};

/// Ranges with less between them are fetched as one. A request to an object store takes as long as some hundred
/// kilobytes do.
const NEAR_BYTES: u64 = 128 << 10;

/// Which rows and columns of a segment are wanted.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Of these sites; of all where not set.
    pub sites: Option<Vec<String>>,
    /// Of these URLs; of all where not set. Facts have no URL: they come anyway.
    pub urls: Option<Vec<String>>,
    /// Of URLs that begin so.
    pub url_prefix: Option<String>,
    /// Rows and facts whose own time, the start of their bucket or day, is not before this
    pub from: BucketStart,
    /// and is before this. May lie before `from`: nothing is selected then.
    pub to: BucketStart,
    /// Dimensions to read; those that the segment lacks are left out.
    pub dimensions: Vec<String>,
    /// Measures to read, by their whole definition; those that the segment lacks are left out.
    pub measures: Vec<Measure>,
    /// Whether rows are to have their URL. Without, all have the empty one, and the column is not read.
    pub with_urls: bool,
    /// Only row groups that may hold rows of these shards; all where not set. A row group holds rows of other shards, too.
    pub shards: Option<Vec<ShardId>>,
    /// Whether to read facts.
    pub facts: bool,
    /// Whether to read rows.
    pub rows: bool,
}

impl Selection {
    /// Everything that a segment of this schema holds.
    pub fn everything(schema: &Schema) -> Self {
        Self {
            sites: None,
            urls: None,
            url_prefix: None,
            from: BucketStart::containing(EventTime::EPOCH),
            // Exclusive; no event is of the year 2106.
            to: BucketStart::containing(EventTime::MAX),
            dimensions: schema.dimensions().to_vec(),
            measures: schema.measures().to_vec(),
            with_urls: true,
            shards: None,
            facts: true,
            rows: true,
        }
    }

    pub(super) fn includes_time(&self, start: BucketStart) -> bool {
        self.from <= start && start < self.to
    }

    pub(super) fn filters_urls(&self) -> bool {
        self.urls.is_some() || self.url_prefix.is_some()
    }

    pub(super) fn includes_url(&self, url: &str) -> bool {
        let listed = |urls: &Vec<String>| urls.binary_search_by(|listed| listed.as_str().cmp(url)).is_ok();
        self.urls.as_ref().is_none_or(listed)
            && self.url_prefix.as_ref().is_none_or(|prefix| url.starts_with(prefix))
    }

    /// Whether a URL between these bounds can be selected.
    fn meets_urls(&self, (first, last): &(Vec<u8>, Vec<u8>)) -> bool {
        let within = |url: &String| first.as_slice() <= url.as_bytes() && url.as_bytes() <= last.as_slice();
        let listed = self.urls.as_ref().is_none_or(|urls| urls.iter().any(within));
        let prefixed = self.url_prefix.as_ref().is_none_or(|prefix| {
            let prefix = prefix.as_bytes();
            // The first URL may have the prefix itself, or lie before all that have it.
            prefix <= last.as_slice() && (first.as_slice() <= prefix || first.starts_with(prefix))
        });
        listed && prefixed
    }
}

/// What to read, and from where.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) segment: Arc<Parsed>,
    pub(super) selection: Selection,
    pub(super) projection: Projection,
    pub(super) groups: Vec<GroupPlan>,
}

/// What is read of the segment's schema.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    pub(super) schema: Arc<Schema>,
    /// Per dimension of the projected schema its position in the segment's.
    pub(super) dimensions: Vec<usize>,
    /// Likewise per measure; none where the segment lacks it.
    pub(super) measures: Vec<Option<usize>>,
}

/// What is read of a row group.
#[derive(Clone, Debug)]
pub(super) struct GroupPlan {
    /// Position of the row group.
    pub(super) group: usize,
    pub(super) facts: Vec<Span>,
    pub(super) rows: Vec<Span>,
}

/// Rows of one site.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Position of the site in the row group.
    pub(super) site: usize,
    pub(super) rows: Range<u32>,
}

impl Plan {
    pub(super) fn new(segment: Arc<Parsed>, selection: &Selection) -> Self {
        let mut selection = selection.clone();
        for names in [&mut selection.sites, &mut selection.urls].into_iter().flatten() {
            names.sort_unstable();
            names.dedup();
        }
        let groups = segment.groups.iter().enumerate();
        let groups = groups
            .map(|(at, group)| GroupPlan::of(at, group, &selection))
            .filter(|plan| !plan.is_empty())
            .collect();
        let projection = Projection::of(&segment.head.schema, &selection);
        Self { segment, selection, projection, groups }
    }

    /// Where the bloom filters are that may rule out more row groups. Fetching them is worth it for few URLs.
    pub fn bloom_ranges(&self) -> Vec<Range<u64>> {
        self.blooms().map(|(_, bloom)| bloom.bytes.clone()).collect()
    }

    /// Positions of planned row groups that have a filter to ask.
    fn blooms(&self) -> impl Iterator<Item = (usize, &ChunkAt)> {
        let asked = self.groups.iter().enumerate();
        let asked = asked.filter(|(_, plan)| self.selection.urls.is_some() && !plan.rows.is_empty());
        asked.filter_map(|(at, plan)| Some((at, self.segment.groups[plan.group].bloom.as_ref()?)))
    }

    /// Leaves out the row groups that hold none of the URLs. `blooms` are the bytes of [`bloom_ranges`](Self::bloom_ranges).
    ///
    /// # Errors
    /// Where the bytes are not those of the filters: a damaged one would hide rows.
    pub fn apply_blooms(mut self, blooms: Vec<Bytes>) -> Result<Self, SegmentError> {
        let segment = Arc::clone(&self.segment);
        let fetched = Fetched::new(&segment.path, &self.bloom_ranges(), blooms)?;
        let mut ruled_out = Vec::new();
        for (at, bloom) in self.blooms() {
            let bytes = fetched.verified(bloom, "the bloom filter")?;
            // A filter that cannot be read rules nothing out. One without bits would panic when asked.
            let sound = after_struct(&bytes).and_then(|_| Sbbf::from_bytes(&bytes).ok());
            let filter = sound.filter(|filter| filter.num_blocks() > 0);
            let urls = self.selection.urls.as_deref().unwrap_or_default();
            if filter.is_some_and(|filter| !urls.iter().any(|url| filter.check(url.as_str()))) {
                ruled_out.push(at);
            }
        }
        ruled_out.into_iter().for_each(|at| self.groups[at].rows.clear());
        self.groups.retain(|plan| !plan.is_empty());
        Ok(self)
    }

    /// The byte ranges to fetch, ascending; those near one another are one.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for plan in &self.groups {
            let group = &self.segment.groups[plan.group];
            let columns = self.columns(plan).into_iter();
            ranges.extend(columns.map(|column| group.columns[column].bytes.clone()));
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(NEAR_BYTES) => {
                    last.end = last.end.max(range.end);
                }
                _ => merged.push(range),
            }
        }
        merged
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The selected rows and facts, from the bytes of [`ranges`](Self::ranges).
    ///
    /// Their schema has the dimensions and measures that were asked for and exist. A schema must have a measure: where none
    /// of those asked for exists, the first of them is there, empty; where none was asked for, the segment's first.
    ///
    /// Rows come by row group, and within one in its order; only with all dimensions, and from one row group, is each key
    /// there once and do all ascend. Dictionaries and facts ascend always, and have nothing that no row has.
    ///
    /// # Errors
    /// Where `fetched` are other ranges, the bytes are not those that were committed, or they make no sense.
    pub fn read(&self, fetched: Vec<Bytes>) -> Result<SegmentRows, SegmentError> {
        let fetched = Fetched::new(&self.segment.path, &self.ranges(), fetched)?;
        read::read(self, &fetched)
    }

    /// Whether a row group's only time need not be read.
    pub(super) fn only_time(&self, group: usize) -> Option<i64> {
        self.segment.groups[group].times.filter(|(first, last)| first == last).map(|(first, _)| first)
    }

    /// Positions of the columns to read of a row group.
    fn columns(&self, plan: &GroupPlan) -> Vec<usize> {
        let mut kinds = Vec::new();
        if self.only_time(plan.group).is_none() {
            kinds.push(Kind::Time);
        }
        if !plan.facts.is_empty() {
            kinds.extend(FACT_COLUMNS.map(Kind::Fact));
        }
        if !plan.rows.is_empty() {
            if self.selection.with_urls || self.selection.filters_urls() {
                kinds.push(Kind::Url);
            }
            kinds.extend(self.projection.dimensions.iter().map(|&at| Kind::Dimension(at)));
            let measures = self.projection.measures.iter().flatten();
            kinds.extend(measures.map(|&at| measure_kind(&self.segment.head.schema, at)));
        }
        kinds.into_iter().filter_map(|kind| self.segment.column(kind)).collect()
    }
}

/// The column that holds a measure.
pub(super) fn measure_kind(schema: &Schema, at: usize) -> Kind {
    match schema.measures()[at].source {
        Source::Count | Source::Sum(_) => Kind::Integers(at),
        Source::Unique | Source::Active | Source::Distribution(_) => Kind::Sketches(at),
    }
}

/// The columns of facts that are read; the total of the rejected is their sum.
pub(super) const FACT_COLUMNS: [Fact; 6] =
    [Fact::Shard, Fact::Counted, Fact::Late, Fact::Duplicate, Fact::Newest, Fact::Reasons];

impl GroupPlan {
    fn of(at: usize, group: &Group, selection: &Selection) -> Self {
        let mut plan = Self { group: at, facts: Vec::new(), rows: Vec::new() };
        if !meets_shards(group, selection) || !meets_times(group, selection) {
            return plan;
        }
        let rows = selection.rows
            && (!selection.filters_urls()
                || group.urls.as_ref().is_none_or(|urls| selection.meets_urls(urls)));
        for (site, of_site) in selected_sites(&group.sites, selection) {
            let (first, facts) = (of_site.first, of_site.first + of_site.facts);
            if selection.facts && of_site.facts > 0 {
                plan.facts.push(Span { site, rows: first..facts });
            }
            if rows && of_site.rows > 0 {
                plan.rows.push(Span { site, rows: facts..facts + of_site.rows });
            }
        }
        plan
    }

    fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.rows.is_empty()
    }
}

fn selected_sites<'a>(sites: &'a [v1::SiteRows], selection: &Selection) -> Vec<(usize, &'a v1::SiteRows)> {
    let Some(names) = &selection.sites else { return sites.iter().enumerate().collect() };
    let find = |name: &String| sites.binary_search_by(|site| site.site.cmp(name)).ok();
    names.iter().filter_map(find).map(|at| (at, &sites[at])).collect()
}

fn meets_shards(group: &Group, selection: &Selection) -> bool {
    let Some(shards) = &selection.shards else { return true };
    let runs = group.shards.as_chunks::<2>().0;
    shards.iter().any(|shard| runs.iter().any(|&[first, last]| (first..=last).contains(&shard.get())))
}

fn meets_times(group: &Group, selection: &Selection) -> bool {
    let (from, to) = (selection.from.time().as_unix_ms(), selection.to.time().as_unix_ms());
    from < to && group.times.is_none_or(|(first, last)| first < to && last >= from)
}

impl Projection {
    fn of(schema: &Arc<Schema>, selection: &Selection) -> Self {
        let mut dimensions: Vec<usize> = Vec::new();
        for at in selection.dimensions.iter().filter_map(|name| schema.dimension_index(name)) {
            if !dimensions.contains(&at) {
                dimensions.push(at);
            }
        }
        let mut measures: Vec<usize> = Vec::new();
        for measure in &selection.measures {
            let found = schema.measures().iter().position(|theirs| theirs == measure);
            measures.extend(found.filter(|at| !measures.contains(at)));
        }
        let names: Vec<String> = dimensions.iter().map(|&at| schema.dimensions()[at].clone()).collect();
        let mut projected: Vec<Measure> = measures.iter().map(|&at| schema.measures()[at].clone()).collect();
        let mut measures: Vec<Option<usize>> = measures.into_iter().map(Some).collect();
        if measures.is_empty()
            && let Some(asked) = selection.measures.first()
        {
            projected = vec![asked.clone()];
            measures = vec![None];
        }
        match Schema::new(names.clone(), projected) {
            Ok(projected) => Self { schema: Arc::new(projected), dimensions, measures },
            // No measure was asked for, or one that has a dimension's name here.
            Err(_) => Self::with_first_measure(schema, names, dimensions),
        }
    }

    /// A schema must have a measure. One that is read is at least never wrong.
    fn with_first_measure(schema: &Arc<Schema>, names: Vec<String>, dimensions: Vec<usize>) -> Self {
        let measures = vec![schema.measures()[0].clone()];
        match Schema::new(names, measures) {
            Ok(projected) => Self { schema: Arc::new(projected), dimensions, measures: vec![Some(0)] },
            Err(_) => unreachable!("a part of a valid schema is valid"),
        }
    }
}
