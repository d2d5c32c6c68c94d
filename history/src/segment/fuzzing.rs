//! Columns of segments, for `fuzz/`: pages past the checksums that stand around them in a segment.
//!
//! Owns: reading a column of each kind from bytes, and what came of it; what the pages of a segment hold.
//! Does not own: how they are read (`column`), pages (`page`).

use super::chunk::Chunk;
use super::column::{read_binaries, read_integers, read_texts};
use super::error::Flaw;
use super::footer::Footer;
use super::page::{NULL, Unpacker};
use super::thrift::{Encoding, PageKind, take_header};
use bytes::Bytes;
use std::ops::Range;
use std::rc::Rc;
use tidemark_rollup::dictionary::Dictionary;
use tidemark_rollup::measure::distribution::Distribution;
use tidemark_rollup::measure::unique::Unique;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Integers of so many bytes: 4 or 8.
    Integers(usize),
    /// URLs and values of dimensions.
    Texts,
    /// Visitors.
    Uniques,
    /// Durations and the like.
    Distributions,
}

/// A page, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackedPage {
    /// Whether it is the dictionary of the others.
    pub is_dictionary: bool,
    /// The number of the encoding, as Parquet has it.
    pub encoding: u8,
    /// Values, NULLs included.
    pub len: u32,
    /// What the page holds.
    pub body: Vec<u8>,
}

/// The pages of each column of a segment that is whole: what a fuzzer begins with.
pub fn pages(footer: &Footer, object: &Bytes) -> Vec<Vec<UnpackedPage>> {
    let columns = footer.0.groups.iter().flat_map(|group| &group.columns);
    let bytes = columns.filter_map(|at| object.get(at.bytes.start as usize..at.bytes.end as usize));
    bytes.filter_map(unpack).collect()
}

fn unpack(mut rest: &[u8]) -> Option<Vec<UnpackedPage>> {
    let unpacker = Unpacker::shared().ok()?;
    let mut unpacker = unpacker.borrow_mut();
    let mut pages = Vec::new();
    while !rest.is_empty() {
        let header = take_header(&mut rest)?;
        let (packed, tail) = rest.split_at_checked(header.packed_bytes)?;
        rest = tail;
        pages.push(UnpackedPage {
            is_dictionary: header.kind == PageKind::Dictionary,
            encoding: match header.encoding {
                Encoding::Plain => 0,
                Encoding::Ids => 8,
                Encoding::Differences => 5,
                Encoding::Lengths => 6,
                Encoding::Other => 1,
            },
            len: header.len,
            body: unpacker.unpack(&header, packed, u64::MAX).ok()?.to_vec(),
        });
    }
    Some(pages)
}

/// Reads the wanted rows, which ascend, of a column whose pages have `unpacked_bytes` at most. How many rows there were and what
/// they hold, as a hash; `None` where the column is malformed.
pub fn read_column(
    bytes: Bytes,
    unpacked_bytes: u64,
    nullable: bool,
    holds: Holds,
    wanted: &[Range<u32>],
) -> Option<(usize, Vec<u8>)> {
    let unpacker = Unpacker::shared().ok()?;
    let chunk = Chunk { bytes, unpacked_bytes, nullable, unpacker: Rc::clone(&unpacker) };
    let (mut rows, mut said) = (0, Vec::new());
    let read = match holds {
        Holds::Integers(width) => read_integers(&chunk, width, wanted, |value| {
            rows += 1;
            said.extend(value.unwrap_or_default().to_le_bytes());
        }),
        Holds::Texts => {
            let mut texts = Dictionary::default();
            read_texts(&chunk, wanted, &mut texts, NULL).map(|ids| {
                rows = ids.len();
                ids.iter().filter(|&&id| id != NULL).for_each(|&id| said.extend(texts.get(id).as_bytes()));
            })
        }
        Holds::Uniques => read_binaries(&chunk, wanted, |bytes| {
            rows += 1;
            let unique = bytes.map_or(Some(Unique::default()), Unique::decode);
            unique.ok_or(Flaw::from("malformed"))?.encode(&mut said);
            Ok(())
        }),
        Holds::Distributions => read_binaries(&chunk, wanted, |bytes| {
            rows += 1;
            let distribution = bytes.map_or(Some(Distribution::default()), Distribution::decode);
            distribution.ok_or(Flaw::from("malformed"))?.encode(&mut said);
            Ok(())
        }),
    };
    read.ok().map(|()| (rows, said))
}
