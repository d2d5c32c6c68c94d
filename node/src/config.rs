//! Settings of a node.

use crate::quotas::SiteQuotas;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::retention::Retention;
use tidemark_history::store::Location;
use tidemark_journal::SyncPolicy;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardCount;

/// Settings of a node. Parts that act (clock, metrics) go to [`Node::start`](crate::Node::start).
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name, unique in the cluster. Placement follows from names: a new name moves shards.
    pub id: NodeId,
    /// Where gRPC and `/metrics` are served. Port 0 lets the system pick.
    pub listen: SocketAddr,
    /// How many nodes own each shard. The same on all members.
    ///
    /// One less than that may fail at a time. Each more costs about what the first one does.
    pub replication: Replication,
    /// An event is acknowledged when so many owners have it at least, and in any case all that are present.
    ///
    /// More keeps acknowledged events through worse accidents; while fewer nodes are present, nothing is taken in.
    pub min_owners: NonZeroUsize,
    /// Shards of the cluster; fixed when it is created and the same on all members.
    ///
    /// More shards spread better over many nodes and cores; each costs a few kilobytes per site and bucket.
    pub shards: ShardCount,
    /// What is counted and by what. The same on all members.
    pub schema: Arc<Schema>,
    /// Query parameters that stay in URLs.
    pub keep_params: KeepParams,
    /// Which event times are acceptable.
    pub times: TimeRules,
    /// Distinct values per site, dimension and bucket; beyond it values count under `(other)`. At least 1.
    pub dimension_values: u32,
    /// Bytes of batches and blocks that are taken but not acknowledged yet. Beyond it senders are told to wait.
    ///
    /// More lets producers with long round trips send faster; less bounds memory during a burst. At least one batch
    /// (4 MiB).
    pub in_flight_bytes: usize,
    /// Bytes of rollups in memory, and where the node has a process for itself of all that it takes for events. From four fifths of it
    /// on, closed buckets are evicted, oldest first: commits answer for them, or the journal while the store is away. At fifteen
    /// sixteenths senders are told to wait; queries go on.
    pub memory_budget_bytes: u64,
    /// The node's own folder: its journal, and its cache of segments. One process at a time.
    pub data: PathBuf,
    /// Where history is, the same for all members; a folder `history` in `data` where not set, which suits one node alone.
    pub store: Option<Location>,
    /// When a block in the journal counts as kept.
    pub sync: SyncPolicy,
    /// Bytes that the journal may take; as much as the disk has where not set. At the limit senders are told to wait.
    pub journal_limit_bytes: Option<u64>,
    /// How long after its end a committed bucket stays in memory, while the budget lasts.
    pub keep: Duration,
    /// How long a late bucket waits for more events before it is flushed; five minutes at most.
    pub settle: Duration,
    /// Disk for segments of stores that are not local. The least recently used ones make room.
    pub cache_disk_bytes: u64,
    /// Memory for parts of segments as queries need them. The least recently used ones make room.
    pub cache_memory_bytes: u64,
    /// How long after its end a day is compacted.
    pub compact_after: Duration,
    /// The pause between two commits of this node that it counts anew from their raw events; not at all where not set.
    ///
    /// A bucket of 300,000 events takes a quarter of a second of one core. Never more than about a tenth of a core: after a larger
    /// one the pause is longer.
    pub verify_every: Option<Duration>,
    /// How long history is kept.
    pub retention: Retention,
    /// How long an owner may take to acknowledge blocks that are passed on to it.
    pub forward_timeout: Duration,
    /// Bytes of blocks on their way to one other node. Beyond it senders are told to wait; other nodes are not affected.
    pub peer_bytes: usize,
    /// How long a node that leaves may take to hand over what is not committed. What it has not handed over by then is in
    /// its journal alone.
    pub drain_timeout: Duration,
    /// How long an owner waits for the first owner of a shard to commit a bucket before it does so itself.
    ///
    /// Longer wastes less where the first owner is slow; shorter commits sooner where it is gone or cut off from the store.
    pub backup_flush: Duration,
    /// How often owners compare what they have although nothing seems amiss.
    pub check_every: Duration,
    /// How long the node works on its part of a query.
    pub query_timeout: Duration,
    /// Queries at a time; further ones are refused. Each may hold a million rows.
    pub max_queries: NonZeroUsize,
    /// Connections at a time; further ones wait until one closes.
    ///
    /// Each costs a file descriptor and some kilobytes. Keep it below the limit on open files, less those of segments and the journal.
    pub max_connections: NonZeroUsize,
    /// How much of the node one site may use.
    pub site_quotas: SiteQuotas,
}

