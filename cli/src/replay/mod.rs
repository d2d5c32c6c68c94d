//! `tidemark replay`: sends the hits of access logs as events.
//!
//! Owns: the flags, the progress bar, and errors and hints in terms of flags.
//! Does not own: reading and sending (`tidemark_loadgen::replay`), how the report looks (`report`).

mod report;

use crate::members::DEFAULT_NODE;
use crate::output;
use crate::reach::ReachOptions;
use crate::serve::random_producer;
use crate::settings::values;
use anyhow::Context as _;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use console::truncate_str;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_client::ClientError;
use tidemark_loadgen::log::LogFormat;
use tidemark_loadgen::replay::{Progress, ReplayOptions, ReplayReport, Speed, replay, shift_to_end_now};
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1::Reason;

/// How often the progress bar moves by itself.
const TICK: Duration = Duration::from_millis(200);
/// Longer names of files are cut beside the progress bar.
const LONGEST_NAME: usize = 40;

/// Which logs to replay, and how.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  tidemark replay access.log --site example.com
  tidemark replay access.log.2.gz access.log.1 --site example.com --keep-time
  tidemark replay clicks.json.gz --site 1.usa.gov --format bitly --speed 60")]
pub(crate) struct ReplayCommand {
    /// Logs, plain or gzip, replayed one after another
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Site that the logs are of
    #[arg(long, value_name = "SITE", value_parser = values::site)]
    site: String,

    /// Node to send to; any node of the cluster will do
    #[arg(
        long,
        value_name = "URL",
        value_parser = values::server,
        default_value = DEFAULT_NODE,
        env = "TIDEMARK_TO"
    )]
    to: String,

    #[command(flatten)]
    reach: ReachOptions,

    /// How the lines are written: Combined Log Format, or bitly's clicks as JSON
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = LogFormat::Combined.name(),
        value_parser = PossibleValuesParser::new([LogFormat::Combined.name(), LogFormat::Bitly.name()])
            .try_map(|name| name.parse::<LogFormat>())
    )]
    format: LogFormat,

    /// How many times as fast as it happened, like 60; or max, as fast as the cluster takes it
    #[arg(long, value_name = "FACTOR", value_parser = speed, default_value = "max")]
    speed: Speed,

    /// Keep the times of the logs; otherwise all of them are shifted alike, so that the newest hit is of now
    ///
    /// The node has to accept events that old: see --accept-late of tidemark node.
    #[arg(long)]
    keep_time: bool,

    /// Keep what follows the first ? of URLs; otherwise all of /list?page=2 counts as /list
    ///
    /// utm_* parameters become channel and campaign either way.
    #[arg(long)]
    keep_query: bool,

    /// Print the report of each log as JSON, a line per log
    #[arg(long)]
    json: bool,
}

fn speed(text: &str) -> Result<Speed, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Speed::Max),
        Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
        _ => Err(format!("{text:?} is no speed: give a number over 0, like 60, or max")),
    }
}

/// Replays the logs and prints what became of them.
pub(crate) async fn run(command: &ReplayCommand) -> anyhow::Result<()> {
    let shift_ms = match command.keep_time {
        true => 0,
        false => shift_to_end_now(&command.files, command.format, &SystemClock)?,
    };
    for (at, file) in command.files.iter().enumerate() {
        let report = replay_file(command, file, shift_ms).await?;
        let text = match command.json {
            true => format!("{}\n", report::json(file, &report)),
            false if at > 0 => format!("\n{}", report::text(file, &report)),
            false => report::text(file, &report),
        };
        output::print(&text)?;
        if let Some(hint) = hint(&report) {
            eprintln!("{hint}");
        }
    }
    Ok(())
}

async fn replay_file(command: &ReplayCommand, file: &Path, shift_ms: i64) -> anyhow::Result<ReplayReport> {
    let options = ReplayOptions {
        dial: command.reach.dial([&command.to])?,
        path: file.to_owned(),
        site: command.site.clone(),
        to: command.to.clone(),
        format: command.format,
        keep_query: command.keep_query,
        shift_ms,
        speed: command.speed,
        producer: random_producer()?,
    };
    let bar = progress_bar(file, command.json);
    let replayed = replay(&options, &SystemClock, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    replayed
        .map_err(|error| in_words(error, &command.to))
        .with_context(|| format!("cannot replay {}", file.display()))
}

fn in_words(error: anyhow::Error, to: &str) -> anyhow::Error {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { message, .. }) => anyhow::anyhow!(
            "no node answers at {to} ({message}): start one with `tidemark demo` or `tidemark node`, \
             or say where it is with --to"
        ),
        _ => error,
    }
}

/// On stderr; hidden where that is no terminal, or where a program reads the report.
fn progress_bar(file: &Path, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    let template = "{msg:.bold} [{wide_bar}] {percent:>3} %  {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    let name = file.file_name().unwrap_or(file.as_os_str());
    bar.set_message(truncate_str(&name.to_string_lossy(), LONGEST_NAME, "…").into_owned());
    bar.enable_steady_tick(TICK);
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total_bytes);
    bar.set_position(progress.bytes_read);
}

/// What to do about events that were too old.
fn hint(report: &ReplayReport) -> Option<String> {
    let too_late = report.totals.rejected.get(&Reason::TooLate).copied().filter(|&events| events > 0)?;
    Some(format!(
        "hint: {} events are older than the node accepts: start it with --accept-late 20years to take them in",
        crate::show::number::thousands(too_late)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_a_number_over_0_or_max() {
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(speed("0.5"), Ok(Speed::Times(0.5)));
        for text in ["0", "-1", "fast", "inf", "NaN", ""] {
            assert!(speed(text).expect_err(text).contains("or max"));
        }
    }

    #[test]
    fn events_that_are_too_old_come_with_a_hint() {
        let mut report = report::sample();
        assert_eq!(hint(&report), None);
        report.totals.rejected.insert(Reason::TooLate, 1_200);
        assert!(hint(&report).unwrap().starts_with("hint: 1,200 events are older"));
    }
}
