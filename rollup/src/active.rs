//! Who is active: distinct visitors of the last five minutes, in slices of ten seconds.
//!
//! Owns: which slices are in the window at a moment, and the log of a site's visitors in a bucket by row and slice.
//! Does not own: counting events (`bucket`), answering (`scan`).
//!
//! A sketch cannot forget, and one for each row and slice would be thirty times the bucket. So what was seen is written down
//! as it is, scanned where somebody asks for `active`, and dropped once no window can touch it.

use crate::measure::unique::{Unique, Waiting};
use crate::measure::{NOWHERE, extend, touch};
use crate::time::{BucketStart, EventTime};
use std::time::Duration;

/// What queries call it.
pub const ACTIVE: &str = "active";
/// Width of a slice. Slices are aligned to the Unix epoch, as buckets are.
pub const SLICE: Duration = Duration::from_secs(10);
/// Width of the window.
pub const WINDOW: Duration = Duration::from_secs(300);
/// An event whose block was sealed so much later is not logged: whoever asks then has a window that has passed it. The window,
/// and a minute for clocks that differ.
pub const MAX_DELAY: Duration = Duration::from_secs(360);

const SLICE_MS: i64 = SLICE.as_millis() as i64;

/// First moment of the window at `as_of`: slices that start then or later count. There is no end: times that are ahead of the
/// clock by no more than is accepted count as well.
pub fn window_start(as_of: EventTime) -> EventTime {
    let slices = as_of.as_unix_ms().saturating_add(SLICE_MS - 1).div_euclid(SLICE_MS);
    EventTime::from_unix_ms(slices.saturating_mul(SLICE_MS)).minus(WINDOW)
}

/// The first bucket that the window at `as_of` touches.
pub fn first_bucket(as_of: EventTime) -> BucketStart {
    BucketStart::containing(window_start(as_of))
}

/// The first bucket whose log has to be kept at `now`, even where who asks has a clock that is a minute behind.
pub fn first_kept(now: EventTime) -> BucketStart {
    BucketStart::containing(now.minus(MAX_DELAY))
}

/// The visitors of one site in one bucket: columns, an entry for each event that has a visitor.
///
/// Entries may repeat, and their order tells nothing: what is read from them is a set.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveLog {
    rows: Vec<u32>,
    /// Which ten seconds of the bucket.
    slices: Vec<u8>,
    visitors: Vec<u64>,
}

impl ActiveLog {
    /// Notes a visitor. Grows as other columns do.
    pub(crate) fn push(&mut self, row: u32, slice: u8, visitor: u64) {
        extend(&mut self.rows, &[row]);
        extend(&mut self.slices, &[slice]);
        extend(&mut self.visitors, &[visitor]);
    }

    /// Reads where the columns grow, without waiting for it.
    pub(crate) fn touch(&self) -> u32 {
        let last = self.rows.len().saturating_sub(1);
        touch(&self.rows, last) ^ u32::from(touch(&self.slices, last)) ^ touch(&self.visitors, last) as u32
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<u32>()
            + self.slices.capacity()
            + self.visitors.capacity() * size_of::<u64>()
    }

    /// Per row of the table, of which there are `len`, whether it has a visitor in the slices from `first` on.
    pub(crate) fn active_rows(&self, first: u8, len: usize) -> Vec<bool> {
        let mut active = vec![false; len];
        self.since(first).for_each(|(row, _)| active[row as usize] = true);
        active
    }

    /// Adds the visitors in the slices from `first` on to the sets of their rows' rows: those of row `i` to `sets[rows[i]]`, or
    /// nowhere where that is [`NOWHERE`].
    pub(crate) fn merge_into(&self, first: u8, rows: &[u32], sets: &mut [Unique]) {
        let mut waiting = Waiting::default();
        for (row, visitor) in self.since(first) {
            let row = rows[row as usize];
            if row != NOWHERE {
                waiting.insert(sets, row, visitor);
            }
        }
        waiting.finish(sets);
    }

    fn since(&self, first: u8) -> impl Iterator<Item = (u32, u64)> {
        let entries = self.rows.iter().zip(&self.slices).zip(&self.visitors);
        entries.filter(move |((_, slice), _)| **slice >= first).map(|((&row, _), &visitor)| (row, visitor))
    }
}

/// The slice of its bucket that `time_ms` falls into.
pub(crate) fn slice_of(start: BucketStart, time_ms: i64) -> u8 {
    let slice = time_ms.saturating_sub(start.time().as_unix_ms()) / SLICE_MS;
    u8::try_from(slice).unwrap_or(u8::MAX)
}

/// The first slice of a bucket that the window at `as_of` includes; beyond the last one where it has passed the bucket.
pub(crate) fn first_slice(start: BucketStart, as_of: EventTime) -> u8 {
    slice_of(start, window_start(as_of).as_unix_ms().max(start.time().as_unix_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn at(ms: i64) -> EventTime {
        EventTime::from_unix_ms(ms)
    }

    fn bucket(seconds: u32) -> BucketStart {
        BucketStart::from_unix_seconds(seconds).unwrap()
    }

    #[test]
    fn the_window_moves_in_slices_and_never_is_longer_than_five_minutes() {
        assert_eq!(window_start(at(10 * MINUTE_MS)), at(5 * MINUTE_MS));
        assert_eq!(window_start(at(10 * MINUTE_MS + 1)), at(5 * MINUTE_MS + 10_000));
        assert_eq!(window_start(at(10 * MINUTE_MS + 10_000)), at(5 * MINUTE_MS + 10_000));
        assert_eq!(window_start(at(10 * MINUTE_MS + 10_001)), at(5 * MINUTE_MS + 20_000));
    }

    #[test]
    fn a_window_touches_the_bucket_before_until_its_last_slice_has_passed() {
        assert_eq!(first_bucket(at(10 * MINUTE_MS)), bucket(300));
        assert_eq!(first_bucket(at(15 * MINUTE_MS - 10_000)), bucket(300));
        assert_eq!(first_bucket(at(15 * MINUTE_MS - 9_999)), bucket(600));
        assert_eq!((slice_of(bucket(300), 300_000), slice_of(bucket(300), 599_999)), (0, 29));
        assert_eq!(first_slice(bucket(300), at(15 * MINUTE_MS - 10_000)), 29);
        assert_eq!(first_slice(bucket(300), at(15 * MINUTE_MS - 9_999)), 30);
        assert_eq!(first_slice(bucket(600), at(15 * MINUTE_MS - 10_000)), 0);
        assert_eq!(first_slice(bucket(300), EventTime::MAX), u8::MAX);
    }

    #[test]
    fn what_a_window_can_touch_is_kept() {
        for ms in (0..900_000).step_by(999) {
            assert!(first_kept(at(ms)) <= first_bucket(at(ms - MINUTE_MS)));
        }
        assert_eq!(first_kept(at(16 * MINUTE_MS - 1)), bucket(300));
        assert_eq!(first_kept(at(16 * MINUTE_MS)), bucket(600));
    }
}
