//! From closed buckets to committed segments.
//!
//! Owns: which buckets are due, what of them no commit covers yet, and writing that.
//! Does not own: the form of segments and commits (`tidemark-history`), trimming files (`tidemark-journal`).
//!
//! A flush starts from the journal: what is there and in no commit is written, whoever counted it. So it does not matter how
//! often it is cut off, or what other nodes do meanwhile. Of a shard's owners the first one flushes; the others look whether
//! commits cover what they have, and commit what is missing when it has been missing for long.
//!
//! Invariants:
//! * A block leaves the journal only when a commit that was read back after it was made covers it.
//! * A commit covers no block that another commit of the bucket covers.

mod due;
mod gather;
mod write;

use crate::history::{NodeHistory, Unavailable};
use crate::metrics::NodeMeter;
use crate::planted::Bug;
use crate::repair::Repair;
use crate::shard::{ShardHandle, ShardParts};
use due::Due;
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::commit::CommitOutcome;
use tidemark_history::day::DayStart;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::{BucketStart, Clock};
use tokio_util::sync::CancellationToken;

/// How often the flusher looks for buckets that are due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Buckets that are flushed at a time.
const FLUSHES: usize = 4;
/// How long a shard may take to hand out a bucket.
const HAND_OUT_WITHIN: Duration = Duration::from_secs(30);

/// How long comparing with other owners may hold up a flush.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(2);

/// Flushes a node's buckets.
pub(crate) struct Flusher {
    pub(crate) id: NodeId,
    pub(crate) parts: Arc<ShardParts>,
    pub(crate) history: Arc<NodeHistory>,
    pub(crate) repair: Arc<Repair>,
    /// By shard.
    pub(crate) shards: Vec<ShardHandle>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settle: Duration,
    /// How much later than the first owner of a shard the others flush it.
    pub(crate) backup: Duration,
    pub(crate) metrics: NodeMeter,
}

/// Blocks of a bucket that no commit covers: bucket, shard, how many.
type Unflushed = (BucketStart, ShardId, usize);

