//! Pages of a column.
//!
//! Owns: unpacking a page, which rows are NULL, and where the values are.
//! Does not own: what the values mean (`column`), which pages are read (`chunk`).

use super::error::Flaw;
use super::thrift::{Encoding, PageHeader};
use super::{delta, hybrid};
use std::cell::RefCell;
use std::rc::Rc;

/// Pages are written with a hundredth of it. Bounds what a few bytes can claim.
const MAX_PAGE_ROWS: u32 = 1 << 20;
/// The largest is the dictionary of URLs, with a quarter of it.
const MAX_PAGE_BYTES: u64 = 64 << 20;

/// The slot of a row that is NULL.
pub(super) const NULL: u32 = u32::MAX;

/// The values of a page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    /// Positions in the chunk's dictionary.
    Ids(&'a [u32]),
    /// One after the other; before each text its length.
    Plain(&'a [u8]),
    /// Integers.
    Integers(&'a [u64]),
    /// Lengths, and all bytes one after the other.
    Lengths(&'a [u64], &'a [u8]),
}

/// A data page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    /// Per row the position of its value, or [`NULL`]; none where each row has one.
    slots: Option<&'a [u32]>,
    /// How many values there are.
    pub(super) present: usize,
    pub(super) values: Values<'a>,
}

impl Page<'_> {
    /// The position of a row's value; none where it is NULL.
    pub(super) fn slot(&self, row: usize) -> Option<usize> {
        match self.slots {
            None => Some(row),
            Some(slots) => slots.get(row).filter(|&&slot| slot != NULL).map(|&slot| slot as usize),
        }
    }
}

/// Room for a page, reused from page to page.
pub(super) struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
    body: Vec<u8>,
    slots: Vec<u32>,
    ids: Vec<u32>,
    integers: Vec<u64>,
}

impl Unpacker {
    /// One for the columns that are read together.
    pub(super) fn shared() -> Result<Rc<RefCell<Self>>, Flaw> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?;
        let (body, slots, ids, integers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Rc::new(RefCell::new(Self { zstd, body, slots, ids, integers })))
    }

    /// The bytes of a page, of which the whole column has at most `limit`.
    pub(super) fn unpack(&mut self, header: &PageHeader, packed: &[u8], limit: u64) -> Result<&[u8], Flaw> {
        if header.unpacked_bytes as u64 > limit.min(MAX_PAGE_BYTES) {
            return Err("a page is larger than its column, or than any".into());
        }
        self.body.clear();
        self.body.reserve(header.unpacked_bytes);
        let unpacked = self.zstd.decompress_to_buffer(packed, &mut self.body);
        unpacked.map_err(|error| format!("a page does not unpack: {error}"))?;
        if self.body.len() != header.unpacked_bytes {
            return Err("a page has another size than its header says".into());
        }
        Ok(&self.body)
    }

    /// A data page.
    pub(super) fn page(
        &mut self,
        header: &PageHeader,
        packed: &[u8],
        nullable: bool,
        limit: u64,
    ) -> Result<Page<'_>, Flaw> {
        if header.len > MAX_PAGE_ROWS {
            return Err("a page has too many rows".into());
        }
        self.unpack(header, packed, limit)?;
        let mut at = 0;
        let mut present = header.len as usize;
        if nullable {
            (at, present) =
                self.read_levels(header.len as usize).ok_or("the NULLs of a page are malformed")?;
        }
        let body = &self.body[at..];
        self.integers.clear();
        let values = match header.encoding {
            Encoding::Plain => Values::Plain(body),
            Encoding::Ids => {
                read_ids(body, present, &mut self.ids)
                    .ok_or("the dictionary positions of a page are malformed")?;
                Values::Ids(&self.ids)
            }
            Encoding::Differences => {
                delta::read(body, present, &mut self.integers)
                    .ok_or("the integers of a page are malformed")?;
                Values::Integers(&self.integers)
            }
            Encoding::Lengths => {
                let bytes = delta::read(body, present, &mut self.integers);
                Values::Lengths(&self.integers, bytes.ok_or("the lengths of a page are malformed")?)
            }
            Encoding::Other => return Err("a page has an encoding that segments do not use".into()),
        };
        let slots = (present < header.len as usize).then_some(&self.slots[..]);
        Ok(Page { slots, present, values })
    }

    /// Reads which rows are not NULL; returns where the values begin, and how many there are.
    fn read_levels(&mut self, len: usize) -> Option<(usize, usize)> {
        let (size, rest) = self.body.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*size) as usize;
        self.slots.clear();
        hybrid::read(rest.get(..size)?, 1, len, &mut self.slots)?;
        let mut present = 0;
        for slot in &mut self.slots {
            let is_set = *slot == 1;
            *slot = if is_set { present } else { NULL };
            present += u32::from(is_set);
        }
        Some((4 + size, present as usize))
    }
}

fn read_ids(input: &[u8], len: usize, ids: &mut Vec<u32>) -> Option<()> {
    ids.clear();
    if len == 0 {
        return Some(());
    }
    let (&width, rest) = input.split_first()?;
    hybrid::read(rest, u32::from(width), len, ids)
}

/// Calls `each` with the first `len` texts or sketches of a page.
pub(super) fn each_binary<'a>(
    values: Values<'a>,
    len: usize,
    mut each: impl FnMut(&'a [u8]) -> Result<(), Flaw>,
) -> Result<(), Flaw> {
    const EARLY: &str = "a page ends within a value";
    match values {
        Values::Plain(mut rest) => {
            for _ in 0..len {
                let (size, tail) = rest.split_first_chunk::<4>().ok_or(EARLY)?;
                let (value, tail) = tail.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or(EARLY)?;
                rest = tail;
                each(value)?;
            }
        }
        Values::Lengths(lengths, mut rest) => {
            for &size in lengths.get(..len).ok_or(EARLY)? {
                let size = usize::try_from(size).map_err(|_| EARLY)?;
                let (value, tail) = rest.split_at_checked(size).ok_or(EARLY)?;
                rest = tail;
                each(value)?;
            }
        }
        Values::Ids(_) | Values::Integers(_) => return Err("a page holds no bytes".into()),
    }
    Ok(())
}
