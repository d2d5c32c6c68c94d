//! A node without actors, journal and peers: real shards behind the real wire, and moods.

use futures::stream::BoxStream;
use futures::{StreamExt as _, future};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1;
use tidemark_proto::v1::cluster_server::{Cluster, ClusterServer};
use tidemark_proto::v1::ingest_server::{Ingest, IngestServer};
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::census::Census;
use tidemark_rollup::member::{Member, NodeId};
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{DimensionOfBucket, Folds, ScanContext, Scanned, scan, take_census};
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::split::{Rules, split_encoded};
use tidemark_rollup::time::{BucketStart, EventTime};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// What a node can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Partial,
    FoldedPartial,
    Census,
    Rows,
    Changes,
    Status,
}

/// How a node answers.
#[derive(Clone, Debug)]
pub(super) enum Mood {
    Well,
    /// Never answers this.
    HangsOn(Call),
    /// Answers questions so much later.
    Slow(Duration),
    /// Answers every question with this.
    Fails(Status),
    /// Is not ready to answer for these shards.
    Lacks(Vec<u32>),
    /// Misses these nodes.
    Misses(Vec<String>),
    /// Sends a partial that fits no question.
    Garbles,
    /// Takes no rows.
    RefusesRows(v1::RefusalReason),
}

/// A node that answers as its mood is.
pub(super) struct FakeNode {
    pub(super) member: Member,
    state: Arc<State>,
    _stop: Option<DropGuard>,
}

struct State {
    rules: ShardRules,
    now: EventTime,
    shards: Mutex<Vec<Shard>>,
    mood: Mutex<Mood>,
    calls: Mutex<Vec<Call>>,
    changes: broadcast::Sender<()>,
    status: Mutex<v1::StatusReply>,
}

impl FakeNode {
    /// A node that nobody can reach yet.
    pub(super) fn new(name: &str, address: String, rules: &ShardRules, now: EventTime) -> Self {
        let shards = rules.shards.shards().map(|id| Shard::new(id, rules.clone())).collect();
        let state = Arc::new(State {
            rules: rules.clone(),
            now,
            shards: Mutex::new(shards),
            mood: Mutex::new(Mood::Well),
            calls: Mutex::default(),
            changes: broadcast::Sender::new(1),
            status: Mutex::new(v1::StatusReply {
                flow: Some(v1::NodeFlow::default()),
                ..v1::StatusReply::default()
            }),
        });
        Self { member: Member::node(NodeId::new(name).unwrap(), address), state, _stop: None }
    }

    /// A node at a port.
    pub(super) async fn start(name: &str, rules: &ShardRules, now: EventTime) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = Self::new(name, listener.local_addr().unwrap().to_string(), rules, now);
        let stop = CancellationToken::new();
        let server = Server::builder().add_routes(node.routes());
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
            let _ = stopped.run_until_cancelled(serving).await;
        });
        Self { _stop: Some(stop.drop_guard()), ..node }
    }

    /// Its services.
    pub(super) fn routes(&self) -> Routes {
        let (_, health) = tonic_health::server::health_reporter();
        let cluster = ClusterServer::from_arc(Arc::clone(&self.state))
            .max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MEMBER_MESSAGE_BYTES);
        Routes::new(cluster).add_service(IngestServer::from_arc(Arc::clone(&self.state))).add_service(health)
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        *self.state.mood.lock().unwrap() = mood;
    }

    /// What it says about how it is doing.
    pub(super) fn set_status(&self, status: v1::StatusReply) {
        *self.state.status.lock().unwrap() = status;
    }

    /// What it was asked for since the last time.
    pub(super) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state.calls.lock().unwrap())
    }

    pub(super) fn apply(&self, block: &v1::Block) {
        self.state.apply(block);
    }
}

impl State {
    fn apply(&self, block: &v1::Block) -> tidemark_rollup::shard::Applied {
        let applied = self.shards.lock().unwrap()[block.shard as usize].apply(block).unwrap();
        let _ = self.changes.send(());
        applied
    }

