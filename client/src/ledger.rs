//! Tells what became of every block: the batch's ticket, the producer, and whoever waits for room.
//!
//! Owns: the batches that have blocks on their way, and the load that bounds what is taken.
//! Does not own: how a block ends (`desk`).

use crate::desk::{Fate, Key};
use crate::ticket::{Outcome, Undelivered, Why};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};

/// What there is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Blocks in memory that are on no disk.
    pub(crate) blocks: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// Events on disk.
    pub(crate) spooled_events: u64,
    /// And their blocks.
    pub(crate) spooled_blocks: u64,
    /// Blocks sent again so far.
    pub(crate) retries: u64,
}

/// Tells the producer of the end of a block.
#[derive(Debug)]
pub(crate) enum Notice {
    Acknowledged {
        accepted: u32,
        duplicate: u32,
        rejected: Vec<v1::ReasonCount>,
        /// Not set where it had been on disk.
        waited: Option<Duration>,
    },
    Undelivered {
        events: u64,
        why: Why,
    },
}

#[derive(Debug)]
struct Batch {
    left: usize,
    outcome: Outcome,
    reply: oneshot::Sender<Outcome>,
    /// Blocks that are in memory alone.
    at_risk: usize,
    /// Why events of it are lost, where some are.
    lost: Option<Why>,
    /// Taken when it is told.
    safe: Option<oneshot::Sender<Result<(), Why>>>,
}

impl Batch {
    /// A block is on disk, or has ended otherwise; `lost` says so where its events are gone.
    fn secure(&mut self, lost: Option<Why>) {
        self.at_risk = self.at_risk.saturating_sub(1);
        self.lost = self.lost.take().or(lost);
        self.tell_safe();
    }

    fn tell_safe(&mut self) {
        if self.at_risk == 0
            && let Some(safe) = self.safe.take()
        {
            // Whoever does not wait for it does not want to know.
            _ = safe.send(self.lost.take().map_or(Ok(()), Err));
        }
    }
}

/// Who is told of a batch.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) outcome: oneshot::Sender<Outcome>,
    pub(crate) safe: oneshot::Sender<Result<(), Why>>,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    /// By number.
    batches: BTreeMap<u64, Batch>,
    notices: mpsc::UnboundedSender<Notice>,
    load: Arc<watch::Sender<Load>>,
}

impl Ledger {
    /// The notices need no bound of their own: there are as many as blocks, and the producer takes them with each batch.
    pub(crate) fn new(notices: mpsc::UnboundedSender<Notice>, load: Arc<watch::Sender<Load>>) -> Self {
        Self { batches: BTreeMap::new(), notices, load }
    }

    /// A batch of so many blocks begins.
    pub(crate) fn begin(&mut self, batch_number: u64, blocks: usize, outcome: Outcome, told: Told) {
        let lost = outcome.undelivered.first().map(|block| block.why.clone());
        let Told { outcome: reply, safe } = told;
        let mut batch = Batch { left: blocks, outcome, reply, at_risk: blocks, lost, safe: Some(safe) };
        if blocks == 0 {
            batch.tell_safe();
            _ = batch.reply.send(batch.outcome);
        } else {
            self.batches.insert(batch_number, batch);
        }
    }

    pub(crate) fn sent_again(&self) {
        self.load.send_modify(|load| load.retries += 1);
    }

    /// A block is on disk.
    pub(crate) fn kept(&mut self, key: Key, bytes: usize, events: u32) {
        if let Some(batch) = self.batches.get_mut(&key.batch) {
            batch.secure(None);
        }
        self.load.send_modify(|load| {
            load.blocks = load.blocks.saturating_sub(1);
            load.bytes = load.bytes.saturating_sub(bytes);
            load.spooled_events += u64::from(events);
            load.spooled_blocks += 1;
        });
    }

    /// A block has ended.
    pub(crate) fn settle(&mut self, key: Key, events: u32, bytes: usize, on_disk: bool, fate: Fate) {
        self.tell_batch(key, events, on_disk, &fate);
        let stays_on_disk = matches!(fate, Fate::Undelivered(Why::Spooled));
        let notice = match fate {
            Fate::Acknowledged { accepted, duplicate, rejected, waited } => {
                let waited = (!on_disk).then_some(waited);
                Notice::Acknowledged { accepted, duplicate, rejected, waited }
            }
            Fate::Undelivered(why) => Notice::Undelivered { events: u64::from(events), why },
        };
        // The producer is told before its room is free, so that whoever waits for the room knows all.
        _ = self.notices.send(notice);
        self.load.send_modify(|load| {
            if on_disk {
                if !stays_on_disk {
                    load.spooled_events = load.spooled_events.saturating_sub(u64::from(events));
                    load.spooled_blocks = load.spooled_blocks.saturating_sub(1);
                }
            } else {
                load.blocks = load.blocks.saturating_sub(1);
                load.bytes = load.bytes.saturating_sub(bytes);
            }
        });
    }

    fn tell_batch(&mut self, key: Key, events: u32, on_disk: bool, fate: &Fate) {
        let Some(batch) = self.batches.get_mut(&key.batch) else { return };
        batch.left -= 1;
        if !on_disk {
            batch.secure(match fate {
                Fate::Acknowledged { .. } => None,
                Fate::Undelivered(why) => Some(why.clone()),
            });
        }
        let outcome = &mut batch.outcome;
        match fate {
            Fate::Acknowledged { accepted, duplicate, rejected, .. } => {
                outcome.accepted += u64::from(*accepted);
                outcome.duplicate += u64::from(*duplicate);
                for count in rejected {
                    *outcome.rejected.entry(count.reason()).or_default() += u64::from(count.events);
                }
            }
            Fate::Undelivered(why) => {
                let (shard, events) = (Some(key.shard), u64::from(events));
                outcome.undelivered.push(Undelivered { shard, events, why: why.clone() });
            }
        }
        if batch.left == 0
            && let Some(batch) = self.batches.remove(&key.batch)
        {
            // Whoever dropped the ticket does not want to know.
            _ = batch.reply.send(batch.outcome);
        }
    }
}
