//! The footer of a rollup segment, and what is kept of it.
//!
//! Owns: what a segment holds and where: schema, sites, shards, columns, checksums.
//! Does not own: what a question needs of it (`plan`).

use super::error::{Flaw, SegmentError};
use super::index::{self, Head};
use super::layout::{Column, Kind, Layout};
use super::plan::{Plan, Selection};
use super::shape::is_footer;
use bytes::Bytes;
use parquet::basic::Compression;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use xxhash_rust::xxh3::xxh3_64;

/// Length of the metadata (4 bytes) and the magic, at the end of a Parquet file.
const TAIL_BYTES: usize = 8;

/// The footer of a rollup segment. Cheap to clone; worth a place in a cache.
#[derive(Clone, Debug)]
pub struct Footer(pub(super) Arc<Parsed>);

#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) path: String,
    pub(super) head: Head,
    pub(super) layout: Layout,
    pub(super) groups: Vec<Group>,
}

/// A row group.
#[derive(Debug)]
pub(super) struct Group {
    /// Runs of shards: first and last.
    pub(super) shards: Vec<u32>,
    pub(super) sites: Vec<v1::SiteRows>,
    /// Per column of the layout.
    pub(super) columns: Vec<ChunkAt>,
    /// First and last time, milliseconds.
    pub(super) times: Option<(i64, i64)>,
    /// Bounds of the URLs.
    pub(super) urls: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) bloom: Option<ChunkAt>,
}

/// Where a part of the segment is.
#[derive(Clone, Debug)]
pub(super) struct ChunkAt {
    pub(super) bytes: Range<u64>,
    pub(super) checksum: u64,
    /// Bytes of all pages, unpacked.
    pub(super) unpacked_bytes: u64,
}

impl Footer {
    /// Reads the footer of `segment` from `tail`, its last `footer_bytes` bytes.
    ///
    /// # Errors
    /// Where the bytes are not those that were committed, or make no sense.
    pub fn parse(segment: &v1::Segment, tail: &Bytes) -> Result<Self, SegmentError> {
        let metadata = check_tail(segment, tail)?;
        let parsed = Parsed::of(segment, metadata).map_err(|flaw| flaw.unreadable(&segment.path))?;
        Ok(Self(Arc::new(parsed)))
    }

    /// Path of the segment.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Seconds that a row stands for: 300, or 86,400.
    pub fn row_seconds(&self) -> u32 {
        self.0.head.row_seconds
    }

    /// How many shards the cluster had that wrote it.
    pub fn shard_count(&self) -> ShardCount {
        self.0.head.shards
    }

    /// Dimensions and measures of the rows.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.0.head.schema
    }

    /// Sites that have rows or facts, ascending, each once.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        let sites = self.0.groups.iter().flat_map(|group| &group.sites);
        sites.map(|site| site.site.as_str()).collect::<BTreeSet<&str>>().into_iter()
    }

    /// Shards that rows may be of, ascending, each once.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        let count = self.0.head.shards;
        let runs = self.0.groups.iter().flat_map(|group| group.shards.as_chunks::<2>().0);
        let numbers: BTreeSet<u32> = runs.flat_map(|&[first, last]| first..=last).collect();
        numbers.into_iter().filter_map(move |number| count.shard(number))
    }

    /// How many row groups there are.
    pub fn row_groups(&self) -> usize {
        self.0.groups.len()
    }

    /// Bytes on the heap, about: what a cache should count.
    pub fn heap_bytes(&self) -> usize {
        let sites = |group: &Group| -> usize {
            group.sites.iter().map(|site| site.site.len() + size_of::<v1::SiteRows>()).sum()
        };
        let groups = self.0.groups.iter().map(|group| {
            size_of::<Group>()
                + group.columns.len() * size_of::<ChunkAt>()
                + group.shards.len() * size_of::<u32>()
                + group.urls.as_ref().map_or(0, |(first, last)| first.len() + last.len())
                + sites(group)
        });
        let columns: usize =
            self.0.layout.columns().iter().map(|column| column.name.len() + size_of::<Column>()).sum();
        // The schema repeats the names of columns, about.
        size_of::<Parsed>() + self.0.path.len() + 2 * columns + groups.sum::<usize>()
    }

    /// What to fetch and read for `selection`.
    pub fn plan(&self, selection: &Selection) -> Plan {
        Plan::new(Arc::clone(&self.0), selection)
    }
}

