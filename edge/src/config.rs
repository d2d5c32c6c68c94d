//! What an edge is told.
//!
//! Owns: settings with their bounds and defaults, and what goes together.
//! Does not own: flags and files that settings come from, the sites' rules (`sites`).

use crate::sites::Sites;
use crate::visitor::VisitorMode;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;
use tidemark_client::SyncPolicy;
use tidemark_rollup::canonical::KeepParams;

/// Settings of an edge.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Nodes to bring events to, `http://host:port`; the others are learnt from them. At least one.
    pub nodes: Vec<String>,
    /// The sites that events are taken for, and which pages may send them.
    pub sites: Sites,
    /// The edge's own folder: events that are acknowledged and not yet brought, and the salt of the day. One edge at a time.
    pub spool: PathBuf,
    /// Events on disk do not take more than this. When it is full, senders are told to come back.
    pub spool_limit_bytes: u64,
    /// When the disk has an event. [`SyncPolicy::Always`] survives a loss of power, an interval only a crash of the process.
    pub sync: SyncPolicy,
    /// How long an event waits for others to be put on disk and sent with them.
    ///
    /// Longer makes larger blocks, which cost nodes less; shorter replies sooner.
    pub batch_age: Duration,
    /// Query parameters that stay in URLs.
    pub keep_params: KeepParams,
    /// How many proxies stand before the edge: the client's address is that many entries from the end of `X-Forwarded-For`.
    /// With none the header is not believed.
    pub trusted_proxies: u32,
    /// How visitors are told apart.
    pub visitor: VisitorMode,
    /// Whether requests that ask not to be tracked (`DNT`, `Sec-GPC`) are counted all the same.
    pub ignore_do_not_track: bool,
    /// Events per second of one client address, with bursts of ten times as many; 0 is no limit.
    pub address_rate: u32,
    /// Events per second of one site, with bursts of twice as many; 0 is no limit.
    pub site_rate: u64,
    /// Bytes of one post.
    pub max_body_bytes: usize,
    /// Connections at a time; further ones wait until one closes.
    pub max_connections: NonZeroUsize,
}

impl EdgeConfig {
    /// Events that one post may have.
    pub const MAX_EVENTS: usize = 1_000;

    /// The defaults, for these nodes and sites: the folder `tidemark-edge` with up to 1 GiB, synced always; 10 ms; no proxy; a daily
    /// salt; 100 events/s of an address and 20,000 of a site; posts of 256 KiB; 4,096 connections.
    pub fn new(nodes: Vec<String>, sites: Sites) -> Self {
        Self {
            nodes,
            sites,
            spool: PathBuf::from("tidemark-edge"),
            spool_limit_bytes: 1 << 30,
            sync: SyncPolicy::Always,
            batch_age: Duration::from_millis(10),
            keep_params: KeepParams::default(),
            trusted_proxies: 0,
            visitor: VisitorMode::Daily { key: None },
            ignore_do_not_track: false,
            address_rate: 100,
            site_rate: 20_000,
            max_body_bytes: 256 << 10,
            max_connections: NonZeroUsize::MIN.saturating_add(4_095),
        }
    }

    /// Checks what no single setting can.
    ///
    /// # Errors
    /// What to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.nodes.is_empty() {
            return Err(ConfigError::NoNodes);
        }
        if self.sites.is_empty() {
            return Err(ConfigError::NoSites);
        }
        Ok(())
    }
}

/// Why settings cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Name a node.
    #[error("an edge needs a node to bring events to")]
    NoNodes,
    /// Name a site.
    #[error("an edge takes events only of sites that it is told: name at least one, like example.com")]
    NoSites,
}
