//! What is counted and by what: dimensions and measures, as data.
//!
//! Owns: the schema, how it is spelled, and what makes one valid.
//! Does not own: how measures are kept and merged (`measure`).
//!
//! A new dimension or measure is a line of configuration. Rollups and blocks name what they hold, so data from
//! before reads as empty.

use crate::active::ACTIVE;
use crate::outline::Outline;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Dimensions of the default schema.
pub const DEFAULT_DIMENSIONS: [&str; 9] =
    ["referrer", "channel", "campaign", "country", "device", "browser", "section", "visitor_type", "status"];

/// Measures of the default schema.
pub const DEFAULT_MEASURES: [&str; 6] = [
    "views=count(view)",
    "visitors=unique(visitor)",
    "engaged_ms=sum(engaged_ms)",
    "shares=count(share)",
    "bytes=sum(bytes)",
    "load_ms=distribution(load_ms)",
];

/// At most so many dimensions.
pub const MAX_DIMENSIONS: usize = 32;
/// At most so many measures.
pub const MAX_MEASURES: usize = 64;

/// Names that queries use for something else.
const RESERVED: [&str; 4] = ["site", "url", "time", ACTIVE];

/// The dimensions and measures that rollups keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    dimensions: Vec<String>,
    measures: Vec<Measure>,
}

impl Schema {
    /// A schema of these dimensions and measures.
    ///
    /// # Errors
    /// Where there are too many, a name is malformed or reserved, or two things have one name.
    pub fn new(dimensions: Vec<String>, measures: Vec<Measure>) -> Result<Self, SchemaError> {
        if dimensions.len() > MAX_DIMENSIONS || measures.len() > MAX_MEASURES || measures.is_empty() {
            return Err(SchemaError::Count { dimensions: dimensions.len(), measures: measures.len() });
        }
        if let Some(active) = measures.iter().find(|measure| measure.source == Source::Active) {
            return Err(SchemaError::Measure(active.name.clone()));
        }
        let mut names = BTreeSet::new();
        for name in dimensions.iter().chain(measures.iter().map(|measure| &measure.name)) {
            check_name(name)?;
            if RESERVED.contains(&name.as_str()) || !names.insert(name) {
                return Err(SchemaError::Taken(name.clone()));
            }
        }
        Ok(Self { dimensions, measures })
    }

    /// What members of a cluster tell one another of their schemas.
    pub fn outline(&self) -> Outline {
        Outline::of(self)
    }

    /// The dimensions, in order.
    pub fn dimensions(&self) -> &[String] {
        &self.dimensions
    }

    /// The measures, in order.
    pub fn measures(&self) -> &[Measure] {
        &self.measures
    }

    /// Position of a dimension.
    pub fn dimension_index(&self, name: &str) -> Option<usize> {
        self.dimensions.iter().position(|dimension| dimension == name)
    }

    /// Position of a measure.
    pub fn measure_index(&self, name: &str) -> Option<usize> {
        self.measures.iter().position(|measure| measure.name == name)
    }

    /// The measure of this name.
    pub fn measure(&self, name: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.name == name)
    }

    /// Whether some measure reads the value of this name.
    pub fn reads_value(&self, name: &str) -> bool {
        self.measures.iter().any(|measure| measure.source.value() == Some(name))
    }
}

impl Default for Schema {
    fn default() -> Self {
        let measures = DEFAULT_MEASURES.iter().filter_map(|line| line.parse().ok()).collect();
        Self { dimensions: DEFAULT_DIMENSIONS.map(str::to_owned).to_vec(), measures }
    }
}

/// A named aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// What queries call it.
    pub name: String,
    /// What it aggregates, and how.
    pub source: Source,
    /// Only events of this kind; all where not set.
    pub event_kind: Option<String>,
}

/// What a measure aggregates, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// How many events.
    Count,
    /// Sum of the value of this name.
    Sum(String),
    /// Distinct visitors.
    Unique,
    /// Percentiles of the value of this name.
    Distribution(String),
    /// Distinct visitors of the last five minutes: of queries only. No schema has it, and so no rollup and no segment.
    Active,
}

impl Source {
    /// The value that is read, where one is.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Sum(value) | Self::Distribution(value) => Some(value),
            Self::Count | Self::Unique | Self::Active => None,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, kind) = (&self.name, self.event_kind.as_deref());
        let tail = kind.map(|kind| format!(", {kind}")).unwrap_or_default();
        match &self.source {
            Source::Count => write!(f, "{name}=count({})", kind.unwrap_or_default()),
            Source::Sum(value) => write!(f, "{name}=sum({value}{tail})"),
            Source::Unique => write!(f, "{name}=unique(visitor{tail})"),
            Source::Distribution(value) => write!(f, "{name}=distribution({value}{tail})"),
            Source::Active => f.write_str(name),
        }
    }
}

