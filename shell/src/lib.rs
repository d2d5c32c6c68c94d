//! What acting parts share: connections, ports, datagrams, and threads to compute on.
//!
//! Owns: how members reach one another, and the one place where that is exchanged for something else: a simulated network
//! gives its own [`Connect`](link::Connect), [`Datagrams`](datagrams::Datagrams) and [`Port`](port::Port).
//! Does not own: what is said over them.
#![forbid(unsafe_code)]

#[cfg(feature = "net")]
pub mod accepted;
#[cfg(feature = "net")]
pub mod datagrams;
#[cfg(feature = "net")]
mod hurried;
#[cfg(feature = "net")]
pub mod link;
#[cfg(feature = "net")]
pub mod port;
#[cfg(feature = "net")]
pub mod server;
#[cfg(feature = "net")]
pub mod tls;
pub mod work;
