//! Single events into batches.
//!
//! Owns: the events that are waiting for others to be sent with them, and until when they wait.
//! Does not own: the blocks they become (`producer`).

use crate::error::{ClientError, SendError};
use crate::producer::Producer;
use crate::ticket::Ticket;
use crate::totals::Totals;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::block::MAX_BLOCK_EVENTS;
use tidemark_rollup::time::Clock;
use tokio::time::Instant;

/// How events are put together.
#[derive(Clone, Copy, Debug)]
pub struct BatchConfig {
    /// Events of a batch; at most 65,536. There are never more of them waiting.
    ///
    /// A batch makes up to one block per shard. More makes blocks that are worth their overhead (with 64 shards and the default,
    /// 1,000 events each); fewer sends sooner where events are many, and takes less memory.
    pub events: usize,
    /// How long an event waits for others. Longer makes larger blocks where events are few; shorter shows them sooner.
    pub age: Duration,
    /// How long [`Batcher::push`] may wait for room where a batch has to go first.
    pub wait: Duration,
}

impl Default for BatchConfig {
    /// 65,536 events or 50 ms; a push waits 100 ms at most.
    fn default() -> Self {
        Self { events: MAX_BLOCK_EVENTS, age: Duration::from_millis(50), wait: Duration::from_millis(100) }
    }
}

/// Collects events, and sends them together. Whoever pushes seldom also waits for [`due`](Self::due), in a `select!`:
///
/// ```no_run
/// # async fn run(mut batcher: tidemark_client::Batcher, mut events: tokio::sync::mpsc::Receiver<tidemark_proto::v1::Event>) {
/// loop {
///     let _ticket = tokio::select! {
///         Some(event) = events.recv() => batcher.push(event).await,
///         () = batcher.due() => batcher.send().await,
///         else => break,
///     };
/// }
/// # }
/// ```
pub struct Batcher {
    producer: Producer,
    config: BatchConfig,
    clock: Arc<dyn Clock>,
    waiting: Vec<v1::Event>,
    due: Option<Instant>,
}

impl std::fmt::Debug for Batcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher")
            .field("config", &self.config)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Batcher {
    /// Sends through this producer what is sealed by this clock.
    pub fn new(producer: Producer, config: BatchConfig, clock: Arc<dyn Clock>) -> Self {
        let events = config.events.clamp(1, MAX_BLOCK_EVENTS);
        Self { producer, config: BatchConfig { events, ..config }, clock, waiting: Vec::new(), due: None }
    }

    /// Adds an event, and sends the batch if that is full or old now; the ticket is of all its events.
    ///
    /// # Errors
    /// Where there is no room for the event: it is in the error, alone, and those before it wait on.
    pub async fn push(&mut self, event: v1::Event) -> Result<Option<Ticket>, SendError> {
        let mut ticket = None;
        if self.waiting.len() >= self.config.events {
            // An earlier attempt found no room.
            ticket = match self.send().await {
                Ok(ticket) => ticket,
                Err(SendError::Full { blocks, waited, .. }) => {
                    return Err(SendError::Full { events: vec![event], blocks, waited });
                }
                Err(SendError::Numbers { .. }) => return Err(SendError::Numbers { events: vec![event] }),
                Err(SendError::Ended { .. }) => return Err(SendError::Ended { events: vec![event] }),
                Err(SendError::Batch { error, .. }) => {
                    return Err(SendError::Batch { events: vec![event], error });
                }
            };
        }
        if self.waiting.is_empty() {
            self.due = Some(Instant::now() + self.config.age);
        }
        self.waiting.push(event);
        let due = self.due.is_some_and(|due| due <= Instant::now());
        if ticket.is_none() && (due || self.waiting.len() >= self.config.events) {
            // The event is taken; where its batch finds no room, the next push or `due` tries again.
            ticket = self.send().await.unwrap_or_default();
        }
        Ok(ticket)
    }

    /// Waits until the batch is old enough to be sent; for ever where it is empty. May be dropped and called again.
    pub async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Sends what is waiting, if anything is.
    ///
    /// # Errors
    /// Where it was not taken; it waits on, and the error has no events.
    pub async fn send(&mut self) -> Result<Option<Ticket>, SendError> {
        if self.waiting.is_empty() {
            return Ok(None);
        }
        let (events, now) = (std::mem::take(&mut self.waiting), self.clock.now());
        match self.producer.send_within(events, now, self.config.wait).await {
            Ok(ticket) => {
                self.due = None;
                Ok(Some(ticket))
            }
            Err(mut error) => {
                self.due = Some(Instant::now() + self.config.age);
                self.waiting = std::mem::take(error.events_mut());
                Err(error)
            }
        }
    }

    /// How many events are waiting.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The producer, for its totals.
    pub fn producer(&mut self) -> &mut Producer {
        &mut self.producer
    }

    /// Sends what is waiting, and closes the producer: see [`Producer::close`].
    ///
    /// # Errors
    /// Where what was waiting finds no room within the time; the producer is closed all the same, and the events that were not
    /// taken are in the error.
    pub async fn close(mut self, within: Duration) -> Result<Totals, (SendError, Totals)> {
        let started = Instant::now();
        let (now, events) = (self.clock.now(), std::mem::take(&mut self.waiting));
        let sent = match events.is_empty() {
            true => Ok(()),
            false => self.producer.send_within(events, now, within).await.map(drop),
        };
        let totals = self.producer.close(within.saturating_sub(started.elapsed())).await;
        sent.map(|()| totals.clone()).map_err(|error| (error, totals))
    }

    /// As [`Producer::flush`], after sending what is waiting.
    ///
    /// # Errors
    /// As [`Producer::send`]; what was not taken waits on.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        match self.send().await {
            Ok(_untold) => self.producer.flush().await,
            Err(error) => Err(error.into()),
        }
    }
}
