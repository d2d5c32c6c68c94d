//! The node's gRPC services: `Ingest`, `Cluster` and `Admin`.
//!
//! Owns: the wire: messages into calls, results into messages, errors into codes.
//! Does not own: what the calls do.

use crate::admission::{Admission, Permit};
use crate::metrics::NodeMeter;
use crate::query::{Queries, QueryRefused};
use crate::router::{Router, check_identity, refusal, refusal_of};
use crate::shard::ShardHandle;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::BoxStream;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::MAX_BATCH_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::{IgnoredWhy, Reason, RefusalReason};
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::census::Census;
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{DimensionOfBucket, Folds, ScanContext};
use tidemark_rollup::shard::ShardRules;
use tidemark_rollup::split::{BatchError, Rules, Split, split};
use tidemark_rollup::time::{BucketStart, Clock};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Batches of one stream that are worked on at a time. Acknowledgements come in order.
const BATCHES_PER_STREAM: usize = 64;
/// Dimensions in one census: more than any query needs whose answer fits.
const MAX_CENSUS: usize = 100_000;

/// What the services share.
#[derive(Clone)]
pub(crate) struct Services(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) router: Arc<Router>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) queries: Queries,
    pub(crate) rules: ShardRules,
    pub(crate) keep_params: KeepParams,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: NodeMeter,
    pub(crate) timeout: Duration,
    pub(crate) shutdown: CancellationToken,
}

impl Services {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}

impl Inner {
    async fn rows(&self, batch: v1::EventBatch) -> v1::BatchAck {
        let ack =
            v1::BatchAck { producer: batch.producer.clone(), seq: batch.seq, ..v1::BatchAck::default() };
        let refuse = |reason: RefusalReason, message: String| {
            self.metrics.refused(reason);
            v1::BatchAck { refused: Some(refusal_of(reason, message)), ..ack.clone() }
        };
        let size_bytes = batch.encoded_len();
        if size_bytes > MAX_BATCH_BYTES {
            let message = format!("the batch has {size_bytes} bytes; at most {MAX_BATCH_BYTES} are possible");
            return refuse(RefusalReason::TooLarge, message);
        }
        let permit = match self.admission.admit(size_bytes) {
            Ok(permit) => permit,
            Err(refused) => return refuse(RefusalReason::Overloaded, refused.to_string()),
        };
        let rules = Rules {
            schema: Some(&self.rules.schema),
            keep_params: &self.keep_params,
            times: self.rules.times,
            shards: self.rules.shards,
        };
        let Split { blocks, rejected, ignored } = match split(&batch, &rules, self.clock.now()) {
            Ok(split) => split,
            Err(error) => return refuse(refusal_reason(&error), error.to_string()),
        };
        drop(batch);
        let acks = self.router.deliver(blocks, &permit).await;
        if let Some(refused) = acks.iter().find_map(|ack| ack.refused.clone()) {
            self.metrics.refused(refused.reason());
            return v1::BatchAck { refused: Some(refused), ..ack };
        }
        self.note(&rejected, &ignored);
        v1::BatchAck {
            accepted: acks.iter().map(|ack| ack.accepted).sum(),
            duplicate: acks.iter().map(|ack| ack.duplicate).sum(),
            rejected,
            ignored,
            ..ack
        }
    }

    async fn block(&self, block: v1::Block) -> v1::BlockAck {
        let size_bytes = block.encoded_len();
        let refuse = |reason: RefusalReason, message: String| {
            self.metrics.refused(reason);
            refusal(&block, reason, message)
        };
        if size_bytes > MAX_BATCH_BYTES {
            let message = format!("the block has {size_bytes} bytes; at most {MAX_BATCH_BYTES} are possible");
            return refuse(RefusalReason::TooLarge, message);
        }
        let sealed_at = tidemark_rollup::time::EventTime::from_unix_ms(block.sealed_at_ms);
        if let Err(wrong) = self.rules.times.judge_seal(sealed_at, self.clock.now()) {
            return refuse(RefusalReason::BadSealTime, wrong.to_owned());
        }
        if let Err(ack) = check_identity(&block, self.rules.shards) {
            self.metrics.refused(ack.refused.as_ref().map_or(RefusalReason::Malformed, v1::Refusal::reason));
            return ack;
        }
        let permit = match self.admission.admit(size_bytes) {
            Ok(permit) => permit,
            Err(refused) => return refuse(RefusalReason::Overloaded, refused.to_string()),
        };
        let mut acks = self.router.deliver(vec![block], &permit).await;
        let ack = acks.pop().unwrap_or_default();
        if let Some(refused) = &ack.refused {
            self.metrics.refused(refused.reason());
        }
        ack
    }

