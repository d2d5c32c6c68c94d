//! Sends events as blocks.
//!
//! Owns: block identities of one producer, blocks that are not acknowledged yet, and sending those again.
//! Does not own: the placement: any node takes any block and passes it on to its owner.
//!
//! Invariants:
//! * A block keeps its identity however often it is sent, so it counts once.
//! * Every event ends up accepted, duplicate or rejected in [`Totals`], or the producer ends with an error.

use crate::ClientError;
use crate::queries::connect;
use futures::{FutureExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::Reason;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::EventTime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// A node, `http://host:port`.
    pub address: String,
    /// Blocks that are sent and not acknowledged; [`Producer::send`] waits beyond it.
    ///
    /// More keeps a long line busy; less has fewer blocks to send again when the line breaks.
    pub max_in_flight: usize,
    /// How long one connection or acknowledgement may take before the line counts as broken.
    pub timeout: Duration,
    /// How long blocks are sent again before the producer gives up with an error.
    pub retry_for: Duration,
    /// Query parameters that stay in URLs; blocks carry canonical URLs. By default all but `utm_*`.
    pub keep_params: KeepParams,
}

impl ProducerConfig {
    /// The defaults, for this node.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            max_in_flight: 256,
            timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(60),
            keep_params: KeepParams::all(),
        }
    }
}

/// What became of the events so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events given to the producer.
    pub events: u64,
    /// Events acknowledged as counted, including duplicates.
    pub accepted: u64,
    /// Of these, events that had been counted before: a block was sent again.
    pub duplicate: u64,
    /// Events that are not counted and never will be.
    pub rejected: BTreeMap<Reason, u64>,
    /// Blocks sent again.
    pub retries: u64,
}

/// A producer of blocks.
#[derive(Debug)]
pub struct Producer {
    config: ProducerConfig,
    id: ProducerId,
    shards: ShardCount,
    next_seq: u64,
    channel: Channel,
    line: Option<Line>,
    /// By (shard, seq): sent or to be sent again.
    unacknowledged: HashMap<(u32, u64), Pending>,
    totals: Totals,
    latency_us: Histogram<u64>,
    /// When it last waited before sending something again.
    paused_at: Option<Instant>,
}

/// A block on its way.
#[derive(Debug)]
struct Pending {
    block: v1::Block,
    first_sent: Instant,
}

/// An open stream of blocks and acknowledgements.
#[derive(Debug)]
struct Line {
    blocks: mpsc::Sender<v1::Block>,
    acks: Streaming<v1::BlockAck>,
}

impl Producer {
    /// Connects to a node and learns how many shards its cluster has. `id` must be new: random.
    ///
    /// # Errors
    /// Where nobody answers there.
    pub async fn connect(config: ProducerConfig, id: ProducerId) -> Result<Self, ClientError> {
        let channel = connect(&config.address).await?;
        let placement = AdminClient::new(channel.clone()).placement(v1::PlacementRequest {}).await;
        let placement = placement.map_err(|status| ClientError::of(&config.address, &status))?.into_inner();
        let shards = ShardCount::new(placement.shard_count).ok_or_else(|| ClientError::Other {
            code: tonic::Code::FailedPrecondition,
            message: format!("the cluster says that it has {} shards", placement.shard_count),
        })?;
        Ok(Self {
            config,
            id,
            shards,
            next_seq: 0,
            channel,
            line: None,
            unacknowledged: HashMap::new(),
            totals: Totals::default(),
            latency_us: latency_histogram(),
            paused_at: None,
        })
    }

    /// Sends events, at most 65,536, as blocks sealed at `sealed_at`. Waits only where too many blocks are not acknowledged.
    ///
    /// Which times are acceptable is the node's to say; events that no node would take are counted as rejected here.
    ///
    /// # Errors
    /// Where the events cannot be put into blocks, a block is refused for good, or the cluster stays away too long.
    pub async fn send(&mut self, events: Vec<v1::Event>, sealed_at: EventTime) -> Result<(), ClientError> {
        if events.is_empty() {
            return Ok(());
        }
        let batch = v1::EventBatch {
            producer: self.id.to_wire(),
            seq: self.next_seq,
            sealed_at_ms: sealed_at.as_unix_ms(),
            events,
        };
        self.next_seq += 1;
        self.totals.events += batch.events.len() as u64;
        let rules = Rules {
            schema: None,
            keep_params: &self.config.keep_params,
            times: TimeRules { accept_late: Duration::MAX },
            shards: self.shards,
        };
        let split = split(&batch, &rules, sealed_at)?;
        for rejection in &split.rejected {
            *self.totals.rejected.entry(rejection.reason()).or_default() += 1;
        }
        for block in split.blocks {
            while self.unacknowledged.len() >= self.config.max_in_flight {
                self.settle_one().await?;
            }
            let key = (block.shard, block.seq);
            self.unacknowledged.insert(key, Pending { block: block.clone(), first_sent: Instant::now() });
            self.transmit(block).await?;
        }
        self.settle_ready().await
    }

