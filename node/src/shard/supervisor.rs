//! Starts shard actors, and starts them again when they fail.
//!
//! Owns: which actor stands for which shard, and how often one may fail.
//! Does not own: what an actor does at its start (`actor`).

use super::actor::ShardActor;
use super::handle::{ShardHandle, Station};
use super::parts::ShardParts;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::{Clock, EventTime};
use tokio::sync::{mpsc, oneshot, watch};

/// A shard may fail so often within [`RESTART_WINDOW`]; then it stays down, and queries say that it is missing.
const MAX_RESTARTS: usize = 10;
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// The parent of all shard actors of a node.
#[derive(Debug)]
pub struct Supervisor {
    actor: ActorRef<()>,
}

impl Supervisor {
    /// Starts an actor for each of these shards; returns handles in the same order.
    ///
    /// # Errors
    /// Where an actor cannot be started.
    pub async fn start(
        shards: Vec<ShardId>,
        parts: Arc<ShardParts>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Vec<ShardHandle>), SpawnErr> {
        let (started, handles) = oneshot::channel();
        let arguments = Arguments { shards, parts, clock, started };
        // No name: names are global to the process, and several nodes may live in one.
        let (actor, _) = Actor::spawn(None, SupervisorActor, arguments).await?;
        let handles = handles.await.map_err(|_| SpawnErr::StartupFailed("no handles".into()))?;
        Ok((Self { actor }, handles))
    }

    /// Stops all shards; what is queued is dropped.
    pub async fn stop(&self) {
        self.actor.stop_children(None);
        let _ = self.actor.stop_and_wait(None, Some(Duration::from_secs(5))).await;
    }
}

struct SupervisorActor;

struct Arguments {
    shards: Vec<ShardId>,
    parts: Arc<ShardParts>,
    clock: Arc<dyn Clock>,
    started: oneshot::Sender<Vec<ShardHandle>>,
}

struct State {
    parts: Arc<ShardParts>,
    clock: Arc<dyn Clock>,
    posts: HashMap<ActorId, Post>,
}

/// A shard's place, whoever fills it.
struct Post {
    shard: ShardId,
    station: watch::Sender<Station>,
    /// When its actors failed lately.
    failures: VecDeque<EventTime>,
}

impl Actor for SupervisorActor {
    type Msg = ();
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<()>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { shards, parts, clock, started } = arguments;
        let mut posts = HashMap::new();
        let mut handles = Vec::new();
        for shard in shards {
            let (id, station) = spawn(shard, &parts, me.get_cell()).await?;
            let (station, receiver) = watch::channel(station);
            handles.push(ShardHandle::new(shard, receiver));
            posts.insert(id, Post { shard, station, failures: VecDeque::new() });
        }
        let _ = started.send(handles);
        Ok(State { parts, clock, posts })
    }

    // The default would stop the supervisor, and all shards with it.
    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<()>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(failed, error) = event {
            state.restart(failed.get_id(), &error, me.get_cell()).await;
        }
        Ok(())
    }
}

impl State {
    async fn restart(&mut self, failed: ActorId, error: &ActorProcessingErr, me: ActorCell) {
        let Some(mut post) = self.posts.remove(&failed) else { return };
        let now = self.clock.now();
        post.failures.push_back(now);
        while post.failures.front().is_some_and(|&at| at < now.minus(RESTART_WINDOW)) {
            post.failures.pop_front();
        }
        self.parts.metrics.shard_restarted();
        if post.failures.len() > MAX_RESTARTS {
            tracing::error!(shard = %post.shard, %error, "the shard failed too often and stays down");
            post.station.send_replace(Station::Down);
            return;
        }
        tracing::error!(shard = %post.shard, %error, "the shard failed; starting it again");
        match spawn(post.shard, &self.parts, me).await {
            Ok((id, station)) => {
                post.station.send_replace(station);
                self.posts.insert(id, post);
            }
            Err(error) => {
                tracing::error!(shard = %post.shard, %error, "the shard cannot be started again and stays down");
                post.station.send_replace(Station::Down);
            }
        }
    }
}

async fn spawn(
    shard: ShardId,
    parts: &Arc<ShardParts>,
    supervisor: ActorCell,
) -> Result<(ActorId, Station), SpawnErr> {
    let (ask, asked) = mpsc::unbounded_channel();
    let arguments = (shard, Arc::clone(parts), asked);
    let (actor, _) = Actor::spawn_linked(None, ShardActor, arguments, supervisor).await?;
    Ok((actor.get_id(), Station::Up { actor, ask }))
}
