//! Events in JSON.
//!
//! Owns: finding the elements of a body, and turning each into an event or into "unreadable", alone.
//! Does not own: whether an event is acceptable (the nodes judge that), sending it (`posts`).
//!
//! A body is a JSON array, newline-delimited JSON, or one JSON value. Blank lines are no elements. An element is
//! `{"site", "url", "time", "kind", "visitor", "dimensions": {}, "values": {}}`; a field that is null or absent is not
//! set. `time` is RFC 3339 or Unix milliseconds; values are integers, also written as `2.0` or `2e3`. Names that no
//! event has are reported as ignored, and the event counts.
//!
//! A body that starts as an array must be one: where an array breaks off, nobody can say where the next element begins.

use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use tidemark_proto::v1;
use tidemark_rollup::block::MAX_BLOCK_EVENTS;
use tidemark_rollup::time::EventTime;
use v1::event::{DimensionsEntry, ValuesEntry};

/// At most so many unknown names are listed; further ones are under the empty name.
const MAX_UNKNOWN_NAMES: usize = 64;
/// An unknown name is cut to so many bytes.
const MAX_UNKNOWN_NAME_BYTES: usize = 64;

/// What a body holds.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) events: Vec<v1::Event>,
    /// Per event, its position among the elements.
    pub(crate) indexes: Vec<u32>,
    /// Positions of the elements that are no events.
    pub(crate) unreadable: Vec<u32>,
    /// Positions of those that the caller may not send.
    pub(crate) not_allowed: Vec<u32>,
    /// Names of fields that no event has, and in how many events they were.
    pub(crate) unknown: BTreeMap<String, u32>,
}

/// Why no element of a body is taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// Send events.
    #[error("the body has no events: send a JSON array, one object, or one object per line")]
    Empty,
    /// Send several smaller bodies.
    #[error("the body has {0} elements: send at most {MAX_BLOCK_EVENTS} at a time")]
    TooMany(usize),
    /// Mend the JSON.
    #[error("the body is no JSON array: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads the elements of a body.
pub(crate) fn read(body: &[u8]) -> Result<Body, BodyError> {
    let value = body.trim_ascii();
    let elements = match value.first() {
        None => return Err(BodyError::Empty),
        Some(b'[') => array(body)?,
        Some(_) if serde_json::from_slice::<&RawValue>(value).is_ok() => {
            Elements { first: vec![value], count: 1 }
        }
        Some(_) => lines(body),
    };
    match elements.count {
        0 => Err(BodyError::Empty),
        count if count > MAX_BLOCK_EVENTS => Err(BodyError::TooMany(count)),
        _ => Ok(elements.read()),
    }
}

/// The elements of a body, as text.
#[derive(Default)]
struct Elements<'a> {
    /// No more than can be taken, so that a body of `[[],[],...` does not take up more memory than it has bytes.
    first: Vec<&'a [u8]>,
    count: usize,
}

impl<'a> Elements<'a> {
    fn push(&mut self, element: &'a [u8]) {
        self.count += 1;
        if self.first.len() < MAX_BLOCK_EVENTS {
            self.first.push(element);
        }
    }

    fn read(self) -> Body {
        let mut body = Body::default();
        for (index, element) in (0..).zip(self.first) {
            match event(element) {
                Some((event, unknown)) => {
                    body.events.push(event);
                    body.indexes.push(index);
                    unknown.iter().for_each(|name| body.count_unknown(name));
                }
                None => body.unreadable.push(index),
            }
        }
        body
    }
}

impl Body {
    /// Leaves out events of sites that may not be sent.
    pub(crate) fn keep_allowed(&mut self, may_send: impl Fn(&[u8]) -> bool) {
        let mut indexes = self.indexes.iter().copied();
        let (mut kept, mut others) = (Vec::with_capacity(self.events.len()), Vec::new());
        self.events.retain(|event| {
            let may = may_send(&event.site);
            if let Some(index) = indexes.next() {
                if may { kept.push(index) } else { others.push(index) }
            }
            may
        });
        (self.indexes, self.not_allowed) = (kept, others);
    }

    fn count_unknown(&mut self, name: &str) {
        let mut name = &name[..name.floor_char_boundary(MAX_UNKNOWN_NAME_BYTES)];
        if self.unknown.len() >= MAX_UNKNOWN_NAMES && !self.unknown.contains_key(name) {
            name = "";
        }
        *self.unknown.entry(name.to_owned()).or_default() += 1;
    }
}

