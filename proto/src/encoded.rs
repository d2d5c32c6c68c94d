//! What a server reads of a message whose parts it takes apart itself.
//!
//! Owns: the batch of rows whose events are still encoded.
//! Does not own: reading these events (`tidemark_rollup::event_ref`).

use crate::v1;
use bytes::Bytes;
use prost::Message;

/// An [`EventBatch`](v1::EventBatch) as it comes over the wire: each event is the bytes of an encoded [`Event`](v1::Event).
///
/// An event has some twenty texts. As fields of a message each of them is counted as a reference to the bytes that came, and
/// pairs are in lists of their own; whoever reads the event from its bytes borrows all of them. And bytes that are no event
/// are one rejected event, not a broken stream.
#[derive(Clone, PartialEq, Message)]
pub struct EncodedBatch {
    /// 16 bytes, as there.
    #[prost(bytes = "bytes", tag = "1")]
    pub producer: Bytes,
    /// The batch's number, as there.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// When it was put together, as there: milliseconds since the Unix epoch, or 0.
    #[prost(int64, tag = "3")]
    pub sealed_at_ms: i64,
    /// The encoded events.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub events: Vec<Bytes>,
}

impl From<&v1::EventBatch> for EncodedBatch {
    fn from(batch: &v1::EventBatch) -> Self {
        Self {
            producer: batch.producer.clone(),
            seq: batch.seq,
            sealed_at_ms: batch.sealed_at_ms,
            events: batch.events.iter().map(|event| event.encode_to_vec().into()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_encoded_events_has_the_bytes_of_the_batch() {
        let event = |url: &'static str| v1::Event { url: url.into(), time_ms: 5, ..v1::Event::default() };
        let batch = v1::EventBatch {
            producer: vec![7; 16].into(),
            seq: 3,
            sealed_at_ms: 9,
            events: vec![event("/a"), v1::Event::default(), event("/b")],
        };
        let bytes = Bytes::from(batch.encode_to_vec());
        let encoded = EncodedBatch::decode(bytes.clone());
        assert_eq!(encoded, Ok(EncodedBatch::from(&batch)));
        assert_eq!(encoded.map(|encoded| encoded.encode_to_vec()), Ok(bytes.to_vec()));
    }
}
