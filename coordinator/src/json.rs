//! Answers in JSON.
//!
//! Owns: the form of an answer: `columns`, `rows` of plain values, `facts`. Counts are numbers, what is not set is
//! null.
//! Does not own: questions in JSON (the wire types' own serde), errors (`error`).

use bytes::Bytes;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use tidemark_proto::v1;
use v1::value::Kind;

/// The JSON form of an answer.
pub fn answer_to_json(answer: &v1::Answer) -> serde_json::Value {
    // Only strings are keys here, and numbers that JSON cannot say become null: nothing can fail.
    serde_json::to_value(AnswerJson(answer)).unwrap_or_default()
}

/// An answer that is written as JSON without a copy of it being made, in the order that people read.
pub(crate) struct AnswerJson<'a>(pub(crate) &'a v1::Answer);

impl Serialize for AnswerJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut answer = serializer.serialize_struct("Answer", 3)?;
        answer.serialize_field("columns", &self.0.columns)?;
        answer.serialize_field("rows", &Rows(&self.0.rows))?;
        answer.serialize_field("facts", &FactsJson::of(&self.0.facts.clone().unwrap_or_default()))?;
        answer.end()
    }
}

/// The first event of a watched question. `id` names it.
pub(crate) fn answer_event(answer: &v1::Answer, facts: Option<v1::Facts>, id: &str) -> Bytes {
    let facts = FactsJson::of(&facts.unwrap_or_default());
    event("answer", &AnswerEvent { columns: &answer.columns, rows: Rows(&answer.rows), facts }, id)
}

/// A later one.
pub(crate) fn change_event(change: &v1::Change, id: &str) -> Bytes {
    event("change", &ChangeJson::of(change), id)
}

fn event(name: &str, data: &impl Serialize, id: &str) -> Bytes {
    // As with answers, nothing can fail.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\nid: {id}\ndata: {data}\n\n").into()
}

#[derive(Serialize)]
struct AnswerEvent<'a> {
    columns: &'a [String],
    rows: Rows<'a>,
    facts: FactsJson,
}

/// The JSON form of a change.
pub fn change_to_json(change: &v1::Change) -> serde_json::Value {
    serde_json::to_value(ChangeJson::of(change)).unwrap_or_default()
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    added: Vec<PlacedJson<'a>>,
    changed: Vec<PlacedJson<'a>>,
    gone: Rows<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<ReplacedJson<'a>>,
    facts: FactsJson,
}

#[derive(Serialize)]
struct PlacedJson<'a> {
    at: u32,
    row: Values<'a>,
}

#[derive(Serialize)]
struct ReplacedJson<'a> {
    of: u32,
    classes: &'a [u32],
}

impl<'a> ChangeJson<'a> {
    fn of(change: &'a v1::Change) -> Self {
        let row = |placed: &'a v1::PlacedRow| placed.row.as_ref().map_or(&[][..], |row| &row.values);
        let placed = |rows: &'a [v1::PlacedRow]| {
            rows.iter().map(|placed| PlacedJson { at: placed.at, row: Values(row(placed)) }).collect()
        };
        let replaced = change.replaced.as_ref();
        Self {
            added: placed(&change.added),
            changed: placed(&change.changed),
            gone: Rows(&change.gone),
            replaced: replaced.map(|replaced| ReplacedJson { of: replaced.of, classes: &replaced.classes }),
            facts: FactsJson::of(&change.facts.clone().unwrap_or_default()),
        }
    }
}

struct Rows<'a>(&'a [v1::Row]);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|row| Values(&row.values)))
    }
}

struct Values<'a>(&'a [v1::Value]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Value))
    }
}

