//! Values of settings as text.
//!
//! Owns: how lengths of time, sizes, addresses, members and lists of measures are spelled, and errors that say what
//! would be valid.
//! Does not own: which settings there are (`settings`), names and measures themselves (`tidemark_rollup`).

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_edge::Sites;
use tidemark_history::store::Location;
use tidemark_journal::{SyncPolicy, SyncPolicyError};
use tidemark_rollup::canonical::{self, KeepParams};
use tidemark_rollup::member::{NodeId, Zone, ZoneError};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::schema::Measure;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::parse_offset;
use tracing_subscriber::EnvFilter;

/// The longest that anything may be waited for.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) u64);

/// Units of sizes, and how many bytes each is.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    // Last: the others end in it.
    ("B", 1),
];

/// Parses a size: a whole number and a unit. `KiB`, `MiB`, `GiB` and `TiB` are powers of 1024; `KB`, `MB`, `GB` and `TB`
/// are powers of 1000; `B` is a byte. Upper and lower case are the same, and a space may stand between.
///
/// # Errors
/// Says what would be valid.
pub(crate) fn size(text: &str) -> Result<Bytes, String> {
    let error =
        || format!("{text:?} is no size: give a whole number and B, KiB, MiB, GiB or TiB, like 64MiB");
    let lower = text.to_ascii_lowercase();
    let by_unit = SIZE_UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((lower.strip_suffix(&unit.to_ascii_lowercase())?, bytes)));
    let (number, unit_bytes) = by_unit.ok_or_else(error)?;
    let number = number.trim();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let number: u64 = number.parse().map_err(|_| error())?;
    number.checked_mul(*unit_bytes).map(Bytes).ok_or_else(error)
}

/// Parses a size that is at least one batch, so that every batch can get in.
pub(crate) fn size_of_batches(text: &str) -> Result<Bytes, String> {
    let bytes = size(text)?;
    let least = tidemark_proto::MAX_BATCH_BYTES as u64;
    match bytes.0 >= least {
        true => Ok(bytes),
        false => Err(format!("{text} is less than one batch: give at least {}MiB", least >> 20)),
    }
}

/// Parses a length of time: `90s`, `48h`, `1h 30m`, `20years`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!("{text:?} is no length of time: give a number and a unit, like 500ms, 2s, 48h or 20years")
    })
}

/// Parses how long something may take: more than nothing, and at most an hour.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    match !timeout.is_zero() && timeout <= MAX_TIMEOUT {
        true => Ok(timeout),
        false => Err(format!("{text:?} is no time limit: give more than 0s and at most 1h")),
    }
}

/// Checks a length of time as queries spell it: `30m`, `7d`.
pub(crate) fn offset(text: &str) -> Result<String, String> {
    parse_offset(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses an address to listen on.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no address to listen on: give IP:PORT, like 127.0.0.1:7100 (0.0.0.0 is every interface)")
    })
}

/// Parses where a server is: a URL, or `host:port`.
pub(crate) fn server(text: &str) -> Result<String, String> {
    match text {
        "" => Err("is empty: give http://host:port".to_owned()),
        text if text.contains("://") => Ok(text.trim_end_matches('/').to_owned()),
        text => Ok(format!("http://{text}")),
    }
}

/// Parses where a collector of spans is.
pub(crate) fn collector(text: &str) -> Result<String, String> {
    let is_plain = text.strip_prefix("http://").is_some_and(|rest| !rest.trim_end_matches('/').contains('/'));
    match is_plain && text.len() > "http://".len() {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(format!(
            "{text:?} is no collector: give http://host:port, of one beside this process or near it"
        )),
    }
}

/// Parses a site in the form that is counted.
pub(crate) fn site(text: &str) -> Result<String, String> {
    let site = canonical::site(text).map(Cow::into_owned);
    site.map_err(|_| format!("{text:?} is no site: give a host name, like example.com"))
}

/// Parses a node's name.
pub(crate) fn node_id(text: &str) -> Result<NodeId, String> {
    NodeId::new(text).map_err(|error| error.to_string())
}

/// Checks `host:port`.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    let error =
        || format!("{text:?} is no address: write host:port, like 10.0.0.2:7100 or node-2.example:7100");
    let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
    let in_brackets = host.starts_with('[') && host.ends_with(']');
    let host_is_plain = !host.is_empty() && (in_brackets || !host.contains([':', '/', ' ']));
    match host_is_plain && port.parse::<u16>().is_ok_and(|port| port > 0) {
        true => Ok(text.to_owned()),
        false => Err(error()),
    }
}

/// Parses the name of a zone.
pub(crate) fn zone(text: &str) -> Result<Zone, String> {
    text.parse().map_err(|error: ZoneError| error.to_string())
}

/// Checks the secret of a cluster.
pub(crate) fn cluster_key(text: &str) -> Result<String, String> {
    match text.chars().count() >= 16 {
        true => Ok(text.to_owned()),
        false => Err("is too short: give at least 16 characters".to_owned()),
    }
}

/// Checks the secret that visitors are hashed with.
pub(crate) fn visitor_key(text: &str) -> Result<String, String> {
    cluster_key(text)
}