    /// Notes the call and acts on the mood.
    async fn enter(&self, call: Call) -> Result<Mood, Status> {
        self.calls.lock().unwrap().push(call);
        let mood = self.mood.lock().unwrap().clone();
        match mood {
            Mood::HangsOn(hangs_on) if hangs_on == call => future::pending().await,
            Mood::Fails(status) => Err(status),
            Mood::Slow(by) => {
                tokio::time::sleep(by).await;
                Ok(Mood::Well)
            }
            mood => Ok(mood),
        }
    }

    fn buckets(&self, shard: u32) -> Vec<Arc<Bucket>> {
        self.shards.lock().unwrap()[shard as usize].buckets().cloned().collect()
    }

    fn partial(&self, request: &v1::PartialRequest, lacks: &[u32]) -> v1::PartialReply {
        let as_of = EventTime::from_unix_ms(request.as_of_ms);
        let query = Query::parse(request.query.as_ref().unwrap(), &self.rules.schema, as_of).unwrap();
        let share = self.rules.dimension_values / self.rules.shards.get();
        let mut folds = Folds::default();
        for fold in &request.folds {
            folds.insert(read_dimension(fold.of.as_ref().unwrap()), fold.max_kept_hash);
        }
        let context = ScanContext { folds, share };
        let answered: Vec<u32> =
            request.shards.iter().copied().filter(|shard| !lacks.contains(shard)).collect();
        let buckets: Vec<Vec<Arc<Bucket>>> = answered.iter().map(|&shard| self.buckets(shard)).collect();
        let Scanned { partial, distinct } = scan(buckets.iter().map(Vec::as_slice), &query, &context);
        let bounds = distinct.bounds(answered.len() as u32, share);
        let distinct_values =
            bounds.map(|(of, at_most)| v1::DistinctValues { of: Some(write_dimension(of)), at_most });
        v1::PartialReply {
            distinct_values: distinct_values.collect(),
            partial: Some(partial.to_wire()),
            answered,
            not_ready: request.shards.iter().copied().filter(|shard| lacks.contains(shard)).collect(),
            ..v1::PartialReply::default()
        }
    }
}

fn read_dimension(of: &v1::DimensionOfBucket) -> DimensionOfBucket {
    let bucket = BucketStart::from_unix_seconds(of.bucket_start_s).unwrap();
    DimensionOfBucket { site: of.site.clone(), bucket, dimension: of.dimension.clone() }
}

fn write_dimension(of: &DimensionOfBucket) -> v1::DimensionOfBucket {
    v1::DimensionOfBucket {
        site: of.site.clone(),
        bucket_start_s: of.bucket.as_unix_seconds(),
        dimension: of.dimension.clone(),
    }
}

/// What only nodes ask nodes.
fn not_for_coordinators<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("coordinators do not ask for this"))
}

#[tonic::async_trait]
impl Cluster for State {
    type PullBlocksStream = BoxStream<'static, Result<v1::BlockBatch, Status>>;