struct Value<'a>(&'a v1::Value);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            None => serializer.serialize_unit(),
            Some(Kind::Text(text)) => serializer.serialize_str(text),
            Some(Kind::Integer(integer)) => serializer.serialize_u64(*integer),
            Some(Kind::Number(number)) => serializer.serialize_f64(*number),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FactsJson {
    complete: bool,
    shards_asked: u32,
    shards_answered: u32,
    freshness_ms: Option<u64>,
    from_memory: u64,
    from_history: u64,
    late: u64,
    rejected: u64,
    errors: BTreeMap<String, f64>,
    missing: Vec<MissingJson>,
    capped: Vec<String>,
    running_from: Option<String>,
    versus_until: Option<String>,
}

#[derive(Serialize)]
struct MissingJson {
    node: String,
    shards: u32,
    share: f64,
    reason: String,
}

impl FactsJson {
    fn of(facts: &v1::Facts) -> Self {
        let missing = facts.missing.iter().cloned();
        let time = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            complete: facts.complete,
            shards_asked: facts.shards_asked,
            shards_answered: facts.shards_answered,
            freshness_ms: facts.freshness_ms,
            from_memory: facts.from_memory,
            from_history: facts.from_history,
            late: facts.late,
            rejected: facts.rejected,
            errors: facts.errors.iter().map(|(name, &error)| (name.clone(), error)).collect(),
            missing: missing
                .map(|v1::Missing { node, shards, share, reason }| MissingJson {
                    node,
                    shards,
                    share,
                    reason,
                })
                .collect(),
            capped: facts.capped.clone(),
            running_from: time(&facts.running_from),
            versus_until: time(&facts.versus_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(kind: Option<Kind>) -> v1::Value {
        v1::Value { kind }
    }

    fn answer() -> v1::Answer {
        let values =
            [Some(Kind::Text("/a".into())), Some(Kind::Integer(u64::MAX)), Some(Kind::Number(1.5)), None];
        v1::Answer {
            columns: ["url", "views", "load_ms.mean", "load_ms.p95"].map(str::to_owned).to_vec(),
            rows: vec![v1::Row { values: values.map(value).to_vec() }],
            facts: Some(v1::Facts {
                shards_asked: 64,
                shards_answered: 63,
                errors: [("visitors".to_owned(), 0.0081)].into(),
                missing: vec![v1::Missing {
                    node: "n1 (h:1)".into(),
                    shards: 1,
                    share: 0.015625,
                    reason: "gone".into(),
                }],
                capped: vec!["country".into()],
                running_from: "2015-05-17T10:05:00Z".into(),
                ..v1::Facts::default()
            }),
        }
    }

    #[test]
    fn an_answer_has_numbers_for_counts_and_null_for_what_is_not_set() {
        let expected = json!({
            "columns": ["url", "views", "load_ms.mean", "load_ms.p95"],
            "rows": [["/a", 18446744073709551615_u64, 1.5, null]],
            "facts": {
                "complete": false, "shardsAsked": 64, "shardsAnswered": 63, "freshnessMs": null,
                "fromMemory": 0, "fromHistory": 0, "late": 0, "rejected": 0, "errors": {"visitors": 0.0081},
                "missing": [{"node": "n1 (h:1)", "shards": 1, "share": 0.015625, "reason": "gone"}],
                "capped": ["country"], "runningFrom": "2015-05-17T10:05:00Z", "versusUntil": null,
            },
        });
        assert_eq!(answer_to_json(&answer()), expected);
    }

    #[test]
    fn columns_come_before_rows_and_facts_come_last() {
        let text = serde_json::to_string(&AnswerJson(&answer())).unwrap();
        assert!(text.starts_with(r#"{"columns":["url""#), "{text}");
        assert!(text.find(r#""rows""#) < text.find(r#""facts""#));
    }

    #[test]
    fn a_number_that_json_cannot_say_is_null() {
        let answer = v1::Answer {
            rows: vec![v1::Row { values: vec![value(Some(Kind::Number(f64::NAN)))] }],
            ..v1::Answer::default()
        };
        assert_eq!(answer_to_json(&answer)["rows"], json!([[null]]));
    }
}
