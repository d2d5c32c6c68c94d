//! Pages of Parquet, packed as a segment has them.
//!
//! Owns: a page's header and its packing; a column as frames, one for each page, and one before them for what is read of it.
//! Does not own: what pages hold.
//!
//! A frame's tag has the encoding in its low four bits and whether it is the dictionary in the next. The body begins with the number of
//! values, 2 bytes.

use crate::frames::Frame;

/// A page of which a header is written.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Whether it is the dictionary of the others.
    pub is_dictionary: bool,
    /// The number of the encoding, as Parquet has it.
    pub encoding: u8,
    /// Values, NULLs included.
    pub len: u16,
    /// What the page holds.
    pub body: &'a [u8],
}

impl<'a> Page<'a> {
    /// The page of a frame.
    pub fn of(frame: Frame<'a>) -> Self {
        let (len, body) = match frame.body.split_first_chunk::<2>() {
            Some((&len, body)) => (u16::from_le_bytes(len), body),
            None => (0, frame.body),
        };
        Self { is_dictionary: frame.tag & 0x10 != 0, encoding: frame.tag & 0xF, len, body }
    }

    /// The frame of a page.
    pub fn frame(&self, out: &mut Vec<u8>) {
        let tag = self.encoding | u8::from(self.is_dictionary) << 4;
        Frame { tag, body: &[&self.len.to_le_bytes()[..], self.body].concat() }.encode(out);
    }

    /// The page as it is in a column.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let packed = zstd::bulk::compress(self.body, 1).expect("anything can be packed");
        let (kind, header) = if self.is_dictionary { (2, 0x4C) } else { (0, 0x2C) };
        for (field, value) in [(0x15, kind), (0x15, self.body.len()), (0x15, packed.len())] {
            out.push(field);
            put(value as u64, out);
        }
        // A dictionary's header is field 7, a data page's 5; each begins with the number of values and their encoding.
        out.push(header);
        for value in [u64::from(self.len), u64::from(self.encoding)] {
            out.push(0x15);
            put(value, out);
        }
        out.extend([0, 0]);
        out.extend(packed);
    }
}

/// A number that is not negative, in Thrift's compact form.
fn put(value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(value << 1, out);
}
