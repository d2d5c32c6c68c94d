//! `tidemark edge`.
//!
//! Owns: putting the parts of an edge together, and errors that say which flag to change.
//! Does not own: the edge (`tidemark_edge`), its settings, signals.

use crate::serve::{Process, listen, random_producer};
use crate::settings::edge::EdgeSettings;
use std::sync::Arc;
use tidemark_edge::{Edge, Geo, Parts};
use tidemark_shell::work;
use tokio_util::sync::CancellationToken;

/// Runs an edge until `shutdown`.
pub(crate) async fn run(settings: &EdgeSettings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = settings.config()?;
    settings.access.check("--listen", settings.listen)?;
    let dial = settings.reach.dial(&settings.to)?;
    let geo = match settings.geo.clone() {
        Some(file) => Some(work::run(move || Geo::open(&file)).await?),
        None => None,
    };
    let process = Process::new();
    let secured = process.secured(&settings.access, true)?;
    let parts = Parts {
        access: secured.access,
        tls: secured.tls,
        clock: Arc::clone(&process.clock),
        listener: listen(settings.listen, "--listen").await?,
        connect: Arc::new(dial),
        producer: random_producer()?,
        entropy: Arc::new(|bytes| getrandom::fill(bytes).map_err(std::io::Error::other)),
        geo,
        metrics: process.edge_metrics(),
        telemetry: process.telemetry(),
        registry: process.registry(),
    };
    let edge = Edge::start(config, parts, shutdown.clone()).await?;
    edge.stopped().await?;
    anyhow::ensure!(shutdown.is_cancelled(), "the edge stopped by itself; the log may say why");
    tracing::info!("stopped");
    Ok(())
}
