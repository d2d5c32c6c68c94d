//! From a merged partial to what the user reads.
//!
//! Owns: order and limit, and the columns of an answer.
//! Does not own: which shards answered (the coordinator adds that to the facts).

use crate::measure::distribution::RELATIVE_ERROR;
use crate::measure::unique::STANDARD_ERROR;
use crate::measure::{MeasureColumn, distribution::Distribution, unique::Unique};
use crate::partial::Partial;
use crate::query::{Query, QueryMeasure};
use crate::reading::read;
use crate::schema::Source;
use crate::time::{EventTime, Granularity};
use std::collections::HashMap;
use tidemark_proto::v1;
use v1::value::Kind;

/// The answer that `partial`, merged from all shards, gives to `query`, at `now`.
///
/// The facts lack which shards were asked and answered.
pub fn answer(mut partial: Partial, query: &Query, now: EventTime) -> v1::Answer {
    // All rows of all shards are here now.
    partial.spread.clear();
    partial.keep_first(query);
    let keys = partial.order_keys(query);
    let mut rows: Vec<u32> = (0..partial.len() as u32).collect();
    rows.sort_by(|&a, &b| {
        let (time_a, time_b) = (partial.time[a as usize], partial.time[b as usize]);
        let by_key = || keys[b as usize].cmp(&keys[a as usize]);
        time_a.cmp(&time_b).then_with(by_key).then_with(|| partial.compare_groups(a, b))
    });
    v1::Answer {
        columns: columns(query),
        rows: rows.into_iter().map(|row| answer_row(&partial, query, row as usize)).collect(),
        facts: Some(facts(&partial, query, now)),
    }
}

/// The names of an answer's columns.
fn columns(query: &Query) -> Vec<String> {
    let time = (query.granularity != Granularity::All).then(|| "time".to_owned());
    let groups = query.group_by.iter().map(|field| field.name().to_owned());
    let measures = query.measures.iter().map(|measure| measure.name.clone());
    let versus =
        query.versus.map(|_| query.measures.iter().map(|measure| format!("versus.{}", measure.name)));
    time.into_iter().chain(groups).chain(measures).chain(versus.into_iter().flatten()).collect()
}

fn answer_row(partial: &Partial, query: &Query, row: usize) -> v1::Row {
    let text = |text: String| v1::Value { kind: Some(Kind::Text(text)) };
    let time = (query.granularity != Granularity::All)
        .then(|| text(EventTime::from_unix_ms(i64::from(partial.time[row]) * 1000).to_string()));
    let groups = partial.groups.iter().map(|group| text(group.values.get(group.ids[row]).to_owned()));
    let numbers = |offset: usize| {
        let number = move |measure: &QueryMeasure| {
            read(&partial.measures[measure.column + offset], row, measure.reading)
        };
        query.measures.iter().map(move |measure| v1::Value { kind: number(measure) })
    };
    let versus = query.versus.map(|_| {
        let is_comparable = query.is_comparable(partial.time[row]);
        let of_then = query.measures.iter().zip(numbers(query.columns.len()));
        // Nothing is not zero: of what has not ended, and of who was active then, there is no number.
        of_then.map(move |(measure, number)| {
            let is_there = is_comparable && query.columns[measure.column].source != Source::Active;
            if is_there { number } else { v1::Value { kind: None } }
        })
    });
    let values = time.into_iter().chain(groups).chain(numbers(0)).chain(versus.into_iter().flatten());
    v1::Row { values: values.collect() }
}

fn facts(partial: &Partial, query: &Query, now: EventTime) -> v1::Facts {
    let facts = &partial.facts;
    let text = |time: Option<EventTime>| time.map(|time| time.to_string()).unwrap_or_default();
    let age = |newest: i64| u64::try_from(now.as_unix_ms().saturating_sub(newest)).unwrap_or(0);
    v1::Facts {
        freshness_ms: facts.newest_event_ms.map(age),
        from_memory: facts.rollups_from_memory,
        from_history: facts.rollups_from_history,
        late: facts.late,
        rejected: facts.rejected,
        errors: errors(partial, query),
        capped: facts.capped.iter().cloned().collect(),
        missing: facts.gaps.iter().map(|gap| missing_history(gap)).collect(),
        running_from: text(query.running_from()),
        versus_until: text(query.versus_until()),
        ..v1::Facts::default()
    }
}

/// What of history could not be read is no shard's fault.
fn missing_history(gap: &str) -> v1::Missing {
    v1::Missing { node: "history".to_owned(), reason: gap.to_owned(), ..v1::Missing::default() }
}

/// The error of each sketch that the query reads: 0 where no row is estimated.
fn errors(partial: &Partial, query: &Query) -> HashMap<String, f64> {
    let mut errors = HashMap::new();
    for (at, column) in partial.measures.iter().enumerate() {
        let (error, estimated) = match column {
            MeasureColumn::Integers(_) => continue,
            MeasureColumn::Uniques(sets) => (STANDARD_ERROR, sets.iter().any(Unique::is_estimated)),
            MeasureColumn::Distributions(distributions) => {
                (RELATIVE_ERROR, distributions.iter().any(Distribution::is_estimated))
            }
        };
        let worst: &mut f64 = errors.entry(query.columns[at % query.columns.len()].name.clone()).or_default();
        if estimated {
            *worst = error;
        }
    }
    errors
}