    async fn apply(&self, _: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyReply>, Status> {
        not_for_coordinators()
    }

    async fn compare_coverage(
        &self,
        _: Request<v1::CompareRequest>,
    ) -> Result<Response<v1::CompareReply>, Status> {
        not_for_coordinators()
    }

    async fn pull_blocks(
        &self,
        _: Request<v1::PullRequest>,
    ) -> Result<Response<Self::PullBlocksStream>, Status> {
        not_for_coordinators()
    }

    async fn invite_pull(&self, _: Request<v1::InviteRequest>) -> Result<Response<v1::InviteReply>, Status> {
        not_for_coordinators()
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        self.enter(Call::Status).await?;
        Ok(Response::new(self.status.lock().unwrap().clone()))
    }

    async fn query_partial(
        &self,
        request: Request<v1::PartialRequest>,
    ) -> Result<Response<v1::PartialReply>, Status> {
        let request = request.into_inner();
        assert_eq!(request.shard_count, self.rules.shards.get());
        let call = if request.folds.is_empty() { Call::Partial } else { Call::FoldedPartial };
        let reply = match self.enter(call).await? {
            Mood::Lacks(lacks) => self.partial(&request, &lacks),
            Mood::Misses(missing_nodes) => v1::PartialReply { missing_nodes, ..self.partial(&request, &[]) },
            Mood::Garbles => v1::PartialReply {
                partial: Some(v1::Partial { row_count: 7, ..v1::Partial::default() }),
                answered: request.shards,
                ..v1::PartialReply::default()
            },
            _ => self.partial(&request, &[]),
        };
        Ok(Response::new(reply))
    }

    type WatchChangesStream = BoxStream<'static, Result<v1::ChangesReply, Status>>;

    async fn watch_changes(
        &self,
        _: Request<v1::ChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        self.enter(Call::Changes).await?;
        let changes = BroadcastStream::new(self.changes.subscribe());
        Ok(Response::new(changes.map(|_| Ok(v1::ChangesReply::default())).boxed()))
    }

    async fn take_census(
        &self,
        request: Request<v1::CensusRequest>,
    ) -> Result<Response<v1::CensusReply>, Status> {
        self.enter(Call::Census).await?;
        let request = request.into_inner();
        let of: Vec<DimensionOfBucket> = request.of.iter().map(read_dimension).collect();
        let mut merged = vec![Census::default(); of.len()];
        for &shard in &request.shards {
            for (mine, theirs) in merged.iter_mut().zip(take_census(&self.buckets(shard), &of)) {
                mine.merge(&theirs, self.rules.dimension_values);
            }
        }
        let census = |(of, census): (_, &Census)| v1::Census { of: Some(of), hashes: census.to_wire() };
        Ok(Response::new(v1::CensusReply {
            censuses: request.of.into_iter().zip(&merged).map(census).collect(),
        }))
    }

    async fn local_sites(&self, _: Request<v1::SitesRequest>) -> Result<Response<v1::SitesReply>, Status> {
        self.enter(Call::Partial).await?;
        let shards = 0..self.rules.shards.get();
        let buckets = shards.flat_map(|shard| self.buckets(shard));
        let sites: BTreeSet<String> =
            buckets.flat_map(|bucket| bucket.sites().map(str::to_owned).collect::<Vec<_>>()).collect();
        Ok(Response::new(v1::SitesReply { sites: sites.into_iter().collect(), complete: true }))
    }
}

#[tonic::async_trait]
impl Ingest for State {
    type SendRowsStream = BoxStream<'static, Result<v1::BatchAck, Status>>;
    type SendBlocksStream = BoxStream<'static, Result<v1::BlockAck, Status>>;

    /// Counts all shards itself, whoever owns them.
    async fn send_rows(
        &self,
        request: Request<Streaming<EncodedBatch>>,
    ) -> Result<Response<Self::SendRowsStream>, Status> {
        let mood = self.enter(Call::Rows).await?;
        let mut batches = request.into_inner();
        let batch = batches.message().await?.ok_or_else(|| Status::invalid_argument("no batch"))?;
        let mut ack =
            v1::BatchAck { producer: batch.producer.clone(), seq: batch.seq, ..v1::BatchAck::default() };
        if let Mood::RefusesRows(reason) = mood {
            let retry_after_ms = if reason == v1::RefusalReason::Overloaded { 2_500 } else { 0 };
            ack.refused = Some(v1::Refusal {
                reason: reason.into(),
                retry_after_ms,
                message: "not now".into(),
                limit: None,
            });
            return Ok(Response::new(tokio_stream::once(Ok(ack)).boxed()));
        }
        let keep_params = KeepParams::default();
        let rules = Rules {
            schema: Some(&self.rules.schema),
            keep_params: &keep_params,
            times: self.rules.times,
            shards: self.rules.shards,
        };
        let split = split_encoded(&batch, &rules, self.now).unwrap();
        for applied in split.blocks.iter().map(|block| self.apply(block)) {
            ack.accepted += applied.counted + applied.duplicate;
            ack.duplicate += applied.duplicate;
        }
        (ack.rejected, ack.ignored) = (split.rejected, split.ignored);
        Ok(Response::new(tokio_stream::once(Ok(ack)).boxed()))
    }

    async fn send_blocks(
        &self,
        _: Request<Streaming<v1::Block>>,
    ) -> Result<Response<Self::SendBlocksStream>, Status> {
        Err(Status::unimplemented("coordinators send rows"))
    }
}
