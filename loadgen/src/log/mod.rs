//! Log lines as events: the formats, what one line yields, and why a line yields nothing.
//!
//! Owns: [`LogEvent`], [`LineFault`] and the choice of parser by format.
//! Does not own: files and line ends (`reader`), judgements about agents and referrers (`tidemark_rollup::enrich`).
//!
//! Invariants:
//! * Every line is an event, a skip or a fault; no input panics.
//! * Bytes are passed on as they are. A line that is not UTF-8 still becomes an event, and the node that
//!   receives it rejects it by name (`invalid_utf8`), so that receipts show it.
//! * The same line yields the same event everywhere: nothing here knows the time or draws a random number.

mod bitly;
mod combined;
mod web;

use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use tidemark_proto::v1::{self, event};
use xxhash_rust::xxh3::Xxh3;

/// How the lines of a log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// Apache's and nginx's Combined Log Format, also without referrer and user agent ("common"), also with more
    /// fields after the user agent.
    Combined,
    /// Newline-delimited JSON clicks as bitly published them for 1.USA.gov.
    Bitly,
}

impl LogFormat {
    /// The format's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Combined => "combined",
            Self::Bitly => "bitly",
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "combined" => Ok(Self::Combined),
            "bitly" => Ok(Self::Bitly),
            _ => Err(format!("unknown log format {name:?}: use \"combined\" or \"bitly\"")),
        }
    }
}

/// How lines are to be read.
#[derive(Clone, Debug)]
pub struct ParseOptions {
    /// How the lines are written.
    pub format: LogFormat,
    /// The site that the log is replayed for. Referrers from it, with or without `www.`, are `internal`.
    pub site: String,
    /// Whether a URL keeps what follows its first `?`.
    ///
    /// Kept, `/list?page=2` is a page of its own, and so is every tracking parameter's value; dropped, all of them
    /// are `/list`. Campaign parameters become dimensions either way.
    pub keep_query: bool,
}

impl ParseOptions {
    /// Options for a log of `site` in `format`, with query strings dropped.
    pub fn new(format: LogFormat, site: impl Into<String>) -> Self {
        Self { format, site: site.into(), keep_query: false }
    }
}

/// One view that a log line reports. Borrows from the line where it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent<'a> {
    /// When, in milliseconds since the Unix epoch; the line's time zone is applied already.
    pub time_ms: i64,
    /// Path or absolute URL as the line has it: nothing decoded, nothing folded.
    pub url: Cow<'a, [u8]>,
    /// Who, as a hash that is never 0. Equal for lines of one client address and user agent.
    pub visitor_hash: u64,
    /// Dimensions by name, each name at most once, in a fixed order.
    pub dimensions: Vec<(&'static str, Cow<'a, [u8]>)>,
    /// Values by name: `bytes`, and `load_ms` in milliseconds where the line has a duration.
    pub values: Vec<(&'static str, i64)>,
}

impl<'a> LogEvent<'a> {
    fn new(time_ms: i64, url: Cow<'a, [u8]>, visitor_hash: u64) -> Self {
        // Room for every dimension either format knows.
        Self { time_ms, url, visitor_hash, dimensions: Vec::with_capacity(7), values: Vec::with_capacity(2) }
    }

    /// The value of a dimension, if the line told it.
    pub fn dimension(&self, name: &str) -> Option<&[u8]> {
        self.dimensions.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_ref())
    }

    /// A value by name, if the line told it.
    pub fn value(&self, name: &str) -> Option<i64> {
        self.values.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
    }

    /// The event as it goes over the wire, as a `view` of `site`.
    pub fn to_event(&self, site: &Bytes) -> v1::Event {
        let dimension = |(name, value): &(&'static str, Cow<'_, [u8]>)| event::DimensionsEntry {
            key: Bytes::from_static(name.as_bytes()),
            value: Bytes::copy_from_slice(value),
        };
        let value = |&(name, value): &(&'static str, i64)| event::ValuesEntry {
            key: Bytes::from_static(name.as_bytes()),
            value,
        };
        v1::Event {
            site: site.clone(),
            url: Bytes::copy_from_slice(&self.url),
            time_ms: self.time_ms,
            kind: Bytes::from_static(b"view"),
            visitor: Bytes::new(),
            visitor_hash: self.visitor_hash,
            dimensions: self.dimensions.iter().map(dimension).collect(),
            values: self.values.iter().map(value).collect(),
        }
    }

    fn set(&mut self, name: &'static str, value: impl Into<Cow<'a, [u8]>>) {
        self.dimensions.push((name, value.into()));
    }
}