    fn note(&self, rejected: &[v1::Rejection], ignored: &[v1::Ignored]) {
        let mut by_reason: BTreeMap<Reason, u64> = BTreeMap::new();
        rejected.iter().for_each(|rejection| *by_reason.entry(rejection.reason()).or_default() += 1);
        by_reason.into_iter().for_each(|(reason, events)| self.metrics.rejected(reason, events));
        let mut by_why: BTreeMap<IgnoredWhy, u64> = BTreeMap::new();
        ignored
            .iter()
            .for_each(|ignored| *by_why.entry(ignored.why()).or_default() += u64::from(ignored.events));
        by_why.into_iter().for_each(|(why, fields)| self.metrics.ignored(why, fields));
    }

    /// The shards that were asked for and are here.
    fn shards(&self, asked: &[u32], shard_count: u32) -> Result<Vec<ShardHandle>, Status> {
        if shard_count != self.rules.shards.get() {
            return Err(Status::failed_precondition(format!(
                "this node is of a cluster of {} shards, the question is for {shard_count}: start all members with the same --shards",
                self.rules.shards.get()
            )));
        }
        let distinct: BTreeSet<u32> = asked.iter().copied().collect();
        Ok(distinct
            .into_iter()
            .filter_map(|shard| self.router.local.get(shard as usize).cloned().flatten())
            .collect())
    }

    fn local_shards(&self) -> Vec<ShardHandle> {
        self.router.local.iter().flatten().cloned().collect()
    }

    async fn query_partial(&self, request: v1::PartialRequest) -> Result<v1::PartialReply, Status> {
        let shards = self.shards(&request.shards, request.shard_count)?;
        let now = self.clock.now();
        let wire = request.query.ok_or_else(|| Status::invalid_argument("query: is missing"))?;
        let query = Query::parse(&wire, &self.rules.schema, now)
            .map_err(|error| Status::invalid_argument(format!("{error} (on node {})", self.router.me)))?;
        // Half for the shards' memory, half for the node's history.
        let share = self.rules.dimension_values / (2 * self.rules.shards.get());
        let context = ScanContext { folds: read_folds(request.folds)?, share };
        let part =
            self.queries.answer(shards, query, context, now).await.map_err(|refused| match refused {
                QueryRefused::Busy(_) => Status::resource_exhausted(refused.to_string()),
                QueryRefused::TooManyRows(_) => Status::invalid_argument(refused.to_string()),
            })?;
        let bounds = part.distinct.bounds(part.answered.len() as u32, share);
        Ok(v1::PartialReply {
            distinct_values: bounds
                .map(|(of, at_most)| v1::DistinctValues { of: Some(write_dimension(of)), at_most })
                .collect(),
            partial: Some(part.partial.to_wire()),
            answered: part.answered.iter().map(|shard| shard.get()).collect(),
        })
    }

    async fn take_census(&self, request: v1::CensusRequest) -> Result<v1::CensusReply, Status> {
        if request.of.len() > MAX_CENSUS {
            return Err(Status::invalid_argument(format!(
                "of: has {} entries; at most {MAX_CENSUS}",
                request.of.len()
            )));
        }
        let shards = self.shards(&request.shards, request.shard_count)?;
        let of: Vec<DimensionOfBucket> =
            request.of.into_iter().map(read_dimension).collect::<Result<_, _>>()?;
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
        let shards = self.local_shards();
        let mut sites = self.queries.sites_of_history();
        for found in join_all(shards.iter().map(|shard| shard.sites(self.timeout))).await {
            sites.extend(found.map_err(|error| Status::unavailable(error.to_string()))?);
        }
        Ok(v1::SitesReply { sites: sites.into_iter().collect(), complete: true })
    }
}

