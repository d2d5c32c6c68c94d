//! The header of a page, and whether what the `parquet` crate is to read can be believed.
//!
//! Owns: reading the few fields of a page's header that matter out of Thrift's compact encoding, and walking over structs of any kind.
//! Does not own: pages (`page`), what is in footers and filters (the `parquet` crate).
//!
//! Why not all by the `parquet` crate: it takes a page's header at its word, and panics or reserves gigabytes where one lies. And where a
//! footer says that it has two thousand million flags, it counts to there.

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageKind {
    /// A data page of version 1.
    Data,
    Dictionary,
    Other,
}

/// How values are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    /// Positions in the dictionary.
    Ids,
    /// Integers as differences.
    Differences,
    /// Lengths as differences, then all bytes.
    Lengths,
    Other,
}

/// What stands before a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) kind: PageKind,
    pub(super) packed_bytes: usize,
    pub(super) unpacked_bytes: usize,
    /// Values, NULLs included.
    pub(super) len: u32,
    pub(super) encoding: Encoding,
}

/// Takes a header off the front; `None` where there is none.
pub(super) fn take_header(input: &mut &[u8]) -> Option<PageHeader> {
    let mut reader = Reader(input);
    let (mut kind, mut unpacked, mut packed) = (None, None, None);
    let mut values = None;
    reader.each_field(0, |reader, id, wire| {
        match (id, wire) {
            (1, I32) => kind = Some(reader.int()?),
            (2, I32) => unpacked = Some(reader.int()?),
            (3, I32) => packed = Some(reader.int()?),
            // The headers of data and of dictionary pages begin alike.
            (5 | 7, STRUCT) => values = Some(reader.values()?),
            _ => reader.skip(wire, 0)?,
        }
        Some(())
    })?;
    *input = reader.0;
    let kind = match kind? {
        0 => PageKind::Data,
        2 => PageKind::Dictionary,
        _ => PageKind::Other,
    };
    let (len, encoding) = match kind {
        PageKind::Other => (0, Encoding::Other),
        PageKind::Data | PageKind::Dictionary => values?,
    };
    let size = |value: Option<i64>| usize::try_from(value?).ok();
    Some(PageHeader { kind, packed_bytes: size(packed)?, unpacked_bytes: size(unpacked)?, len, encoding })
}

/// Whether bytes begin with a struct that can be read with as much work as it has bytes: no list claims more elements than bytes follow.
/// What is after the struct.
pub(super) fn after_struct(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(bytes);
    reader.skip(STRUCT, 0)?;
    Some(reader.rest())
}

pub(super) const BOOLS: [u8; 2] = [1, 2];
pub(super) const BYTE: u8 = 3;
pub(super) const I16: u8 = 4;
pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
pub(super) const DOUBLE: u8 = 7;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
const SET: u8 = 10;
pub(super) const STRUCT: u8 = 12;

/// Statistics of a column are six deep in a footer, a list of theirs is seven.
const MAX_DEPTH: u32 = 8;

