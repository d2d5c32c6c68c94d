//! Sends events as blocks.
//!
//! Owns: how much one producer may have in memory, and the totals of what became of its events.
//! Does not own: the numbers of blocks (`numbers`), where they go and when (`desk`), lines (`courier`).
//!
//! Invariants:
//! * A block keeps its identity however often it is sent, so it counts once.
//! * A shard's sequence number is used once, also by a producer that is started again with the same spool.
//! * Every event that was taken ends up in exactly one of the [`Totals`], and so in its batch's [`Outcome`](crate::Outcome).

use crate::config::{Parts, ProducerConfig};
use crate::courier::{Command, Courier, LineRules, Shared};
use crate::desk::{Desk, DeskConfig, DiskRules, LineLimits};
use crate::error::{ClientError, SendError};
use crate::ledger::{Ledger, Load, Notice, Told};
use crate::numbers::Numbers;
use crate::routes::Routes;
use crate::seal::{Sealed, seal};
use crate::sequence::RESERVE;
use crate::spool::{Spool, SpoolFound};
use crate::ticket::{Ticket, Why};
use crate::totals::Totals;
use crate::watch::Watcher;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::EventTime;
use tidemark_shell::link::Links;
use tidemark_shell::work;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// More numbers are asked for when fewer are left,
const RESERVE_BELOW: u64 = RESERVE / 2;
/// and again every so many numbers until they are there.
const ASK_EVERY: u64 = 1_000;

/// A producer of blocks. Its work is done by tasks of the runtime it was made in, which end with it.
///
/// [`close`](Self::close) or [`finish`](Self::finish) it: what is in memory when it is dropped is lost.
#[derive(Debug)]
pub struct Producer {
    config: ProducerConfig,
    id: ProducerId,
    shards: ShardCount,
    numbers: Numbers,
    next_batch: u64,
    /// From this number on, more are asked for.
    ask_at: u64,
    commands: mpsc::UnboundedSender<Command>,
    notices: mpsc::UnboundedReceiver<Notice>,
    load: Arc<watch::Sender<Load>>,
    shared: Shared,
    found: SpoolFound,
    totals: Totals,
    latency_us: Histogram<u64>,
    /// What [`send`](Self::send) and the like have not told yet.
    failure: Option<ClientError>,
}

impl Producer {
    /// Connects over TCP; see [`connect_with`](Self::connect_with). `id` must be new: random.
    ///
    /// # Errors
    /// As [`connect_with`](Self::connect_with).
    pub async fn connect(config: ProducerConfig, id: ProducerId) -> Result<Self, ClientError> {
        Self::connect_with(config, id, Parts::of(id)).await
    }

