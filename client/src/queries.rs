//! Questions to a coordinator.
//!
//! Owns: the connection to it, which subscriptions make likewise.
//! Does not own: what an answer means.

use crate::error::{ClientError, root_cause};
use std::time::Duration;
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_shell::link::{Dial, Link};
use tonic::transport::Endpoint;

/// Asks a coordinator. Cheap to clone; clones share one connection.
#[derive(Clone, Debug)]
pub struct QueryClient {
    address: String,
    client: AnalyticsClient<Link>,
}

impl QueryClient {
    /// Connects to the coordinator at `address`, `http://host:port`.
    ///
    /// # Errors
    /// Where nobody answers there.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        Self::connect_with(address, &Dial::default()).await
    }

    /// The same with TLS (`https://host:port`), a token, or both.
    ///
    /// # Errors
    /// As there, and where the one who answers cannot be believed.
    pub async fn connect_with(address: &str, dial: &Dial) -> Result<Self, ClientError> {
        let link = open(address, dial).await?;
        let client = AnalyticsClient::new(link).max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES);
        Ok(Self { address: address.to_owned(), client })
    }

    /// Asks one question.
    ///
    /// # Errors
    /// Where the question cannot be, or the coordinator cannot answer. A partial answer is no error: see its facts.
    pub async fn query(&self, query: v1::Query) -> Result<v1::Answer, ClientError> {
        let reply = self.client.clone().query(query).await;
        reply.map(tonic::Response::into_inner).map_err(|status| ClientError::of(&self.address, &status))
    }

    /// The sites that have events.
    ///
    /// # Errors
    /// Where the coordinator cannot answer.
    pub async fn sites(&self) -> Result<v1::SitesReply, ClientError> {
        let reply = self.client.clone().sites(v1::SitesRequest {}).await;
        reply.map(tonic::Response::into_inner).map_err(|status| ClientError::of(&self.address, &status))
    }
}

/// Opens a connection to a member at `address`, `http://host:port` or, with TLS, `https://host:port`.
///
/// # Errors
/// Where nobody answers there, or cannot be believed.
pub async fn open(address: &str, dial: &Dial) -> Result<Link, ClientError> {
    if address.starts_with("https://") && dial.tls.is_none() {
        return Err(ClientError::NoTls { address: address.to_owned() });
    }
    let mut dial = dial.clone();
    if address.starts_with("http://") {
        dial.tls = None;
    }
    dial.open(endpoint(address)?).await.map_err(|error| ClientError::Unreachable {
        address: address.to_owned(),
        message: root_cause(&error),
    })
}

/// How to connect to `address`, or that it is none.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, ClientError> {
    let bad_address = || ClientError::Address { address: address.to_owned() };
    let plain = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"));
    // Securing it is up to whoever opens the connection; the transport is told of the host alone.
    let plain = format!("http://{}", plain.ok_or_else(bad_address)?);
    let endpoint = Endpoint::from_shared(plain).map_err(|_| bad_address())?;
    if endpoint.uri().host().is_none() {
        return Err(bad_address());
    }
    Ok(endpoint
        .connect_timeout(Duration::from_secs(3))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20))
}
