//! What a journal is told when it is opened.
//!
//! Owns: settings, their defaults, and how a sync policy is spelled.
//! Does not own: flags and files that settings come from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How a journal is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// The folder. It is created, and belongs to one journal at a time.
    pub dir: PathBuf,
    /// When a block counts as kept.
    pub sync: SyncPolicy,
    /// A file is closed, and the next one begun, before it gets larger than this. Smaller files are deleted sooner, because a
    /// file goes as a whole; larger ones are fewer. Opening takes as much memory as the largest file. A block that is larger
    /// gets a file of its own.
    pub segment_bytes: u64,
    /// All files together, their headers of 32 bytes aside, do not get larger than this; blocks are refused instead. `None`: as much as the disk has.
    pub limit_bytes: Option<u64>,
    /// Space that is left to others on the same disk: while there is less, blocks are refused.
    pub min_free_bytes: u64,
}

impl JournalConfig {
    /// A journal in `dir` that syncs always, in files of 64 MiB, without a limit of its own, and leaves 64 MiB of the disk free.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            sync: SyncPolicy::Always,
            segment_bytes: 64 << 20,
            limit_bytes: None,
            min_free_bytes: 64 << 20,
        }
    }
}

/// When a block counts as kept. Spelled `always`, `interval`, or `interval:250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// When the disk says so. Survives a loss of power; what is queued together is synced together.
    Always,
    /// When the operating system has it; the disk is asked so much later at most. Survives the end of the process; a loss of
    /// power costs what came in meanwhile, although it was acknowledged.
    Interval(Duration),
}

impl SyncPolicy {
    /// The interval of `interval`.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(100);
}

/// A sync policy that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no sync policy: give always, interval (100 ms) or interval:250ms")]
pub struct SyncPolicyError(String);

impl FromStr for SyncPolicy {
    type Err = SyncPolicyError;

    fn from_str(text: &str) -> Result<Self, SyncPolicyError> {
        let error = || SyncPolicyError(text.to_owned());
        match text {
            "always" => return Ok(Self::Always),
            "interval" => return Ok(Self::Interval(Self::DEFAULT_INTERVAL)),
            _ => {}
        }
        let digits =
            text.strip_prefix("interval:").and_then(|rest| rest.strip_suffix("ms")).ok_or_else(error)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        digits.parse().map(|ms| Self::Interval(Duration::from_millis(ms))).map_err(|_| error())
    }
}

impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(interval) if *interval == Self::DEFAULT_INTERVAL => f.write_str("interval"),
            Self::Interval(interval) => write!(f, "interval:{}ms", interval.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_policy_reads_as_it_is_written() {
        let fast = SyncPolicy::Interval(Duration::from_millis(7));
        for policy in [SyncPolicy::Always, SyncPolicy::Interval(SyncPolicy::DEFAULT_INTERVAL), fast] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("interval".parse(), Ok(SyncPolicy::Interval(Duration::from_millis(100))));
        for text in ["", "Always", "interval:", "interval:ms", "interval:+1ms", "interval:1s", "100ms"] {
            let error = text.parse::<SyncPolicy>().expect_err(text);
            assert!(error.to_string().contains("always"), "{error}");
        }
    }
}