    /// Learns from a node how many shards its cluster has and who owns them; takes [`timeout`](ProducerConfig::timeout) at most
    /// for each node that is configured. A spool that was used before knows the count, so the producer starts although nobody
    /// answers; the folder's id takes the place of `id` then, and what is in it is sent.
    ///
    /// # Errors
    /// Where nobody answers there, or the spool cannot be used.
    pub async fn connect_with(
        config: ProducerConfig,
        id: ProducerId,
        parts: Parts,
    ) -> Result<Self, ClientError> {
        let known = config.spool.as_ref().map(Spool::shards_of).transpose()?.flatten();
        let links = Arc::new(Links::new(parts.connect));
        let watcher = Watcher {
            links: Arc::clone(&links),
            configured: addresses(&config)?,
            timeout: config.timeout,
            backoff: config.backoff,
            seed: !parts.seed,
        };
        let routes = match watcher.first(known).await {
            Ok(routes) => routes,
            Err(ClientError::Unreachable { .. }) if known.is_some() => Routes::unknown(&watcher.configured),
            Err(error) => return Err(error),
        };
        let Some(shards) = known.or(routes.shards()) else { return Err(no_shards()) };
        let opened = match config.spool.clone() {
            Some(spool) => Some(work::run(move || Spool::open(&spool, id, shards)).await?),
            None => None,
        };
        let routes = Arc::new(routes);
        let mut desk = Desk::new(desk_config(&config), Arc::clone(&routes), parts.seed, Instant::now());
        let shared = Shared::default();
        shared.reserved.store(u64::MAX, Ordering::Release);
        let (mut id, mut next_seq, mut found, mut spool) = (id, 0, SpoolFound::default(), None);
        if let Some(opened) = opened {
            opened.blocks.into_iter().for_each(|(key, events)| desk.found(key, events));
            shared.reserved.store(opened.reserved, Ordering::Release);
            (id, next_seq, found) = (opened.producer, opened.next_seq, opened.found);
            spool = Some(opened.spool);
        }
        let load = Arc::new(watch::Sender::new(Load {
            spooled_events: found.events,
            spooled_blocks: found.blocks,
            ..Load::default()
        }));
        let (notify, notices) = mpsc::unbounded_channel();
        let (commands, commanded) = mpsc::unbounded_channel();
        let (learnt, learning) = watch::channel(routes);
        let rules =
            LineRules { links, capacity: config.max_in_flight_per_node.max(1), timeout: config.timeout };
        let ledger = Ledger::new(notify, Arc::clone(&load));
        let courier = Courier::new(id, desk, ledger, rules, learning, spool, shared.clone());
        // Both end with the producer: the courier when nobody can command it, the watcher when nobody follows it.
        tokio::spawn(courier.run(commanded));
        tokio::spawn(watcher.run(shards, learnt));
        let totals = Totals {
            recovered: found.events,
            spooled: found.events,
            spooled_blocks: found.blocks,
            ..Totals::default()
        };
        Ok(Self {
            config,
            id,
            shards,
            numbers: Numbers::from(next_seq, shards),
            next_batch: found.blocks,
            ask_at: 0,
            commands,
            notices,
            load,
            shared,
            found,
            totals,
            latency_us: latency_histogram(),
            failure: None,
        })
    }

    /// The producer's id: of its spool, where that had one.
    pub fn id(&self) -> ProducerId {
        self.id
    }

    /// What was in the spool at the start.
    pub fn found(&self) -> &SpoolFound {
        &self.found
    }

    /// Takes events, at most 65,536, as blocks sealed at `sealed_at`, where there is room for them now. Never waits.
    ///
    /// Which times are acceptable is the node's to say; events that no node would take are counted as rejected here.
    ///
    /// # Errors
    /// Where the events were not taken; they are in the error.
    pub fn try_send(&mut self, events: Vec<v1::Event>, sealed_at: EventTime) -> Result<Ticket, SendError> {
        self.follow();
        let load = *self.load.borrow();
        if !self.fits(load, 1, 0) {
            return Err(self.full(events, Duration::ZERO));
        }
        let sealed = self.seal(events, sealed_at)?;
        match self.fits(load, sealed.blocks.len(), sealed.bytes) {
            true => self.take(sealed),
            false => Err(self.full(sealed.events, Duration::ZERO)),
        }
    }

