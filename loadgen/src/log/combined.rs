//! Combined Log Format, as Apache and nginx write it.
//!
//! Owns: which lines match, and what each field means. Does not own: rules about URLs (`web`).
//!
//! Accepts `host ident user [time] "request" status bytes`, then optionally `"referrer" "user agent"` and anything
//! after that. Inside quotes a backslash escapes the next byte, and fields keep their escapes.

use super::web::{self, Campaign};
use super::{LineFault, LogEvent, ParseOptions, visitor_hash};
use regex::bytes::Regex;
use std::borrow::Cow;
use std::sync::LazyLock;
use tidemark_rollup::enrich;
use xxhash_rust::xxh3::Xxh3;

// A line is matched in three pieces, which together mean one pattern. In the last one, which is by far the longest,
// each byte leaves only one way on: the regex engine then needs no backtracking, and a line takes less than half the
// time that one pattern for all of it would.

/// Address, ident, and the first byte of the user.
static START: LazyLock<Regex> = LazyLock::new(|| web::constant_pattern(r"(?-u)^\S+ \S+ ."));

/// The time, between the user and the request.
static TIME: LazyLock<Regex> =
    LazyLock::new(|| web::constant_pattern(r"(?-u) \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"));

/// The request and all that follows it.
static END: LazyLock<Regex> = LazyLock::new(|| {
    web::constant_pattern(concat!(
        r#"(?-u)^ "((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-)"#,
        r#"(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"(.*))?$"#,
    ))
});

const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

const STATUS_CLASSES: [&[u8]; 10] =
    [b"0xx", b"1xx", b"2xx", b"3xx", b"4xx", b"5xx", b"6xx", b"7xx", b"8xx", b"9xx"];

/// One line taken apart. A common-format line has `-` for referrer and agent, like a client that sends neither.
struct Fields<'a> {
    address: &'a [u8],
    time: &'a [u8],
    request: &'a [u8],
    status: &'a [u8],
    bytes: &'a [u8],
    referrer: &'a [u8],
    agent: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(line: &'a [u8]) -> Option<Self> {
        let (start, after) = line.split_at(START.find(line)?.end());
        let after = &after[..after.len() - trailing_space(after)];
        // A user may hold anything, even what looks like a time: the first one that a request follows counts.
        let (time, end) = TIME
            .find_iter(after)
            .find_map(|time| END.captures(&after[time.end()..]).map(|end| (time.as_bytes(), end)))?;
        let field = |nth, absent| end.get(nth).map_or(absent, |matched| matched.as_bytes());
        Some(Self {
            address: start.split(|&byte| byte == b' ').next()?,
            time: &time[2..time.len() - 1],
            request: field(1, b""),
            status: field(2, b""),
            bytes: field(3, b""),
            referrer: field(4, b"-"),
            agent: field(5, b"-"),
            rest: field(6, b""),
        })
    }
}

/// How many bytes of white space `text` ends with.
fn trailing_space(text: &[u8]) -> usize {
    text.iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count()
}

/// Reads a line that is not blank.
pub(super) fn parse<'a>(line: &'a [u8], options: &ParseOptions) -> Result<LogEvent<'a>, LineFault> {
    let fields = Fields::of(line).ok_or(LineFault::UnmatchedLine)?;
    let time_ms = unix_ms(fields.time).ok_or(LineFault::BadTime)?;
    let target = target_of(fields.request).ok_or(LineFault::MalformedRequest)?;
    let (page, query) = web::split_query(target);

    let url = rooted(if options.keep_query { target } else { page });
    let mut event = LogEvent::new(time_ms, url, visitor(fields.address, fields.agent));
    let referrer = (!matches!(fields.referrer, b"" | b"-")).then(|| enrich::referrer_host(fields.referrer));
    let campaign = query.map(Campaign::in_query).unwrap_or_default();
    web::set_origin(&mut event, referrer, campaign, &options.site);
    web::set_agent(&mut event, fields.agent);
    event.set("status", status_class(fields.status));
    event.values.push(("bytes", whole_number(fields.bytes)));
    event.values.extend(load_ms(fields.rest).map(|load_ms| ("load_ms", load_ms)));
    Ok(event)
}

/// The time of a line that [`parse`] accepts.
pub(super) fn time_ms(line: &[u8]) -> Option<i64> {
    let fields = Fields::of(line)?;
    target_of(fields.request)?;
    unix_ms(fields.time)
}

