//! Questions, checked.
//!
//! Owns: what a query may say, its ranges and steps, and which of them have elapsed at the moment that it is asked at.
//! Does not own: reading a query from the wire (`query::wire`), answering (`scan`, `partial`, `answer`).

mod wire;

use crate::active;
use crate::measure::MeasureColumn;
use crate::schema::Source;
use crate::time::{BUCKET_SECONDS, BucketStart, EventTime, Granularity};
use std::collections::BTreeSet;
use std::time::Duration;

/// Rows per step of time where the query sets no limit.
pub const DEFAULT_LIMIT: usize = 1_000;
/// Largest limit.
pub const MAX_LIMIT: usize = 10_000;
/// At most so many values in all filters together.
pub const MAX_FILTER_VALUES: usize = 10_000;
/// At most so many groups, measures and filters each.
pub const MAX_PARTS: usize = 32;

/// A question that can be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Which sites.
    pub site: SiteSelection,
    /// First moment, a multiple of the granularity.
    pub from: EventTime,
    /// First moment after the range, likewise.
    pub to: EventTime,
    /// Width of a step.
    pub granularity: Granularity,
    /// What to read, in the order asked.
    pub measures: Vec<QueryMeasure>,
    /// The measures of the schema that are needed for that, each once: the columns of partials.
    pub columns: Vec<QueryColumn>,
    /// What a row is for.
    pub group_by: Vec<Field>,
    /// All must hold.
    pub filters: Vec<Filter>,
    /// Position in `measures`.
    pub order_by: usize,
    /// Rows per step.
    pub limit: usize,
    /// How much earlier the range to compare with is.
    pub versus: Option<Duration>,
    /// The moment that the query is asked at: relative times, `active` and what has elapsed count from it. All who answer a part
    /// of the query are given the same.
    pub as_of: EventTime,
}

/// One site, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteSelection {
    /// This one.
    One(String),
    /// All.
    All,
}

impl SiteSelection {
    /// As questions name it: the site, or `*`.
    pub fn name(&self) -> &str {
        match self {
            Self::One(site) => site,
            Self::All => "*",
        }
    }
}

/// Something to group and filter by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// The site.
    Site,
    /// The URL.
    Url,
    /// The dimension of this name.
    Dimension(String),
}

impl Field {
    /// What queries and answers call it.
    pub fn name(&self) -> &str {
        match self {
            Self::Site => "site",
            Self::Url => "url",
            Self::Dimension(name) => name,
        }
    }
}

/// A number that an answer shows.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMeasure {
    /// As asked: `load_ms.p95`.
    pub name: String,
    /// Position in [`Query::columns`].
    pub column: usize,
    /// What to read from the column.
    pub reading: Reading,
}

/// What to read from a measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    /// The count, sum or number of distinct visitors.
    Value,
    /// A percentile of a distribution, as a share from 0 to 1.
    Quantile(f64),
    /// The largest value of a distribution.
    Max,
    /// The mean of a distribution.
    Mean,
    /// How many values a distribution has.
    Count,
}

/// A measure of the schema that a query needs, or `active`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryColumn {
    /// The measure's name.
    pub name: String,
    /// What it aggregates.
    pub source: Source,
}

/// A condition on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What is tested.
    pub field: Field,
    /// The test.
    pub test: Test,
}

/// What a filter lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// These values.
    In(BTreeSet<String>),
    /// All but these values.
    NotIn(BTreeSet<String>),
    /// Values that start so.
    Prefix(String),
}

impl Test {
    /// Whether `value` passes.
    pub fn passes(&self, value: &str) -> bool {
        match self {
            Self::In(values) => values.contains(value),
            Self::NotIn(values) => !values.contains(value),
            Self::Prefix(prefix) => value.starts_with(prefix),
        }
    }
}

/// Why a query cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct QueryError {
    /// The field at fault, as spelled in JSON: `groupBy[1]`.
    pub field: String,
    /// What is wrong and what would be valid.
    pub message: String,
    /// Set where all that is wrong is that the schema has no such name: another member's may.
    pub unknown: Option<UnknownName>,
}

