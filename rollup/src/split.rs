//! Rows into blocks.
//!
//! Owns: checking each event of a batch, and putting the good ones into one block per shard.
//! Does not own: sending the blocks, and counting them.
//!
//! Invariants:
//! * The same batch makes the same blocks, byte for byte, whoever splits it under the same rules, if it says when it was
//!   sealed. (If it does not, the moment of receipt stands in, and only the identities are the same.)
//! * Every event is in exactly one block, or rejected with a reason; never both, never neither.
//! * A bad event does not touch its neighbours.

mod spread;

use crate::block::{MAX_BLOCK_COLUMNS, MAX_BLOCK_EVENTS, ProducerId, lengths_column};
use crate::canonical::{self, KeepParams};
use crate::dictionary::{Dictionary, mix};
use crate::event::{MAX_DIMENSION_BYTES, MAX_KIND_BYTES, MAX_VALUE, TimeRules, visitor_hash};
use crate::lanes::LaneRules;
use crate::schema::Schema;
use crate::sharding::{ShardCount, ShardId, page_hash};
use crate::time::{BucketStart, EventTime};
use crate::wire::{id_column, uint_column};
use bytes::Bytes;
use hashbrown::HashTable;
use prost::Message as _;
use std::collections::BTreeMap;
use tidemark_proto::v1;
use tidemark_proto::v1::{IgnoredWhy, Reason};
use xxhash_rust::xxh3::xxh3_64;

/// At most so many ignored names are listed in an acknowledgement; further ones are under the empty name.
const MAX_IGNORED_NAMES: usize = 64;

/// What a batch is split by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Dimensions and values outside are reported as ignored. Up to 64 of each ride along all the same: whoever counts the
    /// block leaves out what it does not know, and a later schema can have them from the archive.
    pub schema: Option<&'a Schema>,
    /// Query parameters that stay in URLs.
    pub keep_params: &'a KeepParams,
    /// Which times are acceptable.
    pub times: TimeRules,
    /// The cluster's shards.
    pub shards: ShardCount,
}

/// A batch as blocks.
#[derive(Debug, Default)]
pub struct Split {
    /// At most one per shard, by ascending shard.
    pub blocks: Vec<v1::Block>,
    /// Events in no block, by ascending index.
    pub rejected: Vec<v1::Rejection>,
    /// Dimensions and values that were left out, by name.
    pub ignored: Vec<v1::Ignored>,
}

/// Why a whole batch is refused. No event of it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Send batches with events.
    #[error("the batch has no events")]
    Empty,
    /// Make producer ids of 16 random bytes.
    #[error("the producer id has {0} bytes instead of 16")]
    Producer(usize),
    /// Make smaller batches.
    #[error("the batch has {0} events; at most {MAX_BLOCK_EVENTS} are possible")]
    TooManyEvents(usize),
    /// Mend the producer's clock, or raise `accept_late`.
    #[error("{0}")]
    SealTime(&'static str),
}

/// Splits `batch`, received at `now`, into blocks.
///
/// # Errors
/// Where the batch as a whole cannot be taken.
pub fn split(batch: &v1::EventBatch, rules: &Rules<'_>, now: EventTime) -> Result<Split, BatchError> {
    split_with(LaneRules::default(), batch, rules, now)
}

/// As [`split`], with other rules for lanes than all who split batches go by. For tests: batches of a few events have lanes.
///
/// # Errors
/// As there.
pub fn split_with(
    lanes: LaneRules,
    batch: &v1::EventBatch,
    rules: &Rules<'_>,
    now: EventTime,
) -> Result<Split, BatchError> {
    if batch.events.is_empty() {
        return Err(BatchError::Empty);
    }
    if batch.events.len() > MAX_BLOCK_EVENTS {
        return Err(BatchError::TooManyEvents(batch.events.len()));
    }
    let producer =
        ProducerId::from_wire(&batch.producer).ok_or(BatchError::Producer(batch.producer.len()))?;
    let sealed_at = match batch.sealed_at_ms {
        0 => now,
        ms => EventTime::from_unix_ms(ms),
    };
    rules.times.judge_seal(sealed_at, now).map_err(BatchError::SealTime)?;

    let mut reader = BatchReader::new(rules, sealed_at);
    for (index, event) in batch.events.iter().enumerate() {
        reader.read(index as u32, event);
    }
    reader.spread_over_lanes(lanes, batch.events.len());
    Ok(reader.into_split(producer, batch.seq))
}

