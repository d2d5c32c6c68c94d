//! What the rest of a member sees of membership.
//!
//! Owns: starting it, reading the view, and steering.
//! Does not own: what happens inside (`actor`, `protocol`).

use crate::actor::{Actor, Wish};
use crate::config::{MembershipConfig, Parts, StartError};
use crate::keeper::{self, Kept};
use crate::metrics::MembershipMeter;
use crate::protocol::Protocol;
use crate::refusal::Failure;
use crate::remembered::{Folder, Known};
use crate::seal::{Opener, Sealer};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tidemark_rollup::member::{Incarnation, MemberState, NodeId, View};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long leaving may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Membership, to read and to steer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Membership {
    id: NodeId,
    view: watch::Receiver<Arc<View>>,
    /// `None` where there is no gossip.
    meter: Option<MembershipMeter>,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Fixed(Arc<watch::Sender<Arc<View>>>),
    Gossip { wishes: mpsc::Sender<Wish>, failure: watch::Receiver<Option<Failure>>, expects_others: bool },
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SetState { state, .. } => write!(f, "set state {}", state.name()),
            Self::Leave { .. } => f.write_str("leave"),
        }
    }
}

impl Membership {
    /// Starts gossip, until `shutdown`; has to be called inside a runtime. Ending by `shutdown` alone looks to others like a
    /// crash: see [`leave`](Self::leave).
    ///
    /// # Errors
    /// Where the settings or the folder are no good. What others object to comes later: see [`failed`](Self::failed).
    pub fn start(
        config: MembershipConfig,
        parts: Parts,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        config.check()?;
        let kept = begin(&config, &parts)?;
        let life = |what: &str| -> [u8; 32] {
            let text = format!("{what}\0{}\0{}\0{}", parts.seed, config.id, kept.incarnation.0);
            Sha256::digest(text.as_bytes()).into()
        };
        let mut start = [0; 16];
        start.copy_from_slice(&life("nonces")[..16]);
        let protocol =
            Protocol::new(&config, kept.incarnation, kept.members.clone(), life("gossip"), Instant::now());
        let (view_sender, view) = watch::channel(Arc::new(protocol.view()));
        let (failure_sender, failure) = watch::channel(None);
        let (wishes_sender, wishes) = mpsc::channel(16);
        let folder = config.folder.as_deref().map(Folder::open).transpose();
        let folder = folder.map_err(|source| folder_error(&config, source))?;
        let knew_others = !kept.members.is_empty();
        let kept = folder.map(|folder| {
            let (sender, receiver) = watch::channel(kept);
            tokio::spawn(keeper::keep(folder, receiver));
            sender
        });
        let own = config.gossip.to_string();
        let expects_others = config.seeds.iter().any(|seed| *seed != own) || knew_others;
        let meter = Some(parts.meter.clone());
        let actor = Actor {
            protocol,
            sealer: Sealer::new(&config.key, start),
            opener: Opener::new(&config.key),
            parts,
            view: view_sender,
            failure: failure_sender,
            wishes,
            kept,
            shutdown,
        };
        tokio::spawn(actor.run());
        let source = Source::Gossip { wishes: wishes_sender, failure, expects_others };
        Ok(Self { id: config.id, view, meter, source })
    }

    /// A view that does not change by itself, for a cluster of one and for tests. The member itself has to be in it.
    pub fn fixed(id: NodeId, view: View) -> Self {
        let (sender, view) = watch::channel(Arc::new(view));
        Self { id, view, meter: None, source: Source::Fixed(Arc::new(sender)) }
    }

    /// The member's own name.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// The view, now and later. The member itself is in it.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Gossip that was received and dropped since the metrics were made, by reason.
    pub fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.meter.as_ref().map(MembershipMeter::dropped_so_far).unwrap_or_default()
    }

    /// Whether there is a seed beside the member's own address, or it knew others when it ran last: then it should not take itself for the whole
    /// cluster.
    pub fn expects_others(&self) -> bool {
        match &self.source {
            Source::Fixed(_) => false,
            Source::Gossip { expects_others, .. } => *expects_others,
        }
    }

    /// Says what this member is about to do. In the view when this returns, and told to others soon. Coordinators are always
    /// active, and nobody who has left is anything else any more.
    pub async fn set_state(&self, state: MemberState) {
        self.change(state, None).await;
    }

    /// The same, if this member still goes by that incarnation; says whether it is in that state now. What was concluded for one
    /// life does not hold for the next: a member that was given up in between lacks what was written meanwhile.
    pub async fn set_state_in(&self, life: Incarnation, state: MemberState) -> bool {
        self.change(state, Some(life)).await
    }

    async fn change(&self, state: MemberState, life: Option<Incarnation>) -> bool {
        match &self.source {
            Source::Fixed(view) => self.change_fixed(view, state, life),
            Source::Gossip { wishes, .. } => {
                let (done, reply) = oneshot::channel();
                // Membership that has ended has no view to change.
                wishes.send(Wish::SetState { state, life, done }).await.is_ok()
                    && reply.await.unwrap_or(false)
            }
        }
    }

    fn change_fixed(
        &self,
        view: &watch::Sender<Arc<View>>,
        state: MemberState,
        life: Option<Incarnation>,
    ) -> bool {
        let mut changed = false;
        view.send_modify(|view| {
            let mut members = view.members().to_vec();
            let own = members.iter_mut().filter(|member| member.id == self.id);
            for member in own.filter(|member| life.is_none_or(|life| life == member.incarnation)) {
                member.state = state;
                changed = true;
            }
            if let Ok(changed) = View::new(members) {
                *view = Arc::new(changed.with_missing(view.missing().to_vec()));
            }
        });
        changed
    }

    /// Tells others that this member goes for good; returns when some were told, or after a second. It is silent afterwards.
    pub async fn leave(&self) {
        if let Source::Gossip { wishes, .. } = &self.source {
            let (done, reply) = oneshot::channel();
            let told = async {
                if wishes.send(Wish::Leave { done }).await.is_ok() {
                    // Where membership has ended there is nobody to wait for.
                    let _ = reply.await;
                }
            };
            // Whom it did not reach will hear of it from others.
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, told).await;
        }
    }

    /// Why this member cannot be one of the cluster; pending for as long as it can. It is silent from then on.
    pub async fn failed(&self) -> Failure {
        if let Source::Gossip { failure, .. } = &self.source {
            let mut failure = failure.clone();
            if let Ok(failed) = failure.wait_for(Option::is_some).await
                && let Some(failed) = failed.clone()
            {
                return failed;
            }
        }
        std::future::pending().await
    }
}

/// The incarnation of a new life and whom the member knew, kept before anybody hears of that life.
fn begin(config: &MembershipConfig, parts: &Parts) -> Result<Kept, StartError> {
    let now = u64::try_from(parts.clock.now().as_unix_ms()).unwrap_or(0);
    let Some(path) = &config.folder else {
        return Ok(Kept { incarnation: Incarnation(now), members: Vec::new() });
    };
    let read = || -> std::io::Result<(Incarnation, Vec<Known>)> {
        let folder = Folder::open(path)?;
        let last = folder.incarnation()?;
        let incarnation = Incarnation(last.map_or(now, |last| now.max(last.0.saturating_add(1))));
        folder.keep_incarnation(incarnation)?;
        Ok((incarnation, folder.members()?))
    };
    let (incarnation, members) = read().map_err(|source| folder_error(config, source))?;
    Ok(Kept { incarnation, members })
}

fn folder_error(config: &MembershipConfig, source: std::io::Error) -> StartError {
    StartError::Folder { folder: config.folder.clone().unwrap_or_default(), source }
}
