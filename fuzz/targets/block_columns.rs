//! Blocks of any columns, past the encoding of the messages that they are in.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tidemark_fuzz::counting::{self, NOW, shards};
use tidemark_proto::v1;

#[derive(Arbitrary, Debug)]
struct Columns<'a> {
    events: u8,
    /// Of a text each; the first is the empty one, as it has to be.
    texts: Vec<&'a str>,
    /// Where the dictionary is something else.
    dictionary: Option<(&'a [u8], &'a [u8])>,
    pages: Vec<(u8, u8)>,
    page: Column<'a>,
    kind: Column<'a>,
    visitor: Column<'a>,
    time: Column<'a>,
    base_ago_ms: i64,
    dimensions: Vec<(&'a str, Column<'a>)>,
    values: Vec<(&'a str, Column<'a>)>,
    rejected: Vec<(&'a str, u16, u8, u32)>,
}

#[derive(Arbitrary, Debug)]
enum Column<'a> {
    None,
    Same(u8),
    Bytes(&'a [u8]),
}

impl Column<'_> {
    fn to_bytes(&self, events: u8) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::Same(value) => vec![*value; usize::from(events)].into(),
            Self::Bytes(bytes) => Bytes::copy_from_slice(bytes),
        }
    }
}

impl Columns<'_> {
    fn to_wire(&self) -> v1::Columns {
        let texts = || ["", "a.example", "/", "view"].into_iter().chain(self.texts.iter().copied());
        let lengths = [2].into_iter().chain(texts().flat_map(|text| (text.len() as u16).to_le_bytes()));
        let (dictionary, dictionary_lengths) = match self.dictionary {
            Some((texts, lengths)) => (Bytes::copy_from_slice(texts), Bytes::copy_from_slice(lengths)),
            None => (texts().collect::<String>().into(), lengths.collect()),
        };
        let ids = |of: fn(&(u8, u8)) -> u8| [1].into_iter().chain(self.pages.iter().map(of)).collect();
        let named = |columns: &[(&str, Column<'_>)]| {
            let column = |(name, column): &(&str, Column<'_>)| v1::Column {
                name: (*name).to_owned(),
                data: column.to_bytes(self.events),
            };
            columns.iter().map(column).collect()
        };
        let rejected = |&(site, bucket, reason, events): &(&str, u16, u8, u32)| v1::Rejected {
            site: site.to_owned(),
            bucket_start_s: u32::from(bucket) * 300,
            reason: i32::from(reason),
            events,
        };
        v1::Columns {
            dictionary,
            dictionary_lengths,
            page_site: ids(|page| page.0),
            page_url: ids(|page| page.1),
            page: self.page.to_bytes(self.events),
            kind: self.kind.to_bytes(self.events),
            visitor: self.visitor.to_bytes(self.events),
            time: self.time.to_bytes(self.events),
            base_time_ms: NOW.as_unix_ms().saturating_sub(self.base_ago_ms),
            dimensions: named(&self.dimensions),
            values: named(&self.values),
            rejected: self.rejected.iter().map(rejected).collect(),
        }
    }
}

fuzz_target!(|columns: Columns<'_>| {
    let block = v1::Block {
        producer: Bytes::from_static(&[7; 16]),
        shard: 0,
        seq: 1,
        sealed_at_ms: NOW.as_unix_ms(),
        event_count: u32::from(columns.events),
        columns: columns.to_wire().encode_to_vec().into(),
    };
    counting::take_block(&block, shards(1));
});
