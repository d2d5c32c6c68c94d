//! Connections to other nodes.
//!
//! Owns: one lazily opened, multiplexed connection per address.
//! Does not own: what is sent over it (`router`).

use dashmap::DashMap;
use std::time::Duration;
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tonic::transport::{Channel, Endpoint};

/// Connections by address. As many as there are members; none is ever closed by us.
#[derive(Debug, Default)]
pub(crate) struct Peers(DashMap<String, Channel>);

impl Peers {
    /// A client of the node at `address`, `host:port`. Connects at its first call, and again after a failure.
    ///
    /// # Errors
    /// Where the address is none.
    pub(crate) fn client(&self, address: &str) -> Result<ClusterClient<Channel>, tonic::transport::Error> {
        let known = self.0.get(address).map(|channel| channel.clone());
        let channel = match known {
            Some(channel) => channel,
            None => {
                let channel = endpoint(address)?.connect_lazy();
                self.0.entry(address.to_owned()).or_insert(channel).clone()
            }
        };
        Ok(ClusterClient::new(channel).max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES))
    }
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    // Without keep-alive a peer that vanished without a word would hang every call until its time-out.
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true))
}
