//! Rows out of the fetched parts of a segment.
//!
//! Owns: filtering, and putting columns together as `SegmentRows`.
//! Does not own: what is fetched (`plan`), columns (`column`), facts (`facts`).

use super::chunk::Chunk;
use super::column::{read_binaries, read_integers, read_texts};
use super::error::{Flaw, SegmentError};
use super::facts;
use super::fetched::Fetched;
use super::layout::Kind;
use super::page::{NULL, Unpacker};
use super::plan::{GroupPlan, Plan, Span, measure_kind};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_rollup::dictionary::Dictionary;
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::measure::distribution::Distribution;
use tidemark_rollup::measure::unique::Unique;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::time::BucketStart;

/// Reads all planned row groups.
pub(super) fn read(plan: &Plan, fetched: &Fetched<'_>) -> Result<SegmentRows, SegmentError> {
    let unpacker = Unpacker::shared().map_err(|flaw| flaw.unreadable(&plan.segment.path))?;
    let mut reading = Reading::new(plan, fetched, unpacker);
    for group in &plan.groups {
        if !group.facts.is_empty() {
            facts::read(&mut reading, group)?;
        }
        if !group.rows.is_empty() {
            reading.read_rows(group)?;
        }
    }
    Ok(reading.finish())
}

/// Rows so far. Texts have ids in the order they came; in the end they get their positions.
pub(super) struct Reading<'a> {
    pub(super) plan: &'a Plan,
    fetched: &'a Fetched<'a>,
    unpacker: Rc<RefCell<Unpacker>>,
    sites: Dictionary,
    urls: Dictionary,
    values: Vec<Dictionary>,
    pub(super) rows: SegmentRows,
}

/// A group's selected rows.
struct Picked {
    spans: Vec<Span>,
    times: Vec<BucketStart>,
    /// Ids of their URLs; none where they are not read.
    urls: Option<Vec<u32>>,
}

impl<'a> Reading<'a> {
    fn new(plan: &'a Plan, fetched: &'a Fetched<'a>, unpacker: Rc<RefCell<Unpacker>>) -> Self {
        let schema = Arc::clone(&plan.projection.schema);
        let mut unset = Dictionary::default();
        // The empty text is "not set", and always the first.
        unset.intern("");
        Self {
            plan,
            fetched,
            unpacker,
            sites: Dictionary::default(),
            urls: Dictionary::default(),
            values: vec![unset; schema.dimensions().len()],
            rows: SegmentRows::new(schema),
        }
    }

    /// A column of a row group, its checksum verified.
    pub(super) fn chunk(&self, group: usize, kind: Kind) -> Result<Chunk, SegmentError> {
        let segment = &self.plan.segment;
        let found = segment
            .column(kind)
            .map(|at| (&segment.layout.columns()[at], &segment.groups[group].columns[at]));
        let (column, at) = found.ok_or_else(|| self.unreadable("a column is missing".into()))?;
        let bytes = self.fetched.verified(at, &format!("column {:?}", column.name))?;
        let unpacker = Rc::clone(&self.unpacker);
        Ok(Chunk { bytes, unpacked_bytes: at.unpacked_bytes, nullable: column.physical().1, unpacker })
    }

    pub(super) fn unreadable(&self, flaw: Flaw) -> SegmentError {
        flaw.unreadable(&self.plan.segment.path)
    }

    /// The id of a site of a row group.
    pub(super) fn site(&mut self, group: usize, site: usize) -> u32 {
        self.sites.intern(&self.plan.segment.groups[group].sites[site].site)
    }

    /// Times of these rows.
    pub(super) fn times(&self, group: usize, spans: &[Span]) -> Result<Vec<BucketStart>, SegmentError> {
        let mut times = Vec::new();
        match self.plan.only_time(group) {
            Some(time) => {
                let start = bucket_start(time).map_err(|flaw| self.unreadable(flaw))?;
                times.resize(len(spans), start);
            }
            None => {
                let (mut flaw, mut last) = (None, None);
                let each = |time: Option<u64>| {
                    // Sorted as they are, most rows have the time of the one before.
                    match last.filter(|&(known, _)| Some(known) == time) {
                        Some((_, start)) => times.push(start),
                        None => match bucket_start(time.unwrap_or_default() as i64) {
                            Ok(start) => {
                                last = time.map(|time| (time, start));
                                times.push(start);
                            }
                            Err(found) => flaw = Some(found),
                        },
                    }
                };
                let read = read_integers(&self.chunk(group, Kind::Time)?, 8, &ranges(spans), each);
                read.and(flaw.map_or(Ok(()), Err)).map_err(|flaw| self.unreadable(flaw))?;
            }
        }
        Ok(times)
    }

