//! The command line: which commands there are, and how flags, environment and file become one set of settings.
//!
//! Owns: the commands, the environment variables of settings, and reading the `--config` file.
//! Does not own: settings themselves (`settings`), what commands do.

use crate::certs::CertsOptions;
use crate::demo::DemoSettings;
use crate::doctor::DoctorOptions;
use crate::history::rebuild::RebuildOptions;
use crate::history::receipt::ReceiptOptions;
use crate::history::retain::RetainOptions;
use crate::history::segments::SegmentsOptions;
use crate::history::verify::VerifyOptions;
use crate::loadgen::LoadgenOptions;
use crate::members::NodeOptions;
use crate::query::QueryOptions;
use crate::replay::ReplayCommand;
use crate::settings::coordinator::CoordinatorSettings;
use crate::settings::edge::EdgeSettings;
use crate::settings::file;
use crate::settings::node::NodeSettings;
use crate::token::TokenCommand;
use crate::watch::WatchOptions;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The commands that serve: what they are given are settings.
pub(crate) const SERVING: [&str; 4] = ["demo", "node", "coordinator", "edge"];

/// The commands that work on what nodes keep. They take some of a node's settings, also from its file, and pass over the
/// others.
const READING: [&str; 4] = ["rebuild", "verify", "retain", "segments"];

/// How settings are written, at the end of the help of every command that serves.
const FORMS: &str = "\
DURATION is a number and a unit, like 500ms, 2s, 90min, 48h or 20years. SIZE is a whole number and B, KiB, MiB, GiB \
or TiB (powers of 1024), or KB, MB, GB or TB (powers of 1000). Lists are separated by commas, or the flag is \
repeated; in the file they are arrays. A list that is given takes the place of the default.";

/// How settings are given, at the end of the help of the program.
const ORDER: &str = "\
Every setting of demo, node, coordinator and edge is a flag, a key of the --config file and an environment variable: \
--accept-late, accept_late, TIDEMARK_ACCEPT_LATE. A flag goes before the environment, that before the file.";

/// Real-time web analytics in memory: what is happening on every URL, right now.
#[derive(Debug, Parser)]
#[command(
    name = "tidemark",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 110,
    after_help = ORDER
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything at once: three nodes, a coordinator and made-up traffic in one process
    Demo(DemoSettings),
    /// Run a node: takes events in, keeps its shards, answers its part of queries
    Node(Box<NodeSettings>),
    /// Run a coordinator: answers queries over all nodes, takes posts of events
    Coordinator(CoordinatorSettings),
    /// Run an edge: takes events from browsers and servers, keeps them on disk, brings them to nodes
    Edge(Box<EdgeSettings>),
    /// Make certificates for members, to begin with
    Certs(CertsOptions),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Ask a question and print the answer
    Query(QueryOptions),

    /// Keep a question open: a live table of its answer
    Watch(WatchOptions),
    /// Send the hits of access logs as events
    Replay(ReplayCommand),
    /// Make load by the clock, measure it, and prove the counts
    Loadgen(Box<LoadgenOptions>),
    /// Print the members of a cluster: what each is about to do, what it owns, and how far it is behind
    Members(NodeOptions),
    /// Look at a running cluster, and say what is wrong and what to do
    Doctor(DoctorOptions),
    /// Print which nodes own each shard
    Placement(NodeOptions),
    /// Have a node hand over what is not committed, leave the cluster, and stop
    Drain(NodeOptions),
    /// Print what became of a site's events: received = counted + duplicate + rejected
    Receipt(ReceiptOptions),
    /// Count raw events anew and compare with every number that is stored
    Verify(VerifyOptions),
    /// Count a site's raw events anew under the present schema, and put that in the place of what is stored
    Rebuild(RebuildOptions),
    /// List what of history is no longer kept, or delete it: nodes do that by themselves every hour
    Retain(RetainOptions),
    /// Print which Parquet files hold what is committed, for other programs to read
    Segments(SegmentsOptions),
}

/// Reads the command line, with settings from the environment and from the file that it names.
///
/// # Errors
/// As clap has them; help and version are errors, too.
pub(crate) fn parse(arguments: &[OsString]) -> Result<CommandLine, clap::Error> {
    let mut command = command();
    let parse = |command: &clap::Command| {
        let matches = command.clone().try_get_matches_from(arguments);
        matches.map_err(|error| naming_the_environment(error, command, arguments))
    };
    let mut matches = parse(&command)?;
    if let Some((name, path)) = named_file(&matches) {
        let (name, path) = (name.to_owned(), path.to_owned());
        command = with_file(command, &name, &path)?;
        matches = parse(&command)?;
    }
    CommandLine::from_arg_matches(&matches)
}

