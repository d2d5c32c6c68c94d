//! The `tidemark` program.
//!
//! Owns: from the command line to an exit code: 0 for success, 1 for a failure, 2 for what the caller has to change.
//! Does not own: what the commands do; each has a module of its own.

mod allocator;
mod certs;
mod command_line;
mod demo;
mod doctor;
mod edge;
mod failure;
mod history;
mod loadgen;
mod log;
mod members;
mod output;
mod query;
mod reach;
mod replay;
mod serve;
mod settings;
mod show;
mod shutdown;
mod token;
mod watch;

use command_line::{Command, CommandLine};
use std::ffi::OsString;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

/// Threads for work that blocks, for each core. Each keeps megabytes that only it uses again, and none ends before it was idle for ten
/// seconds, which under load never comes: without a limit there are more and more of them.
const BLOCKING_THREADS_PER_CORE: usize = 4;
/// So many where there are few cores: some may wait for a slow disk, and others for the name of a host.
const MIN_BLOCKING_THREADS: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let line = match command_line::parse(&arguments) {
        Ok(line) => line,
        // Help and version come this way, too, with exit code 0.
        Err(error) => error.exit(),
    };
    let form = log::form_of(&line.command);
    let ended = match runtime() {
        Ok(runtime) => runtime.block_on(run(line)),
        Err(error) => Err(anyhow::Error::new(error).context("the system gives the program no threads")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::failed(form, &error);
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

/// A thread for each core, and a few more for work that would keep those from what is new: files, and scans of closed buckets.
fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads((BLOCKING_THREADS_PER_CORE * cores).max(MIN_BLOCKING_THREADS))
        .build()
}

async fn run(line: CommandLine) -> anyhow::Result<()> {
    match line.command {
        Command::Demo(settings) => {
            log::start(&settings.log, settings.form.log_format)?;
            demo::run(&settings, shutdown::on_signal()?).await
        }
        Command::Node(settings) => {
            log::start(&settings.log.log, settings.log.form.log_format)?;
            serve::run_node(&settings, shutdown::on_signal()?).await
        }
        Command::Coordinator(settings) => {
            log::start(&settings.log.log, settings.log.form.log_format)?;
            serve::run_coordinator(&settings, shutdown::on_signal()?).await
        }
        Command::Edge(settings) => {
            log::start(&settings.log.log, settings.log.form.log_format)?;
            edge::run(&settings, shutdown::on_signal()?).await
        }
        Command::Certs(options) => certs::run(&options),
        Command::Token(command) => token::run(&command),
        Command::Query(options) => query::run(&options).await,
        Command::Watch(options) => watch::run(&options).await,
        Command::Replay(options) => replay::run(&options).await,
        Command::Loadgen(options) => loadgen::run(&options).await,
        Command::Members(options) => members::members(&options).await,
        Command::Doctor(options) => doctor::run(&options).await,
        Command::Placement(options) => members::placement(&options).await,
        Command::Drain(options) => members::drain(&options).await,
        Command::Receipt(options) => history::receipt::run(&options).await,
        Command::Verify(options) => history::verify::run(&options).await,
        Command::Rebuild(options) => history::rebuild::run(&options).await,
        Command::Retain(options) => history::retain::run(&options).await,
        Command::Segments(options) => history::segments::run(&options).await,
    }
}
