//! Writes the access log that the tests ship with (`tests/data/sample-combined.log`) to standard output.
//!
//! 5,000 lines over 44 hours of March 2024, in bursts, so that a five-minute bucket that has hits has several. Less
//! than two days, so that a cluster with default settings takes the whole log as recent. Nine lines are written by
//! hand: two that are no log lines, and some with escapes and time zones, which the generator does not make.

use anyhow::Context;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io::{self, Write};
use tidemark_loadgen::sample::SampleLog;

const SEED: u64 = 20_240_312;
const SITE: &str = "example.com";
const LINES: usize = 5_000;

/// 2024-03-12T04:00:00Z.
const START_MS: i64 = 1_710_216_000_000;
const BUCKETS: i64 = 44 * 12;
const BUCKET_MS: i64 = 300_000;

/// The share of buckets in which anything happens.
const BUSY_SHARE: f64 = 0.3;

/// A line by hand stands in place of every so many lines by the generator.
const BY_HAND_EVERY: usize = 550;

fn main() -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut log = SampleLog::new(SEED, SITE);
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (number, time_ms) in times(&mut random).into_iter().enumerate() {
        let line = match number % BY_HAND_EVERY {
            0 if number > 0 => {
                by_hand(number / BY_HAND_EVERY, time_ms).context("the time is out of range")?
            }
            _ => log.line(time_ms),
        };
        writeln!(out, "{line}")?;
    }
    out.flush().context("standard output is gone")
}

/// When lines are written, in order.
fn times(random: &mut StdRng) -> Vec<i64> {
    let busy: Vec<i64> = (0..BUCKETS).filter(|_| random.random_bool(BUSY_SHARE)).collect();
    let mut time = || {
        let bucket = busy[random.random_range(0..busy.len())];
        START_MS + bucket * BUCKET_MS + random.random_range(0..BUCKET_MS)
    };
    let mut times: Vec<i64> = (0..LINES).map(|_| time()).collect();
    times.sort_unstable();
    times
}

/// One of the lines that the generator would not write.
fn by_hand(which: usize, time_ms: i64) -> anyhow::Result<String> {
    let utc = clock(time_ms, 0)?;
    Ok(match which {
        1 => format!(
            r#"198.18.0.1 - - [{utc} +0000] "GET /news/ HTTP/1.1" 200 71234 "-" "Mozilla/5.0 (compatible; \"Reader\" 2.1)" 0.051"#
        ),
        2 => format!(
            r#"198.18.0.2 - editor [{utc} +0000] "GET /search?q=\"night bus\" HTTP/1.1" 200 12034 "https://www.google.com/search?q=\x22night+bus\x22" "Mozilla/5.0 (Windows NT 10.0; rv:123.0) Gecko/20100101 Firefox/123.0" 0.301"#
        ),
        // Cut off inside the user agent, as when a disk is full.
        3 => format!(
            r#"198.18.0.3 - - [{utc} +0000] "GET /sport/ HTTP/2.0" 200 80211 "https://example.com/" "Mozilla/5.0 (Windows NT 10.0; Wi"#
        ),
        4 => format!(
            r#"198.18.0.4 - - [{} +0530] "GET / HTTP/2.0" 200 91003 "https://bücher.example/liste" "Mozilla/5.0 (X11; Linux x86_64; rv:123.0) Gecko/20100101 Firefox/123.0" 0.088"#,
            clock(time_ms, 330)?
        ),
        5 => format!(
            r#"2001:db8::5 - - [{} -0800] "GET /feed.xml HTTP/1.1" 304 - "-" "-" 0.004"#,
            clock(time_ms, -480)?
        ),
        // Not a request log at all.
        6 => format!("{utc} [notice] 4711#0: signal process started"),
        // Common Log Format: a server that was not told to log referrers.
        7 => format!(r#"198.18.0.7 - - [{utc} +0000] "GET /culture/ HTTP/1.0" 200 60110"#),
        8 => format!(
            r#"198.18.0.8 - - [{utc} +0000] "POST /contact HTTP/1.1" 200 512 "https://www.example.com:443/contact" "Reader \\ Writer" 1.250"#
        ),
        _ => format!(
            r#"198.18.0.9 - - [{utc} +0000] "GET /assets/site.css HTTP/1.1" 200 4096 "http://reader@forum.example/\"x\"" "curl/8.5.0" 0.002"#
        ),
    })
}

/// The time as logs print it, so many minutes east of Greenwich.
fn clock(time_ms: i64, offset_minutes: i64) -> anyhow::Result<String> {
    let local = Timestamp::from_millisecond(time_ms + offset_minutes * 60_000)?;
    Ok(local.strftime("%d/%b/%Y:%H:%M:%S").to_string())
}
