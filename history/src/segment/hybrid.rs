//! Parquet's mix of runs and packed bits.
//!
//! Owns: reading it.
//! Does not own: what the numbers are (`page`).

/// Appends `len` numbers of `width` bits; `None` where the bytes hold fewer.
pub(super) fn read(mut input: &[u8], width: u32, len: usize, out: &mut Vec<u32>) -> Option<()> {
    if width > 32 {
        return None;
    }
    let end = out.len().checked_add(len)?;
    out.reserve(len);
    while out.len() < end {
        let header = prost::encoding::decode_varint(&mut input).ok()?;
        let (count, left) = (header >> 1, end - out.len());
        if header & 1 == 1 {
            let packed = usize::try_from(count.checked_mul(u64::from(width))?).ok()?;
            let (packed, rest) = input.split_at_checked(packed)?;
            input = rest;
            unpack(packed, width, left.min(usize::try_from(count.checked_mul(8)?).ok()?), out);
        } else {
            let (value, rest) = input.split_at_checked(width.div_ceil(8) as usize)?;
            input = rest;
            let value = value.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            out.resize(out.len() + left.min(usize::try_from(count).ok()?), value);
        }
    }
    Some(())
}

fn unpack(packed: &[u8], width: u32, len: usize, out: &mut Vec<u32>) {
    let mask = (1_u64 << width) - 1;
    out.extend((0..len).map(|at| {
        let bit = at * width as usize;
        let tail = packed.get(bit / 8..).unwrap_or_default();
        // A number has at most 32 bits and starts within a byte: 8 bytes always hold it.
        let word = match tail.first_chunk::<8>() {
            Some(&word) => u64::from_le_bytes(word),
            None => tail.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        };
        (word >> (bit % 8) & mask) as u32
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, a bit at a time.
    fn pack(values: &[u32], width: u32) -> Vec<u8> {
        let groups = values.len().div_ceil(8);
        let mut bytes = vec![0; groups * width as usize];
        for (at, value) in values.iter().enumerate() {
            for bit in (0..width).filter(|bit| value >> bit & 1 == 1) {
                let bit = at * width as usize + bit as usize;
                bytes[bit / 8] |= 1 << (bit % 8);
            }
        }
        let mut run = Vec::new();
        prost::encoding::encode_varint((groups as u64) << 1 | 1, &mut run);
        [run, bytes].concat()
    }

    proptest! {
        #[test]
        fn runs_and_packed_bits_read_back(
            width in 0_u32..=32,
            values in prop::collection::vec(any::<u32>(), 1..100),
            run in 1_usize..300,
        ) {
            let values: Vec<u32> =
                values.into_iter().map(|value| if width == 0 { 0 } else { value >> (32 - width) }).collect();
            let mut bytes = Vec::new();
            prost::encoding::encode_varint((run as u64) << 1, &mut bytes);
            bytes.extend(&values[0].to_le_bytes()[..width.div_ceil(8) as usize]);
            bytes.extend(pack(&values, width));
            let mut out = Vec::new();
            prop_assert_eq!(read(&bytes, width, run + values.len(), &mut out), Some(()));
            prop_assert!(out[..run].iter().all(|&value| value == values[0]));
            prop_assert_eq!(&out[run..], &values[..]);
            // Packed bits are filled up to a multiple of eight numbers.
            prop_assert_eq!(read(&bytes, width, run + values.len() + 8, &mut Vec::new()), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), width in 0_u32..70, len in 0_usize..5000) {
            let mut out = Vec::new();
            _ = read(&bytes, width, len, &mut out);
            prop_assert!(out.len() <= len);
        }
    }
}
