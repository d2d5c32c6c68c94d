//! Mergeable pieces of an answer.
//!
//! Owns: rows keyed by step of time and groups, with measures and facts that merge, and their form on the wire.
//! Does not own: where the rows come from (`scan`), the numbers read from them (`answer`).
//!
//! Invariant: merging is commutative and associative: the same pieces give the same answer in any order.

use crate::dictionary::{Dictionary, hash_text, mix};
use crate::measure::unique::Waiting;
use crate::measure::{MeasureColumn, NOWHERE};
use crate::query::{Field, Query};
use crate::reading::{order_key, read};
use crate::wire::{UintColumn, id_column};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::BTreeSet;
use tidemark_proto::v1;

/// At most so many rows in a partial. A query that needs more is refused.
pub const MAX_PARTIAL_ROWS: usize = 1_000_000;

/// At most so many gaps of history are named in an answer; it is partial all the same.
pub const MAX_GAPS: usize = 16;

/// The query needs more rows than a node may hold for it. Narrow the range, filter, or group by less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the query has more than {MAX_PARTIAL_ROWS} groups: narrow the range, filter, or group by less")]
pub struct TooManyRows;

/// A piece of an answer.
#[derive(Clone, Debug)]
pub struct Partial {
    /// Per row: start of its step, seconds since the Unix epoch.
    pub(crate) time: Vec<u32>,
    pub(crate) groups: Vec<GroupColumn>,
    pub(crate) measures: Vec<MeasureColumn>,
    index: HashTable<u32>,
    /// Whether rows that are not there yet are left out instead of added.
    closed: bool,
    over_limit: bool,
    /// URLs that have rows in other shards as well: their rows stay, however small they are here.
    pub(crate) spread: BTreeSet<String>,
    /// What is known beside the rows.
    pub facts: PartialFacts,
}

/// Per row the id of a group's value.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupColumn {
    pub(crate) values: Dictionary,
    pub(crate) ids: Vec<u32>,
}

/// What is known beside the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialFacts {
    /// Milliseconds since the Unix epoch.
    pub newest_event_ms: Option<i64>,
    /// Rollups read in memory: one shard's bucket each.
    pub rollups_from_memory: u64,
    /// Rollups read from segments: one segment's bucket, or day, each.
    pub rollups_from_history: u64,
    /// What of history could not be read, at most [`MAX_GAPS`] of it.
    pub gaps: BTreeSet<String>,
    /// Events counted that were sealed after their bucket had closed.
    pub late: u64,
    /// Events not counted.
    pub rejected: u64,
    /// Dimensions over their limit.
    pub capped: BTreeSet<String>,
    /// Rows of rollups that were looked at, where totals of a table are one: what it cost.
    pub rows_scanned: u64,
}

impl PartialFacts {
    /// Notes what of history could not be read.
    pub fn note_gap(&mut self, gap: String) {
        if self.gaps.len() < MAX_GAPS {
            self.gaps.insert(gap);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.newest_event_ms = self.newest_event_ms.max(other.newest_event_ms);
        self.rollups_from_memory += other.rollups_from_memory;
        self.rollups_from_history += other.rollups_from_history;
        other.gaps.iter().for_each(|gap| self.note_gap(gap.clone()));
        self.late += other.late;
        self.rejected += other.rejected;
        self.capped.extend(other.capped.iter().cloned());
        self.rows_scanned = self.rows_scanned.saturating_add(other.rows_scanned);
    }
}

impl Partial {
    /// A piece of the answer to `query` that holds nothing yet.
    pub fn new(query: &Query) -> Self {
        Self::with_columns(query, query.empty_columns())
    }

    pub(crate) fn with_columns(query: &Query, measures: Vec<MeasureColumn>) -> Self {
        Self {
            time: Vec::new(),
            groups: vec![GroupColumn::default(); query.group_by.len()],
            measures,
            index: HashTable::new(),
            closed: false,
            over_limit: false,
            spread: BTreeSet::new(),
            facts: PartialFacts::default(),
        }
    }

