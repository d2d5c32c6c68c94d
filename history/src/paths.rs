//! Where objects are in the store.
//!
//! Owns: the path of each kind of object, and what a path says about its object.
//! Does not own: what the objects hold.
//!
//! Invariant: a path that parses is spelled again exactly as it was.

use crate::day::{BucketText, DayStart};
use std::fmt;
use std::str::FromStr;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::time::BucketStart;

/// The folder of all commits.
pub const COMMITS: &str = "commits";
/// The folder of all replacements.
pub const REPLACEMENTS: &str = "replacements";

/// An object of history, by its path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectPath {
    /// Facts that all members agree on: `cluster`.
    Cluster,
    /// Left by a probe that was cut off: `probe/00000000000004d2`.
    Probe {
        /// Random.
        unique: u64,
        /// Whether it is the one that many create at once.
        race: bool,
    },
    /// `commits/2026-11-22/10-05/00000001`.
    Commit {
        /// What it commits segments of.
        bucket: BucketStart,
        /// Counts from 1 in each bucket.
        number: u64,
    },
    /// `replacements/00000001`.
    Replacement {
        /// Counts from 1.
        number: u64,
    },
    /// The coverage of a day that a replacement names: `coverage/2026-11-21/00000000000004d2`.
    Coverage {
        /// The day.
        day: DayStart,
        /// Random.
        attempt: u64,
    },
    /// Rows of one bucket, as a node flushed them: `rollup/5m/2026-11-22/10-05/<writer>-<attempt>.parquet`.
    BucketRollup(BucketSegment),
    /// Blocks of one bucket: `raw/2026-11-22/10-05/<writer>-<attempt>.parquet`.
    Raw(BucketSegment),
    /// Five-minute rows of a day: `rollup/5m/2026-11-21/<writer>-<attempt>-<n>.parquet`.
    DayFiveMinutes(DaySegment),
    /// Rows of whole days: `rollup/1d/2026-11-21/<writer>-<attempt>-<n>.parquet`.
    DayRollup(DaySegment),
}

/// What makes the name of a bucket's segment unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketSegment {
    /// The bucket.
    pub bucket: BucketStart,
    /// Who wrote it.
    pub writer: NodeId,
    /// Random.
    pub attempt: u64,
}

/// What makes the name of a day's segment unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DaySegment {
    /// The day.
    pub day: DayStart,
    /// Who wrote it.
    pub writer: NodeId,
    /// Random.
    pub attempt: u64,
    /// Tells segments of one attempt apart.
    pub n: u32,
}

/// The folder of a day's commits.
pub fn commits_of(day: DayStart) -> String {
    format!("{COMMITS}/{day}")
}

impl ObjectPath {
    /// The day that the object is of, where it is of one.
    pub fn day(&self) -> Option<DayStart> {
        match self {
            Self::Cluster | Self::Probe { .. } | Self::Replacement { .. } => None,
            Self::Commit { bucket, .. } => Some(DayStart::of(*bucket)),
            Self::Coverage { day, .. } => Some(*day),
            Self::BucketRollup(segment) | Self::Raw(segment) => Some(DayStart::of(segment.bucket)),
            Self::DayFiveMinutes(segment) | Self::DayRollup(segment) => Some(segment.day),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        Some(match *parts.as_slice() {
            ["cluster"] => Self::Cluster,
            ["probe", name] => match name.strip_suffix("-race") {
                Some(name) => Self::Probe { unique: hex(name)?, race: true },
                None => Self::Probe { unique: hex(name)?, race: false },
            },
            ["commits", day, time, name] => {
                Self::Commit { bucket: BucketText::parse(day, time)?, number: number(name)? }
            }
            ["replacements", name] => Self::Replacement { number: number(name)? },
            ["coverage", day, name] => Self::Coverage { day: DayStart::parse(day)?, attempt: hex(name)? },
            ["rollup", "5m", day, time, name] => Self::BucketRollup(bucket_segment(day, time, name)?),
            ["raw", day, time, name] => Self::Raw(bucket_segment(day, time, name)?),
            ["rollup", "5m", day, name] => Self::DayFiveMinutes(day_segment(day, name)?),
            ["rollup", "1d", day, name] => Self::DayRollup(day_segment(day, name)?),
            _ => return None,
        })
    }
}

fn bucket_segment(day: &str, time: &str, name: &str) -> Option<BucketSegment> {
    let (writer, attempt) = name.strip_suffix(".parquet")?.rsplit_once('-')?;
    Some(BucketSegment {
        bucket: BucketText::parse(day, time)?,
        writer: NodeId::new(writer).ok()?,
        attempt: hex(attempt)?,
    })
}

fn day_segment(day: &str, name: &str) -> Option<DaySegment> {
    let (name, n) = name.strip_suffix(".parquet")?.rsplit_once('-')?;
    let (writer, attempt) = name.rsplit_once('-')?;
    Some(DaySegment {
        day: DayStart::parse(day)?,
        writer: NodeId::new(writer).ok()?,
        attempt: hex(attempt)?,
        n: n.parse().ok()?,
    })
}

/// Sixteen hexadecimal digits.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// A number of eight digits or more, from 1.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&number| number > 0)
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Probe { unique, race: false } => write!(f, "probe/{unique:016x}"),
            Self::Probe { unique, race: true } => write!(f, "probe/{unique:016x}-race"),
            Self::Commit { bucket, number } => write!(f, "commits/{}/{number:08}", BucketText(*bucket)),
            Self::Replacement { number } => write!(f, "replacements/{number:08}"),
            Self::Coverage { day, attempt } => write!(f, "coverage/{day}/{attempt:016x}"),
            Self::BucketRollup(segment) => write!(f, "rollup/5m/{segment}"),
            Self::Raw(segment) => write!(f, "raw/{segment}"),
            Self::DayFiveMinutes(segment) => write!(f, "rollup/5m/{segment}"),
            Self::DayRollup(segment) => write!(f, "rollup/1d/{segment}"),
        }
    }
}