    /// Reads the acknowledgements that are there, without waiting for more. [`send`](Self::send) does so too; who sends
    /// seldom calls this in between, so that refusals and broken lines are noticed.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn settle_ready(&mut self) -> Result<(), ClientError> {
        while let Some(ready) = self.line.as_mut().and_then(|line| line.acks.next().now_or_never()) {
            match ready {
                Some(Ok(ack)) => self.settle(ack).await?,
                Some(Err(status)) => self.reconnect(status.message()).await?,
                None => self.reconnect("the node ended the line").await?,
            }
        }
        Ok(())
    }

    /// What became of the events so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Times from first sending a block to its acknowledgement, in microseconds.
    pub fn latency_us(&self) -> &Histogram<u64> {
        &self.latency_us
    }

    /// Waits until every block is acknowledged.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        while !self.unacknowledged.is_empty() {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Waits until every block is acknowledged, and tells what became of the events.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn finish(mut self) -> Result<Totals, ClientError> {
        self.flush().await?;
        Ok(self.totals)
    }

    /// Puts a block on the line; on a broken one, opens another and sends everything again.
    async fn transmit(&mut self, block: v1::Block) -> Result<(), ClientError> {
        let Some(line) = &self.line else { return self.reconnect("the line was not open yet").await };
        match line.blocks.send(block).await {
            Ok(()) => Ok(()),
            Err(_) => self.reconnect("the node closed the line").await,
        }
    }

    /// Waits for one acknowledgement.
    async fn settle_one(&mut self) -> Result<(), ClientError> {
        let Some(line) = &mut self.line else { return self.reconnect("the line was not open yet").await };
        match tokio::time::timeout(self.config.timeout, line.acks.next()).await {
            Ok(Some(Ok(ack))) => self.settle(ack).await,
            Ok(Some(Err(status))) => self.reconnect(status.message()).await,
            Ok(None) => self.reconnect("the node ended the line").await,
            Err(_) => self.reconnect("no acknowledgement came in time").await,
        }
    }

    async fn settle(&mut self, ack: v1::BlockAck) -> Result<(), ClientError> {
        let key = (ack.shard, ack.seq);
        let Some(refusal) = ack.refused else {
            if let Some(pending) = self.unacknowledged.remove(&key) {
                let latency_us = u64::try_from(pending.first_sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(latency_us);
                self.totals.accepted += u64::from(ack.accepted);
                self.totals.duplicate += u64::from(ack.duplicate);
                for count in ack.rejected {
                    *self.totals.rejected.entry(count.reason()).or_default() += u64::from(count.events);
                }
            }
            return Ok(());
        };
        let Some(pending) = self.unacknowledged.get(&key) else { return Ok(()) };
        let waited = pending.first_sent.elapsed();
        if refusal.retry_after_ms == 0 {
            return Err(ClientError::Refused { reason: refusal.reason(), message: refusal.message });
        }
        if waited > self.config.retry_for {
            let blocks = self.unacknowledged.len();
            return Err(ClientError::Unacknowledged { blocks, waited, last: refusal.message });
        }
        let block = pending.block.clone();
        self.totals.retries += 1;
        self.pause(Duration::from_millis(u64::from(refusal.retry_after_ms))).await;
        self.transmit(block).await
    }

    /// Waits before something is sent again; once for all blocks that were refused together.
    async fn pause(&mut self, pause: Duration) {
        if self.paused_at.is_none_or(|paused_at| paused_at.elapsed() > pause) {
            tokio::time::sleep(pause).await;
            self.paused_at = Some(Instant::now());
        }
    }

    /// Opens a line and sends everything that is not acknowledged, until that works or too much time has passed.
    async fn reconnect(&mut self, why: &str) -> Result<(), ClientError> {
        let started = Instant::now();
        let again = self.line.take().is_some();
        let mut last = why.to_owned();
        let mut pause = Duration::from_millis(50);
        loop {
            match self.open().await {
                Ok(line) => {
                    if again {
                        self.totals.retries += self.unacknowledged.len() as u64;
                    }
                    self.line = Some(line);
                    return Ok(());
                }
                Err(message) => last = format!("{last}; then {message}"),
            }
            if started.elapsed() > self.config.retry_for {
                let blocks = self.unacknowledged.len();
                return Err(ClientError::Unacknowledged { blocks, waited: started.elapsed(), last });
            }
            last.truncate(last.floor_char_boundary(400));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn open(&self) -> Result<Line, String> {
        // Room for all: whatever is not acknowledged goes out before anything is read.
        let (blocks, outgoing) = mpsc::channel(self.config.max_in_flight + 1);
        for pending in self.unacknowledged.values() {
            blocks
                .try_send(pending.block.clone())
                .map_err(|_| "too many blocks are not acknowledged".to_owned())?;
        }
        let mut client = IngestClient::new(self.channel.clone());
        let call = client.send_blocks(ReceiverStream::new(outgoing));
        match tokio::time::timeout(self.config.timeout, call).await {
            Ok(Ok(acks)) => Ok(Line { blocks, acks: acks.into_inner() }),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("the node did not answer in time".to_owned()),
        }
    }
}

/// Up to an hour, in microseconds, to three digits.
#[allow(clippy::expect_used)]
fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are constants")
}