fn refusal_reason(error: &BatchError) -> RefusalReason {
    match error {
        BatchError::Empty => RefusalReason::Empty,
        BatchError::Producer(_) => RefusalReason::BadProducer,
        BatchError::TooManyEvents(_) => RefusalReason::TooLarge,
        BatchError::SealTime(_) => RefusalReason::BadSealTime,
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

type AckStream<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl v1::ingest_server::Ingest for Services {
    type SendRowsStream = AckStream<v1::BatchAck>;

    async fn send_rows(
        &self,
        request: Request<Streaming<v1::EventBatch>>,
    ) -> Result<Response<AckStream<v1::BatchAck>>, Status> {
        let inner = Arc::clone(&self.0);
        // What is taken in is acknowledged; then the stream ends, and the sender opens another one elsewhere.
        let batchs = request.into_inner().take_until(self.0.shutdown.clone().cancelled_owned());
        let acks = batchs.map(move |batch| {
            let inner = Arc::clone(&inner);
            async move { Ok(inner.rows(batch?).await) }
        });
        Ok(Response::new(acks.buffered(BATCHES_PER_STREAM).boxed()))
    }

    type SendBlocksStream = AckStream<v1::BlockAck>;

    async fn send_blocks(
        &self,
        request: Request<Streaming<v1::Block>>,
    ) -> Result<Response<AckStream<v1::BlockAck>>, Status> {
        let inner = Arc::clone(&self.0);
        // What is taken in is acknowledged; then the stream ends, and the sender opens another one elsewhere.
        let blocks = request.into_inner().take_until(self.0.shutdown.clone().cancelled_owned());
        let acks = blocks.map(move |block| {
            let inner = Arc::clone(&inner);
            async move { Ok(inner.block(block?).await) }
        });
        Ok(Response::new(acks.buffered(BATCHES_PER_STREAM).boxed()))
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for Services {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyReply>, Status> {
        let request = request.into_inner();
        if request.shard_count != self.0.rules.shards.get() {
            return Err(Status::failed_precondition(
                "members disagree about the number of shards: use the same --shards",
            ));
        }
        let bytes = request.blocks.iter().map(|block| block.columns.len()).sum();
        let permit: Permit = self
            .0
            .admission
            .admit(bytes)
            .map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
        let acks = request.blocks.into_iter().map(|block| self.0.router.apply(block, permit.clone()));
        Ok(Response::new(v1::ApplyReply { acks: join_all(acks).await }))
    }

    async fn query_partial(
        &self,
        request: Request<v1::PartialRequest>,
    ) -> Result<Response<v1::PartialReply>, Status> {
        self.0.query_partial(request.into_inner()).await.map(Response::new)
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
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Services {
    async fn members(&self, _: Request<v1::MembersRequest>) -> Result<Response<v1::MembersReply>, Status> {
        let placement = Arc::clone(&self.0.router.placement.borrow());
        Ok(Response::new(v1::MembersReply {
            members: placement.members().iter().map(write_member).collect(),
        }))
    }

    async fn receipts(
        &self,
        request: Request<v1::ReceiptsRequest>,
    ) -> Result<Response<v1::ReceiptsReply>, Status> {
        let request = request.into_inner();
        let bucket = |seconds: u32, field: &str| {
            BucketStart::from_unix_seconds(seconds)
                .ok_or_else(|| Status::invalid_argument(format!("{field}: is not the start of a bucket")))
        };
        let (from, to) = (bucket(request.from_s, "from_s")?, bucket(request.to_s, "to_s")?);
        let site = Some(request.site.as_str()).filter(|site| !matches!(*site, "" | "*"));
        let shards = self.0.local_shards();
        let receipts = self.0.queries.receipts(&shards, site, from, to, &self.0.rules.schema).await;
        receipts.map(Response::new).map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn placement(
        &self,
        _: Request<v1::PlacementRequest>,
    ) -> Result<Response<v1::PlacementReply>, Status> {
        let placement = Arc::clone(&self.0.router.placement.borrow());
        Ok(Response::new(v1::PlacementReply {
            shard_count: self.0.rules.shards.get(),
            owners: placement.owners().to_vec(),
            members: placement.members().iter().map(write_member).collect(),
        }))
    }
}

fn write_member(member: &tidemark_rollup::placement::Member) -> v1::Member {
    v1::Member { id: member.id.to_string(), address: member.address.clone() }
}
