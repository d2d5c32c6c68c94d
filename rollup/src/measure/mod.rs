//! Aggregates that merge.
//!
//! Owns: the column of one measure, over the rows of a rollup or a partial.
//! Does not own: which events feed it (`schema`, `bucket`), and rows (`table`, `partial`).
//!
//! One kind of measure, one file. Counts and sums are plain integers that saturate: `min(a + b, MAX)` is still
//! commutative and associative.

pub mod distribution;
pub mod unique;

use crate::schema::Source;
use crate::wire::{UintColumn, uint_column};
use bytes::Bytes;
use distribution::Distribution;
use tidemark_proto::v1;
use unique::{Unique, Waiting};

/// One measure's values, one per row. Rows beyond the end of the column are empty: a measure that no event fed takes no
/// room.
#[derive(Clone, Debug)]
pub enum MeasureColumn {
    /// Counts and sums.
    Integers(Vec<u64>),
    /// Distinct visitors.
    Uniques(Vec<Unique>),
    /// Distributions.
    Distributions(Vec<Distribution>),
}

impl MeasureColumn {
    /// An empty column for a measure of this source.
    pub fn new(source: &Source) -> Self {
        match source {
            Source::Count | Source::Sum(_) => Self::Integers(Vec::new()),
            Source::Unique | Source::Active => Self::Uniques(Vec::new()),
            Source::Distribution(_) => Self::Distributions(Vec::new()),
        }
    }

    /// How many rows it has.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Integers(values) => values.len(),
            Self::Uniques(values) => values.len(),
            Self::Distributions(values) => values.len(),
        }
    }

    /// Appends or drops rows at the end; new ones are empty.
    pub fn resize(&mut self, len: usize) {
        match self {
            Self::Integers(values) => grow(values, len),
            Self::Uniques(values) => grow(values, len),
            Self::Distributions(values) => grow(values, len),
        }
    }

    /// Reads a row, which may be beyond the end, without waiting for it.
    pub(crate) fn touch(&self, row: usize) -> u32 {
        match self {
            Self::Integers(values) => touch(values, row) as u32,
            Self::Uniques(values) => u32::from(matches!(values.get(row), Some(Unique::Empty))),
            Self::Distributions(values) => u32::from(matches!(values.get(row), Some(Distribution::Empty))),
        }
    }

    /// Merges rows of `other` into rows of this column: row `i` into row `rows[i]`, or nowhere where that is
    /// [`NOWHERE`].
    pub fn merge_rows(&mut self, other: &Self, rows: &[u32]) {
        let mut waiting = Waiting::default();
        self.merge_rows_waiting(other, rows, &mut waiting);
        self.finish(&mut waiting);
    }

    /// As [`merge_rows`](Self::merge_rows), where more is to come: some of it waits until [`finish`](Self::finish).
    pub fn merge_rows_waiting(&mut self, other: &Self, rows: &[u32], waiting: &mut Waiting) {
        match (self, other) {
            (Self::Integers(a), Self::Integers(b)) => {
                merge_each(a, b, rows, |a, &b| *a = a.saturating_add(b))
            }
            (Self::Uniques(a), Self::Uniques(b)) => {
                let pairs = b.iter().zip(rows).filter(|&(_, &row)| row != NOWHERE);
                pairs.for_each(|(set, &row)| waiting.merge(a, row, set));
            }
            (Self::Distributions(a), Self::Distributions(b)) => merge_each(a, b, rows, Distribution::merge),
            (Self::Integers(_) | Self::Uniques(_) | Self::Distributions(_), _) => {
                unreachable!("columns of one measure have one kind")
            }
        }
    }

    /// Merges all rows of `other` into one row of this column, or nowhere; some of it waits until [`finish`](Self::finish).
    pub(crate) fn merge_into_one(&mut self, other: &Self, row: u32, waiting: &mut Waiting) {
        if row == NOWHERE {
            return;
        }
        let at = row as usize;
        match (self, other) {
            (Self::Integers(a), Self::Integers(b)) => {
                a[at] = b.iter().fold(a[at], |sum, &value| sum.saturating_add(value));
            }
            (Self::Uniques(a), Self::Uniques(b)) => waiting.merge_into_one(a, row, b),
            (Self::Distributions(a), Self::Distributions(b)) => b.iter().for_each(|other| a[at].merge(other)),
            (Self::Integers(_) | Self::Uniques(_) | Self::Distributions(_), _) => {
                unreachable!("columns of one measure have one kind")
            }
        }
    }

    /// Adds what waits.
    pub fn finish(&mut self, waiting: &mut Waiting) {
        if let Self::Uniques(sets) = self {
            waiting.finish(sets);
        }
    }

    /// Merges entries of `other` into rows of this column: entry `from[i]` into row `to[i]`. Rows beyond the end of
    /// `other` are empty.
    pub fn merge_entries(&mut self, other: &Self, from: &[u32], to: &[u32]) {
        match (self, other) {
            (Self::Integers(a), Self::Integers(b)) => {
                merge_pairs(a, b, from, to, |a, &b| *a = a.saturating_add(b))
            }
            (Self::Uniques(a), Self::Uniques(b)) => merge_pairs(a, b, from, to, Unique::merge),
            (Self::Distributions(a), Self::Distributions(b)) => {
                merge_pairs(a, b, from, to, Distribution::merge)
            }
            (Self::Integers(_) | Self::Uniques(_) | Self::Distributions(_), _) => {
                unreachable!("columns of one measure have one kind")
            }
        }
    }

    /// Keeps these rows, in this order.
    pub fn select(&mut self, rows: &[u32]) {
        match self {
            Self::Integers(values) => *values = rows.iter().map(|&row| values[row as usize]).collect(),
            Self::Uniques(values) => {
                *values = rows.iter().map(|&row| std::mem::take(&mut values[row as usize])).collect();
            }
            Self::Distributions(values) => {
                *values = rows.iter().map(|&row| std::mem::take(&mut values[row as usize])).collect();
            }
        }
    }

    /// A copy of these rows, in this order.
    pub fn pick(&self, rows: &[u32]) -> Self {
        fn pick<T: Clone>(values: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|&row| values[row as usize].clone()).collect()
        }
        match self {
            Self::Integers(values) => Self::Integers(pick(values, rows)),
            Self::Uniques(values) => Self::Uniques(pick(values, rows)),
            Self::Distributions(values) => Self::Distributions(pick(values, rows)),
        }
    }

    /// Bytes of the column itself, without what its sketches hold.
    pub fn column_bytes(&self) -> usize {
        match self {
            Self::Integers(values) => values.capacity() * size_of::<u64>(),
            Self::Uniques(values) => values.capacity() * size_of::<Unique>(),
            Self::Distributions(values) => values.capacity() * size_of::<Distribution>(),
        }
    }

    /// Bytes that the sketches hold.
    pub fn sketch_bytes(&self) -> usize {
        match self {
            Self::Integers(_) => 0,
            Self::Uniques(values) => values.iter().map(Unique::heap_bytes).sum(),
            Self::Distributions(values) => values.iter().map(Distribution::heap_bytes).sum(),
        }
    }

    /// The column on the wire.
    pub fn to_wire(&self) -> v1::MeasureColumn {
        match self {
            Self::Integers(values) => {
                v1::MeasureColumn { integers: uint_column(values), ..Default::default() }
            }
            Self::Uniques(values) => sketches_to_wire(values, Unique::encode),
            Self::Distributions(values) => sketches_to_wire(values, Distribution::encode),
        }
    }

    /// Reads `len` rows of a measure of this source; `None` where the bytes are malformed.
    pub fn from_wire(wire: v1::MeasureColumn, source: &Source, len: usize) -> Option<Self> {
        match Self::new(source) {
            Self::Integers(mut values) => {
                UintColumn::of(wire.integers, len)?.read_into(len, &mut values);
                Some(Self::Integers(values))
            }
            Self::Uniques(_) => sketches_from_wire(&wire, len, Unique::decode).map(Self::Uniques),
            Self::Distributions(_) => {
                sketches_from_wire(&wire, len, Distribution::decode).map(Self::Distributions)
            }
        }
    }
}

