//! `Cluster`: what members ask of one another.
//!
//! Owns: the wire of it.
//! Does not own: counting blocks (`router`), answering (`query`), repair (`repair`).

use super::{Inner, Services, unlike};
use crate::owners::Owners;
use crate::query::{LivePart, QueryRefused};
use crate::repair::Blocks;
use crate::shard::{Delivery, ShardHandle};
use futures::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::census::Census;
use tidemark_rollup::member::View;
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{DimensionOfBucket, Folds, ScanContext};
use tidemark_rollup::time::{BucketStart, EventTime};
use tonic::{Request, Response, Status};

/// Dimensions in one census: more than any query needs whose answer fits.
const MAX_CENSUS: usize = 100_000;

impl Inner {
    fn check_count(&self, shard_count: u32) -> Result<(), Status> {
        match shard_count == self.rules.shards.get() {
            true => Ok(()),
            false => Err(Status::failed_precondition(format!(
                "this node is of a cluster of {} shards, the question is for {shard_count}: start all members with the same --shards",
                self.rules.shards.get()
            ))),
        }
    }

    /// The shards that were asked for and that this node answers for, and the others: all of them where the asker sees nodes that
    /// this one has yet to meet.
    fn shards(
        &self,
        owners: &Owners,
        asked: &[u32],
        shard_count: u32,
        seen: &[v1::SeenNode],
    ) -> Result<(Vec<ShardHandle>, Vec<u32>), Status> {
        self.check_count(shard_count)?;
        let distinct: BTreeSet<u32> = asked.iter().copied().collect();
        let view = Arc::clone(&self.view.borrow());
        let (mut ready, mut not_ready) = (Vec::new(), Vec::new());
        if !owners.has_met(seen) {
            return Ok((ready, distinct.into_iter().collect()));
        }
        for number in distinct {
            let shard = self.rules.shards.shard(number).filter(|shard| owners.is_ready(*shard, &view));
            match shard.and_then(|shard| self.router.local.get(shard.index())) {
                Some(handle) => ready.push(handle.clone()),
                None => not_ready.push(number),
            }
        }
        Ok((ready, not_ready))
    }

    async fn query_partial(&self, request: v1::PartialRequest) -> Result<v1::PartialReply, Status> {
        // Known before anything is read: what is taken from now on need not be in the answer.
        let owners = Arc::clone(&self.router.owners.borrow());
        let (shards, not_ready) =
            self.shards(&owners, &request.shards, request.shard_count, &request.nodes)?;
        let now = self.clock.now();
        let wire = request.query.ok_or_else(|| Status::invalid_argument("query: is missing"))?;
        // The asker's moment is that of the question, so that all nodes answer the same one; which buckets are open is told by
        // the clock that closes them.
        let as_of = if request.as_of_ms > 0 { EventTime::from_unix_ms(request.as_of_ms) } else { now };
        let query = Query::parse(&wire, &self.rules.schema, as_of)
            .map_err(|error| unlike::unreadable(&error, &self.id))?;
        unlike::check_meanings(&request.measures, &self.rules.schema, &self.id)?;
        // Half for the shards' memory, half for the node's history.
        let share = self.rules.dimension_values / (2 * self.rules.shards.get());
        let context = ScanContext { folds: read_folds(request.folds)?, share };
        let refused = |refused| match refused {
            QueryRefused::Busy(_) => Status::resource_exhausted(refused.to_string()),
            QueryRefused::TooManyRows(_) => Status::invalid_argument(refused.to_string()),
        };
        // Cuts are agreed on anew each time: what was read under some is not kept.
        let is_kept = request.live && context.folds.is_empty() && owners.owed().is_empty();
        let (mut part, version, unchanged) = match is_kept {
            false => (self.queries.answer(shards, query, context, now).await.map_err(refused)?, 0, false),
            true => {
                let known = request.known_version;
                let live = self.queries.answer_live(shards, query, context, now, known);
                let LivePart { part, version, is_unchanged } = live.await.map_err(refused)?;
                (part, version, is_unchanged)
            }
        };
        for stranger in owners.owed() {
            part.partial.facts.note_gap(format!(
                "{stranger} began apart from this node, and has not been compared with yet: it may have taken events that are not here; ask again"
            ));
        }
        let bounds = part.distinct.bounds(part.answered.len() as u32, share);
        Ok(v1::PartialReply {
            distinct_values: bounds
                .map(|(of, at_most)| v1::DistinctValues { of: Some(write_dimension(of)), at_most })
                .collect(),
            partial: (!unchanged).then(|| part.partial.to_wire()),
            answered: part.answered.iter().map(|shard| shard.get()).collect(),
            not_ready,
            missing_nodes: away(&self.view.borrow()),
            version,
            unchanged,
        })
    }

