//! A sender of rows that goes by its schedule, whatever it is told.

use crate::PATIENCE;
use std::time::{Duration, SystemTime};
use tidemark_proto::v1;
use tidemark_proto::v1::ingest_client::IngestClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;

fn now_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

/// A stream of batches of rows of one site.
#[derive(Debug)]
pub struct Sender {
    site: &'static str,
    id: u8,
    seq: u64,
    distinct_urls: bool,
    batches: mpsc::UnboundedSender<v1::EventBatch>,
    acks: tonic::Streaming<v1::BatchAck>,
}

impl Sender {
    /// Opens a stream to a node, as producer `id`.
    pub async fn open(to: String, site: &'static str, id: u8) -> Self {
        let (batches, sent) = mpsc::unbounded_channel();
        let mut client = IngestClient::connect(to).await.unwrap();
        let acks = client.send_rows(UnboundedReceiverStream::new(sent)).await.unwrap().into_inner();
        Self { site, id, seq: 0, distinct_urls: false, batches, acks }
    }

    /// The next batch.
    pub fn batch(&mut self, events: u64) -> v1::EventBatch {
        self.seq += 1;
        let event = |at: u64| v1::Event {
            site: self.site.into(),
            url: match self.distinct_urls {
                true => format!("/{}/{at}", self.seq).into(),
                false => format!("/{}", at % 10).into(),
            },
            time_ms: now_ms(),
            kind: "view".into(),
            ..v1::Event::default()
        };
        let events = (0..events).map(event).collect();
        v1::EventBatch { producer: vec![self.id; 16].into(), seq: self.seq, sealed_at_ms: now_ms(), events }
    }

    /// Has every event be of a URL of its own.
    #[must_use]
    pub fn with_distinct_urls(self) -> Self {
        Self { distinct_urls: true, ..self }
    }

    /// Sends a batch.
    pub fn send_one(&self, batch: v1::EventBatch) {
        self.batches.send(batch).unwrap();
    }

    /// Sends a batch of so many events and waits until all of them are accepted.
    pub async fn bring(&mut self, events: u64) {
        let batch = self.batch(events);
        self.send_one(batch);
        assert_eq!(u64::from(self.ack().await.accepted), events);
    }

    /// The next acknowledgement.
    pub async fn ack(&mut self) -> v1::BatchAck {
        timeout(PATIENCE, self.acks.message()).await.unwrap().unwrap().unwrap()
    }

    /// Sends batches on schedule whatever becomes of them, and says that, and how long each took from when it was due.
    pub async fn send(&mut self, batches: u32, each: u64, every: Duration) -> Vec<(v1::BatchAck, Duration)> {
        let start = Instant::now();
        let mut told = Vec::new();
        let mut sent = 0;
        while told.len() < batches as usize {
            tokio::select! {
                () = sleep_until(start + every * sent), if sent < batches => {
                    let batch = self.batch(each);
                    self.batches.send(batch).unwrap();
                    sent += 1;
                }
                ack = self.acks.message() => {
                    let due = start + every * told.len() as u32;
                    told.push((ack.unwrap().unwrap(), due.elapsed()));
                }
            }
        }
        told
    }
}
