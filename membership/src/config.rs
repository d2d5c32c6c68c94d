//! What a member says of itself, and how it gossips.
//!
//! Owns: the settings, what is wrong with them, and the parts that membership is given to act with.
//! Does not own: how they are spelled in files and flags (the program's).

use crate::identity::{MAX_ADDRESS_BYTES, MAX_VERSION_BYTES, is_plain};
use crate::metrics::MembershipMeter;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::member::{NodeId, Role, Zone};
use tidemark_rollup::outline::Outline;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::Clock;
use tidemark_shell::datagrams::Datagrams;

/// The most bytes that a cluster's name has.
pub(crate) const MAX_CLUSTER_BYTES: usize = 64;

/// What members of a cluster have to agree on. A member that says otherwise is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The cluster's name: keeps clusters of one network apart.
    pub cluster: String,
    /// How many shards it has.
    pub shards: ShardCount,
    /// How many owners a shard has.
    pub replication: Replication,
    /// What its schema says, in outline: members agree where no name means two things.
    pub schema: Outline,
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
            // With 400 ms, one crash in a hundred is seen by all only after more than 3.5 s.
            probe_every: Duration::from_millis(300),
            probe_timeout: Duration::from_millis(120),
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

/// What membership acts with.
#[derive(Clone)]
pub struct Parts {
    /// Tells the time of day: a life that begins later has a larger incarnation.
    pub clock: Arc<dyn Clock>,
    /// What gossip goes over.
    pub datagrams: Arc<dyn Datagrams>,
    /// Counts what happens.
    pub meter: MembershipMeter,
    /// Where randomness comes from. A real member draws it; a simulation says it.
    pub seed: u64,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Why membership did not start. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Others could not reach this. Give an address of this machine and a port.
    #[error("nobody can reach gossip at {0}: give an address of this machine, and a port")]
    Unreachable(SocketAddr),
    /// Give `host:port`, shorter, in plain letters.
    #[error("{0:?} is no address of a member: give host:port of at most {MAX_ADDRESS_BYTES} plain letters")]
    Address(String),
    /// Give a shorter one, in plain letters.
    #[error("{0:?} is no version: give at most {MAX_VERSION_BYTES} plain letters")]
    Version(String),
    /// Give a shorter one, in plain letters.
    #[error("{0:?} names no cluster: give 1 to {MAX_CLUSTER_BYTES} plain letters")]
    Cluster(String),
    /// Write the seed as `host:port`.
    #[error("{0:?} is no seed: give host:port of a member's gossip")]
    Seed(String),
    /// Mend the timing.
    #[error("no time of gossip may be zero, and probe_timeout has to be less than half of probe_every")]
    Timing,
    /// Make the folder writable, or choose another one.
    #[error("cannot keep membership in {folder}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

impl MembershipConfig {
    pub(crate) fn check(&self) -> Result<(), StartError> {
        if self.gossip.port() == 0 || self.gossip.ip().is_unspecified() {
            return Err(StartError::Unreachable(self.gossip));
        }
        if !has_port(&self.address) || !is_plain(&self.address, MAX_ADDRESS_BYTES) {
            return Err(StartError::Address(self.address.clone()));
        }
        if !is_plain(&self.version, MAX_VERSION_BYTES) {
            return Err(StartError::Version(self.version.clone()));
        }
        if self.facts.cluster.is_empty() || !is_plain(&self.facts.cluster, MAX_CLUSTER_BYTES) {
            return Err(StartError::Cluster(self.facts.cluster.clone()));
        }
        if let Some(seed) = self.seeds.iter().find(|seed| !has_port(seed)) {
            return Err(StartError::Seed(seed.clone()));
        }
        let t = &self.timing;
        let times = [t.probe_every, t.probe_timeout, t.suspect_for, t.announce_every];
        match times.iter().all(|time| !time.is_zero()) && t.probe_timeout * 2 < t.probe_every {
            true => Ok(()),
            false => Err(StartError::Timing),
        }
    }
}

/// Whether a text has a host and a port; whether there is such a host is found out later, and may change.
fn has_port(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}
