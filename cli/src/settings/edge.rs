//! Settings of `tidemark edge`.
//!
//! Owns: the flags, their defaults and their help.
//! Does not own: what an edge does with its settings (`tidemark_edge`).

use super::access::AccessSettings;
use super::values::{self, Bytes};
use super::{LogSettings, Sources};
use crate::failure::Misuse;
use crate::reach::ReachOptions;
use clap::{Args, ValueEnum};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;
use tidemark_edge::{EdgeConfig, Sites, VisitorMode};
use tidemark_journal::SyncPolicy;
use tidemark_rollup::canonical::KeepParams;

/// Where an edge listens unless it is told otherwise.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8200);

/// How visitors are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Visitor {
    /// By address and user agent, anew each day
    Daily,
    /// By address and user agent, with --visitor-key, for ever
    Fixed,
    /// Only where events name them
    None,
}

/// What becomes of requests that ask not to be tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoNotTrack {
    /// They are not counted
    Honour,
    /// They are counted like all others
    Ignore,
}

/// Settings of an edge.
#[derive(Clone, Debug, Args)]
pub(crate) struct EdgeSettings {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) log: LogSettings,

    #[command(flatten)]
    pub(crate) access: AccessSettings,

    #[command(flatten)]
    pub(crate) reach: ReachOptions,

    /// Address for HTTP, IP:PORT
    ///
    /// 127.0.0.1 is reached from this machine only: for a proxy in front. Port 0 lets the system choose.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = values::listen,
        default_value_t = DEFAULT_LISTEN,
        help_heading = "Edge"
    )]
    pub(crate) listen: SocketAddr,

    /// Nodes to bring events to, separated by commas; the others are learnt from them
    #[arg(
        long,
        value_name = "URL",
        value_parser = values::server,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7100",
        help_heading = "Edge"
    )]
    pub(crate) to: Vec<String>,

    /// The edge's own folder: events that are taken and no node has acknowledged, and the salt of the day
    ///
    /// Put it on a disk that lasts. One edge at a time can have it.
    #[arg(long, value_name = "FOLDER", default_value = "tidemark-edge", help_heading = "Edge")]
    pub(crate) spool: PathBuf,

    /// Disk for events that no node has acknowledged; when it is full, senders are told to come back
    ///
    /// More rides out a longer absence of the cluster. Nodes refuse what is older than their --accept-late (48h).
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = values::size_of_batches,
        default_value = "1GiB",
        help_heading = "Edge"
    )]
    pub(crate) spool_limit: Bytes,

    /// When events are taken: always (the disk has them), or interval (the disk has them 100 ms later)
    ///
    /// A crash of the edge loses nothing either way. With interval a loss of power may lose what was taken just before.
    #[arg(
        long,
        value_name = "WHEN",
        value_parser = values::sync_policy,
        default_value = "always",
        help_heading = "Edge"
    )]
    pub(crate) sync: SyncPolicy,

    /// How long an event waits for others to be put on disk and sent with them
    ///
    /// Longer makes larger blocks, which cost nodes less; shorter answers sooner.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = values::timeout,
        default_value = "10ms",
        help_heading = "Edge"
    )]
    pub(crate) batch_age: Duration,

    /// Sites to take events of, each as site or site=origin, separated by commas; others are refused
    ///
    /// A site alone may be sent by its own pages, with or without www. `example.com=https://shop.example` lets pages of that
    /// origin send events of example.com, and only those that are named so; example.com=* lets all.
    #[arg(long, value_name = "SITE[=ORIGIN]", value_parser = values::edge_site, value_delimiter = ',', help_heading = "Events")]
    pub(crate) sites: Vec<String>,

    /// Query parameters that stay in URLs, each as site:parameter, separated by commas
    ///
    /// An asterisk stands for all sites or all parameters. Others are dropped; utm_... become channel and campaign.
    #[arg(
        long,
        value_name = "SITE:PARAMETER",
        value_parser = values::keep_param,
        value_delimiter = ',',
        help_heading = "Events"
    )]
    pub(crate) keep_params: Vec<String>,

    /// File of countries by address, in MaxMind's format (.mmdb) [default: no country]
    ///
    /// Read at the start, into memory.
    #[arg(long, value_name = "FILE", help_heading = "Events")]
    pub(crate) geo: Option<PathBuf>,

    /// How visitors are told apart: daily, fixed or none
    ///
    /// A visitor is a hash of site, address and user agent with a secret salt; neither of them is kept. daily draws another
    /// salt each day (UTC) and forgets the one before, so that nobody is known for longer. fixed knows who comes back, and
    /// needs --visitor-key. none counts visitors only where events name them.
    #[arg(long, value_name = "HOW", value_enum, default_value = "daily", help_heading = "Privacy")]
    pub(crate) visitor: Visitor,

    /// Secret of at least 16 characters that visitors are hashed with [default: drawn at random each day]
    ///
    /// The same on all edges, so that a visitor is the same at each of them. With daily, each day has a salt made from it.
    /// Better given as TIDEMARK_VISITOR_KEY: others on the machine see command lines.
    #[arg(
        long,
        value_name = "SECRET",
        value_parser = values::visitor_key,
        hide_env_values = true,
        help_heading = "Privacy"
    )]
    pub(crate) visitor_key: Option<String>,

    /// What becomes of requests with DNT: 1 or Sec-GPC: 1: honour (they are not counted) or ignore
    #[arg(long, value_name = "HOW", value_enum, default_value = "honour", help_heading = "Privacy")]
    pub(crate) do_not_track: DoNotTrack,

    /// Proxies in front of the edge whose X-Forwarded-For is believed
    ///
    /// The client's address is that many entries from the header's end. 0 believes the connection alone. More than there are
    /// lets clients make up their address.
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Limits")]
    pub(crate) trusted_proxies: u32,

    /// Events per second of one client address, in bursts of up to ten times as many; 0 is no limit
    ///
    /// Many people may share an address. An IPv6 network of 64 bits counts as one.
    #[arg(long, value_name = "COUNT", default_value_t = defaults().address_rate, help_heading = "Limits")]
    pub(crate) address_rate: u32,

    /// Events per second of one site, in bursts of up to twice as many; 0 is no limit
    #[arg(long, value_name = "COUNT", default_value_t = defaults().site_rate, help_heading = "Limits")]
    pub(crate) site_rate: u64,

    /// Largest post, at most 4MiB
    ///
    /// Browsers send up to 64KiB. Up to 256 posts are read at a time.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = values::body_size,
        default_value = "256KiB",
        help_heading = "Limits"
    )]
    pub(crate) max_body: Bytes,

    /// Connections at a time; further ones wait until one closes
    ///
    /// Each costs a file descriptor and some kilobytes. Keep it below the limit on open files.
    #[arg(long, value_name = "COUNT", default_value_t = defaults().max_connections, help_heading = "Limits")]
    pub(crate) max_connections: NonZeroUsize,
}