/// Reads Thrift's compact encoding. `None` is everywhere that there is something else.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What was not read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        prost::encoding::decode_varint(&mut self.0).ok()
    }

    pub(super) fn int(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn each_field(
        &mut self,
        depth: u32,
        mut each: impl FnMut(&mut Self, i64, u8) -> Option<()>,
    ) -> Option<()> {
        let mut before = 0;
        while let Some((id, wire)) = self.field_head(before, depth)? {
            each(self, id, wire)?;
            before = id;
        }
        Some(())
    }

    /// The number and type of the field after the one with number `before`, 0 for the first; within, `None` at the end of the struct.
    pub(super) fn field_head(&mut self, before: i64, depth: u32) -> Option<Option<(i64, u8)>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let head = self.byte()?;
        let id = match head >> 4 {
            _ if head == 0 => return Some(None),
            0 => self.int()?,
            delta => before.checked_add(i64::from(delta))?,
        };
        // A larger number would be another one to who reads 16 bits of it.
        i16::try_from(id).ok()?;
        Some(Some((id, head & 0xF)))
    }

    /// How many values a page has, and their encoding.
    fn values(&mut self) -> Option<(u32, Encoding)> {
        let (mut len, mut encoding) = (None, None);
        self.each_field(1, |reader, id, wire| {
            match (id, wire) {
                (1, I32) => len = u32::try_from(reader.int()?).ok(),
                (2, I32) => encoding = Some(reader.int()?),
                _ => reader.skip(wire, 1)?,
            }
            Some(())
        })?;
        let encoding = match encoding? {
            0 => Encoding::Plain,
            // 2 is the older name of the same.
            2 | 8 => Encoding::Ids,
            5 => Encoding::Differences,
            6 => Encoding::Lengths,
            _ => Encoding::Other,
        };
        Some((len?, encoding))
    }

    pub(super) fn skip(&mut self, wire: u8, depth: u32) -> Option<()> {
        match wire {
            _ if BOOLS.contains(&wire) => Some(()),
            BYTE => self.byte().map(drop),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.skip_bytes(8),
            BINARY => {
                let len = self.varint()?;
                self.skip_bytes(len)
            }
            LIST | SET => self.skip_list(depth),
            STRUCT => self.each_field(depth + 1, |reader, _, wire| reader.skip(wire, depth + 1)),
            _ => None,
        }
    }

    fn skip_bytes(&mut self, len: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(len).ok()?..)?;
        Some(())
    }

    fn skip_list(&mut self, depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (wire, len) = self.list_head()?;
        (0..len).try_for_each(|_| self.skip(wire, depth + 1))
    }

    /// The type of a list's elements, and how many they are.
    pub(super) fn list_head(&mut self) -> Option<(u8, u64)> {
        let head = self.byte()?;
        let len = match head >> 4 {
            15 => self.varint()?,
            len => u64::from(len),
        };
        // Parquet has no lists of bools where this reads. Some say that these take a byte each, others that they take none.
        let wire = Some(head & 0xF).filter(|wire| !BOOLS.contains(wire))?;
        (len <= self.0.len() as u64).then_some((wire, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_data_page_is_told_from_a_dictionary() {
        // type 0, unpacked 100, packed 40, data header { 7 values, encoding 8, levels 3, 3, statistics { "a" } }
        let bytes = [
            0x15, 0, 0x15, 200, 1, 0x15, 80, 0x2C, 0x15, 14, 0x15, 16, 0x15, 6, 0x15, 6, 0x1C, 0x18, 1, b'a',
            0, 0, 0, 0xAA,
        ];
        let mut input = &bytes[..];
        let header = take_header(&mut input).unwrap();
        assert_eq!(input, [0xAA]);
        let expected = PageHeader {
            kind: PageKind::Data,
            packed_bytes: 40,
            unpacked_bytes: 100,
            len: 7,
            encoding: Encoding::Ids,
        };
        assert_eq!(header, expected);
        let dictionary = [0x15, 4, 0x15, 2, 0x15, 2, 0x4C, 0x15, 6, 0x15, 0, 0x12, 0, 0];
        let header = take_header(&mut &dictionary[..]).unwrap();
        assert_eq!((header.kind, header.len, header.encoding), (PageKind::Dictionary, 3, Encoding::Plain));
    }

    #[test]
    fn a_list_that_claims_more_than_there_is_is_not_walked_over() {
        // One field, which is a list of so many of something; then the end of the struct.
        let of = |head: &[u8], rest: &[u8]| [&[0x19], head, rest, &[0, 0xAA]].concat();
        let three = of(&[0x35], &[2, 4, 6]);
        assert_eq!(after_struct(&three), Some(&[0xAA][..]));
        let of_one = of(&[0x15], &[2]);
        assert_eq!(after_struct(&of_one), Some(&[0xAA][..]));
        for element in [1, 2, 5, 12] {
            let many = of(&[0xF0 | element, 0xFF, 0xFF, 0xFF, 0xFF, 7], &[]);
            assert_eq!(after_struct(&many), None, "elements of type {element}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut input = &bytes[..];
            while take_header(&mut input).is_some() && !input.is_empty() {}
            _ = after_struct(&bytes);
        }
    }
}
