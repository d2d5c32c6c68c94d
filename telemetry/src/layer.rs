//! Where calls and requests are seen.
//!
//! Owns: the layers around gRPC services and HTTP routes, and the body that tells how a call ended.
//! Does not own: what is counted (`requests`), spans (`trace`).

use crate::methods::OTHER;
use crate::requests::Call;
use crate::trace::Span;
use crate::{Server, Telemetry};
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::{Code, Status};

/// Who is watched, and what it reports to.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) server: Server,
    pub(crate) telemetry: Telemetry,
}

/// Around the gRPC services.
pub(crate) async fn grpc(State(watched): State<Watched>, request: Request, next: Next) -> Response {
    let Watched { server, telemetry } = watched;
    let method = telemetry.methods.of(request.uri().path());
    let mut span = telemetry.tracing.incoming(request.headers(), &method.name, server);
    let mut call = telemetry.requests.call(server, method);
    let response = match &span {
        None => next.run(request).await,
        Some(span) => span.around(next.run(request)).await,
    };
    // A call that fails at once says so in its head, and has no body.
    if let Some(code) = code(response.headers()) {
        call.ends_with(code);
        span.iter_mut().for_each(|span| span.ends_with(code));
        return response;
    }
    response.map(|body| Body::new(CallBody::new(body, Some(call), span)))
}

/// Around everything; calls of gRPC, that for browsers included, pass through.
pub(crate) async fn http(State(watched): State<Watched>, request: Request, next: Next) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return next.run(request).await;
    }
    let Watched { server, telemetry } = watched;
    let route = request.extensions().get::<MatchedPath>().cloned();
    // A path of gRPC asked for by something else is none of ours.
    let route = route.as_ref().map(MatchedPath::as_str).filter(|route| !route.contains("{*rest}"));
    let route = route.unwrap_or(OTHER);
    let span = telemetry.tracing.incoming(request.headers(), route, server);
    let began = Instant::now();
    let response = match &span {
        None => next.run(request).await,
        Some(span) => span.around(next.run(request)).await,
    };
    let status = response.status().as_u16();
    span.into_iter().for_each(|mut span| span.ends_with_status(status));
    telemetry.requests.answered(server, route, status, began);
    response
}

/// How a call ended, where these headers or trailers say so.
pub(crate) fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// The body of the answer to a call, whose trailers say how the call ended.
pub(crate) struct CallBody<B> {
    body: B,
    /// Dropped with the last frame: the call is over then, whoever keeps the body.
    call: Option<Call>,
    span: Option<Span>,
}

impl<B> CallBody<B> {
    pub(crate) fn new(body: B, call: Option<Call>, span: Option<Span>) -> Self {
        Self { body, call, span }
    }

    fn ends_with(&mut self, code: Code) {
        self.call.take().into_iter().for_each(|mut call| call.ends_with(code));
        self.span.take().into_iter().for_each(|mut span| span.ends_with(code));
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for CallBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.ends_with(code(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(_))) => self.ends_with(Code::Unknown),
            Poll::Ready(None) => self.ends_with(Code::Ok),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