/// Checks `site` or `site=origin`.
pub(crate) fn edge_site(text: &str) -> Result<String, String> {
    Sites::parse([text]).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses the size of a body.
pub(crate) fn body_size(text: &str) -> Result<Bytes, String> {
    let (bytes, most) = (size(text)?, tidemark_proto::MAX_BATCH_BYTES as u64);
    match (1..=most).contains(&bytes.0) {
        true => Ok(bytes),
        false => Err(format!("{text} cannot be: give 1B to at most {}MiB", most >> 20)),
    }
}

/// Parses a number of owners.
pub(crate) fn replication(text: &str) -> Result<Replication, String> {
    let owners = text.parse().ok().and_then(Replication::new);
    owners.ok_or_else(|| format!("{text:?} is no number of owners: give 1 to {}", Replication::MAX))
}

/// Parses a number of shards.
pub(crate) fn shard_count(text: &str) -> Result<ShardCount, String> {
    let count = text.parse().ok().and_then(ShardCount::new);
    count.ok_or_else(|| {
        format!("{text:?} is no number of shards: give a power of two from 1 to {}", ShardCount::MAX)
    })
}

/// Checks `site:parameter`.
pub(crate) fn keep_param(text: &str) -> Result<String, String> {
    KeepParams::parse([text]).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Measures, as one text holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measures(pub(crate) Vec<Measure>);

/// A site, or `*` for all.
pub(crate) fn site_or_all(text: &str) -> Result<String, String> {
    if text == "*" { Ok(text.to_owned()) } else { site(text) }
}

/// Where history is.
pub(crate) fn location(text: &str) -> Result<Location, String> {
    match text.parse() {
        // It would be gone with the process, and rebuild and verify would never see it.
        Ok(Location::Memory) => Err("memory: is for tests; give a folder or s3://bucket/prefix".to_owned()),
        Ok(location) => Ok(location),
        Err(error) => Err(error.to_string()),
    }
}

/// When events are acknowledged.
pub(crate) fn sync_policy(text: &str) -> Result<SyncPolicy, String> {
    text.parse().map_err(|error: SyncPolicyError| error.to_string())
}

/// Parses measures separated by commas. Commas within parentheses are the measures' own.
pub(crate) fn measures(text: &str) -> Result<Measures, String> {
    let mut depth = 0;
    let separators = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    };
    let measures = text.split(separators).map(|measure| measure.trim().parse::<Measure>());
    measures.collect::<Result<_, _>>().map(Measures).map_err(|error| error.to_string())
}

/// Checks what is to be logged.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{text:?} is no log filter ({error}): give a level like info, or also by module: info,tidemark_node=debug"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("64MiB", 64 << 20),
            ("4GiB", 4 << 30),
            ("4 gib", 4 << 30),
            ("1TiB", 1 << 40),
            ("10kB", 10_000),
            ("3GB", 3_000_000_000),
            ("512b", 512),
        ] {
            assert_eq!(size(text), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "64", "MiB", "-1MiB", "1.5GiB", "64 M", "64MiBs", "99999999TiB", "１MiB"] {
            assert!(size(text).expect_err(text).contains("like 64MiB"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text in ".{0,12}") {
            let _ = size(&text);
        }

        #[test]
        fn any_text_is_a_list_of_measures_or_an_error(text in "[a-z=(), ]{0,30}") {
            let _ = measures(&text);
        }
    }

    #[test]
    fn a_size_that_no_batch_fits_into_is_refused() {
        assert!(size_of_batches("4MiB").is_ok());
        assert!(size_of_batches("4095KiB").unwrap_err().contains("at least 4MiB"));
    }

    #[test]
    fn lengths_of_time_need_a_unit() {
        assert_eq!(duration("48h"), Ok(Duration::from_secs(48 * 3600)));
        assert_eq!(duration("20years"), Ok(Duration::from_secs(20 * 31_557_600)));
        assert!(duration("48").unwrap_err().contains("like 500ms"));
        assert!(timeout("0s").unwrap_err().contains("more than 0s"));
        assert!(timeout("2h").unwrap_err().contains("at most 1h"));
    }

    #[test]
    fn a_member_is_a_host_and_a_port() {
        for text in ["10.0.0.2:7100", "node-2.internal:7100", "[::1]:7100"] {
            assert_eq!(host_port(text).as_deref(), Ok(text));
        }
        for text in
            ["n2", "10.0.0.2", "host:", "host:0", "host:http", "::1:7100", "a b:1", "http://h:1", ":1"]
        {
            host_port(text).expect_err(text);
        }
    }

    #[test]
    fn measures_are_separated_by_the_commas_outside_parentheses() {
        let Measures(parsed) = measures("views=count(view), read=sum(engaged_ms, engage)").unwrap();
        let names: Vec<String> = parsed.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["views=count(view)", "read=sum(engaged_ms, engage)"]);
        assert!(measures("views=count(view),").is_err());
    }

    #[test]
    fn a_server_without_a_scheme_is_reached_over_http() {
        assert_eq!(server("127.0.0.1:8100").unwrap(), "http://127.0.0.1:8100");
        assert_eq!(server("http://host:1/").unwrap(), "http://host:1");
    }

    #[test]
    fn shard_counts_are_powers_of_two() {
        assert_eq!(shard_count("64"), Ok(ShardCount::DEFAULT));
        for text in ["0", "3", "8192", "many"] {
            assert!(shard_count(text).expect_err(text).contains("power of two"));
        }
    }
}
