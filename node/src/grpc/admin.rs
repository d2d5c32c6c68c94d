//! `Admin`: for operators, and for clients that bring blocks to owners by themselves.
//!
//! Owns: the wire of it.
//! Does not own: membership, placement and receipts.

use super::{Inner, Services};
use crate::owners::Owners;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::Caller;
use tidemark_access::token::Scope;
use tidemark_proto::v1;
use tidemark_rollup::member::{Member, Role};
use tidemark_rollup::placement::Placement;
use tidemark_rollup::time::BucketStart;
use tonic::{Request, Response, Status};

/// How long a node may take to say how it is doing.
const STATUS_WITHIN: Duration = Duration::from_secs(1);

impl Inner {
    async fn members(&self, with_status: bool) -> v1::MembersReply {
        let view = Arc::clone(&self.view.borrow());
        let members = view.members().iter().map(|member| async move {
            let asked = with_status && member.role == Role::Node;
            let status = if asked { self.status_of(member).await } else { None };
            v1::Member { status, ..member.to_wire() }
        });
        v1::MembersReply {
            members: join_all(members).await,
            missing: view.missing().iter().map(ToString::to_string).collect(),
        }
    }

    async fn status_of(&self, node: &Member) -> Option<v1::StatusReply> {
        if node.id == self.id {
            return Some(self.status());
        }
        let mut client = self.peers.client(node).ok()?;
        let asked = tokio::time::timeout(STATUS_WITHIN, client.status(v1::StatusRequest {})).await;
        asked.ok()?.ok().map(Response::into_inner)
    }

    async fn receipts(
        &self,
        request: v1::ReceiptsRequest,
        caller: &Caller,
    ) -> Result<v1::ReceiptsReply, Status> {
        let bucket = |seconds: u32, field: &str| {
            BucketStart::from_unix_seconds(seconds)
                .ok_or_else(|| Status::invalid_argument(format!("{field}: is not the start of a bucket")))
        };
        let (from, to) = (bucket(request.from_s, "from_s")?, bucket(request.to_s, "to_s")?);
        let site = Some(request.site.as_str()).filter(|site| !matches!(*site, "" | "*"));
        match site {
            None => caller.may_for_all(Scope::Query)?,
            Some(site) => caller.may(Scope::Query, site)?,
        }
        let owners = Arc::clone(&self.router.owners.borrow());
        let is_asked = |number: u32| match request.shards.is_empty() {
            true => self.rules.shards.shard(number).is_some_and(|shard| owners.rank(shard) == Some(0)),
            false => request.shards.contains(&number),
        };
        let shards: Vec<_> =
            self.router.local.iter().filter(|handle| is_asked(handle.id().get())).cloned().collect();
        let told = self.queries.receipts(&shards, site, from, to, &self.rules.schema).await;
        told.map_err(|error| Status::unavailable(error.to_string()))
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Services {
    async fn members(
        &self,
        request: Request<v1::MembersRequest>,
    ) -> Result<Response<v1::MembersReply>, Status> {
        Ok(Response::new(self.0.members(request.get_ref().with_status).await))
    }

    async fn receipts(
        &self,
        request: Request<v1::ReceiptsRequest>,
    ) -> Result<Response<v1::ReceiptsReply>, Status> {
        let caller = Caller::of(request.extensions());
        self.0.receipts(request.into_inner(), &caller).await.map(Response::new)
    }

    async fn placement(
        &self,
        _: Request<v1::PlacementRequest>,
    ) -> Result<Response<v1::PlacementReply>, Status> {
        let owners = Arc::clone(&self.0.router.owners.borrow());
        Ok(Response::new(owners.placement.to_wire()))
    }

    type WatchPlacementStream = BoxStream<'static, Result<v1::PlacementReply, Status>>;

    async fn watch_placement(
        &self,
        request: Request<v1::PlacementRequest>,
    ) -> Result<Response<Self::WatchPlacementStream>, Status> {
        let caller = Caller::of(request.extensions());
        let owners = self.0.router.owners.clone();
        let placements = futures::stream::unfold((owners, None), |(mut owners, told)| async move {
            let placement = next_placement(&mut owners, told.as_ref()).await?;
            Some((Ok(placement.to_wire()), (owners, Some(placement))))
        });
        let stopped = self.0.shutdown.clone().cancelled_owned();
        Ok(Response::new(caller.while_allowed(placements.take_until(stopped)).boxed()))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        tracing::info!(node = %self.0.id, "asked to hand over and stop");
        self.0.drain.cancel();
        Ok(Response::new(v1::DrainReply {}))
    }
}

/// The placement, once it is another one than that which was told; `None` where the node stops.
async fn next_placement(
    owners: &mut tokio::sync::watch::Receiver<Arc<Owners>>,
    told: Option<&Arc<Placement>>,
) -> Option<Arc<Placement>> {
    loop {
        let placement = Arc::clone(&owners.borrow_and_update().placement);
        if told.is_none_or(|told| *told != placement) {
            return Some(placement);
        }
        owners.changed().await.ok()?;
    }
}
