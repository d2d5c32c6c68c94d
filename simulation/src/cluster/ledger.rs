//! What was sent, and what became of it.
//!
//! Owns: numbered events, how many of each cell (bucket and URL) were sent and acknowledged, what answers may say, and the
//! list of what was violated.
//! Does not own: sending (`load`), asking (`probe`, `ask`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::time::{BucketStart, EventTime};

/// Whose events these are.
pub(crate) const SITE: &str = "simulated.example";
/// Events have these many URLs.
const URLS: u64 = 20;
/// How old events are, by turns, in seconds: late ones settle and are flushed while the schedule lasts.
const AGES_S: [u64; 5] = [0, 0, 420, 900, 0];
/// So many violations are kept.
const KEPT: usize = 20;

/// A bucket's start, in seconds, and a URL's number.
pub(crate) type Cell = (u32, u32);
/// Events by cell.
pub(crate) type Counts = BTreeMap<Cell, u64>;

/// A batch, by cells.
pub(crate) type Batch = Vec<Cell>;

/// What was sent, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: u64,
    /// Events that may be counted.
    pub(crate) sent: Counts,
    /// Events that have to be.
    pub(crate) acknowledged: Counts,
    /// Until then, a complete answer may lack something: a node that was cut off or stood still may not know yet.
    confused_until: Duration,
    /// Producers that have brought everything.
    pub(crate) finished: usize,
    /// Answers, and those of them that were complete and held to what was acknowledged.
    pub(crate) answers: u64,
    pub(crate) held: u64,
    pub(crate) violations: Vec<String>,
}

/// A ledger that hosts and the driver share.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first violation, if there is one.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }
}

impl Ledger {
    /// The next so many events, which count as sent from now on.
    pub(crate) fn make(&mut self, count: u64, now: EventTime) -> (Vec<v1::Event>, Batch) {
        let numbers = self.next..self.next + count;
        self.next = numbers.end;
        let made: Vec<(v1::Event, Cell)> = numbers.map(|number| event(number, now)).collect();
        let (events, batch): (Vec<v1::Event>, Batch) = made.into_iter().unzip();
        batch.iter().for_each(|cell| *self.sent.entry(*cell).or_default() += 1);
        (events, batch)
    }

    /// These events were not sent after all.
    pub(crate) fn take_back(&mut self, batch: &Batch) {
        for cell in batch {
            if let Some(sent) = self.sent.get_mut(cell) {
                *sent -= 1;
            }
        }
    }

    /// These events were acknowledged.
    pub(crate) fn acknowledge(&mut self, batch: &Batch) {
        batch.iter().for_each(|cell| *self.acknowledged.entry(*cell).or_default() += 1);
    }

    /// Something has to hold and does not.
    pub(crate) fn violated(&mut self, what: String) {
        if self.violations.len() < KEPT {
            self.violations.push(what);
        }
    }

    /// Complete answers may lack something until then.
    pub(crate) fn confuse_until(&mut self, until: Duration) {
        self.confused_until = self.confused_until.max(until);
    }

    /// What a complete answer has to have that is asked for now. That an earlier answer has shown something is no promise: what
    /// is not acknowledged may be on one owner alone.
    pub(crate) fn floor(&self, now: Duration) -> Option<Counts> {
        (now >= self.confused_until).then(|| self.acknowledged.clone())
    }

    /// Holds an answer to what it may say. `floor` is what a complete one has to have.
    pub(crate) fn check(&mut self, views: &Counts, floor: Option<&Counts>, when: &str) {
        self.answers += 1;
        for (cell, &views) in views {
            let sent = self.sent.get(cell).copied().unwrap_or_default();
            if views > sent {
                self.violated(format!("{when}: {cell:?} has {views} views of {sent} events that were sent"));
            }
        }
        let Some(floor) = floor else { return };
        self.held += 1;
        for (cell, &least) in floor {
            let views = views.get(cell).copied().unwrap_or_default();
            if views < least {
                self.violated(format!(
                    "{when}: {cell:?} has {views} views in a complete answer; {least} were acknowledged before it was asked for"
                ));
            }
        }
    }
}

/// Event number `n`: each is another visitor, so that one that counts twice has more views than visitors.
fn event(number: u64, now: EventTime) -> (v1::Event, Cell) {
    let age = AGES_S[(number / 3 % AGES_S.len() as u64) as usize];
    let time = now.minus(Duration::from_secs(age));
    let url = number % URLS;
    let event = v1::Event {
        site: SITE.into(),
        url: format!("/{url}").into(),
        time_ms: time.as_unix_ms(),
        visitor_hash: xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes()) | 1,
        ..v1::Event::default()
    };
    (event, (BucketStart::containing(time).as_unix_seconds(), url as u32))
}