/// All commands, with an environment variable for every setting.
pub(crate) fn command() -> clap::Command {
    let command = SERVING.iter().fold(CommandLine::command(), |command, name| {
        command.mut_subcommand(name, |serving| {
            serving.after_long_help(FORMS).mut_args(|arg| {
                let variable = variable(&arg);
                arg.env(variable)
            })
        })
    });
    let keys = keys_of_nodes(&command);
    READING.iter().fold(command, |command, name| {
        command.mut_subcommand(name, |reading| {
            reading.mut_args(|arg| match keys.contains(arg.get_id().as_str()) || arg.get_id() == "config" {
                true => {
                    let variable = variable(&arg);
                    arg.env(variable)
                }
                false => arg,
            })
        })
    })
}

/// What a node's file may set.
fn keys_of_nodes(command: &clap::Command) -> BTreeSet<String> {
    let node = command.find_subcommand("node");
    node.into_iter().flat_map(file::settings).map(|arg| arg.get_id().to_string()).collect()
}

/// The environment variable of a setting.
pub(crate) fn variable(arg: &Arg) -> String {
    format!("TIDEMARK_{}", arg.get_id().as_str().to_ascii_uppercase())
}

/// The command given, and the file that it takes settings from.
fn named_file(matches: &ArgMatches) -> Option<(&str, &Path)> {
    let (name, matches) = matches.subcommand()?;
    let path: &PathBuf = matches.try_get_one("config").ok().flatten()?;
    Some((name, path))
}

fn with_file(mut command: clap::Command, name: &str, path: &Path) -> Result<clap::Command, clap::Error> {
    let at_fault = |message: String| {
        let message = format!("{}: {message}\n", path.display());
        clap::Error::raw(ErrorKind::ValueValidation, message)
    };
    let text = std::fs::read_to_string(path).map_err(|error| at_fault(error.to_string()))?;
    let Some(serving) = command.find_subcommand(name) else { return Ok(command) };
    let others = if READING.contains(&name) { keys_of_nodes(&command) } else { BTreeSet::new() };
    let serving = file::with_defaults_from(serving.clone(), &text, &others)
        .map_err(|error| at_fault(error.to_string()))?;
    command = command.mut_subcommand(name, |_| serving);
    Ok(command)
}

/// Says where a bad value is from, where it is not from the command line.
fn naming_the_environment(
    mut error: clap::Error,
    command: &clap::Command,
    arguments: &[OsString],
) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return error };
    let flag = shown.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
    let on_command_line = arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        argument.split('=').next() == Some(flag.as_str())
    });
    let settings = SERVING
        .iter()
        .filter_map(|name| command.find_subcommand(name))
        .flat_map(clap::Command::get_arguments);
    let arg = settings.into_iter().find(|arg| arg.get_long() == flag.strip_prefix("--"));
    if let Some(variable) = arg.map(variable)
        && !on_command_line
        && std::env::var_os(&variable).is_some()
    {
        let tip = format!("the value is from the environment variable {variable}").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> Vec<clap::Command> {
        let command = command();
        SERVING.iter().map(|name| command.find_subcommand(name).unwrap().clone()).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_argument_of_every_command_has_help() {
        for command in command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn every_setting_is_a_flag_and_an_environment_variable_of_the_same_words() {
        for command in serving() {
            for arg in command.get_arguments() {
                let id = arg.get_id().as_str();
                assert_eq!(arg.get_long(), Some(id.replace('_', "-").as_str()));
                let variable = arg.get_env().unwrap().to_str().unwrap();
                assert_eq!(variable, format!("TIDEMARK_{}", id.to_ascii_uppercase()));
            }
        }
    }

    #[test]
    fn a_setting_means_the_same_wherever_it_occurs() {
        // One environment may serve several commands of one machine.
        let all = serving();
        for (at, command) in all.iter().enumerate() {
            for arg in command.get_arguments() {
                let others = all[..at].iter().flat_map(clap::Command::get_arguments);
                for other in others.filter(|other| other.get_id() == arg.get_id()) {
                    let kinds = [arg, other].map(|arg| arg.get_value_parser().type_id());
                    assert_eq!(kinds[0], kinds[1], "{}", arg.get_id());
                }
            }
        }
    }
}
