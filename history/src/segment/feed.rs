//! The values of a rollup segment's columns, as they are written.
//!
//! Owns: the order of rows and facts, and what each column says of them.
//! Does not own: pages and packing (the `parquet` crate).

use super::error::WriteError;
use super::facts::format_reasons;
use super::layout::{Derived, Fact, Kind};
use bytes::Bytes;
use parquet::column::writer::{ColumnWriter, ColumnWriterImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use std::ops::Range;
use tidemark_proto::v1;
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::measure::distribution::Distribution;
use tidemark_rollup::measure::unique::Unique;
use tidemark_rollup::rows::{FactsRow, SegmentRows};

/// Rows that are handed over at once.
const BATCH_ROWS: usize = 8192;

/// The rows of a row group.
pub(super) struct Rows<'a> {
    rows: &'a SegmentRows,
    sites: Vec<OfSite>,
}

/// A site's facts and rows, as positions.
struct OfSite {
    site: u32,
    facts: Range<usize>,
    rows: Range<usize>,
}

impl<'a> Rows<'a> {
    /// Checks the rows' contract as far as reading relies on it.
    pub(super) fn of(rows: &'a SegmentRows) -> Result<Self, WriteError> {
        check(rows)?;
        let (mut facts, mut row) = (0, 0);
        let mut sites = Vec::new();
        for site in 0..rows.sites.len() as u32 {
            let first = (facts, row);
            facts += rows.facts[facts..].iter().take_while(|facts| facts.site == site).count();
            row += rows.site[row..].iter().take_while(|&&of| of == site).count();
            if (facts, row) != first {
                sites.push(OfSite { site, facts: first.0..facts, rows: first.1..row });
            }
        }
        if (facts, row) != (rows.facts.len(), rows.len()) {
            return Err(WriteError::Rows("rows or facts do not ascend by site"));
        }
        Ok(Self { rows, sites })
    }

    /// Where each site's rows are.
    pub(super) fn sites(&self) -> Vec<v1::SiteRows> {
        let of = |of: &OfSite| v1::SiteRows {
            site: self.rows.sites[of.site as usize].clone(),
            first: (of.facts.start + of.rows.start) as u32,
            facts: of.facts.len() as u32,
            rows: of.rows.len() as u32,
        };
        self.sites.iter().map(of).collect()
    }

    /// Writes a column.
    pub(super) fn feed(&self, kind: Kind, writer: &mut ColumnWriter<'_>) -> Result<(), WriteError> {
        match writer {
            ColumnWriter::Int32ColumnWriter(writer) => self.feed_shard(kind, writer)?,
            ColumnWriter::Int64ColumnWriter(writer) => self.feed_integers(kind, writer)?,
            ColumnWriter::ByteArrayColumnWriter(writer) => self.feed_bytes(kind, writer)?,
            _ => return Err(WriteError::Rows("a column has a type that segments do not use")),
        }
        Ok(())
    }

    fn feed_shard(
        &self,
        kind: Kind,
        writer: &mut ColumnWriterImpl<'_, parquet::data_type::Int32Type>,
    ) -> Result<(), ParquetError> {
        debug_assert_eq!(kind, Kind::Fact(Fact::Shard));
        self.feed_each(writer, |facts| Some(facts.shard.get() as i32), |_| None)
    }

