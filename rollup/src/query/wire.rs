//! Queries on the wire.
//!
//! Owns: reading them, their defaults, and errors that name the field and what would be valid; writing them.
//! Does not own: what queries mean (`query`).

use super::{
    DEFAULT_LIMIT, Field, Filter, MAX_FILTER_VALUES, MAX_LIMIT, MAX_PARTS, Query, QueryColumn, QueryError,
    QueryMeasure, Reading, SiteSelection, Test, UnknownName,
};
use crate::active::ACTIVE;
use crate::canonical;
use crate::schema::{Schema, Source};
use crate::time::{BUCKET_SECONDS, EventTime, Granularity, parse_offset};
use std::collections::BTreeSet;
use std::time::Duration;
use tidemark_proto::v1;

/// Offsets that have a name: they fall on the same weekday.
const NAMED_OFFSETS: [(&str, u64); 3] = [("week", 7), ("month", 28), ("year", 364)];

impl Query {
    /// Checks a query against the schema; `now` is what relative times are relative to, and [`Query::as_of`].
    ///
    /// # Errors
    /// The first field that cannot be, and what would be valid.
    pub fn parse(wire: &v1::Query, schema: &Schema, now: EventTime) -> Result<Self, QueryError> {
        let site = parse_site(&wire.site)?;
        let granularity = match wire.granularity.as_str() {
            "" => Granularity::All,
            text => text.parse().map_err(|error| QueryError::new("granularity", error))?,
        };
        let (from, to) = parse_range(wire, granularity, now)?;
        let (measures, columns) = parse_measures(&wire.measures, schema)?;
        check_active(&columns, granularity, to, now)?;
        let order_by = parse_order(&wire.order_by, &measures)?;
        check_parts("groupBy", wire.group_by.len())?;
        check_parts("filters", wire.filters.len())?;
        let group_by = wire.group_by.iter().enumerate();
        let group_by: Vec<Field> = group_by
            .map(|(at, name)| parse_field(name, schema, format!("groupBy[{at}]")))
            .collect::<Result<_, _>>()?;
        if let Some(at) = (1..group_by.len()).find(|&at| group_by[..at].contains(&group_by[at])) {
            return Err(QueryError::new(format!("groupBy[{at}]"), "is there already"));
        }
        Ok(Self {
            site,
            from,
            to,
            granularity,
            measures,
            columns,
            group_by,
            filters: parse_filters(&wire.filters, schema)?,
            order_by,
            limit: parse_limit(wire.limit)?,
            versus: parse_versus(&wire.versus)?,
            as_of: now,
        })
    }

    /// The query on the wire, with absolute times and all defaults spelled out; [`Query::as_of`] goes beside it.
    pub fn to_wire(&self) -> v1::Query {
        v1::Query {
            site: match &self.site {
                SiteSelection::One(site) => site.clone(),
                SiteSelection::All => "*".to_owned(),
            },
            from: self.from.to_string(),
            to: self.to.to_string(),
            granularity: self.granularity.name().to_owned(),
            measures: self.measures.iter().map(|measure| measure.name.clone()).collect(),
            group_by: self.group_by.iter().map(|field| field.name().to_owned()).collect(),
            filters: self.filters.iter().map(filter_to_wire).collect(),
            order_by: self.measures[self.order_by].name.clone(),
            limit: self.limit as u32,
            versus: self.versus.map(|offset| format!("{}s", offset.as_secs())).unwrap_or_default(),
        }
    }
}

fn check_parts(field: &str, len: usize) -> Result<(), QueryError> {
    match len {
        0..=MAX_PARTS => Ok(()),
        _ => Err(QueryError::new(field, format!("has {len} entries; at most {MAX_PARTS} are possible"))),
    }
}

