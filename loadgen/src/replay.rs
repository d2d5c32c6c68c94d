//! Replays an access log into a running cluster.
//!
//! Owns: pacing, shifting times, and the report of what became of every line.
//! Does not own: reading lines (`reader`, `log`), sending and sending again (`tidemark-client`).

use crate::log::{LineFault, LogFormat, ParseOptions, parse_line};
use crate::reader::{LogReader, scan_newest_time, shift};
use anyhow::Context as _;
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_client::{Dial, Parts, Producer, ProducerConfig, Totals};
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::Clock;
use tokio::time::Instant;

/// Events that are put into blocks together. Many, so that each of 64 shards gets a block worth its overhead.
const BATCH_EVENTS: usize = 8_192;
/// With a speed, events are sent at least so often.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// What to replay, and how.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// The log, plain or gzip.
    pub path: PathBuf,
    /// The site that its lines are of.
    pub site: String,
    /// A node, `http://host:port`.
    pub to: String,
    /// How it is reached.
    pub dial: Dial,
    /// What the lines look like.
    pub format: LogFormat,
    /// Whether URLs keep their query.
    pub keep_query: bool,
    /// By how many milliseconds event times are moved: 0, or what [`shift_to_end_now`] says.
    pub shift_ms: i64,
    /// How fast.
    pub speed: Speed,
    /// The producer's id: random.
    pub producer: ProducerId,
}

/// How fast a log is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as the cluster takes it.
    Max,
    /// So many times as fast as it happened.
    Times(f64),
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes of the file that are read.
    pub bytes_read: u64,
    /// Bytes that the file has.
    pub total_bytes: u64,
    /// Lines that are read.
    pub lines: u64,
}

/// What became of a log.
#[derive(Clone, Debug)]
pub struct ReplayReport {
    /// Lines in the file.
    pub lines: u64,
    /// Lines that are none of the log's business: empty ones, heartbeats.
    pub skipped: u64,
    /// Lines that could not be used, by reason.
    pub faults: BTreeMap<LineFault, u64>,
    /// What became of the events of all other lines.
    pub totals: Totals,
    /// How far event times were moved, milliseconds.
    pub shifted_ms: i64,
    /// How long it took.
    pub took: Duration,
    /// From sending a block to its acknowledgement, in microseconds.
    pub latency_us: Histogram<u64>,
}

/// How far all events of these logs have to be moved, in milliseconds, so that the newest of them is of now: a whole number
/// of buckets, so that what was in one bucket stays in one.
///
/// # Errors
/// Where a log cannot be read.
pub fn shift_to_end_now(paths: &[PathBuf], format: LogFormat, clock: &dyn Clock) -> anyhow::Result<i64> {
    let mut newest = None;
    for path in paths {
        let of_log =
            scan_newest_time(path, format).with_context(|| format!("cannot read {}", path.display()))?;
        newest = newest.max(of_log);
    }
    Ok(newest.map_or(0, |newest| shift(newest, clock.now().as_unix_ms())))
}

