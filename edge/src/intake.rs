//! Events on their way to the disk and to the nodes.
//!
//! Owns: putting the events of many requests together, and telling each request when its own are safe.
//! Does not own: blocks, disk and lines (`tidemark_client`), replies (`http`).
//!
//! Invariants:
//! * A request is told that its events are taken only when a crash loses none of them: each is on disk, or acknowledged.
//! * Events that are taken and not safe yet never take more than [`IN_FLIGHT_BYTES`].

use crate::config::EdgeConfig;
use crate::metrics::EdgeMetrics;
use crate::recent::Pending;
use crate::visitor::Visitors;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_client::{ClientError, Parts, Producer, ProducerConfig, SpoolConfig, Ticket, Why};
use tidemark_proto::v1;
use tidemark_rollup::block::{MAX_BLOCK_EVENTS, ProducerId};
use tidemark_rollup::time::Clock;
use tidemark_shell::link::Connect;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Bytes of events that are taken and not safe yet; beyond them senders are told to come back.
const IN_FLIGHT_BYTES: usize = 64 << 20;
/// What an event takes in memory beside its texts.
const EVENT_OVERHEAD_BYTES: usize = 256;
/// A batch is sent when its events have so many bytes, however young it is.
const BATCH_BYTES: usize = 1 << 20;
/// How long a request waits until its events are safe. A disk that takes longer has a problem.
pub(crate) const SAFE_WITHIN: Duration = Duration::from_secs(5);
/// How long until a batch that found no room is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// How long until nodes are looked for again, where a spool that was never used needs one to begin with.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Blocks on disk that no node has acknowledged; beyond them senders are told to come back, though the disk has room. An edge makes small
/// blocks, and memory knows where each is: this many take some hundred megabytes.
const MAX_SPOOLED_BLOCKS: u64 = 1_000_000;
/// How often what became of events is looked at, and whether the day is over.
const TICK: Duration = Duration::from_secs(1);
/// How long the end waits for nodes to acknowledge what is on its way. The rest stays on disk.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// Why events are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TakeError {
    /// Nothing was taken: post the same again later.
    #[error("the edge has as many events in flight as it can: post again in a moment")]
    Busy,
    /// Nothing was taken: post the same again later.
    #[error("the edge keeps as many blocks as it can: the cluster has been away for long; post again later")]
    Full,
    /// Nothing was taken: the edge has never seen a node, and needs one to begin with.
    #[error("the edge waits for a node to begin with: post again in a moment")]
    NotReady,
    /// They may count or not: post the same again under the same `id`, so that it counts once.
    #[error("the disk did not take the events in time: post again in a moment")]
    Late,
    /// They do not count.
    #[error("the events are lost: {0}")]
    Lost(String),
}

/// What one request brings.
struct Arrival {
    events: Vec<v1::Event>,
    bytes: usize,
    safe: oneshot::Sender<Result<(), String>>,
    /// Learns whether they count, also where nobody waits any more.
    pending: Option<Pending>,
    /// Held until the events are safe, also where nobody waits for that any more.
    permit: OwnedSemaphorePermit,
}

/// Takes events in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Intake {
    arrivals: mpsc::Sender<Arrival>,
    room: Arc<Semaphore>,
    state: Arc<Flags>,
}

/// What requests know of the producer.
#[derive(Debug, Default)]
struct Flags {
    /// It is there.
    ready: AtomicBool,
    /// It has as many blocks on disk as there may be.
    full: AtomicBool,
}

/// What the intake works with.
pub(crate) struct Work {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) producer: ProducerId,
    pub(crate) metrics: EdgeMetrics,
}