fn defaults() -> EdgeConfig {
    EdgeConfig::new(Vec::new(), Sites::default())
}

impl EdgeSettings {
    /// The edge's configuration.
    ///
    /// # Errors
    /// Where settings contradict one another, or there is no site.
    pub(crate) fn config(&self) -> Result<EdgeConfig, Misuse> {
        let misuse = |error: &dyn std::fmt::Display| Misuse::new(error.to_string());
        let sites = Sites::parse(self.sites.iter().map(String::as_str)).map_err(|error| misuse(&error))?;
        let keep_params =
            KeepParams::parse(self.keep_params.iter().map(String::as_str)).map_err(|error| misuse(&error))?;
        let visitor = match (self.visitor, self.visitor_key.clone()) {
            (Visitor::Daily, key) => VisitorMode::Daily { key },
            (Visitor::Fixed, Some(key)) => VisitorMode::Fixed { key },
            (Visitor::Fixed, None) => {
                return Err(Misuse::new(
                    "--visitor fixed needs a key that all edges share: give --visitor-key",
                ));
            }
            (Visitor::None, None) => VisitorMode::None,
            (Visitor::None, Some(_)) => {
                return Err(Misuse::new("--visitor none hashes nobody: leave --visitor-key out"));
            }
        };
        let config = EdgeConfig {
            spool: self.spool.clone(),
            spool_limit_bytes: self.spool_limit.0,
            sync: self.sync,
            batch_age: self.batch_age,
            keep_params,
            trusted_proxies: self.trusted_proxies,
            visitor,
            ignore_do_not_track: self.do_not_track == DoNotTrack::Ignore,
            address_rate: self.address_rate,
            site_rate: self.site_rate,
            max_body_bytes: usize::try_from(self.max_body.0).unwrap_or(usize::MAX),
            max_connections: self.max_connections,
            ..EdgeConfig::new(self.to.clone(), sites)
        };
        config.validate().map_err(|error| Misuse::new(format!("{error}; --sites and --to say which")))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;
    use crate::command_line;
    use clap::FromArgMatches as _;
    use std::collections::BTreeSet;

    const EXAMPLE: &str = include_str!("../../../deploy/edge.toml");

    fn command() -> clap::Command {
        command_line::command().find_subcommand("edge").unwrap().clone()
    }

    fn settings(text: &str, flags: &[&str]) -> EdgeSettings {
        let command = file::with_defaults_from(command(), text, &BTreeSet::new()).unwrap();
        let matches = command.try_get_matches_from([&["edge"], flags].concat()).unwrap();
        EdgeSettings::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn the_example_file_names_a_site_and_sets_defaults_and_mentions_every_setting() {
        let debug = |text, flags: &[&str]| format!("{:?}", settings(text, flags).config().unwrap());
        assert_eq!(debug(EXAMPLE, &[]), debug("", &["--sites", "example.com"]));
        let lines = EXAMPLE.lines().filter_map(|line| line.trim_start_matches("# ").split_once(" = "));
        let mentioned: BTreeSet<&str> = lines.map(|(key, _)| key).collect();
        let command = command();
        let all: BTreeSet<&str> = file::settings(&command).map(|arg| arg.get_id().as_str()).collect();
        assert_eq!(mentioned, all);
    }

    #[test]
    fn defaults_of_flags_are_those_of_the_edge() {
        let config = settings("", &["--sites", "example.com"]).config().unwrap();
        let own =
            EdgeConfig::new(vec!["http://127.0.0.1:7100".to_owned()], Sites::parse(["example.com"]).unwrap());
        assert_eq!(format!("{config:?}"), format!("{own:?}"));
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_flags_to_change() {
        let error = |flags: &[&str]| settings("", flags).config().unwrap_err().to_string();
        assert!(error(&[]).contains("--sites"));
        assert!(error(&["--sites", "a.example", "--visitor", "fixed"]).contains("--visitor-key"));
        let with_key = ["--sites", "a.example", "--visitor", "none", "--visitor-key", "sixteen characters"];
        assert!(error(&with_key).contains("--visitor-key"));
        let refused = |flags: &[&str]| {
            command().try_get_matches_from([&["edge"], flags].concat()).unwrap_err().to_string()
        };
        assert!(refused(&["--sites", "a b"]).contains("is no site"));
        assert!(refused(&["--max-body", "5MiB"]).contains("at most 4MiB"));
        assert!(refused(&["--visitor-key", "short"]).contains("at least 16"));
    }
}
