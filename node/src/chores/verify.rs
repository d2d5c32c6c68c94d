//! Verifying, in the background, what this node committed.
//!
//! Owns: which commit is counted anew next, how much of the machine that may take, and who is told of what differs.
//! Does not own: counting and comparing (`tidemark_history::verify`), mending (`tidemark rebuild`).
//!
//! Each commit is verified once per start of the node that made it, the newest first: what goes wrong is seen soon, also while
//! older ones still wait. What is compacted meanwhile is left to `tidemark verify`, and so are commits of nodes that are gone.

use super::Chores;
use crate::history::NodeHistory;
use crate::metrics::NodeMeter;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::commit::CommitRecord;
use tidemark_history::compact::CompactorSettings;
use tidemark_history::verify::{Report, Verifier, VerifyError};
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{BucketStart, Clock, EventTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A commit is left alone so long: others are being made then.
const VERIFY_AFTER: Duration = Duration::from_secs(10);
/// The shortest pause, whatever is set.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The pause is so many times as long as verifying took, at least.
const REST: u32 = 9;
/// Objects read at once.
const PARALLEL: usize = 1;
/// So many differences of a bucket are logged; all are counted.
const LOGGED: usize = 5;

/// What tells a commit from others.
type Key = (BucketStart, u64);

pub(super) struct Verifying {
    history: Arc<NodeHistory>,
    clock: Arc<dyn Clock>,
    id: NodeId,
    shards: ShardCount,
    limit: u32,
    every: Duration,
    started: EventTime,
    meter: NodeMeter,
}

impl Verifying {
    /// `None` where it is switched off.
    pub(super) fn of(chores: &Chores) -> Option<Self> {
        chores.meter.flow().verifies(chores.config.verify_every.is_some());
        Some(Self {
            history: Arc::clone(&chores.history),
            clock: Arc::clone(&chores.clock),
            id: chores.config.id.clone(),
            shards: chores.config.shards,
            limit: chores.config.dimension_values.max(1),
            every: chores.config.verify_every?.max(SHORTEST_PAUSE),
            started: chores.clock.now(),
            meter: chores.meter.clone(),
        })
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        let verifying = async {
            // Of commits that are not replaced: no more than there are.
            let mut done: BTreeSet<Key> = BTreeSet::new();
            loop {
                let took = self.step(&mut done).await;
                tokio::time::sleep(self.every.max(took * REST)).await;
            }
        };
        stop.run_until_cancelled(verifying).await;
    }

    /// Verifies one commit, where one waits; returns how long that took.
    async fn step(&self, done: &mut BTreeSet<Key>) -> Duration {
        let waiting = self.waiting(done);
        let since = |commit: &Arc<CommitRecord>| made_at(commit).max(self.started);
        self.meter.flow().unverified_since(waiting.iter().map(since).min());
        let (Some(commit), Some(verifier)) = (waiting.last(), self.verifier()) else { return Duration::ZERO };
        let began = Instant::now();
        let verified = verifier.verify_commit(Arc::clone(commit)).await;
        let took = began.elapsed();
        self.note(commit, verified, took, done);
        self.meter.flow().unverified_since(self.waiting(done).iter().map(since).min());
        took
    }

    /// The commits of this node that are not verified, by bucket.
    fn waiting(&self, done: &mut BTreeSet<Key>) -> Vec<Arc<CommitRecord>> {
        let committed = self.history.committed();
        let Some(history) = committed.history() else { return Vec::new() };
        let mine = |commit: &&Arc<CommitRecord>| commit.message().writer == self.id.as_str();
        let commits = history.all_days().flat_map(|day| day.commits()).filter(mine);
        let commits: Vec<Arc<CommitRecord>> = commits.cloned().collect();
        let all: BTreeSet<Key> = commits.iter().map(|commit| key(commit)).collect();
        done.retain(|key| all.contains(key));
        let settled = self.clock.now().minus(VERIFY_AFTER);
        let waits = |commit: &Arc<CommitRecord>| !done.contains(&key(commit)) && made_at(commit) <= settled;
        commits.into_iter().filter(waits).collect()
    }

    fn verifier(&self) -> Option<Verifier> {
        let catalog = Arc::clone(self.history.catalog()?);
        let settings =
            CompactorSettings::new(self.shards, self.limit, self.id.clone(), self.history.attempt());
        let settings = CompactorSettings { parallel: PARALLEL, ..settings };
        Some(Verifier::new(self.history.store().clone(), catalog, &settings))
    }

    fn note(
        &self,
        commit: &CommitRecord,
        verified: Result<Report, VerifyError>,
        took: Duration,
        done: &mut BTreeSet<Key>,
    ) {
        let bucket = commit.bucket();
        match verified {
            Err(error) => {
                self.meter.flow().verify_failed();
                tracing::warn!(%error, bucket = %bucket.time(), "a bucket could not be verified; it is tried again");
            }
            // Its objects may be gone: the day that replaces it is another matter.
            Ok(_) if !self.is_current(commit) => {}
            Ok(report) => {
                done.insert(key(commit));
                if report.buckets > 0 || !report.is_equal() {
                    self.meter.flow().verified(bucket, report.is_equal(), took);
                }
                if report.is_equal() {
                    tracing::debug!(bucket = %bucket.time(), ?took, events = report.events, "verified a bucket");
                } else {
                    log(commit, &report);
                }
            }
        }
    }

    fn is_current(&self, commit: &CommitRecord) -> bool {
        let committed = self.history.committed();
        let commits = committed.history().map(|history| history.bucket(commit.bucket()).commits);
        commits.is_some_and(|commits| commits.iter().any(|held| held.number() == commit.number()))
    }
}

fn key(commit: &CommitRecord) -> Key {
    (commit.bucket(), commit.number())
}

fn made_at(commit: &CommitRecord) -> EventTime {
    EventTime::from_unix_ms(commit.message().committed_at_ms)
}

fn log(commit: &CommitRecord, report: &Report) {
    let bucket = commit.bucket().time();
    tracing::error!(
        %bucket, commit = %commit.path(), differences = report.different,
        "a committed bucket differs from its raw events: see tidemark verify, and mend it with tidemark rebuild"
    );
    for difference in report.differences.iter().take(LOGGED) {
        tracing::error!(%bucket, %difference, "differs");
    }
}
