//! The header of a page.
//!
//! Owns: reading the few fields of it that matter out of Thrift's compact encoding.
//! Does not own: pages (`page`), the footer (`footer`, by the `parquet` crate).
//!
//! Why not by the `parquet` crate: it takes a header at its word, and panics or reserves gigabytes where one lies.

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

const BOOLS: [u8; 2] = [1, 2];
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

/// Statistics within a header are two deep.
const MAX_DEPTH: u32 = 8;

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        prost::encoding::decode_varint(&mut self.0).ok()
    }

    fn int(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn each_field(
        &mut self,
        depth: u32,
        mut each: impl FnMut(&mut Self, i64, u8) -> Option<()>,
    ) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut id = 0_i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = match head >> 4 {
                0 => self.int()?,
                delta => id.checked_add(i64::from(delta))?,
            };
            each(self, id, head & 0xF)?;
        }
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

    fn skip(&mut self, wire: u8, depth: u32) -> Option<()> {
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
        let head = self.byte()?;
        let len = match head >> 4 {
            15 => self.varint()?,
            len => u64::from(len),
        };
        for _ in 0..len {
            // Within a list a bool takes a byte.
            let wire = if BOOLS.contains(&(head & 0xF)) { BYTE } else { head & 0xF };
            self.skip(wire, depth + 1)?;
        }
        Some(())
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

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut input = &bytes[..];
            while take_header(&mut input).is_some() && !input.is_empty() {}
        }
    }
}