    /// As [`try_send`](Self::try_send), and waits for room for as long as `within`, not longer. Where it is dropped while it
    /// waits, nothing was taken, and the events are lost with it.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub async fn send_within(
        &mut self,
        events: Vec<v1::Event>,
        sealed_at: EventTime,
        within: Duration,
    ) -> Result<Ticket, SendError> {
        self.follow();
        let sealed = self.seal(events, sealed_at)?;
        let (blocks, bytes) = (sealed.blocks.len(), sealed.bytes);
        let mut load = self.load.subscribe();
        if !self.fits(*load.borrow_and_update(), blocks, bytes) {
            self.shared.pressed.notify_one();
            let room = load.wait_for(|load| self.fits(*load, blocks, bytes));
            if tokio::time::timeout(within, room).await.is_err() {
                return Err(self.full(sealed.events, within));
            }
        }
        self.follow();
        self.take(sealed)
    }

    /// Sends events. Waits where there is no room for them, for [`retry_for`](ProducerConfig::retry_for) at most.
    ///
    /// # Errors
    /// Where the events cannot be put into blocks or find no room, and where a block of an earlier call was refused or given up
    /// since the last error that told of one.
    pub async fn send(&mut self, events: Vec<v1::Event>, sealed_at: EventTime) -> Result<(), ClientError> {
        self.settle_ready().await?;
        if events.is_empty() {
            return Ok(());
        }
        let within = self.config.retry_for;
        if let Err(error) = self.send_within(events, sealed_at, within).await {
            self.follow();
            let none_lost = || error.into();
            return Err(self.failure.take().unwrap_or_else(none_lost));
        }
        // So that who sends without a pause on a runtime of one thread lets the courier run.
        tokio::task::yield_now().await;
        self.settle_ready().await
    }

    /// Takes note of what became of blocks, without waiting for more. [`send`](Self::send) does so too; who sends seldom calls
    /// this in between, so that refusals are noticed.
    ///
    /// # Errors
    /// Where a block was refused or given up since the last error that told of one.
    pub async fn settle_ready(&mut self) -> Result<(), ClientError> {
        self.follow();
        self.failure.take().map_or(Ok(()), Err)
    }

    /// What became of the events so far, as far as this producer was called since.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Times from taking a block to its acknowledgement, in microseconds; without blocks that were on disk.
    pub fn latency_us(&self) -> &Histogram<u64> {
        &self.latency_us
    }

    /// Waits until every block is acknowledged or on disk; for [`retry_for`](ProducerConfig::retry_for) at most without any
    /// progress.
    ///
    /// # Errors
    /// As [`settle_ready`](Self::settle_ready), and where there is no progress.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        let mut load = self.load.subscribe();
        // What is on its way when a block is due to be given up has this long still.
        let within = self.config.retry_for.saturating_add(self.config.timeout);
        loop {
            let blocks = load.borrow_and_update().blocks;
            self.settle_ready().await?;
            if blocks == 0 {
                return Ok(());
            }
            if tokio::time::timeout(within, load.changed()).await.is_err() {
                let last = "the spool takes no more, and no node answers".to_owned();
                return Err(ClientError::Unacknowledged { blocks, waited: within, last });
            }
        }
    }

    /// Waits until every block is acknowledged, for as long as `within`, and tells what became of the events. What is left then
    /// goes into the spool; without one it is given up.
    pub async fn close(mut self, within: Duration) -> Totals {
        self.close_within(within).await;
        self.totals
    }

    /// Waits until every block is acknowledged, and tells what became of the events.
    ///
    /// # Errors
    /// As [`flush`](Self::flush). That blocks are left in the spool after [`retry_for`](ProducerConfig::retry_for) is none.
    pub async fn finish(mut self) -> Result<Totals, ClientError> {
        self.flush().await?;
        self.close_within(self.config.retry_for).await;
        self.settle_ready().await?;
        Ok(self.totals)
    }

    async fn close_within(&mut self, within: Duration) {
        let (done, closed) = oneshot::channel();
        let now = Instant::now();
        let deadline = now.checked_add(within).unwrap_or(now + Duration::from_secs(86_400 * 365));
        // Where the courier is gone already, there is nothing to wait for.
        if self.commands.send(Command::Close { deadline, done }).is_ok() {
            _ = closed.await;
        }
        self.follow();
    }

    fn fits(&self, load: Load, blocks: usize, bytes: usize) -> bool {
        let room = load.blocks + blocks <= self.config.max_in_flight
            && load.bytes + bytes <= self.config.buffer_bytes;
        room || load.blocks == 0
    }

    fn full(&self, events: Vec<v1::Event>, waited: Duration) -> SendError {
        self.shared.pressed.notify_one();
        SendError::Full { events, blocks: self.load.borrow().blocks, waited }
    }

    /// Puts events into blocks under the next numbers, which are not used by that.
    fn seal(&self, events: Vec<v1::Event>, sealed_at: EventTime) -> Result<Sealed, SendError> {
        let mut sealed = seal(events, self.id, sealed_at, &self.config.keep_params, self.shards)?;
        self.numbers.give(&mut sealed.blocks);
        Ok(sealed)
    }

    fn take(&mut self, sealed: Sealed) -> Result<Ticket, SendError> {
        let Sealed { events, blocks, bytes, mut begun, too_large } = sealed;
        let (batch, count) = (self.next_batch, blocks.len());
        if !self.may_use_numbers_of(&blocks) {
            return Err(SendError::Numbers { events });
        }
        let rejected: Vec<(Reason, u64)> =
            begun.rejected.iter().map(|(&reason, &events)| (reason, events)).collect();
        begun.undelivered.clone_from(&too_large);
        let ((outcome, outcome_told), (safe, safe_told)) = (oneshot::channel(), oneshot::channel());
        let ticket = Ticket::new(outcome_told, safe_told, &begun);
        if self.commands.is_closed() {
            return Err(SendError::Ended { events });
        }
        self.load.send_modify(|load| {
            load.blocks += count;
            load.bytes += bytes;
        });
        self.numbers.note_used(&blocks);
        self.next_batch += 1;
        // It cannot end between: this task holds its only handle. If its runtime does, the ticket says so.
        _ = self.commands.send(Command::Bring { batch, blocks, begun, told: Told { outcome, safe } });
        self.totals.events += events.len() as u64;
        for (reason, events) in rejected {
            *self.totals.rejected.entry(reason).or_default() += events;
        }
        too_large.into_iter().for_each(|block| self.note_undelivered(block.events, block.why));
        Ok(ticket)
    }

    /// Whether the numbers of these blocks may be used. Asks for more in time.
    fn may_use_numbers_of(&mut self, blocks: &[v1::Block]) -> bool {
        let Some(highest) = blocks.iter().map(|block| block.seq).max() else { return true };
        let left = self.shared.reserved.load(Ordering::Acquire).saturating_sub(highest);
        if left < RESERVE_BELOW && (left == 0 || highest >= self.ask_at) {
            self.ask_at = highest + ASK_EVERY;
            // Where the courier has ended, that is found out in a moment.
            _ = self.commands.send(Command::Reserve { next: self.numbers.unused() });
        }
        left > 0
    }

    /// Takes note of what the courier has told.
    fn follow(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Acknowledged { accepted, duplicate, rejected, waited } => {
                    if let Some(waited) = waited {
                        let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
                        self.latency_us.saturating_record(waited_us);
                    }
                    self.totals.accepted += u64::from(accepted);
                    self.totals.duplicate += u64::from(duplicate);
                    for count in rejected {
                        *self.totals.rejected.entry(count.reason()).or_default() += u64::from(count.events);
                    }
                }
                Notice::Undelivered { events, why } => self.note_undelivered(events, why),
            }
        }
        let load = self.load.borrow();
        (self.totals.retries, self.totals.spooled) = (load.retries, load.spooled_events);
        self.totals.spooled_blocks = load.spooled_blocks;
    }

    fn note_undelivered(&mut self, events: u64, why: Why) {
        match &why {
            // The load tells how many events are in the spool.
            Why::Spooled => return,
            Why::Refused { .. } => self.totals.refused += events,
            Why::GivenUp { .. } | Why::Unreadable(_) | Why::Abandoned => self.totals.given_up += events,
        }
        match &mut self.failure {
            Some(ClientError::Unacknowledged { blocks, .. }) => *blocks += 1,
            Some(_) => {}
            none => *none = Some(ClientError::of_block(why)),
        }
    }
}

