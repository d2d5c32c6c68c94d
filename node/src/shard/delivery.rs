//! How a block that a sender brought comes to its owners.

use std::sync::Arc;
use tidemark_proto::v1;

/// Whom a block is brought to, and whether it was brought before.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// [`NodeId::key`](tidemark_rollup::member::NodeId::key) of all nodes that get it.
    pub writers: Arc<[u64]>,
    /// The same copy was brought before, and some owner refused it: one that took it then is not sent a second one now.
    pub again: bool,
}

impl Delivery {
    pub(crate) fn from_wire(wire: v1::Writers) -> Self {
        Self { writers: wire.nodes.into(), again: wire.again }
    }

    pub(crate) fn to_wire(&self) -> v1::Writers {
        v1::Writers { nodes: self.writers.to_vec(), again: self.again }
    }
}