    fn feed_integers(
        &self,
        kind: Kind,
        writer: &mut ColumnWriterImpl<'_, parquet::data_type::Int64Type>,
    ) -> Result<(), ParquetError> {
        let rows = self.rows;
        match kind {
            Kind::Time => self.feed_each(
                writer,
                |facts| Some(facts.bucket.time().as_unix_ms()),
                |row| Some(rows.bucket[row].time().as_unix_ms()),
            ),
            Kind::Fact(fact) => self.feed_each(writer, |facts| number(fact, facts), |_| None),
            Kind::Integers(at) | Kind::Derived(at, _) => match (&rows.measures[at], kind) {
                (MeasureColumn::Integers(values), _) => {
                    let value = |row| values.get(row).copied().unwrap_or_default() as i64;
                    self.feed_each(writer, |_| None, |row| Some(value(row)))
                }
                (MeasureColumn::Uniques(values), _) => {
                    let estimate = |row| values.get(row).map_or(0, Unique::count) as i64;
                    self.feed_each(writer, |_| None, |row| Some(estimate(row)))
                }
                (MeasureColumn::Distributions(values), Kind::Derived(_, derived)) => {
                    let derive = |row| derive(derived, values.get(row)?).map(|value| value as i64);
                    self.feed_each(writer, |_| None, derive)
                }
                (MeasureColumn::Distributions(_), _) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn feed_bytes(
        &self,
        kind: Kind,
        writer: &mut ColumnWriterImpl<'_, parquet::data_type::ByteArrayType>,
    ) -> Result<(), ParquetError> {
        let rows = self.rows;
        match kind {
            Kind::Site => {
                let sites = shared(&rows.sites);
                let of = |site: u32| Some(sites[site as usize].clone());
                self.feed_each(writer, |facts| of(facts.site), |row| of(rows.site[row]))
            }
            Kind::Url => {
                let urls = shared(&rows.urls);
                self.feed_each(writer, |_| None, |row| Some(urls[rows.url[row] as usize].clone()))
            }
            Kind::Dimension(at) => {
                let (values, ids) = (shared(&rows.values[at]), &rows.dimensions[at]);
                let value = |row: usize| Some(ids[row] as usize).filter(|&id| id != 0);
                self.feed_each(writer, |_| None, |row| value(row).map(|id| values[id].clone()))
            }
            Kind::Fact(_) => {
                let reasons = |facts: &FactsRow| format_reasons(&facts.facts.rejected);
                self.feed_each(
                    writer,
                    |facts| reasons(facts).map(|text| ByteArray::from(text.into_bytes())),
                    |_| None,
                )
            }
            Kind::Sketches(at) => self.feed_sketches(&rows.measures[at], writer),
            _ => Ok(()),
        }
    }

    /// Writes a column of sketches, a batch of which shares one allocation.
    fn feed_sketches(
        &self,
        column: &MeasureColumn,
        writer: &mut ColumnWriterImpl<'_, parquet::data_type::ByteArrayType>,
    ) -> Result<(), ParquetError> {
        let mut batch = Batch { levels: Vec::new(), values: Vec::new(), writer };
        for of in &self.sites {
            for _ in of.facts.clone() {
                batch.push(None)?;
            }
            for start in of.rows.clone().step_by(BATCH_ROWS) {
                for sketch in encode(column, start..of.rows.end.min(start + BATCH_ROWS)) {
                    batch.push(sketch)?;
                }
            }
        }
        batch.flush()
    }

    /// Writes a column of values of facts and of rows, by position.
    fn feed_each<T: DataType>(
        &self,
        writer: &mut ColumnWriterImpl<'_, T>,
        mut of_facts: impl FnMut(&FactsRow) -> Option<T::T>,
        mut of_row: impl FnMut(usize) -> Option<T::T>,
    ) -> Result<(), ParquetError> {
        let mut batch = Batch { levels: Vec::new(), values: Vec::new(), writer };
        for of in &self.sites {
            for facts in &self.rows.facts[of.facts.clone()] {
                batch.push(of_facts(facts))?;
            }
            for row in of.rows.clone() {
                batch.push(of_row(row))?;
            }
        }
        batch.flush()
    }
}

/// Values on their way to a column.
struct Batch<'a, 'b, T: DataType> {
    /// Per value whether it is there.
    levels: Vec<i16>,
    values: Vec<T::T>,
    writer: &'a mut ColumnWriterImpl<'b, T>,
}

impl<T: DataType> Batch<'_, '_, T> {
    fn push(&mut self, value: Option<T::T>) -> Result<(), ParquetError> {
        self.levels.push(i16::from(value.is_some()));
        self.values.extend(value);
        if self.levels.len() < BATCH_ROWS { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        // A column that is never NULL has no levels, and the writer ignores them.
        self.writer.write_batch(&self.values, Some(&self.levels), None)?;
        self.levels.clear();
        self.values.clear();
        Ok(())
    }
}

fn check(rows: &SegmentRows) -> Result<(), WriteError> {
    let len = rows.len();
    let dimensions = rows.schema.dimensions().len();
    let lengths = rows.url.len() == len
        && rows.bucket.len() == len
        && rows.dimensions.iter().all(|column| column.len() == len)
        && rows.measures.iter().all(|column| measure_len(column) <= len);
    let widths = rows.dimensions.len() == dimensions
        && rows.values.len() == dimensions
        && rows.measures.len() == rows.schema.measures().len();
    if !lengths || !widths {
        return Err(WriteError::Rows("columns have different lengths"));
    }
    if len.saturating_add(rows.facts.len()) > u32::MAX as usize {
        return Err(WriteError::Rows("there are more than 2^32 rows"));
    }
    let within = |ids: &[u32], texts: &[String]| ids.iter().all(|&id| (id as usize) < texts.len());
    let known = within(&rows.site, &rows.sites)
        && within(&rows.url, &rows.urls)
        && rows.dimensions.iter().zip(&rows.values).all(|(ids, values)| within(ids, values))
        && rows.facts.iter().all(|facts| (facts.site as usize) < rows.sites.len());
    if !known {
        return Err(WriteError::Rows("a row has a text that no dictionary has"));
    }
    if !rows.sites.is_sorted_by(|a, b| a < b) {
        return Err(WriteError::Rows("sites do not ascend"));
    }
    if rows.values.iter().any(|values| values.first().is_some_and(|first| !first.is_empty())) {
        return Err(WriteError::Rows("the first value of a dimension is not the empty one"));
    }
    Ok(())
}

fn measure_len(column: &MeasureColumn) -> usize {
    match column {
        MeasureColumn::Integers(values) => values.len(),
        MeasureColumn::Uniques(values) => values.len(),
        MeasureColumn::Distributions(values) => values.len(),
    }
}

/// Texts that are cloned without copying.
fn shared(texts: &[String]) -> Vec<ByteArray> {
    let all = Bytes::from(texts.concat());
    let mut from = 0;
    let slice = |text: &String| {
        let range = from..from + text.len();
        from = range.end;
        ByteArray::from(all.slice(range))
    };
    texts.iter().map(slice).collect()
}

fn number(fact: Fact, row: &FactsRow) -> Option<i64> {
    let facts = &row.facts;
    match fact {
        Fact::Counted => Some(facts.counted as i64),
        Fact::Late => Some(facts.late as i64),
        Fact::Duplicate => Some(facts.duplicate as i64),
        Fact::Rejected => {
            Some(facts.rejected.values().fold(0_u64, |sum, &events| sum.saturating_add(events)) as i64)
        }
        Fact::Newest => facts.newest_event_ms,
        Fact::Shard | Fact::Reasons => None,
    }
}

fn derive(derived: Derived, values: &Distribution) -> Option<u64> {
    if matches!(values, Distribution::Empty) {
        return None;
    }
    match derived {
        Derived::Count | Derived::Estimate => Some(values.count()),
        Derived::Sum => Some(values.sum()),
        Derived::Max => values.max(),
        Derived::Percentile(percent) => {
            let (quantile, count) = (f64::from(percent) / 100.0, values.count() as f64);
            // Of few values the largest: no need to sort them, and nearly all rows have few.
            let is_largest = !values.is_estimated() && quantile * count > count - 1.0;
            if is_largest { values.max() } else { values.quantile(quantile) }
        }
    }
}

/// The sketches of these rows; none where one is empty.
fn encode(column: &MeasureColumn, rows: Range<usize>) -> Vec<Option<ByteArray>> {
    let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(rows.len()));
    for row in rows {
        match column {
            MeasureColumn::Uniques(values) => match values.get(row) {
                None | Some(Unique::Empty) => {}
                Some(value) => value.encode(&mut bytes),
            },
            MeasureColumn::Distributions(values) => match values.get(row) {
                None | Some(Distribution::Empty) => {}
                Some(value) => value.encode(&mut bytes),
            },
            MeasureColumn::Integers(_) => {}
        }
        ends.push(bytes.len());
    }
    let bytes = Bytes::from(bytes);
    let mut from = 0;
    let slice = |end| {
        let range = std::mem::replace(&mut from, end)..end;
        (!range.is_empty()).then(|| ByteArray::from(bytes.slice(range)))
    };
    ends.into_iter().map(slice).collect()
}
