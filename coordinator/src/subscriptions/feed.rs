//! What one subscriber is sent.
//!
//! Owns: what the subscriber has, and what it lacks of the newest answer.
//! Does not own: the newest answer (`subscriptions::upstream`), the forms on the wire (`service`, `http::watch`).

use super::WatchError;
use super::upstream::{Published, State, Upstream};
use crate::place::Place;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::change::{diff, resume};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A subscriber hears something so often at least: so it knows that somebody is there.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Something for the subscriber.
pub(crate) struct News {
    /// The answer that the subscriber then has.
    pub(crate) state: Arc<State>,
    pub(crate) sent: Sent,
}

/// In which form.
pub(crate) enum Sent {
    /// All of it.
    Answer,
    /// `state.step`: nearly always.
    Step,
    /// What else the subscriber lacks.
    Change(Box<v1::Change>),
}

impl News {
    /// The update as gRPC has it.
    pub(crate) fn to_update(&self, subscription: u32) -> v1::Update {
        use v1::update::Kind;
        let state = &self.state;
        let kind = match &self.sent {
            Sent::Answer => Kind::Answer(v1::Answer { facts: state.facts_now(), ..state.answer.clone() }),
            Sent::Step => Kind::Change(state.step.clone().unwrap_or_default()),
            Sent::Change(change) => Kind::Change((**change).clone()),
        };
        v1::Update { subscription, kind: Some(kind), resume: state.token.clone() }
    }
}

/// One subscription.
pub(crate) struct Feed {
    upstream: Arc<Upstream>,
    states: watch::Receiver<Published>,
    has: Option<Arc<State>>,
    /// What the subscriber had of an earlier subscription.
    resume: String,
    told_at: Instant,
    shutdown: CancellationToken,
    _place: Place,
}

impl Feed {
    pub(super) fn new(
        upstream: Arc<Upstream>,
        resume: String,
        place: Place,
        shutdown: &CancellationToken,
    ) -> Self {
        let mut states = upstream.states.clone();
        // What is there already is new to this one.
        states.mark_changed();
        let (has, told_at, shutdown) = (None, Instant::now(), shutdown.clone());
        Self { upstream, states, has, resume, told_at, shutdown, _place: place }
    }

    /// Waits for something to tell the subscriber. May be dropped while it waits; nothing is lost.
    ///
    /// # Errors
    /// Where there is nothing to come any more.
    pub(crate) async fn next(&mut self) -> Result<News, WatchError> {
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(WatchError::Stopping),
                changed = self.states.changed() => {
                    if changed.is_err() {
                        return Err(WatchError::Stopping);
                    }
                }
                () = sleep_until(self.told_at + HEARTBEAT), if self.has.is_some() => {
                    if let Some(state) = self.has.clone() {
                        let change = v1::Change { facts: state.facts_now(), ..v1::Change::default() };
                        return Ok(self.tell(state, Sent::Change(Box::new(change))));
                    }
                }
            }
            let published = self.states.borrow_and_update().clone();
            match published {
                Published::Pending => {}
                Published::State(state) => {
                    let sent = self.lacking(&state);
                    return Ok(self.tell(state, sent));
                }
                Published::Ended(error) => return Err(error),
            }
        }
    }

    fn lacking(&self, state: &State) -> Sent {
        match &self.has {
            Some(has) if has.number + 1 == state.number => Sent::Step,
            // It was slow, and goes straight to the newest.
            Some(has) => Sent::Change(Box::new(diff(&has.answer, &state.answer))),
            None => match resume(&self.resume, self.upstream.question, &state.answer) {
                Some(change) => Sent::Change(Box::new(v1::Change { facts: state.facts_now(), ..change })),
                None => Sent::Answer,
            },
        }
    }

    fn tell(&mut self, state: Arc<State>, sent: Sent) -> News {
        self.told_at = Instant::now();
        self.has = Some(Arc::clone(&state));
        News { state, sent }
    }
}
