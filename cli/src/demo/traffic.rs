//! Made-up traffic that never ends.
//!
//! Owns: which events happen when, from half an hour ago until now and on, and sending them.
//! Does not own: who visits what (`tidemark_loadgen::sample`).
//!
//! There is one stream of events, evenly spaced in time. What is past is sent as fast as the cluster takes it, as if it
//! had been sent then; once the stream has reached the present, it goes on at its pace.

use super::SITE;
use super::cluster::Addresses;
use crate::serve::random_producer;
use anyhow::Context as _;
use bytes::Bytes;
use std::time::Duration;
use tidemark_client::{Producer, ProducerConfig};
use tidemark_loadgen::log::{LogFormat, ParseOptions, parse_line};
use tidemark_loadgen::sample::SampleLog;
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_rollup::time::{Clock as _, EventTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long ago the stream begins.
pub(super) const PAST: Duration = Duration::from_secs(30 * 60);
/// At most so many events are in the past, so that a high rate does not spend minutes on it.
const MAX_PAST_EVENTS: u64 = 400_000;
/// How much of the stream is sent together, while in the past.
const PAST_STEP_MS: i64 = 20_000;
/// How often events are sent, in the present.
const TICK: Duration = Duration::from_millis(100);
/// At most so many events are sent together.
const MAX_BATCH: usize = 8_192;
/// What a page consists of, and robots ask for: no pages.
const NO_PAGES: [&[u8]; 9] =
    [b".css", b".js", b".svg", b".woff2", b".jpg", b".gif", b".png", b".ico", b".txt"];

/// How far the stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Progress {
    /// Events sent and acknowledged.
    pub(super) events: u64,
    /// How much of the past is sent, from 0 to 1.
    pub(super) past: f64,
}

/// Traffic on its way into a cluster.
pub(super) struct Traffic {
    producer: Producer,
    pages: Pages,
    stream: Stream,
    progress: watch::Sender<Progress>,
}

impl Traffic {
    /// Traffic at `rate` events per second, into the first node.
    pub(super) async fn connect(addresses: &Addresses, rate: u32, seed: u64) -> anyhow::Result<Self> {
        let node = addresses.nodes.first().context("there is no node")?;
        let config = ProducerConfig::new(format!("http://{node}"));
        let producer = Producer::connect(config, random_producer()?).await?;
        let stream = Stream::new(SystemClock.now(), rate);
        Ok(Self { producer, pages: Pages::new(seed), stream, progress: watch::Sender::default() })
    }

    /// How far it is, now and later.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Sends until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        shutdown.run_until_cancelled(self.send()).await.unwrap_or(Ok(()))
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        loop {
            let now = SystemClock.now();
            let Some(part) = self.stream.next_part(now) else {
                tokio::time::sleep(TICK).await;
                continue;
            };
            let events = part.times_ms.iter().map(|&time_ms| self.pages.view_at(time_ms)).collect();
            self.producer.send(events, part.sealed_at).await?;
            self.producer.flush().await?;
            let events = self.producer.totals().accepted;
            self.progress.send_replace(Progress { events, past: self.stream.share_of_past() });
        }
    }
}

/// When events happen.
#[derive(Clone, Debug)]
struct Stream {
    first_ms: i64,
    present_ms: i64,
    rate: u32,
    sent: u64,
}

/// Some events that are sent together.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    times_ms: Vec<i64>,
    sealed_at: EventTime,
}

impl Stream {
    fn new(now: EventTime, rate: u32) -> Self {
        let past_s = PAST.as_secs().min(MAX_PAST_EVENTS / u64::from(rate).max(1));
        let first_ms = now.minus(Duration::from_secs(past_s)).as_unix_ms();
        Self { first_ms, present_ms: now.as_unix_ms(), rate, sent: 0 }
    }

    /// When the event of this number happens.
    fn time_ms(&self, number: u64) -> i64 {
        self.first_ms + (number * 1_000 / u64::from(self.rate)) as i64
    }

