//! Raw segments: blocks as they came.
//!
//! Owns: their columns, writing and reading them whole.
//! Does not own: what is in a block (`tidemark_rollup::block`).
//!
//! | column | type | |
//! | --- | --- | --- |
//! | `producer` | 16 bytes | with `shard` and `seq` the block's identity |
//! | `shard` | integer | |
//! | `seq` | unsigned | |
//! | `sealed_at` | timestamp, ms, UTC | |
//! | `event_count` | unsigned | |
//! | `columns` | binary | an encoded `tidemark.v1.Columns`: the events |

use super::chunk::{Chunk, Sink};
use super::column::read_integers;
use super::error::{Flaw, SegmentError, WriteError};
use super::footer::{ChunkAt, check_tail, decode_metadata};
use super::page::{Page, Unpacker, Values, each_binary};
use super::write::{Written, base_properties};
use bytes::Bytes;
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::properties::EnabledStatistics;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tidemark_proto::v1;
use xxhash_rust::xxh3::xxh3_64;

const PRODUCER_BYTES: usize = 16;
/// Blocks of a row group, at most: bounds what a reader of other tools unpacks at once.
const GROUP_BLOCKS: usize = 16_384;

const COLUMNS: [(&str, Physical); 6] = [
    ("producer", Physical::FIXED_LEN_BYTE_ARRAY),
    ("shard", Physical::INT32),
    ("seq", Physical::INT64),
    ("sealed_at", Physical::INT64),
    ("event_count", Physical::INT32),
    ("columns", Physical::BYTE_ARRAY),
];

/// A raw segment that blocks are added to one by one. Beside what is packed already, no more of them are in memory than a row group has.
pub struct RawWriter {
    file: SerializedFileWriter<Vec<u8>>,
    /// Of the next row group.
    waiting: Vec<v1::Block>,
    /// Blocks in row groups.
    written: usize,
}

impl RawWriter {
    /// A segment without blocks.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn new() -> Result<Self, WriteError> {
        // Identities are few bytes beside the events: plain and packed is small enough, and simple to read.
        let properties = base_properties()
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_column_statistics_enabled("columns".into(), EnabledStatistics::None)
            .build();
        let file = SerializedFileWriter::new(Vec::new(), parquet_schema()?, Arc::new(properties))?;
        Ok(Self { file, waiting: Vec::new(), written: 0 })
    }

    /// Adds a block after those before.
    ///
    /// # Errors
    /// Where its producer has not 16 bytes.
    pub fn push(&mut self, block: v1::Block) -> Result<(), WriteError> {
        if block.producer.len() != PRODUCER_BYTES {
            let at = self.written + self.waiting.len();
            return Err(WriteError::Block { at, what: "a producer's id has 16 bytes" });
        }
        self.waiting.push(block);
        match self.waiting.len() {
            GROUP_BLOCKS => self.write_group(),
            _ => Ok(()),
        }
    }

    /// The segment.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        if !self.waiting.is_empty() {
            self.write_group()?;
        }
        self.file.finish()?;
        Ok(Written::of(std::mem::take(self.file.inner_mut()), self.written as u64))
    }

    fn write_group(&mut self) -> Result<(), WriteError> {
        let mut group = self.file.next_row_group()?;
        let mut at = 0;
        while let Some(mut column) = group.next_column()? {
            feed(&self.waiting, at, column.untyped())?;
            column.close()?;
            at += 1;
        }
        group.close()?;
        self.written += self.waiting.len();
        self.waiting.clear();
        Ok(())
    }
}

/// A segment of these blocks, in this order.
///
/// # Errors
/// Where a block's producer has not 16 bytes.
pub fn write_raw(blocks: &[v1::Block]) -> Result<Written, WriteError> {
    let mut writer = RawWriter::new()?;
    blocks.iter().cloned().try_for_each(|block| writer.push(block))?;
    writer.finish()
}

fn parquet_schema() -> Result<TypePtr, ParquetError> {
    let fields = COLUMNS.iter().map(|&(name, physical)| {
        let logical = match name {
            "seq" => Some(LogicalType::integer(64, false)),
            "event_count" => Some(LogicalType::integer(32, false)),
            "sealed_at" => Some(LogicalType::timestamp(true, TimeUnit::MILLIS)),
            _ => None,
        };
        let length = if name == "producer" { PRODUCER_BYTES as i32 } else { -1 };
        let column = Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(logical)
            .with_length(length)
            .build()?;
        Ok(Arc::new(column))
    });
    let fields = fields.collect::<Result<Vec<_>, ParquetError>>()?;
    Ok(Arc::new(Type::group_type_builder("raw").with_fields(fields).build()?))
}

fn feed(blocks: &[v1::Block], at: usize, writer: &mut ColumnWriter<'_>) -> Result<(), ParquetError> {
    match writer {
        ColumnWriter::Int32ColumnWriter(writer) => {
            let shard = at == 1;
            let of = |block: &v1::Block| (if shard { block.shard } else { block.event_count }) as i32;
            let values: Vec<i32> = blocks.iter().map(of).collect();
            writer.write_batch(&values, None, None)?;
        }
        ColumnWriter::Int64ColumnWriter(writer) => {
            let seq = at == 2;
            let of = |block: &v1::Block| if seq { block.seq as i64 } else { block.sealed_at_ms };
            let values: Vec<i64> = blocks.iter().map(of).collect();
            writer.write_batch(&values, None, None)?;
        }
        ColumnWriter::ByteArrayColumnWriter(writer) => {
            let of = |block: &v1::Block| ByteArray::from(block.columns.clone());
            let values: Vec<ByteArray> = blocks.iter().map(of).collect();
            writer.write_batch(&values, None, None)?;
        }
        ColumnWriter::FixedLenByteArrayColumnWriter(writer) => {
            let of = |block: &v1::Block| FixedLenByteArray::from(ByteArray::from(block.producer.clone()));
            let values: Vec<FixedLenByteArray> = blocks.iter().map(of).collect();
            writer.write_batch(&values, None, None)?;
        }
        _ => {}
    }
    Ok(())
}