fn lines(body: &[u8]) -> Elements<'_> {
    let mut elements = Elements::default();
    let lines = body.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty()).for_each(|line| elements.push(line));
    elements
}

fn array(body: &[u8]) -> Result<Elements<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let elements = deserializer.deserialize_seq(ElementsVisitor)?;
    deserializer.end()?;
    Ok(elements)
}

/// Takes an array apart without reading its elements, so that one that is no event does not touch its neighbours.
struct ElementsVisitor;

impl<'de> Visitor<'de> for ElementsVisitor {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Elements<'de>, A::Error> {
        let mut elements = Elements::default();
        while let Some(element) = array.next_element::<&RawValue>()? {
            elements.push(element.get().as_bytes());
        }
        Ok(elements)
    }
}

/// The event that an element is, and the names in it that no event has.
fn event(element: &[u8]) -> Option<(v1::Event, Vec<String>)> {
    let fields: Map<String, Value> = serde_json::from_slice(element).ok()?;
    let mut event = v1::Event::default();
    let mut unknown = Vec::new();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("site" | "url" | "kind" | "visitor" | "time" | "dimensions" | "values", Value::Null) => {}
            ("site", Value::String(text)) => event.site = text.into(),
            ("url", Value::String(text)) => event.url = text.into(),
            ("kind", Value::String(text)) => event.kind = text.into(),
            ("visitor", Value::String(text)) => event.visitor = text.into(),
            ("time", value) => event.time_ms = time(&value)?,
            ("dimensions", Value::Object(fields)) => event.dimensions = dimensions(fields)?,
            ("values", Value::Object(fields)) => event.values = values(fields)?,
            ("site" | "url" | "kind" | "visitor" | "dimensions" | "values", _) => return None,
            _ => unknown.push(name),
        }
    }
    Some((event, unknown))
}

fn time(value: &Value) -> Option<i64> {
    let ms = match value {
        Value::String(text) => EventTime::parse_rfc3339(text).ok()?.as_unix_ms(),
        value => integer(value)?,
    };
    // 0 is "not set" on the wire; a millisecond later is in the same bucket.
    Some(if ms == 0 { 1 } else { ms })
}

fn dimensions(fields: Map<String, Value>) -> Option<Vec<DimensionsEntry>> {
    let set = fields.into_iter().filter(|(_, value)| !value.is_null());
    set.map(|(key, value)| match value {
        Value::String(value) => Some(DimensionsEntry { key: key.into(), value: value.into() }),
        _ => None,
    })
    .collect()
}

fn values(fields: Map<String, Value>) -> Option<Vec<ValuesEntry>> {
    let set = fields.into_iter().filter(|(_, value)| !value.is_null());
    set.map(|(key, value)| Some(ValuesEntry { key: key.into(), value: integer(&value)? })).collect()
}