    /// The rows of `self` with other, empty measures. Rows that are not there will not be added.
    pub(crate) fn closed_with(mut self, mut measures: Vec<MeasureColumn>) -> Self {
        measures.iter_mut().for_each(|measure| measure.resize(self.time.len()));
        self.measures = measures;
        self.closed = true;
        self
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// The steps that have rows, each once, as seconds since the Unix epoch.
    pub fn steps(&self) -> Vec<u32> {
        let distinct: BTreeSet<u32> = self.time.iter().copied().collect();
        distinct.into_iter().collect()
    }

    /// The piece itself, where it has all its rows.
    ///
    /// # Errors
    /// Where there were too many.
    pub fn checked(self) -> Result<Self, TooManyRows> {
        if self.over_limit { Err(TooManyRows) } else { Ok(self) }
    }

    /// The rows of a step that is grouped by one thing and has one integer: (group, integer).
    pub(crate) fn integers_by_first_group(&self, step: u32) -> impl Iterator<Item = (&str, u64)> {
        let integers = match &self.measures[0] {
            MeasureColumn::Integers(integers) => integers.as_slice(),
            MeasureColumn::Uniques(_) | MeasureColumn::Distributions(_) => &[],
        };
        let group = &self.groups[0];
        let rows =
            self.time.iter().zip(&group.ids).zip(integers).filter(move |((time, _), _)| **time == step);
        rows.map(|((_, &id), &integer)| (group.values.get(id), integer))
    }

    /// Adds such a row.
    pub(crate) fn add_integer(&mut self, step: u32, group: &str, integer: u64) {
        let Some(id) = self.intern(0, group, hash_text(group)) else { return };
        let row = self.row(step, &[id]);
        self.fit_measures();
        if let (MeasureColumn::Integers(integers), true) = (&mut self.measures[0], row != NOWHERE) {
            integers[row as usize] = integers[row as usize].saturating_add(integer);
        }
    }

    /// The values that a group can have, where rows that are not there will not be added.
    pub(crate) fn only_values(&self, group: usize) -> Option<&Dictionary> {
        self.closed.then(|| &self.groups[group].values)
    }

    /// The id of a value of a group; `None` where no row can have it.
    pub(crate) fn intern(&mut self, group: usize, value: &str, hash: u64) -> Option<u32> {
        let values = &mut self.groups[group].values;
        match self.closed {
            true => values.find_hashed(value, hash),
            false => Some(values.intern_hashed(value, hash)),
        }
    }

    /// The row of this key, which is added where it is new; [`NOWHERE`] where it may not be.
    pub(crate) fn row(&mut self, time: u32, ids: &[u32]) -> u32 {
        let hash = hash_key(time, ids.iter().copied());
        let (times, groups) = (&self.time, &self.groups);
        let same = |&row: &u32| {
            let row = row as usize;
            times[row] == time && groups.iter().zip(ids).all(|(group, &id)| group.ids[row] == id)
        };
        match self.index.entry(hash, same, |&row| hash_of_row(times, groups, row as usize)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if self.closed => NOWHERE,
            Entry::Vacant(_) if times.len() >= MAX_PARTIAL_ROWS => {
                self.over_limit = true;
                NOWHERE
            }
            Entry::Vacant(vacant) => {
                let row = times.len() as u32;
                vacant.insert(row);
                self.time.push(time);
                self.groups.iter_mut().zip(ids).for_each(|(group, &id)| group.ids.push(id));
                row
            }
        }
    }

    /// Gives every row its measures.
    pub(crate) fn fit_measures(&mut self) {
        let len = self.time.len();
        self.measures.iter_mut().for_each(|measure| measure.resize(len));
    }

    /// Adds another piece of the answer to the same query.
    pub fn merge(&mut self, other: &Self) {
        self.merge_all([other]);
    }

    /// Adds other pieces of the answer to the same query: all at once costs less than one by one, as large sets take in many
    /// visitors as fast as few.
    pub fn merge_all<'a>(&mut self, others: impl IntoIterator<Item = &'a Self>) {
        let mut waiting = Vec::new();
        waiting.resize_with(self.measures.len(), Waiting::default);
        others.into_iter().for_each(|other| self.merge_waiting(other, &mut waiting));
        self.measures.iter_mut().zip(&mut waiting).for_each(|(column, waiting)| column.finish(waiting));
    }

    /// As [`merge`](Self::merge), but for what waits until all is merged: per measure.
    fn merge_waiting(&mut self, other: &Self, waiting: &mut [Waiting]) {
        self.facts.merge(&other.facts);
        self.over_limit |= other.over_limit;
        self.spread.extend(other.spread.iter().cloned());
        let mut ids_of: Vec<Vec<u32>> = Vec::with_capacity(self.groups.len());
        for (mine, theirs) in self.groups.iter_mut().zip(&other.groups) {
            let values =
                (0..theirs.values.len() as u32).map(|id| (theirs.values.get(id), theirs.values.hash_of(id)));
            ids_of.push(values.map(|(value, hash)| mine.values.intern_hashed(value, hash)).collect());
        }
        let mut key = vec![0; self.groups.len()];
        let mut rows = Vec::with_capacity(other.len());
        for row in 0..other.len() {
            for (group, id) in key.iter_mut().enumerate() {
                *id = ids_of[group][other.groups[group].ids[row] as usize];
            }
            rows.push(self.row(other.time[row], &key));
        }
        self.fit_measures();
        for ((mine, theirs), waiting) in self.measures.iter_mut().zip(&other.measures).zip(waiting) {
            mine.merge_rows_waiting(theirs, &rows, waiting);
        }
    }

