//! Inputs of several parts.
//!
//! Owns: their form: `tag | length (2 bytes, little-endian) | that many bytes`, over and over. The last one may end early.
//! Does not own: what a tag means (each target).
//!
//! Any bytes are frames, and a fuzzer that moves bytes about moves parts about. `arbitrary` would do as well but for the seeds, which
//! would have to be written backwards.

/// A part of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub tag: u8,
    /// What it holds.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The frame's bytes; of a body that is too long what fits.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let len = u16::try_from(self.body.len()).unwrap_or(u16::MAX);
        out.push(self.tag);
        out.extend(len.to_le_bytes());
        out.extend(&self.body[..usize::from(len)]);
    }
}

/// The frames of an input.
pub fn of(mut input: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (&[tag, a, b], rest) = input.split_first_chunk::<3>()?;
        let (body, rest) = rest.split_at(usize::from(u16::from_le_bytes([a, b])).min(rest.len()));
        input = rest;
        Some(Frame { tag, body })
    })
}
