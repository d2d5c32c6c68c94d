//! Pulling blocks from another node.
//!
//! Owns: asking for what is lacking, counting what comes, and saying of which shards nothing is lacking any more.
//! Does not own: why it is lacking.

use super::{COMPARE_WITHIN, Repair};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::Member;
use tidemark_rollup::sharding::ShardId;
use tonic::Status;

/// Shards that are pulled in one stream, and streams at a time.
const SHARDS: usize = 8;
const STREAMS: usize = 2;
/// How long the next blocks of a stream may take.
const NEXT_WITHIN: Duration = Duration::from_secs(10);

impl Repair {
    /// What this node lacks of what another one holds, by shard.
    pub(super) async fn lacking(
        &self,
        holds: &[v1::ShardCoverage],
    ) -> Result<BTreeMap<ShardId, Coverage>, Status> {
        let mut lacking = BTreeMap::new();
        for of in holds {
            let (Some(shard), Some(held)) =
                (self.shards.shard(of.shard), of.coverage.as_ref().and_then(Coverage::from_wire))
            else {
                return Err(Status::invalid_argument(
                    "a coverage cannot be read: run one version on all members",
                ));
            };
            let Some(handle) = self.local.get(shard.index()) else { continue };
            let left = handle.lacking(held, COMPARE_WITHIN).await;
            let left = left.map_err(|error| Status::unavailable(error.to_string()))?;
            if !left.is_empty() {
                lacking.insert(shard, left);
            }
        }
        Ok(lacking)
    }

    /// Pulls these blocks from a node; returns the shards of which nothing of them is lacking any more.
    pub(super) async fn pull(&self, from: &Member, wanted: BTreeMap<ShardId, Coverage>) -> BTreeSet<ShardId> {
        if wanted.is_empty() {
            return BTreeSet::new();
        }
        let blocks: u64 = wanted.values().map(Coverage::len).fold(0, u64::saturating_add);
        self.behind.fetch_add(blocks, Ordering::Relaxed);
        let all: Vec<(ShardId, Coverage)> = wanted.into_iter().collect();
        let parts: Vec<BoxFuture<'_, BTreeSet<ShardId>>> =
            all.chunks(SHARDS).map(|part| self.pull_part(from, part).boxed()).collect();
        let done: Vec<BTreeSet<ShardId>> =
            futures::stream::iter(parts).buffer_unordered(STREAMS).collect().await;
        self.behind.fetch_sub(blocks, Ordering::Relaxed);
        done.into_iter().flatten().collect()
    }

    /// Pulls these blocks in one stream; returns the shards of which nothing of them is lacking any more.
    async fn pull_part(&self, from: &Member, part: &[(ShardId, Coverage)]) -> BTreeSet<ShardId> {
        if let Err(status) = self.pull_stream(from, part).await {
            tracing::debug!(node = %from.id, %status, "pulling blocks was cut off; it goes on later");
        }
        let mut done = BTreeSet::new();
        for (shard, wanted) in part {
            let Some(handle) = self.local.get(shard.index()) else { continue };
            let left = handle.lacking(wanted.clone(), COMPARE_WITHIN).await;
            if left.is_ok_and(|left| left.is_empty()) {
                done.insert(*shard);
            }
        }
        done
    }

    async fn pull_stream(&self, from: &Member, wanted: &[(ShardId, Coverage)]) -> Result<(), Status> {
        let mut client = self.peers.client(from).map_err(|error| Status::unavailable(error.to_string()))?;
        let coverage = |(shard, coverage): &(ShardId, Coverage)| v1::ShardCoverage {
            shard: shard.get(),
            coverage: Some(coverage.to_wire()),
        };
        let request =
            v1::PullRequest { shard_count: self.shards.get(), wanted: wanted.iter().map(coverage).collect() };
        let too_slow = |_| Status::deadline_exceeded("no blocks in time");
        let stream = tokio::time::timeout(NEXT_WITHIN, client.pull_blocks(request)).await;
        let mut stream = stream.map_err(too_slow)??.into_inner();
        while let Some(batch) =
            tokio::time::timeout(NEXT_WITHIN, stream.message()).await.map_err(too_slow)??
        {
            let permit = self.room.wait(batch.encoded_len()).await;
            let blocks = batch.blocks.into_iter().map(|block| (block, None)).collect();
            let acks = self.router.apply_all(blocks, &permit).await;
            drop(permit);
            self.meter.pulled(acks.len() as u64);
            if let Some(refused) = acks.into_iter().find_map(|ack| ack.refused) {
                return Err(Status::unavailable(refused.message));
            }
        }
        Ok(())
    }
}