/// An event that counts, its texts interned in the batch's dictionary.
struct ReadEvent {
    page: u32,
    time_ms: i64,
    kind: u32,
    visitor: u64,
    /// End of its part of `BatchReader::dimensions` and of `values`; it begins where the one before ends.
    dimensions_end: u32,
    values_end: u32,
}

/// A distinct (site, URL) of the batch as sent.
struct RawPage {
    hash: u64,
    site: Bytes,
    url: Bytes,
    read: Result<ReadPage, Reason>,
}

/// The same made canonical, once.
#[derive(Clone, Copy)]
struct ReadPage {
    site: u32,
    url: u32,
    shard: ShardId,
    campaign: Option<u32>,
    channel: Option<u32>,
}

struct BatchReader<'a> {
    rules: &'a Rules<'a>,
    sealed_at: EventTime,
    texts: Dictionary,
    pages: Vec<RawPage>,
    page_index: HashTable<u32>,
    /// By page: its events, those that do not count among them.
    page_events: Vec<usize>,
    /// Names of dimensions and values, in the order they came.
    dimension_names: Dictionary,
    value_names: Dictionary,
    events: Vec<ReadEvent>,
    /// (name, text) of all events, end to end.
    dimensions: Vec<(u32, u32)>,
    /// (name, value) likewise.
    values: Vec<(u32, u64)>,
    rejected: Vec<v1::Rejection>,
    rejected_by: BTreeMap<(String, BucketStart, i32), u32>,
    ignored: BTreeMap<(i32, String), u32>,
}

impl<'a> BatchReader<'a> {
    fn new(rules: &'a Rules<'a>, sealed_at: EventTime) -> Self {
        let mut texts = Dictionary::default();
        texts.intern("");
        let (mut dimension_names, mut value_names) = (Dictionary::default(), Dictionary::default());
        if let Some(schema) = rules.schema {
            // First, so that names from outside the schema cannot take their room.
            schema.dimensions().iter().for_each(|name| _ = dimension_names.intern(name));
            let values = schema.measures().iter().filter_map(|measure| measure.source.value());
            values.for_each(|name| _ = value_names.intern(name));
        }
        Self {
            rules,
            sealed_at,
            texts,
            pages: Vec::new(),
            page_index: HashTable::new(),
            page_events: Vec::new(),
            dimension_names,
            value_names,
            events: Vec::new(),
            dimensions: Vec::new(),
            values: Vec::new(),
            rejected: Vec::new(),
            rejected_by: BTreeMap::new(),
            ignored: BTreeMap::new(),
        }
    }

    fn read(&mut self, index: u32, event: &v1::Event) {
        if let Err(reason) = self.try_read(event) {
            self.rejected.push(v1::Rejection { index, reason: reason.into() });
            let site = std::str::from_utf8(&event.site).ok().and_then(|site| canonical::site(site).ok());
            let time = self.time_of(event);
            let holdable = (EventTime::EPOCH..=EventTime::MAX).contains(&time);
            let bucket = BucketStart::containing(if holdable { time } else { self.sealed_at });
            let key = (site.unwrap_or_default().into_owned(), bucket, reason.into());
            *self.rejected_by.entry(key).or_default() += 1;
        }
    }

    fn time_of(&self, event: &v1::Event) -> EventTime {
        match event.time_ms {
            0 => self.sealed_at,
            ms => EventTime::from_unix_ms(ms),
        }
    }

