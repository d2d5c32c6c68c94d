//! Where a member serves.
//!
//! Owns: what is given to whoever is to serve: an address, an open port, or somebody who takes the services.
//! Does not own: the services.

use axum::Router;
use std::fmt;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Where to serve.
pub enum Port {
    /// Listen here.
    At(SocketAddr),
    /// Serve what is listening already, where the caller had to know the address first.
    Open(TcpListener),
    /// Give the services away: a simulated network has no ports.
    Handed {
        /// What others call the place.
        address: SocketAddr,
        /// Takes the services.
        take: Box<dyn FnOnce(Router) + Send>,
    },
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => write!(f, "at {address}"),
            Self::Open(listener) => write!(f, "{listener:?}"),
            Self::Handed { address, .. } => write!(f, "handed at {address}"),
        }
    }
}
