//! Putting new segments in the place of others, while others do the same.
//!
//! Owns: whether what was made still fits history, and the number that it goes under.
//! Does not own: what is made, and what a replacement means (`catalog`).
//!
//! Invariants:
//! * A replacement of ours is made of what holds when it comes to hold: whoever replaced one of its days in between has a
//!   number that ours would have had, or one that we saw.
//! * Where it fails, nothing has changed but for objects that nobody names.

use super::{CompactError, Compactor};
use crate::catalog::{History, Scope};
use crate::day::DayStart;
use crate::paths::ObjectPath;
use crate::replacement::{ReplaceOutcome, ReplacementRecord, replace};
use crate::retry::retry;
use std::future::pending;
use std::sync::Arc;
use tidemark_proto::v1;

/// So many numbers in a row may be somebody else's.
const NUMBERS: u32 = 64;

/// What came of replacing.
#[derive(Debug)]
pub(crate) enum Replaced {
    Done(Arc<ReplacementRecord>),
    /// Somebody else replaced one of the days since: make it again.
    Raced,
}

/// Whether what was made of `then` may replace what is there now: later commits have higher numbers and stay as they are.
pub(crate) fn still_stands(then: &History, now: &History, message: &v1::Replacement) -> bool {
    let days =
        message.days.iter().filter_map(|day| Some((day, DayStart::from_unix_seconds(day.day_start_s)?)));
    days.into_iter().all(|(replaced, day)| {
        let number = |history: &History| Some(history.day(day)?.replacement()?.number);
        number(then) == number(now) && commits(then, day, replaced) == commits(now, day, replaced)
    })
}

/// The commits that are replaced: bucket and number.
fn commits(history: &History, day: DayStart, replaced: &v1::ReplacedDay) -> Vec<(u32, u64)> {
    let through = |bucket: u32| {
        let at = replaced.buckets.binary_search_by_key(&bucket, |bucket| bucket.bucket_start_s).ok()?;
        Some(replaced.buckets[at].through)
    };
    let held = history.day(day).into_iter().flat_map(|day| day.commits());
    let keys = held.map(|commit| (commit.bucket().as_unix_seconds(), commit.number()));
    keys.filter(|&(bucket, number)| through(bucket).is_some_and(|through| number <= through)).collect()
}

impl Compactor {
    /// Makes a replacement that was worked out from `then` part of history.
    pub(crate) async fn replace(
        &self,
        then: &History,
        message: &v1::Replacement,
    ) -> Result<Replaced, CompactError> {
        let days: Vec<DayStart> =
            message.days.iter().filter_map(|day| DayStart::from_unix_seconds(day.day_start_s)).collect();
        for _ in 0..NUMBERS {
            self.catalog.refresh(Scope::Days(&days)).await?;
            let now = self.catalog.current();
            if !still_stands(then, &now, message) {
                return Ok(Replaced::Raced);
            }
            let number = now.next_replacement();
            let again = self.loader.objects.retry(&ObjectPath::Replacement { number }.to_string());
            let store = &self.loader.objects.store;
            match retry(&again, pending(), || replace(store, number, message)).await? {
                ReplaceOutcome::Committed(record) => {
                    self.catalog.note_replacement(&record);
                    return Ok(Replaced::Done(record));
                }
                ReplaceOutcome::Taken(theirs) => self.catalog.note_replacement(&theirs),
            }
        }
        Err(CompactError::Busy)
    }

    /// A replacement of these days.
    pub(crate) fn replacement(&self, reason: &str, days: Vec<v1::ReplacedDay>) -> v1::Replacement {
        v1::Replacement {
            shard_count: self.settings.shards.get(),
            writer: self.settings.writer.to_string(),
            attempt: self.attempt(),
            committed_at_ms: self.clock.now().as_unix_ms(),
            reason: reason.to_owned(),
            days,
        }
    }
}
