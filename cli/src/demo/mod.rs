//! `tidemark demo`: a whole cluster with traffic in one process.
//!
//! Owns: the flags, and the order in which the cluster, the traffic and the display start and stop.
//! Does not own: each of these (`cluster`, `traffic`, `intro`, `live`).

mod cluster;
mod intro;
mod live;
mod traffic;

use crate::output;
use crate::settings::node::{DEFAULT_HTTP, DEFAULT_LISTEN};
use crate::settings::{LogForm, Sources, values};
use anyhow::Context as _;
use clap::Args;
use cluster::DemoCluster;
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;
use traffic::Traffic;

/// The made-up site. Names that end in `.example` are nobody's.
pub(crate) const SITE: &str = "demo.example";

/// Settings of the demo.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoSettings {
    #[command(flatten)]
    pub(crate) sources: Sources,

    /// What is logged, to stderr: error, warn, info, debug or trace, also by module
    ///
    /// More than error gets between the lines of the table.
    #[arg(
        long,
        value_name = "FILTER",
        value_parser = values::log_filter,
        default_value = "error",
        help_heading = "Program"
    )]
    pub(crate) log: String,

    #[command(flatten)]
    pub(crate) form: LogForm,

    /// Address of the coordinator for HTTP and gRPC, IP:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = values::listen, default_value_t = DEFAULT_HTTP)]
    http: SocketAddr,

    /// Address of the first node for gRPC, IP:PORT; the system chooses ports for the two others
    #[arg(long, value_name = "ADDRESS", value_parser = values::listen, default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,

    /// Made-up events per second
    ///
    /// More is livelier and takes more of the processor and of memory.
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=100_000),
        default_value_t = 200
    )]
    rate: u32,

    /// Number that decides pages, visitors and what they do: the same seed makes the same traffic
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

/// Runs until `shutdown`.
pub(crate) async fn run(settings: &DemoSettings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("tidemark-demo-").tempdir();
    let folder = folder.context("cannot make a folder for the demo")?;
    let cluster = DemoCluster::start(settings.listen, settings.http, folder.path(), &shutdown).await?;
    let addresses = cluster.addresses();
    output::print(&intro::text(&addresses, folder.path(), settings.rate, &intro::program()))?;

    let traffic = Traffic::connect(&addresses, settings.rate, settings.seed).await?;
    let progress = traffic.progress();
    let traffic = tokio::spawn(traffic.run(shutdown.clone()));
    let display = live::show(&addresses, progress, &shutdown);
    tokio::select! {
        shown = display => shown?,
        ended = traffic => ended.context("the traffic ended")??,
    }
    if output::terminal_width().is_some() {
        // Over the ^C that the terminal shows.
        output::print("\r\x1b[KStopping.\n")?;
    }
    shutdown.cancel();
    cluster.stopped().await;
    Ok(())
}