impl Intake {
    /// The intake and its task, which runs until all clones of the intake are gone, or until `shutdown` where it has not begun.
    pub(crate) fn new(
        config: &EdgeConfig,
        work: Work,
        turn: Turn,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = Result<(), ClientError>> + Send + use<>) {
        let (arrivals, arriving) = mpsc::channel(1_024);
        let state = Arc::new(Flags::default());
        let intake =
            Self { arrivals, room: Arc::new(Semaphore::new(IN_FLIGHT_BYTES)), state: Arc::clone(&state) };
        let (producer_config, age) = (producer_config(config), config.batch_age);
        let task = async move {
            let Some(producer) = begin(&producer_config, &work, &shutdown).await? else { return Ok(()) };
            state.ready.store(true, Ordering::Release);
            let found = producer.found();
            tracing::info!(
                events = found.events,
                blocks = found.blocks,
                "the edge takes events; what its spool had is sent"
            );
            for damage in &found.damaged {
                tracing::error!(?damage, "a part of the spool cannot be read: its events are lost");
            }
            let desk = Desk {
                producer,
                work,
                age,
                waiting: Vec::new(),
                events: 0,
                bytes: 0,
                due: None,
                telling: JoinSet::new(),
                turn,
                state,
            };
            desk.run(arriving).await;
            Ok(())
        };
        (intake, task)
    }

    /// Whether events are taken.
    pub(crate) fn is_ready(&self) -> bool {
        self.state.ready.load(Ordering::Acquire)
    }

    /// Takes events; returns when they are safe. Where it returns sooner, or is dropped, `pending` still learns what becomes of them.
    pub(crate) async fn take(
        &self,
        events: Vec<v1::Event>,
        pending: Option<Pending>,
    ) -> Result<(), TakeError> {
        if events.is_empty() {
            return Ok(());
        }
        if !self.is_ready() {
            return Err(TakeError::NotReady);
        }
        if self.state.full.load(Ordering::Acquire) {
            return Err(TakeError::Full);
        }
        let bytes = events.iter().map(bytes_of).sum::<usize>().min(IN_FLIGHT_BYTES);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).try_acquire_many_owned(permits).map_err(|_| TakeError::Busy)?;
        let (safe, told) = oneshot::channel();
        self.arrivals
            .try_send(Arrival { events, bytes, safe, pending, permit })
            .map_err(|_| TakeError::Busy)?;
        match timeout(SAFE_WITHIN, told).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(why))) => Err(TakeError::Lost(why)),
            Ok(Err(_)) | Err(_) => Err(TakeError::Late),
        }
    }
}

/// What is done as time goes by.
pub(crate) type Turn = Box<dyn Fn() + Send>;

/// Turns the salt of the day.
pub(crate) fn turning(visitors: Arc<Visitors>, clock: Arc<dyn Clock>) -> Turn {
    Box::new(move || visitors.turn(clock.now()))
}

fn bytes_of(event: &v1::Event) -> usize {
    let texts = event.site.len() + event.url.len() + event.kind.len() + event.visitor.len();
    let dimensions: usize = event.dimensions.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
    let values: usize = event.values.iter().map(|entry| entry.key.len() + 8).sum();
    EVENT_OVERHEAD_BYTES + texts + dimensions + values
}

fn producer_config(config: &EdgeConfig) -> ProducerConfig {
    let spool = SpoolConfig {
        limit_bytes: config.spool_limit_bytes,
        sync: config.sync,
        // Every block goes to disk at once: a request is answered when it is there, whether or not the cluster is.
        spool_after: Duration::ZERO,
        // They are small.
        window: 256,
        ..SpoolConfig::new(config.spool.join("blocks"))
    };
    let (first, more) =
        config.nodes.split_first().map_or((String::new(), &[][..]), |(first, more)| (first.clone(), more));
    ProducerConfig {
        more_addresses: more.to_vec(),
        keep_params: config.keep_params.clone(),
        spool: Some(spool),
        ..ProducerConfig::new(first)
    }
}

/// A producer, once there is a node or a spool that knew one; `None` where it is over before.
async fn begin(
    config: &ProducerConfig,
    work: &Work,
    shutdown: &CancellationToken,
) -> Result<Option<Producer>, ClientError> {
    let mut told = false;
    loop {
        let parts = Parts { connect: Arc::clone(&work.connect), ..Parts::of(work.producer) };
        let connecting = Producer::connect_with(config.clone(), work.producer, parts);
        let Some(connected) = shutdown.run_until_cancelled(connecting).await else { return Ok(None) };
        match connected {
            Ok(producer) => return Ok(Some(producer)),
            Err(error @ (ClientError::Spool(_) | ClientError::Address { .. })) => return Err(error),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the spool is new, and no node is there to begin with: waiting for one");
                }
            }
        }
        if shutdown.run_until_cancelled(sleep(LOOK_AGAIN)).await.is_none() {
            return Ok(None);
        }
    }
}