    fn try_read(&mut self, event: &v1::Event) -> Result<(), Reason> {
        let page = self.page(&event.site, &event.url)?;
        let kind = match text(&event.kind)? {
            "" => "view",
            kind if kind.len() > MAX_KIND_BYTES => return Err(Reason::KindTooLong),
            kind => kind,
        };
        let time = self.time_of(event);
        self.rules.times.judge(time, self.sealed_at)?;
        let (dimensions_before, values_before) = (self.dimensions.len(), self.values.len());
        if let Err(reason) = self.read_values(event).and_then(|()| self.read_dimensions(event, page)) {
            self.dimensions.truncate(dimensions_before);
            self.values.truncate(values_before);
            return Err(reason);
        }
        let visitor = match event.visitor.is_empty() {
            true => event.visitor_hash,
            false => visitor_hash(&event.visitor),
        };
        self.events.push(ReadEvent {
            page,
            time_ms: time.as_unix_ms(),
            kind: self.texts.intern(kind),
            visitor,
            dimensions_end: self.dimensions.len() as u32,
            values_end: self.values.len() as u32,
        });
        Ok(())
    }

    fn page(&mut self, site: &Bytes, url: &Bytes) -> Result<u32, Reason> {
        let hash = mix(xxh3_64(site)) ^ xxh3_64(url);
        let pages = &mut self.pages;
        let same = |&id: &u32| pages[id as usize].url == url && pages[id as usize].site == site;
        let id = match self.page_index.find(hash, same) {
            Some(&id) => id,
            None => {
                let id = pages.len() as u32;
                let read = read_page(&mut self.texts, site, url, self.rules);
                pages.push(RawPage { hash, site: site.clone(), url: url.clone(), read });
                self.page_events.push(0);
                self.page_index.insert_unique(hash, id, |&id| pages[id as usize].hash);
                id
            }
        };
        self.page_events[id as usize] += 1;
        match &pages[id as usize].read {
            Ok(_) => Ok(id),
            Err(reason) => Err(*reason),
        }
    }

    fn read_values(&mut self, event: &v1::Event) -> Result<(), Reason> {
        for entry in &event.values {
            let name = text(&entry.key)?;
            // Whatever its name: who knows no schema, or another one, has to split the batch alike.
            match entry.value {
                ..0 => return Err(Reason::NegativeValue),
                0..=MAX_VALUE => {}
                _ => return Err(Reason::ValueTooLarge),
            }
            let is_read = self.rules.schema.is_none_or(|schema| schema.reads_value(name));
            let id = name_id(&mut self.value_names, name);
            if !is_read || id.is_none() {
                self.ignore(IgnoredWhy::UnknownValue, name);
            }
            // Also what no measure reads yet.
            self.values.extend(id.map(|id| (id, entry.value as u64 + 1)));
        }
        Ok(())
    }

    fn read_dimensions(&mut self, event: &v1::Event, page: u32) -> Result<(), Reason> {
        // What the URL says comes first, so that what the event says wins.
        if let Ok(page) = &self.pages[page as usize].read {
            for (name, value) in [("campaign", page.campaign), ("channel", page.channel)] {
                if let Some(value) = value
                    && let Some(id) = name_id(&mut self.dimension_names, name)
                {
                    self.dimensions.push((id, value));
                }
            }
        }
        for entry in &event.dimensions {
            let (name, value) = (text(&entry.key)?, text(&entry.value)?);
            let known = self.rules.schema.is_none_or(|schema| schema.dimension_index(name).is_some());
            if !known {
                self.ignore(IgnoredWhy::UnknownDimension, name);
            }
            if value.len() > MAX_DIMENSION_BYTES {
                if known {
                    self.ignore(IgnoredWhy::DimensionTooLong, name);
                }
            } else if let Some(id) = name_id(&mut self.dimension_names, name) {
                let value = self.texts.intern(value);
                self.dimensions.push((id, value));
            } else if known {
                self.ignore(IgnoredWhy::UnknownDimension, name);
            }
        }
        Ok(())
    }

