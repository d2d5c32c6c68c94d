//! A bucket's segments.

use super::gather::Gathered;
use super::{FlushError, Flusher};
use crate::rebuild::rollup_of;
use crate::shard::ShardParts;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_history::paths::{BucketSegment, ObjectPath};
use tidemark_history::segment::{RawWriter, RollupWriter, RowGroup, Written};
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::slice::slice;
use tidemark_rollup::time::{BUCKET_SECONDS, BucketStart};

/// A row group has whole shards, as many as it takes to have so many rows: few rows in each would be mostly headers.
const ROW_GROUP_ROWS: usize = 65_536;
/// A commit names its sites where they are no more than this.
const MAX_SITES: usize = 1_000;

type Duplicates = Vec<(ShardId, BTreeMap<String, u64>)>;

impl Flusher {
    /// Writes the segments of what was gathered, and uploads them under names of their own.
    pub(super) async fn write(
        &self,
        bucket: BucketStart,
        gathered: Vec<Gathered>,
    ) -> Result<(v1::Commit, Duplicates), FlushError> {
        let duplicates: Duplicates =
            gathered.iter().map(|part| (part.shard, part.duplicates.clone())).collect();
        let parts = Arc::clone(&self.parts);
        let written = tidemark_shell::work::run_apart(move || write_segments(&parts, bucket, gathered)).await;
        let uploaded = match written {
            Ok(written) => self.upload(bucket, written).await,
            Err(error) => Err(error),
        };
        match uploaded {
            Ok(commit) => Ok((commit, duplicates)),
            Err(error) => {
                self.keep_duplicates(bucket, duplicates);
                Err(error)
            }
        }
    }

    async fn upload(&self, bucket: BucketStart, segments: Segments) -> Result<v1::Commit, FlushError> {
        let attempt = self.history.attempt();
        let name = BucketSegment { bucket, writer: self.id.clone(), attempt };
        let rollup_path = ObjectPath::BucketRollup(name.clone()).to_string();
        let raw_path = ObjectPath::Raw(name).to_string();
        let rollup = segments.rollup.to_segment(&rollup_path);
        let raw = segments.raw.to_segment(&raw_path);
        let (first, second) = futures::join!(
            self.history.put(&rollup_path, segments.rollup.bytes),
            self.history.put(&raw_path, segments.raw.bytes),
        );
        first.and(second)?;
        Ok(v1::Commit {
            bucket_start_s: bucket.as_unix_seconds(),
            shard_count: self.parts.rules.shards.get(),
            writer: self.id.to_string(),
            attempt,
            committed_at_ms: self.clock.now().as_unix_ms(),
            rollup: Some(rollup),
            raw: Some(raw),
            coverage: segments.coverage,
            sites: segments.sites,
        })
    }
}

/// What a commit will name.
struct Segments {
    rollup: Written,
    raw: Written,
    coverage: Vec<v1::ShardCoverage>,
    sites: Vec<String>,
}

fn write_segments(
    parts: &ShardParts,
    bucket: BucketStart,
    gathered: Vec<Gathered>,
) -> Result<Segments, FlushError> {
    let mut raw = RawWriter::new()?;
    let mut coverage = Vec::new();
    let mut rollups: Vec<(ShardId, Arc<Bucket>, BTreeMap<String, u64>)> = Vec::new();
    for part in gathered {
        let blocks = blocks_of(parts, bucket, &part)?;
        let rollup = part.rollup.or_else(|| rollup_of(parts, part.shard, bucket, &blocks));
        rollups.extend(rollup.map(|rollup| (part.shard, rollup, part.duplicates)));
        blocks.into_iter().try_for_each(|block| raw.push(block))?;
        coverage.push(v1::ShardCoverage { shard: part.shard.get(), coverage: Some(part.coverage.to_wire()) });
    }
    let raw = raw.finish()?;
    let (rollup, sites) = write_rollups(parts, &rollups)?;
    Ok(Segments {
        rollup,
        raw,
        coverage,
        sites: if sites.len() <= MAX_SITES { sites.into_iter().collect() } else { Vec::new() },
    })
}

/// What a shard's blocks have of the bucket.
fn blocks_of(parts: &ShardParts, bucket: BucketStart, part: &Gathered) -> Result<Vec<v1::Block>, FlushError> {
    let read = part.entries.iter().map(|entry| {
        let read = parts.journal.read(entry).map_err(|error| error.to_string());
        let sliced =
            read.and_then(|block| slice(&block, bucket, &parts.rules).map_err(|error| error.to_string()));
        sliced.map_err(|error| {
            parts.metrics.block_lost();
            tracing::error!(block = %entry.id, %error, "a block of the journal cannot be archived any more");
            FlushError::Failed
        })
    });
    read.collect()
}

/// Shards with their rollups, and repeated events by site.
type Rollups = [(ShardId, Arc<Bucket>, BTreeMap<String, u64>)];

/// The segment of these rollups, and the sites in it. The rows of one row group are laid out at a time.
fn write_rollups(parts: &ShardParts, rollups: &Rollups) -> Result<(Written, BTreeSet<String>), FlushError> {
    let groups = row_groups(rollups);
    let schema = &parts.rules.schema;
    let most_urls = groups.iter().map(|group| urls(group)).max().unwrap_or_default();
    let mut writer = RollupWriter::new(schema, most_urls, BUCKET_SECONDS, parts.rules.shards)?;
    let mut sites = BTreeSet::new();
    for group in groups {
        let shards: Vec<ShardId> = group.iter().map(|(shard, ..)| *shard).collect();
        let laid_out: Vec<RollupPart<'_>> = group
            .iter()
            .map(|(_, bucket, _)| RollupPart { shard: shards[0], bucket, start: bucket.start() })
            .collect();
        let mut rows = SegmentRows::of(schema, &laid_out, &Folds::default());
        group.iter().for_each(|(_, _, duplicates)| rows.add_duplicates(duplicates));
        writer.push(RowGroup { shards: &shards, rows: &rows })?;
        sites.append(&mut rows.sites.into_iter().collect());
    }
    Ok((writer.finish()?, sites))
}

/// How many URLs a row group has, at most: some may be in several shards.
fn urls(group: &Rollups) -> u64 {
    group.iter().flat_map(|(_, bucket, _)| bucket.site_sizes()).map(|(_, urls, _)| urls).sum()
}

/// What goes into one row group each.
fn row_groups(rollups: &Rollups) -> Vec<&Rollups> {
    let mut groups = Vec::new();
    let mut rest = rollups;
    while !rest.is_empty() {
        let mut rows = 0;
        let len = rest.iter().take_while(|(_, rollup, _)| {
            let fits = rows < ROW_GROUP_ROWS;
            rows += rollup.row_count();
            fits
        });
        let (group, others) = rest.split_at(len.count());
        rest = others;
        groups.push(group);
    }
    groups
}
