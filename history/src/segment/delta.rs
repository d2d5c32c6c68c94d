//! Parquet's packed differences.
//!
//! Owns: reading integers that stand as differences from the one before, in as few bits as a block of them needs.
//! Does not own: what the numbers are (`page`).

/// Appends `len` numbers, and returns what follows them; `None` where the bytes hold another number of them.
pub(super) fn read<'a>(mut input: &'a [u8], len: usize, out: &mut Vec<u64>) -> Option<&'a [u8]> {
    let block = usize::try_from(varint(&mut input)?).ok()?;
    let parts = usize::try_from(varint(&mut input)?).ok()?;
    let (total, first) = (varint(&mut input)?, zigzag(&mut input)?);
    let part = block.checked_div(parts)?;
    if u64::try_from(len) != Ok(total) || part == 0 || part % 8 != 0 || parts > MAX_PARTS {
        return None;
    }
    if len == 0 {
        return Some(input);
    }
    let end = out.len().checked_add(len)?;
    out.reserve(len);
    out.push(first);
    while out.len() < end {
        let least = zigzag(&mut input)?;
        let (widths, rest) = input.split_at_checked(parts)?;
        input = rest;
        for &width in widths {
            if out.len() == end {
                // The rest of the block is not there.
                break;
            }
            let bytes = (part / 8).checked_mul(usize::from(width))?;
            let (packed, rest) = input.split_at_checked(bytes)?;
            input = rest;
            add_up(packed, u32::from(width), part.min(end - out.len()), least, out)?;
        }
    }
    Some(input)
}

/// Writers use 4.
const MAX_PARTS: usize = 1024;

fn add_up(packed: &[u8], width: u32, len: usize, least: u64, out: &mut Vec<u64>) -> Option<()> {
    if width > 64 {
        return None;
    }
    let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
    let mut last = *out.last()?;
    for at in 0..len {
        let bit = at * width as usize;
        let tail = packed.get(bit / 8..).unwrap_or_default();
        // A number has at most 64 bits and starts within a byte: 16 bytes always hold it.
        let word = match tail.first_chunk::<16>() {
            Some(&word) => u128::from_le_bytes(word),
            None => tail.iter().rev().fold(0, |word, &byte| word << 8 | u128::from(byte)),
        };
        let difference = (word >> (bit % 8)) as u64 & mask;
        last = last.wrapping_add(least).wrapping_add(difference);
        out.push(last);
    }
    Some(())
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(input).ok()
}

fn zigzag(input: &mut &[u8]) -> Option<u64> {
    let value = varint(input)?;
    Some(value >> 1 ^ (value & 1).wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blocks of 8 in one part, each number in 64 bits.
    fn pack(values: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let zigzag = |value: u64| value << 1 ^ ((value as i64 >> 63) as u64);
        let first = values.first().copied().unwrap_or_default();
        for number in [8, 1, values.len() as u64, zigzag(first)] {
            prost::encoding::encode_varint(number, &mut bytes);
        }
        let differences: Vec<u64> = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        for block in differences.chunks(8) {
            prost::encoding::encode_varint(zigzag(7), &mut bytes);
            bytes.push(64);
            let padded =
                block.iter().map(|difference| difference.wrapping_sub(7)).chain(std::iter::repeat(0));
            padded.take(8).for_each(|difference| bytes.extend(difference.to_le_bytes()));
        }
        bytes
    }

    proptest! {
        #[test]
        fn differences_add_up_to_the_numbers(values in prop::collection::vec(any::<u64>(), 0..40)) {
            let bytes = [pack(&values), vec![1, 2, 3]].concat();
            let mut out = Vec::new();
            prop_assert_eq!(read(&bytes, values.len(), &mut out), Some(&[1, 2, 3][..]));
            prop_assert_eq!(out, values);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), len in 0_usize..300) {
            _ = read(&bytes, len, &mut Vec::new());
        }
    }
}
