//! UTC days.
//!
//! Owns: the day that a bucket is of, the buckets of a day, and how both are spelled in paths.
//! Does not own: buckets and moments (`tidemark_rollup::time`).

use std::fmt;
use tidemark_rollup::time::{BUCKET_SECONDS, BucketStart, EventTime};

/// Length of a UTC day in seconds.
pub const DAY_SECONDS: u32 = 86_400;

/// Start of a UTC day, in whole seconds since the Unix epoch.
///
/// Always a multiple of [`DAY_SECONDS`]. The last one, in the year 2106, has fewer buckets: they count seconds in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DayStart(u32);

impl DayStart {
    /// The day of a bucket.
    pub const fn of(bucket: BucketStart) -> Self {
        let seconds = bucket.as_unix_seconds();
        Self(seconds - seconds % DAY_SECONDS)
    }

    /// The day that `time` falls into. Times that no bucket can hold fall into the nearest day.
    pub fn containing(time: EventTime) -> Self {
        Self::of(BucketStart::containing(time))
    }

    /// A day from its start in seconds since the Unix epoch, where that is one.
    pub fn from_unix_seconds(seconds: u32) -> Option<Self> {
        seconds.is_multiple_of(DAY_SECONDS).then_some(Self(seconds))
    }

    /// Seconds since the Unix epoch.
    pub const fn as_unix_seconds(self) -> u32 {
        self.0
    }

    /// First moment of the day.
    pub const fn time(self) -> EventTime {
        EventTime::from_unix_ms(self.0 as i64 * 1000)
    }

    /// First moment after the day.
    pub const fn end(self) -> EventTime {
        EventTime::from_unix_ms((self.0 as i64 + DAY_SECONDS as i64) * 1000)
    }

    /// The day after, where buckets reach it.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(DAY_SECONDS).map(Self)
    }

    /// The day before, unless this is the first.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(DAY_SECONDS).map(Self)
    }

    /// Its buckets, ascending.
    pub fn buckets(self) -> impl Iterator<Item = BucketStart> + Clone {
        (0..DAY_SECONDS / BUCKET_SECONDS)
            .filter_map(move |index| self.0.checked_add(index * BUCKET_SECONDS))
            .filter_map(BucketStart::from_unix_seconds)
    }

    /// Reads `2026-11-21`, spelled exactly so.
    pub fn parse(text: &str) -> Option<Self> {
        let time = EventTime::parse_rfc3339(&format!("{text}T00:00:00Z")).ok()?;
        let day = Self::containing(time);
        (day.to_string() == text).then_some(day)
    }
}

impl fmt::Display for DayStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 3339 of a whole second, in the years that buckets have: always 2026-11-21T00:00:00Z.
        let text = self.time().to_string();
        f.write_str(text.get(..10).unwrap_or(&text))
    }
}

/// A bucket as paths spell it: `2026-11-22/10-05`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BucketText(pub(crate) BucketStart);

impl BucketText {
    /// Reads what `Display` wrote, from its two parts.
    pub(crate) fn parse(day: &str, time: &str) -> Option<BucketStart> {
        let day = DayStart::parse(day)?;
        let (hour, minute) = time.split_once('-')?;
        let [hour, minute]: [u32; 2] = [hour.parse().ok()?, minute.parse().ok()?];
        let seconds = hour.checked_mul(3_600)?.checked_add(minute.checked_mul(60)?)?;
        let bucket = BucketStart::from_unix_seconds(day.0.checked_add(seconds)?)?;
        (Self(bucket).time_text() == time && DayStart::of(bucket) == day).then_some(bucket)
    }

    fn time_text(self) -> String {
        let minutes = self.0.as_unix_seconds() % DAY_SECONDS / 60;
        format!("{:02}-{:02}", minutes / 60, minutes % 60)
    }
}

impl fmt::Display for BucketText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", DayStart::of(self.0), self.time_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_and_the_last_day_that_buckets_have_are_days() {
        let first = DayStart::containing(EventTime::EPOCH);
        assert_eq!((first.as_unix_seconds(), first.to_string().as_str()), (0, "1970-01-01"));
        assert_eq!(first.previous(), None);
        let last = DayStart::containing(EventTime::MAX);
        assert_eq!(last.to_string(), "2106-02-07");
        assert_eq!(last.next(), None);
        assert!(last.end() > EventTime::MAX);
        assert_eq!(last.buckets().last(), Some(BucketStart::containing(EventTime::MAX)));
        assert!(last.buckets().count() < 288);
    }

    #[test]
    fn a_day_has_288_buckets_and_midnight_belongs_to_the_later_day() {
        let day = DayStart::parse("2026-11-21").unwrap();
        assert_eq!(day.buckets().count(), 288);
        assert!(day.buckets().all(|bucket| DayStart::of(bucket) == day));
        assert_eq!(DayStart::containing(day.end()), day.next().unwrap());
        assert_eq!(DayStart::containing(EventTime::from_unix_ms(day.end().as_unix_ms() - 1)), day);
        assert_eq!(day.next().and_then(DayStart::previous), Some(day));
        assert_eq!(DayStart::from_unix_seconds(day.as_unix_seconds() + 300), None);
    }

    #[test]
    fn leap_days_are_days_and_other_spellings_are_none() {
        assert!(DayStart::parse("2028-02-29").is_some());
        for text in [
            "2026-02-29",
            "2026-2-9",
            "2026-11-21 ",
            "",
            "1969-12-31",
            "2106-02-08",
            "9999-01-01",
            "+002026-11-21",
        ] {
            assert_eq!(DayStart::parse(text), None, "{text}");
        }
        for time in ["10-03", "24-00", "10-60", "1-05", "10_05", "+1-05", "10-5", ""] {
            assert_eq!(BucketText::parse("2026-11-22", time), None, "{time}");
        }
    }

    proptest! {
        #[test]
        fn days_and_buckets_are_read_back_as_they_were_written(seconds in any::<u32>()) {
            let bucket = BucketStart::from_unix_seconds(seconds - seconds % BUCKET_SECONDS).unwrap();
            let day = DayStart::of(bucket);
            prop_assert_eq!(DayStart::parse(&day.to_string()), Some(day));
            let text = BucketText(bucket).to_string();
            let (day_text, time) = text.split_once('/').unwrap();
            prop_assert_eq!(BucketText::parse(day_text, time), Some(bucket));
        }
    }
}
