//! What all rows of a site's table come to.
//!
//! Owns: the measures of all rows, merged, of a table that has many; and from how many rows on.
//! Does not own: feeding measures (`bucket::count`), and who asks for nothing else (`scan`).
//!
//! What a site has in all, without filters and groups, is asked more often than anything else, and of large sites it takes longest: its
//! sets and distributions are merged row by row. Small tables are read that way, where it takes next to nothing.
//!
//! Invariant: each measure is what merging that of all rows gives.

use super::SiteTable;
use crate::measure::MeasureColumn;
use crate::schema::{Measure, Schema};

/// A table that has so many rows has totals. They take 43 KB with a set of visitors and a distribution, rows some 80 bytes each: where they
/// begin, totals take a seventh more than the rows do.
const TOTALS_FROM: usize = 4_096;

/// One column per measure of the schema, each with one row.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    measures: Vec<MeasureColumn>,
}

impl Totals {
    fn of(schema: &Schema, measures: &[MeasureColumn]) -> Self {
        let total = |(measure, column): (&Measure, &MeasureColumn)| {
            let mut total = MeasureColumn::new(&measure.source);
            total.resize(1);
            total.merge_rows(column, &vec![0; column.len()]);
            total
        };
        Self { measures: schema.measures().iter().zip(measures).map(total).collect() }
    }

    /// One per measure of the schema, each with one row.
    pub(crate) fn measures(&self) -> &[MeasureColumn] {
        &self.measures
    }

    /// The same, to be fed with what rows are fed with.
    pub(crate) fn measures_mut(&mut self) -> &mut [MeasureColumn] {
        &mut self.measures
    }

    /// Bytes of the columns, without what their sketches hold.
    pub(crate) fn column_bytes(&self) -> usize {
        let columns: usize = self.measures.iter().map(MeasureColumn::column_bytes).sum();
        columns + self.measures.capacity() * size_of::<MeasureColumn>()
    }
}

impl SiteTable {
    /// Adds up what rows have so far, where they have become many.
    pub(crate) fn add_up(&mut self, schema: &Schema) {
        if self.totals.is_none() && self.len() >= TOTALS_FROM {
            let totals = Totals::of(schema, &self.measures);
            self.sketch_bytes += totals.measures.iter().map(MeasureColumn::sketch_bytes).sum::<usize>();
            self.totals = Some(totals);
        }
    }
}
