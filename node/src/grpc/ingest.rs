//! `Ingest`: events in.
//!
//! Owns: batches of rows and blocks as they come, and their acknowledgements.
//! Does not own: making blocks (`tidemark_rollup::split`), bringing them to owners (`router`).

use super::{Inner, Services};
use crate::admission::Permit;
use crate::router::{Done, check_identity, refusal_of, refused_with};
use futures::StreamExt as _;
use futures::stream::{BoxStream, Stream};
use prost::Message as _;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::Caller;
use tidemark_proto::MAX_BATCH_BYTES;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1;
use tidemark_proto::v1::{IgnoredWhy, Reason, RefusalReason};
use tidemark_rollup::block::DecodedBlock;
use tidemark_rollup::canonical;
use tidemark_rollup::event_ref::site_of;
use tidemark_rollup::site_events::SiteEvents;
use tidemark_rollup::split::{BatchError, Rules, Split, split_encoded};
use tidemark_telemetry::trace::Here;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long a stream may send nothing before it ends. Whoever has something again opens another one, as after a restart.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// Batches of rows of one stream that are worked on at a time. Acknowledgements come in order.
const BATCHES_PER_STREAM: usize = 64;
/// Blocks of one stream that are worked on at a time, or whose acknowledgements the sender has not taken yet. More than one slow owner's
/// queue takes, so that it does not hold up the others.
const BLOCKS_PER_STREAM: usize = 512;

