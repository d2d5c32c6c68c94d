//! A connection whose errors have a name.
//!
//! Owns: nothing but that name.
//! Does not own: connections (`tidemark_shell::link`).
//!
//! A future over calls whose error is a bare `Box<dyn Error>` can be sent to other threads, but the compiler does not see that
//! ("implementation of `Send` is not general enough").

use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::task::{Context, Poll};
use tidemark_shell::link::{Link, LinkError};
use tonic::body::Body;
use tonic::codegen::{Service, http};

/// What goes wrong on a connection.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct WireError(LinkError);

/// A connection to a node.
#[derive(Clone, Debug)]
pub(crate) struct Wire(pub(crate) Link);

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = WireError;
    type Future = BoxFuture<'static, Result<http::Response<Body>, WireError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.0.poll_ready(context).map_err(WireError)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.0.call(request);
        async move { call.await.map_err(WireError) }.boxed()
    }
}
