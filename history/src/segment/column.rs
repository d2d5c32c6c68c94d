//! Values of a column, as they are read.
//!
//! Owns: integers, texts as ids, and sketches out of pages.
//! Does not own: pages (`page`), rows (`read`).

use super::chunk::{Chunk, Sink};
use super::error::Flaw;
use super::page::{NULL, Page, Values, each_binary};
use std::ops::Range;
use tidemark_rollup::dictionary::Dictionary;

/// Calls `each` with the integers of the wanted rows; `width` is their size in bytes.
pub(super) fn read_integers(
    chunk: &Chunk,
    width: usize,
    wanted: &[Range<u32>],
    each: impl FnMut(Option<u64>),
) -> Result<(), Flaw> {
    chunk.read(wanted, &mut Integers { width, dictionary: Vec::new(), each })
}

struct Integers<F> {
    width: usize,
    dictionary: Vec<u64>,
    each: F,
}

impl<F> Integers<F> {
    fn at(&self, values: &[u8], slot: usize) -> Option<u64> {
        let value = values.get(slot.checked_mul(self.width)?..)?;
        match self.width {
            4 => value.first_chunk().map(|&value| u64::from(u32::from_le_bytes(value))),
            _ => value.first_chunk().map(|&value| u64::from_le_bytes(value)),
        }
    }
}

impl<F: FnMut(Option<u64>)> Sink for Integers<F> {
    fn dictionary(&mut self, body: &[u8], len: usize) -> Result<(), Flaw> {
        let values = (0..len.min(body.len() / self.width)).map_while(|slot| self.at(body, slot));
        self.dictionary = values.collect();
        if self.dictionary.len() < len { Err("a dictionary ends early".into()) } else { Ok(()) }
    }

    fn page(&mut self, page: &Page<'_>, picks: &[Range<usize>]) -> Result<(), Flaw> {
        for row in picks.iter().cloned().flatten() {
            let value = match page.slot(row) {
                None => None,
                Some(slot) => Some(
                    match page.values {
                        Values::Plain(values) => self.at(values, slot),
                        Values::Integers(values) => values.get(slot).copied(),
                        Values::Lengths(..) => None,
                        Values::Ids(ids) => {
                            ids.get(slot).and_then(|&id| self.dictionary.get(id as usize)).copied()
                        }
                    }
                    .ok_or("a row has no value")?,
                ),
            };
            (self.each)(value);
        }
        Ok(())
    }
}

/// The texts of the wanted rows as ids in `texts`, to which unknown ones are added; a row without text has `none`.
pub(super) fn read_texts(
    chunk: &Chunk,
    wanted: &[Range<u32>],
    texts: &mut Dictionary,
    none: u32,
) -> Result<Vec<u32>, Flaw> {
    let (arena, entries, ids, plain, rows) = Default::default();
    let mut sink = Texts { texts, none, arena, entries, ids, plain, rows };
    chunk.read(wanted, &mut sink)?;
    Ok(sink.rows)
}

/// Texts get their ids when a wanted row first has them: no row's text is hashed.
struct Texts<'a> {
    texts: &'a mut Dictionary,
    none: u32,
    /// The chunk's dictionary, and where its entries are.
    arena: Vec<u8>,
    entries: Vec<Range<usize>>,
    /// Per entry its id in `texts`, or [`NULL`] where that is not known yet.
    ids: Vec<u32>,
    /// Ids of a page whose texts stand there as they are.
    plain: Vec<u32>,
    rows: Vec<u32>,
}

impl Texts<'_> {
    fn id_of(&mut self, entry: u32) -> Result<u32, Flaw> {
        let known = self.ids.get_mut(entry as usize).ok_or("a row's text is not in the dictionary")?;
        if *known == NULL {
            *known = intern(self.texts, &self.arena[self.entries[entry as usize].clone()])?;
        }
        Ok(*known)
    }

    /// Rows are sorted, so that a text often equals the one before.
    fn read_plain(&mut self, values: Values<'_>, len: usize) -> Result<(), Flaw> {
        self.plain.clear();
        let mut previous: Option<(&[u8], u32)> = None;
        each_binary(values, len, |text| {
            let id = match previous {
                Some((known, id)) if known == text => id,
                _ => intern(self.texts, text)?,
            };
            previous = Some((text, id));
            self.plain.push(id);
            Ok(())
        })
    }
}

fn intern(texts: &mut Dictionary, text: &[u8]) -> Result<u32, Flaw> {
    let text = std::str::from_utf8(text).map_err(|_| "a text is not UTF-8")?;
    Ok(texts.intern(text))
}

impl Sink for Texts<'_> {
    fn dictionary(&mut self, body: &[u8], len: usize) -> Result<(), Flaw> {
        self.arena = body.to_vec();
        self.entries.clear();
        let mut at = 0;
        each_binary(Values::Plain(body), len, |text| {
            at += 4;
            self.entries.push(at..at + text.len());
            at += text.len();
            Ok(())
        })?;
        self.ids = vec![NULL; self.entries.len()];
        Ok(())
    }

    fn page(&mut self, page: &Page<'_>, picks: &[Range<usize>]) -> Result<(), Flaw> {
        if !matches!(page.values, Values::Ids(_)) {
            let last = picks.last().map_or(0, |pick| pick.end);
            self.read_plain(page.values, page.present.min(last))?;
        }
        for row in picks.iter().cloned().flatten() {
            let id = match (page.slot(row), page.values) {
                (None, _) => self.none,
                (Some(slot), Values::Ids(ids)) => self.id_of(*ids.get(slot).ok_or("a row has no text")?)?,
                (Some(slot), _) => *self.plain.get(slot).ok_or("a row has no text")?,
            };
            self.rows.push(id);
        }
        Ok(())
    }
}

