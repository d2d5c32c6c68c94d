//! Writing a rollup segment.
//!
//! Owns: the file as a whole: row groups, checksums, index, footer.
//! Does not own: the columns' values (`feed`), their names and types (`layout`).

use super::error::WriteError;
use super::feed::Rows;
use super::index;
use super::layout::{Kind, Layout};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{KeyValue, RowGroupMetaData, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use xxhash_rust::xxh3::xxh3_64;

/// Rows of a page, at most. A reader of one site unpacks whole pages; more of them cost headers and a little packing.
const PAGE_ROWS: usize = 8192;
/// Texts of up to so many bytes are a dictionary; the rest of a column's rows then repeat theirs.
const URL_DICTIONARY_BYTES: usize = 16 << 20;
const TEXT_DICTIONARY_BYTES: usize = 4 << 20;
/// Integers with more distinct values than fit are smaller as differences.
const INTEGER_DICTIONARY_BYTES: usize = 128 << 10;
/// How often the filter on URLs is wrong.
const BLOOM_ERROR: f64 = 0.01;

/// Rows that become a row group.
#[derive(Clone, Copy, Debug)]
pub struct RowGroup<'a> {
    /// The shards that they are of.
    pub shards: &'a [ShardId],
    /// The rows.
    pub rows: &'a SegmentRows,
}

/// A segment, ready to be stored.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object.
    pub bytes: Bytes,
    /// Rows without those of facts, or blocks.
    pub rows: u64,
    /// Bytes at the end that describe the rest.
    pub footer_bytes: u64,
    /// xxh3-64 of all bytes.
    pub checksum: u64,
    /// xxh3-64 of the footer.
    pub footer_checksum: u64,
}

impl Written {
    pub(super) fn of(bytes: Vec<u8>, rows: u64) -> Self {
        // The length of the metadata stands before the magic.
        let metadata =
            bytes.last_chunk::<8>().map_or(0, |[a, b, c, d, ..]| u32::from_le_bytes([*a, *b, *c, *d]));
        let footer_bytes = metadata as usize + 8;
        let footer = &bytes[bytes.len().saturating_sub(footer_bytes)..];
        Self {
            rows,
            footer_bytes: footer_bytes as u64,
            checksum: xxh3_64(&bytes),
            footer_checksum: xxh3_64(footer),
            bytes: bytes.into(),
        }
    }

    /// What a commit says of the segment once it is at `path`.
    pub fn to_segment(&self, path: &str) -> v1::Segment {
        v1::Segment {
            path: path.to_owned(),
            size_bytes: self.bytes.len() as u64,
            rows: self.rows,
            checksum: self.checksum,
            footer_bytes: self.footer_bytes,
            footer_checksum: self.footer_checksum,
        }
    }
}

/// A rollup segment that row groups are added to one by one. A row stands for so many seconds: 300, or 86,400.
///
/// Its bytes are a function of what it was made with and of the groups.
pub struct RollupWriter {
    schema: Arc<Schema>,
    layout: Layout,
    file: SerializedFileWriter<Vec<u8>>,
    row_seconds: u32,
    shards: ShardCount,
    groups: Vec<v1::RowGroupIndex>,
    /// In all groups.
    rows: u64,
}

impl RollupWriter {
    /// A segment without rows, of which no row group will have more than `most_urls` URLs. Filters have room for so many while they are
    /// made, and are folded to the size that their own need: a higher bound takes memory. The segment is the same, unless URLs just fill a filter.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn new(
        schema: &Arc<Schema>,
        most_urls: u64,
        row_seconds: u32,
        shards: ShardCount,
    ) -> Result<Self, WriteError> {
        let layout = Layout::of(schema);
        let properties = Arc::new(properties(&layout, most_urls));
        let file = SerializedFileWriter::new(Vec::new(), layout.to_parquet()?, properties)?;
        Ok(Self {
            schema: Arc::clone(schema),
            layout,
            file,
            row_seconds,
            shards,
            groups: Vec::new(),
            rows: 0,
        })
    }

    /// Adds a row group after those before; one without rows and facts is left out.
    ///
    /// # Errors
    /// Where it has another schema, or its rows break the contract of [`SegmentRows`].
    pub fn push(&mut self, group: RowGroup<'_>) -> Result<(), WriteError> {
        if *group.rows.schema != *self.schema {
            return Err(WriteError::Schema);
        }
        if group.rows.is_empty() {
            return Ok(());
        }
        let rows = Rows::of(group.rows)?;
        let mut writer = self.file.next_row_group()?;
        for column in self.layout.columns() {
            let mut column_writer = writer
                .next_column()?
                .ok_or(WriteError::Rows("there are more columns than the schema has"))?;
            rows.feed(column.kind, column_writer.untyped())?;
            column_writer.close()?;
        }
        writer.close()?;
        // Checksums are of what was written.
        self.file.flush()?;
        let metadata =
            self.file.flushed_row_groups().last().ok_or(WriteError::Rows("a row group is missing"))?;
        self.groups.push(v1::RowGroupIndex {
            shards: index::shard_runs(group.shards),
            sites: rows.sites(),
            checksums: checksums(metadata, self.file.inner()),
            bloom_checksum: bloom_checksum(metadata, self.file.inner()),
        });
        self.rows += group.rows.len() as u64;
        Ok(())
    }

    /// The segment.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        let index = v1::SegmentIndex {
            shard_count: self.shards.get(),
            row_seconds: self.row_seconds,
            dimensions: self.schema.dimensions().to_vec(),
            measures: self.schema.measures().iter().map(ToString::to_string).collect(),
            row_groups: self.groups,
        };
        self.file.append_key_value_metadata(KeyValue::new(index::KEY.to_owned(), index::to_text(&index)));
        self.file.finish()?;
        Ok(Written::of(std::mem::take(self.file.inner_mut()), self.rows))
    }
}