    fn read_rows(&mut self, group: &GroupPlan) -> Result<(), SegmentError> {
        let picked = self.pick(group)?;
        let (group, wanted) = (group.group, ranges(&picked.spans));
        let before = self.rows.len();
        for span in &picked.spans {
            let site = self.site(group, span.site);
            let len = self.rows.site.len() + span.rows.len();
            self.rows.site.resize(len, site);
        }
        self.rows.bucket.extend(&picked.times);
        match picked.urls {
            Some(urls) => self.rows.url.extend(urls),
            None if wanted.is_empty() => {}
            None => {
                let none = self.urls.intern("");
                self.rows.url.resize(self.rows.len(), none);
            }
        }
        for (at, &dimension) in self.plan.projection.dimensions.iter().enumerate() {
            let chunk = self.chunk(group, Kind::Dimension(dimension))?;
            let ids = read_texts(&chunk, &wanted, &mut self.values[at], 0);
            let ids = ids.map_err(|flaw| self.unreadable(flaw))?;
            self.rows.dimensions[at].extend(ids);
        }
        for (at, &measure) in self.plan.projection.measures.iter().enumerate() {
            self.rows.measures[at].resize(before);
            if let Some(measure) = measure {
                let chunk = self.chunk(group, measure_kind(&self.plan.segment.head.schema, measure))?;
                let read = read_measure(&chunk, &wanted, &mut self.rows.measures[at]);
                read.map_err(|flaw| self.unreadable(flaw))?;
            }
        }
        self.check_lengths()
    }

    /// Leaves out the rows of other times and URLs.
    fn pick(&mut self, group: &GroupPlan) -> Result<Picked, SegmentError> {
        let selection = &self.plan.selection;
        let mut spans = group.rows.clone();
        let mut times = self.times(group.group, &spans)?;
        let kept: Vec<bool> = times.iter().map(|&start| selection.includes_time(start)).collect();
        narrow(&mut spans, &kept);
        retain(&mut times, &kept);
        if !selection.with_urls && !selection.filters_urls() {
            return Ok(Picked { spans, times, urls: None });
        }
        let chunk = self.chunk(group.group, Kind::Url)?;
        let mut found = Dictionary::default();
        let ids = read_texts(&chunk, &ranges(&spans), &mut found, NULL);
        let mut ids = ids.map_err(|flaw| self.unreadable(flaw))?;
        if ids.len() != times.len() || ids.contains(&NULL) {
            return Err(self.unreadable("a row has no URL".into()));
        }
        // Asked once per URL, not per row.
        let included: Vec<bool> = found.iter().map(|url| selection.includes_url(url)).collect();
        let kept: Vec<bool> = ids.iter().map(|&id| included[id as usize]).collect();
        narrow(&mut spans, &kept);
        retain(&mut times, &kept);
        retain(&mut ids, &kept);
        if !selection.with_urls {
            return Ok(Picked { spans, times, urls: None });
        }
        let known = found.iter().zip(included);
        let known: Vec<u32> =
            known.map(|(url, kept)| if kept { self.urls.intern(url) } else { NULL }).collect();
        ids.iter_mut().for_each(|id| *id = known[*id as usize]);
        Ok(Picked { spans, times, urls: Some(ids) })
    }

    /// A column that ends early would shift the rows of the next group.
    fn check_lengths(&mut self) -> Result<(), SegmentError> {
        let len = self.rows.len();
        let same = self.rows.bucket.len() == len
            && self.rows.url.len() == len
            && self.rows.dimensions.iter().all(|column| column.len() == len);
        let measures = self.rows.measures.iter_mut().zip(&self.plan.projection.measures);
        let same = measures.fold(same, |same, (column, measure)| {
            let complete = measure.is_none() || measure_len(column) == len;
            column.resize(len);
            same && complete
        });
        if same { Ok(()) } else { Err(self.unreadable("its columns have different lengths".into())) }
    }