/// A name that a schema does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownName {
    /// Of a measure.
    #[error("measure {0}")]
    Measure(String),
    /// Of a dimension.
    #[error("dimension {0}")]
    Dimension(String),
}

impl UnknownName {
    /// The name itself.
    pub fn name(&self) -> &str {
        match self {
            Self::Measure(name) | Self::Dimension(name) => name,
        }
    }
}

impl QueryError {
    /// An error of this field.
    pub fn new(field: impl Into<String>, message: impl ToString) -> Self {
        Self { field: field.into(), message: message.to_string(), unknown: None }
    }

    /// The error of a field with a name that the schema does not have.
    fn unknown(field: impl Into<String>, name: UnknownName, message: impl ToString) -> Self {
        Self { unknown: Some(name), ..Self::new(field, message) }
    }
}

impl Query {
    /// The step that a bucket starting at `start` belongs to, in seconds since the Unix epoch.
    pub fn step_of(&self, start: EventTime) -> u32 {
        let start = match self.granularity {
            Granularity::All => self.from,
            Granularity::FiveMinutes | Granularity::Hour | Granularity::Day => start,
        };
        let seconds = (start.as_unix_ms() / 1000) as u32;
        seconds - seconds % self.granularity.seconds()
    }

    /// Start of the bucket that is running at [`Query::as_of`].
    fn running(&self) -> EventTime {
        BucketStart::containing(self.as_of).time()
    }

    /// Start of the first step that has not ended, where the range has one: its numbers still grow. The whole range is no step
    /// of its own; of it the running bucket.
    pub fn running_from(&self) -> Option<EventTime> {
        let step_ms = i64::from(self.granularity.seconds()) * 1000;
        let running = self.running().as_unix_ms().div_euclid(step_ms) * step_ms;
        Some(EventTime::from_unix_ms(running).max(self.from)).filter(|&start| start < self.to)
    }

    /// Where what is compared with then ends, where that is before the end of the range: of what has not ended yet, nothing is.
    pub fn versus_until(&self) -> Option<EventTime> {
        self.versus?;
        Some(self.running().max(self.from)).filter(|&end| end < self.to)
    }

    /// The range to compare with; `None` where nothing is compared.
    pub fn versus_range(&self) -> Option<(EventTime, EventTime)> {
        let (offset, end) = (self.versus?, self.to.min(self.running()));
        (self.from < end).then(|| (self.from.minus(offset), end.minus(offset)))
    }

    /// Whether something of the step that starts at `step`, seconds since the Unix epoch, has ended, so that it can be compared.
    pub fn is_comparable(&self, step: u32) -> bool {
        let first_end = i64::from(step) + i64::from(BUCKET_SECONDS);
        first_end.saturating_mul(1000) <= self.as_of.as_unix_ms()
    }

    /// The first bucket that the query needs for `active`, and all after it; `None` where it does not ask for that.
    pub fn active_from(&self) -> Option<BucketStart> {
        let asks = self.columns.iter().any(|column| column.source == Source::Active);
        asks.then(|| active::first_bucket(self.as_of))
    }

    /// Whether all rows of a group are in one shard, so that a shard may drop what cannot be among the first; but for the groups of
    /// URLs that are spread over several (see [`lanes`](crate::lanes)), which shards tell of and do not drop.
    pub fn groups_stay_in_one_shard(&self) -> bool {
        let one_site = self.site != SiteSelection::All || self.group_by.contains(&Field::Site);
        one_site && self.group_by.contains(&Field::Url)
    }

    /// Whether it tells no rows of a site apart and leaves none of them out.
    pub(crate) fn is_of_whole_sites(&self) -> bool {
        let mut fields = self.group_by.iter().chain(self.filters.iter().map(|filter| &filter.field));
        fields.all(|field| *field == Field::Site)
    }

    /// Whether what orders the rows is all that is asked about them.
    pub fn is_answered_by_its_order(&self) -> bool {
        self.columns.len() == 1 && self.versus.is_none()
    }

