//! `Ingest`: events in.
//!
//! Owns: batches of rows and blocks as they come, and their acknowledgements.
//! Does not own: making blocks (`tidemark_rollup::split`), bringing them to owners (`router`).

use super::{Inner, Services};
use crate::router::{check_identity, refusal, refusal_of};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_proto::MAX_BATCH_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::{IgnoredWhy, Reason, RefusalReason};
use tidemark_rollup::split::{BatchError, Rules, Split, split};
use tonic::{Request, Response, Status, Streaming};

/// Batches of rows of one stream that are worked on at a time. Acknowledgements come in order.
const BATCHES_PER_STREAM: usize = 64;
/// Blocks of one stream that are worked on at a time. More than one slow owner's queue takes, so that it does not hold up the
/// others.
const BLOCKS_PER_STREAM: usize = 512;

impl Inner {
    async fn rows(&self, batch: v1::EventBatch) -> v1::BatchAck {
        let ack =
            v1::BatchAck { producer: batch.producer.clone(), seq: batch.seq, ..v1::BatchAck::default() };
        let refuse = |reason: RefusalReason, message: String| {
            self.metrics.refused(reason);
            v1::BatchAck { refused: Some(refusal_of(reason, message)), ..ack.clone() }
        };
        let size_bytes = batch.encoded_len();
        if size_bytes > MAX_BATCH_BYTES {
            let message = format!("the batch has {size_bytes} bytes; at most {MAX_BATCH_BYTES} are possible");
            return refuse(RefusalReason::TooLarge, message);
        }
        let permit = match self.admission.admit(size_bytes) {
            Ok(permit) => permit,
            Err(refused) => return refuse(RefusalReason::Overloaded, refused.to_string()),
        };
        let rules = Rules {
            schema: Some(&self.rules.schema),
            keep_params: &self.keep_params,
            times: self.rules.times,
            shards: self.rules.shards,
        };
        let Split { blocks, rejected, ignored } = match split(&batch, &rules, self.clock.now()) {
            Ok(split) => split,
            Err(error) => return refuse(refusal_reason(&error), error.to_string()),
        };
        drop(batch);
        let acks = self.router.deliver(blocks, &permit).await;
        if let Some(refused) = acks.iter().find_map(|ack| ack.refused.clone()) {
            self.metrics.refused(refused.reason());
            return v1::BatchAck { refused: Some(refused), ..ack };
        }
        self.note(&rejected, &ignored);
        v1::BatchAck {
            accepted: acks.iter().map(|ack| ack.accepted).sum(),
            duplicate: acks.iter().map(|ack| ack.duplicate).sum(),
            rejected,
            ignored,
            ..ack
        }
    }

    async fn block(&self, block: v1::Block) -> v1::BlockAck {
        let size_bytes = block.encoded_len();
        let refuse = |reason: RefusalReason, message: String| {
            self.metrics.refused(reason);
            refusal(&block, reason, message)
        };
        if size_bytes > MAX_BATCH_BYTES {
            let message = format!("the block has {size_bytes} bytes; at most {MAX_BATCH_BYTES} are possible");
            return refuse(RefusalReason::TooLarge, message);
        }
        let sealed_at = tidemark_rollup::time::EventTime::from_unix_ms(block.sealed_at_ms);
        if let Err(wrong) = self.rules.times.judge_seal(sealed_at, self.clock.now()) {
            return refuse(RefusalReason::BadSealTime, wrong.to_owned());
        }
        if let Err(ack) = check_identity(&block, self.rules.shards) {
            self.metrics.refused(ack.refused.as_ref().map_or(RefusalReason::Malformed, v1::Refusal::reason));
            return ack;
        }
        let permit = match self.admission.admit(size_bytes) {
            Ok(permit) => permit,
            Err(refused) => return refuse(RefusalReason::Overloaded, refused.to_string()),
        };
        let ack = self.router.deliver_one(block, &permit).await;
        if let Some(refused) = &ack.refused {
            self.metrics.refused(refused.reason());
        }
        ack
    }

    fn note(&self, rejected: &[v1::Rejection], ignored: &[v1::Ignored]) {
        let mut by_reason: BTreeMap<Reason, u64> = BTreeMap::new();
        rejected.iter().for_each(|rejection| *by_reason.entry(rejection.reason()).or_default() += 1);
        by_reason.into_iter().for_each(|(reason, events)| self.metrics.rejected(reason, events));
        let mut by_why: BTreeMap<IgnoredWhy, u64> = BTreeMap::new();
        ignored
            .iter()
            .for_each(|ignored| *by_why.entry(ignored.why()).or_default() += u64::from(ignored.events));
        by_why.into_iter().for_each(|(why, fields)| self.metrics.ignored(why, fields));
    }
}

fn refusal_reason(error: &BatchError) -> RefusalReason {
    match error {
        BatchError::Empty => RefusalReason::Empty,
        BatchError::Producer(_) => RefusalReason::BadProducer,
        BatchError::TooManyEvents(_) => RefusalReason::TooLarge,
        BatchError::SealTime(_) => RefusalReason::BadSealTime,
    }
}

type AckStream<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl v1::ingest_server::Ingest for Services {
    type SendRowsStream = AckStream<v1::BatchAck>;

    async fn send_rows(
        &self,
        request: Request<Streaming<v1::EventBatch>>,
    ) -> Result<Response<AckStream<v1::BatchAck>>, Status> {
        let inner = Arc::clone(&self.0);
        // What is taken in is acknowledged; then the stream ends, and the sender opens another one elsewhere.
        let batches = request.into_inner().take_until(self.0.shutdown.clone().cancelled_owned());
        let acks = batches.map(move |batch| {
            let inner = Arc::clone(&inner);
            async move {
                let batch = batch?;
                let events = batch.events.len();
                let ack = inner.rows(batch).await;
                inner.metrics.flow().batch(events, &ack);
                Ok(ack)
            }
        });
        Ok(Response::new(acks.buffered(BATCHES_PER_STREAM).boxed()))
    }

    type SendBlocksStream = AckStream<v1::BlockAck>;

    async fn send_blocks(
        &self,
        request: Request<Streaming<v1::Block>>,
    ) -> Result<Response<AckStream<v1::BlockAck>>, Status> {
        let inner = Arc::clone(&self.0);
        // What is taken in is acknowledged; then the stream ends, and the sender opens another one elsewhere.
        let blocks = request.into_inner().take_until(self.0.shutdown.clone().cancelled_owned());
        let acks = blocks.map(move |block| {
            let inner = Arc::clone(&inner);
            async move {
                let block = block?;
                let event_count = block.event_count;
                let ack = inner.block(block).await;
                inner.metrics.flow().block(event_count, &ack);
                Ok(ack)
            }
        });
        Ok(Response::new(acks.buffer_unordered(BLOCKS_PER_STREAM).boxed()))
    }
}
