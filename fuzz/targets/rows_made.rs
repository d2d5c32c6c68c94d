//! Rows of any fields, past the encoding of the batch that they are in.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidemark_fuzz::counting::{self, NOW};
use tidemark_proto::v1;
use v1::event::{DimensionsEntry, ValuesEntry};

/// Names that the schema has, and one that it has not.
const DIMENSIONS: [&str; 8] =
    ["device", "browser", "country", "channel", "referrer", "campaign", "section", "planet"];
const VALUES: [&str; 4] = ["load_ms", "bytes", "engaged_ms", "weight"];

#[derive(Arbitrary, Debug)]
struct Batch<'a> {
    sealed_ago_ms: Option<i16>,
    rows: Vec<Row<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Row<'a> {
    /// Of few sites, mostly; then lanes and limits matter.
    site: Option<&'a [u8]>,
    url: Url<'a>,
    ago_ms: Time,
    kind: Option<&'a [u8]>,
    visitor: Option<&'a [u8]>,
    visitor_hash: u64,
    dimensions: Vec<(Name<'a>, &'a [u8])>,
    values: Vec<(Name<'a>, i64)>,
}

#[derive(Arbitrary, Debug)]
enum Url<'a> {
    Path(&'a str),
    Full(&'a str),
    Any(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Time {
    Ago(u32),
    At(i64),
}

#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Known(u8),
    Any(&'a [u8]),
}

impl Name<'_> {
    fn of(&self, known: &[&'static str]) -> Bytes {
        match self {
            Self::Known(at) => Bytes::from_static(known[usize::from(*at) % known.len()].as_bytes()),
            Self::Any(name) => Bytes::copy_from_slice(name),
        }
    }
}

impl Row<'_> {
    fn to_event(&self) -> v1::Event {
        let bytes = |text: Option<&[u8]>| text.map(Bytes::copy_from_slice).unwrap_or_default();
        let site = self.site.map_or(Bytes::from_static(b"a.example"), Bytes::copy_from_slice);
        v1::Event {
            site,
            url: match self.url {
                Url::Path(path) => format!("/{path}").into(),
                Url::Full(rest) => format!("https://a.example/{rest}").into(),
                Url::Any(url) => Bytes::copy_from_slice(url),
            },
            time_ms: match self.ago_ms {
                Time::Ago(ms) => NOW.as_unix_ms() - i64::from(ms),
                Time::At(ms) => ms,
            },
            kind: bytes(self.kind),
            visitor: bytes(self.visitor),
            visitor_hash: self.visitor_hash,
            dimensions: self
                .dimensions
                .iter()
                .map(|(name, value)| DimensionsEntry {
                    key: name.of(&DIMENSIONS),
                    value: Bytes::copy_from_slice(value),
                })
                .collect(),
            values: self
                .values
                .iter()
                .map(|(name, value)| ValuesEntry { key: name.of(&VALUES), value: *value })
                .collect(),
        }
    }
}

fuzz_target!(|batch: Batch<'_>| {
    let sealed_at_ms = batch.sealed_ago_ms.map_or(0, |ms| NOW.as_unix_ms() - i64::from(ms));
    let events = batch.rows.iter().map(Row::to_event).collect();
    let producer = Bytes::from_static(&[7; 16]);
    counting::take_batch(&v1::EventBatch { producer, seq: 1, sealed_at_ms, events });
});