/// The row that takes nothing, in [`MeasureColumn::merge_rows`].
pub const NOWHERE: u32 = u32::MAX;

fn merge_each<T>(mine: &mut [T], theirs: &[T], rows: &[u32], mut merge: impl FnMut(&mut T, &T)) {
    for (theirs, &row) in theirs.iter().zip(rows) {
        if row != NOWHERE {
            merge(&mut mine[row as usize], theirs);
        }
    }
}

fn merge_pairs<T>(mine: &mut [T], theirs: &[T], from: &[u32], to: &[u32], mut merge: impl FnMut(&mut T, &T)) {
    for (&from, &to) in from.iter().zip(to) {
        if let Some(theirs) = theirs.get(from as usize) {
            merge(&mut mine[to as usize], theirs);
        }
    }
}

/// Reads an entry of a column, where there is one, so that it is in the caches when it is needed.
pub(crate) fn touch<T: Copy + Default>(values: &[T], at: usize) -> T {
    values.get(at).copied().unwrap_or_default()
}

/// Resizes a column, growing by half instead of doubling: rows are most of the memory there is.
pub(crate) fn grow<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    make_room(values, len.saturating_sub(values.len()));
    values.resize(len, T::default());
}

/// Appends to a column, growing likewise.
pub(crate) fn extend<T: Copy>(values: &mut Vec<T>, more: &[T]) {
    make_room(values, more.len());
    values.extend_from_slice(more);
}

fn make_room<T>(values: &mut Vec<T>, more: usize) {
    if values.len() + more > values.capacity() {
        values.reserve_exact(more.max(values.len() / 2).max(4));
    }
}

fn sketches_to_wire<T>(values: &[T], encode: impl Fn(&T, &mut Vec<u8>)) -> v1::MeasureColumn {
    let mut sketches = Vec::new();
    let mut lengths = Vec::with_capacity(values.len());
    for value in values {
        let before = sketches.len();
        encode(value, &mut sketches);
        lengths.push((sketches.len() - before) as u64);
    }
    v1::MeasureColumn {
        integers: Bytes::new(),
        sketch_lengths: uint_column(&lengths),
        sketches: sketches.into(),
    }
}

fn sketches_from_wire<T>(
    wire: &v1::MeasureColumn,
    len: usize,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Option<Vec<T>> {
    let mut lengths = Vec::new();
    UintColumn::of(wire.sketch_lengths.clone(), len)?.read_into(len, &mut lengths);
    let mut rest: &[u8] = &wire.sketches;
    let mut values = Vec::with_capacity(len);
    for length in lengths {
        let (sketch, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = tail;
        values.push(decode(sketch)?);
    }
    rest.is_empty().then_some(values)
}
