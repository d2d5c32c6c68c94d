//! What verifying found.
//!
//! Owns: what was compared, what differs, and the limit on how much of it is listed.

use crate::day::DayStart;
use std::fmt;
use tidemark_rollup::time::BucketStart;

/// So many differences are listed; all are counted.
pub const LISTED: usize = 1_000;

/// What verifying found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Parts of history that were compared with their raw events: each commit's bucket, and each bucket of a compacted day.
    pub buckets: u64,
    /// Buckets that were not, because their raw events are no longer kept.
    pub without_raw: u64,
    /// Buckets that were not each for itself, because their five-minute rows are no longer kept.
    pub without_rows: u64,
    /// Days whose rows were compared with the buckets that they are of.
    pub days: u64,
    /// Rows compared.
    pub rows: u64,
    /// Values of measures compared.
    pub cells: u64,
    /// Blocks counted anew.
    pub blocks: u64,
    /// Events counted anew.
    pub events: u64,
    /// The first differences that were found.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub different: u64,
}

impl Report {
    /// Whether nothing differs.
    pub const fn is_equal(&self) -> bool {
        self.different == 0
    }

    pub(super) fn add(&mut self, difference: Difference) {
        self.different += 1;
        if self.differences.len() < LISTED {
            self.differences.push(difference);
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.buckets += other.buckets;
        self.without_raw += other.without_raw;
        self.without_rows += other.without_rows;
        self.days += other.days;
        self.rows += other.rows;
        self.cells += other.cells;
        self.blocks += other.blocks;
        self.events += other.events;
        self.different += other.different;
        let room = LISTED.saturating_sub(self.differences.len());
        self.differences.extend(other.differences.into_iter().take(room));
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// A bucket.
    Bucket(BucketStart),
    /// Rows of a whole day.
    Day(DayStart),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket(bucket) => write!(f, "bucket {}", bucket.time()),
            Self::Day(day) => write!(f, "day {day}"),
        }
    }
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Differs {
    /// A measure of a row.
    Measure(String),
    /// A row is there on one side only.
    Row,
    /// What happened to a site's events.
    Facts,
    /// The distinct visitors of a whole site, by another algorithm.
    Visitors(String),
    /// Which blocks there are.
    Blocks,
    /// An object is damaged or missing.
    Object,
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measure(name) => f.write_str(name),
            Self::Row => f.write_str("row"),
            Self::Facts => f.write_str("facts"),
            Self::Visitors(name) => write!(f, "second count of {name}"),
            Self::Blocks => f.write_str("blocks"),
            Self::Object => f.write_str("object"),
        }
    }
}

/// A difference between what is stored and what was counted anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub at: At,
    /// The site; empty where it concerns all.
    pub site: String,
    /// The URL; empty where it concerns all.
    pub url: String,
    /// Names and values of the dimensions that are set.
    pub dimensions: Vec<(String, String)>,
    /// What differs.
    pub differs: Differs,
    /// What is stored.
    pub stored: String,
    /// What was counted anew.
    pub recomputed: String,
}

impl Difference {
    pub(super) fn of(
        at: At,
        differs: Differs,
        stored: impl fmt::Display,
        recomputed: impl fmt::Display,
    ) -> Self {
        let (site, url) = (String::new(), String::new());
        let (stored, recomputed) = (stored.to_string(), recomputed.to_string());
        Self { at, site, url, dimensions: Vec::new(), differs, stored, recomputed }
    }

    pub(super) fn on(self, site: &str) -> Self {
        Self { site: site.to_owned(), ..self }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.at, self.differs)?;
        if !self.site.is_empty() {
            write!(f, " of {}{}", self.site, self.url)?;
        }
        for (name, value) in &self.dimensions {
            write!(f, ", {name} {value:?}")?;
        }
        write!(f, ": {} is stored, {} was counted", self.stored, self.recomputed)
    }
}
