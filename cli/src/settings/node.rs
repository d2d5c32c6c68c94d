//! Settings of `tidemark node`.
//!
//! Owns: the flags, their defaults and their help, and the settings of a coordinator in the same process.
//! Does not own: what a node does with its settings (`tidemark_node`).

use super::access::AccessSettings;
use super::gossip::GossipSettings;
use super::history::HistorySettings;
use super::quotas::{IngestQuotas, QueryQuotas, SiteTimes};
use super::values::{self, Bytes};
use super::{ClusterSettings, LogSettings, Sources, TraceSettings};
use crate::failure::Misuse;
use clap::Args;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;
use tidemark_coordinator::CoordinatorConfig;
use tidemark_node::NodeConfig;
use tidemark_node::config::{
    DEFAULT_BACKUP_FLUSH, DEFAULT_CHECK_EVERY, DEFAULT_DRAIN_TIMEOUT, DEFAULT_FORWARD_TIMEOUT,
    DEFAULT_IN_FLIGHT_BYTES, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_QUERIES, DEFAULT_MEMORY_BUDGET_BYTES,
    DEFAULT_PEER_BYTES, DEFAULT_QUERY_TIMEOUT, DEFAULT_VERIFY_EVERY,
};
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::{DEFAULT_ACCEPT_LATE, TimeRules};
use tidemark_rollup::member::{NodeId, Zone};

/// Where a coordinator listens unless it is told otherwise.
pub(crate) const DEFAULT_HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8100);
/// Where a node listens unless it is told otherwise.
pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7100);