/// Puts events together, and sends them.
struct Desk {
    producer: Producer,
    work: Work,
    age: Duration,
    waiting: Vec<Arrival>,
    events: usize,
    bytes: usize,
    due: Option<Instant>,
    /// Who waits until a batch is safe. As many as there are blocks in memory, at most.
    telling: JoinSet<()>,
    turn: Turn,
    state: Arc<Flags>,
}

impl Desk {
    /// Runs until nobody can bring events any more; then puts away what is left.
    async fn run(mut self, mut arriving: mpsc::Receiver<Arrival>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due;
            let due = async move {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = due => self.send(),
                arrival = arriving.recv(), if !self.is_full() => match arrival {
                    Some(arrival) => self.add(arrival),
                    None => break,
                },
                _ = ticks.tick() => self.tick().await,
                Some(_) = self.telling.join_next() => {}
            }
        }
        self.close().await;
    }

    /// A batch that is full and was not taken yet: nobody else is let in.
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.events + EdgeConfig::MAX_EVENTS > MAX_BLOCK_EVENTS
    }

    fn add(&mut self, arrival: Arrival) {
        self.due.get_or_insert_with(|| Instant::now() + self.age);
        self.events += arrival.events.len();
        self.bytes += arrival.bytes;
        self.waiting.push(arrival);
        if self.is_full() {
            self.send();
        }
    }

    /// Sends what is waiting; where there is no room, it waits on.
    fn send(&mut self) {
        let counts: Vec<usize> = self.waiting.iter().map(|arrival| arrival.events.len()).collect();
        let events =
            self.waiting.iter_mut().flat_map(|arrival| std::mem::take(&mut arrival.events)).collect();
        match self.producer.try_send(events, self.work.clock.now()) {
            Ok(ticket) => {
                let waiting = std::mem::take(&mut self.waiting);
                (self.events, self.bytes, self.due) = (0, 0, None);
                self.telling.spawn(tell(ticket, waiting));
            }
            Err(error) => {
                self.due = Some(Instant::now() + AGAIN);
                let mut events = error.into_events().into_iter();
                for (arrival, count) in self.waiting.iter_mut().zip(counts) {
                    arrival.events = events.by_ref().take(count).collect();
                }
                // Whoever waited in vain is gone, and sends the same again.
                self.waiting.retain(|arrival| !arrival.safe.is_closed());
                self.events = self.waiting.iter().map(|arrival| arrival.events.len()).sum();
                self.bytes = self.waiting.iter().map(|arrival| arrival.bytes).sum();
                if self.waiting.is_empty() {
                    self.due = None;
                }
            }
        }
    }

    async fn tick(&mut self) {
        (self.turn)();
        if let Err(error) = self.producer.settle_ready().await {
            tracing::error!(%error, "events of this edge do not count");
        }
        let totals = self.producer.totals();
        self.state.full.store(totals.spooled_blocks >= MAX_SPOOLED_BLOCKS, Ordering::Release);
        self.work.metrics.show_totals(totals);
    }

    async fn close(mut self) {
        if !self.waiting.is_empty() {
            self.send();
        }
        let totals = self.producer.close(CLOSE_WITHIN).await;
        self.work.metrics.show_totals(&totals);
        // Blocks are on disk or acknowledged now, so that all are told at once.
        while self.telling.join_next().await.is_some() {}
        tracing::info!(
            delivered = totals.accepted,
            left_in_spool = totals.spooled,
            "the edge takes no more events"
        );
    }
}

/// Tells all requests of a batch when it is safe.
async fn tell(mut ticket: Ticket, waiting: Vec<Arrival>) {
    let safe = ticket.safe().await.map_err(|why: Why| why.to_string());
    for Arrival { safe: reply, pending, permit, .. } in waiting {
        drop(permit);
        if let Some(pending) = pending.filter(|_| safe.is_ok()) {
            pending.counts();
        }
        // Whoever does not wait any more was told that nobody knows.
        _ = reply.send(safe.clone());
    }
}
