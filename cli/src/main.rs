//! The `tidemark` program.
//!
//! Owns: from the command line to an exit code: 0 for success, 1 for a failure, 2 for what the caller has to change.
//! Does not own: what the commands do; each has a module of its own.
#![forbid(unsafe_code)]

mod command_line;
mod demo;
mod failure;
mod history;
mod loadgen;
mod members;
mod output;
mod query;
mod replay;
mod serve;
mod settings;
mod show;
mod shutdown;
mod watch;

use command_line::{Command, CommandLine};
use mimalloc::MiMalloc;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let line = match command_line::parse(&arguments) {
        Ok(line) => line,
        // Help and version come this way, too, with exit code 0.
        Err(error) => error.exit(),
    };
    match run(line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With its causes, in one line.
            eprintln!("error: {error:#}");
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

#[tokio::main]
async fn run(line: CommandLine) -> anyhow::Result<()> {
    match line.command {
        Command::Demo(settings) => {
            start_log(&settings.log)?;
            demo::run(&settings, shutdown::on_signal()?).await
        }
        Command::Node(settings) => {
            start_log(&settings.log.log)?;
            serve::run_node(&settings, shutdown::on_signal()?).await
        }
        Command::Coordinator(settings) => {
            start_log(&settings.log.log)?;
            serve::run_coordinator(&settings, shutdown::on_signal()?).await
        }
        Command::Query(options) => query::run(&options).await,
        Command::Watch(options) => watch::run(&options).await,
        Command::Replay(options) => replay::run(&options).await,
        Command::Loadgen(options) => loadgen::run(&options).await,
        Command::Members(options) => members::members(&options).await,
        Command::Placement(options) => members::placement(&options).await,
        Command::Drain(options) => members::drain(&options).await,
        Command::Receipt(options) => history::receipt::run(&options).await,
        Command::Verify(options) => history::verify::run(&options).await,
        Command::Rebuild(options) => history::rebuild::run(&options).await,
        Command::Retain(options) => history::retain::run(&options).await,
        Command::Segments(options) => history::segments::run(&options).await,
    }
}

/// Logs to stderr what `filter` lets through.
fn start_log(filter: &str) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
