use super::*;
use crate::log::{LogFormat, parse_line};

const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:123.0) Gecko/20100101 Firefox/123.0";

fn options() -> ParseOptions {
    ParseOptions::new(LogFormat::Combined, "example.com")
}

/// A line around a request, with everything after the user agent.
fn line(request: &str, referrer: &str, rest: &str) -> String {
    format!(
        r#"192.0.2.7 - frank [12/Mar/2024:10:00:01 +0000] "{request}" 200 512 "{referrer}" "{AGENT}"{rest}"#
    )
}

fn read(line: &str) -> LogEvent<'_> {
    parse_line(line.as_bytes(), &options()).unwrap().unwrap()
}

#[track_caller]
fn fails(line: &str, fault: LineFault) {
    assert_eq!(parse_line(line.as_bytes(), &options()), Err(fault), "{line}");
}

fn dimension<'e>(event: &'e LogEvent<'_>, name: &str) -> Option<&'e str> {
    event.dimension(name).map(|value| std::str::from_utf8(value).unwrap())
}

#[test]
fn a_combined_line_tells_everything() {
    let line = line("GET /a/b?q=1 HTTP/1.1", "https://www.google.de/search?q=x", " 0.0456");
    let event = read(&line);
    assert_eq!(event.time_ms, 1_710_237_601_000);
    assert_eq!(event.url, &b"/a/b"[..]);
    assert_eq!(dimension(&event, "referrer"), Some("www.google.de"));
    assert_eq!(dimension(&event, "channel"), Some("search"));
    assert_eq!(dimension(&event, "device"), Some("desktop"));
    assert_eq!(dimension(&event, "browser"), Some("Firefox"));
    assert_eq!(dimension(&event, "status"), Some("2xx"));
    assert_eq!(dimension(&event, "campaign"), None);
    assert_eq!(event.values, [("bytes", 512), ("load_ms", 46)]);
}

