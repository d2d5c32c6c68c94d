//! Owners that have the same: comparing, pulling, handing over.
//!
//! Owns: keeping up with the view, comparing with other nodes what no commit covers, pulling what this one lacks, having
//! others pull what they lack, and going from joining to active and from leaving to left.
//! Does not own: what has to be compared before what (`tidemark_rollup::ownership`, which decides), who is present
//! (`tidemark-membership`), counting blocks (`shard`).
//!
//! It runs on every change of the view, and slowly all the time. Everything here may be done again and again, by several
//! nodes at once, and cut off at any moment: a block counts once.

mod look;
mod pull;
mod serve;

pub(crate) use serve::Blocks;

use crate::admission::Admission;
use crate::history::NodeHistory;
use crate::metrics::NodeMeter;
use crate::owners::Owners;
use crate::peers::Peers;
use crate::planted::{Bug, Planted};
use crate::router::Router;
use crate::shard::{ShardHandle, ShardParts};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_membership::Membership;
use tidemark_proto::v1;
use tidemark_rollup::member::{Member, MemberState, NodeId, View};
use tidemark_rollup::ownership::Ownership;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How soon it is looked again while something is left to do, and how often otherwise.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// How long a node that knows where others should be waits for them before it begins alone.
const JOIN_WAIT: Duration = Duration::from_secs(3);
/// How long another node may take to compare.
const COMPARE_WITHIN: Duration = Duration::from_secs(10);
/// Shards of one invitation, and how long another node may take to pull them: a call that hangs holds up the others no longer.
const INVITED_SHARDS: usize = 8;
const INVITE_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of pulled blocks that are being counted at a time.
const PULL_BYTES: usize = 32 << 20;
/// Other nodes that pull from this one at a time.
const SERVED_PULLS: usize = 8;

/// What repair works on.
pub(crate) struct Repair {
    me: NodeId,
    shards: ShardCount,
    replication: Replication,
    membership: Membership,
    owners: watch::Sender<Arc<Owners>>,
    ownership: Mutex<Ownership>,
    parts: Arc<ShardParts>,
    local: Vec<ShardHandle>,
    peers: Arc<Peers>,
    router: Arc<Router>,
    room: Admission,
    serving: Arc<Semaphore>,
    history: Arc<NodeHistory>,
    check_every: Duration,
    started: Instant,
    is_leaving: AtomicBool,
    left: Notify,
    /// Blocks that others are known to have and this node lacks.
    behind: AtomicU64,
    released: Mutex<BTreeSet<ShardId>>,
    meter: NodeMeter,
    planted: Planted,
}

/// What is to be done with one other node.
#[derive(Clone, Debug, Default)]
struct Due {
    compare: Vec<ShardId>,
    hand_over: Vec<ShardId>,
}

/// What a repair is made of.
pub(crate) struct RepairParts {
    pub(crate) shards: ShardCount,
    pub(crate) replication: Replication,
    pub(crate) membership: Membership,
    pub(crate) owners: watch::Sender<Arc<Owners>>,
    pub(crate) parts: Arc<ShardParts>,
    pub(crate) local: Vec<ShardHandle>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) router: Arc<Router>,
    pub(crate) history: Arc<NodeHistory>,
    pub(crate) check_every: Duration,
    pub(crate) meter: NodeMeter,
    pub(crate) planted: Planted,
}

impl Repair {
    pub(crate) fn new(parts: RepairParts) -> Self {
        let me = parts.membership.id().clone();
        Self {
            ownership: Mutex::new(Ownership::new(me.clone(), parts.shards)),
            me,
            shards: parts.shards,
            replication: parts.replication,
            membership: parts.membership,
            owners: parts.owners,
            parts: parts.parts,
            local: parts.local,
            peers: parts.peers,
            router: parts.router,
            room: Admission::new(PULL_BYTES, u64::MAX),
            serving: Arc::new(Semaphore::new(SERVED_PULLS)),
            history: parts.history,
            check_every: parts.check_every,
            started: Instant::now(),
            is_leaving: AtomicBool::new(false),
            left: Notify::new(),
            behind: AtomicU64::new(0),
            released: Mutex::default(),
            meter: parts.meter,
            planted: parts.planted,
        }
    }