fn no_shards() -> ClientError {
    let message = "the cluster does not say how many shards it has".to_owned();
    ClientError::Other { code: tonic::Code::FailedPrecondition, message }
}

/// The configured nodes, as `host:port`.
fn addresses(config: &ProducerConfig) -> Result<Vec<Arc<str>>, ClientError> {
    let all = std::iter::once(&config.address).chain(&config.more_addresses);
    let plain = all.map(|address| {
        let plain = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"));
        let plain = plain.map(|rest| rest.trim_end_matches('/'));
        let plain = plain.filter(|rest| rest.contains(':') && !rest.contains('/'));
        plain.map(Arc::from).ok_or_else(|| ClientError::Address { address: address.clone() })
    });
    plain.collect()
}

fn desk_config(config: &ProducerConfig) -> DeskConfig {
    DeskConfig {
        line: LineLimits { blocks: config.max_in_flight_per_node.max(1), bytes: config.node_bytes.max(1) },
        timeout: config.timeout,
        retry_for: config.retry_for,
        backoff: config.backoff,
        disk: config
            .spool
            .as_ref()
            .map(|spool| DiskRules { after: spool.spool_after, window: spool.window.max(1) }),
    }
}

/// Up to an hour, in microseconds, to three digits.
#[allow(clippy::expect_used)]
fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are constants")
}