/// Checks that `tail` is the segment's footer, and returns Parquet's metadata within.
pub(super) fn check_tail<'a>(segment: &v1::Segment, tail: &'a Bytes) -> Result<&'a [u8], SegmentError> {
    let damaged = |what: &str| SegmentError::Damaged { path: segment.path.clone(), what: what.to_owned() };
    if tail.len() as u64 != segment.footer_bytes {
        return Err(SegmentError::Fetched {
            path: segment.path.clone(),
            what: format!("the footer has {} bytes, {} came", segment.footer_bytes, tail.len()),
        });
    }
    if xxh3_64(tail) != segment.footer_checksum {
        return Err(damaged("the checksum of its footer does not match"));
    }
    let (metadata, [a, b, c, d, magic @ ..]) =
        tail.split_last_chunk::<TAIL_BYTES>().ok_or_else(|| damaged("its footer is too short"))?;
    if magic != b"PAR1" || u32::from_le_bytes([*a, *b, *c, *d]) as usize != metadata.len() {
        return Err(damaged("its footer is not Parquet's"));
    }
    Ok(metadata)
}

/// The metadata of a Parquet file, out of its footer.
pub(super) fn decode_metadata(bytes: &[u8]) -> Result<ParquetMetaData, Flaw> {
    if !is_footer(bytes) {
        return Err("its footer has fields that are none of Parquet's".into());
    }
    Ok(ParquetMetaDataReader::decode_metadata(bytes).map_err(|error| error.to_string())?)
}

impl Parsed {
    fn of(segment: &v1::Segment, metadata: &[u8]) -> Result<Self, Flaw> {
        let metadata = decode_metadata(metadata)?;
        let pairs = metadata.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
        let text = pairs.iter().find(|pair| pair.key == index::KEY).and_then(|pair| pair.value.as_ref());
        let (head, indexes) = index::from_text(text.ok_or("it has no index of Tidemark's")?)?;
        let layout = Layout::of(&head.schema);
        let places = find_columns(&layout, metadata.file_metadata().schema_descr())?;
        let body =
            segment.size_bytes.checked_sub(segment.footer_bytes).ok_or("its footer is larger than it")?;
        let groups = groups(&metadata, indexes, &layout, &places, body)?;
        let rows: u64 = groups.iter().flat_map(|group| &group.sites).map(|site| u64::from(site.rows)).sum();
        if rows != segment.rows {
            return Err(format!("it has {rows} rows, and its commit says {}", segment.rows).into());
        }
        Ok(Self { path: segment.path.clone(), head, layout, groups })
    }

    /// Position of a column.
    pub(super) fn column(&self, kind: Kind) -> Option<usize> {
        self.layout.columns().iter().position(|column| column.kind == kind)
    }
}

/// Where the columns of the layout are in the file. Others may be there too: a later version's.
fn find_columns(layout: &Layout, schema: &SchemaDescriptor) -> Result<Vec<usize>, Flaw> {
    let names: HashMap<&str, usize> =
        schema.columns().iter().enumerate().map(|(at, column)| (column.name(), at)).collect();
    let found = layout.columns().iter().map(|column| {
        let found = names.get(column.name.as_str()).map(|&at| (at, schema.column(at)));
        let (at, found) = found.ok_or_else(|| format!("it has no column {:?}", column.name))?;
        let (physical, nullable) = column.physical();
        let fits = found.physical_type() == physical
            && found.max_def_level() == i16::from(nullable)
            && found.max_rep_level() == 0;
        if fits { Ok(at) } else { Err(format!("its column {:?} has another type", column.name).into()) }
    });
    found.collect()
}

