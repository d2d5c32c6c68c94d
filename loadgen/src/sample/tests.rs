use super::*;
use crate::log::{LogEvent, LogFormat, ParseOptions, parse_line};
use std::collections::{HashMap, HashSet};

const NOON_MS: i64 = 1_710_244_800_000;
const LINES: usize = 20_000;

fn lines(seed: u64) -> Vec<String> {
    let mut log = SampleLog::new(seed, "example.com");
    (0..LINES).map(|_| log.line(NOON_MS)).collect()
}

fn read(line: &str) -> LogEvent<'_> {
    let options = ParseOptions::new(LogFormat::Combined, "example.com");
    parse_line(line.as_bytes(), &options).unwrap().unwrap()
}

fn share_of(events: &[LogEvent<'_>], name: &str, value: &str) -> f64 {
    let with = events.iter().filter(|event| event.dimension(name) == Some(value.as_bytes()));
    with.count() as f64 / events.len() as f64
}

#[test]
fn the_same_seed_gives_the_same_log_and_another_gives_another() {
    let log = lines(7);
    assert_eq!(log, lines(7));
    assert_ne!(log, lines(8));
}

#[test]
fn every_line_is_an_event_with_a_load_time_within_a_minute() {
    for line in lines(1) {
        let event = read(&line);
        assert!(event.value("load_ms").is_some(), "{line}");
        assert!((NOON_MS - MAX_LATE_MS..=NOON_MS).contains(&event.time_ms), "{line}");
    }
}

#[test]
fn the_traffic_has_the_shape_of_a_real_site() {
    let lines = lines(2);
    let events: Vec<LogEvent<'_>> = lines.iter().map(|line| read(line)).collect();
    for (name, value, from, to) in [
        ("device", "desktop", 0.4, 0.6),
        ("device", "mobile", 0.25, 0.45),
        ("device", "tablet", 0.03, 0.1),
        ("device", "bot", 0.1, 0.14),
        ("status", "2xx", 0.85, 0.97),
        ("status", "3xx", 0.02, 0.12),
        ("status", "4xx", 0.01, 0.04),
        ("status", "5xx", 0.001, 0.01),
        ("channel", "internal", 0.3, 0.6),
        ("channel", "search", 0.05, 0.2),
        ("channel", "social", 0.03, 0.15),
        ("channel", "email", 0.001, 0.05),
        ("channel", "direct", 0.2, 0.4),
        ("campaign", "morning-briefing", 0.002, 0.02),
    ] {
        let share = share_of(&events, name, value);
        assert!((from..to).contains(&share), "{name}={value}: {share}");
    }
}

#[test]
fn a_few_pages_get_most_hits_and_many_visitors_come() {
    let lines = lines(3);
    let mut hits: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut visitors = HashSet::new();
    for line in &lines {
        let event = read(line);
        visitors.insert(event.visitor_hash);
        *hits.entry(event.url.into_owned()).or_default() += 1;
    }
    let mut counts: Vec<usize> = hits.values().copied().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(hits.iter().max_by_key(|(_, count)| **count).map(|(url, _)| &url[..]), Some(&b"/"[..]));
    assert!(counts.iter().take(20).sum::<usize>() > LINES / 2);
    assert!((550..800).contains(&hits.len()), "{} urls", hits.len());
    assert!((2_500..=3_000).contains(&visitors.len()), "{} visitors", visitors.len());
}

#[test]
fn there_are_600_pages_and_each_has_its_own_path() {
    let pages = site::pages(&mut StdRng::seed_from_u64(4));
    let paths: HashSet<&str> = pages.iter().map(|page| page.path.as_str()).collect();
    assert_eq!((pages.len(), paths.len()), (600, 600));
}

#[test]
fn a_time_beyond_the_calendar_does_no_harm() {
    let mut log = SampleLog::new(5, "example.com");
    for time_ms in [i64::MIN, i64::MAX, 0] {
        log.line(time_ms);
    }
}
