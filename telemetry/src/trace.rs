//! Calls as spans: which call of which member came of which other one.
//!
//! Owns: taking a trace's context (W3C `traceparent`) from requests, passing it on with those that come of them, and a span per
//! call where there is somebody who collects them.
//! Does not own: where spans go (`otlp`), which calls there are (`layer`, `tidemark_shell::link`).
//!
//! Nothing is global: who serves is given a [`Tracing`]. A context is passed on whether spans are made or not, so that a trace does not
//! end at a member that exports none. There is no span per event, and none per message between actors.

use crate::Server;
use crate::requests::code_name;
use http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    FutureExt as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use tonic::Code;

const TRACEPARENT: &str = "traceparent";

/// Makes spans, where somebody collects them. Cheap to clone; the default one makes none.
#[derive(Clone, Debug, Default)]
pub struct Tracing {
    tracer: Option<SdkTracer>,
}

/// A call that is asked again and again, by machines: it begins no trace of its own.
fn is_routine(name: &str) -> bool {
    name.starts_with("Health/")
        || matches!(name, "Cluster/Status" | "Cluster/WatchChanges" | "Cluster/CompareCoverage")
        || matches!(name, "/metrics" | "/healthz" | "/readyz")
}

impl Tracing {
    pub(crate) fn new(tracer: SdkTracer) -> Self {
        Self { tracer: Some(tracer) }
    }

    /// A request came in; the span ends when it is dropped. `None` where it is of no trace, and no trace begins with it.
    pub(crate) fn incoming(&self, headers: &HeaderMap, name: &str, server: Server) -> Option<Span> {
        let is_traced = headers.contains_key(TRACEPARENT);
        if !is_traced && (self.tracer.is_none() || is_routine(name)) {
            return None;
        }
        let none = Context::new();
        let parent = TraceContextPropagator::new().extract_with_context(&none, &HeaderExtractor(headers));
        match &self.tracer {
            None => parent.has_active_span().then(|| Span::passed_on(parent)),
            Some(tracer) => Some(Span::begin(tracer, name, SpanKind::Server, server, &parent)),
        }
    }

    /// A request goes out, with the context of what it comes of. The span ends when it is dropped.
    pub(crate) fn outgoing(&self, headers: &mut HeaderMap, name: &str, server: Server) -> Option<Span> {
        let parent = Context::current();
        let is_traced = parent.has_active_span();
        let span = match &self.tracer {
            Some(tracer) if is_traced || !is_routine(name) => {
                Some(Span::begin(tracer, name, SpanKind::Client, server, &parent))
            }
            Some(_) | None => is_traced.then(|| Span::passed_on(parent)),
        };
        if let Some(span) = &span {
            TraceContextPropagator::new().inject_context(&span.context, &mut HeaderInjector(headers));
        }
        span
    }
}

/// A span under way, or the context that is only passed on.
#[derive(Debug)]
pub(crate) struct Span {
    context: Context,
    /// Whether the span is ours to end.
    is_own: bool,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Call(Code),
    Request(u16),
}

impl Span {
    fn passed_on(context: Context) -> Self {
        Self { context, is_own: false, outcome: None }
    }

    fn begin(tracer: &SdkTracer, name: &str, kind: SpanKind, server: Server, parent: &Context) -> Self {
        let attributes = [KeyValue::new("tidemark.server", server.name())];
        let builder = SpanBuilder::from_name(Cow::Owned(name.to_owned()));
        let builder = builder.with_kind(kind).with_attributes(attributes);
        let span = tracer.build_with_context(builder, parent);
        Self { context: parent.with_span(span), is_own: true, outcome: None }
    }

    /// What is done for the call: whatever it asks of others is of this trace.
    pub(crate) fn around<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        future.with_context(self.context.clone())
    }

    pub(crate) fn ends_with(&mut self, code: Code) {
        self.outcome = Some(Outcome::Call(code));
    }

    pub(crate) fn ends_with_status(&mut self, status: u16) {
        self.outcome = Some(Outcome::Request(status));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if !self.is_own {
            return;
        }
        let span = self.context.span();
        match self.outcome.unwrap_or(Outcome::Call(Code::Cancelled)) {
            Outcome::Call(code) => {
                span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(code as i32)));
                if code != Code::Ok {
                    span.set_status(Status::error(code_name(code)));
                }
            }
            Outcome::Request(status) => {
                span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
                if status >= 500 {
                    span.set_status(Status::error(status.to_string()));
                }
            }
        }
        span.end();
    }
}

/// The trace of what is done here and now, to be gone on with elsewhere. Costs next to nothing where there is none.
#[derive(Clone, Debug, Default)]
pub struct Here(Option<Context>);

impl Here {
    /// What is done now.
    pub fn now() -> Self {
        Self(Context::map_current(|context| context.has_active_span().then(|| context.clone())))
    }

    /// Whether it is of a trace that is collected.
    pub fn is_sampled(&self) -> bool {
        self.0.as_ref().is_some_and(|context| context.span().span_context().is_sampled())
    }

    /// Goes on with it.
    pub fn carry<'a, T>(
        &self,
        future: impl Future<Output = T> + Send + 'a,
    ) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
        match &self.0 {
            None => Box::pin(future),
            Some(context) => Box::pin(future.with_context(context.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(value: &str) -> HeaderMap {
        [(http::HeaderName::from_static(TRACEPARENT), value.parse().unwrap())].into_iter().collect()
    }

    #[tokio::test]
    async fn a_context_is_passed_on_where_nobody_collects_spans_and_nothing_is_where_there_is_none() {
        let tracing = Tracing::default();
        let mut out = HeaderMap::new();
        let span = tracing.incoming(&headers(PARENT), "Cluster/QueryPartial", Server::node).unwrap();
        span.around(async { _ = tracing.outgoing(&mut out, "Cluster/Apply", Server::node) }).await;
        assert_eq!(out[TRACEPARENT], PARENT);
        for bad in ["", "00-0-0-01", "nonsense", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            assert!(tracing.incoming(&headers(bad), "Cluster/Apply", Server::node).is_none(), "{bad}");
        }
        let mut out = HeaderMap::new();
        assert!(tracing.outgoing(&mut out, "Cluster/Apply", Server::node).is_none() && out.is_empty());
        assert!(!Here::now().is_sampled());
    }

    #[tokio::test]
    async fn spans_have_their_parents_and_what_is_routine_begins_no_trace() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let tracing = Tracing::new(provider.tracer("test"));
        assert!(tracing.incoming(&HeaderMap::new(), "/metrics", Server::node).is_none());
        let mut out = HeaderMap::new();
        {
            let mut span = tracing.incoming(&headers(PARENT), "/v1/query", Server::coordinator).unwrap();
            span.around(async {
                let here = Here::now();
                assert!(here.is_sampled());
                here.carry(async {
                    tracing
                        .outgoing(&mut out, "Cluster/QueryPartial", Server::coordinator)
                        .unwrap()
                        .ends_with(Code::Ok)
                })
                .await;
            })
            .await;
            span.ends_with_status(200);
        }
        let spans = exporter.get_finished_spans().unwrap();
        let [client, server] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((client.name.as_ref(), server.name.as_ref()), ("Cluster/QueryPartial", "/v1/query"));
        assert_eq!(server.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(client.parent_span_id, server.span_context.span_id());
        let passed_on = out[TRACEPARENT].to_str().unwrap();
        assert!(passed_on.contains("0af7651916cd43dd8448eb211c80319c"), "{passed_on}");
        assert!(passed_on.contains(&client.span_context.span_id().to_string()), "{passed_on}");
    }
}