/// Why a line is no event. Reports count lines by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LineFault {
    /// The line is not in the log format; perhaps it was cut off, or the format is another.
    UnmatchedLine,
    /// The line has a time that is none.
    BadTime,
    /// The request is not "METHOD target" or "METHOD target HTTP/x": a hit that names no page, such as a TLS
    /// handshake sent to a plain port.
    MalformedRequest,
    /// The line is not a JSON object, or a field of it has a wrong type.
    BadJson,
    /// The JSON object has no time or no URL.
    MissingField,
    /// The line is longer than [`MAX_LINE_BYTES`](crate::reader::MAX_LINE_BYTES).
    LineTooLong,
}

impl LineFault {
    /// Every fault, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::UnmatchedLine,
        Self::BadTime,
        Self::MalformedRequest,
        Self::BadJson,
        Self::MissingField,
        Self::LineTooLong,
    ];

    /// The name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnmatchedLine => "unmatched_line",
            Self::BadTime => "bad_time",
            Self::MalformedRequest => "malformed_request",
            Self::BadJson => "bad_json",
            Self::MissingField => "missing_field",
            Self::LineTooLong => "line_too_long",
        }
    }
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnmatchedLine => "the line does not match the log format",
            Self::BadTime => "the time is not valid",
            Self::MalformedRequest => "the request names no target",
            Self::BadJson => "the line is not a valid click in json",
            Self::MissingField => "the time or the url is missing",
            Self::LineTooLong => "the line is too long",
        })
    }
}

impl std::error::Error for LineFault {}

/// Reads one line, given without its line feed.
///
/// `None` means that the line says nothing, and rightly so: it is blank, or a heartbeat of the bitly feed. A fault
/// means that it should have said something.
pub fn parse_line<'a>(line: &'a [u8], options: &ParseOptions) -> Result<Option<LogEvent<'a>>, LineFault> {
    let line = without_carriage_return(line);
    if is_blank(line) {
        return Ok(None);
    }
    match options.format {
        LogFormat::Combined => combined::parse(line, options).map(Some),
        LogFormat::Bitly => bitly::parse(line, options),
    }
}

/// The time of a line in milliseconds since the Unix epoch, or `None` where [`parse_line`] finds no event.
///
/// Cheaper than [`parse_line`], for a first pass over a whole log.
pub fn line_time_ms(line: &[u8], format: LogFormat) -> Option<i64> {
    let line = without_carriage_return(line);
    match format {
        LogFormat::Combined => combined::time_ms(line),
        LogFormat::Bitly => bitly::time_ms(line),
    }
}

fn without_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_blank(line: &[u8]) -> bool {
    // Vertical tab too, which `is_ascii_whitespace` leaves out.
    line.iter().all(|byte| matches!(byte, b' ' | b'\t'..=b'\r'))
}

/// A visitor's hash; 0 is taken (it means "nobody"), so 1 stands in for it.
fn visitor_hash(hasher: &Xxh3) -> u64 {
    hasher.digest().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_are_skipped_in_both_formats() {
        for format in [LogFormat::Combined, LogFormat::Bitly] {
            let options = ParseOptions::new(format, "example.com");
            for line in ["", "\r", "  \t", "\x0b\x0c \r"] {
                assert_eq!(parse_line(line.as_bytes(), &options), Ok(None));
                assert_eq!(line_time_ms(line.as_bytes(), format), None);
            }
        }
    }

    #[test]
    fn a_format_is_read_by_the_name_it_prints() {
        for format in [LogFormat::Combined, LogFormat::Bitly] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("clf".parse::<LogFormat>().is_err());
    }

    #[test]
    fn fault_names_are_distinct_and_each_says_something() {
        let names: std::collections::HashSet<_> = LineFault::ALL.iter().map(|fault| fault.name()).collect();
        assert_eq!(names.len(), LineFault::ALL.len());
        assert!(LineFault::ALL.iter().all(|fault| fault.to_string().starts_with("the ")));
    }

    #[test]
    fn an_event_goes_over_the_wire_with_all_it_says() {
        let options = ParseOptions::new(LogFormat::Combined, "example.com");
        let line = br#"192.0.2.1 - - [12/Mar/2024:10:00:00 +0000] "GET /a HTTP/1.1" 200 5 "-" "-" 0.002"#;
        let parsed = parse_line(line, &options).unwrap().unwrap();
        let event = parsed.to_event(&Bytes::from_static(b"example.com"));
        assert_eq!(event.site, "example.com");
        assert_eq!(event.url, "/a");
        assert_eq!(event.kind, "view");
        assert_eq!(event.time_ms, 1_710_237_600_000);
        assert_eq!(event.visitor_hash, parsed.visitor_hash);
        assert_eq!(event.dimensions.len(), parsed.dimensions.len());
        assert!(event.dimensions.iter().any(|entry| entry.key == "status" && entry.value == "2xx"));
        assert!(event.values.iter().any(|entry| entry.key == "load_ms" && entry.value == 2));
    }
}