fn parse_site(text: &str) -> Result<SiteSelection, QueryError> {
    match text {
        "*" => Ok(SiteSelection::All),
        text => match canonical::site(text) {
            Ok(site) => Ok(SiteSelection::One(site.into_owned())),
            Err(v1::Reason::MissingSite) => {
                Err(QueryError::new("site", "is missing: give a site, or * for all"))
            }
            Err(_) => {
                Err(QueryError::new("site", format!("{text:?} is no site: give a host name, or * for all")))
            }
        },
    }
}

fn parse_range(
    wire: &v1::Query,
    granularity: Granularity,
    now: EventTime,
) -> Result<(EventTime, EventTime), QueryError> {
    let time = |field: &str, text: &str, default: &str| {
        let text = if text.is_empty() { default } else { text };
        let time = EventTime::parse(text, now).map_err(|error| QueryError::new(field, error))?;
        let holdable = (EventTime::EPOCH..=EventTime::MAX).contains(&time);
        holdable.then_some(time).ok_or_else(|| QueryError::new(field, "is not between 1970 and 2106"))
    };
    let (from, to) = (time("from", &wire.from, "-1h")?, time("to", &wire.to, "now")?);
    if from >= to {
        return Err(QueryError::new("to", format!("{to} is not after from, {from}")));
    }
    let step_ms = i64::from(granularity.seconds()) * 1000;
    let from_ms = from.as_unix_ms().div_euclid(step_ms) * step_ms;
    let to_ms = to.as_unix_ms().saturating_add(step_ms - 1).div_euclid(step_ms) * step_ms;
    Ok((EventTime::from_unix_ms(from_ms), EventTime::from_unix_ms(to_ms)))
}

fn parse_measures(
    names: &[String],
    schema: &Schema,
) -> Result<(Vec<QueryMeasure>, Vec<QueryColumn>), QueryError> {
    check_parts("measures", names.len())?;
    let default = [schema.measures()[0].name.clone()];
    let names = if names.is_empty() { &default[..] } else { names };
    let (mut measures, mut columns) = (Vec::<QueryMeasure>::new(), Vec::<QueryColumn>::new());
    for (at, asked) in names.iter().enumerate() {
        let field = || format!("measures[{at}]");
        let (name, reading) =
            asked.split_once('.').map_or((asked.as_str(), None), |(name, part)| (name, Some(part)));
        let source = source_of(name, schema).ok_or_else(|| {
            let known = schema.measures().iter().map(|measure| measure.name.as_str());
            let known: Vec<&str> = known.chain([ACTIVE]).collect();
            let message = format!("{name:?} is no measure: give one of {}", known.join(", "));
            QueryError::unknown(field(), UnknownName::Measure(name.to_owned()), message)
        })?;
        let reading =
            parse_reading(name, reading, source).map_err(|message| QueryError::new(field(), message))?;
        if measures.iter().any(|measure| measure.name == *asked) {
            return Err(QueryError::new(field(), "is there already"));
        }
        let known = columns.iter().position(|column: &QueryColumn| column.name == name);
        let column = known.unwrap_or_else(|| {
            columns.push(QueryColumn { name: name.to_owned(), source: source.clone() });
            columns.len() - 1
        });
        measures.push(QueryMeasure { name: asked.clone(), column, reading });
    }
    Ok((measures, columns))
}

fn source_of<'a>(name: &str, schema: &'a Schema) -> Option<&'a Source> {
    match name {
        ACTIVE => Some(&Source::Active),
        name => schema.measure_index(name).map(|index| &schema.measures()[index].source),
    }
}

/// `active` is of now: there is none of steps of the past.
fn check_active(
    columns: &[QueryColumn],
    granularity: Granularity,
    to: EventTime,
    now: EventTime,
) -> Result<(), QueryError> {
    if !columns.iter().any(|column| column.source == Source::Active) {
        return Ok(());
    }
    if granularity != Granularity::All {
        let message = "active is of the last five minutes and has no steps: give all, or ask without active";
        return Err(QueryError::new("granularity", message));
    }
    if to < now {
        let message = format!(
            "active is of the last five minutes, and {to} is before now: leave `to` out, or ask without active"
        );
        return Err(QueryError::new("to", message));
    }
    Ok(())
}

