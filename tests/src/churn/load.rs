//! A load of known size.
//!
//! Owns: producers that send numbered events by the clock, how many were sent and acknowledged, and what each URL must count.
//! Does not own: where producers run.

use super::Spawn;
use crate::secured::{dial, url};
use bytes::Bytes;
use futures::FutureExt as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_client::{Parts, Producer, ProducerConfig, Totals};
use tidemark_history::retry::SplitMix64;
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::{Clock as _, EventTime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The site of all events.
pub const SITE: &str = "churn.example";
/// Numbered events have these many URLs.
const URLS: u64 = 509;
/// How often a producer takes note of acknowledgements,
const NOTE_EVERY: Duration = Duration::from_millis(50);
/// and after how many of these it sends what is due. Seldom: small blocks would be most of the work.
const SEND_EVERY: u32 = 5;
/// Events that are sent at a time when a producer is behind.
const MOST_AT_A_TIME: u64 = 8_000;

/// How many events were sent and acknowledged so far, by all producers.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

impl Tally {
    /// Never less than what nodes can have got.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Never more than what was acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// Producers at work.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Tally>,
    begun: Instant,
    stop: CancellationToken,
    producers: Vec<(Arc<AtomicU64>, oneshot::Receiver<Totals>)>,
}

/// What became of a load.
#[derive(Debug)]
pub struct Finished {
    /// Events sent, all of them acknowledged.
    pub events: u64,
    /// Of these, events that had been counted before.
    pub duplicate: u64,
    /// Blocks sent again.
    pub retries: u64,
    /// Events a second that were sent.
    pub rate: u64,
    /// Views of each URL.
    pub views: BTreeMap<String, u64>,
}

impl Load {
    /// No producer yet.
    #[allow(clippy::new_without_default, reason = "it begins now")]
    pub fn new() -> Self {
        let (tally, stop) = (Arc::default(), CancellationToken::new());
        Self { tally, begun: Instant::now(), stop, producers: Vec::new() }
    }

    /// Starts a producer that sends so many events a second, whatever becomes of them, by way of these nodes, `host:port`.
    pub fn add(&mut self, rate: u64, nodes: &[String], spawn: Spawn<'_>) {
        let connect = Arc::new(nodes.first().map(|node| dial(node)).unwrap_or_default());
        let mut nodes = nodes.iter().map(|node| url(node));
        let first = nodes.next().expect("a node");
        let config = ProducerConfig {
            more_addresses: nodes.collect(),
            retry_for: Duration::from_secs(180),
            // What comes in while nobody knows yet who is dead.
            max_in_flight: 32_768,
            ..ProducerConfig::new(first)
        };
        let (done, totals) = oneshot::channel();
        let id = 1_000 * u128::from(std::process::id()) + self.producers.len() as u128;
        let (tally, stop) = (Arc::clone(&self.tally), self.stop.clone());
        let acknowledged = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&acknowledged);
        let produce = async move {
            let id = ProducerId::from_u128(id);
            let parts = Parts { connect, ..Parts::of(id) };
            let producer = Producer::connect_with(config, id, parts).await.unwrap();
            let _ = done.send(produce(producer, rate, &tally, &told, stop).await);
        };
        spawn(produce.boxed());
        self.producers.push((acknowledged, totals));
    }

    /// How many events of a producer were acknowledged so far. They are numbered in the order in which they were added.
    pub fn acknowledged_of(&self, producer: usize) -> u64 {
        self.producers[producer].0.load(Ordering::SeqCst)
    }

    /// How many were sent and acknowledged so far.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Stops sending and waits until everything is acknowledged.
    pub async fn finish(self) -> Finished {
        self.stop.cancel();
        let took = self.begun.elapsed();
        let mut finished = Finished { events: 0, duplicate: 0, retries: 0, rate: 0, views: BTreeMap::new() };
        for (_, totals) in self.producers {
            let totals = totals.await.expect("no producer fails");
            assert_eq!(totals.accepted, totals.events, "{totals:?}");
            finished.events += totals.events;
            finished.duplicate += totals.duplicate;
            finished.retries += totals.retries;
            for url in 0..URLS.min(totals.events) {
                let views = totals.events / URLS + u64::from(url < totals.events % URLS);
                *finished.views.entry(format!("/{url}")).or_default() += views;
            }
        }
        finished.rate = (finished.events as f64 / took.as_secs_f64()) as u64;
        finished
    }
}

/// Event number `n`: mostly of now. Every fourth is of a past bucket, another one every twenty seconds: so buckets settle and are
/// committed all the time.
fn event(n: u64, now: EventTime) -> v1::Event {
    let ago_ms = match n % 4 {
        0 => (2 + now.as_unix_ms() / 20_000 % 6) * 300_000,
        _ => 0,
    };
    v1::Event {
        site: Bytes::from_static(SITE.as_bytes()),
        url: format!("/{}", n % URLS).into(),
        time_ms: now.as_unix_ms() - ago_ms,
        // Sketches need hashes that are good in all of their bits.
        visitor_hash: SplitMix64::new(n % 10_000).next().max(1),
        ..Default::default()
    }
}

async fn produce(
    mut producer: Producer,
    rate: u64,
    tally: &Tally,
    acknowledged: &AtomicU64,
    stop: CancellationToken,
) -> Totals {
    let (begun, mut next) = (Instant::now(), 0);
    let note = |accepted: u64| {
        let before = acknowledged.swap(accepted, Ordering::SeqCst);
        tally.acknowledged.fetch_add(accepted - before, Ordering::SeqCst);
    };
    let mut ticks = tokio::time::interval(NOTE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for tick in 0_u32.. {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        if tick.is_multiple_of(SEND_EVERY) {
            let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
            let until = due.min(next + MOST_AT_A_TIME);
            let now = SystemClock.now();
            tally.sent.fetch_add(until - next, Ordering::SeqCst);
            producer.send((next..until).map(|n| event(n, now)).collect(), now).await.unwrap();
            next = until;
        } else {
            producer.settle_ready().await.unwrap();
        }
        note(producer.totals().accepted);
    }
    let totals = producer.finish().await.unwrap();
    note(totals.accepted);
    totals
}
