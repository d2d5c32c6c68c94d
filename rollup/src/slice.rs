//! A block reduced to one bucket, as the archive keeps it.
//!
//! Owns: which part of a block belongs to a bucket, and writing that part as a block of the same identity.
//! Does not own: where the parts are kept (`tidemark-history`).
//!
//! Events that were rejected when the block was counted are written as rejected: what is read back from the archive is
//! judged as it was then, whatever the rules are by now.
//!
//! Invariant: counting the slices of a block, each in its bucket, gives what counting the block gave.

use crate::block::{BlockError, BlockId, DecodedBlock, MAX_BLOCK_COLUMNS, lengths_column};
use crate::shard::{ShardRules, judge};
use crate::time::BucketStart;
use crate::wire::{id_column, uint_column};
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;
use tidemark_proto::v1;

/// The part of `block` that counts in `bucket`, or is in its receipt.
///
/// # Errors
/// Where the block cannot be read.
pub fn slice(block: &v1::Block, bucket: BucketStart, rules: &ShardRules) -> Result<v1::Block, BlockError> {
    let mut decoded = DecodedBlock::default();
    BlockId::of(block, rules.shards)?;
    decoded.read(block, rules.shards)?;
    let mut events = Vec::new();
    let mut judged_now: BTreeMap<(u32, i32), u32> = BTreeMap::new();
    let mut whole = decoded.rejected.iter().all(|rejected| rejected.bucket == bucket);
    for event in 0..decoded.len() {
        match judge(rules.times, &decoded, event) {
            Ok(of) if of == bucket => events.push(event),
            Ok(_) => whole = false,
            Err((of, reason)) => {
                whole = false;
                if of == bucket {
                    let site = decoded.pages[decoded.page[event] as usize].site;
                    *judged_now.entry((site, reason.into())).or_default() += 1;
                }
            }
        }
    }
    if whole {
        return Ok(block.clone());
    }
    let mut rejected: BTreeMap<(&str, i32), u32> = BTreeMap::new();
    let before = decoded.rejected.iter().filter(|rejected| rejected.bucket == bucket);
    for part in before {
        *rejected.entry((&part.site, part.reason.into())).or_default() += part.events;
    }
    for ((site, reason), events) in judged_now {
        *rejected.entry((decoded.text(site), reason)).or_default() += events;
    }
    let rejected = rejected.into_iter().map(|((site, reason), events)| v1::Rejected {
        site: site.to_owned(),
        bucket_start_s: bucket.as_unix_seconds(),
        reason,
        events,
    });
    let columns = Slicer::new(&decoded).columns(&events, rejected.collect());
    Ok(v1::Block {
        event_count: events.len() as u32,
        columns: columns.encode_to_vec().into(),
        ..block.clone()
    })
}

/// Writes some events of a block, with the texts that these use.
struct Slicer<'a> {
    block: &'a DecodedBlock,
    /// Per text of the block its id in the slice, plus one.
    local: Vec<u32>,
    texts: Vec<u32>,
}

impl<'a> Slicer<'a> {
    fn new(block: &'a DecodedBlock) -> Self {
        let mut slicer = Self { block, local: vec![0; block.text_count()], texts: Vec::new() };
        slicer.text(0);
        slicer
    }

    fn text(&mut self, text: u32) -> u32 {
        let local = &mut self.local[text as usize];
        if *local == 0 {
            self.texts.push(text);
            *local = self.texts.len() as u32;
        }
        *local - 1
    }

    fn columns(mut self, events: &[usize], rejected: Vec<v1::Rejected>) -> v1::Columns {
        let block = self.block;
        let first_time = events.iter().map(|&at| block.time_ms[at]).min().unwrap_or(0);
        let (mut sites, mut urls): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut page_ids: Vec<Option<u32>> = vec![None; block.pages.len()];
        let mut pages = Vec::with_capacity(events.len());
        for &at in events {
            let page = block.page[at] as usize;
            let id = match page_ids[page] {
                Some(id) => id,
                None => {
                    sites.push(u64::from(self.text(block.pages[page].site)));
                    urls.push(u64::from(self.text(block.pages[page].url)));
                    *page_ids[page].insert(sites.len() as u32 - 1)
                }
            };
            pages.push(id);
        }
        let times: Vec<u64> = events.iter().map(|&at| block.time_ms[at].abs_diff(first_time)).collect();
        let kinds: Vec<u32> = events.iter().map(|&at| self.text(block.kind[at])).collect();
        let visitors: Vec<u64> = events.iter().map(|&at| block.visitor[at]).collect();
        let mut dimensions = Vec::with_capacity(MAX_BLOCK_COLUMNS.min(block.dimensions.len()));
        for dimension in &block.dimensions {
            let ids: Vec<u32> = events.iter().map(|&at| self.text(dimension.ids[at])).collect();
            dimensions.push((&dimension.name, id_column(&ids)));
        }
        let values = block.values.iter().map(|value| {
            let plus_one: Vec<u64> = events.iter().map(|&at| value.plus_one[at]).collect();
            (&value.name, uint_column(&plus_one))
        });
        let values = named(values.collect());
        let dimensions = named(dimensions);
        let lengths: Vec<u64> = self.texts.iter().map(|&text| block.text(text).len() as u64).collect();
        let dictionary: String = self.texts.iter().map(|&text| block.text(text)).collect();
        let pages_column = |ids: &[u64]| if ids.is_empty() { Bytes::new() } else { lengths_column(ids) };
        v1::Columns {
            dictionary: dictionary.into(),
            dictionary_lengths: lengths_column(&lengths),
            page_site: pages_column(&sites),
            page_url: pages_column(&urls),
            page: id_column(&pages),
            base_time_ms: first_time,
            time: uint_column(&times),
            kind: id_column(&kinds),
            visitor: uint_column(&visitors),
            dimensions,
            values,
            rejected,
        }
    }
}

/// The columns in which something is set.
fn named(columns: Vec<(&String, Bytes)>) -> Vec<v1::Column> {
    let set = columns.into_iter().filter(|(_, data)| !data.is_empty());
    set.map(|(name, data)| v1::Column { name: name.clone(), data }).collect()
}
