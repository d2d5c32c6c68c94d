//! The nodes as the coordinator sees them now.
//!
//! Owns: the plan for the current view, and that there are no more connections than members.
//! Does not own: how the view comes about (given as a `watch`), connections (`tidemark_shell::link`), what is asked over
//! them (`query`, `posts`, `sites`, `readiness`).

use crate::plan::Plan;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::member::View;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use tidemark_shell::link::{AddressError, Connect, Link, Links};
use tokio::sync::watch;

/// The nodes, and connections to them.
#[derive(Debug)]
pub(crate) struct Peers {
    view: watch::Receiver<Arc<View>>,
    shards: ShardCount,
    replication: Replication,
    plan: Mutex<Arc<Plan>>,
    links: Links,
}

impl Peers {
    pub(crate) fn new(
        view: watch::Receiver<Arc<View>>,
        shards: ShardCount,
        replication: Replication,
        connect: Arc<dyn Connect>,
    ) -> Self {
        let plan = Mutex::new(Arc::new(Plan::of(&view.borrow(), shards, replication)));
        Self { view, shards, replication, plan, links: Links::new(connect) }
    }

    /// The plan for the view of this moment.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        let view = Arc::clone(&self.view.borrow());
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if *plan.view() != view {
            let addresses: BTreeSet<&str> = view.members().iter().map(|node| node.address.as_str()).collect();
            self.links.keep(&addresses);
            *plan = Arc::new(Plan::of(&view, self.shards, self.replication));
        }
        Arc::clone(&plan)
    }

    /// Tells of views that come after this moment.
    pub(crate) fn changes(&self) -> Changes {
        let mut view = self.view.clone();
        view.mark_unchanged();
        Changes(view)
    }

    /// The connection to this address; opened at the first call over it, and again after it broke.
    pub(crate) fn link(&self, address: &str) -> Result<Link, AddressError> {
        self.links.to(address)
    }

    pub(crate) fn cluster(&self, address: &str) -> Result<ClusterClient<Link>, AddressError> {
        let client = ClusterClient::new(self.link(address)?);
        Ok(client.max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES))
    }

    pub(crate) fn ingest(&self, address: &str) -> Result<IngestClient<Link>, AddressError> {
        Ok(IngestClient::new(self.link(address)?))
    }
}

/// Tells when there is another view.
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<Arc<View>>);

impl Changes {
    /// Waits for another view than the last one.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Whoever made views is gone: the last one stays.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_rollup::member::{Member, NodeId};
    use tidemark_shell::link::Dial;

    fn view(addresses: &[&str]) -> Arc<View> {
        let member =
            |(at, address): (usize, &&str)| Member::node(NodeId::new(format!("n{at}")).unwrap(), *address);
        Arc::new(View::new(addresses.iter().enumerate().map(member).collect()).unwrap())
    }

    #[tokio::test]
    async fn a_new_view_makes_a_new_plan_and_forgets_the_connections_of_those_who_left() {
        let (sender, receiver) = watch::channel(view(&["a:1", "b:1"]));
        let peers = Peers::new(receiver, ShardCount::DEFAULT, Replication::ONE, Arc::new(Dial::default()));
        let before = peers.plan();
        assert!(Arc::ptr_eq(&before, &peers.plan()));
        for address in ["a:1", "b:1", "a:1"] {
            peers.link(address).unwrap();
        }
        assert_eq!(peers.links.count(), 2);

        sender.send(view(&["b:1"])).unwrap();
        let plan = peers.plan();
        assert!(plan.shards().all(|shard| plan.readers(shard)[0].address == "b:1"));
        assert_eq!(peers.links.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once_and_the_end_of_views_is_none() {
        let (sender, receiver) = watch::channel(view(&["a:1"]));
        let peers = Peers::new(receiver, ShardCount::DEFAULT, Replication::ONE, Arc::new(Dial::default()));
        let mut changes = peers.changes();
        let told = async |changes: &mut Changes| {
            tokio::time::timeout(std::time::Duration::from_secs(1), changes.next()).await.is_ok()
        };
        assert!(!told(&mut changes).await);
        sender.send(view(&["b:1"])).unwrap();
        assert!(told(&mut changes).await);
        assert!(!told(&mut changes).await);
        drop(sender);
        assert!(!told(&mut changes).await);
    }
}
