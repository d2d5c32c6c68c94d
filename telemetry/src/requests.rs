//! Calls and requests.
//!
//! Owns: their metrics, and what is counted when one ends, however it ends.
//! Does not own: where they come from (`layer`), which methods there are (`methods`).

use crate::Server;
use crate::methods::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;
use tonic::Code;

/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    server: Server,
    method: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    server: Server,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    server: Server,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    server: Server,
    route: String,
}

fn times() -> Histogram {
    Histogram::new(SECONDS)
}

type Times<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of calls.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    calls: Family<CallLabels, Counter>,
    call_seconds: Times<MethodLabels>,
    open: Family<MethodLabels, Gauge>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Times<RouteLabels>,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(times),
            open: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(times),
        }
    }
}

impl Requests {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let m = self;
        registry.register("grpc_calls", "gRPC calls that ended, by method and code", m.calls.clone());
        registry.register_with_unit(
            "grpc_call",
            "Time to answer a gRPC call of one message each way",
            Unit::Seconds,
            m.call_seconds.clone(),
        );
        registry.register(
            "grpc_calls_open",
            "gRPC calls under way, by method; a stream is one call",
            m.open.clone(),
        );
        registry.register(
            "http_requests",
            "HTTP requests that were answered, by route and status",
            m.requests.clone(),
        );
        registry.register_with_unit(
            "http_request",
            "Time to the head of the answer to an HTTP request",
            Unit::Seconds,
            m.request_seconds.clone(),
        );
    }

    /// A gRPC call begins.
    pub(crate) fn call(&self, server: Server, method: Method) -> Call {
        let labels = MethodLabels { server, method: method.name.to_string() };
        let open = self.open.get_or_create_owned(&labels);
        open.inc();
        Call {
            requests: self.clone(),
            labels,
            is_unary: method.is_unary,
            began: Instant::now(),
            open,
            code: Code::Cancelled,
        }
    }

    /// An HTTP request was answered.
    pub(crate) fn answered(&self, server: Server, route: &str, status: u16, began: Instant) {
        let route = route.to_owned();
        let labels = RouteLabels { server, route: route.clone() };
        self.request_seconds.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
        self.requests.get_or_create(&RequestLabels { server, route, status }).inc();
    }
}

/// A call under way; ends when it is dropped, as cancelled unless it was told otherwise.
#[derive(Debug)]
pub(crate) struct Call {
    requests: Requests,
    labels: MethodLabels,
    is_unary: bool,
    began: Instant,
    open: Gauge,
    code: Code,
}

impl Call {
    /// How it ends.
    pub(crate) fn ends_with(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.open.dec();
        let MethodLabels { server, method } = self.labels.clone();
        if self.is_unary {
            let times = self.requests.call_seconds.get_or_create(&self.labels);
            times.observe(self.began.elapsed().as_secs_f64());
        }
        let labels = CallLabels { server, method, code: code_name(self.code) };
        self.requests.calls.get_or_create(&labels).inc();
    }
}

/// A code as labels, spans and errors in JSON have it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
