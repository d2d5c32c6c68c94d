//! Events as rows, for a node to make blocks of: as senders without our client do.
//!
//! Owns: one stream to one node, sending again what it did not acknowledge, and going on at the next node where it breaks.
//! Does not own: when batches are due (`sender`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tidemark_client::{Backoff, Dial, Link, Outcome, Undelivered, Why, open};
use tidemark_proto::v1;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::block::ProducerId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Batches on their way at a time.
const IN_FLIGHT: usize = 64;
/// How long connecting, and the next acknowledgement, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A batch on its way; it can be made again where it has to be sent again.
struct Row {
    seq: u64,
    sealed_at_ms: i64,
    events: Arc<dyn Fn() -> Vec<v1::Event> + Send + Sync>,
    count: u64,
    give_up_at: Instant,
    reply: oneshot::Sender<Outcome>,
}

/// Sends batches of rows. What is on its way when it is dropped is abandoned.
pub(super) struct RowSender {
    rows: mpsc::Sender<Row>,
    next_seq: u64,
    retry_for: Duration,
    _task: AbortOnDropHandle<()>,
}

/// What is on its way, and how often something was sent again.
struct Line {
    nodes: Vec<String>,
    dial: Dial,
    /// Which of them is asked.
    at: usize,
    producer: ProducerId,
    waiting: VecDeque<Row>,
    failures: u32,
    retry_for: Duration,
    on_retry: Box<dyn Fn() + Send + Sync>,
}

impl RowSender {
    /// Sends to the first node that answers. Batches are given up after `retry_for`. `on_retry` is called for each that is sent again.
    pub(super) fn start(
        (nodes, dial): (Vec<String>, Dial),
        producer: ProducerId,
        retry_for: Duration,
        on_retry: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let (rows, taken) = mpsc::channel(1);
        let line =
            Line { nodes, dial, at: 0, producer, waiting: VecDeque::new(), failures: 0, retry_for, on_retry };
        let task = AbortOnDropHandle::new(tokio::spawn(line.run(taken)));
        Self { rows, next_seq: 0, retry_for, _task: task }
    }

    /// Sends a batch, once there is room for it. Tells what becomes of it.
    pub(super) async fn send(
        &mut self,
        events: Arc<dyn Fn() -> Vec<v1::Event> + Send + Sync>,
        count: u64,
        sealed_at_ms: i64,
    ) -> oneshot::Receiver<Outcome> {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.send_as(seq, events, count, sealed_at_ms).await
    }

    /// The same under a number that is known.
    pub(super) async fn send_as(
        &self,
        seq: u64,
        events: Arc<dyn Fn() -> Vec<v1::Event> + Send + Sync>,
        count: u64,
        sealed_at_ms: i64,
    ) -> oneshot::Receiver<Outcome> {
        let (reply, told) = oneshot::channel();
        let give_up_at = Instant::now() + self.retry_for;
        // The task ends with this sender; if its runtime ends before, the reply says so by itself.
        _ = self.rows.send(Row { seq, sealed_at_ms, events, count, give_up_at, reply }).await;
        told
    }

    /// The number of the batch that was sent last.
    pub(super) fn last_seq(&self) -> u64 {
        self.next_seq.saturating_sub(1)
    }
}

impl Line {
    async fn run(mut self, mut taken: mpsc::Receiver<Row>) {
        while let Err(because) = self.stream(&mut taken).await {
            self.give_up(&because);
            self.at += 1;
            self.failures += 1;
            let pause = Backoff::default().first * 2_u32.saturating_pow(self.failures.min(5));
            tokio::time::sleep(pause.min(Backoff::default().most)).await;
        }
    }

    /// Until nobody has more to send; or says what broke.
    async fn stream(&mut self, taken: &mut mpsc::Receiver<Row>) -> Result<(), String> {
        let mut client = self.connect().await?;
        let (batches, outgoing) = mpsc::channel::<v1::EventBatch>(IN_FLIGHT);
        for row in &self.waiting {
            (self.on_retry)();
            _ = batches.try_send(self.batch(row));
        }
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let acks = tokio::time::timeout(TIMEOUT, client.send_rows(outgoing)).await;
        let acks = acks.map_err(|_| "no reply".to_owned())?;
        let mut acks = acks.map_err(|status| status.message().to_owned())?.into_inner();
        let mut is_open = true;
        while is_open || !self.waiting.is_empty() {
            tokio::select! {
                biased;
                ack = acks.message(), if !self.waiting.is_empty() => {
                    let ack = ack.map_err(|status| status.message().to_owned())?;
                    let ack = ack.ok_or("the node ended the stream")?;
                    self.failures = 0;
                    if let Some(pause) = self.settle(ack) {
                        tokio::time::sleep(pause).await;
                        if let Some(row) = self.waiting.back() {
                            (self.on_retry)();
                            _ = batches.try_send(self.batch(row));
                        }
                    }
                }
                () = tokio::time::sleep(TIMEOUT), if !self.waiting.is_empty() => return Err("no acknowledgement".to_owned()),
                row = taken.recv(), if is_open && self.waiting.len() < IN_FLIGHT => match row {
                    None => is_open = false,
                    Some(row) => {
                        _ = batches.try_send(self.batch(&row));
                        self.waiting.push_back(row);
                    }
                },
            }
        }
        Ok(())
    }

    /// Tells what became of the oldest batch; or how long to wait until it, which is the newest then, is sent again.
    fn settle(&mut self, ack: v1::BatchAck) -> Option<Duration> {
        let row = self.waiting.pop_front()?;
        let mut outcome = Outcome { events: row.count, ..Outcome::default() };
        match ack.refused {
            Some(refused) if refused.retry_after_ms > 0 && Instant::now() < row.give_up_at => {
                self.waiting.push_back(row);
                return Some(Duration::from_millis(refused.retry_after_ms.into()));
            }
            Some(refused) if refused.retry_after_ms > 0 => {
                let why = Why::GivenUp { waited: self.retry_for, last: refused.message };
                outcome.undelivered.push(Undelivered { shard: None, events: row.count, why });
            }
            Some(refused) => {
                let why = Why::Refused { reason: refused.reason(), message: refused.message };
                outcome.undelivered.push(Undelivered { shard: None, events: row.count, why });
            }
            None => {
                outcome.accepted = ack.accepted.into();
                outcome.duplicate = ack.duplicate.into();
                for rejection in ack.rejected {
                    *outcome.rejected.entry(rejection.reason()).or_default() += 1;
                    outcome.rejected_at.push((rejection.index, rejection.reason()));
                }
            }
        }
        _ = row.reply.send(outcome);
        None
    }

    /// Gives up what is too old.
    fn give_up(&mut self, because: &str) {
        let now = Instant::now();
        while let Some(row) = self.waiting.pop_front_if(|row| row.give_up_at <= now) {
            let why = Why::GivenUp { waited: self.retry_for, last: because.to_owned() };
            let undelivered = vec![Undelivered { shard: None, events: row.count, why }];
            _ = row.reply.send(Outcome { events: row.count, undelivered, ..Outcome::default() });
        }
    }

    fn batch(&self, row: &Row) -> v1::EventBatch {
        v1::EventBatch {
            producer: self.producer.to_wire(),
            seq: row.seq,
            sealed_at_ms: row.sealed_at_ms,
            events: (row.events)(),
        }
    }

    async fn connect(&self) -> Result<IngestClient<Link>, String> {
        let node = &self.nodes[self.at % self.nodes.len()];
        open(node, &self.dial).await.map(IngestClient::new).map_err(|error| error.to_string())
    }
}
