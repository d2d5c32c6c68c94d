//! What a producer is told.
//!
//! Owns: settings with their bounds and defaults, and the parts that a simulation exchanges.
//! Does not own: flags and files that settings come from.

use crate::backoff::Backoff;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_journal::SyncPolicy;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::canonical::KeepParams;
use tidemark_shell::link::{Connect, Dial};

/// Settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// A node, `http://host:port`. The others are learnt from it.
    pub address: String,
    /// Nodes to turn to where that one is away, `http://host:port`. More of them find a cluster that has lost some.
    pub more_addresses: Vec<String>,
    /// Blocks in memory that are not acknowledged. Beyond it callers wait, or are told that the producer is full. A single batch
    /// that makes more blocks than this is taken when nothing else is in memory.
    ///
    /// More rides out longer stalls of the cluster; less loses less when this process ends without a spool.
    pub max_in_flight: usize,
    /// Bytes of these blocks, likewise.
    pub buffer_bytes: usize,
    /// Of these, blocks that are on their way to one node at a time. The others wait for it, or go to other nodes.
    ///
    /// More keeps a long line busy; less has fewer blocks to send again when the line breaks.
    pub max_in_flight_per_node: usize,
    /// Bytes of these blocks, likewise; exceeded by one block at most.
    pub node_bytes: usize,
    /// How long one connection or acknowledgement may take. After that the block goes to another node, and a line on which
    /// nothing was heard for as long counts as broken.
    pub timeout: Duration,
    /// Without a spool, how long a block is sent again before it is given up; and how long [`Producer::send`],
    /// [`Producer::flush`] and [`Producer::finish`] wait.
    ///
    /// [`Producer::send`]: crate::Producer::send
    /// [`Producer::flush`]: crate::Producer::flush
    /// [`Producer::finish`]: crate::Producer::finish
    pub retry_for: Duration,
    /// How long to wait before something is sent again.
    pub backoff: Backoff,
    /// Query parameters that stay in URLs; blocks carry canonical URLs. By default all but `utm_*`.
    pub keep_params: KeepParams,
    /// Where to keep blocks that cannot be brought. Without it they are kept in memory alone, for [`retry_for`](Self::retry_for).
    pub spool: Option<SpoolConfig>,
}

impl ProducerConfig {
    /// The defaults, for this node: 1,024 blocks or 64 MiB in memory, of these 256 blocks or 16 MiB on their way to one node, 10 s
    /// for an acknowledgement, 60 s until a block is given up, no spool.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            more_addresses: Vec::new(),
            max_in_flight: 1_024,
            buffer_bytes: 64 << 20,
            max_in_flight_per_node: 256,
            node_bytes: 16 << 20,
            timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(60),
            backoff: Backoff::default(),
            keep_params: KeepParams::all(),
            spool: None,
        }
    }
}

/// A folder for blocks that cannot be brought for now.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// The folder. It is created, and belongs to one producer at a time, whose id and sequence numbers are in it: a producer
    /// that is started again with the folder goes on as the one before.
    pub dir: PathBuf,
    /// Its blocks do not take more than this. When it is full the oldest are kept and new ones refused: callers are told that
    /// the producer is full.
    ///
    /// Nodes refuse blocks that were sealed longer ago than their `accept_late` (48 h by default), so more than a producer makes
    /// in that time is of no use.
    pub limit_bytes: u64,
    /// When a block counts as kept.
    pub sync: SyncPolicy,
    /// How long a block may go without an acknowledgement until it is put on disk.
    ///
    /// Shorter loses less when the process ends while the cluster is away; longer writes less while it is merely slow. A crash
    /// loses what is in memory, which is at most what came in meanwhile. Zero puts every block on disk when it is taken, beside
    /// sending it; [`Ticket::safe`](crate::Ticket::safe) tells when it is there.
    pub spool_after: Duration,
    /// Blocks of the spool that are in memory at a time, to be sent again beside new ones. More empties it faster and takes more
    /// from what is new.
    pub window: usize,
}

impl SpoolConfig {
    /// A spool of up to 1 GiB in `dir` that syncs always, for blocks that wait for over 2 s, 64 of which are sent again at a time.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            limit_bytes: 1 << 30,
            sync: SyncPolicy::Always,
            spool_after: Duration::from_secs(2),
            window: 64,
        }
    }
}

/// What a producer works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// How nodes are reached.
    pub connect: Arc<dyn Connect>,
    /// What back-off draws its randomness from.
    pub seed: u64,
}

impl Parts {
    /// TCP, and a seed from the producer's id, which is random.
    pub fn of(id: ProducerId) -> Self {
        let wire = id.to_wire();
        let seed = wire.iter().fold(0_u64, |seed, &byte| seed.rotate_left(8) ^ u64::from(byte));
        Self { connect: Arc::new(Dial::default()), seed }
    }
}