impl Flusher {
    /// Flushes what is due until `shutdown`: at once what this node is the first owner of, and later what the first owner has
    /// left undone.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let (mut due, mut overdue) = (Due::new(self.settle), Due::new(self.settle + self.backup));
        let mut trimmed_at = None;
        while !shutdown.is_cancelled() {
            self.trim_covered(&mut trimmed_at);
            let (first, others) = self.unflushed();
            let (now, instant) = (self.clock.now(), tokio::time::Instant::now());
            let ready = due.look(&first, now, instant);
            let late = overdue.look(&others, now.minus(self.backup), instant);
            if !late.is_empty() {
                // Most likely others have committed it.
                self.history.look_for_commits(&late).await;
            }
            self.metrics.flow().due(&[&ready[..], &late[..]].concat(), now);
            let (ready, late) = (plan(ready, &first), plan(late, &others));
            self.flush_all(ready, &shutdown).await.into_iter().for_each(|bucket| due.flushed(bucket));
            self.flush_all(late, &shutdown).await.into_iter().for_each(|bucket| overdue.flushed(bucket));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Flushes every closed bucket of which this node is the first owner, whether it settled or not, until `cut_off`.
    pub(crate) async fn finish(&self, cut_off: CancellationToken) {
        let (first, _) = self.unflushed();
        let closed = due::closed(&first, self.clock.now());
        self.flush_all(plan(closed, &first), &cut_off).await;
    }

    /// What is to be flushed by this node, and what by others.
    fn unflushed(&self) -> (Vec<Unflushed>, Vec<Unflushed>) {
        let buckets = self.parts.journal.buckets();
        self.metrics.unflushed(&buckets);
        let owners = Arc::clone(&self.parts.owners.borrow());
        buckets.into_iter().partition(|(_, shard, _)| owners.rank(*shard) == Some(0))
    }

    /// Takes out of the journal what commits cover, whoever made them, when more is known of them than before.
    fn trim_covered(&self, trimmed_at: &mut Option<u64>) {
        let committed = self.history.committed();
        if trimmed_at.replace(committed.version()) == Some(committed.version()) {
            return;
        }
        for (bucket, shard, _) in self.parts.journal.buckets() {
            // What cannot be told yet is seen to when the bucket is flushed.
            if let Ok(Some(covered)) = committed.coverage(bucket, shard) {
                self.parts.journal.trim(shard, bucket, &covered);
            }
        }
    }

    async fn flush_all(
        &self,
        buckets: Vec<(BucketStart, Vec<ShardId>)>,
        stop: &CancellationToken,
    ) -> Vec<BucketStart> {
        let flushes = futures::stream::iter(buckets).map(|(bucket, shards)| async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => None,
                flushed = self.flush(bucket, &shards) => match flushed {
                    Ok(()) => {
                        self.metrics.flow().done(bucket);
                        Some(bucket)
                    }
                    Err(error) => {
                        self.metrics.flush_failed();
                        tracing::warn!(%error, bucket = %bucket.time(), "a bucket could not be flushed; it stays in the journal and is tried again");
                        None
                    }
                },
            }
        });
        let flushed: Vec<Option<BucketStart>> = flushes.buffer_unordered(FLUSHES).collect().await;
        flushed.into_iter().flatten().collect()
    }

    /// Commits what the journal has of a bucket, in as many commits as it takes.
    async fn flush(&self, bucket: BucketStart, shards: &[ShardId]) -> Result<(), FlushError> {
        self.repair.catch_up(shards, CATCH_UP_WITHIN).await;
        loop {
            let committed = self.history.with_day(DayStart::of(bucket)).await?;
            let gathered = self.gather(bucket, shards, &committed).await;
            if gathered.is_empty() {
                return Ok(());
            }
            let number = committed.history().map_or(1, |history| history.next_number(bucket));
            if self.parts.planted.has(Bug::TrimBeforeCommit) {
                gathered.iter().for_each(|part| self.parts.journal.trim(part.shard, bucket, &part.coverage));
            }
            let coverage: Vec<(ShardId, Coverage)> =
                gathered.iter().map(|part| (part.shard, part.coverage.clone())).collect();
            let (draft, duplicates) = self.write(bucket, gathered).await?;
            match self.history.commit(number, draft).await {
                Ok(CommitOutcome::Committed(record)) => {
                    self.metrics.flushed(record.message());
                    let message = record.message();
                    let rows = message.rollup.as_ref().map_or(0, |segment| segment.rows);
                    let blocks = message.raw.as_ref().map_or(0, |segment| segment.rows);
                    tracing::info!(node = %self.id, bucket = %bucket.time(), number, rows, blocks, "committed a bucket");
                    if self.parts.planted.has(Bug::SkipCoverageCheck) {
                        coverage.iter().for_each(|(shard, of)| self.parts.journal.trim(*shard, bucket, of));
                    }
                }
                Ok(CommitOutcome::Taken(theirs)) => {
                    tracing::info!(bucket = %bucket.time(), number, writer = theirs.message().writer, "another node committed first; writing what it does not cover");
                    self.keep_duplicates(bucket, duplicates);
                    if self.parts.planted.has(Bug::IgnoreConflict) {
                        coverage.iter().for_each(|(shard, of)| self.parts.journal.trim(*shard, bucket, of));
                    }
                }
                Err(error) => {
                    self.keep_duplicates(bucket, duplicates);
                    return Err(error.into());
                }
            }
        }
    }
}

/// The shards of these buckets that have something to be flushed.
fn plan(buckets: Vec<BucketStart>, unflushed: &[Unflushed]) -> Vec<(BucketStart, Vec<ShardId>)> {
    let shards =
        |start| unflushed.iter().filter(move |(bucket, ..)| *bucket == start).map(|(_, shard, _)| *shard);
    buckets.into_iter().map(|bucket| (bucket, shards(bucket).collect())).collect()
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