    /// What is to be sent next; `None` where nothing more has happened until `now`.
    fn next_part(&mut self, now: EventTime) -> Option<Part> {
        let next_ms = self.time_ms(self.sent);
        let until_ms = now.as_unix_ms().min(next_ms + PAST_STEP_MS);
        let numbers = (self.sent..).take(MAX_BATCH);
        let times_ms: Vec<i64> =
            numbers.map(|number| self.time_ms(number)).take_while(|&time_ms| time_ms <= until_ms).collect();
        self.sent += times_ms.len() as u64;
        let sealed_at = EventTime::from_unix_ms(*times_ms.last()?);
        Some(Part { times_ms, sealed_at })
    }

    fn share_of_past(&self) -> f64 {
        let past_ms = (self.present_ms - self.first_ms).max(1);
        ((self.time_ms(self.sent) - self.first_ms) as f64 / past_ms as f64).min(1.0)
    }
}

/// Views of the made-up site.
struct Pages {
    log: SampleLog,
    parse: ParseOptions,
    site: Bytes,
}

impl Pages {
    fn new(seed: u64) -> Self {
        Self {
            log: SampleLog::new(seed, SITE),
            parse: ParseOptions::new(LogFormat::Combined, SITE),
            site: Bytes::from_static(SITE.as_bytes()),
        }
    }

    /// The next view of a page in the log, written at this time.
    fn view_at(&mut self, time_ms: i64) -> v1::Event {
        loop {
            let line = self.log.line(time_ms);
            if let Ok(Some(event)) = parse_line(line.as_bytes(), &self.parse)
                && !NO_PAGES.iter().any(|ending| event.url.ends_with(ending))
            {
                return with_country(event.to_event(&self.site));
            }
        }
    }
}

/// Where visitors come from, so that there is something to see: each from one country, more from those that stand here more often.
const COUNTRIES: [&str; 16] =
    ["DE", "US", "FR", "GB", "DE", "ES", "US", "IT", "NL", "PL", "DE", "AT", "US", "GB", "BR", "JP"];

fn with_country(mut event: v1::Event) -> v1::Event {
    let country = COUNTRIES[(event.visitor_hash >> 32) as usize % COUNTRIES.len()];
    event.dimensions.push(v1::event::DimensionsEntry {
        key: Bytes::from_static(b"country"),
        value: Bytes::from_static(country.as_bytes()),
    });
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: EventTime = EventTime::from_unix_ms(1_710_244_800_000);

    #[test]
    fn the_stream_fills_the_last_half_hour_and_then_keeps_its_pace() {
        let mut stream = Stream::new(NOON, 10);
        let mut past = Vec::new();
        while let Some(part) = stream.next_part(NOON) {
            assert!(part.times_ms.iter().all(|&time_ms| time_ms <= part.sealed_at.as_unix_ms()));
            past.extend(part.times_ms);
        }
        assert_eq!(past.len(), 30 * 60 * 10 + 1);
        assert_eq!(past[0], NOON.minus(PAST).as_unix_ms());
        assert_eq!(stream.share_of_past(), 1.0);
        let later = stream.next_part(NOON.plus(Duration::from_secs(1))).unwrap();
        assert_eq!(later.times_ms.len(), 10);
    }

    #[test]
    fn a_high_rate_has_a_shorter_past() {
        let stream = Stream::new(NOON, 100_000);
        assert_eq!(stream.first_ms, NOON.minus(Duration::from_secs(4)).as_unix_ms());
    }

    #[test]
    fn a_machine_that_was_asleep_catches_up_in_parts() {
        let mut stream = Stream::new(NOON, 1_000);
        while stream.next_part(NOON).is_some() {}
        let part = stream.next_part(NOON.plus(Duration::from_secs(3600))).unwrap();
        assert_eq!(part.times_ms.len(), MAX_BATCH);
    }

    #[test]
    fn only_pages_are_viewed() {
        let (mut pages, mut countries) = (Pages::new(1), std::collections::BTreeSet::new());
        for _ in 0..2_000 {
            let event = pages.view_at(NOON.as_unix_ms());
            assert!(!event.url.ends_with(b".css") && !event.url.ends_with(b".ico"));
            countries.extend(
                event.dimensions.iter().filter(|entry| entry.key == "country").map(|of| of.value.clone()),
            );
        }
        assert!(countries.len() > 5, "{countries:?}");
    }
}
