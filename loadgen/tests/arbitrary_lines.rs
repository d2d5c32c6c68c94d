//! No line makes a parser panic, and a line that parses keeps the promises of its event.

use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::HashSet;
use tidemark_loadgen::log::{LogFormat, ParseOptions, line_time_ms, parse_line};

const COMBINED: &[u8] = br#"192.0.2.7 - frank [12/Mar/2024:10:00:01 +0100] "GET /a/b?q=\"1\"&utm_medium=mail HTTP/1.1" 200 512 "https://user@www.Google.de:80/search?q=x" "Mozilla/5.0 (X11; Linux x86_64; rv:123.0) Gecko/20100101 Firefox/123.0" 0.045"#;

const BITLY: &[u8] = br#"{ "a": "Mozilla\/5.0 (iPad)", "c": "US", "nk": 1, "tz": "America\/Chicago", "gr": "TX", "al": "en-US", "r": "http:\/\/t.co\/x", "u": "http:\/\/www.nasa.gov\/a?utm_source=b", "t": 1356999059, "cy": "San Angelo", "ll": [ 31.467600, -100.436699 ] }"#;

/// A change to one place of a line.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    /// Copies a piece to another place.
    Copy(Index, Index, usize),
    CutOff(Index),
}

impl Mutation {
    fn apply(&self, line: &mut Vec<u8>) {
        if line.is_empty() {
            return;
        }
        let at = |index: &Index| index.index(line.len());
        match self {
            Self::Replace(index, byte) => {
                let at = at(index);
                line[at] = *byte;
            }
            Self::Insert(index, byte) => line.insert(at(index), *byte),
            Self::Remove(index) => drop(line.remove(at(index))),
            Self::Copy(from, to, length) => {
                let (from, to) = (at(from), at(to));
                let piece = line[from..line.len().min(from + length)].to_vec();
                line.splice(to..to, piece);
            }
            Self::CutOff(index) => line.truncate(at(index)),
        }
    }
}

/// Mostly bytes that mean something in one of the formats.
fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![prop::sample::select(&b"\"\\ -[]/:?&#%=.,{}0192ae\t\r\n\0\x0b\xc3\xff"[..]), any::<u8>()]
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<Index>(), any_byte()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (any::<Index>(), any_byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        any::<Index>().prop_map(Mutation::Remove),
        (any::<Index>(), any::<Index>(), 1..20_usize).prop_map(|(from, to, n)| Mutation::Copy(from, to, n)),
        any::<Index>().prop_map(Mutation::CutOff),
    ]
}

fn mutated(line: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any_mutation(), 0..6).prop_map(move |mutations| {
        let mut line = line.to_vec();
        mutations.iter().for_each(|mutation| mutation.apply(&mut line));
        line
    })
}

/// Parses in every way there is.
fn check(line: &[u8]) -> Result<(), TestCaseError> {
    for format in [LogFormat::Combined, LogFormat::Bitly] {
        let mut times = HashSet::new();
        for keep_query in [false, true] {
            let options = ParseOptions { keep_query, ..ParseOptions::new(format, "example.com") };
            let Ok(Some(event)) = parse_line(line, &options) else {
                times.insert(None);
                continue;
            };
            times.insert(Some(event.time_ms));
            prop_assert_ne!(event.visitor_hash, 0);
            prop_assert!(!event.url.is_empty() || format == LogFormat::Bitly);
            prop_assert!(event.values.iter().all(|&(_, value)| value >= 0));
            let names: HashSet<_> = event.dimensions.iter().map(|(name, _)| name).collect();
            prop_assert_eq!(names.len(), event.dimensions.len());
        }
        // With or without queries, parsed or only looked at: it is the same event.
        times.insert(line_time_ms(line, format));
        prop_assert_eq!(times.len(), 1);
    }
    Ok(())
}

proptest! {
    // Tests outside of `src` have no place where proptest would keep failures.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_parser_panic(line in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&line)?;
    }

    #[test]
    fn no_bytes_of_the_formats_make_a_parser_panic(line in prop::collection::vec(any_byte(), 0..200)) {
        check(&line)?;
    }

    #[test]
    fn no_damaged_combined_line_makes_a_parser_panic(line in mutated(COMBINED)) {
        check(&line)?;
    }

    #[test]
    fn no_damaged_click_makes_a_parser_panic(line in mutated(BITLY)) {
        check(&line)?;
    }
}