/// Settings of a node.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeSettings {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) log: LogSettings,

    #[command(flatten)]
    pub(crate) trace: TraceSettings,

    /// Name of the node, unique in the cluster: letters, digits, and - _ . :
    ///
    /// Placement follows from names: a node that comes back under another name gets other shards. By default the address
    /// it listens on, like 127.0.0.1-7100, and node-7100 where that is every interface.
    #[arg(long, value_name = "NAME", value_parser = values::node_id, help_heading = "Cluster")]
    pub(crate) id: Option<NodeId>,

    /// Address for gRPC and /metrics, IP:PORT
    ///
    /// 127.0.0.1 is reached from this machine only, 0.0.0.0 from everywhere, which needs --tls and --tokens. Port 0 lets
    /// the system choose.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = values::listen,
        default_value_t = DEFAULT_LISTEN,
        help_heading = "Cluster"
    )]
    pub(crate) listen: SocketAddr,

    /// Where the node stands: a rack, a building, a region
    ///
    /// Owners of a shard are spread over zones, so that a zone that fails takes only one of them.
    #[arg(long, value_name = "NAME", value_parser = values::zone, help_heading = "Cluster")]
    pub(crate) zone: Option<Zone>,

    #[command(flatten)]
    pub(crate) gossip: GossipSettings,

    #[command(flatten)]
    pub(crate) access: AccessSettings,

    /// Run a coordinator in the same process
    ///
    /// One process answers queries too, on --http: simple, but both share its cores and its fate.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        help_heading = "Cluster"
    )]
    pub(crate) single: bool,

    /// Address of the coordinator for HTTP and gRPC, with --single [default: 127.0.0.1:8100]
    #[arg(long, value_name = "ADDRESS", value_parser = values::listen, help_heading = "Cluster")]
    pub(crate) http: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) cluster: ClusterSettings,

    /// Query parameters that stay in URLs, each as site:parameter, separated by commas
    ///
    /// An asterisk stands for all sites or all parameters. A parameter that stays makes a page of each of its values;
    /// others are dropped. utm_... always become channel and campaign. Producers that send blocks, like replay, decide
    /// by themselves.
    #[arg(
        long,
        value_name = "SITE:PARAMETER",
        value_parser = values::keep_param,
        value_delimiter = ',',
        help_heading = "Events"
    )]
    pub(crate) keep_params: Vec<String>,

    /// How old an event may be when it is sent; older ones are rejected as too_late
    ///
    /// Longer takes in what was held up, and lets old buckets grow again; for a backfill give 20years.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = values::duration,
        default_value = text(DEFAULT_ACCEPT_LATE),
        help_heading = "Events"
    )]
    pub(crate) accept_late: Duration,

    /// Bytes of events that are taken in and not acknowledged yet; beyond it senders are told to wait
    ///
    /// More lets many or distant producers send faster; less bounds memory in a burst. At least one batch, 4MiB.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = values::size_of_batches,
        default_value = mebibytes(DEFAULT_IN_FLIGHT_BYTES as u64),
        help_heading = "Limits"
    )]
    pub(crate) in_flight_bytes: Bytes,

    /// Memory of the process for events: rollups, batches, caches; near it senders are told to wait, and queries go on
    ///
    /// From four fifths of it on, the oldest five-minute buckets are answered from history instead; at fifteen sixteenths nothing is
    /// taken in. More answers more from memory. Leave the machine a quarter of its memory for queries and the rest.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = values::size,
        default_value = mebibytes(DEFAULT_MEMORY_BUDGET_BYTES),
        help_heading = "Limits"
    )]
    pub(crate) memory_budget: Bytes,

    #[command(flatten)]
    pub(crate) history: HistorySettings,

    /// Pause between two commits that are verified in the background: counted anew from their raw events; 0s or off: none
    ///
    /// A difference is an error in the log, and shows in /metrics and the dashboard. Shorter finds one sooner. A bucket of 300,000
    /// events (1,000 a second) takes a quarter of a second of one core; a node never spends more than about a tenth of a core on
    /// it: after a larger one the pause is longer.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = pause,
        default_value = text(DEFAULT_VERIFY_EVERY),
        help_heading = "What is kept"
    )]
    pub(crate) verify_every: Duration,

    /// Owners that must have an event before it is acknowledged; all that are present have it in any case
    ///
    /// More keeps acknowledged events through worse accidents; while fewer nodes are present, nothing is taken in.
    #[arg(long, value_name = "COUNT", default_value_t = NonZeroUsize::MIN, help_heading = "Events")]
    pub(crate) min_owners: NonZeroUsize,

    /// How long a node that is told to stop may take to hand over what is not committed
    ///
    /// What it has not handed over by then is in its journal alone, until it is started again.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = values::duration,
        default_value = text(DEFAULT_DRAIN_TIMEOUT),
        help_heading = "Limits"
    )]
    pub(crate) drain_timeout: Duration,

    /// How long another node may take to acknowledge events that are passed on to it
    ///
    /// Longer outlasts a pause of that node; shorter tells the sender sooner to send again, which is harmless.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = values::timeout,
        default_value = text(DEFAULT_FORWARD_TIMEOUT),
        help_heading = "Limits"
    )]
    pub(crate) forward_timeout: Duration,

    /// Bytes of events on their way to one other node; beyond it senders of such events are told to wait
    ///
    /// More keeps a distant node busy; less bounds what a node that hangs can hold up. At least two batches, 8MiB.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = values::size_of_batches,
        default_value = mebibytes(DEFAULT_PEER_BYTES as u64),
        help_heading = "Limits"
    )]
    pub(crate) peer_bytes: Bytes,

    /// How long the node works on its part of a query [default: 10s; with --single 2s, then for the whole query]
    ///
    /// Coordinators have a limit of their own and tell the node how long they wait; this one is for what goes astray.
    #[arg(long, value_name = "DURATION", value_parser = values::timeout, help_heading = "Limits")]
    pub(crate) query_timeout: Option<Duration>,

    /// Queries at a time; further ones are told to come back
    ///
    /// Each may hold a million rows in memory. More makes better use of many cores; fewer keeps those let in fast.
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_MAX_QUERIES, help_heading = "Limits")]
    pub(crate) max_queries: NonZeroUsize,

    /// Connections at a time; further ones wait until one closes
    ///
    /// Each costs a file descriptor and some kilobytes. Keep it below the limit on open files. With --single also those of the coordinator.
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_MAX_CONNECTIONS, help_heading = "Limits")]
    pub(crate) max_connections: NonZeroUsize,

    #[command(flatten)]
    pub(crate) quotas: IngestQuotas,

    /// With --single.
    #[command(flatten)]
    pub(crate) query_quotas: QueryQuotas,

    #[command(flatten)]
    pub(crate) site_times: SiteTimes,
}

