//! Questions to a coordinator.
//!
//! Owns: the connection to it, which subscriptions make likewise.
//! Does not own: what an answer means.

use crate::error::{ClientError, root_cause};
use std::time::Duration;
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tonic::transport::{Channel, Endpoint};

/// Asks a coordinator. Cheap to clone; clones share one connection.
#[derive(Clone, Debug)]
pub struct QueryClient {
    address: String,
    client: AnalyticsClient<Channel>,
}

impl QueryClient {
    /// Connects to the coordinator at `address`, `http://host:port`.
    ///
    /// # Errors
    /// Where nobody answers there.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        let channel = connect(address).await?;
        let client = AnalyticsClient::new(channel).max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES);
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

pub(crate) async fn connect(address: &str) -> Result<Channel, ClientError> {
    endpoint(address)?.connect().await.map_err(|error| ClientError::Unreachable {
        address: address.to_owned(),
        message: root_cause(&error),
    })
}

/// How to connect to `address`, or that it is none.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, ClientError> {
    let bad_address = || ClientError::Address { address: address.to_owned() };
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| bad_address())?;
    if !address.starts_with("http://") || endpoint.uri().host().is_none() {
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
