//! What is kept, and for how long.
//!
//! Owns: ages, which days outgrew them, and replacing those by less.
//! Does not own: deleting objects that nobody names any more (`garbage`), what commits and replacements mean (`catalog`).
//!
//! Invariants:
//! * What is planned is a function of history, the time and the ages.
//! * Nothing that is not replaced expires: compaction comes first.
//! * Commits that are replaced stay so, however little is left of their day: a late copy of one never counts again.

mod garbage;

pub use garbage::{Garbage, GarbageError, Unreadable};

use crate::catalog::{Day, DayReplacement, History, Scope};
use crate::compact::day::ByBucket;
use crate::compact::replacing::Replaced;
use crate::compact::{CompactError, Compactor, TRIES};
use crate::day::DayStart;
use crate::replacement::ReplacementRecord;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::time::EventTime;

const DAY: Duration = Duration::from_secs(86_400);

/// An object that nothing names is deleted when it is so old: longer than any flush, compaction or query takes.
pub const GARBAGE_AFTER: Duration = DAY;

/// For how long what is committed is kept, from the end of its day. Longer answers more; shorter costs less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Five-minute rows. At least eight days keep "a week ago" at full resolution.
    pub five_minutes: Duration,
    /// Raw events. A rebuild needs them, and verifying.
    pub raw: Duration,
    /// Rows of days, and everything else about a day.
    pub days: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { five_minutes: 9 * DAY, raw: 30 * DAY, days: 730 * DAY }
    }
}

/// What of a day is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// The day.
    pub day: DayStart,
    /// Its five-minute rows go.
    pub five_minutes: bool,
    /// Its raw events go.
    pub raw: bool,
    /// All that is left goes.
    pub all: bool,
}

/// Days of which something is there that outgrew its age, oldest first. Damaged days are left alone.
pub fn plan(history: &History, now: EventTime, retention: &Retention) -> Vec<Expiry> {
    let due = history.all_days().filter_map(|day| expiry(day, now, retention));
    due.filter(|expiry| history.damage_of(expiry.day).is_empty()).collect()
}

fn expiry(day: &Day, now: EventTime, retention: &Retention) -> Option<Expiry> {
    let holds = &day.replacement()?.day;
    let outgrew = |age: Duration| day.start().end().plus(age) <= now;
    let has_raw = holds.buckets.iter().any(|bucket| !bucket.raw.is_empty());
    let has_rows = !holds.five_minutes.is_empty() || !holds.days.is_empty();
    let all = outgrew(retention.days) && (has_rows || has_raw);
    let expiry = Expiry {
        day: day.start(),
        // Without rows of the day there would be none.
        five_minutes: !holds.five_minutes.is_empty()
            && (all || (outgrew(retention.five_minutes) && !holds.days.is_empty())),
        raw: has_raw && (all || outgrew(retention.raw)),
        all,
    };
    (expiry.five_minutes || expiry.raw || expiry.all).then_some(expiry)
}

/// What a day's replacement still names.
fn remains(holds: &DayReplacement, expiry: &Expiry, nothing: Option<&v1::Segment>) -> v1::ReplacedDay {
    let mut day = holds.day.clone();
    if expiry.five_minutes {
        day.five_minutes.clear();
    }
    if expiry.raw {
        day.buckets.iter_mut().for_each(|bucket| bucket.raw.clear());
    }
    if let Some(nothing) = nothing.filter(|_| expiry.all) {
        day.days.clear();
        day.coverage = Some(nothing.clone());
    }
    day
}

impl Compactor {
    /// Stops naming what outgrew its age, for all days at once. `None` where nothing did. The objects go with the garbage.
    ///
    /// # Errors
    /// See [`CompactError`]. Doing it again is harmless.
    pub async fn expire(
        &self,
        retention: &Retention,
    ) -> Result<Option<Arc<ReplacementRecord>>, CompactError> {
        for _ in 0..TRIES {
            self.catalog.refresh(Scope::All).await?;
            let history = self.catalog.current();
            let due = plan(&history, self.clock.now(), retention);
            // A replaced day names its coverage; one empty object stands for that of all days that go.
            let nothing = match due.iter().find(|expiry| expiry.all) {
                Some(expiry) => Some(self.put_coverage(expiry.day, &ByBucket::new()).await?),
                None => None,
            };
            let remains = due.iter().filter_map(|expiry| {
                let holds = history.day(expiry.day)?.replacement()?;
                Some(remains(holds, expiry, nothing.as_ref()))
            });
            let remains: Vec<v1::ReplacedDay> = remains.collect();
            if remains.is_empty() {
                return Ok(None);
            }
            let days = remains.len();
            let message = self.replacement("retention", remains);
            if let Replaced::Done(record) = self.replace(&history, &message).await? {
                tracing::info!(days, number = record.number(), "expired what outgrew its age");
                return Ok(Some(record));
            }
        }
        Err(CompactError::Busy)
    }
}
