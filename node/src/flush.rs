//! From closed buckets to committed segments.
//!
//! Owns: which buckets are due, what of them no commit covers yet, and writing that.
//! Does not own: the form of segments and commits (`tidemark-history`), trimming files (`tidemark-journal`).
//!
//! A flush starts from the journal: what is there and in no commit is written, whoever counted it. So it does not matter how
//! often it is cut off, or what other nodes do meanwhile.
//!
//! Invariants:
//! * A block leaves the journal only when a commit that was read back after it was made covers it.
//! * A commit covers no block that another commit of the bucket covers.

mod due;
mod gather;
mod write;

use crate::history::{NodeHistory, Unavailable};
use crate::metrics::NodeMeter;
use crate::shard::{ShardHandle, ShardParts};
use due::Due;
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::commit::CommitOutcome;
use tidemark_history::day::DayStart;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::time::{BucketStart, Clock};
use tokio_util::sync::CancellationToken;

/// How often the flusher looks for buckets that are due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Buckets that are flushed at a time.
const FLUSHES: usize = 4;
/// How long a shard may take to hand out a bucket.
const HAND_OUT_WITHIN: Duration = Duration::from_secs(30);

/// Flushes a node's buckets.
pub(crate) struct Flusher {
    pub(crate) id: NodeId,
    pub(crate) parts: Arc<ShardParts>,
    pub(crate) history: Arc<NodeHistory>,
    /// By shard; those of the journal are among them.
    pub(crate) shards: Vec<ShardHandle>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settle: Duration,
    pub(crate) metrics: NodeMeter,
}

impl Flusher {
    /// Flushes what is due until `shutdown`.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let mut due = Due::new(self.settle);
        while !shutdown.is_cancelled() {
            let buckets = self.parts.journal.buckets();
            self.metrics.unflushed(&buckets);
            let ready = due.look(&buckets, self.clock.now(), tokio::time::Instant::now());
            let flushed = self.flush_all(ready, &shutdown).await;
            flushed.into_iter().for_each(|bucket| due.flushed(bucket));
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Flushes every closed bucket, whether it settled or not, until `cut_off`.
    pub(crate) async fn finish(&self, cut_off: CancellationToken) {
        let closed = due::closed(&self.parts.journal.buckets(), self.clock.now());
        self.flush_all(closed, &cut_off).await;
    }

    async fn flush_all(&self, buckets: Vec<BucketStart>, stop: &CancellationToken) -> Vec<BucketStart> {
        let flushes = futures::stream::iter(buckets).map(|bucket| async move {
            tokio::select! {
                flushed = self.flush(bucket) => match flushed {
                    Ok(()) => Some(bucket),
                    Err(error) => {
                        self.metrics.flush_failed();
                        tracing::warn!(%error, bucket = %bucket.time(), "a bucket could not be flushed; it stays in the journal and is tried again");
                        None
                    }
                },
                () = stop.cancelled() => None,
            }
        });
        let flushed: Vec<Option<BucketStart>> = flushes.buffer_unordered(FLUSHES).collect().await;
        flushed.into_iter().flatten().collect()
    }

    /// Commits what the journal has of a bucket, in as many commits as it takes.
    async fn flush(&self, bucket: BucketStart) -> Result<(), FlushError> {
        loop {
            let committed = self.history.with_day(DayStart::of(bucket)).await?;
            let gathered = self.gather(bucket, &committed).await;
            if gathered.is_empty() {
                return Ok(());
            }
            let number = committed.history().map_or(1, |history| history.next_number(bucket));
            let (draft, duplicates) = self.write(bucket, gathered).await?;
            match self.history.commit(number, draft).await {
                Ok(CommitOutcome::Committed(record)) => {
                    self.metrics.flushed(record.message());
                    tracing::debug!(bucket = %bucket.time(), number, "flushed a bucket");
                }
                Ok(CommitOutcome::Taken(theirs)) => {
                    tracing::info!(bucket = %bucket.time(), number, writer = theirs.message().writer, "another node committed first; writing what it does not cover");
                    self.keep_duplicates(bucket, duplicates);
                }
                Err(error) => {
                    self.keep_duplicates(bucket, duplicates);
                    return Err(error.into());
                }
            }
        }
    }
}

/// Why a bucket was not flushed. Nothing is lost: the journal has it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    /// Wait for the store.
    #[error(transparent)]
    History(#[from] Unavailable),
    /// Report it.
    #[error("its rows cannot be written: {0}")]
    Write(#[from] tidemark_history::segment::WriteError),
    /// Report it.
    #[error("writing it failed")]
    Failed,
}
