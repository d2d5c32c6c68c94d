//! Small encodings that blocks, partials and sketches share.
//!
//! Owns: columns of little-endian integers of one width, and varints.
//! Does not own: what the numbers mean.

use bytes::Bytes;

/// Unsigned integers of one width, 0, 1, 2, 4 or 8 bytes each, as they came over the wire.
///
/// Width 0 is a column of zeros. The width is the length divided by the number of entries.
#[derive(Clone, Debug)]
pub(crate) struct UintColumn {
    data: Bytes,
    width: usize,
}

impl UintColumn {
    /// The column of `len` entries in `data`, where its length fits.
    pub(crate) fn of(data: Bytes, len: usize) -> Option<Self> {
        if data.is_empty() {
            return Some(Self { data, width: 0 });
        }
        let width = data.len().checked_div(len)?;
        (matches!(width, 1 | 2 | 4 | 8) && width * len == data.len()).then_some(Self { data, width })
    }

    /// Replaces `out` by all `len` entries.
    pub(crate) fn read_into(&self, len: usize, out: &mut Vec<u64>) {
        out.clear();
        self.for_each(len, |value| out.push(value));
    }

    /// Replaces `out` by all `len` entries, which are known to fit 32 bits where `bound` says so.
    ///
    /// `None` where an entry is not below `bound`.
    pub(crate) fn read_ids(&self, len: usize, bound: u32, out: &mut Vec<u32>) -> Option<()> {
        out.clear();
        let mut highest = 0;
        self.for_each(len, |value| {
            highest = highest.max(value);
            out.push(value as u32);
        });
        (len == 0 || highest < u64::from(bound)).then_some(())
    }

    // One loop per width, so that each compiles to plain loads.
    fn for_each(&self, len: usize, mut each: impl FnMut(u64)) {
        match self.width {
            0 => (0..len).for_each(|_| each(0)),
            1 => self.data.iter().for_each(|&byte| each(u64::from(byte))),
            2 => chunks::<2>(&self.data).for_each(|bytes| each(u64::from(u16::from_le_bytes(bytes)))),
            4 => chunks::<4>(&self.data).for_each(|bytes| each(u64::from(u32::from_le_bytes(bytes)))),
            _ => chunks::<8>(&self.data).for_each(|bytes| each(u64::from_le_bytes(bytes))),
        }
    }
}

fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}

/// The column of these values in the smallest width that holds them all; empty where all are zero.
pub(crate) fn uint_column(values: &[u64]) -> Bytes {
    column_of(values)
}

/// The same for 32-bit values.
pub(crate) fn id_column(ids: &[u32]) -> Bytes {
    column_of(ids)
}

fn column_of<T: Copy + Into<u64>>(values: &[T]) -> Bytes {
    // The bits of all of them together are as wide as the highest value is.
    let bits = values.iter().fold(0, |bits, &value| bits | value.into());
    match bits {
        0 => Bytes::new(),
        1..=0xFF => written::<T, 1>(values),
        0x100..=0xFFFF => written::<T, 2>(values),
        0x1_0000..=0xFFFF_FFFF => written::<T, 4>(values),
        _ => written::<T, 8>(values),
    }
}

/// The low `WIDTH` bytes of each value.
fn written<T: Copy + Into<u64>, const WIDTH: usize>(values: &[T]) -> Bytes {
    let mut data = vec![0; values.len() * WIDTH];
    for (entry, &value) in data.as_chunks_mut::<WIDTH>().0.iter_mut().zip(values) {
        entry.copy_from_slice(&value.into().to_le_bytes()[..WIDTH]);
    }
    data.into()
}

/// Appends a varint, as protobuf writes it.
pub(crate) fn put_varint(value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(value, out);
}

/// Takes a varint off the front.
#[inline]
pub(crate) fn take_varint(input: &mut &[u8]) -> Option<u64> {
    match input.split_first() {
        // Nearly all are lengths of less than 128.
        Some((&byte, rest)) if byte < 0x80 => {
            *input = rest;
            Some(byte.into())
        }
        _ => prost::encoding::decode_varint(input).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_read_back_in_every_width(
            shift in 0_u32..64,
            values in prop::collection::vec(any::<u64>(), 1..50),
        ) {
            let values: Vec<u64> = values.into_iter().map(|value| value >> shift).collect();
            let column = UintColumn::of(uint_column(&values), values.len()).unwrap();
            let mut read = Vec::new();
            column.read_into(values.len(), &mut read);
            prop_assert_eq!(read, values);
        }
    }

    #[test]
    fn a_column_of_the_wrong_length_is_refused() {
        assert!(UintColumn::of(Bytes::from_static(&[1, 2, 3]), 2).is_none());
        assert!(UintColumn::of(Bytes::from_static(&[1, 2, 3]), 1).is_none());
        assert!(UintColumn::of(Bytes::from_static(&[1]), 0).is_none());
        assert!(UintColumn::of(Bytes::new(), 5).is_some());
    }

    #[test]
    fn ids_beyond_their_bound_are_refused() {
        let column = UintColumn::of(id_column(&[0, 3, 70_000]), 3).unwrap();
        let mut ids = Vec::new();
        assert!(column.read_ids(3, 70_001, &mut ids).is_some());
        assert_eq!(ids, [0, 3, 70_000]);
        assert!(column.read_ids(3, 70_000, &mut ids).is_none());
        let wide = UintColumn::of(uint_column(&[1 << 32]), 1).unwrap();
        assert!(wide.read_ids(1, u32::MAX, &mut ids).is_none());
    }
}