fn parse_reading(name: &str, reading: Option<&str>, source: &Source) -> Result<Reading, String> {
    match (source, reading) {
        (Source::Distribution(_), Some("p50")) => Ok(Reading::Quantile(0.5)),
        (Source::Distribution(_), Some("p95")) => Ok(Reading::Quantile(0.95)),
        (Source::Distribution(_), Some("p99")) => Ok(Reading::Quantile(0.99)),
        (Source::Distribution(_), Some("max")) => Ok(Reading::Max),
        (Source::Distribution(_), Some("mean")) => Ok(Reading::Mean),
        (Source::Distribution(_), Some("count")) => Ok(Reading::Count),
        (Source::Distribution(_), _) => {
            Err(format!("{name} is a distribution: give {name} with .p50, .p95, .p99, .max, .mean or .count"))
        }
        (_, None) => Ok(Reading::Value),
        (_, Some(part)) => Err(format!("{name} is no distribution and has no .{part}: give {name}")),
    }
}

fn parse_order(name: &str, measures: &[QueryMeasure]) -> Result<usize, QueryError> {
    if name.is_empty() {
        return Ok(0);
    }
    measures.iter().position(|measure| measure.name == name).ok_or_else(|| {
        let known: Vec<&str> = measures.iter().map(|measure| measure.name.as_str()).collect();
        QueryError::new(
            "orderBy",
            format!("{name:?} is not among the query's measures: give one of {}", known.join(", ")),
        )
    })
}

fn parse_field(name: &str, schema: &Schema, field: String) -> Result<Field, QueryError> {
    match name {
        "site" => Ok(Field::Site),
        "url" => Ok(Field::Url),
        name if schema.dimension_index(name).is_some() => Ok(Field::Dimension(name.to_owned())),
        name => {
            let known = schema.dimensions().join(", ");
            let message = format!("{name:?} is no dimension: give url, site or one of {known}");
            Err(QueryError::unknown(field, UnknownName::Dimension(name.to_owned()), message))
        }
    }
}

