//! The log of a serving command, on standard error.
//!
//! Owns: its form, and that in JSON each line is an object, that of a failure or a panic too.
//! Does not own: what is logged (each part says what it does), what is let through (a setting).

use crate::command_line::Command;
use crate::settings::LogFormat;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Logs what `filter` lets through, in this form, from now on.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let log =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(filter)?).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => {
            log.json().with_current_span(false).with_span_list(false).init();
            // The default hook writes several lines of text.
            std::panic::set_hook(Box::new(|panic| {
                let at = panic.location().map(ToString::to_string).unwrap_or_default();
                let message = panic.payload_as_str().unwrap_or_default();
                tracing::error!(at, panic = message, "a part of the program panicked");
            }));
        }
    }
    Ok(())
}

/// The form of a command's log; text where it has none.
pub(crate) fn form_of(command: &Command) -> LogFormat {
    match command {
        Command::Demo(settings) => settings.form.log_format,
        Command::Node(settings) => settings.log.form.log_format,
        Command::Coordinator(settings) => settings.log.form.log_format,
        Command::Edge(settings) => settings.log.form.log_format,
        _ => LogFormat::Text,
    }
}

/// Says why the command failed, with its causes in one line.
pub(crate) fn failed(format: LogFormat, error: &anyhow::Error) {
    match format {
        LogFormat::Text => eprintln!("error: {error:#}"),
        LogFormat::Json => tracing::error!(error = format!("{error:#}"), "the command failed"),
    }
}
