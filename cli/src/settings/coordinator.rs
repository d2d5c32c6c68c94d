//! Settings of `tidemark coordinator`.
//!
//! Owns: the flags, their defaults and their help.
//! Does not own: what a coordinator does with its settings (`tidemark_coordinator`).

use super::access::AccessSettings;
use super::gossip::GossipSettings;
use super::node::{DEFAULT_HTTP, text};
use super::quotas::{QueryQuotas, SiteTimes};
use super::{ClusterSettings, LogSettings, Sources, TraceSettings, values};
use crate::failure::Misuse;
use clap::Args;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;
use tidemark_coordinator::CoordinatorConfig;
use tidemark_rollup::member::NodeId;

/// Settings of a coordinator.
#[derive(Clone, Debug, Args)]
pub(crate) struct CoordinatorSettings {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) log: LogSettings,

    #[command(flatten)]
    pub(crate) trace: TraceSettings,

    /// Address for HTTP and gRPC, IP:PORT
    ///
    /// 127.0.0.1 is reached from this machine only, 0.0.0.0 from everywhere, which needs --tls and --tokens. Port 0 lets
    /// the system choose.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = values::listen,
        default_value_t = DEFAULT_HTTP,
        help_heading = "Cluster"
    )]
    pub(crate) http: SocketAddr,

    /// Name of the coordinator, unique in the cluster [default: made up at each start]
    #[arg(long, value_name = "NAME", value_parser = values::node_id, help_heading = "Cluster")]
    pub(crate) id: Option<NodeId>,

    #[command(flatten)]
    pub(crate) gossip: GossipSettings,

    #[command(flatten)]
    pub(crate) access: AccessSettings,

    #[command(flatten)]
    pub(crate) cluster: ClusterSettings,

    /// How long a query may take; then it is answered with what there is, as a partial answer
    ///
    /// Longer waits for slow nodes; shorter gives a partial answer sooner.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = values::timeout,
        default_value = text(defaults().query_timeout),
        help_heading = "Limits"
    )]
    pub(crate) query_timeout: Duration,

    /// How long a post of events may take, all nodes tried included
    ///
    /// Longer outlasts a node that restarts; shorter frees the place for the next post sooner.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = values::timeout,
        default_value = text(defaults().ingest_timeout),
        help_heading = "Limits"
    )]
    pub(crate) ingest_timeout: Duration,

    /// Queries at a time; further ones are told to come back
    ///
    /// Each holds the replies of all nodes until they are merged. More makes better use of many cores; fewer bounds memory
    /// and keeps those let in fast.
    #[arg(long, value_name = "COUNT", default_value_t = defaults().max_queries, help_heading = "Limits")]
    pub(crate) max_queries: NonZeroUsize,

    /// Subscriptions at a time; further ones are refused
    ///
    /// Those that ask the same share what it costs to answer; each takes some kilobytes of its own.
    #[arg(long, value_name = "COUNT", default_value_t = defaults().max_subscriptions, help_heading = "Limits")]
    pub(crate) max_subscriptions: NonZeroUsize,

    /// Posts of events at a time; further ones are told to come back
    ///
    /// Each holds up to 4 MiB and several times that as events. More lets more slow senders in at a time.
    #[arg(long, value_name = "COUNT", default_value_t = defaults().max_posts, help_heading = "Limits")]
    pub(crate) max_posts: NonZeroUsize,

    /// Connections at a time; further ones wait until one closes
    ///
    /// Each costs a file descriptor and some kilobytes. Keep it below the limit on open files.
    #[arg(long, value_name = "COUNT", default_value_t = defaults().max_connections, help_heading = "Limits")]
    pub(crate) max_connections: NonZeroUsize,

    #[command(flatten)]
    pub(crate) quotas: QueryQuotas,

    #[command(flatten)]
    pub(crate) site_times: SiteTimes,
}

fn defaults() -> CoordinatorConfig {
    CoordinatorConfig::default()
}

impl CoordinatorSettings {
    /// The coordinator's configuration.
    ///
    /// # Errors
    /// Where settings contradict one another, or there is no seed.
    pub(crate) fn config(&self) -> Result<CoordinatorConfig, Misuse> {
        if self.gossip.seeds.is_empty() {
            return Err(Misuse::new("a coordinator needs a node to begin with: give --seeds host:port,..."));
        }
        Ok(CoordinatorConfig {
            http: self.http,
            shards: self.cluster.shards,
            replication: self.gossip.replication,
            schema: self.cluster.schema()?,
            dimension_values: self.cluster.dimension_values,
            query_timeout: self.query_timeout,
            ingest_timeout: self.ingest_timeout,
            max_queries: self.max_queries,
            max_subscriptions: self.max_subscriptions,
            max_posts: self.max_posts,
            max_connections: self.max_connections,
            site_quotas: self.quotas.quotas(&self.site_times),
        })
    }
}
