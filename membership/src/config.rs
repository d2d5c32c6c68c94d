//! What a member says of itself, and how it gossips.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tidemark_rollup::member::{NodeId, Role, Zone};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;

/// What all members of a cluster have to agree on. A member that says otherwise is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The cluster's name: keeps clusters of one network apart.
    pub cluster: String,
    /// How many shards it has.
    pub shards: ShardCount,
    /// How many owners a shard has.
    pub replication: Replication,
    /// A hash of the schema.
    pub schema: u64,
}

/// Seals datagrams. Members need the same one.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(pub(crate) [u8; 32]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

impl ClusterKey {
    /// A key from any text.
    pub fn of(text: &str) -> Self {
        use sha2::{Digest as _, Sha256};
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

/// How fast gossip is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a member probes another one. Shorter finds failures sooner, and sends more.
    pub probe_every: Duration,
    /// How long a probe may take before others are asked to probe as well. Less than half of `probe_every`.
    pub probe_timeout: Duration,
    /// How long a member is suspected before it is given up. Longer forgives longer pauses; shorter finds failures sooner.
    pub suspect_for: Duration,
    /// How long a member that was given up keeps its shards: it may have been a pause.
    pub doubt_for: Duration,
    /// How often a seed is told that this member is there, always: two halves that forgot each other meet again by this.
    pub announce_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_every: Duration::from_millis(400),
            probe_timeout: Duration::from_millis(150),
            suspect_for: Duration::from_millis(1200),
            doubt_for: Duration::from_secs(1),
            announce_every: Duration::from_secs(5),
        }
    }
}

/// What a member says of itself, and whom it looks for.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// Its name.
    pub id: NodeId,
    /// What it is there for.
    pub role: Role,
    /// Where it stands.
    pub zone: Option<Zone>,
    /// Where others reach its services, `host:port`.
    pub address: String,
    /// Where others reach its gossip.
    pub gossip: SocketAddr,
    /// Members to begin with, `host:port` of their gossip; names are looked up each time. Its own address may be among them.
    pub seeds: Vec<String>,
    /// What has to agree.
    pub facts: ClusterFacts,
    /// Seals datagrams.
    pub key: ClusterKey,
    /// How fast.
    pub timing: Timing,
    /// A folder of its own, where it keeps which life this is and whom it knows; without one, the time of day has to do.
    pub folder: Option<PathBuf>,
    /// The version of the program.
    pub version: String,
}