fn groups(
    metadata: &ParquetMetaData,
    indexes: Vec<v1::RowGroupIndex>,
    layout: &Layout,
    places: &[usize],
    body: u64,
) -> Result<Vec<Group>, Flaw> {
    if metadata.num_row_groups() != indexes.len() {
        return Err("its index is of other row groups".into());
    }
    let pairs = metadata.row_groups().iter().zip(indexes);
    pairs.map(|(group, index)| Group::of(group, index, layout, places, body)).collect()
}

impl Group {
    fn of(
        metadata: &RowGroupMetaData,
        index: v1::RowGroupIndex,
        layout: &Layout,
        places: &[usize],
        body: u64,
    ) -> Result<Self, Flaw> {
        let rows: u64 = index.sites.iter().map(|site| u64::from(site.facts) + u64::from(site.rows)).sum();
        if u64::try_from(metadata.num_rows()) != Ok(rows) || metadata.num_columns() != index.checksums.len() {
            return Err("its index does not fit its row groups".into());
        }
        if places.iter().any(|&at| at >= metadata.num_columns()) {
            return Err("a row group lacks a column".into());
        }
        let column = |at: usize| (metadata.column(at), index.checksums[at]);
        let columns: Result<Vec<ChunkAt>, Flaw> = places
            .iter()
            .map(|&at| column(at))
            .map(|(column, checksum)| ChunkAt::column(column, checksum, rows, body))
            .collect();
        let of = |kind: Kind| {
            let at = layout.columns().iter().position(|column| column.kind == kind)?;
            Some(metadata.column(places[at]))
        };
        let bloom = match of(Kind::Url).and_then(bloom_range) {
            Some(bytes) if bytes.end <= body => {
                Some(ChunkAt { bytes, checksum: index.bloom_checksum, unpacked_bytes: 0 })
            }
            Some(_) => return Err("a bloom filter lies outside of it".into()),
            None => None,
        };
        Ok(Self {
            times: of(Kind::Time).and_then(time_bounds),
            urls: of(Kind::Url).and_then(url_bounds),
            shards: index.shards,
            sites: index.sites,
            columns: columns?,
            bloom,
        })
    }
}

impl ChunkAt {
    pub(super) fn column(
        column: &ColumnChunkMetaData,
        checksum: u64,
        rows: u64,
        body: u64,
    ) -> Result<Self, Flaw> {
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let range = range_of(start, column.compressed_size())
            .filter(|range| range.end <= body)
            .ok_or("a column lies outside of it")?;
        if u64::try_from(column.num_values()) != Ok(rows) {
            return Err("a column has other rows than its row group".into());
        }
        if !matches!(column.compression(), Compression::ZSTD(_)) {
            return Err("a column is not packed with Zstandard".into());
        }
        let unpacked_bytes =
            u64::try_from(column.uncompressed_size()).map_err(|_| "a column has a negative size")?;
        Ok(Self { bytes: range, checksum, unpacked_bytes })
    }
}

fn range_of(start: i64, len: i64) -> Option<Range<u64>> {
    let (start, len) = (u64::try_from(start).ok()?, u64::try_from(len).ok()?);
    Some(start..start.checked_add(len)?)
}

fn bloom_range(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    range_of(column.bloom_filter_offset()?, i64::from(column.bloom_filter_length()?))
}

fn time_bounds(column: &ColumnChunkMetaData) -> Option<(i64, i64)> {
    match column.statistics()? {
        Statistics::Int64(times) => Some((*times.min_opt()?, *times.max_opt()?)),
        _ => None,
    }
}

fn url_bounds(column: &ColumnChunkMetaData) -> Option<(Vec<u8>, Vec<u8>)> {
    let statistics = column.statistics()?;
    Some((statistics.min_bytes_opt()?.to_vec(), statistics.max_bytes_opt()?.to_vec()))
}
