//! Clicks on shortened links: one JSON object a line, as bitly published them for 1.USA.gov.
//!
//! Owns: which lines are clicks, and what their one- and two-letter fields mean.
//! Does not own: rules about URLs (`web`).

use super::web::{self, Campaign};
use super::{LineFault, LogEvent, ParseOptions, visitor_hash};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use tidemark_rollup::enrich;
use xxhash_rust::xxh3::Xxh3;

/// A click, or a heartbeat of the feed. Every field may be missing.
#[derive(Default)]
struct Click<'a> {
    is_heartbeat: bool,
    time: Option<Time>,
    url: Option<Text<'a>>,
    referrer: Option<Text<'a>>,
    agent: Option<Text<'a>>,
    language: Option<Text<'a>>,
    country: Option<Text<'a>>,
    region: Option<Text<'a>>,
    city: Option<Text<'a>>,
    /// Latitude and longitude in degrees.
    position: Option<Vec<f64>>,
    known: Option<Value>,
}

// By hand, because the last of repeated keys counts, as most readers of JSON have it. A derived one refuses them.
impl<'de> Deserialize<'de> for Click<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClickVisitor)
    }
}

struct ClickVisitor;

impl<'de> Visitor<'de> for ClickVisitor {
    type Value = Click<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a click")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Click<'de>, M::Error> {
        let mut click = Click::default();
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                "t" => click.time = map.next_value()?,
                "u" => click.url = map.next_value()?,
                "r" => click.referrer = map.next_value()?,
                "a" => click.agent = map.next_value()?,
                "al" => click.language = map.next_value()?,
                "c" => click.country = map.next_value()?,
                "gr" => click.region = map.next_value()?,
                "cy" => click.city = map.next_value()?,
                "ll" => click.position = map.next_value()?,
                "nk" => click.known = map.next_value()?,
                name => {
                    click.is_heartbeat |= name == "_heartbeat_";
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(click)
    }
}

/// Text that borrows from the line when it has no escapes. (Inside an `Option`, serde copies a bare `Cow`.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Whole seconds since the Unix epoch. Other producers of the format write fractions or quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Whole(i64),
    Fraction(f64),
    Quoted(String),
}

impl Time {
    fn as_ms(&self) -> Option<i64> {
        let seconds = match self {
            Self::Whole(seconds) => *seconds,
            Self::Fraction(seconds) => *seconds as i64,
            Self::Quoted(seconds) => seconds.trim().parse().ok()?,
        };
        seconds.checked_mul(1_000)
    }
}

fn text<'c>(field: &'c Option<Text<'_>>) -> &'c str {
    field.as_ref().map_or("", |Text(text)| text)
}

impl<'a> Click<'a> {
    fn of(line: &'a [u8]) -> Result<Self, LineFault> {
        // Fields that are passed over must be UTF-8 as well, which serde_json alone would not check.
        let line = std::str::from_utf8(line).map_err(|_| LineFault::BadJson)?;
        serde_json::from_str(line).map_err(|_| LineFault::BadJson)
    }

    fn time_ms(&self) -> Result<i64, LineFault> {
        self.time.as_ref().ok_or(LineFault::MissingField)?.as_ms().ok_or(LineFault::BadTime)
    }

    fn take_url(&mut self) -> Result<Cow<'a, str>, LineFault> {
        self.url.take().map(|Text(url)| url).filter(|url| !url.is_empty()).ok_or(LineFault::MissingField)
    }

    /// The feed names nobody. What it tells of the browser and the place stands in for a visitor.
    fn visitor_hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for field in [&self.agent, &self.language, &self.country, &self.region, &self.city] {
            // Lengths go first: any character may occur in a JSON string, so none can separate.
            let text = text(field);
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        for degrees in self.position.iter().flatten() {
            // Adding 0 turns -0.0 into 0.0, which is the same place.
            hasher.update(&(degrees + 0.0).to_bits().to_le_bytes());
        }
        visitor_hash(&hasher)
    }

    fn visitor_type(&self) -> &'static [u8] {
        let is_known = self.known.as_ref().and_then(Value::as_i64) == Some(1);
        if is_known { b"returning" } else { b"new" }
    }

    fn referrer_host(&mut self) -> Option<Cow<'a, [u8]>> {
        match self.referrer.take()?.0 {
            referrer if matches!(referrer.as_ref(), "" | "-" | "direct") => None,
            Cow::Borrowed(referrer) => Some(enrich::referrer_host(referrer.as_bytes())),
            Cow::Owned(referrer) => Some(Cow::Owned(enrich::referrer_host(referrer.as_bytes()).into_owned())),
        }
    }
}

/// Reads a line that is not blank; `None` for a heartbeat.
pub(super) fn parse<'a>(line: &'a [u8], options: &ParseOptions) -> Result<Option<LogEvent<'a>>, LineFault> {
    let mut click = Click::of(line)?;
    if click.is_heartbeat {
        return Ok(None);
    }
    let time_ms = click.time_ms()?;
    let url = click.take_url()?;
    let (page, query) = web::split_query(url.as_bytes());
    let campaign = query.map(Campaign::in_query).unwrap_or_default();
    let page_bytes = page.len();

    let kept = if options.keep_query { url.len() } else { page_bytes };
    let mut event = LogEvent::new(time_ms, prefix(url, kept), click.visitor_hash());
    web::set_origin(&mut event, click.referrer_host(), campaign, &options.site);
    web::set_agent(&mut event, text(&click.agent).as_bytes());
    event.set("visitor_type", click.visitor_type());
    if let Some(Text(country)) = click.country.filter(|Text(country)| !country.is_empty()) {
        let length = country.len();
        event.set("country", prefix(country, length));
    }
    Ok(Some(event))
}

/// The time of a line that [`parse`] makes an event of.
pub(super) fn time_ms(line: &[u8]) -> Option<i64> {
    let mut click = Click::of(line).ok().filter(|click| !click.is_heartbeat)?;
    click.take_url().ok()?;
    click.time_ms().ok()
}

fn prefix(text: Cow<'_, str>, length: usize) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text.as_bytes()[..length]),
        Cow::Owned(text) => {
            let mut bytes = text.into_bytes();
            bytes.truncate(length);
            Cow::Owned(bytes)
        }
    }
}

#[cfg(test)]
mod tests;
