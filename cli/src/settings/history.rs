//! Settings of what is kept: the node's folder, the store, and for how long.
//!
//! Owns: the flags, their defaults and their help.
//! Does not own: what they do (`tidemark_journal`, `tidemark_history`).

use super::values::{self, Bytes};
use crate::settings::node::{mebibytes, text};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_history::retention::Retention;
use tidemark_history::store::Location;
use tidemark_journal::SyncPolicy;
use tidemark_node::config::{
    DEFAULT_CACHE_DISK_BYTES, DEFAULT_CACHE_MEMORY_BYTES, DEFAULT_COMPACT_AFTER, DEFAULT_KEEP, DEFAULT_SETTLE,
};

/// The folder of a node that is not told another one, in the folder where it is started.
pub(crate) const DEFAULT_DATA: &str = "tidemark-data";

/// Where history is.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What is kept")]
pub(crate) struct StoreSettings {
    /// Where history is: a folder, or s3://bucket/prefix [default: the folder `history` in `data`]
    ///
    /// All nodes of a cluster have the same. S3 takes endpoint, region and credentials from the usual environment:
    /// AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_ALLOW_HTTP=true for http.
    #[arg(long, value_name = "LOCATION", value_parser = values::location)]
    pub(crate) store: Option<Location>,

    /// The node's own folder: its journal, its cache, and history where no other place is given
    ///
    /// One node at a time. What it acknowledged and did not commit yet is here alone: put it on a disk that lasts.
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_DATA)]
    pub(crate) data: PathBuf,
}

impl StoreSettings {
    /// Where history is.
    pub(crate) fn location(&self) -> Location {
        self.store.clone().unwrap_or_else(|| history_in(&self.data))
    }
}

/// History of a node alone.
pub(crate) fn history_in(data: &Path) -> Location {
    Location::Folder(data.join("history"))
}

/// What a node keeps, and for how long.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What is kept")]
pub(crate) struct HistorySettings {
    #[command(flatten)]
    pub(crate) store: StoreSettings,

    /// When events are acknowledged: always (the disk has them), or interval (the disk has them 100 ms later)
    ///
    /// With interval:250ms at another time. Only a loss of power, not of the process, makes a difference: what came in during
    /// the interval is lost then, although it was acknowledged.
    #[arg(long, value_name = "POLICY", value_parser = values::sync_policy, default_value = "always")]
    pub(crate) sync: SyncPolicy,

    /// Disk for events that are not committed yet; beyond it senders are told to wait [default: as much as there is]
    ///
    /// It fills while the store is away. 64 MiB of the disk stay free in any case.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(crate) journal_limit: Option<Bytes>,

    /// How long committed five-minute buckets stay in memory, while memory lasts
    ///
    /// Longer answers more without reading segments.
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = text(DEFAULT_KEEP))]
    pub(crate) keep: Duration,

    /// How long late events wait for others of their five minutes before they are committed; five minutes at most
    ///
    /// Longer makes fewer and larger commits in a backfill.
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = text(DEFAULT_SETTLE))]
    pub(crate) settle: Duration,

    /// Disk for parts of segments that were read from a distant store; the least recently used ones make room
    #[arg(long, value_name = "SIZE", value_parser = values::size, default_value = mebibytes(DEFAULT_CACHE_DISK_BYTES))]
    pub(crate) cache_disk: Bytes,

    /// Memory for parts of segments; the least recently used ones make room
    #[arg(long, value_name = "SIZE", value_parser = values::size, default_value = mebibytes(DEFAULT_CACHE_MEMORY_BYTES))]
    pub(crate) cache_memory: Bytes,

    /// How long after its end a day is compacted; days that got late events are compacted again
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = text(DEFAULT_COMPACT_AFTER))]
    pub(crate) compact_after: Duration,

    #[command(flatten)]
    pub(crate) retention: RetentionSettings,
}

/// For how long history is kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What is kept")]
pub(crate) struct RetentionSettings {
    /// How long rows of five minutes are kept
    ///
    /// At least 8 days keep "a week ago" at full resolution. Beyond it there are rows of days.
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = text(Retention::default().five_minutes))]
    pub(crate) keep_five_minutes: Duration,

    /// How long raw events are kept; a rebuild and verifying need them
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = text(Retention::default().raw))]
    pub(crate) keep_raw: Duration,

    /// How long rows of days are kept, and everything else about a day
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = text(Retention::default().days))]
    pub(crate) keep_days: Duration,
}

impl RetentionSettings {
    /// The same for history.
    pub(crate) fn retention(&self) -> Retention {
        Retention { five_minutes: self.keep_five_minutes, raw: self.keep_raw, days: self.keep_days }
    }
}