    /// Held for moments only, and never while something is waited for.
    fn ownership(&self) -> MutexGuard<'_, Ownership> {
        self.ownership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.owners.borrow().view)
    }

    /// Compares and repairs until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changed = self.owners.subscribe();
        let mut busy: BTreeSet<NodeId> = BTreeSet::new();
        let mut tasks: JoinSet<NodeId> = JoinSet::new();
        let mut checked = Instant::now();
        loop {
            let check = checked.elapsed() >= self.check_every;
            if check {
                checked = Instant::now();
            }
            let due = self.due(check);
            let idle = due.is_empty();
            for (with, due) in due {
                if busy.insert(with.clone()) {
                    let repair = Arc::clone(&self);
                    tasks.spawn(async move {
                        repair.repair_with(&with, due).await;
                        with
                    });
                }
            }
            self.proceed().await;
            let pause = if idle && busy.is_empty() { IDLE_PAUSE.min(self.check_every) } else { BUSY_PAUSE };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = tasks.join_next(), if !tasks.is_empty() => match done {
                    Ok(with) => _ = busy.remove(&with),
                    // Whoever it was with is asked again.
                    Err(error) => {
                        tracing::error!(%error, "a repair failed");
                        tasks.abort_all();
                        busy.clear();
                    }
                },
                _ = changed.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What is to be done with whom.
    fn due(&self, check: bool) -> BTreeMap<NodeId, Due> {
        let holds = self.held();
        let ownership = self.ownership();
        let mut due: BTreeMap<NodeId, Due> = BTreeMap::new();
        let compare = ownership.to_compare();
        let compare = if check { merged(compare, ownership.to_check()) } else { compare };
        for (with, shards) in compare {
            due.entry(with).or_default().compare = shards;
        }
        for (with, shards) in ownership.to_hand_over(&holds) {
            due.entry(with).or_default().hand_over = shards;
        }
        due
    }

    /// Shards of which the journal has blocks.
    fn held(&self) -> BTreeSet<ShardId> {
        self.parts.journal.buckets().into_iter().map(|(_, shard, _)| shard).collect()
    }

    /// Compares with a node and hands over to it. What fails is due again after a moment.
    async fn repair_with(&self, with: &NodeId, due: Due) {
        let Some(node) = self.view().member(with).cloned() else { return };
        let compared = self.compare_with(&node, &due.compare).await;
        let handed = self.hand_over_to(&node, &due.hand_over).await;
        let is_done = match (&compared, &handed) {
            (Ok(compared), Ok(handed)) => {
                compared.len() == due.compare.len() && *handed == due.hand_over.len()
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(node = %with, %error, "repair does not get on; trying again");
                false
            }
        };
        if !is_done {
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }

    /// Compares shards with a node and pulls what is lacking; returns those that are done.
    async fn compare_with(
        &self,
        node: &Member,
        shards: &[ShardId],
    ) -> Result<BTreeSet<ShardId>, tonic::Status> {
        if shards.is_empty() {
            return Ok(BTreeSet::new());
        }
        // Before anything is asked: what is taken and given again meanwhile is to be compared anew.
        let (comparison, life) = {
            let ownership = self.ownership();
            (ownership.begin(&node.id, shards), ownership.life_while_joining())
        };
        let mut client =
            self.peers.client(node).map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let request = v1::CompareRequest {
            shard_count: self.shards.get(),
            asker: self.me.to_string(),
            shards: shards.iter().map(|shard| shard.get()).collect(),
            life: life.map_or(0, |life| life.0),
        };
        let reply = tokio::time::timeout(COMPARE_WITHIN, client.compare_coverage(request)).await;
        let reply =
            reply.map_err(|_| tonic::Status::deadline_exceeded("no comparison in time"))??.into_inner();
        let not_yet: BTreeSet<u32> = reply.not_yet.into_iter().collect();
        let mut done: BTreeSet<ShardId> =
            shards.iter().copied().filter(|shard| !not_yet.contains(&shard.get())).collect();
        if !self.planted.has(Bug::DropRepair) {
            let wanted = self.lacking(&reply.holds).await?;
            let pulled = self.pull(node, wanted.clone()).await;
            done.retain(|shard| !wanted.contains_key(shard) || pulled.contains(shard));
        }
        // The other one no longer has what it committed, and told nothing of it: that has to be known before this node answers.
        let begins = || done.iter().any(|&shard| self.ownership().awaits(shard, &node.id));
        if begins() && !self.history.look_for_all().await {
            return Err(tonic::Status::unavailable("what the other node committed is not known"));
        }
        let mut ownership = self.ownership();
        ownership.compared(&comparison, &done);
        self.publish(&ownership);
        Ok(done)
    }

    /// Has a node pull what it lacks of these shards; returns of how many it has all.
    async fn hand_over_to(&self, node: &Member, shards: &[ShardId]) -> Result<usize, tonic::Status> {
        let mut handed = 0;
        for part in shards.chunks(INVITED_SHARDS) {
            handed += self.invite(node, part).await?;
        }
        Ok(handed)
    }

    async fn invite(&self, node: &Member, shards: &[ShardId]) -> Result<usize, tonic::Status> {
        let mut holds = Vec::with_capacity(shards.len());
        for &shard in shards {
            let Some(handle) = self.local.get(shard.index()) else { continue };
            let held = handle.holds(None, COMPARE_WITHIN).await;
            let held =
                held.map_err(|error| tonic::Status::unavailable(error.to_string()))?.unwrap_or_default();
            holds.push(v1::ShardCoverage { shard: shard.get(), coverage: Some(held.to_wire()) });
        }
        let mut client =
            self.peers.client(node).map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let request =
            v1::InviteRequest { shard_count: self.shards.get(), holder: self.me.to_string(), holds };
        let reply = tokio::time::timeout(INVITE_WITHIN, client.invite_pull(request)).await;
        let reply = reply.map_err(|_| tonic::Status::deadline_exceeded("not pulled in time"))??.into_inner();
        // Who leaves goes only when those who take over answer for the shard.
        let done = if self.is_leaving.load(Ordering::Relaxed) { reply.ready } else { reply.done };
        let done: Vec<ShardId> = done.into_iter().filter_map(|shard| self.shards.shard(shard)).collect();
        self.meter.handed_over(done.len() as u64);
        let mut ownership = self.ownership();
        ownership.handed(&node.id, done.iter().copied());
        self.publish(&ownership);
        Ok(done.len())
    }

    /// Compares shards with their other owners, as far as that is possible in time: before a bucket of theirs is committed.
    pub(crate) async fn catch_up(&self, shards: &[ShardId], within: Duration) {
        let due = self.ownership().to_check();
        let view = self.view();
        let compare = due.into_iter().filter_map(|(with, of)| {
            let of: Vec<ShardId> = of.into_iter().filter(|shard| shards.contains(shard)).collect();
            Some((view.member(&with)?.clone(), of)).filter(|(_, of)| !of.is_empty())
        });
        let compare = compare.map(|(node, of)| {
            let compare = async move {
                if let Err(error) = self.compare_with(&node, &of).await {
                    tracing::debug!(node = %node.id, %error, "flushing without having compared");
                }
            };
            compare.boxed()
        });
        let compare: Vec<BoxFuture<'_, ()>> = compare.collect();
        let _ = tokio::time::timeout(within, join_all(compare)).await;
    }

    /// Hands over and leaves the cluster; returns when others have all, or after `within`.
    pub(crate) async fn leave(&self, within: Duration) {
        if !self.planted.has(Bug::LeaveAtOnce) && self.view().nodes().any(|node| node.id != self.me) {
            let begun = Instant::now();
            self.ownership().begin_to_leave();
            self.is_leaving.store(true, Ordering::Relaxed);
            self.membership.set_state(MemberState::Leaving).await;
            let me = self.membership.view().borrow().member(&self.me).map(|me| me.state);
            if me != Some(MemberState::Leaving) {
                tracing::warn!("membership has ended: stopping without handing over");
                return;
            }
            match tokio::time::timeout(within, self.left.notified()).await {
                Ok(()) => {
                    tracing::info!(node = %self.me, took = ?begun.elapsed(), "handed over what is not committed")
                }
                Err(_) => tracing::warn!(
                    "could not hand over everything in {within:?}; what others lack is in the journal of this node alone"
                ),
            }
        }
        self.membership.leave().await;
    }

    /// Gossip that was dropped so far, by reason, where there was some.
    pub(crate) fn gossip_dropped(&self) -> Vec<v1::StagePart> {
        let dropped = self.membership.dropped().into_iter().filter(|(_, count)| *count > 0);
        dropped.map(|(reason, count)| v1::StagePart { name: reason.to_owned(), count }).collect()
    }

    /// How far this node is, without its health, which more than repair knows.
    pub(crate) fn status(&self) -> v1::StatusReply {
        let (owned, ready) = self.ownership().counts();
        let buckets = self.parts.journal.buckets();
        v1::StatusReply {
            shards_owned: owned as u32,
            shards_ready: ready as u32,
            blocks_behind: self.behind.load(Ordering::Relaxed),
            journal_blocks: self.parts.journal.usage().blocks as u64,
            oldest_uncommitted_s: buckets.first().map_or(0, |(bucket, ..)| bucket.as_unix_seconds()),
            flow: Some(self.meter.flow().to_wire(&self.parts.journal, &self.history.committed())),
            health: None,
        }
    }
}

/// Two lists of what to compare with whom, as one.
fn merged(
    mut one: BTreeMap<NodeId, Vec<ShardId>>,
    other: BTreeMap<NodeId, Vec<ShardId>>,
) -> BTreeMap<NodeId, Vec<ShardId>> {
    for (with, shards) in other {
        let of = one.entry(with).or_default();
        of.extend(shards);
        of.sort_unstable();
        of.dedup();
    }
    one
}