/// A segment of these row groups, all of one schema; see [`RollupWriter`].
///
/// # Errors
/// Where the groups have different schemas or are none, or rows break the contract of [`SegmentRows`].
pub fn write_rollup(
    groups: &[RowGroup<'_>],
    row_seconds: u32,
    shards: ShardCount,
) -> Result<Written, WriteError> {
    let schema = &groups.first().ok_or(WriteError::Schema)?.rows.schema;
    let most_urls = groups.iter().map(|group| group.rows.urls.len()).max().unwrap_or_default();
    let mut writer = RollupWriter::new(schema, most_urls as u64, row_seconds, shards)?;
    groups.iter().try_for_each(|&group| writer.push(group))?;
    writer.finish()
}

/// What all segments are written with.
pub(super) fn base_properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by("tidemark".to_owned())
        // Level 1. Level 3 takes a third longer and saves 0.3 percent of rollups (raw segments: twice as long, 9 percent).
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_max_row_group_row_count(None)
}

fn properties(layout: &Layout, urls: u64) -> WriterProperties {
    let mut builder = base_properties()
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_sorting_columns(Some(sorting_columns(layout)));
    for column in layout.columns() {
        let path = ColumnPath::from(column.name.as_str());
        builder = match column.kind {
            Kind::Time | Kind::Site => builder.set_column_statistics_enabled(path, EnabledStatistics::Page),
            Kind::Url => builder
                .set_column_statistics_enabled(path.clone(), EnabledStatistics::Page)
                .set_column_dictionary_page_size_limit(path.clone(), URL_DICTIONARY_BYTES)
                .set_column_bloom_filter_fpp(path.clone(), BLOOM_ERROR)
                .set_column_bloom_filter_max_ndv(path, urls.max(1)),
            Kind::Dimension(_) => builder.set_column_dictionary_page_size_limit(path, TEXT_DICTIONARY_BYTES),
            // Sketches have no order, and hardly two are alike.
            Kind::Sketches(_) => builder
                .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
                .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                .set_column_dictionary_enabled(path, false),
            Kind::Integers(_) | Kind::Derived(..) => builder
                .set_column_dictionary_page_size_limit(path.clone(), INTEGER_DICTIONARY_BYTES)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
            Kind::Fact(_) => builder,
        };
    }
    builder.build()
}

/// By site, URL (facts first) and time.
fn sorting_columns(layout: &Layout) -> Vec<SortingColumn> {
    let position = |kind: Kind| layout.columns().iter().position(|column| column.kind == kind);
    let positions = [Kind::Site, Kind::Url, Kind::Time].into_iter().filter_map(position);
    let sorted = |at| SortingColumn { column_idx: at as i32, descending: false, nulls_first: true };
    positions.map(sorted).collect()
}

fn checksums(group: &RowGroupMetaData, file: &[u8]) -> Vec<u64> {
    let checksum = |(start, len): (u64, u64)| checksum(file, start, len);
    group.columns().iter().map(|column| checksum(column.byte_range())).collect()
}

fn bloom_checksum(group: &RowGroupMetaData, file: &[u8]) -> u64 {
    let range = group.columns().iter().find_map(|column| {
        let (start, len) = (column.bloom_filter_offset()?, column.bloom_filter_length()?);
        Some((u64::try_from(start).ok()?, u64::try_from(len).ok()?))
    });
    range.map_or(0, |(start, len)| checksum(file, start, len))
}

fn checksum(file: &[u8], start: u64, len: u64) -> u64 {
    xxh3_64(&file[start as usize..(start + len) as usize])
}
