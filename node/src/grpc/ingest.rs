//! `Ingest`: events in.
//!
//! Owns: batches of rows and blocks as they come, and their acknowledgements.
//! Does not own: making blocks (`tidemark_rollup::split`), bringing them to owners (`router`).

use super::{Inner, Services};
use crate::admission::{Permit, Refused};
use crate::router::{Done, check_identity, refusal, refusal_of};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_proto::MAX_BATCH_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::{IgnoredWhy, Reason, RefusalReason};
use tidemark_rollup::split::{BatchError, Rules, Split, split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Batches of rows of one stream that are worked on at a time. Acknowledgements come in order.
const BATCHES_PER_STREAM: usize = 64;
/// Blocks of one stream that are worked on at a time, or whose acknowledgements the sender has not taken yet. More than one slow owner's
/// queue takes, so that it does not hold up the others.
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

    /// Brings a block to its owners; `done` is told what becomes of it.
    fn block(self: &Arc<Self>, block: v1::Block, done: Done) {
        let inner = Arc::clone(self);
        let event_count = block.event_count;
        let told = move |ack: v1::BlockAck| {
            if let Some(refused) = &ack.refused {
                inner.metrics.refused(refused.reason());
            }
            inner.metrics.flow().block(event_count, &ack);
            done(ack);
        };
        match self.admit(&block) {
            Ok(permit) => self.router.bring(block, permit, Box::new(told)),
            Err(refused) => told(refused),
        }
    }

    /// Whether the block may come in.
    fn admit(&self, block: &v1::Block) -> Result<Permit, v1::BlockAck> {
        let size_bytes = block.encoded_len();
        if size_bytes > MAX_BATCH_BYTES {
            let message = format!("the block has {size_bytes} bytes; at most {MAX_BATCH_BYTES} are possible");
            return Err(refusal(block, RefusalReason::TooLarge, message));
        }
        let sealed_at = tidemark_rollup::time::EventTime::from_unix_ms(block.sealed_at_ms);
        if let Err(wrong) = self.rules.times.judge_seal(sealed_at, self.clock.now()) {
            return Err(refusal(block, RefusalReason::BadSealTime, wrong.to_owned()));
        }
        check_identity(block, self.rules.shards)?;
        let overloaded = |refused: Refused| refusal(block, RefusalReason::Overloaded, refused.to_string());
        self.admission.admit(size_bytes).map_err(overloaded)
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
        let (acks, told) = mpsc::unbounded_channel();
        // What is taken in is acknowledged; then the stream ends, and the sender opens another one elsewhere.
        let blocks = request.into_inner().take_until(self.0.shutdown.clone().cancelled_owned());
        tokio::spawn(take_blocks(Arc::clone(&self.0), blocks.boxed(), acks));
        // Only what the sender has taken makes room for more.
        let taken = |(ack, place)| {
            drop(place);
            ack
        };
        Ok(Response::new(UnboundedReceiverStream::new(told).map(taken).boxed()))
    }
}

/// Takes the blocks of a stream. Ends with it, or when nobody waits for acknowledgements any more; these go on until all are told.
async fn take_blocks(
    inner: Arc<Inner>,
    mut blocks: BoxStream<'static, Result<v1::Block, Status>>,
    acks: mpsc::UnboundedSender<(Result<v1::BlockAck, Status>, Option<OwnedSemaphorePermit>)>,
) {
    let room = Arc::new(Semaphore::new(BLOCKS_PER_STREAM));
    loop {
        let block = tokio::select! {
            biased;
            () = acks.closed() => return,
            block = blocks.next() => block,
        };
        match block {
            None => return,
            Some(Err(status)) => {
                // Where nobody listens, that is known.
                _ = acks.send((Err(status), None));
                return;
            }
            Some(Ok(block)) => {
                // The semaphore is never closed.
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
                let acks = acks.clone();
                inner.block(block, Box::new(move |ack| _ = acks.send((Ok(ack), Some(place)))));
            }
        }
    }
}