fn parse_filters(filters: &[v1::Filter], schema: &Schema) -> Result<Vec<Filter>, QueryError> {
    let values: usize = filters.iter().map(|filter| filter.r#in.len() + filter.not_in.len()).sum();
    if values > MAX_FILTER_VALUES {
        let message = format!("have {values} values; at most {MAX_FILTER_VALUES} are possible");
        return Err(QueryError::new("filters", message));
    }
    let set = |values: &[String]| values.iter().cloned().collect();
    let parsed = filters.iter().enumerate().map(|(at, filter)| {
        let field = parse_field(&filter.dimension, schema, format!("filters[{at}].dimension"))?;
        let test = match (filter.r#in.is_empty(), filter.not_in.is_empty(), &filter.prefix) {
            (false, true, None) => Test::In(set(&filter.r#in)),
            (true, false, None) => Test::NotIn(set(&filter.not_in)),
            (true, true, Some(prefix)) => Test::Prefix(prefix.clone()),
            _ => {
                return Err(QueryError::new(
                    format!("filters[{at}]"),
                    "give exactly one of in, notIn and prefix",
                ));
            }
        };
        Ok(Filter { field, test })
    });
    parsed.collect()
}

fn filter_to_wire(filter: &Filter) -> v1::Filter {
    let list = |values: &BTreeSet<String>| values.iter().cloned().collect();
    let mut wire = v1::Filter { dimension: filter.field.name().to_owned(), ..v1::Filter::default() };
    match &filter.test {
        Test::In(values) => wire.r#in = list(values),
        Test::NotIn(values) => wire.not_in = list(values),
        Test::Prefix(prefix) => wire.prefix = Some(prefix.clone()),
    }
    wire
}

fn parse_limit(limit: u32) -> Result<usize, QueryError> {
    match limit as usize {
        0 => Ok(DEFAULT_LIMIT),
        limit @ 1..=MAX_LIMIT => Ok(limit),
        limit => Err(QueryError::new("limit", format!("{limit} is not between 1 and {MAX_LIMIT}"))),
    }
}

fn parse_versus(text: &str) -> Result<Option<Duration>, QueryError> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some((_, days)) = NAMED_OFFSETS.iter().find(|(name, _)| *name == text) {
        return Ok(Some(Duration::from_secs(days * 86_400)));
    }
    let offset = parse_offset(text)
        .map_err(|error| QueryError::new("versus", format!("{error}, or week, month or year")))?;
    let whole_buckets = offset.as_secs().is_multiple_of(u64::from(BUCKET_SECONDS)) && !offset.is_zero();
    whole_buckets.then_some(Some(offset)).ok_or_else(|| {
        QueryError::new("versus", "is not a multiple of 5 minutes: give 5m, 1h, 7d and the like")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Query {
        v1::Query { site: "Example.com".to_owned(), ..v1::Query::default() }
    }

    fn parse(wire: &v1::Query) -> Result<Query, QueryError> {
        let now = EventTime::parse_rfc3339("2015-05-17T10:07:30Z").unwrap();
        Query::parse(wire, &Schema::default(), now)
    }

    fn error(change: impl FnOnce(&mut v1::Query)) -> QueryError {
        let mut query = wire();
        change(&mut query);
        parse(&query).unwrap_err()
    }

    #[test]
    fn a_query_of_a_site_alone_asks_for_its_views_of_the_last_hour() {
        let query = parse(&wire()).unwrap();
        assert_eq!(query.site, SiteSelection::One("example.com".to_owned()));
        assert_eq!(query.from.to_string(), "2015-05-17T09:05:00Z");
        assert_eq!(query.to.to_string(), "2015-05-17T10:10:00Z");
        assert_eq!((query.measures[0].name.as_str(), query.limit), ("views", DEFAULT_LIMIT));
    }

    #[test]
    fn a_name_that_the_schema_lacks_is_told_from_a_question_that_cannot_be() {
        let measure = error(|query| query.measures = vec!["likes".to_owned()]);
        assert_eq!(measure.unknown, Some(UnknownName::Measure("likes".to_owned())));
        let distribution = error(|query| query.measures = vec!["read_ms.p95".to_owned()]);
        assert_eq!(distribution.unknown.unwrap().to_string(), "measure read_ms");
        let group = error(|query| query.group_by = vec!["colour".to_owned()]);
        assert_eq!(group.unknown, Some(UnknownName::Dimension("colour".to_owned())));
        let filter = v1::Filter { dimension: "colour".to_owned(), ..Default::default() };
        assert_eq!(error(|query| query.filters = vec![filter]).unknown.unwrap().name(), "colour");
        assert_eq!(error(|query| query.measures = vec!["load_ms.p33".to_owned()]).unknown, None);
        assert_eq!(error(|query| query.order_by = "likes".to_owned()).unknown, None);
    }

    #[test]
    fn the_range_grows_to_whole_steps() {
        let mut query = wire();
        query.granularity = "1d".to_owned();
        let query = parse(&query).unwrap();
        assert_eq!(
            (query.from.to_string(), query.to.to_string()),
            ("2015-05-17T00:00:00Z".into(), "2015-05-18T00:00:00Z".into())
        );
    }

    #[test]
    fn a_parsed_query_means_the_same_on_the_wire() {
        let mut query = wire();
        query.measures = ["views", "load_ms.p95", "load_ms.max"].map(str::to_owned).to_vec();
        query.group_by = ["url", "device"].map(str::to_owned).to_vec();
        query.filters = vec![
            v1::Filter { dimension: "device".into(), r#in: vec!["mobile".into()], ..Default::default() },
            v1::Filter { dimension: "url".into(), prefix: Some(String::new()), ..Default::default() },
        ];
        query.order_by = "load_ms.max".to_owned();
        query.versus = "7d".to_owned();
        let parsed = parse(&query).unwrap();
        assert_eq!(parsed.columns.len(), 2);
        assert_eq!(parse(&parsed.to_wire()), Ok(parsed));
    }

    #[test]
    fn active_may_be_asked_until_now_also_where_now_is_the_end_of_a_bucket() {
        let query = v1::Query { measures: vec!["active".to_owned()], ..wire() };
        let now = EventTime::parse_rfc3339("2015-05-17T10:05:00Z").unwrap();
        let parsed = Query::parse(&query, &Schema::default(), now).unwrap();
        assert_eq!(parsed.to, now);
        assert_eq!(Query::parse(&parsed.to_wire(), &Schema::default(), now), Ok(parsed));
    }

    #[test]
    fn named_offsets_fall_on_the_same_weekday_and_mean_the_same_on_the_wire() {
        for (name, days) in [("week", 7), ("month", 28), ("year", 364), ("1d", 1)] {
            let parsed = parse(&v1::Query { versus: name.to_owned(), ..wire() }).unwrap();
            assert_eq!(parsed.versus, Some(Duration::from_secs(days * 86_400)), "{name}");
            assert_eq!(parse(&parsed.to_wire()), Ok(parsed));
        }
    }

    #[test]
    fn an_error_names_the_field_and_what_would_be_valid() {
        let list = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
        for (found, field, hint) in [
            (error(|query| query.site.clear()), "site", "* for all"),
            (error(|query| query.from = "yesterday".into()), "from", "RFC 3339"),
            (error(|query| query.to = "-2h".into()), "to", "not after"),
            (error(|query| query.to = "2200-01-01T00:00:00Z".into()), "to", "2106"),
            (error(|query| query.granularity = "1m".into()), "granularity", "5m, 1h, 1d or all"),
            (error(|query| query.measures = list(&["views", "likes"])), "measures[1]", "engaged_ms"),
            (error(|query| query.measures = list(&["load_ms"])), "measures[0]", ".p95"),
            (error(|query| query.measures = list(&["load_ms.p42"])), "measures[0]", ".p95"),
            (error(|query| query.measures = list(&["views.p50"])), "measures[0]", "give views"),
            (error(|query| query.group_by = list(&["url", "planet"])), "groupBy[1]", "country"),
            (error(|query| query.group_by = list(&["url", "url"])), "groupBy[1]", "already"),
            (error(|query| query.order_by = "visitors".into()), "orderBy", "give one of views"),
            (error(|query| query.limit = 10_001), "limit", "10000"),
            (error(|query| query.versus = "7y".into()), "versus", "7d"),
            (error(|query| query.versus = "fortnight".into()), "versus", "week, month or year"),
            (error(|query| query.measures = list(&["active.p95"])), "measures[0]", "give active"),
            (error(|query| query.measures = list(&["likes"])), "measures[0]", "active"),
            (
                error(|query| {
                    query.measures = list(&["active"]);
                    query.granularity = "5m".into();
                }),
                "granularity",
                "give all",
            ),
            (
                error(|query| {
                    query.measures = list(&["views", "active"]);
                    query.to = "-5m".into();
                }),
                "to",
                "leave `to` out",
            ),
            (error(|query| query.versus = "90s".into()), "versus", "5 minutes"),
            (error(|query| query.filters = vec![v1::Filter::default()]), "filters[0].dimension", "country"),
            (
                error(|query| {
                    query.filters = vec![v1::Filter { dimension: "device".into(), ..Default::default() }]
                }),
                "filters[0]",
                "exactly one",
            ),
        ] {
            assert_eq!(found.field, field);
            assert!(found.message.contains(hint), "{found}");
        }
    }
}