/// A whole number within 64 bits, however it is written.
fn integer(value: &Value) -> Option<i64> {
    if let Some(integer) = value.as_i64() {
        return Some(integer);
    }
    let float = value.as_f64()?;
    // 2^63 itself is the first float that is too large.
    let fits = float.fract() == 0.0 && (-(2_f64.powi(63))..2_f64.powi(63)).contains(&float);
    fits.then_some(float as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(text: &str) -> Body {
        read(text.as_bytes()).unwrap()
    }

    fn event_of(text: &str) -> Option<v1::Event> {
        let mut body = body(text);
        assert_eq!(body.events.len() + body.unreadable.len(), 1);
        body.events.pop()
    }

    const GOOD: &str = r#"{"site":"s.de","url":"/"}"#;

    #[test]
    fn an_array_lines_and_one_object_hold_the_same_events() {
        let array = body(&format!("\n [{GOOD} ,\n{GOOD}] \n"));
        let lines = body(&format!("{GOOD}\r\n\n  {GOOD}\n"));
        let pretty = body("{\n  \"site\": \"s.de\",\n  \"url\": \"/\"\n}\n");
        assert_eq!(array.events, lines.events);
        assert_eq!((array.indexes, lines.indexes), (vec![0, 1], vec![0, 1]));
        assert_eq!(pretty.events, lines.events[..1]);
    }

    #[test]
    fn every_field_reaches_the_event() {
        let event = event_of(
            r#"{"site":"s.de","url":"/é","time":"2015-05-17T10:05:00.5Z","kind":"share","visitor":"v",
                "dimensions":{"device":"mobile","country":null},"values":{"load_ms":2.0,"bytes":3e3}}"#,
        )
        .unwrap();
        assert_eq!((&event.site[..], &event.url[..]), ("s.de".as_bytes(), "/é".as_bytes()));
        assert_eq!(event.time_ms, 1_431_857_100_500);
        assert_eq!((&event.kind[..], &event.visitor[..]), (&b"share"[..], &b"v"[..]));
        assert_eq!(event.dimensions.len(), 1);
        let values: Vec<i64> = event.values.iter().map(|entry| entry.value).collect();
        assert_eq!(values, [2, 3000]);
    }

    #[test]
    fn a_bad_element_does_not_touch_its_neighbours() {
        for bad in [
            "7",
            "null",
            "[]",
            r#""text""#,
            r#"{"site":7}"#,
            r#"{"time":"yesterday"}"#,
            r#"{"time":1.5}"#,
            r#"{"time":true}"#,
            r#"{"dimensions":[]}"#,
            r#"{"dimensions":{"device":1}}"#,
            r#"{"values":{"bytes":0.5}}"#,
            r#"{"values":{"bytes":9223372036854775808}}"#,
            r#"{"values":{"bytes":"1"}}"#,
            r#"{"values":{"bytes":1e999}}"#,
            r#"{"url":"\ud800"}"#,
        ] {
            for text in [format!("[{GOOD},{bad},{GOOD}]"), format!("{GOOD}\n{bad}\n{GOOD}")] {
                let body = body(&text);
                assert_eq!((&body.indexes[..], &body.unreadable[..]), (&[0, 2][..], &[1][..]), "{text}");
            }
        }
    }

    #[test]
    fn a_line_that_is_no_json_is_unreadable_alone() {
        let body = body(&format!("{GOOD}\n\"site\":\"s.de\"\n{{\n{GOOD}"));
        assert_eq!((&body.indexes[..], &body.unreadable[..]), (&[0, 3][..], &[1, 2][..]));
    }

    #[test]
    fn an_array_that_breaks_off_is_refused_with_the_position() {
        for text in
            [format!("[{GOOD}"), format!("[{GOOD},"), format!("[{GOOD} {GOOD}]"), format!("[{GOOD}]{GOOD}")]
        {
            let error = read(text.as_bytes()).expect_err(&text).to_string();
            assert!(error.contains("line 1 column"), "{error}");
        }
    }

    #[test]
    fn a_body_without_elements_is_empty() {
        for text in ["", " \n\n", "[]", " [ ] "] {
            assert!(matches!(read(text.as_bytes()), Err(BodyError::Empty)), "{text:?}");
        }
    }

    #[test]
    fn a_body_of_too_many_elements_says_how_many_can_be() {
        let text = format!("[{}{{}}]", "{},".repeat(MAX_BLOCK_EVENTS));
        let error = read(text.as_bytes()).unwrap_err();
        assert!(matches!(error, BodyError::TooMany(count) if count == MAX_BLOCK_EVENTS + 1));
        assert!(error.to_string().contains("at most 65536"));
    }

    #[test]
    fn a_misspelt_name_is_reported_and_the_event_counts() {
        let body = body(&format!(r#"[{{"site":"s.de","URL":"/"}},{GOOD},{{"URL":1,"x":null}}]"#));
        assert_eq!(body.events.len(), 3);
        assert_eq!(body.unknown, [("URL".to_owned(), 2), ("x".to_owned(), 1)].into());
    }

    #[test]
    fn unknown_names_beyond_the_limit_are_counted_together() {
        let names: Vec<String> = (0..70).map(|name| format!(r#""n{name}":0"#)).collect();
        let body = body(&format!("{{{}}}", names.join(",")));
        assert_eq!(body.unknown.len(), MAX_UNKNOWN_NAMES + 1);
        assert_eq!(body.unknown[""], 6);
    }

    #[test]
    fn the_epoch_is_a_time_and_not_the_absence_of_one() {
        assert_eq!(event_of(r#"{"time":0}"#).unwrap().time_ms, 1);
        assert_eq!(event_of(r#"{"time":null}"#).unwrap().time_ms, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn anything_like_json_is_read_or_refused_without_a_panic(
            text in r#"[\[{]?(["{}\[\],:0-9.eE\\u \n-]|site|url|time|values|null|true){0,60}"#,
        ) {
            if let Ok(body) = read(text.as_bytes()) {
                prop_assert_eq!(body.events.len(), body.indexes.len());
            }
        }
    }
}
