//! Whole clusters on one thread, as a function of a seed: hosts, network, disks, store and time.
//!
//! Owns: everything that a cluster gets from the world around it, in a form that repeats.
//! Does not own: what runs on hosts, and what should come of it (the tests of other crates).
//!
//! ```text
//! world.rs ── ticks ──> host.rs: one runtime per process, paused time
//!    │                    │ context.rs: clock, links, datagrams, port, disk, store
//!    └── delivers ─────> net.rs: datagrams, connections and calls; cuts, loss, delay
//! ```
//!
//! What is a function of the seed is what hosts do with what they are given. Threads, sockets, `spawn_blocking` and the
//! system's clock are not: nothing that is simulated may use them. Hash maps draw their keys from the system; [`repeatable`]
//! sees to that. `tokio::select!` draws its branches in a way that nobody can see to: it has to say `biased`.
//!
//! ```
//! use axum::Router;
//! use axum::routing::get;
//! use std::time::Duration;
//! use tidemark_shell::port::Port;
//! use tidemark_simulation::{World, repeatable};
//! use tower::ServiceExt as _;
//!
//! let status = repeatable(7, || {
//!     let mut world = World::new(7);
//!     let (server, client) = (world.add_host("server"), world.add_host("client"));
//!     world.start(server, |host| async move {
//!         let services = Router::new().route("/hello", get(|| async { "hello" }));
//!         if let Port::Handed { take, .. } = host.port(7000) {
//!             take(services);
//!         }
//!         std::future::pending().await
//!     });
//!     world.start(client, |_| std::future::pending());
//!     world.run_for(Duration::from_millis(50));
//!     world.call(client, Duration::from_secs(5), |host| async move {
//!         let link = host.connect().connect("10.0.0.1:7000").unwrap();
//!         // A generated client takes a link, too: `AdminClient::new(link)`.
//!         let request = http::Request::get("/hello").body(tonic::body::Body::empty()).unwrap();
//!         link.oneshot(request).await.unwrap().status()
//!     })
//! });
//! assert_eq!(status, Some(http::StatusCode::OK));
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "it is for tests: what goes wrong should stop them"
)]
#![deny(unsafe_code)]

mod body;
pub mod cluster;
mod context;
mod datagrams;
mod disk;
mod entropy;
mod host;
mod link;
mod net;
mod random;
pub mod seeds;
mod serve;
mod store;
mod time;
mod trace;
mod world;

pub use context::HostContext;
pub use datagrams::SimDatagrams;
pub use disk::{DiskFaults, SimDisk};
pub use entropy::repeatable;
pub use link::SimConnect;
pub use net::{HostId, Quality};
pub use time::SimClock;
pub use world::{World, WorldConfig};