/// Replays a log and waits until everything is acknowledged.
///
/// # Errors
/// Where the file cannot be read, or events could not be brought to the cluster. Lines that cannot be used are no errors.
pub async fn replay(
    options: &ReplayOptions,
    clock: &dyn Clock,
    mut on_progress: impl FnMut(Progress),
) -> anyhow::Result<ReplayReport> {
    let started = Instant::now();
    let path = options.path.display();
    let mut reader = LogReader::open(&options.path).with_context(|| format!("cannot open {path}"))?;
    let mut sender = Sender::connect(options).await?;
    let (mut lines, mut skipped, mut faults) = (0_u64, 0, BTreeMap::new());
    let mut pace = Pace::new(options.speed, started);
    let parse = ParseOptions {
        keep_query: options.keep_query,
        ..ParseOptions::new(options.format, options.site.clone())
    };
    while let Some(line) = reader.next_line().with_context(|| format!("cannot read {path}"))? {
        lines += 1;
        match line.and_then(|line| parse_line(line, &parse)) {
            Ok(Some(event)) => {
                if let Some(due) = pace.due(event.time_ms) {
                    sender.wait_until(due, clock).await?;
                }
                let mut event = event.to_event(&sender.site);
                event.time_ms = event.time_ms.saturating_add(options.shift_ms);
                sender.push(event, clock).await?;
            }
            Ok(None) => skipped += 1,
            Err(fault) => *faults.entry(fault).or_default() += 1,
        }
        if lines.is_multiple_of(1024) {
            let (bytes_read, total_bytes) = (reader.bytes_read(), reader.total_bytes());
            on_progress(Progress { bytes_read, total_bytes, lines });
        }
    }
    sender.flush(clock).await?;
    sender.producer.flush().await?;
    let total_bytes = reader.total_bytes();
    on_progress(Progress { bytes_read: total_bytes, total_bytes, lines });
    Ok(ReplayReport {
        lines,
        skipped,
        faults,
        totals: sender.producer.totals().clone(),
        shifted_ms: options.shift_ms,
        took: started.elapsed(),
        latency_us: sender.producer.latency_us().clone(),
    })
}

/// Collects events into batches.
struct Sender {
    producer: Producer,
    site: Bytes,
    batch: Vec<v1::Event>,
    last_flush: Instant,
}

impl Sender {
    async fn connect(options: &ReplayOptions) -> anyhow::Result<Self> {
        let config = ProducerConfig::new(options.to.clone());
        let parts = Parts { connect: Arc::new(options.dial.clone()), ..Parts::of(options.producer) };
        let producer = Producer::connect_with(config, options.producer, parts).await?;
        let site = Bytes::copy_from_slice(options.site.as_bytes());
        Ok(Self { producer, site, batch: Vec::new(), last_flush: Instant::now() })
    }

    async fn push(&mut self, event: v1::Event, clock: &dyn Clock) -> anyhow::Result<()> {
        self.batch.push(event);
        if self.batch.len() >= BATCH_EVENTS { self.flush(clock).await } else { Ok(()) }
    }

    async fn wait_until(&mut self, due: Instant, clock: &dyn Clock) -> anyhow::Result<()> {
        if due > Instant::now() + FLUSH_EVERY || self.last_flush.elapsed() > FLUSH_EVERY {
            self.flush(clock).await?;
            // So that acknowledgements are read when they come, and not when the next batch goes out.
            self.producer.flush().await?;
        }
        tokio::time::sleep_until(due).await;
        Ok(())
    }

    async fn flush(&mut self, clock: &dyn Clock) -> anyhow::Result<()> {
        self.last_flush = Instant::now();
        self.producer.send(std::mem::take(&mut self.batch), clock.now()).await?;
        Ok(())
    }
}

/// When each event is due.
struct Pace {
    speed: Speed,
    started: Instant,
    first_ms: Option<i64>,
}

impl Pace {
    fn new(speed: Speed, started: Instant) -> Self {
        Self { speed, started, first_ms: None }
    }

    /// When an event of this time is due; `None` where everything is due at once.
    fn due(&mut self, time_ms: i64) -> Option<Instant> {
        let Speed::Times(times) = self.speed else { return None };
        let first_ms = *self.first_ms.get_or_insert(time_ms);
        // Lines out of order are due when they come.
        let since_first_ms = u64::try_from(time_ms - first_ms).unwrap_or(0);
        Some(self.started + Duration::from_secs_f64(since_first_ms as f64 / 1000.0 / times.max(1e-6)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_at_their_distance_from_the_first_divided_by_the_speed() {
        let started = Instant::now();
        let mut pace = Pace::new(Speed::Times(60.0), started);
        assert_eq!(pace.due(1_000_000), Some(started));
        assert_eq!(pace.due(1_060_000), Some(started + Duration::from_secs(1)));
        assert_eq!(pace.due(900_000), Some(started));
        assert_eq!(Pace::new(Speed::Max, started).due(5), None);
    }
}
