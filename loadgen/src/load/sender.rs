//! One producer of a run: what is due goes out, and what becomes of it is noted.
//!
//! Owns: batches by the clock, and noting their ends against the moments when their events were due.
//! Does not own: what events are (`traffic`), how they travel (`tidemark-client`, `rows`).
//!
//! The load is open. Where the cluster does not take what is due, events wait here, and their latency counts from when they were due:
//! a queue anywhere, also in this program, shows.

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
use tidemark_client::{ClientError, Outcome, Producer, ProducerConfig, SendError, Undelivered, Why};
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::{Clock, EventTime};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(10);
/// Events of a batch, at most.
const MAX_BATCH: u64 = 8_192;
/// Blocks on their way at a time.
const IN_FLIGHT: usize = 4_096;
/// How long a batch waits for room until it is looked whether the run is over.
const ROOM_WITHIN: Duration = Duration::from_millis(500);

/// What a producer noted. Locked for moments, by it and by whoever looks on.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) timeline: Timeline,
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
        let notes = Notes { timeline: Timeline::of(options.schedule.duration), sent };
        Self { notes: Mutex::new(notes), retries: AtomicU64::new(0), names }
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events that are sent together.
struct Batch {
    made: Arc<Vec<Made>>,
    /// When the first and the last of them were due, since the beginning.
    due: (Duration, Duration),
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
    /// For batches that are sent twice.
    again: RowSender,
    traffic: Traffic,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Sender {
    pub(super) async fn connect(
        options: Arc<RunOptions>,
        number: u32,
        id: ProducerId,
        clock: Arc<dyn Clock>,
        shared: Arc<Shared>,
        stop: CancellationToken,
    ) -> Result<Self, ClientError> {
        // Producers begin at different nodes.
        let mut nodes = options.nodes.clone();
        let first = number as usize % nodes.len().max(1);
        nodes.rotate_left(first);
        let rows = |nodes: &[String]| {
            let shared = Arc::clone(&shared);
            let count = move || _ = shared.retries.fetch_add(1, Ordering::Relaxed);
            RowSender::start(nodes.to_vec(), id, options.retry_for, Box::new(count))
        };
        let line = match options.form {
            Form::Rows => Line::Rows(rows(&nodes)),
            Form::Blocks => {
                let config = ProducerConfig {
                    max_in_flight: IN_FLIGHT,
                    more_addresses: nodes.iter().skip(1).cloned().collect(),
                    retry_for: options.retry_for,
                    ..ProducerConfig::new(nodes.first().cloned().unwrap_or_default())
                };
                Line::Blocks(Box::new(Producer::connect(config, id).await?))
            }
        };
        let again = rows(&nodes);
        let traffic = Traffic::new(&options.profile, options.seed, number);
        Ok(Self { options, number, line, again, traffic, clock, shared, stop })
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
            stop: &self.stop,
            stopped: None,
        };
        sending.run(&mut self.line, &settle).await;
        drop(settle);
        if let Line::Blocks(producer) = self.line {
            let totals = producer.close(self.options.retry_for).await;
            self.shared.retries.fetch_add(totals.retries, Ordering::Relaxed);
        }
        // The settler ends when every batch's end is known, which the line sees to within `retry_for`.
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
    sent: u64,
    stop: &'a CancellationToken,
    /// When the run was ended early: nothing is due after that.
    stopped: Option<Duration>,
}

impl Sending<'_> {
    async fn run(&mut self, line: &mut Line, settle: &mpsc::UnboundedSender<OnItsWay>) {
        let schedule = &self.options.schedule;
        let (mut tick, mut noted) = (tokio::time::interval(TICK), 0);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
            if self.sent >= due {
                tick.tick().await;
                continue;
            }
            let batch = self.batch((due - self.sent).min(MAX_BATCH));
            match self.send(line, batch).await {
                Some(on_its_way) => _ = settle.send(on_its_way),
                None => return,
            }
        }
    }

    /// Of so many events of all producers, how many are this one's.
    fn mine(&self, of: u64) -> u64 {
        let producers = u64::from(self.options.producers.max(1));
        (of + producers - 1 - u64::from(self.number)) / producers
    }

    /// The next events.
    fn batch(&mut self, events: u64) -> Batch {
        let producers = u64::from(self.options.producers.max(1));
        let due_at = |mine: u64| self.options.schedule.due_at(mine * producers + u64::from(self.number));
        let (first, last) = (due_at(self.sent), due_at(self.sent + events - 1));
        let step = (last - first).as_secs_f64() / events.max(1) as f64;
        let made = (0..events).map(|at| {
            let (number, due) = (self.sent + at, first + Duration::from_secs_f64(step * at as f64));
            let is_viral = self.viral.contains(&(number * producers + u64::from(self.number)));
            self.traffic.event(number, is_viral, self.wall_start.plus(due))
        });
        let made = made.collect();
        self.sent += events;
        Batch { made: Arc::new(made), due: (first, last) }
    }

    /// Sends a batch, as soon as there is room; nothing where that does not come within the run.
    async fn send(&mut self, line: &mut Line, batch: Batch) -> Option<OnItsWay> {
        let (sealed_at, count) = (self.clock.now(), batch.made.len() as u64);
        let is_sent_twice = self.traffic.is_sent_twice(self.sent);
        let names = Arc::clone(&self.shared.names);
        let (seq, outcome): (u64, BoxFuture<'static, Outcome>) = match line {
            Line::Blocks(producer) => {
                let mut events: Vec<v1::Event> =
                    batch.made.iter().map(|made| made.to_event(&names)).collect();
                loop {
                    match producer.send_within(events, sealed_at, ROOM_WITHIN).await {
                        Ok(ticket) => break (producer.last_seq(), Box::pin(ticket)),
                        Err(SendError::Full { events: left, .. }) if !self.is_over() => events = left,
                        Err(error) => {
                            tracing::warn!(%error, "a batch is not sent");
                            return None;
                        }
                    }
                }
            }
            Line::Rows(rows) => {
                let told = rows.send(rows_of(&batch, &names), count, sealed_at.as_unix_ms()).await;
                (rows.last_seq(), Box::pin(outcome_of(told, count)))
            }
        };
        self.shared.notes().timeline.note(batch.due.0, |then| then.sent += count);
        let twice = is_sent_twice.then_some(Twice { seq, sealed_at });
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

fn rows_of(batch: &Batch, names: &Arc<Names>) -> Arc<dyn Fn() -> Vec<v1::Event> + Send + Sync> {
    let (made, names) = (Arc::clone(&batch.made), Arc::clone(names));
    Arc::new(move || made.iter().map(|made| made.to_event(&names)).collect())
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
    again: RowSender,
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
                let is_counted = outcome.accepted == batch.made.len() as u64;
                if let Some(Twice { seq, sealed_at }) = twice.filter(|_| is_counted) {
                    let (rows, count) = (rows_of(&batch, &shared.names), batch.made.len() as u64);
                    let told = again.send_as(seq, rows, count, sealed_at.as_unix_ms()).await;
                    repeated.push(async move { (batch.due.0, outcome_of(told, count).await) });
                }
            }
            Some((due, outcome)) = repeated.next() => {
                shared.notes().timeline.note(due, |then| then.duplicates += outcome.duplicate);
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
    let (first, last) = batch.due;
    let count = batch.made.len() as u64;
    let mut notes = shared.notes();
    let undelivered = outcome.undelivered_events();
    let step = (last - first).as_secs_f64() / count.max(1) as f64;
    notes.timeline.note(first, |then| {
        then.accepted += outcome.accepted;
        then.undelivered += undelivered;
        then.rejected += outcome.rejected_events();
        if undelivered == 0 {
            for at in 0..count {
                let due = first + Duration::from_secs_f64(step * at as f64);
                then.acknowledged.add(elapsed.saturating_sub(due));
            }
        }
    });
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
