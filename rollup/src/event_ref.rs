//! Events with borrowed texts: what splitting reads, whichever form they came in.
//!
//! Owns: reading an encoded `Event` without copying, to the same result as a decoder of protobuf.
//! Does not own: what is acceptable of it (`split`), texts that are no UTF-8 among that.

use crate::wire::take_varint;
use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, skip_field};
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;

/// An event. Reused for one after the other, so that reading allocates nothing in the long run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Bytes as they came, which need not be UTF-8; so are all others.
    pub site: &'a [u8],
    /// Path or absolute URL.
    pub url: &'a [u8],
    /// Milliseconds since the Unix epoch; 0 means "when the batch was sealed".
    pub time_ms: i64,
    /// Empty means "view".
    pub kind: &'a [u8],
    /// Any text; empty where there is `visitor_hash`, or nobody.
    pub visitor: &'a [u8],
    /// 0 means nobody.
    pub visitor_hash: u64,
    /// (name, text) in the order they came. A name may be there twice.
    pub dimensions: Vec<(&'a [u8], &'a [u8])>,
    /// (name, number) likewise.
    pub values: Vec<(&'a [u8], i64)>,
}

impl<'a> EventRef<'a> {
    /// Replaces this event by the one that is encoded in these bytes.
    ///
    /// # Errors
    /// `unreadable` where the bytes are no `Event`; this event is then to be read anew.
    pub fn read(&mut self, encoded: &'a [u8]) -> Result<(), Reason> {
        self.try_read(encoded).ok_or(Reason::Unreadable)
    }

    /// Nothing, in the room of this event's lists.
    fn emptied(&mut self) -> Self {
        let (mut dimensions, mut values) =
            (std::mem::take(&mut self.dimensions), std::mem::take(&mut self.values));
        dimensions.clear();
        values.clear();
        Self { dimensions, values, ..Self::default() }
    }

    fn try_read(&mut self, mut input: &'a [u8]) -> Option<()> {
        *self = self.emptied();
        while !input.is_empty() {
            match take_varint(&mut input)? {
                SITE => self.site = take_bytes(&mut input)?,
                URL => self.url = take_bytes(&mut input)?,
                TIME_MS => self.time_ms = take_varint(&mut input)? as i64,
                KIND => self.kind = take_bytes(&mut input)?,
                VISITOR => self.visitor = take_bytes(&mut input)?,
                VISITOR_HASH => {
                    let (bytes, rest) = input.split_first_chunk()?;
                    (self.visitor_hash, input) = (u64::from_le_bytes(*bytes), rest);
                }
                DIMENSIONS => self.dimensions.push(dimension(take_bytes(&mut input)?)?),
                VALUES => self.values.push(value(take_bytes(&mut input)?)?),
                other => skip(other, 8, &mut input)?,
            }
        }
        Some(())
    }
}

/// What stands before a field: its number and how it is encoded.
const fn key(field: u64, wire_type: WireType) -> u64 {
    field << 3 | wire_type as u64
}

const SITE: u64 = key(1, WireType::LengthDelimited);
const URL: u64 = key(2, WireType::LengthDelimited);
const TIME_MS: u64 = key(3, WireType::Varint);
const KIND: u64 = key(4, WireType::LengthDelimited);
const VISITOR: u64 = key(5, WireType::LengthDelimited);
const VISITOR_HASH: u64 = key(6, WireType::SixtyFourBit);
const DIMENSIONS: u64 = key(7, WireType::LengthDelimited);
const VALUES: u64 = key(8, WireType::LengthDelimited);
/// Of an entry of either, as of every map.
const NAME: u64 = key(1, WireType::LengthDelimited);
const TEXT: u64 = key(2, WireType::LengthDelimited);
const NUMBER: u64 = key(2, WireType::Varint);

/// The site of an encoded event, without a look at its other fields. `None` where the bytes are no message.
pub fn site_of(encoded: &[u8]) -> Option<&[u8]> {
    let (mut input, mut site): (&[u8], &[u8]) = (encoded, &[]);
    while !input.is_empty() {
        match take_varint(&mut input)? {
            SITE => site = take_bytes(&mut input)?,
            other => skip(other, 1, &mut input)?,
        }
    }
    Some(site)
}

/// What an event can be read from.
pub(crate) trait EventForm {
    /// Replaces `event` by this one.
    ///
    /// # Errors
    /// `unreadable` where it is none.
    fn read_into<'a>(&'a self, event: &mut EventRef<'a>) -> Result<(), Reason>;
}

/// An encoded one.
impl EventForm for Bytes {
    fn read_into<'a>(&'a self, event: &mut EventRef<'a>) -> Result<(), Reason> {
        event.read(self)
    }
}

