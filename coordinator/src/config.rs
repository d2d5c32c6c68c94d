//! The coordinator's settings.
//!
//! Owns: what can be set, the defaults, and what makes settings valid.
//! Does not own: parts that are no data (clock, view, metrics): see [`Parts`](crate::Parts).

use crate::quotas::SiteQuotas;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::census;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardCount;

/// Settings of a coordinator.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Where to listen, for JSON and gRPC alike, by way of [`Port::At`](tidemark_shell::port::Port::At). Port 0 lets the
    /// system choose; [`Running::address`](crate::Running::address) tells which.
    pub http: SocketAddr,
    /// How many shards the cluster has. The same on all members: nodes refuse a question about another count.
    pub shards: ShardCount,
    /// How many owners a shard has. The same on all members: one that differs asks nodes for shards that they do not have.
    pub replication: Replication,
    /// What can be asked for. A name that only the nodes know cannot be asked for here; one that only the coordinator
    /// knows reads as empty.
    pub schema: Arc<Schema>,
    /// Distinct values per site, dimension and bucket that keep their names. The same on all members.
    ///
    /// Higher shows more of the long tail, and lets agreeing on a cut cost more: up to eight bytes per value, node
    /// and bucket. Lower puts more under `(other)`.
    pub dimension_values: u32,
    /// How long a query may take before it is answered with what there is.
    ///
    /// Longer outlasts a failover where no owner of a shard answers; shorter gives a partial answer sooner. A caller's own deadline (`grpc-timeout`)
    /// can only shorten it.
    pub query_timeout: Duration,
    /// How long a post of events may take, from its first byte to the acknowledgement, all nodes tried included.
    ///
    /// Longer outlasts a node that restarts; shorter frees the place of a post for the next one sooner.
    pub ingest_timeout: Duration,
    /// Queries answered at the same time; one more is told to come back.
    ///
    /// Each holds the replies of all nodes in memory until it is merged. More makes better use of many cores; fewer
    /// bounds memory and keeps the queries that are let in fast.
    pub max_queries: NonZeroUsize,
    /// Subscriptions open at the same time; one more is refused.
    ///
    /// What they cost follows from how many different questions they ask: each of those holds its newest answer, and what nodes
    /// replied last. Those that ask the same share it.
    pub max_subscriptions: NonZeroUsize,
    /// Posts of events taken in at the same time; one more is told to come back.
    ///
    /// Each holds up to 4 MiB of body and several times that as events. More lets more slow senders in at a time.
    pub max_posts: NonZeroUsize,
    /// Connections at the same time; further ones wait until one closes.
    ///
    /// Each costs a file descriptor and some kilobytes. Keep it below the limit on open files.
    pub max_connections: NonZeroUsize,
    /// How much questions about one site may take.
    pub site_quotas: SiteQuotas,
}

const fn non_zero(number: usize) -> NonZeroUsize {
    match NonZeroUsize::new(number) {
        Some(number) => number,
        None => NonZeroUsize::MIN,
    }
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8100)),
            shards: ShardCount::DEFAULT,
            replication: Replication::DEFAULT,
            schema: Arc::new(Schema::default()),
            dimension_values: census::DEFAULT_LIMIT,
            query_timeout: Duration::from_secs(2),
            ingest_timeout: Duration::from_secs(5),
            max_queries: non_zero(64),
            max_subscriptions: non_zero(10_000),
            max_posts: non_zero(32),
            max_connections: non_zero(1_000),
            site_quotas: SiteQuotas::default(),
        }
    }
}

impl CoordinatorConfig {
    /// Checks what the types leave open.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for (setting, value) in
            [("query_timeout", self.query_timeout), ("ingest_timeout", self.ingest_timeout)]
        {
            if value.is_zero() || value > MAX_TIMEOUT {
                return Err(ConfigError { setting, value });
            }
        }
        Ok(())
    }
}

/// The longest time limit that can be set.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// A setting that cannot be. Change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value:?}: set more than 0 and at most {MAX_TIMEOUT:?}")]
pub struct ConfigError {
    setting: &'static str,
    value: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_of_zero_or_of_days_is_refused_by_name() {
        for timeout in [Duration::ZERO, Duration::MAX] {
            let config = CoordinatorConfig { ingest_timeout: timeout, ..CoordinatorConfig::default() };
            let error = config.validate().expect_err("refused").to_string();
            assert!(error.starts_with("ingest_timeout is"), "{error}");
        }
        assert_eq!(CoordinatorConfig::default().validate(), Ok(()));
    }
}
