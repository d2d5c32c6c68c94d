//! Connections that are open.
//!
//! Owns: counting them.
//! Does not own: accepting them and their limits (who serves).

use crate::Server;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabel {
    server: Server,
}

/// Connections of the servers of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    open: Family<ServerLabel, Gauge>,
    accepted: Family<ServerLabel, Counter>,
}

impl Connections {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("connections_open", "Connections that are open", self.open.clone());
        registry.register("connections_accepted", "Connections that were accepted", self.accepted.clone());
    }

    pub(crate) fn open(&self, server: Server) -> Open {
        self.accepted.get_or_create(&ServerLabel { server }).inc();
        let open = self.open.get_or_create_owned(&ServerLabel { server });
        open.inc();
        Open(open)
    }
}

/// A connection's part of the number of those that are open.
#[derive(Debug)]
pub struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