impl Inner {
    async fn rows(&self, mut batch: EncodedBatch, caller: &Caller) -> v1::BatchAck {
        let ack =
            v1::BatchAck { producer: batch.producer.clone(), seq: batch.seq, ..v1::BatchAck::default() };
        let refuse_with = |refusal: v1::Refusal| {
            self.metrics.refused(refusal.reason());
            v1::BatchAck { refused: Some(refusal), ..ack.clone() }
        };
        let refuse = |reason: RefusalReason, message: String| refuse_with(refusal_of(reason, message));
        let size_bytes = batch.encoded_len();
        if size_bytes > MAX_BATCH_BYTES {
            let message = format!("the batch has {size_bytes} bytes; at most {MAX_BATCH_BYTES} are possible");
            return refuse(RefusalReason::TooLarge, message);
        }
        let allowed = Allowed::of(&mut batch, caller);
        if batch.events.is_empty() && !allowed.refused.is_empty() {
            self.note(&allowed.refused, &[]);
            return v1::BatchAck { rejected: allowed.refused, ..ack };
        }
        if self.quotas.are_set()
            && let Err(over) = self.quotas.take(&events_by_site(&batch), size_bytes, self.clock.now())
        {
            self.say_refused(&over);
            return refuse_with(over.into());
        }
        let permit = match self.admission.admit(size_bytes) {
            Ok(permit) => permit,
            Err(refused) => {
                self.say_refused(&refused);
                return refuse_with(refused.into());
            }
        };
        let rules = Rules {
            schema: Some(&self.rules.schema),
            keep_params: &self.keep_params,
            times: self.rules.times,
            shards: self.rules.shards,
        };
        let Split { blocks, mut rejected, ignored } = match split_encoded(&batch, &rules, self.clock.now()) {
            Ok(split) => split,
            Err(error) => return refuse(refusal_reason(&error), error.to_string()),
        };
        drop(batch);
        let acks = self.router.deliver(blocks, &permit).await;
        if let Some(refused) = acks.iter().find_map(|ack| ack.refused.clone()) {
            self.metrics.refused(refused.reason());
            return v1::BatchAck { refused: Some(refused), ..ack };
        }
        allowed.add_to(&mut rejected);
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
    fn block(self: &Arc<Self>, block: v1::Block, caller: &Caller, done: Done) {
        let inner = Arc::clone(self);
        let event_count = block.event_count;
        let told = move |ack: v1::BlockAck| {
            if let Some(refused) = &ack.refused {
                inner.metrics.refused(refused.reason());
            }
            inner.metrics.flow().block(event_count, &ack);
            done(ack);
        };
        match self.admit(&block, caller) {
            Ok(permit) => self.router.bring(block, permit, Box::new(told)),
            Err(refusal) => told(refused_with(&block, refusal)),
        }
    }

    /// Whether the block may come in.
    fn admit(&self, block: &v1::Block, caller: &Caller) -> Result<Permit, v1::Refusal> {
        let size_bytes = block.encoded_len();
        if size_bytes > MAX_BATCH_BYTES {
            let message = format!("the block has {size_bytes} bytes; at most {MAX_BATCH_BYTES} are possible");
            return Err(refusal_of(RefusalReason::TooLarge, message));
        }
        let sealed_at = tidemark_rollup::time::EventTime::from_unix_ms(block.sealed_at_ms);
        if let Err(wrong) = self.rules.times.judge_seal(sealed_at, self.clock.now()) {
            return Err(refusal_of(RefusalReason::BadSealTime, wrong.to_owned()));
        }
        check_identity(block, self.rules.shards)?;
        self.check_sites(block, caller)?;
        // What is passed on need not be read; where it cannot be, its owner refuses it.
        if self.quotas.are_set()
            && let Some(of) = SiteEvents::of(block)
        {
            let by_site = of.iter().map(|(site, events)| (site.into(), events)).collect();
            self.quotas.take(&by_site, size_bytes, self.clock.now()).map_err(|over| {
                self.say_refused(&over);
                v1::Refusal::from(over)
            })?;
        }
        self.admission.admit(size_bytes).map_err(|refused| {
            self.say_refused(&refused);
            refused.into()
        })
    }

    /// Blocks are passed on as they came: only where the sender's token is not for all sites it is looked into them.
    fn check_sites(&self, block: &v1::Block, caller: &Caller) -> Result<(), v1::Refusal> {
        let Some(sites) = caller.only_sites() else { return Ok(()) };
        let mut decoded = DecodedBlock::default();
        if let Err(error) = decoded.read(block, self.rules.shards) {
            return Err(refusal_of(RefusalReason::Malformed, error.to_string()));
        }
        match decoded.sites().all(|site| sites.contains(site)) {
            true => Ok(()),
            false => {
                let message = "the block has events of a site that the token is not for".to_owned();
                Err(refusal_of(RefusalReason::SiteNotAllowed, message))
            }
        }
    }

    fn say_refused(&self, refused: &dyn Error) {
        if let Some(left_out) = self.overloaded.due() {
            tracing::warn!(node = %self.id, reason = %refused, left_out, "events are refused: a limit is reached");
        }
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

/// Which events of a batch its sender may send.
struct Allowed {
    /// Positions in the batch as it came, of those that are left; empty where the sender may send events of every site.
    left: Vec<u32>,
    /// The others.
    refused: Vec<v1::Rejection>,
}

impl Allowed {
    /// Takes the others out of the batch.
    fn of(batch: &mut EncodedBatch, caller: &Caller) -> Self {
        let (mut left, mut refused) = (Vec::new(), Vec::new());
        if caller.only_sites().is_none() {
            return Self { left, refused };
        }
        let mut index = 0;
        batch.events.retain(|event| {
            // One that cannot be read is of no site; it is rejected later.
            let may = site_of(event).is_none_or(|site| caller.may_send(site));
            match may {
                true => left.push(index),
                false => refused.push(v1::Rejection { index, reason: Reason::SiteNotAllowed.into() }),
            }
            index += 1;
            may
        });
        Self { left, refused }
    }

    /// Adds those that were taken out to what was rejected of the rest, by their positions in the batch as it came.
    fn add_to(self, rejected: &mut Vec<v1::Rejection>) {
        if self.refused.is_empty() {
            return;
        }
        for rejection in &mut *rejected {
            rejection.index = self.left.get(rejection.index as usize).copied().unwrap_or(rejection.index);
        }
        rejected.extend(self.refused);
        rejected.sort_by_key(|rejection| rejection.index);
    }
}

/// How many events of each site there are; those of sites that cannot be are rejected later.
fn events_by_site(batch: &EncodedBatch) -> BTreeMap<Cow<'_, str>, u32> {
    let sites: Vec<&[u8]> = batch.events.iter().filter_map(|event| site_of(event)).collect();
    let mut by_site = BTreeMap::new();
    // Mostly one site after the other.
    for events in sites.chunk_by(|a, b| a == b) {
        let site = std::str::from_utf8(events[0]).ok().and_then(|site| canonical::site(site).ok());
        if let Some(site) = site {
            *by_site.entry(site).or_default() += events.len() as u32;
        }
    }
    by_site
}

fn refusal_reason(error: &BatchError) -> RefusalReason {
    match error {
        BatchError::Empty => RefusalReason::Empty,
        BatchError::Producer(_) => RefusalReason::BadProducer,
        BatchError::TooManyEvents(_) => RefusalReason::TooLarge,
        BatchError::SealTime(_) => RefusalReason::BadSealTime,
    }
}

/// What comes over a stream, until nothing does for [`IDLE`].
fn while_used<T>(stream: impl Stream<Item = T>) -> impl Stream<Item = T> {
    use tokio_stream::StreamExt;
    StreamExt::map_while(StreamExt::timeout(stream, IDLE), Result::ok)
}

type AckStream<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl v1::ingest_server::Ingest for Services {
    type SendRowsStream = AckStream<v1::BatchAck>;

    async fn send_rows(
        &self,
        request: Request<Streaming<EncodedBatch>>,
    ) -> Result<Response<AckStream<v1::BatchAck>>, Status> {
        let inner = Arc::clone(&self.0);
        let caller = Caller::of(request.extensions());
        // What is taken in is acknowledged; then the stream ends, and the sender opens another one elsewhere.
        let here = Here::now();
        let batches = request.into_inner().take_until(self.0.shutdown.clone().cancelled_owned());
        let batches = caller.while_allowed(while_used(batches));
        let acks = batches.map(move |batch| {
            let (inner, caller, here) = (Arc::clone(&inner), caller.clone(), here.clone());
            async move {
                let batch = batch?;
                let events = batch.events.len();
                let ack = here.carry(inner.rows(batch, &caller)).await;
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
        let caller = Caller::of(request.extensions());
        // What is taken in is acknowledged; then the stream ends, and the sender opens another one elsewhere.
        let blocks = request.into_inner().take_until(self.0.shutdown.clone().cancelled_owned());
        let blocks = caller.while_allowed(while_used(blocks)).boxed();
        tokio::spawn(take_blocks(Arc::clone(&self.0), caller, blocks, acks));
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
    caller: Caller,
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
                inner.block(block, &caller, Box::new(move |ack| _ = acks.send((Ok(ack), Some(place)))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::stream;
    use std::collections::BTreeSet;
    use tidemark_access::caller::{Grant, Sites};
    use tidemark_access::token::TokenId;
    use tokio::time::{Instant, sleep};
    use tokio_util::sync::CancellationToken;

    #[test]
    fn bytes_that_are_no_event_are_left_to_be_rejected_whoever_sends_them_and_positions_are_those_that_came()
    {
        let of_site = |site: &str| v1::Event { site: site.to_owned().into(), ..v1::Event::default() };
        let events = ["a.example", "b.example", "a.example"].map(of_site).to_vec();
        let mut batch = EncodedBatch::from(&v1::EventBatch { events, ..v1::EventBatch::default() });
        batch.events.insert(2, Bytes::from_static(&[0x0A, 9, b'x']));
        let sites = Sites::Named(BTreeSet::from(["a.example".to_owned()]));
        let id = TokenId::parse("00112233aabb").unwrap();
        let grant = Grant { id, scopes: BTreeSet::new(), sites, ended: CancellationToken::new() };
        let allowed = Allowed::of(&mut batch, &Caller::Token(Arc::new(grant)));
        assert_eq!((&allowed.left, batch.events.len()), (&vec![0, 2, 3], 3));
        assert_eq!(events_by_site(&batch), BTreeMap::from([(Cow::from("a.example"), 2)]));

        // What splitting says of the second of those that are left.
        let mut rejected = vec![v1::Rejection { index: 1, reason: Reason::Unreadable.into() }];
        allowed.add_to(&mut rejected);
        let told: Vec<_> = rejected.iter().map(|rejection| (rejection.index, rejection.reason())).collect();
        assert_eq!(told, [(1, Reason::SiteNotAllowed), (2, Reason::Unreadable)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_sends_nothing_for_long_ends_and_one_that_sends_now_and_then_does_not() {
        let now_and_then = stream::unfold(0, async |sent| {
            // After the fifth there is nothing for ever.
            sleep(if sent < 5 { IDLE / 2 } else { IDLE * 100 }).await;
            Some((sent, sent + 1))
        });
        let start = Instant::now();
        let came: Vec<u32> = futures::StreamExt::collect(while_used(now_and_then)).await;
        assert_eq!(came, [0, 1, 2, 3, 4]);
        assert_eq!(start.elapsed(), IDLE / 2 * 5 + IDLE);
    }
}
