//! Where spans go: a collector that speaks OTLP over HTTP.
//!
//! Owns: batches on their way to it, and giving up on them: spans wait in a queue of limited length and are dropped when it is full.
//! Does not own: what a span is (`trace`).

use crate::seldom::Seldom;
use crate::trace::Tracing;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Spans that wait; further ones are dropped.
const QUEUE: usize = 4096;
/// Spans of one request, and how long they wait for others.
const BATCH: usize = 512;
const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take, and how much it may say.
const WITHIN: Duration = Duration::from_secs(5);
const REPLY_BYTES: usize = 64 << 10;

/// Whose spans go where.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    /// The collector, `http://host:port`.
    pub endpoint: String,
    /// Of traces that begin here, one in so many is collected. Those that began elsewhere are collected where their
    /// `traceparent` says so.
    pub one_in: NonZeroUsize,
    /// What serves: `tidemark-node`.
    pub service: String,
    /// The member's name.
    pub instance: String,
    /// What it runs.
    pub version: String,
}

/// Why spans cannot be exported. Correct the address.
#[derive(Debug, thiserror::Error)]
#[error("cannot export spans to {endpoint}: {message}")]
pub struct OtlpError {
    endpoint: String,
    message: String,
}

/// Exports until it is [flushed](Self::finish).
#[derive(Clone, Debug)]
pub struct Otlp {
    provider: SdkTracerProvider,
}

impl Otlp {
    /// Begins; has to be called inside a runtime, which requests run on.
    ///
    /// # Errors
    /// Where the address is none.
    pub fn begin(config: OtlpConfig) -> Result<(Self, Tracing), OtlpError> {
        let OtlpConfig { endpoint, one_in, service, instance, version } = config;
        let error = |message: String| OtlpError { endpoint: endpoint.clone(), message };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Poster::new(Handle::current()))
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(WITHIN)
            .build()
            .map_err(|failed| error(failed.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EXPORT_EVERY)
            .build();
        let attributes =
            [KeyValue::new("service.instance.id", instance), KeyValue::new("service.version", version)];
        let resource =
            Resource::builder_empty().with_service_name(service).with_attributes(attributes).build();
        let ratio = Sampler::TraceIdRatioBased(1.0 / one_in.get() as f64);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(resource)
            .build();
        let tracing = Tracing::new(provider.tracer("tidemark"));
        Ok((Self { provider }, tracing))
    }

    /// Exports what is left, for some seconds at most.
    pub async fn finish(self) {
        // It blocks, and its requests need this runtime.
        let finished = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(WITHIN));
        if let Ok(Err(error)) = finished.await {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Posts from a thread that has no runtime of its own.
#[derive(Debug)]
struct Poster {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
    failed: Arc<Seldom>,
}

impl Poster {
    fn new(runtime: Handle) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, runtime, failed: Arc::default() }
    }
}

#[async_trait]
impl HttpClient for Poster {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let call = self.client.request(request.map(Full::new));
        let reply = async move {
            let (head, body) = call.await?.into_parts();
            let body = Limited::new(body, REPLY_BYTES).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let posted = self.runtime.spawn(async move { tokio::time::timeout(WITHIN, reply).await? }).await;
        let reply: Result<_, HttpError> = posted.unwrap_or_else(|error| Err(error.into()));
        let why = match &reply {
            Ok(reply) if reply.status().is_success() => return Ok(reply.clone()),
            Ok(reply) => reply.status().to_string(),
            Err(error) => error.to_string(),
        };
        if let Some(left_out) = self.failed.due() {
            tracing::warn!(error = why, left_out, "spans cannot be exported, and are dropped");
        }
        reply
    }
}
