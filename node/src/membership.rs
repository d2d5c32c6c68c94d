//! Who is in the cluster.
//!
//! Owns: the view that everything else in the node watches.
//! Does not own: which shard is whose (`Placement`, a pure function of the view).
//!
//! The view is static: the configured peers and the node itself. Whoever reads it reads a `watch`, so a view that changes
//! needs no change elsewhere.

use crate::config::NodeConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use tidemark_rollup::placement::{DuplicateMember, Member, Placement, View};
use tidemark_rollup::sharding::ShardCount;
use tokio::sync::watch;

/// The node's view of the cluster, and the placement that follows from it.
#[derive(Debug)]
pub struct Membership {
    view: watch::Sender<View>,
    placement: watch::Sender<Arc<Placement>>,
}

impl Membership {
    /// The members that the configuration names. The node itself is reached at `address`, unless it is among them.
    ///
    /// # Errors
    /// Where two members have one name.
    pub fn fixed(config: &NodeConfig, address: SocketAddr) -> Result<Self, DuplicateMember> {
        let mut members = config.peers.clone();
        if !members.iter().any(|member| member.id == config.id) {
            members.push(Member { id: config.id.clone(), address: address.to_string() });
        }
        Ok(Self::of(View::new(members)?, config.shards))
    }

    /// This view.
    pub fn of(view: View, shards: ShardCount) -> Self {
        let placement = Arc::new(Placement::of(&view, shards));
        Self { view: watch::Sender::new(view), placement: watch::Sender::new(placement) }
    }

    /// The view, now and later.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// The placement, now and later.
    pub fn placement(&self) -> watch::Receiver<Arc<Placement>> {
        self.placement.subscribe()
    }
}
