//! Connections to nodes, as the generated clients take them.
//!
//! Owns: a connection of a type that has a name throughout: futures over a bare `Box<dyn Error>` cannot be sent to other threads
//! as far as the compiler sees.
//! Does not own: opening them (`tidemark_shell::link`).

use std::pin::Pin;
use std::task::{Context, Poll};
use tidemark_shell::link::{AddressError, Link, LinkError, Links};
use tonic::body::Body;
use tower::Service;

/// What goes wrong on a connection.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct WireError(#[from] LinkError);

/// A connection to a node.
#[derive(Clone, Debug)]
pub(crate) struct Wire(Link);

/// The connection to this address.
pub(crate) fn wire(links: &Links, address: &str) -> Result<Wire, AddressError> {
    links.to(address).map(Wire)
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = WireError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, WireError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.0.poll_ready(cx).map_err(WireError)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.0.call(request);
        Box::pin(async move { call.await.map_err(WireError) })
    }
}
