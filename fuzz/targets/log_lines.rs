//! Lines of access logs in both formats. The first byte says which, and whether query strings stay.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidemark_fuzz as _;
use tidemark_loadgen::log::{LogFormat, ParseOptions, line_time_ms, parse_line};

fuzz_target!(|input: &[u8]| {
    let Some((how, line)) = input.split_first() else { return };
    let format = if how & 1 == 0 { LogFormat::Combined } else { LogFormat::Bitly };
    let options = ParseOptions { keep_query: how & 2 != 0, ..ParseOptions::new(format, "example.com") };
    let parsed = parse_line(line, &options);
    let time = line_time_ms(line, format);
    match parsed {
        Ok(Some(event)) => {
            assert_eq!(time, Some(event.time_ms));
            assert_ne!(event.visitor_hash, 0);
            let sent = event.to_event(&Bytes::from_static(b"example.com"));
            assert_eq!(sent.dimensions.len(), event.dimensions.len());
            assert_eq!(parse_line(line, &options), Ok(Some(event)));
        }
        // What is no event has no time either: the end of a log in time is that of its events.
        Ok(None) | Err(_) => assert_eq!(time, None),
    }
});
