//! One column of a row group.
//!
//! Owns: walking its pages, and unpacking only those that hold wanted rows.
//! Does not own: pages (`page`), values (`column`), checksums (`fetched`).

use super::error::Flaw;
use super::page::{Page, Unpacker};
use super::thrift::{PageKind, take_header};
use bytes::Bytes;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// A column of a row group, its checksum verified.
#[derive(Clone)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    /// Bytes of all pages, unpacked.
    pub(super) unpacked_bytes: u64,
    pub(super) nullable: bool,
    /// Shared by the columns of one reading: making one costs more than unpacking a small column.
    pub(super) unpacker: Rc<RefCell<Unpacker>>,
}

/// Takes what a chunk holds.
pub(super) trait Sink {
    /// The dictionary, where there is one: before any page.
    fn dictionary(&mut self, body: &[u8], len: usize) -> Result<(), Flaw>;

    /// A page, and which of its rows are wanted.
    fn page(&mut self, page: &Page<'_>, picks: &[Range<usize>]) -> Result<(), Flaw>;
}

impl Chunk {
    /// Gives the wanted rows, which ascend, to `sink`.
    pub(super) fn read(&self, wanted: &[Range<u32>], sink: &mut impl Sink) -> Result<(), Flaw> {
        let Some(end) = wanted.last().map(|range| range.end) else { return Ok(()) };
        let mut unpacker = self.unpacker.borrow_mut();
        let mut rest: &[u8] = &self.bytes;
        let (mut row, mut wanted) = (0_u32, wanted);
        let mut picks = Vec::new();
        while row < end {
            let header = take_header(&mut rest).ok_or("the header of a page is malformed")?;
            let (packed, tail) =
                rest.split_at_checked(header.packed_bytes).ok_or("a page ends beyond its column")?;
            rest = tail;
            match header.kind {
                PageKind::Other => {}
                PageKind::Dictionary => {
                    let body = unpacker.unpack(&header, packed, self.unpacked_bytes)?;
                    sink.dictionary(body, header.len as usize)?;
                }
                PageKind::Data => {
                    let next = row.checked_add(header.len).ok_or("a column has too many rows")?;
                    wanted = pick(wanted, row..next, &mut picks);
                    if !picks.is_empty() {
                        let page = unpacker.page(&header, packed, self.nullable, self.unpacked_bytes)?;
                        sink.page(&page, &picks)?;
                    }
                    row = next;
                }
            }
        }
        Ok(())
    }
}

/// The parts of `wanted` within `page`, relative to it; returns what may concern later pages.
fn pick<'a>(
    mut wanted: &'a [Range<u32>],
    page: Range<u32>,
    picks: &mut Vec<Range<usize>>,
) -> &'a [Range<u32>] {
    picks.clear();
    while let Some((first, rest)) = wanted.split_first() {
        let part = first.start.max(page.start)..first.end.min(page.end);
        if !part.is_empty() {
            picks.push((part.start - page.start) as usize..(part.end - page.start) as usize);
        }
        if first.end > page.end {
            break;
        }
        wanted = rest;
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_over_several_pages_is_picked_from_each() {
        let wanted = [2..4, 6..17, 18..19];
        let mut picks = Vec::new();
        let rest = pick(&wanted, 0..8, &mut picks);
        assert_eq!(picks, [2..4, 6..8]);
        let rest = pick(rest, 8..16, &mut picks);
        assert_eq!(picks.as_slice(), std::slice::from_ref(&(0..8)));
        assert!(pick(rest, 16..24, &mut picks).is_empty());
        assert_eq!(picks, [0..1, 2..3]);
    }
}
