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
}

#[derive(Debug)]
pub(crate) struct Ledger {
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
    pub(crate) fn begin(
        &mut self,
        seq: u64,
        blocks: usize,
        outcome: Outcome,
        reply: oneshot::Sender<Outcome>,
    ) {
        if blocks == 0 {
            _ = reply.send(outcome);
        } else {
            self.batches.insert(seq, Batch { left: blocks, outcome, reply });
        }
    }

    pub(crate) fn sent_again(&self) {
        self.load.send_modify(|load| load.retries += 1);
    }

    /// A block is on disk.
    pub(crate) fn kept(&self, bytes: usize, events: u32) {
        self.load.send_modify(|load| {
            load.blocks = load.blocks.saturating_sub(1);
            load.bytes = load.bytes.saturating_sub(bytes);
            load.spooled_events += u64::from(events);
        });
    }

    /// A block has ended.
    pub(crate) fn settle(&mut self, key: Key, events: u32, bytes: usize, on_disk: bool, fate: Fate) {
        self.tell_batch(key, events, &fate);
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
                load.spooled_events -=
                    if stays_on_disk { 0 } else { u64::from(events).min(load.spooled_events) };
            } else {
                load.blocks = load.blocks.saturating_sub(1);
                load.bytes = load.bytes.saturating_sub(bytes);
            }
        });
    }

    fn tell_batch(&mut self, key: Key, events: u32, fate: &Fate) {
        let Some(batch) = self.batches.get_mut(&key.seq) else { return };
        batch.left -= 1;
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
            && let Some(batch) = self.batches.remove(&key.seq)
        {
            // Whoever dropped the ticket does not want to know.
            _ = batch.reply.send(batch.outcome);
        }
    }
}
