//! One producer of a run: what is due goes out, and what becomes of it is noted.
//!
//! Owns: batches by the clock, and noting their ends against the moments when their events were due.
//! Does not own: what events are (`traffic`), how they travel (`tidemark-client`, `rows`).
//!
//! The load is open. Where the cluster does not take what is due, events wait here, and their latency counts from when they were due:
//! a queue anywhere, also in this program, shows.

use super::batch::{Batch, Moments, most_events};
use super::failures::{Failures, of_block};
use super::measured::Timeline;
use super::rows::RowSender;
use super::run::{Form, RunOptions};
use super::sent::Sent;
use super::traffic::{Made, Names, Traffic};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_client::{ClientError, Outcome, Parts, Producer, ProducerConfig, SendError, Undelivered, Why};
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::{Clock, EventTime};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it is looked what is due, to be told; what is to be sent is not waited for so long where it is due before.
const LOOK: Duration = Duration::from_millis(10);
/// Events that are made before others have a turn: acknowledgements are to be noted when they come.
const MADE_AT_ONCE: u64 = 4_096;
/// Blocks on their way at a time.
const IN_FLIGHT: usize = 4_096;
/// How long a batch waits for room until it is looked whether the run is over.
const ROOM_WITHIN: Duration = Duration::from_millis(500);

/// What a producer noted. Locked for moments, by it and by whoever looks on.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) timeline: Timeline,
    pub(super) failures: Failures,
    /// Where it is to be verified.
    pub(super) sent: Option<Sent>,
}

/// What the tasks of one producer share.
pub(super) struct Shared {
    pub(super) notes: Mutex<Notes>,
    pub(super) retries: AtomicU64,
    names: Arc<Names>,
}

