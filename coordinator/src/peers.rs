//! The nodes as the coordinator sees them now.
//!
//! Owns: the plan for the current view, and one connection per node, opened when it is first needed.
//! Does not own: how the view comes about (given as a `watch`), what is asked over the connections (`fanout`, `posts`).

use crate::plan::Plan;
use dashmap::DashMap;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::member::View;
use tidemark_rollup::sharding::ShardCount;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

/// How long opening a connection may take: a host that is gone sends no refusal.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a connection is probed, also while nothing is asked, so that one whose other end vanished is found before
/// a query has to wait on it.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
/// How long a probe may go without an answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// An address that no connection can be made to. Mend the member's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: a member needs host:port")]
pub(crate) struct AddressError(String);

/// The nodes, and connections to them. Holds at most one connection per member of the view.
#[derive(Debug)]
pub(crate) struct Peers {
    view: watch::Receiver<View>,
    shards: ShardCount,
    plan: Mutex<Arc<Plan>>,
    channels: DashMap<String, Channel>,
}

impl Peers {
    pub(crate) fn new(view: watch::Receiver<View>, shards: ShardCount) -> Self {
        let plan = Mutex::new(Arc::new(Plan::of(&view.borrow(), shards)));
        Self { view, shards, plan, channels: DashMap::new() }
    }

    /// The plan for the view of this moment.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        let view = self.view.borrow().clone();
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if *plan.view() != view {
            self.forget_others(&view);
            *plan = Arc::new(Plan::of(&view, self.shards));
        }
        Arc::clone(&plan)
    }

    fn forget_others(&self, view: &View) {
        let addresses: BTreeSet<&str> = view.members().iter().map(|member| member.address.as_str()).collect();
        self.channels.retain(|address, _| addresses.contains(address.as_str()));
    }

    /// The connection to this address; opened at the first call over it, and again after it broke.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, AddressError> {
        if let Some(channel) = self.channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = lazy_channel(address).ok_or_else(|| AddressError(address.to_owned()))?;
        Ok(self.channels.entry(address.to_owned()).or_insert(channel).clone())
    }

    pub(crate) fn cluster(&self, address: &str) -> Result<ClusterClient<Channel>, AddressError> {
        let client = ClusterClient::new(self.channel(address)?);
        Ok(client.max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES))
    }

    pub(crate) fn ingest(&self, address: &str) -> Result<IngestClient<Channel>, AddressError> {
        Ok(IngestClient::new(self.channel(address)?))
    }
}

fn lazy_channel(address: &str) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    endpoint.uri().port()?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Some(endpoint.connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_rollup::member::{Member, NodeId};

    fn view(addresses: &[&str]) -> View {
        let member = |(at, address): (usize, &&str)| Member {
            id: NodeId::new(format!("n{at}")).unwrap(),
            address: (*address).into(),
        };
        View::new(addresses.iter().enumerate().map(member).collect()).unwrap()
    }

    #[tokio::test]
    async fn a_new_view_makes_a_new_plan_and_forgets_the_connections_of_those_who_left() {
        let (sender, receiver) = watch::channel(view(&["a:1", "b:1"]));
        let peers = Peers::new(receiver, ShardCount::DEFAULT);
        let before = peers.plan();
        assert!(Arc::ptr_eq(&before, &peers.plan()));
        for address in ["a:1", "b:1", "a:1"] {
            peers.channel(address).unwrap();
        }
        assert_eq!(peers.channels.len(), 2);

        sender.send(view(&["b:1"])).unwrap();
        assert_eq!(peers.plan().parts().len(), 1);
        assert_eq!(peers.channels.len(), 1);
    }

    #[tokio::test]
    async fn what_is_no_address_is_an_error_that_shows_it() {
        let peers = Peers::new(watch::channel(View::default()).1, ShardCount::DEFAULT);
        for address in ["", "host", "ho st:1", "host:port"] {
            let error = peers.channel(address).expect_err(address);
            assert!(error.to_string().contains("host:port"));
        }
    }
}