#[test]
fn a_common_line_has_neither_referrer_nor_agent() {
    let event = read(r#"2001:db8::1 - - [12/Mar/2024:10:00:01 +0000] "GET / HTTP/1.0" 304 -"#);
    assert_eq!(dimension(&event, "referrer"), None);
    assert_eq!(dimension(&event, "channel"), Some("direct"));
    assert_eq!(dimension(&event, "device"), Some("other"));
    assert_eq!(dimension(&event, "status"), Some("3xx"));
    assert_eq!(event.values, [("bytes", 0)]);
}

#[test]
fn an_escaped_quote_does_not_end_a_field() {
    let line = line(r#"GET /say/\"hello\"?q=\" HTTP/1.1"#, r"http://example.net/\\", "");
    let event = read(&line);
    assert_eq!(event.url, &br#"/say/\"hello\""#[..]);
    assert_eq!(dimension(&event, "referrer"), Some("example.net"));
}

#[test]
fn the_time_is_the_one_that_a_request_follows() {
    let line = r#"h i [01/Jan/2001:00:00:00 +0000] "x [12/Mar/2024:10:00:01 +0000] "GET / HTTP/1.0" 200 1 "#;
    assert_eq!(read(line).time_ms, 1_710_237_601_000);
    let line = r#"h i - [01/Jan/2001:00:00:00 +0000] [12/Mar/2024:10:00:01 +0000] "GET / HTTP/1.0" 200 1"#;
    assert_eq!(read(line).time_ms, 1_710_237_601_000);
    // A user has at least one byte.
    fails(r#"h i  [12/Mar/2024:10:00:01 +0000] "GET / HTTP/1.0" 200"#, LineFault::UnmatchedLine);
    fails(r#"h i [12/Mar/2024:10:00:01 +0000] "GET / HTTP/1.0" 200 1"#, LineFault::UnmatchedLine);
}

#[test]
fn a_line_that_is_cut_off_or_of_another_format_is_unmatched() {
    let whole = line("GET / HTTP/1.1", "-", "");
    fails(&whole[..whole.len() - 1], LineFault::UnmatchedLine);
    fails("not a log line", LineFault::UnmatchedLine);
    fails(r#"{"t": 1}"#, LineFault::UnmatchedLine);
    fails(r#"192.0.2.1 - - [12/mar/2024:10:00:01 +0000] "GET / HTTP/1.0" 200 1"#, LineFault::UnmatchedLine);
}

#[test]
fn a_month_that_is_none_is_a_bad_time() {
    fails(r#"192.0.2.1 - - [12/Foo/2024:10:00:01 +0000] "GET / HTTP/1.0" 200 1"#, LineFault::BadTime);
}

#[test]
fn the_time_zone_of_the_line_is_applied() {
    for (time, seconds) in [
        (b"01/Jan/1970:00:00:00 +0000", 0),
        (b"01/Jan/1970:00:00:00 +0130", -5_400),
        (b"31/Dec/1969:22:30:00 -0130", 0),
        (b"29/Feb/2024:23:59:60 +0000", 1_709_251_200),
        (b"01/Mar/2000:00:00:00 +0000", 951_868_800),
        (b"01/Mar/1900:00:00:00 +0000", -2_203_891_200),
        (b"31/Dec/9999:23:59:59 +0000", 253_402_300_799),
    ] {
        assert_eq!(unix_ms(time), Some(seconds * 1_000), "{}", String::from_utf8_lossy(time));
    }
}

#[test]
fn every_day_of_eight_centuries_has_its_number() {
    let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut days = days_before_month(1600, 0);
    for year in 1600..2400_i64 {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for (month, length) in lengths.into_iter().enumerate() {
            assert_eq!(days_before_month(year, month), days, "{year} {month}");
            days += length + i64::from(is_leap && month == 1);
        }
    }
    assert_eq!(days_before_month(1970, 0), 0);
}

#[test]
fn a_request_without_a_target_is_malformed() {
    for request in
        ["", "-", "GET", r"\x16\x03\x01", "get / HTTP/1.1", "GET /a b", " / HTTP/1.1", "G-T / HTTP/1.1"]
    {
        fails(&line(request, "-", ""), LineFault::MalformedRequest);
    }
}

#[test]
fn a_request_may_lack_the_protocol_and_a_target_may_hold_spaces() {
    for (request, url) in [
        ("GET /", "/"),
        ("GET /a b HTTP/1.1", "/a b"),
        ("GET  HTTP/1.1", "/"),
        ("OPTIONS * HTTP/1.1", "/*"),
        ("CONNECT example.net:443 HTTP/1.1", "/example.net:443"),
        ("GET http://other.example/x?y HTTP/1.1", "http://other.example/x"),
        ("M_SEARCH /a HTTP/2.0", "/a"),
    ] {
        let line = line(request, "-", "");
        assert_eq!(String::from_utf8_lossy(&read(&line).url), url, "{request}");
    }
}

#[test]
fn a_query_is_kept_on_request_and_campaigns_are_read_either_way() {
    let line = line("GET /a?p=2&utm_campaign=spring&utm_source=letter&utm_medium=mail HTTP/1.1", "-", "");
    for keep_query in [false, true] {
        let options = ParseOptions { keep_query, ..options() };
        let event = parse_line(line.as_bytes(), &options).unwrap().unwrap();
        assert_eq!(event.url.len() > 2, keep_query);
        assert!(event.url.starts_with(b"/a"));
        assert_eq!(dimension(&event, "campaign"), Some("spring"));
        assert_eq!(dimension(&event, "channel"), Some("mail"));
    }
}

#[test]
fn a_campaign_source_is_the_channel_where_no_medium_is_given() {
    let line = line("GET /a?utm_source=letter HTTP/1.1", "https://t.co/x", "");
    assert_eq!(dimension(&read(&line), "channel"), Some("letter"));
    assert_eq!(dimension(&read(&line), "referrer"), Some("t.co"));
}

#[test]
fn a_visitor_is_an_address_and_an_agent() {
    let read_visitor = |address: &str, agent: &str| {
        let line =
            format!(r#"{address} - - [12/Mar/2024:10:00:01 +0000] "GET / HTTP/1.0" 200 1 "-" "{agent}""#);
        read(&line).visitor_hash
    };
    let visitor = read_visitor("192.0.2.1", "a");
    assert_eq!(visitor, xxhash_rust::xxh3::xxh3_64(b"192.0.2.1\0a"));
    assert_ne!(visitor, read_visitor("192.0.2.1", "b"));
    assert_ne!(visitor, read_visitor("192.0.2.2", "a"));
}

#[test]
fn the_load_time_is_read_where_it_cannot_be_mistaken() {
    for (rest, expected) in [
        ("", None),
        (" 0.123", Some(123)),
        (" 0.0005", Some(1)),
        (" 1500", Some(2)),
        (" 499", Some(0)),
        (r#" "192.0.2.9, 10.0.0.1" 0.250"#, Some(250)),
        (" 345 0.004 [backend] 0.003", Some(4)),
        (" 345 9876", None),
        (r#" 12 "router" "http://10.0.0.1:80" 5ms"#, None),
        (" -", None),
        (" 1.2.3", None),
        (" .5", None),
        (" 99999999999999999999999", Some(9_223_372_036_854_775)),
    ] {
        let line = line("GET / HTTP/1.1", "-", rest);
        assert_eq!(read(&line).value("load_ms"), expected, "{rest}");
    }
}

#[test]
fn a_size_beyond_all_bounds_is_passed_on_as_the_largest_number() {
    let line = r#"192.0.2.1 - - [12/Mar/2024:10:00:01 +0000] "GET / HTTP/1.0" 200 99999999999999999999"#;
    assert_eq!(read(line).value("bytes"), Some(i64::MAX));
}

#[test]
fn bytes_that_are_not_utf8_are_passed_on_untouched() {
    let line = b"192.0.2.1 - - [12/Mar/2024:10:00:01 +0000] \"GET /\xff\xfe HTTP/1.0\" 200 1 \"http://A\xff/\" \"\xff\"";
    let event = parse_line(line, &options()).unwrap().unwrap();
    assert_eq!(event.url, &b"/\xff\xfe"[..]);
    assert_eq!(event.dimension("referrer"), Some(&b"a\xff"[..]));
}

#[test]
fn a_line_has_a_time_exactly_when_it_is_an_event() {
    let whole = line("GET / HTTP/1.1", "-", "");
    assert_eq!(time_ms(whole.as_bytes()), Some(1_710_237_601_000));
    assert_eq!(time_ms(line("-", "-", "").as_bytes()), None);
    assert_eq!(time_ms(b"nothing"), None);
}
