//! Event times, buckets and the steps of an answer.
//!
//! Owns: the units of time, how an event finds its bucket, and how times are spelled.
//! Does not own: the present. It comes in through a [`Clock`] or as an argument.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Width of a bucket, in seconds: five minutes.
pub const BUCKET_SECONDS: u32 = 300;

// Hours and days are unions of buckets; a width that straddles midnight would break that.
const _: () = assert!(86_400 % BUCKET_SECONDS == 0);

/// Tells the time of day. The one implementation that asks the system lives in the node.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> EventTime;
}

/// A moment, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(i64);

impl EventTime {
    /// The last moment that a bucket can hold: buckets count seconds in 32 bits (until the year 2106).
    pub const MAX: Self = Self(u32::MAX as i64 * 1000);
    /// The Unix epoch, the first moment that a bucket can hold.
    pub const EPOCH: Self = Self(0);

    /// A moment from milliseconds since the Unix epoch.
    pub const fn from_unix_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_unix_ms(self) -> i64 {
        self.0
    }

    /// This moment, `by` later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(duration_ms(by)))
    }

    /// This moment, `by` earlier.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(duration_ms(by)))
    }

    /// How long after `earlier` this is; nothing where it is before.
    pub fn since(self, earlier: Self) -> Duration {
        let ms = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    /// Parses RFC 3339 ("2015-05-17T10:05:00Z").
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse_rfc3339(text: &str) -> Result<Self, TimeError> {
        let parsed: jiff::Timestamp = text.parse().map_err(|_| TimeError(text.to_owned()))?;
        Ok(Self(parsed.as_millisecond()))
    }

    /// Parses RFC 3339, `now`, or a time relative to `now` such as `-1h` or `-7d`.
    ///
    /// # Errors
    /// Says what would be valid.
    pub fn parse(text: &str, now: Self) -> Result<Self, TimeError> {
        if text == "now" {
            return Ok(now);
        }
        match text.strip_prefix('-') {
            Some(offset) => Ok(now.minus(parse_offset(offset).map_err(|_| TimeError(text.to_owned()))?)),
            None => Self::parse_rfc3339(text),
        }
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A time that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no time: give RFC 3339 like 2015-05-17T10:05:00Z, `now`, or a time ago like -30m, -1h, -7d"
)]
pub struct TimeError(String);

/// An offset that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no length of time: give a number and s, m, h, d or w, like 7d")]
pub struct OffsetError(String);

/// Parses a length of time: a whole number and one of `s`, `m`, `h`, `d`, `w`.
///
/// # Errors
/// Says what would be valid. Lengths over 100 years are refused.
pub fn parse_offset(text: &str) -> Result<Duration, OffsetError> {
    let error = || OffsetError(text.to_owned());
    let unit = text.chars().last().ok_or_else(error)?;
    let unit_seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return Err(error()),
    };
    let digits = &text[..text.len() - unit.len_utf8()];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let count: u64 = digits.parse().map_err(|_| error())?;
    let seconds = count.checked_mul(unit_seconds).ok_or_else(error)?;
    if seconds > 100 * 366 * 86_400 {
        return Err(error());
    }
    Ok(Duration::from_secs(seconds))
}

/// Start of a bucket, in whole seconds since the Unix epoch; always a multiple of [`BUCKET_SECONDS`], so that
/// all nodes agree on an event's bucket without talking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketStart(u32);

impl BucketStart {
    /// The bucket that `time` falls into. Times that no bucket can hold fall into the nearest one.
    pub fn containing(time: EventTime) -> Self {
        let ms = time.as_unix_ms().clamp(0, EventTime::MAX.as_unix_ms());
        let seconds = (ms / 1000) as u32;
        Self(seconds - seconds % BUCKET_SECONDS)
    }

    /// A bucket from its start in seconds since the Unix epoch, where that is one.
    pub fn from_unix_seconds(seconds: u32) -> Option<Self> {
        seconds.is_multiple_of(BUCKET_SECONDS).then_some(Self(seconds))
    }

    /// Seconds since the Unix epoch.
    pub const fn as_unix_seconds(self) -> u32 {
        self.0
    }

    /// First moment of the bucket.
    pub const fn time(self) -> EventTime {
        EventTime(self.0 as i64 * 1000)
    }

    /// The bucket after this one; the last bucket that there is has itself.
    pub fn next(self) -> Self {
        self.0.checked_add(BUCKET_SECONDS).map_or(self, Self)
    }

    /// First moment after the bucket.
    pub const fn end(self) -> EventTime {
        EventTime((self.0 as i64 + BUCKET_SECONDS as i64) * 1000)
    }
}

/// Width of the steps of an answer. All but `All` are whole numbers of buckets, aligned to UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Five minutes, a bucket.
    FiveMinutes,
    /// An hour.
    Hour,
    /// A UTC day.
    Day,
    /// One step for the whole range.
    All,
}

impl Granularity {
    /// Width of a step in seconds; for `All`, the alignment of the range: a bucket.
    pub const fn seconds(self) -> u32 {
        match self {
            Self::FiveMinutes | Self::All => BUCKET_SECONDS,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The name on the wire: `5m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::Day => "1d",
            Self::All => "all",
        }
    }
}

/// A granularity that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no granularity: give 5m, 1h, 1d or all")]
pub struct GranularityError(String);

impl FromStr for Granularity {
    type Err = GranularityError;

    fn from_str(text: &str) -> Result<Self, GranularityError> {
        match text {
            "5m" => Ok(Self::FiveMinutes),
            "1h" => Ok(Self::Hour),
            "1d" => Ok(Self::Day),
            "all" => Ok(Self::All),
            _ => Err(GranularityError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_on_the_boundary_belongs_to_the_later_bucket() {
        let at = |ms| BucketStart::containing(EventTime::from_unix_ms(ms)).as_unix_seconds();
        assert_eq!(at(299_999), 0);
        assert_eq!(at(300_000), 300);
        assert_eq!(at(300_001), 300);
    }

    #[test]
    fn times_no_bucket_can_hold_fall_into_the_nearest() {
        assert_eq!(BucketStart::containing(EventTime::from_unix_ms(-5)).as_unix_seconds(), 0);
        assert!(BucketStart::containing(EventTime::from_unix_ms(i64::MAX)).end() > EventTime::MAX);
    }

    #[test]
    fn relative_times_count_back_from_now() {
        let now = EventTime::parse_rfc3339("2015-05-17T12:00:00Z").unwrap();
        assert_eq!(EventTime::parse("now", now), Ok(now));
        assert_eq!(EventTime::parse("-1h", now).unwrap().to_string(), "2015-05-17T11:00:00Z");
        assert_eq!(EventTime::parse("-2w", now).unwrap().to_string(), "2015-05-03T12:00:00Z");
        assert_eq!(EventTime::parse("2015-05-17T14:00:00+02:00", now), Ok(now));
    }

    #[test]
    fn what_is_no_time_is_an_error_that_says_what_would_be() {
        let now = EventTime::EPOCH;
        for text in ["", "-", "-h", "-1", "-1y", "--1h", "-1.5h", "yesterday", "-99999999999999999999d", "-é"]
        {
            let error = EventTime::parse(text, now).expect_err(text).to_string();
            assert!(error.contains("RFC 3339"), "{error}");
        }
        assert!(parse_offset("7 d").is_err() && parse_offset("200000w").is_err());
    }
}