/// The blocks of a raw segment, in the order they were written, from all its bytes.
///
/// # Errors
/// Where the bytes are not those that were committed, or make no sense.
pub fn read_raw(segment: &v1::Segment, bytes: &Bytes) -> Result<Vec<v1::Block>, SegmentError> {
    let path = &segment.path;
    if bytes.len() as u64 != segment.size_bytes || xxh3_64(bytes) != segment.checksum {
        let what = format!("its {} bytes are not the {} committed", bytes.len(), segment.size_bytes);
        return Err(SegmentError::Damaged { path: path.clone(), what });
    }
    let footer =
        usize::try_from(segment.footer_bytes).ok().and_then(|footer| bytes.len().checked_sub(footer));
    let footer = footer.ok_or_else(|| Flaw::from("its footer is larger than it").unreadable(path))?;
    let metadata_of = bytes.slice(footer..);
    let metadata = check_tail(segment, &metadata_of)?;
    let body = bytes.slice(..footer);
    read_groups(metadata, &body, segment.rows).map_err(|flaw| flaw.unreadable(path))
}

fn read_groups(metadata: &[u8], body: &Bytes, rows: u64) -> Result<Vec<v1::Block>, Flaw> {
    let metadata = decode_metadata(metadata)?;
    let columns = metadata.file_metadata().schema_descr().columns();
    let expected = COLUMNS.iter().copied();
    let found = columns.iter().map(|column| (column.name(), column.physical_type()));
    if !found.eq(expected) || columns.iter().any(|column| column.max_def_level() + column.max_rep_level() > 0)
    {
        return Err("it has not the columns of raw segments".into());
    }
    let mut blocks = Vec::new();
    for group in metadata.row_groups() {
        read_group(group, body, &mut blocks)?;
    }
    if blocks.len() as u64 != rows {
        return Err(format!("it has {} blocks, and its commit says {rows}", blocks.len()).into());
    }
    Ok(blocks)
}

fn read_group(group: &RowGroupMetaData, body: &Bytes, blocks: &mut Vec<v1::Block>) -> Result<(), Flaw> {
    let len = u32::try_from(group.num_rows()).map_err(|_| "a row group has too many rows")?;
    if group.num_columns() != COLUMNS.len() {
        return Err("a row group lacks a column".into());
    }
    let unpacker = Unpacker::shared()?;
    let chunk = |at: usize| -> Result<Chunk, Flaw> {
        // The whole object's checksum was verified.
        let at = ChunkAt::column(group.column(at), 0, u64::from(len), body.len() as u64)?;
        let bytes = body.slice(at.bytes.start as usize..at.bytes.end as usize);
        Ok(Chunk {
            bytes,
            unpacked_bytes: at.unpacked_bytes,
            nullable: false,
            unpacker: Rc::clone(&unpacker),
        })
    };
    let all = 0..len;
    let wanted = std::slice::from_ref(&all);
    let wanted = if len == 0 { &[] } else { wanted };
    let integers = |at: usize, width: usize| -> Result<Vec<u64>, Flaw> {
        let mut values = Vec::new();
        read_integers(&chunk(at)?, width, wanted, |value| values.extend(value))?;
        Ok(values)
    };
    let bytes = |at: usize, width: Option<usize>| -> Result<Vec<Bytes>, Flaw> {
        let mut sink = Blobs { width, found: Vec::new() };
        chunk(at)?.read(wanted, &mut sink)?;
        Ok(sink.found)
    };
    let (producers, columns) = (bytes(0, Some(PRODUCER_BYTES))?, bytes(5, None)?);
    let (shards, seqs, sealed, events) = (integers(1, 4)?, integers(2, 8)?, integers(3, 8)?, integers(4, 4)?);
    let lengths = [producers.len(), columns.len(), shards.len(), seqs.len(), sealed.len(), events.len()];
    if lengths.iter().any(|&found| found != len as usize) {
        return Err("its columns have different lengths".into());
    }
    let identities = producers.into_iter().zip(shards).zip(seqs);
    let rest = sealed.into_iter().zip(events).zip(columns);
    blocks.extend(identities.zip(rest).map(|(((producer, shard), seq), ((sealed, events), columns))| {
        v1::Block {
            producer,
            shard: shard as u32,
            seq,
            sealed_at_ms: sealed as i64,
            event_count: events as u32,
            columns,
        }
    }));
    Ok(())
}

/// Bytes of a column without dictionary. Each is copied: a block must not keep the others of its page in memory.
struct Blobs {
    /// Bytes of each, where they are equal.
    width: Option<usize>,
    found: Vec<Bytes>,
}

impl Sink for Blobs {
    fn dictionary(&mut self, _: &[u8], _: usize) -> Result<(), Flaw> {
        Err("a raw segment has a dictionary".into())
    }

    fn page(&mut self, page: &Page<'_>, picks: &[Range<usize>]) -> Result<(), Flaw> {
        let len = picks.iter().map(Range::len).sum();
        let (Values::Plain(values), Some(width)) = (page.values, self.width) else {
            return each_binary(page.values, len, |value| {
                self.found.push(Bytes::copy_from_slice(value));
                Ok(())
            });
        };
        self.found.extend(values.chunks_exact(width).take(len).map(Bytes::copy_from_slice));
        Ok(())
    }
}