/// Calls `each` with the bytes of the wanted rows.
pub(super) fn read_binaries(
    chunk: &Chunk,
    wanted: &[Range<u32>],
    each: impl FnMut(Option<&[u8]>) -> Result<(), Flaw>,
) -> Result<(), Flaw> {
    chunk.read(wanted, &mut Binaries(each))
}

struct Binaries<F>(F);

impl<F: FnMut(Option<&[u8]>) -> Result<(), Flaw>> Sink for Binaries<F> {
    fn dictionary(&mut self, _: &[u8], _: usize) -> Result<(), Flaw> {
        Err("a column of sketches has a dictionary".into())
    }

    fn page(&mut self, page: &Page<'_>, picks: &[Range<usize>]) -> Result<(), Flaw> {
        let mut found = Vec::with_capacity(page.present);
        each_binary(page.values, page.present, |value| {
            found.push(value);
            Ok(())
        })?;
        for row in picks.iter().cloned().flatten() {
            let value = page.slot(row).map(|slot| found.get(slot).copied().ok_or("a row has no sketch"));
            (self.0)(value.transpose()?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Kind, Layout};
    use super::super::page::Unpacker;
    use super::super::write::{RowGroup, write_rollup};
    use super::*;
    use parquet::file::metadata::ParquetMetaDataReader;
    use proptest::prelude::*;
    use std::sync::Arc;
    use tidemark_rollup::measure::MeasureColumn;
    use tidemark_rollup::measure::unique::Unique;
    use tidemark_rollup::rows::SegmentRows;
    use tidemark_rollup::schema::Schema;
    use tidemark_rollup::sharding::ShardCount;
    use tidemark_rollup::time::{BucketStart, EventTime};

    const ROWS: u32 = 20_000;

    /// Columns of several pages: by dictionary, as differences, and with NULLs.
    fn chunks() -> Vec<(Kind, Chunk)> {
        let measures = ["bytes=sum(bytes)", "visitors=unique(visitor)"].map(|line| line.parse().unwrap());
        let schema = Arc::new(Schema::new(vec!["device".to_owned()], measures.to_vec()).unwrap());
        let mut rows = SegmentRows::new(Arc::clone(&schema));
        (rows.sites, rows.urls) = (vec!["a".to_owned()], (0..ROWS).map(|at| format!("/{at:05}")).collect());
        rows.values[0].extend(["desktop", "mobile"].map(str::to_owned));
        (rows.site, rows.url) = (vec![0; ROWS as usize], (0..ROWS).collect());
        rows.bucket = vec![BucketStart::containing(EventTime::EPOCH); ROWS as usize];
        rows.dimensions[0] = (0..ROWS).map(|at| at / 7 % 3).collect();
        rows.measures[0] =
            MeasureColumn::Integers((0..u64::from(ROWS)).map(|at| at * at % 999_983).collect());
        let visitor = |at: u32| if at.is_multiple_of(5) { Unique::Empty } else { Unique::One(u64::from(at)) };
        rows.measures[1] = MeasureColumn::Uniques((0..ROWS).map(visitor).collect());
        let group = RowGroup { shards: &[], rows: &rows };
        let written = write_rollup(&[group], 300, ShardCount::new(1).unwrap()).unwrap();
        let footer = written.bytes.len() - written.footer_bytes as usize;
        let metadata = &written.bytes[footer..written.bytes.len() - 8];
        let metadata = ParquetMetaDataReader::decode_metadata(metadata).unwrap();
        let columns = Layout::of(&schema).columns().to_vec();
        let chunk = |at: usize| {
            let column = metadata.row_group(0).column(at);
            let (start, len) = column.byte_range();
            let bytes = written.bytes.slice(start as usize..(start + len) as usize);
            let unpacked_bytes = column.uncompressed_size() as u64;
            let unpacker = Unpacker::shared().unwrap();
            (columns[at].kind, Chunk { bytes, unpacked_bytes, nullable: columns[at].physical().1, unpacker })
        };
        (0..columns.len()).map(chunk).collect()
    }

    thread_local! {
        // Writing them takes longer than all cases.
        static CHUNKS: Vec<(Kind, Chunk)> = chunks();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// As where somebody forged the checksums, too.
        #[test]
        fn a_damaged_column_never_panics(
            column in any::<prop::sample::Index>(),
            // Headers and levels are at the beginning of pages.
            at in prop_oneof![0_usize..60, any::<prop::sample::Index>().prop_map(|at| at.index(1 << 20))],
            by in 1_u8..,
            first in 0..ROWS,
        ) {
            let (kind, chunk) = CHUNKS.with(|chunks| chunks[column.index(chunks.len())].clone());
            let mut bytes = chunk.bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= by;
            let chunk = Chunk { bytes: bytes.into(), ..chunk.clone() };
            let wanted = [first / 2..first, first..ROWS];
            let wanted: Vec<Range<u32>> = wanted.into_iter().filter(|range| !range.is_empty()).collect();
            _ = match kind {
                Kind::Site | Kind::Url | Kind::Dimension(_) => {
                    read_texts(&chunk, &wanted, &mut Dictionary::default(), NULL).map(drop)
                }
                Kind::Sketches(_) => read_binaries(&chunk, &wanted, |bytes| {
                    bytes.map(Unique::decode);
                    Ok(())
                }),
                _ => read_integers(&chunk, 8, &wanted, |_| {}),
            };
        }
    }
}
