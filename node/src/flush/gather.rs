//! What of a bucket no commit covers.

use super::{Flusher, HAND_OUT_WITHIN};
use crate::committed::Committed;
use crate::planted::Bug;
use futures::StreamExt as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_journal::Entry;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// Blocks of one commit, as bytes: what is more goes into the next one.
const COMMIT_BYTES: u64 = 256 << 20;

/// What of one shard's bucket is to be committed.
pub(super) struct Gathered {
    pub(super) shard: ShardId,
    pub(super) entries: Vec<Entry>,
    /// The blocks of `entries`.
    pub(super) coverage: Coverage,
    /// Their rollup, where memory has exactly that.
    pub(super) rollup: Option<Arc<Bucket>>,
    /// Repeated events by site.
    pub(super) duplicates: BTreeMap<String, u64>,
}

impl Flusher {
    /// What the journal has of a bucket beyond its commits; what they cover leaves the journal.
    pub(super) async fn gather(
        &self,
        bucket: BucketStart,
        shards: &[ShardId],
        committed: &Committed,
    ) -> Vec<Gathered> {
        let mut gathered = Vec::new();
        let mut bytes = 0;
        for &shard in shards {
            // The coverage of the bucket's day was loaded before.
            let mut covered = committed.coverage(bucket, shard).ok().flatten().unwrap_or_default();
            if self.parts.planted.has(Bug::SkipCoverageCheck) {
                covered = Coverage::default();
            }
            if !covered.is_empty() {
                self.parts.journal.trim(shard, bucket, &covered);
            }
            let mut part = Gathered {
                shard,
                entries: Vec::new(),
                coverage: Coverage::default(),
                rollup: None,
                duplicates: BTreeMap::new(),
            };
            for entry in self.parts.journal.blocks_of(shard, bucket) {
                if bytes >= COMMIT_BYTES {
                    break;
                }
                if !covered.contains(entry.id.producer, entry.id.seq) {
                    bytes += u64::from(entry.record_bytes());
                    part.coverage.insert(entry.id.producer, entry.id.seq);
                    part.entries.push(entry);
                }
            }
            if !part.entries.is_empty() {
                gathered.push(part);
            }
        }
        let asked = futures::stream::iter(gathered).map(|mut part| async move {
            let handle = self.shards.get(part.shard.index());
            if let Some(Ok(flushing)) = futures::future::OptionFuture::from(
                handle.map(|handle| handle.flushing(bucket, HAND_OUT_WITHIN)),
            )
            .await
            {
                part.rollup = flushing.bucket.filter(|rollup| *rollup.coverage() == part.coverage);
                part.duplicates = flushing.duplicates;
            }
            part
        });
        asked.buffered(8).collect().await
    }

    /// Notes repeated events again whose commit did not come to pass.
    pub(super) fn keep_duplicates(
        &self,
        bucket: BucketStart,
        duplicates: Vec<(ShardId, BTreeMap<String, u64>)>,
    ) {
        for (shard, by_site) in duplicates {
            if let Some(handle) = self.shards.get(shard.index()) {
                handle.keep_duplicates(bucket, by_site);
            }
        }
    }
}