impl fmt::Display for BucketSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{:016x}.parquet", BucketText(self.bucket), self.writer, self.attempt)
    }
}

impl fmt::Display for DaySegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{:016x}-{}.parquet", self.day, self.writer, self.attempt, self.n)
    }
}

/// A path that no object of history has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no path of history: it was put there by something else, or by a newer version of tidemark")]
pub struct PathError(String);

impl FromStr for ObjectPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        // Numbers and times have other spellings (`+1`, `1-5`); none of them was written by us.
        Self::read(text).filter(|path| path.to_string() == text).ok_or_else(|| PathError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_bucket() -> impl Strategy<Value = BucketStart> {
        any::<u32>().prop_map(|seconds| BucketStart::from_unix_seconds(seconds - seconds % 300).unwrap())
    }

    fn any_writer() -> impl Strategy<Value = NodeId> {
        "[-a-zA-Z0-9_.:]{1,12}".prop_map(|name| NodeId::new(name).unwrap())
    }

    prop_compose! {
        fn any_bucket_segment()(bucket in any_bucket(), writer in any_writer(), attempt in any::<u64>()) -> BucketSegment {
            BucketSegment { bucket, writer, attempt }
        }
    }

    prop_compose! {
        fn any_day_segment()(
            day in any_bucket(), writer in any_writer(), attempt in any::<u64>(), n in any::<u32>(),
        ) -> DaySegment {
            DaySegment { day: DayStart::of(day), writer, attempt, n }
        }
    }

    fn any_path() -> impl Strategy<Value = ObjectPath> {
        let number = prop_oneof![1..20_u64, 1..=u64::MAX];
        prop_oneof![
            Just(ObjectPath::Cluster),
            (any::<u64>(), any::<bool>()).prop_map(|(unique, race)| ObjectPath::Probe { unique, race }),
            (any_bucket(), number.clone()).prop_map(|(bucket, number)| ObjectPath::Commit { bucket, number }),
            number.prop_map(|number| ObjectPath::Replacement { number }),
            (any_bucket(), any::<u64>())
                .prop_map(|(bucket, attempt)| ObjectPath::Coverage { day: DayStart::of(bucket), attempt }),
            any_bucket_segment().prop_map(ObjectPath::BucketRollup),
            any_bucket_segment().prop_map(ObjectPath::Raw),
            any_day_segment().prop_map(ObjectPath::DayFiveMinutes),
            any_day_segment().prop_map(ObjectPath::DayRollup),
        ]
    }

    proptest! {
        #[test]
        fn a_path_is_read_back_as_it_was_written_and_stores_take_it(path in any_path()) {
            let text = path.to_string();
            prop_assert_eq!(text.parse(), Ok(path));
            let taken = object_store::path::Path::parse(&text).unwrap();
            prop_assert_eq!(taken.as_ref(), text);
        }

        #[test]
        fn what_parses_is_spelled_again_as_it_was(text in "(commits|raw|coverage|replacements)(/[-+0-9a-f.]{1,10}){1,3}") {
            if let Ok(path) = text.parse::<ObjectPath>() {
                prop_assert_eq!(path.to_string(), text);
            }
        }
    }

    #[test]
    fn paths_are_spelled_as_the_design_says() {
        let bucket = BucketText::parse("2026-11-22", "10-05").unwrap();
        let day = DayStart::parse("2026-11-21").unwrap();
        let writer = NodeId::new("n-1").unwrap();
        let segment = BucketSegment { bucket, writer: writer.clone(), attempt: 1234 };
        let of_day = DaySegment { day, writer, attempt: 1234, n: 3 };
        for (path, text) in [
            (ObjectPath::Commit { bucket, number: 1 }, "commits/2026-11-22/10-05/00000001"),
            (ObjectPath::Replacement { number: 1 }, "replacements/00000001"),
            (ObjectPath::Coverage { day, attempt: 1234 }, "coverage/2026-11-21/00000000000004d2"),
            (
                ObjectPath::BucketRollup(segment.clone()),
                "rollup/5m/2026-11-22/10-05/n-1-00000000000004d2.parquet",
            ),
            (ObjectPath::Raw(segment), "raw/2026-11-22/10-05/n-1-00000000000004d2.parquet"),
            (
                ObjectPath::DayFiveMinutes(of_day.clone()),
                "rollup/5m/2026-11-21/n-1-00000000000004d2-3.parquet",
            ),
            (ObjectPath::DayRollup(of_day), "rollup/1d/2026-11-21/n-1-00000000000004d2-3.parquet"),
        ] {
            assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn paths_of_others_are_named_in_the_error() {
        for text in [
            "",
            "commits",
            "commits/2026-11-22/10-05/1",
            "commits/2026-11-22/10-05/00000000",
            "raw//x",
            "a/b",
        ] {
            let error = text.parse::<ObjectPath>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
