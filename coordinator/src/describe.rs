//! What can be asked.
//!
//! Owns: the names of dimensions and measures, and the measures' kinds, for who offers them to people.
//! Does not own: the schema (given), what kinds mean (`tidemark_rollup`).

use serde::Serialize;
use tidemark_proto::v1;
use tidemark_rollup::active::ACTIVE;
use tidemark_rollup::schema::{Schema, Source};

/// The schema, and what every schema has besides: `active`.
pub(crate) fn describe(schema: &Schema) -> v1::Description {
    let measures = schema.measures().iter().map(|measure| (measure.name.as_str(), &measure.source));
    let measures = measures.chain([(ACTIVE, &Source::Active)]);
    let describe = |(name, source): (&str, _)| v1::MeasureDescription {
        name: name.to_owned(),
        kind: kind(source).to_owned(),
    };
    v1::Description {
        dimensions: schema.dimensions().to_vec(),
        measures: measures.map(describe).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn kind(source: &Source) -> &'static str {
    match source {
        Source::Count => "count",
        Source::Sum(_) => "sum",
        Source::Unique => "unique",
        Source::Distribution(_) => "distribution",
        Source::Active => "active",
    }
}

/// The same as JSON.
#[derive(Serialize)]
pub(crate) struct DescriptionJson {
    dimensions: Vec<String>,
    measures: Vec<MeasureJson>,
    version: String,
}

#[derive(Serialize)]
struct MeasureJson {
    name: String,
    kind: String,
}

impl From<v1::Description> for DescriptionJson {
    fn from(description: v1::Description) -> Self {
        let v1::Description { dimensions, measures, version } = description;
        let measures =
            measures.into_iter().map(|v1::MeasureDescription { name, kind }| MeasureJson { name, kind });
        Self { dimensions, measures: measures.collect(), version }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_of_the_schema_has_its_kind_and_active_comes_with_any() {
        let description = describe(&Schema::default());
        let kinds: Vec<(&str, &str)> =
            description.measures.iter().map(|measure| (&*measure.name, &*measure.kind)).collect();
        let expected = [
            ("views", "count"),
            ("visitors", "unique"),
            ("engaged_ms", "sum"),
            ("shares", "count"),
            ("bytes", "sum"),
            ("load_ms", "distribution"),
            ("active", "active"),
        ];
        assert_eq!(kinds, expected);
        assert!(description.dimensions.contains(&"country".to_owned()));
        assert!(!description.version.is_empty());
    }
}
