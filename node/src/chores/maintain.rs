//! Compaction and retention, as often as they are due.

use super::Chores;
use crate::history::NodeHistory;
use crate::metrics::NodeMeter;
use crate::owners::Owners;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::compact::{self, Compactor, CompactorSettings};
use tidemark_history::retention::{GARBAGE_AFTER, Retention};
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::Clock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it looks for days to compact.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it looks for what is no longer kept.
const RETAIN_EVERY: Duration = Duration::from_secs(3600);

pub(super) struct Maintainer {
    history: Arc<NodeHistory>,
    clock: Arc<dyn Clock>,
    id: NodeId,
    shards: ShardCount,
    limit: u32,
    compact_after: Duration,
    retention: Retention,
    owners: watch::Receiver<Arc<Owners>>,
    meter: NodeMeter,
}

impl Maintainer {
    pub(super) fn of(chores: &Chores) -> Self {
        Self {
            history: Arc::clone(&chores.history),
            clock: Arc::clone(&chores.clock),
            id: chores.config.id.clone(),
            shards: chores.config.shards,
            limit: chores.config.dimension_values.max(1),
            compact_after: chores.config.compact_after,
            retention: chores.config.retention,
            owners: chores.parts.owners.clone(),
            meter: chores.meter.clone(),
        }
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        let mut retained: Option<Instant> = None;
        while !stop.is_cancelled() {
            // One node does it for the cluster. Where two do, one's work is wasted, and nothing else.
            let maintains = self.owners.borrow().maintains();
            if let Some(compactor) = self.compactor().filter(|_| maintains) {
                self.compact(&compactor, &stop).await;
                if retained.is_none_or(|at| at.elapsed() >= RETAIN_EVERY) {
                    retained = Some(Instant::now());
                    self.retain(&compactor, &stop).await;
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn compactor(&self) -> Option<Compactor> {
        let catalog = Arc::clone(self.history.catalog()?);
        let settings =
            CompactorSettings::new(self.shards, self.limit, self.id.clone(), self.history.attempt());
        Some(Compactor::new(self.history.store().clone(), catalog, settings, Arc::clone(&self.clock)))
    }

    async fn compact(&self, compactor: &Compactor, stop: &CancellationToken) {
        let committed = self.history.committed();
        let Some(history) = committed.history() else { return };
        let due = compact::plan(history, self.clock.now(), Some(self.compact_after));
        for day in due {
            tokio::select! {
                biased;
                compacted = compactor.compact(day) => match compacted {
                    Ok(compacted) => self.replaced(usize::from(compacted.is_some())),
                    Err(error) => {
                        self.meter.store_failed();
                        tracing::warn!(%error, %day, "a day could not be compacted; it is tried again");
                        return;
                    }
                },
                () = stop.cancelled() => return,
            }
        }
    }

    async fn retain(&self, compactor: &Compactor, stop: &CancellationToken) {
        let retaining = async {
            let expired = compactor.expire(&self.retention).await.map_err(|error| error.to_string())?;
            self.replaced(expired.map_or(0, |record| record.days().count()));
            let garbage =
                compactor.collect_garbage(GARBAGE_AFTER).await.map_err(|error| error.to_string())?;
            if !garbage.paths.is_empty() {
                tracing::info!(
                    objects = garbage.paths.len(),
                    bytes = garbage.bytes,
                    "deleted what nothing needs"
                );
            }
            Ok::<_, String>(())
        };
        tokio::select! {
            biased;
            retained = retaining => if let Err(error) = retained {
                self.meter.store_failed();
                tracing::warn!(%error, "what is no longer kept could not be deleted; it is tried again");
            },
            () = stop.cancelled() => {}
        }
    }

    fn replaced(&self, days: usize) {
        self.history.publish();
        self.meter.days_replaced(days);
    }
}
