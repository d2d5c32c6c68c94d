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

mod columns;
mod names;
mod spread;

use crate::block::{MAX_BLOCK_EVENTS, ProducerId};
use crate::canonical::{self, KeepParams};
use crate::dictionary::{Dictionary, mix};
use crate::event::{MAX_DIMENSION_BYTES, MAX_KIND_BYTES, MAX_VALUE, TimeRules, visitor_hash};
use crate::event_ref::{EventForm, EventRef};
use crate::lanes::LaneRules;
use crate::schema::Schema;
use crate::sharding::{ShardCount, ShardId, page_hash};
use crate::time::{BucketStart, EventTime};
use bytes::Bytes;
use columns::BlockBuilder;
use hashbrown::HashTable;
use names::{Name, Names};
use prost::Message as _;
use std::borrow::Cow;
use std::collections::BTreeMap;
use tidemark_proto::encoded::EncodedBatch;
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

/// As [`split`], of a batch whose events are still encoded; one that is not an event is rejected as `unreadable`.
///
/// # Errors
/// As there.
pub fn split_encoded(batch: &EncodedBatch, rules: &Rules<'_>, now: EventTime) -> Result<Split, BatchError> {
    let EncodedBatch { producer, seq, sealed_at_ms, events } = batch;
    let head = Head { producer, seq: *seq, sealed_at_ms: *sealed_at_ms };
    split_events(head, events, LaneRules::default(), rules, now)
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
    let v1::EventBatch { producer, seq, sealed_at_ms, events } = batch;
    let head = Head { producer, seq: *seq, sealed_at_ms: *sealed_at_ms };
    split_events(head, events, lanes, rules, now)
}

/// What a batch says of all its events.
struct Head<'a> {
    producer: &'a Bytes,
    seq: u64,
    sealed_at_ms: i64,
}

