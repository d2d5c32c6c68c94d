//! What a node does besides serving.
//!
//! Owns: the tasks that measure, evict, flush, repair, follow others' commits, maintain days and verify; their start and their
//! end.
//! Does not own: what is due (`flush`), what to compact and what to delete (`tidemark-history`).

mod maintain;
mod memory;
mod verify;

use crate::admission::Admission;
use crate::config::NodeConfig;
use crate::flush::Flusher;
use crate::history::NodeHistory;
use crate::metrics::NodeMeter;
use crate::quotas::Quotas;
use crate::repair::Repair;
use crate::shard::{ShardHandle, ShardParts};
use futures::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_rollup::member::NodeId;
use tidemark_rollup::time::Clock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a shard may take to count what the journal has.
const RECOVER_WITHIN: Duration = Duration::from_secs(3600);

/// What the chores work on.
pub(crate) struct Chores {
    pub(crate) config: NodeConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) parts: Arc<ShardParts>,
    /// All shards of the cluster.
    pub(crate) shards: Vec<ShardHandle>,
    pub(crate) repair: Arc<Repair>,
    pub(crate) history: Arc<NodeHistory>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) resident_bytes: Option<fn() -> Option<u64>>,
    pub(crate) meter: NodeMeter,
}

/// The tasks.
pub(crate) struct Running {
    flusher: Arc<Flusher>,
    flushing: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

impl Chores {
    /// Starts the tasks; they end with `stop`.
    pub(crate) fn start(&self, recovered: Arc<AtomicBool>, stop: &CancellationToken) -> Running {
        let flusher = Arc::new(Flusher {
            id: self.config.id.clone(),
            parts: Arc::clone(&self.parts),
            history: Arc::clone(&self.history),
            repair: Arc::clone(&self.repair),
            shards: self.shards.clone(),
            clock: Arc::clone(&self.clock),
            settle: self.config.settle,
            backup: self.config.backup_flush,
            metrics: self.meter.clone(),
        });
        let flushing = tokio::spawn({
            let (flusher, stop) = (Arc::clone(&flusher), stop.clone());
            async move { flusher.run(stop).await }
        });
        let mut others = vec![
            tokio::spawn(recover(self.config.id.clone(), self.shards.clone(), recovered)),
            tokio::spawn(memory::Memory::of(self).run(stop.clone())),
            tokio::spawn({
                let (history, clock) = (Arc::clone(&self.history), Arc::clone(&self.clock));
                async move { history.follow(clock.as_ref()).await }
            }),
            tokio::spawn(maintain::Maintainer::of(self).run(stop.clone())),
            tokio::spawn(Arc::clone(&self.repair).run(stop.clone())),
        ];
        others.extend(verify::Verifying::of(self).map(|verifying| tokio::spawn(verifying.run(stop.clone()))));
        Running { flusher, flushing, others }
    }

    /// Closes what other processes may want to open.
    pub(crate) async fn close(&self) {
        let journal = self.parts.journal.clone();
        tidemark_shell::work::run(move || journal.close()).await;
    }
}

impl Running {
    /// Ends the tasks, after flushing what is closed as far as that is possible in time.
    pub(crate) async fn finish(self, within: Duration) {
        self.others.iter().for_each(JoinHandle::abort);
        let cut_off = CancellationToken::new();
        let flushing = async {
            let _ = self.flushing.await;
            self.flusher.finish(cut_off.clone()).await;
        };
        if tokio::time::timeout(within, flushing).await.is_err() {
            tracing::info!("stopped before all closed buckets were flushed; the journal has them");
        }
    }
}

/// Says when the shards have counted what the journal has.
async fn recover(node: NodeId, shards: Vec<ShardHandle>, recovered: Arc<AtomicBool>) {
    let started = Instant::now();
    let counted = join_all(shards.iter().map(|shard| shard.measure(None, RECOVER_WITHIN))).await;
    let rows: u64 = counted.iter().flatten().map(|usage| usage.rows).sum();
    recovered.store(true, Ordering::Relaxed);
    tracing::info!(%node, rows, took = ?started.elapsed(), "counted the blocks of the journal");
}