impl NodeConfig {
    /// Settings of a node of this name that has this folder, with the defaults.
    pub fn new(id: NodeId, listen: SocketAddr, data: PathBuf) -> Self {
        Self {
            id,
            listen,
            replication: Replication::DEFAULT,
            min_owners: NonZeroUsize::MIN,
            shards: ShardCount::DEFAULT,
            schema: Arc::new(Schema::default()),
            keep_params: KeepParams::default(),
            times: TimeRules::default(),
            dimension_values: tidemark_rollup::census::DEFAULT_LIMIT,
            in_flight_bytes: DEFAULT_IN_FLIGHT_BYTES,
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            data,
            store: None,
            sync: SyncPolicy::Always,
            journal_limit_bytes: None,
            keep: DEFAULT_KEEP,
            settle: DEFAULT_SETTLE,
            cache_disk_bytes: DEFAULT_CACHE_DISK_BYTES,
            cache_memory_bytes: DEFAULT_CACHE_MEMORY_BYTES,
            compact_after: DEFAULT_COMPACT_AFTER,
            verify_every: Some(DEFAULT_VERIFY_EVERY),
            retention: Retention::default(),
            forward_timeout: DEFAULT_FORWARD_TIMEOUT,
            peer_bytes: DEFAULT_PEER_BYTES,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            backup_flush: DEFAULT_BACKUP_FLUSH,
            check_every: DEFAULT_CHECK_EVERY,
            query_timeout: DEFAULT_QUERY_TIMEOUT,
            max_queries: DEFAULT_MAX_QUERIES,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            site_quotas: SiteQuotas::default(),
        }
    }
}

/// Default of [`NodeConfig::in_flight_bytes`]: 64 MiB.
pub const DEFAULT_IN_FLIGHT_BYTES: usize = 64 << 20;
/// Default of [`NodeConfig::memory_budget_bytes`]: 4 GiB.
pub const DEFAULT_MEMORY_BUDGET_BYTES: u64 = 4 << 30;
/// Default of [`NodeConfig::keep`].
pub const DEFAULT_KEEP: Duration = Duration::from_secs(24 * 3600);
/// Default of [`NodeConfig::settle`].
pub const DEFAULT_SETTLE: Duration = Duration::from_secs(10);
/// Default of [`NodeConfig::cache_disk_bytes`]: 4 GiB.
pub const DEFAULT_CACHE_DISK_BYTES: u64 = 4 << 30;
/// Default of [`NodeConfig::cache_memory_bytes`]: 256 MiB.
pub const DEFAULT_CACHE_MEMORY_BYTES: u64 = 256 << 20;
/// Default of [`NodeConfig::compact_after`].
pub const DEFAULT_COMPACT_AFTER: Duration = Duration::from_secs(3600);
/// Default of [`NodeConfig::verify_every`].
pub const DEFAULT_VERIFY_EVERY: Duration = Duration::from_secs(30);
/// Default of [`NodeConfig::forward_timeout`].
pub const DEFAULT_FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
/// Default of [`NodeConfig::peer_bytes`]: 16 MiB.
pub const DEFAULT_PEER_BYTES: usize = 16 << 20;
/// Default of [`NodeConfig::drain_timeout`].
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of [`NodeConfig::backup_flush`].
pub const DEFAULT_BACKUP_FLUSH: Duration = Duration::from_secs(30);
/// Default of [`NodeConfig::check_every`].
pub const DEFAULT_CHECK_EVERY: Duration = Duration::from_secs(10);
/// Default of [`NodeConfig::query_timeout`].
pub const DEFAULT_QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of [`NodeConfig::max_queries`].
pub const DEFAULT_MAX_QUERIES: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Default of [`NodeConfig::max_connections`].
pub const DEFAULT_MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
