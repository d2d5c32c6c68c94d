//! What became of one batch.
//!
//! Owns: the future that tells it, and the words it is told in.
//! Does not own: how it is found out (`courier`, `ledger`).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tidemark_proto::v1::{Reason, RefusalReason};
use tokio::sync::oneshot;

/// Tells what becomes of a batch, once that is known. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "drop it where nobody wants to know"]
pub struct Ticket {
    reply: oneshot::Receiver<Outcome>,
    safe: Safe,
    /// What is told where nobody is left to tell better.
    abandoned: Option<Outcome>,
}

impl Ticket {
    pub(crate) fn new(
        reply: oneshot::Receiver<Outcome>,
        safe: oneshot::Receiver<Result<(), Why>>,
        begun: &Outcome,
    ) -> Self {
        let mut abandoned = begun.clone();
        let events = begun.events - begun.rejected_events();
        abandoned.undelivered.push(Undelivered { shard: None, events, why: Why::Abandoned });
        Self { reply, safe: Safe::Asking(safe), abandoned: Some(abandoned) }
    }

    /// Waits until a crash of this process loses nothing of the batch: each of its blocks is on disk, or its end is known.
    ///
    /// Without a spool that is when the whole batch is acknowledged. With one whose [`spool_after`] is zero, each block goes to
    /// disk at once, whether or not the cluster is there: what this says then takes a sync of the disk, not a cluster.
    ///
    /// [`spool_after`]: crate::SpoolConfig::spool_after
    ///
    /// # Errors
    /// Why a block could not be brought and is on no disk: its events are lost. Those of other blocks are not.
    pub async fn safe(&mut self) -> Result<(), Why> {
        let told = match &mut self.safe {
            Safe::Told(told) => return told.clone(),
            Safe::Asking(told) => told.await.unwrap_or(Err(Why::Abandoned)),
        };
        self.safe = Safe::Told(told.clone());
        told
    }
}

/// Whether a batch is safe from a crash.
#[derive(Debug)]
enum Safe {
    Asking(oneshot::Receiver<Result<(), Why>>),
    Told(Result<(), Why>),
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let told = std::task::ready!(Pin::new(&mut self.reply).poll(cx));
        Poll::Ready(told.ok().or_else(|| self.abandoned.take()).unwrap_or_default())
    }
}

/// What became of a batch: `events = accepted + rejected + undelivered`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Events of the batch.
    pub events: u64,
    /// Events that are counted.
    pub accepted: u64,
    /// Of these, events that an earlier copy of their block had brought.
    pub duplicate: u64,
    /// Events that are not counted and never will be, by reason.
    pub rejected: BTreeMap<Reason, u64>,
    /// Of these, those that this producer rejected itself: their positions in the batch, and why.
    pub rejected_at: Vec<(u32, Reason)>,
    /// Blocks that could not be brought.
    pub undelivered: Vec<Undelivered>,
}

impl Outcome {
    /// Events that are rejected.
    pub fn rejected_events(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Events that could not be brought.
    pub fn undelivered_events(&self) -> u64 {
        self.undelivered.iter().map(|block| block.events).sum()
    }

    /// Whether every event is counted or rejected.
    pub fn is_delivered(&self) -> bool {
        self.undelivered.is_empty()
    }
}

/// Events that could not be brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Their shard; `None` for all that were left of the batch.
    pub shard: Option<u32>,
    /// How many.
    pub events: u64,
    /// Why.
    pub why: Why,
}

/// Why events could not be brought.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Nothing of the block is counted, and sending it again does not help: do what the message says.
    #[error("the block was refused ({}): {message}", reason.name())]
    Refused {
        /// Why.
        reason: RefusalReason,
        /// In words.
        message: String,
    },
    /// It may be counted or not. The same events sent again would be others.
    #[error("the block was not acknowledged within {waited:?}: {last}")]
    GivenUp {
        /// How long it was tried.
        waited: Duration,
        /// What went wrong last.
        last: String,
    },
    /// The producer was closed before it could bring the block. It is in the spool: start a producer with the same folder.
    #[error("the block is in the spool, to be sent by the next producer that is started with its folder")]
    Spooled,
    /// The spool's copy cannot be read. The block may be counted or not.
    #[error("the spool's copy of the block cannot be read: {0}")]
    Unreadable(String),
    /// The producer was dropped, or its runtime ended, before this was known. Close producers instead of dropping them.
    #[error("the producer was dropped before the block was acknowledged")]
    Abandoned,
}
