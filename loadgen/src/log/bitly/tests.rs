use super::*;
use crate::log::{LogFormat, parse_line};

const CLICK: &str = r#"{"a": "Mozilla\/5.0 (iPad; CPU OS 6_0 like Mac OS X) AppleWebKit\/536.26 (KHTML, like Gecko) Version\/6.0 Mobile\/10A403 Safari\/8536.25", "c": "US", "nk": 1, "tz": "America\/Chicago", "gr": "TX", "g": "abc", "al": "en-US", "hh": "1.usa.gov", "r": "http:\/\/T.co\/xyz", "u": "http:\/\/www.nasa.gov\/a?b=1", "t": 1356999059, "cy": "San Angelo", "ll": [ 31.467600, -100.436699 ] }"#;

fn options() -> ParseOptions {
    ParseOptions::new(LogFormat::Bitly, "1.usa.gov")
}

fn read(line: &str) -> Result<Option<LogEvent<'_>>, LineFault> {
    parse_line(line.as_bytes(), &options())
}

fn event(line: &str) -> LogEvent<'_> {
    read(line).unwrap().unwrap()
}

#[track_caller]
fn says(line: &str, name: &str, value: Option<&str>) {
    let event = event(line);
    assert_eq!(event.dimension(name).map(String::from_utf8_lossy).as_deref(), value, "{name} of {line}");
}

#[test]
fn a_click_tells_everything() {
    let event = event(CLICK);
    assert_eq!(event.time_ms, 1_356_999_059_000);
    assert_eq!(event.url, &b"http://www.nasa.gov/a"[..]);
    for (name, value) in [
        ("referrer", "t.co"),
        ("channel", "social"),
        ("country", "US"),
        ("device", "tablet"),
        ("browser", "Safari"),
        ("visitor_type", "returning"),
    ] {
        says(CLICK, name, Some(value));
    }
    assert_eq!(event.values, []);
}

#[test]
fn a_query_is_kept_on_request() {
    let options = ParseOptions { keep_query: true, ..options() };
    let event = parse_line(CLICK.as_bytes(), &options).unwrap().unwrap();
    assert_eq!(event.url, &b"http://www.nasa.gov/a?b=1"[..]);
}

#[test]
fn a_campaign_in_the_target_outranks_the_referrer() {
    let line = r#"{"t": 1, "u": "http://x/?utm_source=feed&utm_campaign=launch", "r": "http://t.co/"}"#;
    says(line, "channel", Some("feed"));
    says(line, "campaign", Some("launch"));
}

#[test]
fn a_click_needs_only_a_time_and_a_url() {
    let line = r#"{"t": 1, "u": "http://x/"}"#;
    assert_eq!(event(line).url, &b"http://x/"[..]);
    says(line, "country", None);
    says(line, "referrer", None);
    says(line, "channel", Some("direct"));
    says(line, "device", Some("other"));
    says(line, "visitor_type", Some("new"));
}

#[test]
fn a_missing_referrer_has_several_spellings() {
    for referrer in [r#""direct""#, r#""""#, r#""-""#, "null"] {
        let line = format!(r#"{{"t": 1, "u": "http://x/", "r": {referrer}}}"#);
        says(&line, "referrer", None);
        says(&line, "channel", Some("direct"));
    }
    says(r#"{"t": 1, "u": "http://x/", "r": "word"}"#, "referrer", Some("(other)"));
}

#[test]
fn heartbeats_are_skipped() {
    assert_eq!(read(r#"{"_heartbeat_": 1356999061}"#), Ok(None));
    assert_eq!(read(r#"{"_heartbeat_": null, "t": "x"}"#), Ok(None));
    assert_eq!(time_ms(br#"{"_heartbeat_": 1, "t": 5, "u": "http://x/"}"#), None);
}

#[test]
fn a_time_may_be_whole_fractional_or_quoted() {
    for time in ["7", "7.9", r#""7""#, r#"" 7 ""#] {
        let line = format!(r#"{{"t": {time}, "u": "http://x/"}}"#);
        assert_eq!(event(&line).time_ms, 7_000, "{time}");
        assert_eq!(time_ms(line.as_bytes()), Some(7_000), "{time}");
    }
}

#[test]
fn the_last_of_repeated_fields_counts() {
    let line = r#"{"t": 1, "u": "http://x/", "c": "US", "t": 2, "c": null, "\u0075": "http://y/"}"#;
    assert_eq!(event(line).time_ms, 2_000);
    assert_eq!(event(line).url, &b"http://y/"[..]);
    says(line, "country", None);
}

#[test]
fn broken_records_are_faults_by_name() {
    for (line, fault) in [
        (r#"{"t": 1, "u": "http://x/"#, LineFault::BadJson),
        ("[1]", LineFault::BadJson),
        ("[]", LineFault::BadJson),
        ("7", LineFault::BadJson),
        (r#"{"t": [], "u": "http://x/"}"#, LineFault::BadJson),
        (r#"{"t": 1, "u": 5}"#, LineFault::BadJson),
        (r#"{"u": "http://x/"}"#, LineFault::MissingField),
        (r#"{"t": null, "u": "http://x/"}"#, LineFault::MissingField),
        (r#"{"t": 1}"#, LineFault::MissingField),
        (r#"{"t": 1, "u": ""}"#, LineFault::MissingField),
        (r#"{"t": "soon", "u": "http://x/"}"#, LineFault::BadTime),
        (r#"{"t": 9223372036854775807, "u": "http://x/"}"#, LineFault::BadTime),
    ] {
        assert_eq!(read(line), Err(fault), "{line}");
        assert_eq!(time_ms(line.as_bytes()), None, "{line}");
    }
    let not_utf8 = b"{\"t\": 1, \"u\": \"http://x/\", \"zz\": \"\xff\"}";
    assert_eq!(parse_line(not_utf8, &options()), Err(LineFault::BadJson));
}

#[test]
fn a_visitor_is_the_exact_tuple_of_six_fields() {
    let visitor = |fields: &str| event(&format!(r#"{{"t": 1, "u": "http://x/"{fields}}}"#)).visitor_hash;
    let distinct = [
        visitor(""),
        visitor(r#", "a": "x""#),
        visitor(r#", "al": "x""#),
        visitor(r#", "a": "xx""#),
        visitor(r#", "a": "x", "al": "x""#),
        visitor(r#", "c": "x""#),
        visitor(r#", "gr": "x""#),
        visitor(r#", "cy": "x""#),
        visitor(r#", "ll": [0, 1]"#),
        visitor(r#", "ll": [1, 0]"#),
        visitor(r#", "ll": [0]"#),
    ];
    let unique: std::collections::HashSet<_> = distinct.iter().collect();
    assert_eq!(unique.len(), distinct.len());
    assert_eq!(visitor(r#", "ll": []"#), visitor(""));
    assert_eq!(visitor(r#", "ll": [0.0, 1.50]"#), visitor(r#", "ll": [-0.0, 1.5]"#));
    assert_eq!(visitor(r#", "tz": "x", "h": "y""#), visitor(""));
}
