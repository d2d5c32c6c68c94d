//! A toy service, and hosts that serve it.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "test support")]

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_proto::v1::admin_server::{Admin, AdminServer};
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_proto::v1::ingest_server::{Ingest, IngestServer};
use tidemark_proto::v1::*;
use tidemark_shell::link::Link;
use tidemark_shell::port::Port;
use tidemark_simulation::HostContext;
use tonic::{Request, Response, Status, Streaming};

/// Where the service is.
pub(crate) const PORT: u16 = 7000;

/// What the toys count, over all starts.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    /// Handlers that began.
    pub(crate) begun: Arc<AtomicU64>,
    /// Handlers and streams that were dropped or ended.
    pub(crate) over: Arc<AtomicU64>,
    /// Request streams that ended with an error.
    pub(crate) broken: Arc<AtomicU64>,
}

/// Counts when it is dropped.
struct Over(Arc<AtomicU64>);
impl Drop for Over {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
pub(crate) struct Toy {
    pub(crate) name: String,
    pub(crate) counts: Counts,
}

#[tonic::async_trait]
impl Ingest for Toy {
    type SendRowsStream = BoxStream<'static, Result<BatchAck, Status>>;
    type SendBlocksStream = BoxStream<'static, Result<BlockAck, Status>>;

    /// Echoes sequence numbers.
    async fn send_rows(
        &self,
        request: Request<Streaming<EncodedBatch>>,
    ) -> Result<Response<Self::SendRowsStream>, Status> {
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        let (over, broken) = (Over(Arc::clone(&self.counts.over)), Arc::clone(&self.counts.broken));
        let acks = request.into_inner().map(move |batch| {
            let _over = &over;
            if batch.is_err() {
                broken.fetch_add(1, Ordering::Relaxed);
            }
            batch.map(|batch| BatchAck { seq: batch.seq, ..BatchAck::default() })
        });
        Ok(Response::new(acks.boxed()))
    }

    async fn send_blocks(
        &self,
        _: Request<Streaming<Block>>,
    ) -> Result<Response<Self::SendBlocksStream>, Status> {
        Err(Status::unimplemented("a toy"))
    }
}

#[tonic::async_trait]
impl Admin for Toy {
    type WatchPlacementStream = BoxStream<'static, Result<PlacementReply, Status>>;

    /// Says its name.
    async fn members(&self, _: Request<MembersRequest>) -> Result<Response<MembersReply>, Status> {
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(MembersReply { missing: vec![self.name.clone()], ..MembersReply::default() }))
    }

    /// Never answers.
    async fn placement(&self, _: Request<PlacementRequest>) -> Result<Response<PlacementReply>, Status> {
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        let _over = Over(Arc::clone(&self.counts.over));
        std::future::pending().await
    }

    /// Counts, ten times a second.
    async fn watch_placement(
        &self,
        _: Request<PlacementRequest>,
    ) -> Result<Response<Self::WatchPlacementStream>, Status> {
        let counted = stream::unfold(0, |number| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((Ok(PlacementReply { shard_count: number, ..PlacementReply::default() }), number + 1))
        });
        Ok(Response::new(counted.boxed()))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        panic!("a handler that panics");
    }

    async fn receipts(&self, _: Request<ReceiptsRequest>) -> Result<Response<ReceiptsReply>, Status> {
        Err(Status::failed_precondition("a toy has none"))
    }
}

/// Serves the toy for ever.
pub(crate) fn serve(counts: Counts) -> impl FnOnce(HostContext) -> futures::future::BoxFuture<'static, ()> {
    move |context| {
        Box::pin(async move {
            let toy = Toy { name: context.name().to_owned(), counts };
            let routes = tonic::service::Routes::new(IngestServer::new(toy.clone()))
                .add_service(AdminServer::new(toy))
                .into_axum_router();
            match context.port(PORT) {
                Port::Handed { take, .. } => take(routes),
                other => unreachable!("{other:?}"),
            }
            std::future::pending().await
        })
    }
}

/// Does nothing for ever.
pub(crate) async fn idle(_: HostContext) {
    std::future::pending().await
}

pub(crate) fn link(context: &HostContext, server: &str) -> Link {
    context.connect().connect(&format!("{server}:{PORT}")).unwrap()
}

pub(crate) fn admin(link: &Link) -> AdminClient<Link> {
    AdminClient::new(link.clone())
}

pub(crate) fn ingest(link: &Link) -> IngestClient<Link> {
    IngestClient::new(link.clone())
}

pub(crate) fn batch(seq: u64) -> EventBatch {
    EventBatch { seq, ..EventBatch::default() }
}
