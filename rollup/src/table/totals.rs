//! What all rows of a site's table come to.
//!
//! Owns: the measures of all rows, merged, of a table that has many; and from how many rows on.
//! Does not own: feeding measures (`bucket::count`), and who asks for nothing else (`scan`).
//!
//! What a site has in all, without filters and groups, is what every overview asks, and of large sites it would take longest: sets and
//! distributions are merged row by row. Small tables are read that way, where it takes next to nothing.
//!
//! Invariant: each measure is what merging that of all rows gives.

use super::SiteTable;
use crate::measure::MeasureColumn;
use crate::schema::{Measure, Schema};

/// A table that has so many rows has totals. A set of visitors takes 16 KB in them at most, a distribution 27 KB, and a row with one visitor
/// and one value some 80 bytes: where totals begin, they add an eighth.
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

    /// To be fed with what rows are fed with.
    pub(crate) fn measures_mut(&mut self) -> &mut [MeasureColumn] {
        &mut self.measures
    }

    /// Bytes on the heap, of sketches as well: there are as many as measures.
    pub(super) fn heap_bytes(&self) -> usize {
        let bytes = |column: &MeasureColumn| column.column_bytes() + column.sketch_bytes();
        self.measures.iter().map(bytes).sum::<usize>() + self.measures.capacity() * size_of::<MeasureColumn>()
    }
}

impl SiteTable {
    /// One column per measure of the schema, which come to what those of all rows come to.
    pub(crate) fn all_measures(&self) -> &[MeasureColumn] {
        self.totals.as_ref().map_or(&self.measures, |totals| &totals.measures)
    }

    /// How many rows are read for these: one, or all.
    pub(crate) fn rows_to_read(&self) -> u64 {
        self.totals.as_ref().map_or(self.len() as u64, |_| 1)
    }

    /// Adds up what rows have so far, where they have become many.
    pub(crate) fn add_up(&mut self, schema: &Schema) {
        if self.totals.is_none() && self.len() >= TOTALS_FROM {
            self.totals = Some(Totals::of(schema, &self.measures));
        }
    }
}