impl EventForm for v1::Event {
    fn read_into<'a>(&'a self, event: &mut EventRef<'a>) -> Result<(), Reason> {
        let Self { site, url, time_ms, kind, visitor, visitor_hash, dimensions, values } = self;
        let (time_ms, visitor_hash) = (*time_ms, *visitor_hash);
        *event = EventRef { site, url, time_ms, kind, visitor, visitor_hash, ..event.emptied() };
        event.dimensions.extend(dimensions.iter().map(|entry| (&entry.key[..], &entry.value[..])));
        event.values.extend(values.iter().map(|entry| (&entry.key[..], entry.value)));
        Ok(())
    }
}

fn dimension(mut input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut name, mut text): (&[u8], &[u8]) = Default::default();
    while !input.is_empty() {
        match take_varint(&mut input)? {
            NAME => name = take_bytes(&mut input)?,
            TEXT => text = take_bytes(&mut input)?,
            other => skip(other, 2, &mut input)?,
        }
    }
    Some((name, text))
}

fn value(mut input: &[u8]) -> Option<(&[u8], i64)> {
    let (mut name, mut value): (&[u8], i64) = Default::default();
    while !input.is_empty() {
        match take_varint(&mut input)? {
            NAME => name = take_bytes(&mut input)?,
            NUMBER => value = take_varint(&mut input)? as i64,
            other => skip(other, 2, &mut input)?,
        }
    }
    Some((name, value))
}

#[inline]
fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}

/// Goes past a field of a number above `known`. A known number with another wire type is no event.
fn skip(key: u64, known: u32, input: &mut &[u8]) -> Option<()> {
    let field = u32::try_from(key).ok()? >> 3;
    let wire_type = WireType::try_from(key & 7).ok()?;
    (field > known).then(|| skip_field(wire_type, field, input, DecodeContext::default()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;
    use tidemark_proto::v1::event::{DimensionsEntry, ValuesEntry};

    prop_compose! {
        fn any_event()(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 4),
            time_ms: i64,
            visitor_hash: u64,
            dimensions in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..5), "[a-z]{0,9}"), 0..4),
            values in prop::collection::vec(("[a-z]{0,3}", any::<i64>()), 0..4),
        ) -> v1::Event {
            let [site, url, kind, visitor] = [0, 1, 2, 3].map(|at| texts[at].clone().into());
            let dimensions = dimensions.into_iter();
            let dimensions = dimensions.map(|(key, value)| DimensionsEntry { key: key.into(), value: value.into() });
            let values = values.into_iter().map(|(key, value)| ValuesEntry { key: key.into(), value });
            v1::Event {
                site, url, kind, visitor, time_ms, visitor_hash,
                dimensions: dimensions.collect(),
                values: values.collect(),
            }
        }
    }

    /// Bytes and what prost makes of them, which has to be the same.
    fn read_as_prost_reads(encoded: &[u8]) -> Result<(), TestCaseError> {
        let decoded = v1::Event::decode(encoded);
        let (mut read, mut borrowed) = (EventRef::default(), EventRef::default());
        let outcome = read.read(encoded);
        match &decoded {
            Err(_) => prop_assert_eq!(outcome, Err(Reason::Unreadable)),
            Ok(event) => {
                prop_assert_eq!(event.read_into(&mut borrowed), Ok(()));
                prop_assert_eq!(site_of(encoded), Some(read.site));
                prop_assert_eq!((outcome, read), (Ok(()), borrowed));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn an_encoded_event_is_what_a_decoder_reads(event in any_event(), again in any_event()) {
            let bytes = event.encode_to_vec();
            read_as_prost_reads(&bytes)?;
            // Fields that come twice: the last one counts, and lists go on.
            read_as_prost_reads(&[bytes, again.encode_to_vec()].concat())?;
        }

        #[test]
        fn broken_and_unknown_fields_are_what_a_decoder_makes_of_them(
            event in any_event(),
            at in any::<prop::sample::Index>(),
            put in prop::collection::vec(any::<u8>(), 0..4),
            cut in 0..4_usize,
        ) {
            let mut bytes = event.encode_to_vec();
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..(at + cut).min(bytes.len()), put);
            read_as_prost_reads(&bytes)?;
        }

        #[test]
        fn any_bytes_are_what_a_decoder_makes_of_them(bytes in prop::collection::vec(0..90_u8, 0..12)) {
            read_as_prost_reads(&bytes)?;
        }
    }

    #[test]
    fn an_event_leaves_nothing_to_the_one_that_is_read_after_it() {
        let full = v1::Event {
            site: "a.example".into(),
            visitor_hash: 9,
            dimensions: vec![DimensionsEntry { key: "device".into(), value: "tv".into() }],
            values: vec![ValuesEntry { key: "bytes".into(), value: 5 }],
            ..v1::Event::default()
        };
        let bytes = full.encode_to_vec();
        let mut event = EventRef::default();
        event.read(&bytes).expect("an event");
        event.read(&[]).expect("an event of nothing");
        assert_eq!(event, EventRef::default());
        full.read_into(&mut event).expect("an event");
        let nothing = v1::Event::default();
        nothing.read_into(&mut event).expect("an event of nothing");
        assert_eq!(event, EventRef::default());
    }
}