/// Milliseconds since the Unix epoch of `12/Mar/2024:10:00:00 +0100`.
///
/// Only the month can be wrong: a field beyond its range carries over (second 60 is the next minute's first), as in
/// C's `timegm`.
fn unix_ms(time: &[u8]) -> Option<i64> {
    let part = |from: usize, to: usize| whole_number(&time[from..to]);
    let month = MONTHS.iter().position(|&name| name == &time[3..6])?;
    let days = days_before_month(part(7, 11), month) + part(0, 2) - 1;
    let local_seconds = days * 86_400 + part(12, 14) * 3_600 + part(15, 17) * 60 + part(18, 20);
    let offset_seconds = (part(22, 24) * 60 + part(24, 26)) * 60;
    let seconds =
        if time[21] == b'+' { local_seconds - offset_seconds } else { local_seconds + offset_seconds };
    Some(seconds * 1_000)
}

/// Days from the Unix epoch to the first of a month, January being 0, in the Gregorian calendar.
fn days_before_month(year: i64, month: usize) -> i64 {
    const DAYS_BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    // Leap days counted are those of years already over, and this year's once February is.
    let leaps_through = if month > 1 { year } else { year - 1 };
    let leap_days = |years: i64| years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
    (year - 1970) * 365 + leap_days(leaps_through) - leap_days(1969) + DAYS_BEFORE[month]
}

/// The number that some digits spell, or the largest there is where it is larger; 0 for `-`.
fn whole_number(digits: &[u8]) -> i64 {
    digits
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .fold(0_i64, |number, digit| number.saturating_mul(10).saturating_add(i64::from(digit - b'0')))
}

/// What was asked for. `None` where the request is neither `METHOD target` nor `METHOD target HTTP/x`; a target may
/// hold spaces.
fn target_of(request: &[u8]) -> Option<&[u8]> {
    let first = request.iter().position(|&byte| byte == b' ')?;
    let last = request.iter().rposition(|&byte| byte == b' ')?;
    let method = &request[..first];
    if method.is_empty() || !method.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'_')) {
        return None;
    }
    if first == last {
        return Some(&request[first + 1..]);
    }
    request[last + 1..].starts_with(b"HTTP/").then_some(&request[first + 1..last])
}

/// The target as a URL that a node takes: `*` and `host:port` are no paths until a slash precedes them.
fn rooted(target: &[u8]) -> Cow<'_, [u8]> {
    if target.starts_with(b"/") || web::is_absolute(target) {
        return Cow::Borrowed(target);
    }
    Cow::Owned([b"/", target].concat())
}

fn visitor(address: &[u8], agent: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(address);
    // An address holds no zero byte, so no two pairs look alike.
    hasher.update(&[0]);
    hasher.update(agent);
    visitor_hash(&hasher)
}

fn status_class(status: &[u8]) -> &'static [u8] {
    let hundreds = status.first().map_or(0, |digit| digit.saturating_sub(b'0'));
    STATUS_CLASSES.get(usize::from(hundreds)).copied().unwrap_or(STATUS_CLASSES[0])
}

/// The time the request took, from the fields after the user agent, rounded to milliseconds.
///
/// A number with a decimal point is seconds (nginx's `$request_time`), the first one if there are several. A whole
/// number is microseconds (Apache's `%D`), but only when no other unquoted field stands beside it: common layouts put
/// sizes and counters there, and a wrong time is worse than none.
fn load_ms(rest: &[u8]) -> Option<i64> {
    let mut words = unquoted_words(rest);
    if let Some(seconds) = words.clone().find_map(decimal) {
        // A float's cast saturates, so an absurd duration stays absurd and the node can reject it.
        return Some((seconds * 1_000.0).round() as i64);
    }
    let only = words.next().filter(|_| words.next().is_none())?;
    let is_whole = only.iter().all(u8::is_ascii_digit);
    is_whole.then(|| whole_number(only).saturating_add(500) / 1_000)
}

/// The words outside of quotes.
fn unquoted_words(rest: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut quoted = false;
    let outside = rest.split(move |&byte| {
        quoted ^= byte == b'"';
        quoted || byte == b'"' || byte.is_ascii_whitespace()
    });
    outside.filter(|word| !word.is_empty())
}

fn decimal(word: &[u8]) -> Option<f64> {
    let point = word.iter().position(|&byte| byte == b'.')?;
    let (whole, fraction) = (&word[..point], &word[point + 1..]);
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
