//! Calls to other members.
//!
//! Owns: passing the trace on with each, and its span.
//! Does not own: connections (`tidemark_shell::link`).

use crate::layer::{CallBody, code};
use crate::methods::Methods;
use crate::trace::Tracing;
use crate::{Server, Telemetry};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::task::{Context, Poll};
use tidemark_shell::link::{AddressError, Connect, Link, LinkError};
use tonic::body::Body;
use tower::Service;

/// Connections over which traces go on.
#[derive(Debug)]
pub(crate) struct Traced {
    pub(crate) inner: Arc<dyn Connect>,
    pub(crate) server: Server,
    pub(crate) telemetry: Telemetry,
}

impl Connect for Traced {
    fn connect(&self, address: &str) -> Result<Link, AddressError> {
        let link = self.inner.connect(address)?;
        let (tracing, methods) = (self.telemetry.tracing.clone(), Arc::clone(&self.telemetry.methods));
        Ok(Link::new(TracedLink { link, server: self.server, tracing, methods }))
    }
}

#[derive(Clone, Debug)]
struct TracedLink {
    link: Link,
    server: Server,
    tracing: Tracing,
    methods: Arc<Methods>,
}

impl Service<http::Request<Body>> for TracedLink {
    type Response = http::Response<Body>;
    type Error = LinkError;
    type Future = BoxFuture<'static, Result<http::Response<Body>, LinkError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.link.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let method = self.methods.of(request.uri().path());
        let span = self.tracing.outgoing(request.headers_mut(), &method.name, self.server);
        let reply = self.link.call(request);
        let Some(mut span) = span else { return reply };
        Box::pin(async move {
            let reply = reply.await?;
            if let Some(code) = code(reply.headers()) {
                span.ends_with(code);
                return Ok(reply);
            }
            Ok(reply.map(|body| Body::new(CallBody::new(body, None, Some(span)))))
        })
    }
}
