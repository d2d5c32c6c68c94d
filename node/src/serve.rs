//! A node's port.
//!
//! Owns: its services as routes, its limits, and serving them.
//! Does not own: what is answered (`grpc`, `http`), connections (`tidemark_shell::server`).

use crate::grpc::Services;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;
use tidemark_proto::v1::admin_server::AdminServer;
use tidemark_proto::v1::cluster_server::ClusterServer;
use tidemark_proto::v1::ingest_server::IngestServer;
use tidemark_proto::{DESCRIPTORS, MAX_MEMBER_MESSAGE_BYTES, MAX_MESSAGE_BYTES};
use tidemark_shell::port::Port;
use tidemark_shell::server::{self, Limits};
use tidemark_shell::tls::MemberTls;
use tidemark_telemetry::{Server, Telemetry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// How long open streams may take to end when the node stops.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Where the node serves, opened as far as it has to be.
pub(crate) async fn open_port(port: Port) -> std::io::Result<(Port, SocketAddr)> {
    let listener = match port {
        Port::At(address) => TcpListener::bind(address).await?,
        Port::Open(listener) => listener,
        Port::Handed { address, .. } => return Ok((port, address)),
    };
    let address = listener.local_addr()?;
    Ok((Port::Open(listener), address))
}

/// Requests on one connection that may be taken back before the node has looked at them.
const TAKEN_BACK: usize = 1_000;

/// Limits of the port.
pub(crate) fn limits(connections: NonZeroUsize) -> Limits {
    Limits {
        keep_alive: Duration::from_secs(10),
        // Coordinators take back questions that another node has answered. Whoever comes back from a pause finds many of these
        // at once; h2's own limit of 20 would close the connection, and fail everything else on it.
        taken_back: Some(TAKEN_BACK),
        windows: Some((4 << 20, 16 << 20)),
        // All questions of a coordinator, and all streams of a producer, may come over one.
        streams: 1_000,
        grace: STOP_WITHIN,
        ..Limits::of(connections)
    }
}

/// Serves until `stop`, and a while longer what is open then.
pub(crate) async fn serve(
    port: Port,
    routes: axum::Router,
    limits: Limits,
    (telemetry, tls): (Telemetry, Option<MemberTls>),
    stop: CancellationToken,
) {
    match port {
        Port::Open(listener) => {
            let opened = || telemetry.connection(Server::node);
            server::serve(listener, routes, limits, tls, opened, stop).await;
        }
        // It was opened before.
        Port::At(_) => {}
        Port::Handed { take, .. } => {
            take(routes);
            stop.cancelled().await;
        }
    }
}

/// The services.
pub(crate) async fn routes(services: Services) -> Result<Routes, tonic_reflection::server::Error> {
    let ingest = IngestServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let cluster = ClusterServer::new(services.clone())
        .max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MEMBER_MESSAGE_BYTES);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<IngestServer<Services>>().await;
    reporter.set_serving::<ClusterServer<Services>>().await;
    Ok(Routes::new(ingest)
        .add_service(cluster)
        .add_service(AdminServer::new(services))
        .add_service(reflection)
        .add_service(health))
}
