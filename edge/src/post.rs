//! What is posted.
//!
//! Owns: the forms of a post: JSON of `POST /v1/collect`, and the query of `GET /t.gif`.
//! Does not own: what an event is made of them (`event`), who may post (`http`).
//!
//! A post is `{"site", "sent", "id", "events": [...]}`, an event `{"kind", "url", "referrer", "time", "visitor", "userAgent",
//! "address", "dimensions": {}, "values": {}}`. Only `site` and `events`, and of an event `url`, have to be there. Names that are
//! none of these are passed over, so that an older edge takes what a newer tracker sends.

use crate::config::EdgeConfig;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use tidemark_rollup::time::EventTime;
use url::form_urlencoded;

/// What one request brings, of one site.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Post<'a> {
    /// As it was sent.
    pub(crate) site: Cow<'a, str>,
    /// When the sender sent it, by its own clock: milliseconds since the Unix epoch.
    pub(crate) sent_ms: Option<i64>,
    /// What the sender calls it, so that the same sent again counts once.
    pub(crate) id: Option<Cow<'a, str>>,
    /// `None` stands for one that is no event at all.
    pub(crate) hits: Vec<Option<Hit<'a>>>,
}

/// One event, as it was sent.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Hit<'a> {
    #[serde(borrow, deserialize_with = "text")]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub(crate) url: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub(crate) referrer: Cow<'a, str>,
    /// By the sender's clock.
    #[serde(rename = "time", deserialize_with = "time")]
    pub(crate) time_ms: Option<i64>,
    #[serde(borrow, deserialize_with = "text")]
    pub(crate) visitor: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub(crate) user_agent: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "text")]
    pub(crate) address: Cow<'a, str>,
    #[serde(deserialize_with = "map")]
    pub(crate) dimensions: BTreeMap<String, String>,
    #[serde(deserialize_with = "map")]
    pub(crate) values: BTreeMap<String, i64>,
}

/// Why a post cannot be read. Nothing of it counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    /// Mend the JSON.
    #[error("the body is no post: {0}; send {{\"site\": \"example.com\", \"events\": [{{\"url\": \"/\"}}]}}")]
    Malformed(#[from] serde_json::Error),
    /// Send events.
    #[error("the post has no events")]
    Empty,
    /// Send several posts.
    #[error("the post has {0} events: send at most {most} at a time", most = EdgeConfig::MAX_EVENTS)]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    site: Cow<'a, str>,
    #[serde(default, deserialize_with = "time")]
    sent: Option<i64>,
    #[serde(borrow, default, deserialize_with = "text")]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    events: Vec<&'a RawValue>,
}

/// Reads the body of `POST /v1/collect`. An event that is none does not touch its neighbours.
pub(crate) fn from_json(body: &[u8]) -> Result<Post<'_>, PostError> {
    let wire: Wire<'_> = serde_json::from_slice(body)?;
    match wire.events.len() {
        0 => return Err(PostError::Empty),
        events if events > EdgeConfig::MAX_EVENTS => return Err(PostError::TooMany(events)),
        _ => {}
    }
    let hits = wire.events.iter().map(|event| serde_json::from_str(event.get()).ok()).collect();
    let id = Some(wire.id).filter(|id| !id.is_empty());
    Ok(Post { site: wire.site, sent_ms: wire.sent, id, hits })
}

/// Reads the query of `GET /t.gif`. Without `url` it is of the page that shows it: `referer`, which the browser says.
///
/// Dimensions are `d.NAME`, values `v.NAME`; a value that is no whole number makes it no event.
pub(crate) fn from_query<'a>(query: &'a str, referer: Option<&'a str>) -> Post<'a> {
    let (mut post, mut hit, mut fine) = (Post::default(), Hit::default(), true);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "site" => post.site = value,
            "id" => post.id = Some(value).filter(|id| !id.is_empty()),
            "url" => hit.url = value,
            "kind" => hit.kind = value,
            "referrer" => hit.referrer = value,
            "visitor" => hit.visitor = value,
            name => match (name.split_once('.'), value.parse()) {
                (Some(("d", name)), _) => _ = hit.dimensions.insert(name.to_owned(), value.into_owned()),
                (Some(("v", name)), Ok(value)) => _ = hit.values.insert(name.to_owned(), value),
                (Some(("v", _)), Err(_)) => fine = false,
                _ => {}
            },
        }
    }
    if hit.url.is_empty() {
        hit.url = Cow::Borrowed(referer.unwrap_or_default());
    }
    post.hits = vec![fine.then_some(hit)];
    post
}

