//! Blocks on their way to one node.
//!
//! Owns: their order, how many go in one call, how many calls there are at a time, and telling each sender what became of its
//! block.
//! Does not own: whether a node is worth asking (`breaker`).
//!
//! While a call is under way, blocks gather for the next one: a call costs tens of microseconds however many it has.

use super::breaker::Breaker;
use super::{PeerError, PeerSettings};
use crate::metrics::NodeMeter;
use crate::shard::Delivery;
use crate::told::Told;
use prost::Message as _;
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_proto::MAX_BATCH_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_shell::link::Link;
use tidemark_telemetry::trace::Here;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// Calls under way to one node.
const CALLS: usize = 4;
/// Blocks in one call.
const BLOCKS: usize = 512;
/// Blocks that wait for a call.
const WAITING: usize = 4096;

type Reply = Result<v1::BlockAck, PeerError>;
/// What is done with a reply.
pub(crate) type Done = Box<dyn FnOnce(Reply) + Send>;

/// A block, and who waits for what becomes of it.
pub(super) struct Outgoing {
    block: v1::Block,
    delivery: Delivery,
    bytes: usize,
    /// The trace it came with.
    here: Here,
}

impl Outgoing {
    pub(super) fn new(block: v1::Block, delivery: Delivery) -> Self {
        let bytes = block.encoded_len();
        Self { block, delivery, bytes, here: Here::now() }
    }
}

struct Queued {
    outgoing: Outgoing,
    told: Told<Reply>,
    /// Given back when the node replied.
    _room: OwnedSemaphorePermit,
}

/// The way to one node. Cheap to clone; its task ends with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    address: Arc<str>,
    blocks: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    bytes: usize,
    breaker: Arc<Mutex<Breaker>>,
}

impl Queue {
    pub(super) fn begin(
        address: String,
        client: ClusterClient<Link>,
        settings: PeerSettings,
        metrics: NodeMeter,
    ) -> Self {
        let (blocks, waiting) = mpsc::channel(WAITING);
        // One block has to fit.
        let bytes = settings.bytes.clamp(2 * MAX_BATCH_BYTES, Semaphore::MAX_PERMITS);
        let queue = Self {
            address: address.into(),
            blocks,
            room: Arc::new(Semaphore::new(bytes)),
            bytes,
            breaker: Arc::default(),
        };
        let courier = Courier {
            address: Arc::clone(&queue.address),
            client,
            settings,
            breaker: Arc::clone(&queue.breaker),
            metrics,
        };
        tokio::spawn(courier.run(waiting));
        queue
    }

    pub(super) fn send(&self, outgoing: Outgoing, done: Done) {
        let address = || self.address.to_string();
        if self.breaker.lock().unwrap_or_else(PoisonError::into_inner).is_open(Instant::now()) {
            return done(Err(PeerError::Resting { address: address() }));
        }
        let full = || PeerError::Full { address: address(), bytes: self.bytes };
        let permits = u32::try_from(outgoing.bytes).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(permits) else {
            return done(Err(full()));
        };
        let place = match self.blocks.try_reserve() {
            Ok(place) => place,
            Err(_) => return done(Err(full())),
        };
        let gone = Arc::clone(&self.address);
        let told = Told::by(move |reply: Option<Reply>| {
            let left =
                || PeerError::Unreachable { address: gone.to_string(), message: "the node left".to_owned() };
            done(reply.unwrap_or_else(|| Err(left())));
        });
        place.send(Queued { outgoing, told, _room: room });
    }
}

/// Makes the calls.
struct Courier {
    address: Arc<str>,
    client: ClusterClient<Link>,
    settings: PeerSettings,
    breaker: Arc<Mutex<Breaker>>,
    metrics: NodeMeter,
}

impl Courier {
    async fn run(self, mut waiting: mpsc::Receiver<Queued>) {
        let courier = Arc::new(self);
        let calls = Arc::new(Semaphore::new(CALLS));
        // What did not fit into the call before.
        let mut next: Option<Queued> = None;
        loop {
            let first = match next.take() {
                Some(first) => first,
                None => match waiting.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            // The semaphore is never closed.
            let Ok(call) = Arc::clone(&calls).acquire_owned().await else { return };
            let mut bytes = first.outgoing.bytes;
            let mut batch = vec![first];
            while batch.len() < BLOCKS {
                let Ok(more) = waiting.try_recv() else { break };
                if bytes + more.outgoing.bytes > MAX_BATCH_BYTES {
                    next = Some(more);
                    break;
                }
                bytes += more.outgoing.bytes;
                batch.push(more);
            }
            let courier = Arc::clone(&courier);
            tokio::spawn(async move {
                courier.deliver(batch).await;
                drop(call);
            });
        }
    }

    async fn deliver(&self, batch: Vec<Queued>) {
        // Of the traces that come together in one call, the first that is collected goes on.
        let traced = batch.iter().map(|queued| &queued.outgoing.here).find(|here| here.is_sampled());
        let here = traced.cloned().unwrap_or_default();
        let (mut request, mut senders) = (v1::ApplyRequest::default(), Vec::with_capacity(batch.len()));
        request.shard_count = self.settings.shards.get();
        for Queued { outgoing, told, _room } in batch {
            request.blocks.push(outgoing.block);
            request.writers.push(outgoing.delivery.to_wire());
            senders.push((told, _room));
        }
        self.metrics.forwarded(senders.len() as u64);
        let replies = here.carry(self.call(request, senders.len())).await;
        self.note(&replies);
        match replies {
            Ok(acks) => senders.into_iter().zip(acks).for_each(|((told, _), ack)| told.tell(Ok(ack))),
            Err(error) => senders.into_iter().for_each(|(told, _)| told.tell(Err(error.clone()))),
        }
    }

    async fn call(&self, request: v1::ApplyRequest, blocks: usize) -> Result<Vec<v1::BlockAck>, PeerError> {
        let address = || self.address.to_string();
        let mut client = self.client.clone();
        match tokio::time::timeout(self.settings.timeout, client.apply(request)).await {
            Ok(Ok(reply)) if reply.get_ref().acks.len() == blocks => Ok(reply.into_inner().acks),
            Ok(Ok(_)) => {
                let message = "it did not acknowledge every block".to_owned();
                Err(PeerError::Unreachable { address: address(), message })
            }
            Ok(Err(status)) if status.code() == tonic::Code::ResourceExhausted => {
                Err(PeerError::Full { address: address(), bytes: self.settings.bytes })
            }
            Ok(Err(status)) => {
                Err(PeerError::Unreachable { address: address(), message: status.message().to_owned() })
            }
            Err(_) => Err(PeerError::NoReply { address: address(), waited: self.settings.timeout }),
        }
    }

    fn note<T>(&self, outcome: &Result<T, PeerError>) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            // Who is full is well.
            Ok(_) | Err(PeerError::Full { .. }) => breaker.succeeded(),
            Err(error) => {
                breaker.failed(Instant::now());
                self.metrics.peer_failed();
                if breaker.just_opened() {
                    tracing::warn!(%error, "leaving a node alone for a moment");
                }
            }
        }
    }
}
