//! Blocks: small columnar batches of events of one shard.
//!
//! Owns: block identities, and reading a block's bytes into columns, checked.
//! Does not own: making blocks from rows (`split`), counting them (`bucket`).
//!
//! Invariant: a [`DecodedBlock`] holds only ids and positions that exist, so whoever counts it need not check.

use crate::canonical::{MAX_SITE_BYTES, MAX_URL_BYTES, site as canonical_site};
use crate::dictionary::hash_text;
use crate::event::MAX_KIND_BYTES;
use crate::sharding::{ShardCount, ShardId, page_hash};
use crate::time::{BucketStart, EventTime};
use crate::wire::UintColumn;
use bytes::Bytes;
use prost::Message as _;
use std::fmt;
use tidemark_proto::v1;

/// At most so many events in a block.
pub const MAX_BLOCK_EVENTS: usize = 65_536;
/// At most so many dimensions, and so many values, in a block.
pub const MAX_BLOCK_COLUMNS: usize = 64;

/// Whoever makes blocks. Random; lives as long as its sequence numbers do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(u128);

impl ProducerId {
    /// A producer from a random number.
    pub const fn from_u128(id: u128) -> Self {
        Self(id)
    }

    /// The random number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// A producer from its 16 bytes on the wire, big-endian.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
    }

    /// The 16 bytes on the wire.
    pub fn to_wire(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A block's identity. A block counts once, however often it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId {
    /// Who made it.
    pub producer: ProducerId,
    /// The shard of all its events.
    pub shard: ShardId,
    /// Unique and increasing per producer and shard.
    pub seq: u64,
}

impl BlockId {
    /// The identity of a block on the wire.
    ///
    /// # Errors
    /// Where the producer or the shard cannot be.
    pub fn of(block: &v1::Block, shards: ShardCount) -> Result<Self, BlockError> {
        let producer = ProducerId::from_wire(&block.producer).ok_or(BlockError::Producer)?;
        let shard = shards.shard(block.shard).ok_or(BlockError::NoSuchShard(block.shard))?;
        Ok(Self { producer, shard, seq: block.seq })
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} of producer {} for shard {}", self.seq, self.producer, self.shard)
    }
}

/// Why a block cannot be read. Nothing of it was counted, and sending it again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Make producer ids of 16 random bytes.
    #[error("the producer id does not have 16 bytes")]
    Producer,
    /// Learn the cluster's shard count.
    #[error("there is no shard {0}")]
    NoSuchShard(u32),
    /// Learn the cluster's shard count, and hash as `docs/blocks.md` says.
    #[error("the URL {url:?} of site {site:?} belongs to shard {shard}, not to the block's")]
    WrongShard {
        /// The site.
        site: String,
        /// The URL.
        url: String,
        /// Where it belongs.
        shard: ShardId,
    },
    /// The producer encodes wrongly.
    #[error("the block's {0} is malformed")]
    Malformed(&'static str),
    /// Make smaller blocks.
    #[error("the block has {0} events; at most {MAX_BLOCK_EVENTS} are possible")]
    TooManyEvents(u32),
}

/// A block's columns, checked. Reused from block to block, so that reading allocates nothing in the long run.
#[derive(Debug, Default)]
pub struct DecodedBlock {
    /// When it was put together, milliseconds since the Unix epoch.
    pub(crate) sealed_at_ms: i64,
    text: String,
    ends: Vec<u32>,
    pub(crate) text_hashes: Vec<u64>,
    pub(crate) pages: Vec<Page>,
    /// Per event: position in `pages`.
    pub(crate) page: Vec<u32>,
    /// Per event: milliseconds since the Unix epoch.
    pub(crate) time_ms: Vec<i64>,
    /// Per event: id of its kind.
    pub(crate) kind: Vec<u32>,
    /// Per event: hash of its visitor, or 0.
    pub(crate) visitor: Vec<u64>,
    pub(crate) dimensions: Vec<NamedIds>,
    pub(crate) values: Vec<NamedValues>,
    pub(crate) rejected: Vec<RejectedEvents>,
    /// Per event: milliseconds since the block's base; room that is reused.
    offsets: Vec<u64>,
}

/// A distinct (site, URL) pair of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub(crate) site: u32,
    pub(crate) url: u32,
    pub(crate) hash: u64,
}

/// A dimension of a block: per event the id of its value.
#[derive(Debug, Default)]
pub(crate) struct NamedIds {
    pub(crate) name: String,
    pub(crate) ids: Vec<u32>,
}

/// A value of a block: per event 0, or the value plus one.
#[derive(Debug, Default)]
pub(crate) struct NamedValues {
    pub(crate) name: String,
    pub(crate) plus_one: Vec<u64>,
}

/// Events that were rejected before the block was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RejectedEvents {
    pub(crate) site: String,
    pub(crate) bucket: BucketStart,
    pub(crate) reason: v1::Reason,
    pub(crate) events: u32,
}

