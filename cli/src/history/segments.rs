//! `tidemark segments`: which objects hold what is committed, for other programs to read.
//!
//! Not every Parquet file in a store counts: segments that were replaced, and those of flushes that were cut off, stay for a
//! day. This prints those that do, each block in exactly one of them.

use super::{Range, open};
use crate::output;
use crate::settings::Sources;
use crate::settings::history::StoreSettings;
use crate::settings::values;
use clap::{Args, ValueEnum};
use tidemark_history::catalog::History;
use tidemark_history::store::Location;
use tidemark_proto::v1;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::BucketStart;

/// Which segments.
#[derive(Clone, Debug, Args)]
pub(crate) struct SegmentsOptions {
    #[command(flatten)]
    range: Range,

    #[command(flatten)]
    sources: Sources,

    #[command(flatten)]
    store: StoreSettings,

    /// Number of shards of the cluster
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = values::shard_count,
        default_value = ShardCount::DEFAULT.get().to_string()
    )]
    shards: ShardCount,

    /// Which kind: rows of five minutes, rows of days, or raw blocks
    ///
    /// Compacted five-minute segments have whole days: filter by time. Rows of days are there for compacted days only.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Kind::FiveMinutes)]
    kind: Kind,
}

/// A kind of segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Rows of five minutes.
    #[value(name = "5m")]
    FiveMinutes,
    /// Rows of days.
    #[value(name = "1d")]
    Days,
    /// Blocks of events.
    #[value(name = "raw")]
    Raw,
}

/// Prints the segments, a path per line.
pub(crate) async fn run(options: &SegmentsOptions) -> anyhow::Result<()> {
    let (from, to) = options.range.buckets()?;
    let (_, catalog) = open(&options.store, options.shards).await?;
    let history = catalog.current();
    for damage in history.damaged() {
        eprintln!("warning: {damage}");
    }
    let root = match options.store.location() {
        Location::Folder(folder) => format!("{}/", folder.display()),
        Location::S3 { .. } => format!("{}/", options.store.location()),
        Location::Memory => String::new(),
    };
    let paths: String = segments(&history, options.kind, from, to)
        .iter()
        .map(|segment| format!("{root}{}\n", segment.path))
        .collect();
    Ok(output::print(&paths)?)
}

fn segments(history: &History, kind: Kind, from: BucketStart, to: BucketStart) -> Vec<&v1::Segment> {
    let mut found: Vec<&v1::Segment> = Vec::new();
    for day in history.all_days() {
        let start = day.start();
        if start.end() <= from.time() || to.time() <= start.time() {
            continue;
        }
        if let Some(holds) = day.replacement() {
            let asked = |bucket: &&v1::ReplacedBucket| {
                (from.as_unix_seconds()..to.as_unix_seconds()).contains(&bucket.bucket_start_s)
            };
            match kind {
                Kind::FiveMinutes => found.extend(&holds.day.five_minutes),
                Kind::Days => found.extend(&holds.day.days),
                Kind::Raw => {
                    found.extend(holds.day.buckets.iter().filter(asked).flat_map(|bucket| &bucket.raw))
                }
            }
        }
        for commit in day.commits().filter(|commit| (from..to).contains(&commit.bucket())) {
            match kind {
                Kind::FiveMinutes => found.extend(&commit.message().rollup),
                Kind::Days => {}
                Kind::Raw => found.extend(&commit.message().raw),
            }
        }
    }
    found
}
