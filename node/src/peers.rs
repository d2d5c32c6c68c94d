//! Other nodes, and blocks on their way to them.
//!
//! Owns: one connection and one queue per node.
//! Does not own: which block goes to whom (`router`), what else nodes ask of one another (`repair`).
//!
//! Queues are bounded in bytes and each is emptied by a task of its own, so a node that is slow holds up nobody but those who
//! write to it.

mod breaker;
mod queue;

use crate::metrics::NodeMeter;
use crate::shard::Delivery;
pub(crate) use queue::Done;
use queue::{Outgoing, Queue};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_rollup::member::{Member, View};
use tidemark_rollup::sharding::ShardCount;
use tidemark_shell::link::{AddressError, Connect, Link, Links};

/// Why a block did not get to a node, or is not known to have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// Mend the node's address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nothing was sent. Wait, then send the same block again.
    #[error("{bytes} bytes are on their way to {address} already")]
    Full {
        /// Where.
        address: String,
        /// The limit.
        bytes: usize,
    },
    /// Nothing was sent: the node failed again and again a moment ago. Send the same block again later.
    #[error("the owner at {address} failed repeatedly and is not asked for a moment")]
    Resting {
        /// Where.
        address: String,
    },
    /// Counted or not, we cannot say. Send the same block again.
    #[error("the owner at {address} cannot be reached: {message}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the connection says.
        message: String,
    },
    /// Counted or not, we cannot say. Send the same block again.
    #[error("the owner at {address} did not answer within {waited:?}")]
    NoReply {
        /// Where.
        address: String,
        /// How long.
        waited: Duration,
    },
}

/// What goes for all queues.
#[derive(Clone, Debug)]
pub(crate) struct PeerSettings {
    pub(crate) shards: ShardCount,
    /// How long a node may take to acknowledge.
    pub(crate) timeout: Duration,
    /// Bytes on their way to one node.
    pub(crate) bytes: usize,
}

/// The other nodes.
#[derive(Debug)]
pub(crate) struct Peers {
    settings: PeerSettings,
    links: Links,
    queues: Mutex<BTreeMap<String, Queue>>,
    metrics: NodeMeter,
}

impl Peers {
    pub(crate) fn new(settings: PeerSettings, connect: Arc<dyn Connect>, metrics: NodeMeter) -> Self {
        Self { settings, links: Links::new(connect), queues: Mutex::default(), metrics }
    }

    /// A client of a node, for what is not a block.
    ///
    /// # Errors
    /// Where its address is none.
    pub(crate) fn client(&self, node: &Member) -> Result<ClusterClient<Link>, AddressError> {
        let link = self.links.to(&node.address)?;
        Ok(ClusterClient::new(link)
            .max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MEMBER_MESSAGE_BYTES))
    }

    /// Brings a block to a node, which is told who else gets it; `done` is told what becomes of it.
    pub(crate) fn apply(&self, node: &Member, block: v1::Block, delivery: Delivery, done: Done) {
        match self.queue(node) {
            Ok(queue) => queue.send(Outgoing::new(block, delivery), done),
            Err(error) => done(Err(error.into())),
        }
    }

    fn queue(&self, node: &Member) -> Result<Queue, AddressError> {
        if let Some(queue) = self.queues().get(&node.address) {
            return Ok(queue.clone());
        }
        let client = self.client(node)?;
        let begin =
            || Queue::begin(node.address.clone(), client, self.settings.clone(), self.metrics.clone());
        Ok(self.queues().entry(node.address.clone()).or_insert_with(begin).clone())
    }

    /// Held for a look-up only; each stream has its own blocks to wait for after it.
    fn queues(&self) -> MutexGuard<'_, BTreeMap<String, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the nodes that are not in view any more: as many queues stay as there are nodes.
    pub(crate) fn keep(&self, view: &View) {
        let addresses = view.members().iter().map(|member| member.address.as_str()).collect();
        self.links.keep(&addresses);
        self.queues().retain(|address, _| addresses.contains(address.as_str()));
    }
}