impl DecodedBlock {
    /// Reads `block`, replacing what was read before.
    ///
    /// # Errors
    /// Where the block is malformed or holds a URL of another shard; the columns are then not to be used.
    pub fn read(&mut self, block: &v1::Block, shards: ShardCount) -> Result<(), BlockError> {
        let len = block.event_count as usize;
        if len > MAX_BLOCK_EVENTS {
            return Err(BlockError::TooManyEvents(block.event_count));
        }
        let columns =
            v1::Columns::decode(block.columns.clone()).map_err(|_| BlockError::Malformed("columns"))?;
        self.sealed_at_ms = block.sealed_at_ms;
        self.read_dictionary(&columns)?;
        self.read_pages(&columns, block.shard, shards)?;
        self.read_events(&columns, len)?;
        self.read_named(columns.dimensions, columns.values, len)?;
        self.read_rejected(columns.rejected)
    }

    /// How many events the block has.
    pub fn len(&self) -> usize {
        self.page.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.page.is_empty()
    }

    /// The sites that events and rejections are of; some may come several times.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        let of_pages = self.pages.iter().map(|page| self.text(page.site));
        of_pages.chain(self.rejected.iter().map(|rejected| rejected.site.as_str()))
    }

    /// How many strings the dictionary has.
    pub(crate) fn text_count(&self) -> usize {
        self.ends.len()
    }

    /// A string of the dictionary.
    pub(crate) fn text(&self, id: u32) -> &str {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        &self.text[start..self.ends[id] as usize]
    }

    /// The id of a text, where the dictionary has it.
    pub(crate) fn find_text(&self, text: &str) -> Option<u32> {
        let hash = hash_text(text);
        let found =
            self.text_hashes.iter().zip(0..).find(|&(&known, id)| known == hash && self.text(id) == text);
        found.map(|(_, id)| id)
    }

    /// The events as rows again, as canonical as the block has them.
    pub fn to_events(&self) -> Vec<v1::Event> {
        (0..self.len()).map(|at| self.event(at)).collect()
    }

    fn event(&self, at: usize) -> v1::Event {
        let text = |id: u32| Bytes::copy_from_slice(self.text(id).as_bytes());
        let name = |name: &str| Bytes::copy_from_slice(name.as_bytes());
        let page = self.pages[self.page[at] as usize];
        let set = self.dimensions.iter().filter(|dimension| dimension.ids[at] != 0);
        let values = self.values.iter().filter(|value| value.plus_one[at] != 0);
        v1::Event {
            site: text(page.site),
            url: text(page.url),
            time_ms: self.time_ms[at],
            kind: text(self.kind[at]),
            visitor: Bytes::new(),
            visitor_hash: self.visitor[at],
            dimensions: set
                .map(|dimension| v1::event::DimensionsEntry {
                    key: name(&dimension.name),
                    value: text(dimension.ids[at]),
                })
                .collect(),
            values: values
                .map(|value| v1::event::ValuesEntry {
                    key: name(&value.name),
                    value: (value.plus_one[at] - 1) as i64,
                })
                .collect(),
        }
    }

    fn read_dictionary(&mut self, columns: &v1::Columns) -> Result<(), BlockError> {
        let error = BlockError::Malformed("dictionary");
        let text = std::str::from_utf8(&columns.dictionary).map_err(|_| error.clone())?;
        self.text.clear();
        self.text.push_str(text);
        self.ends.clear();
        self.text_hashes.clear();
        // The number of strings is what their lengths' column tells; a column of zeros is the empty string alone.
        let lengths = read_lengths(&columns.dictionary_lengths).ok_or(error.clone())?;
        let mut end = 0_usize;
        for length in lengths {
            let start = end;
            end = usize::try_from(length)
                .ok()
                .and_then(|length| start.checked_add(length))
                .ok_or(error.clone())?;
            let string = text.get(start..end).ok_or(error.clone())?;
            self.ends.push(end as u32);
            self.text_hashes.push(hash_text(string));
        }
        let first_is_empty = self.ends.first() == Some(&0);
        (end == text.len() && first_is_empty).then_some(()).ok_or(error)
    }

    fn read_pages(
        &mut self,
        columns: &v1::Columns,
        shard: u32,
        shards: ShardCount,
    ) -> Result<(), BlockError> {
        let error = BlockError::Malformed("pages");
        let sites = read_lengths(&columns.page_site).ok_or(error.clone())?;
        let urls = read_lengths(&columns.page_url).ok_or(error.clone())?;
        self.pages.clear();
        if columns.page_site.is_empty() && columns.page_url.is_empty() {
            return Ok(());
        }
        if sites.len() != urls.len() {
            return Err(error);
        }
        // Sites are few, and each is looked at once.
        let mut known_site = None;
        for (site, url) in sites.into_iter().zip(urls) {
            let known = |id: u64| u32::try_from(id).ok().filter(|&id| (id as usize) < self.ends.len());
            let (site, url) = (known(site).ok_or(error.clone())?, known(url).ok_or(error.clone())?);
            let (site_text, url_text) = (self.text(site), self.text(url));
            let fits = |text: &str, max| (1..=max).contains(&text.len());
            let canonical = || canonical_site(site_text).is_ok_and(|canonical| canonical == site_text);
            if !fits(url_text, MAX_URL_BYTES) || (known_site != Some(site) && !canonical()) {
                return Err(error);
            }
            known_site = Some(site);
            let hash = page_hash(site_text, url_text);
            let belongs = shards.shard_of(hash);
            if belongs.get() != shard {
                let (site, url) = (site_text.to_owned(), url_text.to_owned());
                return Err(BlockError::WrongShard { site, url, shard: belongs });
            }
            self.pages.push(Page { site, url, hash });
        }
        Ok(())
    }

    fn read_events(&mut self, columns: &v1::Columns, len: usize) -> Result<(), BlockError> {
        let texts = self.ends.len() as u32;
        let pages = self.pages.len() as u32;
        column(&columns.page, len, "pages of events")?
            .read_ids(len, pages, &mut self.page)
            .ok_or(BlockError::Malformed("pages of events"))?;
        column(&columns.kind, len, "kinds")?
            .read_ids(len, texts, &mut self.kind)
            .ok_or(BlockError::Malformed("kinds"))?;
        let is_kind = |kind: u32| (1..=MAX_KIND_BYTES).contains(&self.text(kind).len());
        // Runs of one kind are looked at once.
        if !self.kind.chunk_by(|a, b| a == b).all(|run| is_kind(run[0])) {
            return Err(BlockError::Malformed("kinds"));
        }
        column(&columns.visitor, len, "visitors")?.read_into(len, &mut self.visitor);
        column(&columns.time, len, "times")?.read_into(len, &mut self.offsets);
        let base = columns.base_time_ms;
        self.time_ms.clear();
        self.time_ms.extend(self.offsets.iter().map(|&offset| base.saturating_add_unsigned(offset)));
        Ok(())
    }

    fn read_named(
        &mut self,
        dimensions: Vec<v1::Column>,
        values: Vec<v1::Column>,
        len: usize,
    ) -> Result<(), BlockError> {
        if dimensions.len() > MAX_BLOCK_COLUMNS || values.len() > MAX_BLOCK_COLUMNS {
            return Err(BlockError::Malformed("number of dimensions and values"));
        }
        let texts = self.ends.len() as u32;
        self.dimensions.resize_with(dimensions.len(), NamedIds::default);
        for (mine, wire) in self.dimensions.iter_mut().zip(dimensions) {
            column(&wire.data, len, "dimensions")?
                .read_ids(len, texts, &mut mine.ids)
                .ok_or(BlockError::Malformed("dimensions"))?;
            mine.name = wire.name;
        }
        self.values.resize_with(values.len(), NamedValues::default);
        for (mine, wire) in self.values.iter_mut().zip(values) {
            column(&wire.data, len, "values")?.read_into(len, &mut mine.plus_one);
            mine.name = wire.name;
        }
        Ok(())
    }

    fn read_rejected(&mut self, rejected: Vec<v1::Rejected>) -> Result<(), BlockError> {
        let error = BlockError::Malformed("rejected events");
        if rejected.len() > MAX_BLOCK_EVENTS {
            return Err(error);
        }
        self.rejected.clear();
        for wire in rejected {
            let bucket = BucketStart::from_unix_seconds(wire.bucket_start_s).ok_or(error.clone())?;
            let reason = wire.reason();
            if reason == v1::Reason::Unspecified || wire.site.len() > MAX_SITE_BYTES {
                return Err(error);
            }
            self.rejected.push(RejectedEvents { site: wire.site, bucket, reason, events: wire.events });
        }
        Ok(())
    }

    /// The bucket of an event.
    pub(crate) fn bucket_of(&self, at: usize) -> BucketStart {
        BucketStart::containing(EventTime::from_unix_ms(self.time_ms[at]))
    }
}

fn column(data: &Bytes, len: usize, what: &'static str) -> Result<UintColumn, BlockError> {
    UintColumn::of(data.clone(), len).ok_or(BlockError::Malformed(what))
}

/// A column that tells its own number of entries: its first byte is their width.
pub(crate) fn read_lengths(data: &Bytes) -> Option<Vec<u64>> {
    let Some(&width) = data.first() else { return Some(Vec::new()) };
    let data = data.slice(1..);
    if !matches!(width, 1 | 2 | 4 | 8) {
        return None;
    }
    let len = data.len() / usize::from(width);
    let mut values = Vec::new();
    UintColumn::of(data, len)?.read_into(len, &mut values);
    Some(values)
}

/// Writes a column that tells its own number of entries.
pub(crate) fn lengths_column(values: &[u64]) -> Bytes {
    let highest = values.iter().copied().max().unwrap_or(0);
    let width: u8 = match highest {
        0..=0xFF => 1,
        0x100..=0xFFFF => 2,
        0x1_0000..=0xFFFF_FFFF => 4,
        _ => 8,
    };
    let mut data = vec![width];
    for value in values {
        data.extend(&value.to_le_bytes()[..usize::from(width)]);
    }
    data.into()
}