    /// Keeps, in each step, only the first `query.limit` rows in the query's order, and those of URLs that are spread over shards.
    ///
    /// Exact only where all other groups have all their rows in this piece.
    pub fn keep_first(&mut self, query: &Query) {
        let kept = self.first_rows(query);
        if kept.len() < self.len() {
            self.select(&kept);
        }
    }

    /// A copy with what [`keep_first`](Self::keep_first) keeps.
    pub fn first(&self, query: &Query) -> Self {
        let rows = self.first_rows(query);
        let groups = self.groups.iter().map(|group| {
            let mut values = Dictionary::default();
            let ids = rows.iter().map(|&row| {
                let id = group.ids[row as usize];
                values.intern_hashed(group.values.get(id), group.values.hash_of(id))
            });
            GroupColumn { ids: ids.collect(), values }
        });
        let mut first = Self {
            time: rows.iter().map(|&row| self.time[row as usize]).collect(),
            groups: groups.collect(),
            measures: self.measures.iter().map(|measure| measure.pick(&rows)).collect(),
            index: HashTable::new(),
            closed: self.closed,
            over_limit: self.over_limit,
            spread: self.spread.clone(),
            facts: self.facts.clone(),
        };
        first.index_rows();
        first
    }

    fn first_rows(&self, query: &Query) -> Vec<u32> {
        let keys = self.order_keys(query);
        let (mut kept, mut rows): (Vec<u32>, Vec<u32>) = self.rows_by_spread(query);
        rows.sort_by_key(|&row| self.time[row as usize]);
        let mut rest = rows.as_mut_slice();
        while let Some(&first) = rest.first() {
            let time = self.time[first as usize];
            let end = rest.partition_point(|&row| self.time[row as usize] <= time);
            let (step, tail) = rest.split_at_mut(end);
            kept.extend_from_slice(first_of(step, query.limit, &keys, |a, b| self.compare_groups(a, b)));
            rest = tail;
        }
        kept
    }

    /// The rows of URLs that are spread over shards, and the others.
    fn rows_by_spread(&self, query: &Query) -> (Vec<u32>, Vec<u32>) {
        let rows = 0..self.len() as u32;
        let urls = query.group_by.iter().position(|field| *field == Field::Url);
        let Some(urls) = urls.map(|at| &self.groups[at]).filter(|_| !self.spread.is_empty()) else {
            return (Vec::new(), rows.collect());
        };
        let is_spread: Vec<bool> = urls.values.iter().map(|url| self.spread.contains(url)).collect();
        rows.partition(|&row| is_spread[urls.ids[row as usize] as usize])
    }

    /// Per row a number that orders rows as the query asks, largest first.
    pub(crate) fn order_keys(&self, query: &Query) -> Vec<u64> {
        let measure = &query.measures[query.order_by];
        let column = &self.measures[measure.column];
        (0..self.len()).map(|row| order_key(read(column, row, measure.reading))).collect()
    }

    /// Orders two rows by the values of their groups.
    pub(crate) fn compare_groups(&self, a: u32, b: u32) -> std::cmp::Ordering {
        let value = |group: &GroupColumn, row: u32| group.ids[row as usize];
        let mut orders = self.groups.iter().map(|group| {
            let (a, b) = (value(group, a), value(group, b));
            if a == b { std::cmp::Ordering::Equal } else { group.values.get(a).cmp(group.values.get(b)) }
        });
        orders.find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    }

    /// Keeps these rows, in this order.
    fn select(&mut self, rows: &[u32]) {
        self.time = rows.iter().map(|&row| self.time[row as usize]).collect();
        for group in &mut self.groups {
            let values = std::mem::take(&mut group.values);
            let kept = rows.iter().map(|&row| group.ids[row as usize]);
            group.ids =
                kept.map(|id| group.values.intern_hashed(values.get(id), values.hash_of(id))).collect();
        }
        self.measures.iter_mut().for_each(|measure| measure.select(rows));
        self.index_rows();
    }

    fn index_rows(&mut self) {
        self.index.clear();
        let (times, groups) = (&self.time, &self.groups);
        for row in 0..times.len() {
            let hash = hash_of_row(times, groups, row);
            self.index.insert_unique(hash, row as u32, |&row| hash_of_row(times, groups, row as usize));
        }
    }