impl NodeSettings {
    /// The node's configuration; `address` is where it really listens.
    ///
    /// # Errors
    /// Where settings contradict one another.
    pub(crate) fn node_config(&self, address: SocketAddr) -> Result<NodeConfig, Misuse> {
        let id = self.node_id(address)?;
        let own = [Some(address), self.gossip.advertise, self.gossip.gossip];
        let own: Vec<String> = own.into_iter().flatten().map(|own| own.to_string()).collect();
        if self.history.store.store.is_none() && self.gossip.seeds.iter().any(|seed| !own.contains(seed)) {
            return Err(Misuse::new(
                "store is not set: nodes of one cluster share their history; give all of them the same --store, a folder \
                 that all reach or s3://bucket/prefix"
                    .to_owned(),
            ));
        }
        let keep_params = KeepParams::parse(self.keep_params.iter().map(String::as_str));
        Ok(NodeConfig {
            id,
            listen: address,
            replication: self.gossip.replication,
            min_owners: self.min_owners,
            shards: self.cluster.shards,
            schema: self.cluster.schema()?,
            keep_params: keep_params.map_err(|error| Misuse::new(error.to_string()))?,
            times: TimeRules { accept_late: self.accept_late },
            dimension_values: self.cluster.dimension_values,
            in_flight_bytes: usize::try_from(self.in_flight_bytes.0).unwrap_or(usize::MAX),
            memory_budget_bytes: self.memory_budget.0,
            data: self.history.store.data.clone(),
            store: self.history.store.store.clone(),
            sync: self.history.sync,
            journal_limit_bytes: self.history.journal_limit.map(|limit| limit.0),
            keep: self.history.keep,
            settle: self.history.settle,
            cache_disk_bytes: self.history.cache_disk.0,
            cache_memory_bytes: self.history.cache_memory.0,
            compact_after: self.history.compact_after,
            verify_every: (!self.verify_every.is_zero()).then_some(self.verify_every),
            retention: self.history.retention.retention(),
            forward_timeout: self.forward_timeout,
            peer_bytes: usize::try_from(self.peer_bytes.0).unwrap_or(usize::MAX),
            drain_timeout: self.drain_timeout,
            backup_flush: DEFAULT_BACKUP_FLUSH,
            check_every: DEFAULT_CHECK_EVERY,
            query_timeout: self.query_timeout.unwrap_or(DEFAULT_QUERY_TIMEOUT),
            max_queries: self.max_queries,
            max_connections: self.max_connections,
            site_quotas: self.quotas.quotas(&self.site_times),
        })
    }

    /// The node's name; `address` is where it really listens.
    ///
    /// # Errors
    /// Where no name follows from that.
    pub(crate) fn node_id(&self, address: SocketAddr) -> Result<NodeId, Misuse> {
        self.id.clone().map_or_else(|| id_of(address), Ok)
    }

    /// The configuration of the coordinator in the same process, where there is to be one.
    ///
    /// # Errors
    /// Where settings contradict one another.
    pub(crate) fn coordinator_config(&self) -> Result<Option<CoordinatorConfig>, Misuse> {
        match (self.single, self.http) {
            (false, None) => Ok(None),
            (false, Some(http)) => Err(Misuse::new(format!(
                "http = {http} is for the coordinator of a single node: give --single as well"
            ))),
            (true, http) => {
                let defaults = CoordinatorConfig::default();
                Ok(Some(CoordinatorConfig {
                    http: http.unwrap_or(DEFAULT_HTTP),
                    shards: self.cluster.shards,
                    replication: self.gossip.replication,
                    schema: self.cluster.schema()?,
                    dimension_values: self.cluster.dimension_values,
                    query_timeout: self.query_timeout.unwrap_or(defaults.query_timeout),
                    max_queries: self.max_queries,
                    max_connections: self.max_connections,
                    site_quotas: self.query_quotas.quotas(&self.site_times),
                    ..defaults
                }))
            }
        }
    }
}

/// Parses a length of time, or `off`.
fn pause(text: &str) -> Result<Duration, String> {
    match text {
        "off" => Ok(Duration::ZERO),
        text => values::duration(text).map_err(|error| format!("{error}; or off")),
    }
}

/// The name of a node that has none: after where it listens.
fn id_of(address: SocketAddr) -> Result<NodeId, Misuse> {
    let name = match address.ip().is_unspecified() {
        true => format!("node-{}", address.port()),
        false => format!("{}-{}", address.ip(), address.port()),
    };
    NodeId::new(name).map_err(|error| Misuse::new(format!("{error}; give --id")))
}

/// A length of time as a setting's text.
pub(crate) fn text(duration: Duration) -> String {
    let hours = duration.as_secs() / 3600;
    match hours > 0 && duration == Duration::from_secs(hours * 3600) {
        // humantime would say "2days".
        true => format!("{hours}h"),
        false => humantime::format_duration(duration).to_string(),
    }
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    match bytes % (1 << 30) {
        0 => format!("{}GiB", bytes >> 30),
        _ => format!("{}MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_name_is_called_after_where_it_listens() {
        for (address, name) in [
            ("127.0.0.1:7100", "127.0.0.1-7100"),
            ("0.0.0.0:7101", "node-7101"),
            ("[::]:1", "node-1"),
            ("[::1]:7", "::1-7"),
        ] {
            assert_eq!(id_of(address.parse().unwrap()).unwrap().as_str(), name);
        }
    }

    #[test]
    fn defaults_read_like_settings() {
        assert_eq!(text(DEFAULT_ACCEPT_LATE), "48h");
        assert_eq!(text(Duration::from_secs(3)), "3s");
        assert_eq!(mebibytes(64 << 20), "64MiB");
        assert_eq!(mebibytes(4 << 30), "4GiB");
    }
}
