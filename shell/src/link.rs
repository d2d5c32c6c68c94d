//! Connections to members.
//!
//! Owns: one multiplexed connection per address, opened when it is first needed and again after it broke; secured, and with what
//! shows who is calling, where that is to be.
//! Does not own: what is asked over it, how long an answer may take, certificates (`tls`), what a token allows.

use crate::tls::ClientTls;
use dashmap::DashMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
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

/// The header by which the parts of one process know each other where there is no TLS.
pub const MEMBER_SECRET: HeaderName = HeaderName::from_static("x-tidemark-member");

/// What a caller shows with each call. Never printed.
#[derive(Clone)]
pub struct Credential(HeaderName, HeaderValue);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.0)
    }
}

impl Credential {
    /// A token; `None` where the text cannot be one.
    pub fn token(text: &str) -> Option<Self> {
        Self::new(AUTHORIZATION, &format!("Bearer {}", text.trim()))
    }

    /// The secret of a process.
    pub fn member(secret: &str) -> Option<Self> {
        Self::new(MEMBER_SECRET, secret)
    }

    fn new(name: HeaderName, value: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(Self(name, value))
    }

    /// Adds it to a request.
    pub fn add_to(&self, headers: &mut http::HeaderMap) {
        headers.insert(self.0.clone(), self.1.clone());
    }
}

/// Connections over TCP that are secured, and on which the caller shows something.
#[derive(Clone, Debug, Default)]
pub struct Dial {
    /// Secures them.
    pub tls: Option<ClientTls>,
    /// Goes with each call.
    pub credential: Option<Credential>,
}

impl Connect for Dial {
    fn connect(&self, address: &str) -> Result<Link, AddressError> {
        let error = || AddressError(address.to_owned());
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| error())?;
        endpoint.uri().port().ok_or_else(error)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        Ok(self.showing(match self.tls.clone() {
            None => endpoint.connect_lazy(),
            Some(tls) => endpoint.connect_with_connector_lazy(connector(tls)),
        }))
    }
}

impl Dial {
    /// Opens a connection to where `endpoint` says, now.
    ///
    /// # Errors
    /// Where nobody answers, or is not who they should be.
    pub async fn open(&self, endpoint: Endpoint) -> Result<Link, LinkError> {
        let channel = match self.tls.clone() {
            None => endpoint.connect().await,
            Some(tls) => endpoint.connect_with_connector(connector(tls)).await,
        };
        channel.map(|channel| self.showing(channel)).map_err(LinkError::new)
    }

    /// The connection, on which the caller shows who they are.
    fn showing(&self, channel: Channel) -> Link {
        let credential = self.credential.clone();
        let showing = channel.map_err(LinkError::new).map_request(move |mut request: http::Request<Body>| {
            if let Some(credential) = &credential {
                credential.add_to(request.headers_mut());
            }
            request
        });
        Link::new(showing)
    }
}

/// Opens secured connections.
fn connector(
    tls: ClientTls,
) -> impl tower::Service<
    http::Uri,
    Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>,
    Error = io::Error,
    Future: Send,
> + Send
+ 'static {
    tower::service_fn(move |uri: http::Uri| {
        let tls = tls.clone();
        async move {
            let host = uri.host().unwrap_or_default();
            let address = (host.trim_start_matches('[').trim_end_matches(']'), uri.port_u16().unwrap_or(443));
            let stream = TcpStream::connect(address).await?;
            // Small messages go out at once. Where that cannot be set they are only slower.
            let _ = stream.set_nodelay(true);
            Ok(TokioIo::new(tls.connect(host, stream).await?))
        }
    })
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
        let links = Links::new(Arc::new(Dial::default()));
        for address in ["a:1", "b:1", "a:1"] {
            links.to(address).unwrap();
        }
        assert_eq!(links.count(), 2);
        links.keep(&["b:1"].into());
        assert_eq!(links.count(), 1);
    }

    #[tokio::test]
    async fn what_is_no_address_is_an_error_that_shows_it() {
        let links = Links::new(Arc::new(Dial::default()));
        for address in ["", "host", "ho st:1", "host:port"] {
            let error = links.to(address).expect_err(address);
            assert!(error.to_string().contains("host:port"));
        }
    }
}