    /// Gives texts their positions, and facts their order.
    fn finish(self) -> SegmentRows {
        let mut rows = self.rows;
        let (sites, site_rank) = ranked(&self.sites);
        let (urls, url_rank) = ranked(&self.urls);
        (rows.sites, rows.urls) = (sites, urls);
        rows.site.iter_mut().for_each(|id| *id = site_rank[*id as usize]);
        rows.url.iter_mut().for_each(|id| *id = url_rank[*id as usize]);
        for ((column, dictionary), values) in
            rows.dimensions.iter_mut().zip(&self.values).zip(&mut rows.values)
        {
            let (texts, rank) = ranked(dictionary);
            *values = texts;
            column.iter_mut().for_each(|id| *id = rank[*id as usize]);
        }
        rows.facts.iter_mut().for_each(|facts| facts.site = site_rank[facts.site as usize]);
        rows.facts.sort_by_key(|facts| (facts.site, facts.bucket, facts.shard));
        rows
    }
}

/// All texts ascending, and per id its position among them.
fn ranked(texts: &Dictionary) -> (Vec<String>, Vec<u32>) {
    let mut ids: Vec<u32> = (0..texts.len() as u32).collect();
    ids.sort_unstable_by_key(|&id| texts.get(id));
    let mut rank = vec![0; ids.len()];
    ids.iter().zip(0..).for_each(|(&id, position)| rank[id as usize] = position);
    (ids.iter().map(|&id| texts.get(id).to_owned()).collect(), rank)
}

fn read_measure(chunk: &Chunk, wanted: &[Range<u32>], column: &mut MeasureColumn) -> Result<(), Flaw> {
    match column {
        MeasureColumn::Integers(values) => {
            read_integers(chunk, 8, wanted, |value| values.push(value.unwrap_or_default()))
        }
        MeasureColumn::Uniques(values) => read_binaries(chunk, wanted, |bytes| {
            values.push(decode(bytes, Unique::decode)?);
            Ok(())
        }),
        MeasureColumn::Distributions(values) => read_binaries(chunk, wanted, |bytes| {
            values.push(decode(bytes, Distribution::decode)?);
            Ok(())
        }),
    }
}

fn decode<T: Default>(bytes: Option<&[u8]>, decode: impl Fn(&[u8]) -> Option<T>) -> Result<T, Flaw> {
    match bytes {
        None => Ok(T::default()),
        Some(bytes) => decode(bytes).ok_or_else(|| "a sketch is malformed".into()),
    }
}

fn measure_len(column: &MeasureColumn) -> usize {
    match column {
        MeasureColumn::Integers(values) => values.len(),
        MeasureColumn::Uniques(values) => values.len(),
        MeasureColumn::Distributions(values) => values.len(),
    }
}

fn bucket_start(time_ms: i64) -> Result<BucketStart, Flaw> {
    let seconds = u32::try_from(time_ms / 1000).ok().filter(|_| time_ms % 1000 == 0);
    seconds.and_then(BucketStart::from_unix_seconds).ok_or_else(|| "a row's time is no bucket's".into())
}

fn len(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.rows.len()).sum()
}

pub(super) fn ranges(spans: &[Span]) -> Vec<Range<u32>> {
    spans.iter().map(|span| span.rows.clone()).collect()
}

/// Keeps the rows of `spans` for which `kept` says so.
fn narrow(spans: &mut Vec<Span>, kept: &[bool]) {
    if kept.iter().all(|&kept| kept) {
        return;
    }
    let mut narrowed: Vec<Span> = Vec::new();
    let mut rest = kept;
    for span in spans.iter() {
        let (mine, others) = rest.split_at(span.rows.len().min(rest.len()));
        rest = others;
        let mut first = span.rows.start;
        for run in mine.chunk_by(|a, b| a == b) {
            let end = first + run.len() as u32;
            if run[0] {
                narrowed.push(Span { site: span.site, rows: first..end });
            }
            first = end;
        }
    }
    *spans = narrowed;
}

fn retain<T>(values: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    values.retain(|_| kept.next().copied().unwrap_or_default());
}