    /// Whether finding out which groups come first costs far less than all that is asked about them: sums order them, and something
    /// else is a sketch.
    pub fn is_ordered_at_less_cost(&self) -> bool {
        let is_sum = |column: &QueryColumn| matches!(column.source, Source::Count | Source::Sum(_));
        let order = &self.columns[self.measures[self.order_by].column];
        !self.group_by.is_empty() && is_sum(order) && !self.columns.iter().all(is_sum)
    }

    /// The columns of a partial: those of the query, and once more for `versus`.
    pub fn empty_columns(&self) -> Vec<MeasureColumn> {
        let columns = || self.columns.iter().map(|column| MeasureColumn::new(&column.source));
        match self.versus {
            None => columns().collect(),
            Some(_) => columns().chain(columns()).collect(),
        }
    }

    /// The dimensions that the query groups or filters by.
    pub fn dimensions(&self) -> BTreeSet<&str> {
        let fields = self.group_by.iter().chain(self.filters.iter().map(|filter| &filter.field));
        let names = fields.filter_map(|field| match field {
            Field::Dimension(name) => Some(name.as_str()),
            Field::Site | Field::Url => None,
        });
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use tidemark_proto::v1;

    /// Asked at 10:07:30 on the 17th.
    fn query(from: &str, to: &str, granularity: &str, versus: &str) -> Query {
        let wire = v1::Query {
            site: "example.com".to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            granularity: granularity.to_owned(),
            versus: versus.to_owned(),
            ..v1::Query::default()
        };
        let now = EventTime::parse_rfc3339("2015-05-17T10:07:30Z").unwrap();
        Query::parse(&wire, &Schema::default(), now).unwrap()
    }

    fn text(time: Option<EventTime>) -> String {
        time.map(|time| time.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_first_step_that_has_not_ended_is_running() {
        let running = |to: &str, granularity: &str| text(query("-2h", to, granularity, "").running_from());
        assert_eq!(running("now", "5m"), "2015-05-17T10:05:00Z");
        assert_eq!(running("now", "all"), "2015-05-17T10:05:00Z");
        assert_eq!(running("now", "1h"), "2015-05-17T10:00:00Z");
        assert_eq!(running("now", "1d"), "2015-05-17T00:00:00Z");
        assert_eq!(running("2015-05-17T10:05:00Z", "all"), "", "all of it has ended");
        assert_eq!(running("2015-05-17T10:00:00Z", "1h"), "", "the last hour of it has ended");
        let ahead = query("2015-05-17T11:00:00Z", "2015-05-17T12:00:00Z", "5m", "");
        assert_eq!(text(ahead.running_from()), "2015-05-17T11:00:00Z");
    }

    #[test]
    fn only_what_has_elapsed_is_compared() {
        let range = |query: &Query| query.versus_range().map(|(from, to)| (from.to_string(), to.to_string()));
        let at = |text: &str| format!("2015-05-{text}:00Z");
        let hour = query("-1h", "now", "5m", "week");
        assert_eq!(text(hour.versus_until()), at("17T10:05"));
        assert_eq!(range(&hour), Some((at("10T09:05"), at("10T10:05"))));
        let past = query("-2h", "-1h", "5m", "week");
        assert_eq!(
            (text(past.versus_until()), range(&past)),
            (String::new(), Some((at("10T08:05"), at("10T09:10"))))
        );
        let day = query("2015-05-17T00:00:00Z", "2015-05-18T00:00:00Z", "1d", "1d");
        assert_eq!(
            range(&day),
            Some((at("16T00:00"), at("16T10:05"))),
            "a part of a day is compared with a part"
        );
        let running = query("2015-05-17T10:05:00Z", "now", "all", "week");
        assert_eq!((range(&running), text(running.versus_until())), (None, at("17T10:05")));
        assert_eq!(range(&query("-1h", "now", "5m", "")), None);
    }

    #[test]
    fn a_step_is_comparable_once_its_first_bucket_has_ended() {
        let query = query("-1h", "now", "1h", "week");
        let at = |text: &str| (EventTime::parse_rfc3339(text).unwrap().as_unix_ms() / 1000) as u32;
        assert!(query.is_comparable(at("2015-05-17T10:00:00Z")));
        assert!(!query.is_comparable(at("2015-05-17T10:05:00Z")));
    }
}