    /// The piece on the wire.
    pub fn to_wire(&self) -> v1::Partial {
        let groups = self.groups.iter().map(|group| v1::GroupColumn {
            values: group.values.iter().map(str::to_owned).collect(),
            ids: id_column(&group.ids),
        });
        v1::Partial {
            time: id_column(&self.time),
            row_count: self.len() as u32,
            groups: groups.collect(),
            measures: self.measures.iter().map(MeasureColumn::to_wire).collect(),
            facts: Some(v1::PartialFacts {
                newest_event_ms: self.facts.newest_event_ms,
                rollups_from_memory: self.facts.rollups_from_memory,
                rollups_from_history: self.facts.rollups_from_history,
                gaps: self.facts.gaps.iter().cloned().collect(),
                late: self.facts.late,
                rejected: self.facts.rejected,
                capped: self.facts.capped.iter().cloned().collect(),
                rows_scanned: self.facts.rows_scanned,
            }),
        }
    }

    /// Reads a piece of the answer to `query`; `None` where it is malformed.
    pub fn from_wire(wire: v1::Partial, query: &Query) -> Option<Self> {
        let len = wire.row_count as usize;
        let mut partial = Self::new(query);
        let shape_fits =
            wire.groups.len() == partial.groups.len() && wire.measures.len() == partial.measures.len();
        if len > MAX_PARTIAL_ROWS || !shape_fits {
            return None;
        }
        let mut times = Vec::new();
        UintColumn::of(wire.time, len)?.read_ids(len, u32::MAX, &mut times)?;
        let mut ids = vec![Vec::new(); wire.groups.len()];
        for ((group, wire), ids) in partial.groups.iter_mut().zip(&wire.groups).zip(&mut ids) {
            wire.values.iter().for_each(|value| _ = group.values.intern(value));
            let distinct = group.values.len() == wire.values.len();
            let bound = u32::try_from(wire.values.len()).ok().filter(|_| distinct)?;
            UintColumn::of(wire.ids.clone(), len)?.read_ids(len, bound, ids)?;
        }
        let mut key = vec![0; ids.len()];
        for (row, &time) in times.iter().enumerate() {
            key.iter_mut().zip(&ids).for_each(|(id, ids)| *id = ids[row]);
            if partial.row(time, &key) as usize != row {
                return None;
            }
        }
        for (at, wire) in wire.measures.into_iter().enumerate() {
            let source = &query.columns[at % query.columns.len()].source;
            partial.measures[at] = MeasureColumn::from_wire(wire, source, len)?;
        }
        let facts = wire.facts.unwrap_or_default();
        partial.facts = PartialFacts {
            newest_event_ms: facts.newest_event_ms,
            rollups_from_memory: facts.rollups_from_memory,
            rollups_from_history: facts.rollups_from_history,
            gaps: facts.gaps.into_iter().take(MAX_GAPS).collect(),
            late: facts.late,
            rejected: facts.rejected,
            capped: facts.capped.into_iter().collect(),
            rows_scanned: facts.rows_scanned,
        };
        Some(partial)
    }
}

/// The first `limit` of these rows by descending key, then by `tie`; in no order.
pub(crate) fn first_of<'a>(
    rows: &'a mut [u32],
    limit: usize,
    keys: &[u64],
    tie: impl Fn(u32, u32) -> std::cmp::Ordering,
) -> &'a [u32] {
    if rows.len() <= limit {
        return rows;
    }
    // The last key that is in, found among numbers; names are compared only to break ties on it.
    let mut candidates: Vec<u64> = rows.iter().map(|&row| keys[row as usize]).collect();
    let (_, &mut last, _) = candidates.select_nth_unstable_by(limit - 1, |a, b| b.cmp(a));
    // Three classes only: those ahead of it, those tied with it, the others.
    rows.sort_unstable_by_key(|&row| last.cmp(&keys[row as usize]));
    let ahead = rows.partition_point(|&row| keys[row as usize] > last);
    let tied = rows.partition_point(|&row| keys[row as usize] >= last);
    rows[ahead..tied].select_nth_unstable_by(limit - ahead - 1, |&a, &b| tie(a, b));
    &rows[..limit]
}

fn hash_key(time: u32, ids: impl Iterator<Item = u32>) -> u64 {
    ids.fold(mix(u64::from(time)), |hash, id| mix(hash.rotate_left(32) ^ u64::from(id)))
}

fn hash_of_row(times: &[u32], groups: &[GroupColumn], row: usize) -> u64 {
    hash_key(times[row], groups.iter().map(|group| group.ids[row]))
}
