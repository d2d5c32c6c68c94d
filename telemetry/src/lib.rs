//! What every serving process tells of itself, whatever it serves.
//!
//! Owns: metrics of the process (memory, processor time, open files), of connections, and of calls: how many, by method and
//! outcome, and how long they took; and spans of calls, across members, where somebody collects them.
//! Also how often a sentence may go to the log that requests can make repeat.
//! Does not own: what a node, a coordinator or a member counts (theirs), the registry (given), logs (the program's).
//!
//! Nothing here is per event, site or URL: a call is counted once, however many events it has, and labels come from lists that
//! are fixed when the process starts.
#![forbid(unsafe_code)]

pub mod connections;
mod layer;
mod link;
mod methods;
pub mod otlp;
pub mod process;
mod requests;
pub mod seldom;
pub mod trace;

pub use requests::code_name;

use axum::Router;
use axum::middleware;
use connections::{Connections, Open};
use methods::Methods;
use prometheus_client::encoding::EncodeLabelValue;
use prometheus_client::registry::Registry;
use requests::Requests;
use std::sync::Arc;
use tidemark_shell::link::Connect;
use trace::Tracing;

/// Who serves: one process may hold several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the label's values are written like this")]
pub enum Server {
    /// A coordinator.
    coordinator,
    /// An edge collector.
    edge,
    /// A node.
    node,
}

impl Server {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::coordinator => "coordinator",
            Self::edge => "edge",
            Self::node => "node",
        }
    }
}

/// What the servers of a process report to. Cheap to clone; the default one reports to nobody.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    requests: Requests,
    connections: Connections,
    methods: Arc<Methods>,
    tracing: Tracing,
}

impl Telemetry {
    /// Metrics that `registry` shows, those of the process among them. Made once per registry; `version` is what the process
    /// runs.
    pub fn new(registry: &mut Registry, version: &str) -> Self {
        let telemetry = Self::default();
        process::register(registry, version);
        let registry = registry.sub_registry_with_prefix("tidemark");
        telemetry.requests.register(registry);
        telemetry.connections.register(registry);
        telemetry
    }

    /// The same, making spans as `tracing` says.
    #[must_use]
    pub fn traced(self, tracing: Tracing) -> Self {
        Self { tracing, ..self }
    }

    /// Has calls over the connections that `inner` makes go on with the trace that they come of.
    pub fn connect(&self, server: Server, inner: Arc<dyn Connect>) -> Arc<dyn Connect> {
        Arc::new(link::Traced { inner, server, telemetry: self.clone() })
    }

    /// Has the gRPC services of `router` count their calls. To be the innermost layer, inside of what translates for browsers.
    pub fn grpc(&self, server: Server, router: Router) -> Router {
        let watched = layer::Watched { server, telemetry: self.clone() };
        router.layer(middleware::from_fn_with_state(watched, layer::grpc))
    }

    /// Has all other routes of `router` count their requests. To be the outermost layer: calls of gRPC pass through.
    pub fn http(&self, server: Server, router: Router) -> Router {
        let watched = layer::Watched { server, telemetry: self.clone() };
        router.layer(middleware::from_fn_with_state(watched, layer::http))
    }

    /// Counts a connection that was accepted, for as long as the value lives.
    pub fn connection(&self, server: Server) -> Open {
        self.connections.open(server)
    }
}