/// Splits events of any form.
fn split_events(
    head: Head<'_>,
    events: &[impl EventForm],
    lanes: LaneRules,
    rules: &Rules<'_>,
    now: EventTime,
) -> Result<Split, BatchError> {
    if events.is_empty() {
        return Err(BatchError::Empty);
    }
    if events.len() > MAX_BLOCK_EVENTS {
        return Err(BatchError::TooManyEvents(events.len()));
    }
    let producer = ProducerId::from_wire(head.producer).ok_or(BatchError::Producer(head.producer.len()))?;
    let sealed_at = match head.sealed_at_ms {
        0 => now,
        ms => EventTime::from_unix_ms(ms),
    };
    rules.times.judge_seal(sealed_at, now).map_err(BatchError::SealTime)?;

    let mut reader = BatchReader::new(rules, sealed_at, events.len());
    let mut event = EventRef::default();
    for (index, form) in (0..).zip(events) {
        match form.read_into(&mut event) {
            Ok(()) => reader.read(index, &event),
            Err(reason) => reader.reject(index, &EventRef::default(), reason),
        }
    }
    reader.spread_over_lanes(lanes, events.len());
    Ok(reader.into_split(producer, head.seq))
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
struct RawPage<'a> {
    hash: u64,
    site: &'a [u8],
    url: &'a [u8],
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
    /// The site that was made canonical last, as sent and as it is then.
    last_site: Option<(&'a [u8], Cow<'a, str>)>,
    /// The kind that was interned last, as sent.
    last_kind: Option<(&'a [u8], u32)>,
    pages: Vec<RawPage<'a>>,
    page_index: HashTable<u32>,
    /// By page: its events, those that do not count among them.
    page_events: Vec<usize>,
    dimension_names: Names<'a>,
    value_names: Names<'a>,
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
    fn new(rules: &'a Rules<'a>, sealed_at: EventTime, events: usize) -> Self {
        let mut texts = Dictionary::default();
        texts.intern("");
        let (mut dimension_names, mut value_names) = (Names::default(), Names::default());
        if let Some(schema) = rules.schema {
            // First, so that names from outside the schema cannot take their room.
            schema.dimensions().iter().for_each(|name| _ = dimension_names.id(name));
            let values = schema.measures().iter().filter_map(|measure| measure.source.value());
            values.for_each(|name| _ = value_names.id(name));
        }
        Self {
            rules,
            sealed_at,
            texts,
            last_site: None,
            last_kind: None,
            pages: Vec::new(),
            page_index: HashTable::new(),
            page_events: Vec::new(),
            dimension_names,
            value_names,
            events: Vec::with_capacity(events),
            dimensions: Vec::new(),
            values: Vec::new(),
            rejected: Vec::new(),
            rejected_by: BTreeMap::new(),
            ignored: BTreeMap::new(),
        }
    }

    fn read(&mut self, index: u32, event: &EventRef<'a>) {
        if let Err(reason) = self.try_read(event) {
            self.reject(index, event, reason);
        }
    }

    fn reject(&mut self, index: u32, event: &EventRef<'_>, reason: Reason) {
        self.rejected.push(v1::Rejection { index, reason: reason.into() });
        let site = std::str::from_utf8(event.site).ok().and_then(|site| canonical::site(site).ok());
        let time = self.time_of(event);
        let holdable = (EventTime::EPOCH..=EventTime::MAX).contains(&time);
        let bucket = BucketStart::containing(if holdable { time } else { self.sealed_at });
        let key = (site.unwrap_or_default().into_owned(), bucket, reason.into());
        *self.rejected_by.entry(key).or_default() += 1;
    }

    fn time_of(&self, event: &EventRef<'_>) -> EventTime {
        match event.time_ms {
            0 => self.sealed_at,
            ms => EventTime::from_unix_ms(ms),
        }
    }

    fn try_read(&mut self, event: &EventRef<'a>) -> Result<(), Reason> {
        let page = self.page(event.site, event.url)?;
        let kind = self.kind(event.kind)?;
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
            false => visitor_hash(event.visitor),
        };
        self.events.push(ReadEvent {
            page,
            time_ms: time.as_unix_ms(),
            kind,
            visitor,
            dimensions_end: self.dimensions.len() as u32,
            values_end: self.values.len() as u32,
        });
        Ok(())
    }

    fn page(&mut self, site: &'a [u8], url: &'a [u8]) -> Result<u32, Reason> {
        let hash = mix(xxh3_64(site)) ^ xxh3_64(url);
        let pages = &mut self.pages;
        let same = |&id: &u32| pages[id as usize].url == url && pages[id as usize].site == site;
        let id = match self.page_index.find(hash, same) {
            Some(&id) => id,
            None => {
                let id = pages.len() as u32;
                let read = read_page(&mut self.texts, &mut self.last_site, site, url, self.rules);
                pages.push(RawPage { hash, site, url, read });
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

    fn kind(&mut self, kind: &'a [u8]) -> Result<u32, Reason> {
        if let Some((_, known)) = self.last_kind.filter(|(last, _)| *last == kind) {
            return Ok(known);
        }
        let id = match text(kind)? {
            "" => self.texts.intern("view"),
            kind if kind.len() > MAX_KIND_BYTES => return Err(Reason::KindTooLong),
            kind => self.texts.intern(kind),
        };
        self.last_kind = Some((kind, id));
        Ok(id)
    }

    fn read_values(&mut self, event: &EventRef<'a>) -> Result<(), Reason> {
        for (at, &(name, value)) in event.values.iter().enumerate() {
            // Whatever its name: who knows no schema, or another one, has to split the batch alike.
            let out_of_range = match value {
                ..0 => Some(Reason::NegativeValue),
                0..=MAX_VALUE => None,
                _ => Some(Reason::ValueTooLarge),
            };
            if let Some(reason) = out_of_range {
                return text(name).and(Err(reason));
            }
            let schema = self.rules.schema;
            let is_read = |name: &str| schema.is_none_or(|schema| schema.reads_value(name));
            let Name { id, is_known } = self.value_names.at(at, name, is_read)?;
            if !is_known || id.is_none() {
                self.ignore(IgnoredWhy::UnknownValue, name)?;
            }
            // Also what no measure reads yet.
            self.values.extend(id.map(|id| (id, value as u64 + 1)));
        }
        Ok(())
    }

    fn read_dimensions(&mut self, event: &EventRef<'a>, page: u32) -> Result<(), Reason> {
        // What the URL says comes first, so that what the event says wins.
        if let Ok(page) = &self.pages[page as usize].read {
            for (name, value) in [("campaign", page.campaign), ("channel", page.channel)] {
                if let Some(value) = value
                    && let Some(id) = self.dimension_names.id(name)
                {
                    self.dimensions.push((id, value));
                }
            }
        }
        let schema = self.rules.schema;
        let is_known = |name: &str| schema.is_none_or(|schema| schema.dimension_index(name).is_some());
        for (at, &(name, value)) in event.dimensions.iter().enumerate() {
            if value.len() > MAX_DIMENSION_BYTES {
                text(value)?;
                let why = match is_known(text(name)?) {
                    true => IgnoredWhy::DimensionTooLong,
                    false => IgnoredWhy::UnknownDimension,
                };
                self.ignore(why, name)?;
                continue;
            }
            let value = self.texts.intern_utf8(value).map_err(|_| Reason::InvalidUtf8)?;
            let Name { id, is_known } = self.dimension_names.at(at, name, is_known)?;
            if !is_known || id.is_none() {
                self.ignore(IgnoredWhy::UnknownDimension, name)?;
            }
            self.dimensions.extend(id.map(|id| (id, value)));
        }
        Ok(())
    }

    fn ignore(&mut self, why: IgnoredWhy, name: &[u8]) -> Result<(), Reason> {
        let name = text(name)?;
        let cut = name.floor_char_boundary(64);
        let mut key = (i32::from(why), name[..cut].to_owned());
        if self.ignored.len() >= MAX_IGNORED_NAMES && !self.ignored.contains_key(&key) {
            key.1.clear();
        }
        *self.ignored.entry(key).or_default() += 1;
        Ok(())
    }

    fn into_split(mut self, producer: ProducerId, seq: u64) -> Split {
        // What a site's events were rejected for rides with the site's front page.
        let mut rejected_by_shard: BTreeMap<ShardId, Vec<v1::Rejected>> = BTreeMap::new();
        for ((site, bucket, reason), events) in std::mem::take(&mut self.rejected_by) {
            let shard = self.rules.shards.shard_of(page_hash(&site, "/"));
            let rejected = v1::Rejected { site, bucket_start_s: bucket.as_unix_seconds(), reason, events };
            rejected_by_shard.entry(shard).or_default().push(rejected);
        }
        let by_shard = self.events_by_shard();
        let mut builder = BlockBuilder::default();
        let mut blocks = Vec::new();
        for (shard, events) in self.rules.shards.shards().zip(by_shard.chunks()) {
            let rejected = rejected_by_shard.remove(&shard).unwrap_or_default();
            if events.is_empty() && rejected.is_empty() {
                continue;
            }
            let columns = builder.build(&self, events, rejected);
            blocks.push(v1::Block {
                producer: producer.to_wire(),
                shard: shard.get(),
                seq,
                sealed_at_ms: self.sealed_at.as_unix_ms(),
                event_count: events.len() as u32,
                columns: columns.encode_to_vec().into(),
            });
        }
        let ignored = self.ignored.into_iter().map(|((why, name), events)| v1::Ignored { name, why, events });
        Split { blocks, rejected: self.rejected, ignored: ignored.collect() }
    }

    /// Which events go to each shard, in the order they came.
    fn events_by_shard(&self) -> ByShard {
        let shard_of = |event: &ReadEvent| {
            let page = self.pages[event.page as usize].read.as_ref().ok();
            page.map(|page| page.shard.get() as usize)
        };
        // First how many events each shard has, then where these begin, and as each is put there, where the next one goes.
        let mut ends = vec![0_u32; self.rules.shards.get() as usize];
        self.events.iter().filter_map(shard_of).for_each(|shard| ends[shard] += 1);
        let mut begin = 0;
        for end in &mut ends {
            begin += std::mem::replace(end, begin);
        }
        let mut events = vec![0; self.events.len()];
        for (at, event) in (0..).zip(&self.events) {
            if let Some(shard) = shard_of(event) {
                events[ends[shard] as usize] = at;
                ends[shard] += 1;
            }
        }
        ByShard { events, ends }
    }
}

/// Positions of events, those of one shard after those of the other.
struct ByShard {
    events: Vec<u32>,
    /// By shard.
    ends: Vec<u32>,
}

impl ByShard {
    /// The events of each shard, by ascending shard.
    fn chunks(&self) -> impl Iterator<Item = &[u32]> {
        let mut begin = 0;
        self.ends
            .iter()
            .map(move |&end| &self.events[std::mem::replace(&mut begin, end as usize)..end as usize])
    }
}

fn text(bytes: &[u8]) -> Result<&str, Reason> {
    std::str::from_utf8(bytes).map_err(|_| Reason::InvalidUtf8)
}

fn read_page<'a>(
    texts: &mut Dictionary,
    last_site: &mut Option<(&'a [u8], Cow<'a, str>)>,
    site: &'a [u8],
    url: &[u8],
    rules: &Rules<'_>,
) -> Result<ReadPage, Reason> {
    let site = match last_site {
        Some((last, canonical)) if *last == site => canonical,
        _ => &last_site.insert((site, canonical::site(text(site)?)?)).1,
    };
    let url = canonical::url(site, text(url)?, rules.keep_params)?;
    let shard = rules.shards.shard_of(page_hash(site, &url.url));
    let fits = |text: &String| text.len() <= MAX_DIMENSION_BYTES;
    Ok(ReadPage {
        site: texts.intern(site),
        url: texts.intern(&url.url),
        shard,
        campaign: url.campaign.filter(fits).map(|campaign| texts.intern(&campaign)),
        channel: url.channel.filter(fits).map(|channel| texts.intern(&channel)),
    })
}
