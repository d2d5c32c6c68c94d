//! The columns of a rollup segment.
//!
//! Owns: which columns a schema gives, their names and their Parquet types.
//! Does not own: what is in them (`column`, `facts`).
//!
//! | column | type | |
//! | --- | --- | --- |
//! | `time` | timestamp, ms, UTC | start of the bucket, or of the day |
//! | `site`, `url` | text | `url` is NULL in rows of facts |
//! | one per dimension | text | NULL: not set |
//! | one per count or sum | unsigned | NULL in rows of facts |
//! | one per unique, and `<name>_estimate` | binary, unsigned | the sketch (NULL: nobody), and how many it counts |
//! | one per distribution, and `_count`, `_sum`, `_max`, `_p50`, `_p95`, `_p99` | binary, unsigned | the sketch, and what it says; NULL: no value |
//! | `shard`, `events_counted`, `events_late`, `events_duplicate`, `events_rejected`, `newest_event`, `rejected` | | facts; NULL in other rows |
//!
//! Rows ascend by site, URL and time; a site's rows of facts come first, as their URL is NULL. They have no measures, so a
//! plain `sum(views)` is right; `WHERE shard IS NOT NULL` selects them.
//!
//! Names: dimensions and measures have theirs, always. A derived column or one of facts whose name one of them has already
//! (a dimension `shard`, a measure `visitors_estimate`) gets an underscore at its end, and another until the name is free.

use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::{Type, TypePtr};
use std::collections::HashSet;
use std::sync::Arc;
use tidemark_rollup::schema::{Schema, Source};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Time,
    Site,
    Url,
    /// Position in the schema.
    Dimension(usize),
    /// A count or a sum: position in the schema.
    Integers(usize),
    /// A unique or a distribution: position in the schema.
    Sketches(usize),
    /// A number that a sketch says: position of its measure.
    Derived(usize, Derived),
    Fact(Fact),
}

/// Numbers that sketches say, for readers that cannot read sketches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Derived {
    Estimate,
    Count,
    Sum,
    Max,
    /// In percent.
    Percentile(u32),
}

/// Columns of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Shard,
    Counted,
    Late,
    Duplicate,
    /// For all reasons.
    Rejected,
    Newest,
    /// By reason.
    Reasons,
}

const OF_DISTRIBUTIONS: [(&str, Derived); 6] = [
    ("count", Derived::Count),
    ("sum", Derived::Sum),
    ("max", Derived::Max),
    ("p50", Derived::Percentile(50)),
    ("p95", Derived::Percentile(95)),
    ("p99", Derived::Percentile(99)),
];

const FACTS: [(&str, Fact); 7] = [
    ("shard", Fact::Shard),
    ("events_counted", Fact::Counted),
    ("events_late", Fact::Late),
    ("events_duplicate", Fact::Duplicate),
    ("events_rejected", Fact::Rejected),
    ("newest_event", Fact::Newest),
    ("rejected", Fact::Reasons),
];

/// A column of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// The columns of a schema, in order. A function of the schema: who reads makes it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout(Vec<Column>);

impl Layout {
    pub(super) fn of(schema: &Schema) -> Self {
        let mut columns = Columns::new(schema);
        columns.named("time", Kind::Time);
        columns.named("site", Kind::Site);
        columns.named("url", Kind::Url);
        for (at, name) in schema.dimensions().iter().enumerate() {
            columns.named(name, Kind::Dimension(at));
        }
        for (at, measure) in schema.measures().iter().enumerate() {
            let name = &measure.name;
            match measure.source {
                Source::Count | Source::Sum(_) => columns.named(name, Kind::Integers(at)),
                // No schema has the one of the last five minutes.
                Source::Unique | Source::Active => {
                    columns.named(name, Kind::Sketches(at));
                    columns.free(format!("{name}_estimate"), Kind::Derived(at, Derived::Estimate));
                }
                Source::Distribution(_) => {
                    columns.named(name, Kind::Sketches(at));
                    for (tail, derived) in OF_DISTRIBUTIONS {
                        columns.free(format!("{name}_{tail}"), Kind::Derived(at, derived));
                    }
                }
            }
        }
        for (name, fact) in FACTS {
            columns.free(name.to_owned(), Kind::Fact(fact));
        }
        Self(columns.columns)
    }

