//! `tidemark doctor`: looks at a running cluster, and says what is wrong and what to do.
//!
//! Owns: the flags, the report, and the exit code: 0 where nothing was found, 1 with findings, 2 where nobody answers.
//! Does not own: asking (`gather`), judging (`checks`).

mod checks;
mod finding;
mod gather;
mod report;
mod shown;
#[cfg(test)]
mod tests;

use crate::failure::Misuse;
use crate::members::DEFAULT_NODE;
use crate::output;
use crate::query::DEFAULT_COORDINATOR;
use crate::reach::ReachOptions;
use crate::settings::values;
use clap::Args;
use std::time::Duration;
use tidemark_node::clock::SystemClock;

/// Where to look.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Ends with 0 where nothing was found, with 1 where something was, and with 2 where nobody answers.

Examples:
  tidemark doctor
  tidemark doctor --to http://node-1:7100 --at http://front:8100 --json")]
pub(crate) struct DoctorOptions {
    /// Any node: it knows how the others are doing
    #[arg(long, value_name = "URL", value_parser = values::server, default_value = DEFAULT_NODE, env = "TIDEMARK_TO")]
    to: String,

    /// Any coordinator: it says what answers lack. Others that the node sees are asked, too
    #[arg(long, value_name = "URL", value_parser = values::server, default_value = DEFAULT_COORDINATOR, env = "TIDEMARK_AT")]
    at: String,

    /// How long to watch: what grows meanwhile is going on now
    #[arg(long = "for", value_name = "DURATION", value_parser = values::timeout, default_value = "6s")]
    watch_for: Duration,

    #[command(flatten)]
    reach: ReachOptions,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks, and prints what was found.
pub(crate) async fn run(options: &DoctorOptions) -> anyhow::Result<()> {
    let dial = options.reach.dial([&options.to, &options.at])?;
    let observed = gather::gather(&options.to, &options.at, &dial, options.watch_for, &SystemClock).await;
    if !observed.is_answered() {
        return Err(Misuse::new(format!(
            "nobody answers: neither a node at {} ({}) nor a coordinator at {} ({}); say where they are with --to and --at",
            options.to,
            observed.node.as_ref().err().map_or("", String::as_str),
            options.at,
            observed.coordinators.iter().find_map(|seen| seen.report.as_ref().err()).map_or("", String::as_str),
        ))
        .into());
    }
    let findings = checks::all(&observed);
    let text = match options.json {
        true => report::json(&observed, &findings),
        false => report::text(&observed, &findings),
    };
    output::print(&text)?;
    match findings.len() {
        0 => Ok(()),
        1 => anyhow::bail!("1 finding"),
        count => anyhow::bail!("{count} findings"),
    }
}