    async fn take_census(&self, request: v1::CensusRequest) -> Result<v1::CensusReply, Status> {
        if request.of.len() > MAX_CENSUS {
            return Err(Status::invalid_argument(format!(
                "of: has {} entries; at most {MAX_CENSUS}",
                request.of.len()
            )));
        }
        let owners = Arc::clone(&self.router.owners.borrow());
        let (shards, not_ready) = self.shards(&owners, &request.shards, request.shard_count, &[])?;
        if !not_ready.is_empty() {
            return Err(Status::unavailable("some of these shards are others' now: ask again"));
        }
        let of: Vec<DimensionOfBucket> =
            request.of.into_iter().map(read_dimension).collect::<Result<_, _>>()?;
        unlike::check_dimensions(&of, &self.rules.schema, &self.id)?;
        let of = Arc::new(of);
        let mut merged = vec![Census::default(); of.len()];
        let asked = shards.iter().map(|shard| shard.take_census(Arc::clone(&of), self.timeout));
        let of_history = self.queries.census_of_history(&shards, &of);
        let (of_shards, of_history) = futures::join!(join_all(asked), of_history);
        let of_history = of_history.map_err(|error| Status::unavailable(error.to_string()))?;
        for taken in of_shards.into_iter().chain([Ok(of_history)]) {
            let taken = taken.map_err(|error| Status::unavailable(error.to_string()))?;
            for (mine, theirs) in merged.iter_mut().zip(&taken) {
                mine.merge(theirs, self.rules.dimension_values);
            }
        }
        let censuses = of
            .iter()
            .zip(&merged)
            .map(|(of, census)| v1::Census { of: Some(write_dimension(of)), hashes: census.to_wire() });
        Ok(v1::CensusReply { censuses: censuses.collect() })
    }

    async fn sites(&self) -> Result<v1::SitesReply, Status> {
        let complete = self.router.owners.borrow().has_all(&self.view.borrow());
        let shards = &self.router.local;
        let mut sites = self.queries.sites_of_history();
        for found in join_all(shards.iter().map(|shard| shard.sites(self.timeout))).await {
            sites.extend(found.map_err(|error| Status::unavailable(error.to_string()))?);
        }
        Ok(v1::SitesReply { sites: sites.into_iter().collect(), complete })
    }
}

fn read_dimension(wire: v1::DimensionOfBucket) -> Result<DimensionOfBucket, Status> {
    let bucket = BucketStart::from_unix_seconds(wire.bucket_start_s)
        .ok_or_else(|| Status::invalid_argument("bucket_start_s: is not the start of a bucket"))?;
    Ok(DimensionOfBucket { site: wire.site, bucket, dimension: wire.dimension })
}

fn write_dimension(of: &DimensionOfBucket) -> v1::DimensionOfBucket {
    v1::DimensionOfBucket {
        site: of.site.clone(),
        bucket_start_s: of.bucket.as_unix_seconds(),
        dimension: of.dimension.clone(),
    }
}

fn read_folds(wire: Vec<v1::Fold>) -> Result<Folds, Status> {
    let mut folds = Folds::default();
    for fold in wire {
        let of = fold.of.ok_or_else(|| Status::invalid_argument("folds: one has no dimension"))?;
        folds.insert(read_dimension(of)?, fold.max_kept_hash);
    }
    Ok(folds)
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for Services {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyReply>, Status> {
        let request = request.into_inner();
        self.0.check_count(request.shard_count)?;
        if request.blocks.len() != request.writers.len() {
            return Err(Status::invalid_argument("writers: there has to be one entry for each block"));
        }
        let bytes = request.blocks.iter().map(|block| block.columns.len()).sum();
        let permit = self.0.admission.admit(bytes);
        let permit = permit.map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
        let deliveries = request.writers.into_iter().map(|writers| Some(Delivery::from_wire(writers)));
        let blocks = request.blocks.into_iter().zip(deliveries).collect();
        Ok(Response::new(v1::ApplyReply { acks: self.0.router.apply_all(blocks, &permit).await }))
    }

    async fn query_partial(
        &self,
        request: Request<v1::PartialRequest>,
    ) -> Result<Response<v1::PartialReply>, Status> {
        self.0.query_partial(request.into_inner()).await.map(Response::new)
    }

    type WatchChangesStream = futures::stream::BoxStream<'static, Result<v1::ChangesReply, Status>>;

    async fn watch_changes(
        &self,
        _: Request<v1::ChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        Ok(Response::new(self.0.parts.changes.listen(self.0.shutdown.clone())))
    }

    async fn take_census(
        &self,
        request: Request<v1::CensusRequest>,
    ) -> Result<Response<v1::CensusReply>, Status> {
        self.0.take_census(request.into_inner()).await.map(Response::new)
    }

    async fn local_sites(&self, _: Request<v1::SitesRequest>) -> Result<Response<v1::SitesReply>, Status> {
        self.0.sites().await.map(Response::new)
    }

    async fn compare_coverage(
        &self,
        request: Request<v1::CompareRequest>,
    ) -> Result<Response<v1::CompareReply>, Status> {
        self.0.check_count(request.get_ref().shard_count)?;
        self.0.repair.compare(request.into_inner()).await.map(Response::new)
    }

    type PullBlocksStream = Blocks;

    async fn pull_blocks(&self, request: Request<v1::PullRequest>) -> Result<Response<Blocks>, Status> {
        self.0.check_count(request.get_ref().shard_count)?;
        self.0.repair.blocks(request.into_inner()).map(Response::new)
    }

    async fn invite_pull(
        &self,
        request: Request<v1::InviteRequest>,
    ) -> Result<Response<v1::InviteReply>, Status> {
        self.0.check_count(request.get_ref().shard_count)?;
        self.0.repair.accept_invitation(request.into_inner()).await.map(Response::new)
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Ok(Response::new(self.0.status()))
    }
}

/// Nodes that went without leaving, or have just been given up: shards are ready here without having been compared with either.
fn away(view: &View) -> Vec<String> {
    let given_up = view.nodes().filter(|node| node.doubtful).map(|node| &node.id);
    view.missing().iter().chain(given_up).map(ToString::to_string).collect()
}
