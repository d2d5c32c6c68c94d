//! Connections to members.
//!
//! Owns: one multiplexed connection per address, opened when it is first needed and again after it broke.
//! Does not own: what is asked over it, how long an answer may take.

use dashmap::DashMap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

/// How long opening a connection may take: a host that is gone sends no refusal.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a connection is probed, also while nothing is asked, so that one whose other end vanished is found before
/// somebody has to wait on it.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
/// How long a probe may go without an answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What goes wrong on a connection. Its source says more.
#[derive(Debug, thiserror::Error)]
#[error("the connection failed")]
pub struct LinkError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl LinkError {
    /// Because of this.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// A connection to a member, for the generated clients. Cheap to clone; clones share it.
pub type Link = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, LinkError>;

/// An address that no connection can be made to. Mend the member's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: a member needs host:port")]
pub struct AddressError(pub String);

/// Makes connections.
pub trait Connect: Send + Sync + fmt::Debug + 'static {
    /// A connection to `host:port`. Nothing is sent before it is first used.
    ///
    /// # Errors
    /// Where the address cannot be one.
    fn connect(&self, address: &str) -> Result<Link, AddressError>;
}

/// Connections over TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect(&self, address: &str) -> Result<Link, AddressError> {
        let error = || AddressError(address.to_owned());
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| error())?;
        endpoint.uri().port().ok_or_else(error)?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_lazy();
        Ok(Link::new(channel.map_err(LinkError::new)))
    }
}

/// The connections that are open, one per address.
#[derive(Debug)]
pub struct Links {
    connect: Arc<dyn Connect>,
    open: DashMap<String, Link>,
}

impl Links {
    /// None yet.
    pub fn new(connect: Arc<dyn Connect>) -> Self {
        Self { connect, open: DashMap::new() }
    }

    /// The connection to this address.
    ///
    /// # Errors
    /// Where the address cannot be one.
    pub fn to(&self, address: &str) -> Result<Link, AddressError> {
        if let Some(link) = self.open.get(address) {
            return Ok(link.clone());
        }
        let link = self.connect.connect(address)?;
        Ok(self.open.entry(address.to_owned()).or_insert(link).clone())
    }

    /// Forgets connections to all but these addresses: as many stay as there are members.
    pub fn keep(&self, addresses: &BTreeSet<&str>) {
        self.open.retain(|address, _| addresses.contains(address.as_str()));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_one_connection_until_it_is_forgotten() {
        let links = Links::new(Arc::new(Tcp));
        for address in ["a:1", "b:1", "a:1"] {
            links.to(address).unwrap();
        }
        assert_eq!(links.count(), 2);
        links.keep(&["b:1"].into());
        assert_eq!(links.count(), 1);
    }

    #[tokio::test]
    async fn what_is_no_address_is_an_error_that_shows_it() {
        let links = Links::new(Arc::new(Tcp));
        for address in ["", "host", "ho st:1", "host:port"] {
            let error = links.to(address).expect_err(address);
            assert!(error.to_string().contains("host:port"));
        }
    }
}