    pub(super) fn columns(&self) -> &[Column] {
        &self.0
    }

    /// The schema as Parquet says it.
    pub(super) fn to_parquet(&self) -> Result<TypePtr, ParquetError> {
        let fields = self.0.iter().map(Column::to_parquet).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Type::group_type_builder("rollup").with_fields(fields).build()?))
    }
}

struct Columns {
    /// Names of dimensions and measures, and those given since.
    taken: HashSet<String>,
    columns: Vec<Column>,
}

impl Columns {
    fn new(schema: &Schema) -> Self {
        let measures = schema.measures().iter().map(|measure| &measure.name);
        Self { taken: schema.dimensions().iter().chain(measures).cloned().collect(), columns: Vec::new() }
    }

    fn named(&mut self, name: &str, kind: Kind) {
        self.columns.push(Column { name: name.to_owned(), kind });
    }

    fn free(&mut self, mut name: String, kind: Kind) {
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        self.columns.push(Column { name, kind });
    }
}

impl Column {
    /// The physical type, and whether NULL is possible.
    pub(super) fn physical(&self) -> (Physical, bool) {
        match self.kind {
            Kind::Time => (Physical::INT64, false),
            Kind::Site => (Physical::BYTE_ARRAY, false),
            Kind::Url | Kind::Dimension(_) | Kind::Sketches(_) | Kind::Fact(Fact::Reasons) => {
                (Physical::BYTE_ARRAY, true)
            }
            Kind::Fact(Fact::Shard) => (Physical::INT32, true),
            Kind::Integers(_) | Kind::Derived(..) | Kind::Fact(_) => (Physical::INT64, true),
        }
    }

    fn logical(&self) -> Option<LogicalType> {
        match self.kind {
            Kind::Time | Kind::Fact(Fact::Newest) => Some(LogicalType::timestamp(true, TimeUnit::MILLIS)),
            Kind::Site | Kind::Url | Kind::Dimension(_) | Kind::Fact(Fact::Reasons) => {
                Some(LogicalType::String)
            }
            Kind::Sketches(_) | Kind::Fact(Fact::Shard) => None,
            Kind::Integers(_) | Kind::Derived(..) | Kind::Fact(_) => Some(LogicalType::integer(64, false)),
        }
    }

    fn to_parquet(&self) -> Result<TypePtr, ParquetError> {
        let (physical, nullable) = self.physical();
        let repetition = if nullable { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let column = Type::primitive_type_builder(&self.name, physical)
            .with_repetition(repetition)
            .with_logical_type(self.logical())
            .build()?;
        Ok(Arc::new(column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dimensions: &[&str], measures: &[&str]) -> Vec<String> {
        let dimensions = dimensions.iter().map(|&name| name.to_owned()).collect();
        let measures = measures.iter().map(|line| line.parse().unwrap()).collect();
        let layout = Layout::of(&Schema::new(dimensions, measures).unwrap());
        layout.columns().iter().map(|column| column.name.clone()).collect()
    }

    #[test]
    fn derived_columns_stand_beside_their_measure() {
        let names = names(&["device"], &["views=count(view)", "visitors=unique(visitor)"]);
        let first = ["time", "site", "url", "device", "views", "visitors", "visitors_estimate", "shard"];
        assert_eq!(names[..8], first);
    }

    #[test]
    fn a_measure_keeps_its_name_where_a_derived_column_or_a_fact_would_have_it() {
        let names = names(
            &["shard", "rejected", "rejected_"],
            &["visitors=unique(visitor)", "visitors_estimate=count()", "visitors_estimate_=count(view)"],
        );
        let distinct: HashSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        let at = names.iter().position(|name| name == "visitors").unwrap();
        assert_eq!(names[at + 1], "visitors_estimate__");
        assert!(names.contains(&"shard_".to_owned()) && names.contains(&"rejected__".to_owned()));
    }
}