impl Shared {
    pub(super) fn new(options: &RunOptions, names: Arc<Names>) -> Self {
        let sent = options.keeps_sent.then(Sent::default);
        let timeline = Timeline::of(options.schedule.duration);
        let notes = Notes { timeline, failures: Failures::default(), sent };
        Self { notes: Mutex::new(notes), retries: AtomicU64::new(0), names }
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch whose end is not known yet.
struct OnItsWay {
    batch: Batch,
    outcome: BoxFuture<'static, Outcome>,
    /// To be sent once more when it is acknowledged.
    twice: Option<Twice>,
}

/// Under which number and when a batch was sealed.
#[derive(Clone, Copy)]
struct Twice {
    seq: u64,
    sealed_at: EventTime,
}

/// How batches travel.
enum Line {
    Blocks(Box<Producer>),
    Rows(RowSender),
}

/// A producer of a run.
pub(super) struct Sender {
    options: Arc<RunOptions>,
    number: u32,
    line: Line,
    /// For batches that are sent twice, where the profile has some and blocks are sent: they travel as rows both times, under an id
    /// of their own, as a producer gives each block a number of its own.
    repeated: Option<Line>,
    /// For their second copies.
    again: Option<RowSender>,
    traffic: Traffic,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Sender {
    pub(super) async fn connect(
        options: Arc<RunOptions>,
        (number, id): (u32, ProducerId),
        clock: Arc<dyn Clock>,
        shared: Arc<Shared>,
        stop: CancellationToken,
    ) -> Result<Self, ClientError> {
        // Producers begin at different nodes.
        let mut nodes = options.nodes.clone();
        let first = number as usize % nodes.len().max(1);
        nodes.rotate_left(first);
        let (is_repeating, in_blocks) = (options.profile.duplicates > 0.0, options.form == Form::Blocks);
        let id_of_rows = if in_blocks { ProducerId::from_u128(!id.as_u128()) } else { id };
        let rows = || {
            let shared = Arc::clone(&shared);
            let count = move || _ = shared.retries.fetch_add(1, Ordering::Relaxed);
            let nodes = (nodes.clone(), options.dial.clone());
            RowSender::start(nodes, id_of_rows, options.retry_for, Box::new(count))
        };
        let line = match options.form {
            Form::Rows => Line::Rows(rows()),
            Form::Blocks => {
                let config = ProducerConfig {
                    max_in_flight: IN_FLIGHT,
                    more_addresses: nodes.iter().skip(1).cloned().collect(),
                    retry_for: options.retry_for,
                    ..ProducerConfig::new(nodes.first().cloned().unwrap_or_default())
                };
                let parts = Parts { connect: Arc::new(options.dial.clone()), ..Parts::of(id) };
                Line::Blocks(Box::new(Producer::connect_with(config, id, parts).await?))
            }
        };
        let repeated = (is_repeating && in_blocks).then(|| Line::Rows(rows()));
        let again = is_repeating.then(rows);
        let traffic = Traffic::new(&options.profile, options.seed, number);
        Ok(Self { options, number, line, repeated, again, traffic, clock, shared, stop })
    }

    /// Sends what is due from `started` on, and waits until the end of everything is known, or for `retry_for` after the last was due.
    pub(super) async fn run(mut self, started: Instant) {
        let (settle, settling) = mpsc::unbounded_channel();
        let shared = Arc::clone(&self.shared);
        let settler = tokio::spawn(settler(settling, shared, self.again, started));
        // A part of the struct went to the settler.
        let mut sending = Sending {
            options: &self.options,
            number: self.number,
            traffic: &self.traffic,
            viral: viral(&self.options),
            clock: self.clock.as_ref(),
            shared: &self.shared,
            wall_start: self.clock.now().minus(started.elapsed()),
            started,
            sent: 0,
            made: Vec::new(),
            stop: &self.stop,
            stopped: None,
        };
        sending.run(&mut self.line, self.repeated.as_mut(), &settle).await;
        drop(settle);
        if let Line::Blocks(producer) = self.line {
            let totals = producer.close(self.options.retry_for).await;
            self.shared.retries.fetch_add(totals.retries, Ordering::Relaxed);
        }
        // The settler ends when every batch's end is known, which the lines see to within `retry_for`; they are there until then.
        _ = settler.await;
    }
}

struct Sending<'a> {
    options: &'a RunOptions,
    number: u32,
    traffic: &'a Traffic,
    /// The numbers, of all producers' events, of those that are due while a URL is viral.
    viral: std::ops::Range<u64>,
    clock: &'a dyn Clock,
    shared: &'a Arc<Shared>,
    wall_start: EventTime,
    started: Instant,
    /// Events that went.
    sent: u64,
    /// Those after them that are made.
    made: Vec<Made>,
    stop: &'a CancellationToken,
    /// When the run was ended early: nothing is due after that.
    stopped: Option<Duration>,
}

impl Sending<'_> {
    async fn run(
        &mut self,
        line: &mut Line,
        mut repeated: Option<&mut Line>,
        settle: &mpsc::UnboundedSender<OnItsWay>,
    ) {
        let schedule = &self.options.schedule;
        let mut noted = 0;
        loop {
            if self.stop.is_cancelled() && self.stopped.is_none() {
                self.stopped = Some(self.started.elapsed());
            }
            let elapsed = self.stopped.unwrap_or_else(|| self.started.elapsed());
            let due = self.mine(schedule.due(elapsed));
            if due > noted {
                self.shared
                    .notes()
                    .timeline
                    .note(elapsed.min(schedule.duration), |now| now.due += due - noted);
                noted = due;
            }
            let is_ended = self.stopped.is_some() || elapsed >= schedule.duration;
            if self.is_over() || (is_ended && self.sent >= due) {
                return;
            }
            let is_sent_twice = self.traffic.is_sent_twice(self.sent);
            let most = most_events(self.options.form, is_sent_twice);
            let full_at = self.due_at(self.sent + most - 1);
            let goes_at = full_at.min(self.due_at(self.sent) + self.linger());
            self.make(due.min(self.sent + most)).await;
            if self.made.is_empty() || (!is_ended && elapsed < goes_at) {
                tokio::time::sleep_until(self.started + goes_at.min(elapsed + LOOK)).await;
                continue;
            }
            let batch = self.batch();
            let line = match &mut repeated {
                Some(rows) if is_sent_twice => &mut **rows,
                _ => &mut *line,
            };
            match self.send(line, batch, is_sent_twice).await {
                Some(on_its_way) => _ = settle.send(on_its_way),
                None => return,
            }
        }
    }

    /// Of so many events of all producers, how many are this one's.
    fn mine(&self, of: u64) -> u64 {
        (of + self.producers() - 1 - u64::from(self.number)) / self.producers()
    }

    /// The number among all producers' events of this one's event.
    fn of_all(&self, mine: u64) -> u64 {
        mine * self.producers() + u64::from(self.number)
    }

    fn producers(&self) -> u64 {
        self.options.producers.len() as u64
    }

    /// When an event of this producer is due.
    fn due_at(&self, mine: u64) -> Duration {
        self.options.schedule.due_at(self.of_all(mine))
    }

    /// How long the first event of a batch waits. The first batches of producers wait for different times: in the world they are not
    /// in step either, and what all of them sent at once would be a load of its own.
    fn linger(&self) -> Duration {
        match self.sent {
            0 => self.options.linger * (self.number + 1) / self.options.producers.len().max(1) as u32,
            _ => self.options.linger,
        }
    }

    /// Makes the events up to this number as they become due: made with their batch, they would keep the machine busy all at once.
    async fn make(&mut self, until: u64) {
        loop {
            let from = self.sent + self.made.len() as u64;
            if from >= until {
                return;
            }
            let count = (until - from).min(MADE_AT_ONCE);
            let due = Moments::between(self.due_at(from), self.due_at(from + count - 1), count);
            for at in 0..count {
                let is_viral = self.viral.contains(&self.of_all(from + at));
                let time = self.wall_start.plus(due.at(at));
                self.made.push(self.traffic.event(from + at, is_viral, time));
            }
            tokio::task::yield_now().await;
        }
    }

    /// What is made and did not go yet.
    fn batch(&mut self) -> Batch {
        let made = std::mem::take(&mut self.made);
        let events = made.len() as u64;
        let due =
            Moments::between(self.due_at(self.sent), self.due_at(self.sent + events.max(1) - 1), events);
        self.sent += events;
        Batch { made: Arc::new(made), due }
    }

    /// Sends a batch, as soon as there is room; nothing where that does not come within the run.
    async fn send(&mut self, line: &mut Line, batch: Batch, is_sent_twice: bool) -> Option<OnItsWay> {
        let (sealed_at, count) = (self.clock.now(), batch.count());
        let names = Arc::clone(&self.shared.names);
        let (seq, outcome): (_, BoxFuture<'static, Outcome>) = match line {
            Line::Blocks(producer) => {
                let mut events: Vec<v1::Event> =
                    batch.made.iter().map(|made| made.to_event(&names)).collect();
                loop {
                    match producer.send_within(events, sealed_at, ROOM_WITHIN).await {
                        Ok(ticket) => break (None, Box::pin(ticket)),
                        Err(SendError::Full { events: left, .. }) if !self.is_over() => events = left,
                        Err(error) => {
                            tracing::warn!(%error, "a batch is not sent");
                            let why = match error {
                                // How many blocks are in the way differs each time.
                                SendError::Full { .. } => {
                                    "not sent: there was no room until the end".to_owned()
                                }
                                error => format!("not sent: {error}"),
                            };
                            self.shared.notes().failures.blocks.add(&why);
                            return None;
                        }
                    }
                }
            }
            Line::Rows(rows) => {
                let told = rows.send(batch.rows(&names), count, sealed_at.as_unix_ms()).await;
                (Some(rows.last_seq()), Box::pin(outcome_of(told, count)))
            }
        };
        let timeline = &mut self.shared.notes().timeline;
        for part in batch.parts(timeline) {
            timeline.note(batch.due.at(part.start), |then| then.sent += part.end - part.start);
        }
        let twice = seq.filter(|_| is_sent_twice).map(|seq| Twice { seq, sealed_at });
        Some(OnItsWay { batch, outcome, twice })
    }

    fn is_over(&self) -> bool {
        let ended = self.stopped.unwrap_or(self.options.schedule.duration);
        self.started.elapsed() > ended + self.options.retry_for
    }
}

fn viral(options: &RunOptions) -> std::ops::Range<u64> {
    options.profile.viral.map_or(0..0, |viral| {
        options.schedule.due(viral.after)..options.schedule.due(viral.after + viral.lasts)
    })
}

async fn outcome_of(told: tokio::sync::oneshot::Receiver<Outcome>, events: u64) -> Outcome {
    told.await.unwrap_or_else(|_| Outcome {
        events,
        undelivered: vec![Undelivered { shard: None, events, why: Why::Abandoned }],
        ..Outcome::default()
    })
}

/// Notes the end of every batch when it is known.
async fn settler(
    mut taken: mpsc::UnboundedReceiver<OnItsWay>,
    shared: Arc<Shared>,
    again: Option<RowSender>,
    started: Instant,
) {
    let mut waiting: FuturesUnordered<BoxFuture<'static, (Outcome, Batch, Option<Twice>)>> =
        FuturesUnordered::new();
    let mut repeated = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !waiting.is_empty() || !repeated.is_empty() {
        tokio::select! {
            biased;
            Some((outcome, batch, twice)) = waiting.next() => {
                settle(&shared, started.elapsed(), &batch, &outcome);
                let is_counted = outcome.accepted == batch.count();
                if let (Some(again), Some(Twice { seq, sealed_at })) = (&again, twice.filter(|_| is_counted)) {
                    let (rows, count) = (batch.rows(&shared.names), batch.count());
                    let told = again.send_as(seq, rows, count, sealed_at.as_unix_ms()).await;
                    repeated.push(async move { (batch.due.at(0), outcome_of(told, count).await) });
                }
            }
            Some((due, outcome)) = repeated.next() => {
                let mut notes = shared.notes();
                notes.timeline.note(due, |then| then.duplicates += outcome.duplicate);
                for undelivered in &outcome.undelivered {
                    notes.failures.blocks.add(&format!("second copy: {}", of_block(&undelivered.why)));
                }
            }
            next = taken.recv(), if is_open => match next {
                None => is_open = false,
                Some(OnItsWay { batch, outcome, twice }) => {
                    waiting.push(Box::pin(async move { (outcome.await, batch, twice) }));
                }
            },
        }
    }
}

fn settle(shared: &Shared, elapsed: Duration, batch: &Batch, outcome: &Outcome) {
    let mut notes = shared.notes();
    let undelivered = outcome.undelivered_events();
    let is_whole = outcome.accepted == batch.count();
    for part in batch.parts(&notes.timeline) {
        notes.timeline.note(batch.due.at(part.start), |then| {
            if is_whole {
                then.accepted += part.end - part.start;
            }
            if undelivered == 0 {
                for place in part.clone() {
                    then.acknowledged.add(elapsed.saturating_sub(batch.due.at(place)));
                }
            }
        });
    }
    // Which events of it are not counted is not always told: all of it belongs to when the first was due.
    if !is_whole {
        notes.timeline.note(batch.due.at(0), |then| {
            then.accepted += outcome.accepted;
            then.undelivered += undelivered;
            then.rejected += outcome.rejected_events();
        });
    }
    for block in &outcome.undelivered {
        notes.failures.blocks.add(&of_block(&block.why));
    }
    for (reason, &events) in &outcome.rejected {
        notes.failures.rejected.add_all(&reason.name(), events);
    }
    if let Some(sent) = &mut notes.sent {
        let is_rejected = |at: u32| outcome.rejected_at.iter().any(|&(rejected, _)| rejected == at);
        let all_told = outcome.rejected_at.len() as u64 == outcome.rejected_events();
        // Of a batch that did not arrive whole, it is not known which events did.
        let is_sure = undelivered == 0 && all_told;
        match outcome.rejected_events() {
            0 => sent.note(&shared.names, &batch.made, is_sure),
            _ => {
                let kept = (0_u32..).zip(batch.made.iter()).filter(|&(at, _)| !is_rejected(at));
                let kept: Vec<Made> = kept.map(|(_, &made)| made).collect();
                sent.note(&shared.names, &kept, is_sure);
            }
        }
    }
}