/// A text; empty where it is null.
fn text<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Cow<'a, str>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Text<'_>>::deserialize(from)?.map(|Text(text)| text).unwrap_or_default())
}

/// Names and what they stand for, without those that are null.
fn map<'de, D: Deserializer<'de>, V: Deserialize<'de>>(from: D) -> Result<BTreeMap<String, V>, D::Error> {
    let map: Option<BTreeMap<String, Option<V>>> = Option::deserialize(from)?;
    Ok(map.into_iter().flatten().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// Milliseconds since the Unix epoch, or RFC 3339.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Time {
        Ms(i64),
        Text(String),
    }
    match Option::<Time>::deserialize(from)? {
        None => Ok(None),
        Some(Time::Ms(ms)) => Ok(Some(ms)),
        Some(Time::Text(text)) => match EventTime::parse_rfc3339(&text) {
            Ok(time) => Ok(Some(time.as_unix_ms())),
            Err(error) => Err(serde::de::Error::custom(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_field_of_a_post_is_read_and_unknown_ones_are_passed_over() {
        let body = br#"{"site":"a.example","sent":1700000000000,"id":"x1","later":1,"events":[
            {"kind":"share","url":"/\u00e9","referrer":"https://x.example/","time":"2015-05-17T10:05:00Z","visitor":"v",
             "userAgent":"u","address":"1.2.3.4","dimensions":{"section":"news","country":null},"values":{"load_ms":12},"new":{}}]}"#;
        let post = from_json(body).unwrap();
        assert_eq!(
            (&*post.site, post.sent_ms, post.id.as_deref()),
            ("a.example", Some(1_700_000_000_000), Some("x1"))
        );
        let hit = post.hits[0].as_ref().unwrap();
        assert_eq!((&*hit.kind, &*hit.url, &*hit.referrer), ("share", "/é", "https://x.example/"));
        assert_eq!(hit.time_ms, Some(1_431_857_100_000));
        assert_eq!((&*hit.visitor, &*hit.user_agent, &*hit.address), ("v", "u", "1.2.3.4"));
        assert_eq!(hit.dimensions, [("section".to_owned(), "news".to_owned())].into());
        assert_eq!(hit.values, [("load_ms".to_owned(), 12)].into());
    }

    #[test]
    fn an_event_that_is_none_does_not_touch_its_neighbours() {
        let body = br#"{"site":"a.example","events":[{"url":"/a"},7,{"url":1},{"values":{"x":0.5}},{"time":"noon"},{"url":null}]}"#;
        let post = from_json(body).unwrap();
        let fine: Vec<bool> = post.hits.iter().map(Option::is_some).collect();
        assert_eq!(fine, [true, false, false, false, false, true]);
    }

    #[test]
    fn what_is_no_post_is_an_error_that_shows_one() {
        for body in [
            "",
            "{",
            "[]",
            "7",
            r#"{"site":"a"}"#,
            r#"{"site":"a","events":[]}"#,
            r#"{"site":1,"events":[{}]}"#,
        ] {
            assert!(from_json(body.as_bytes()).is_err(), "{body}");
        }
        let many = format!(r#"{{"site":"a","events":[{}0]}}"#, "0,".repeat(EdgeConfig::MAX_EVENTS));
        assert!(from_json(many.as_bytes()).unwrap_err().to_string().contains("at most 1000"));
    }

    #[test]
    fn a_query_is_one_event_and_without_a_url_it_is_of_the_page_that_shows_it() {
        let post = from_query(
            "site=a.example&url=%2Fa%3Fb&kind=share&d.section=news&v.load_ms=12&x=y",
            Some("https://a.example/p"),
        );
        let hit = post.hits[0].as_ref().unwrap();
        assert_eq!((&*post.site, &*hit.url, &*hit.kind), ("a.example", "/a?b", "share"));
        assert_eq!((&*hit.dimensions["section"], hit.values["load_ms"]), ("news", 12));
        let post = from_query("site=a.example", Some("https://a.example/p"));
        assert_eq!(post.hits[0].as_ref().unwrap().url, "https://a.example/p");
        assert_eq!(from_query("site=a.example&v.load_ms=soon", None).hits, [None]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_json(&bytes);
        }

        #[test]
        fn anything_like_a_post_is_read_or_refused_without_a_panic(
            text in r#"\{"site":"a","events":\[(["{}\[\],:0-9.eE\\u -]|url|time|values|null){0,60}\]\}"#, query in any::<String>(),
        ) {
            let _ = from_json(text.as_bytes());
            prop_assert_eq!(from_query(&query, None).hits.len(), 1);
        }
    }
}