    fn ignore(&mut self, why: IgnoredWhy, name: &str) {
        let cut = name.floor_char_boundary(64);
        let mut key = (i32::from(why), name[..cut].to_owned());
        if self.ignored.len() >= MAX_IGNORED_NAMES && !self.ignored.contains_key(&key) {
            key.1.clear();
        }
        *self.ignored.entry(key).or_default() += 1;
    }

    fn into_split(mut self, producer: ProducerId, seq: u64) -> Split {
        let mut by_shard: BTreeMap<ShardId, Vec<u32>> = BTreeMap::new();
        for (at, event) in self.events.iter().enumerate() {
            if let Ok(page) = &self.pages[event.page as usize].read {
                by_shard.entry(page.shard).or_default().push(at as u32);
            }
        }
        // What a site's events were rejected for rides with the site's front page.
        let mut rejected_by_shard: BTreeMap<ShardId, Vec<v1::Rejected>> = BTreeMap::new();
        for ((site, bucket, reason), events) in std::mem::take(&mut self.rejected_by) {
            let shard = self.rules.shards.shard_of(page_hash(&site, "/"));
            let rejected = v1::Rejected { site, bucket_start_s: bucket.as_unix_seconds(), reason, events };
            rejected_by_shard.entry(shard).or_default().push(rejected);
            by_shard.entry(shard).or_default();
        }
        let mut builder = BlockBuilder::default();
        let blocks = by_shard.into_iter().map(|(shard, events)| {
            let rejected = rejected_by_shard.remove(&shard).unwrap_or_default();
            let columns = builder.build(&self, &events, rejected);
            v1::Block {
                producer: producer.to_wire(),
                shard: shard.get(),
                seq,
                sealed_at_ms: self.sealed_at.as_unix_ms(),
                event_count: events.len() as u32,
                columns: columns.encode_to_vec().into(),
            }
        });
        let blocks = blocks.collect();
        let ignored = self.ignored.into_iter().map(|((why, name), events)| v1::Ignored { name, why, events });
        Split { blocks, rejected: self.rejected, ignored: ignored.collect() }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Reason> {
    std::str::from_utf8(bytes).map_err(|_| Reason::InvalidUtf8)
}

/// The id of a name, unless there are as many as a block can have.
fn name_id(names: &mut Dictionary, name: &str) -> Option<u32> {
    match names.find(name) {
        None if names.len() >= MAX_BLOCK_COLUMNS => None,
        Some(id) => Some(id),
        None => Some(names.intern(name)),
    }
}

fn read_page(texts: &mut Dictionary, site: &[u8], url: &[u8], rules: &Rules<'_>) -> Result<ReadPage, Reason> {
    let site = canonical::site(text(site)?)?;
    let url = canonical::url(&site, text(url)?, rules.keep_params)?;
    let shard = rules.shards.shard_of(page_hash(&site, &url.url));
    let fits = |text: &String| text.len() <= MAX_DIMENSION_BYTES;
    Ok(ReadPage {
        site: texts.intern(&site),
        url: texts.intern(&url.url),
        shard,
        campaign: url.campaign.filter(fits).map(|campaign| texts.intern(&campaign)),
        channel: url.channel.filter(fits).map(|channel| texts.intern(&channel)),
    })
}

/// Puts the events of one shard into columns. Reused from shard to shard.
#[derive(Default)]
struct BlockBuilder {
    /// By id in the batch's dictionary: id in the block's, plus one.
    local_texts: Vec<u32>,
    /// The texts that the block has, by their ids in the batch's dictionary.
    block_texts: Vec<u32>,
}

impl BlockBuilder {
    fn build(&mut self, batch: &BatchReader<'_>, events: &[u32], rejected: Vec<v1::Rejected>) -> v1::Columns {
        self.start(batch.texts.len());
        let first_time = events.iter().map(|&at| batch.events[at as usize].time_ms).min().unwrap_or(0);
        let len = events.len();
        let mut pages: Vec<(u64, u64)> = Vec::new();
        let mut page_ids: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        let (mut page, mut time, mut kind, mut visitor) =
            (vec![0; len], vec![0; len], vec![0; len], vec![0; len]);
        let mut dimensions = vec![Vec::new(); batch.dimension_names.len()];
        let mut values = vec![Vec::new(); batch.value_names.len()];
        for (row, &at) in events.iter().enumerate() {
            let event = &batch.events[at as usize];
            if let Ok(read) = &batch.pages[event.page as usize].read {
                // Two spellings of one URL are one page.
                page[row] = *page_ids.entry((read.site, read.url)).or_insert_with(|| {
                    pages.push((u64::from(self.local(read.site)), u64::from(self.local(read.url))));
                    pages.len() as u32 - 1
                });
            }
            time[row] = event.time_ms.abs_diff(first_time);
            kind[row] = self.local(event.kind);
            visitor[row] = event.visitor;
            let before = at.checked_sub(1).map(|before| &batch.events[before as usize]);
            let (dimensions_from, values_from) =
                before.map_or((0, 0), |before| (before.dimensions_end, before.values_end));
            for &(name, text) in &batch.dimensions[dimensions_from as usize..event.dimensions_end as usize] {
                let local = self.local(text);
                set(&mut dimensions[name as usize], len, row, local);
            }
            for &(name, value) in &batch.values[values_from as usize..event.values_end as usize] {
                set(&mut values[name as usize], len, row, value);
            }
        }
        let lengths: Vec<u64> =
            self.block_texts.iter().map(|&text| batch.texts.get(text).len() as u64).collect();
        let dictionary: String = self.block_texts.iter().map(|&text| batch.texts.get(text)).collect();
        v1::Columns {
            dictionary: dictionary.into(),
            dictionary_lengths: lengths_column(&lengths),
            page_site: lengths_column_of(&pages, |page| page.0),
            page_url: lengths_column_of(&pages, |page| page.1),
            page: id_column(&page),
            base_time_ms: first_time,
            time: uint_column(&time),
            kind: id_column(&kind),
            visitor: uint_column(&visitor),
            dimensions: named(&batch.dimension_names, &dimensions, id_column),
            values: named(&batch.value_names, &values, uint_column),
            rejected,
        }
    }

    fn start(&mut self, texts: usize) {
        for &text in &self.block_texts {
            self.local_texts[text as usize] = 0;
        }
        self.local_texts.resize(texts, 0);
        self.block_texts.clear();
        self.local(0);
    }

    /// The block's id of a text, which joins the block's dictionary where it is new.
    fn local(&mut self, text: u32) -> u32 {
        let local = &mut self.local_texts[text as usize];
        if *local == 0 {
            self.block_texts.push(text);
            *local = self.block_texts.len() as u32;
        }
        *local - 1
    }
}

/// Sets one row of a column that exists only where some row is set.
fn set<T: Clone + Default>(column: &mut Vec<T>, len: usize, row: usize, value: T) {
    if column.is_empty() {
        column.resize(len, T::default());
    }
    column[row] = value;
}

fn lengths_column_of(pages: &[(u64, u64)], part: impl Fn(&(u64, u64)) -> u64) -> Bytes {
    if pages.is_empty() {
        return Bytes::new();
    }
    lengths_column(&pages.iter().map(part).collect::<Vec<_>>())
}

fn named<T>(names: &Dictionary, columns: &[Vec<T>], encode: impl Fn(&[T]) -> Bytes) -> Vec<v1::Column> {
    let columns = names.iter().zip(columns).map(|(name, column)| (name, encode(column)));
    columns
        .filter(|(_, data)| !data.is_empty())
        .map(|(name, data)| v1::Column { name: name.to_owned(), data })
        .collect()
}