/// Parses `name=count(kind)`, `name=sum(value)`, `name=unique(visitor)` or `name=distribution(value)`; the last three take
/// the kind of event as a second word: `sum(engaged_ms, engage)`. `count()` counts events of all kinds.
impl FromStr for Measure {
    type Err = SchemaError;

    fn from_str(text: &str) -> Result<Self, SchemaError> {
        let error = || SchemaError::Measure(text.to_owned());
        let (name, rest) = text.split_once('=').ok_or_else(error)?;
        let (function, rest) = rest.trim().split_once('(').ok_or_else(error)?;
        let arguments = rest.strip_suffix(')').ok_or_else(error)?;
        let (first, second) = match arguments.split_once(',') {
            Some((first, second)) => (first.trim(), Some(second.trim().to_owned())),
            None => (arguments.trim(), None),
        };
        let (source, event_kind) = match function.trim() {
            "count" if second.is_none() => {
                (Source::Count, Some(first.to_owned()).filter(|kind| !kind.is_empty()))
            }
            "sum" => (Source::Sum(first.to_owned()), second),
            "unique" if first == "visitor" => (Source::Unique, second),
            "distribution" => (Source::Distribution(first.to_owned()), second),
            _ => return Err(error()),
        };
        if let Some(value) = source.value() {
            check_name(value)?;
        }
        let name = name.trim().to_owned();
        check_name(&name)?;
        Ok(Self { name, source, event_kind })
    }
}

fn check_name(name: &str) -> Result<(), SchemaError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
        return Err(SchemaError::Name(name.to_owned()));
    }
    Ok(())
}

/// Why a schema is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Rename it.
    #[error("{0:?} is no name: use 1 to 64 lower-case letters, digits and underscores")]
    Name(String),
    /// Rename or remove one.
    #[error(
        "the name {0:?} is taken: dimensions and measures share one set of names, and site, url, time and active are reserved"
    )]
    Taken(String),
    /// Spell it as the message says.
    #[error(
        "{0:?} is no measure: write name=count(kind), name=sum(value), name=unique(visitor) or name=distribution(value)"
    )]
    Measure(String),
    /// Remove some, or add a measure.
    #[error(
        "{dimensions} dimensions and {measures} measures: at most {MAX_DIMENSIONS} and 1 to {MAX_MEASURES} are possible"
    )]
    Count {
        /// How many were given.
        dimensions: usize,
        /// How many were given.
        measures: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_reads_back_as_it_is_written() {
        let schema = Schema::default();
        assert_eq!(schema.measures().len(), DEFAULT_MEASURES.len());
        for (measure, line) in schema.measures().iter().zip(DEFAULT_MEASURES) {
            assert_eq!(measure.to_string(), line);
        }
        for line in ["all=count()", "read_ms=sum(engaged_ms, engage)", "sharers=unique(visitor, share)"] {
            assert_eq!(line.parse::<Measure>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn a_malformed_measure_is_an_error_that_shows_the_form() {
        for line in [
            "",
            "views",
            "views=count",
            "views=count(view",
            "views=mean(x)",
            "v=unique(url)",
            "v=sum()",
            "A=count(x)",
        ] {
            let error = line.parse::<Measure>().expect_err(line).to_string();
            assert!(error.contains("name"), "{error}");
        }
    }

    #[test]
    fn two_things_of_one_name_are_refused() {
        let measures = Schema::default().measures().to_vec();
        let schema = |dimension: &str| Schema::new(vec![dimension.to_owned()], measures.clone());
        assert_eq!(schema("views"), Err(SchemaError::Taken("views".to_owned())));
        assert_eq!(schema("url"), Err(SchemaError::Taken("url".to_owned())));
        assert_eq!(schema("active"), Err(SchemaError::Taken("active".to_owned())));
        assert!(schema("colour").is_ok());
    }

    #[test]
    fn active_is_no_measure_of_a_schema() {
        let active = Measure { name: "now".to_owned(), source: Source::Active, event_kind: None };
        assert!(Schema::new(Vec::new(), vec![active]).is_err());
        assert!("active=unique(visitor)".parse().is_ok_and(|of| Schema::new(Vec::new(), vec![of]).is_err()));
    }
}
