//! One question that is left open, for all who ask it.
//!
//! Owns: when it is answered anew, and the newest answer with what changed in it.
//! Does not own: answering (`query`), what each subscriber has (`subscriptions::feed`).
//!
//! It is answered anew when a node tells of a change, when time alone changes the answer (a step begins, visitors of five minutes
//! ago leave), and again and again while something is missing. Four fifths of `every` lie between two answers: so a change that
//! just missed one shows within `every`.

use super::signals::{Signal, Signals};
use super::{Registered, Shared, WatchError};
use crate::json::change_event;
use crate::query::{AskError, BUSY_RETRY, Kept};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::active::{ACTIVE, SLICE};
use tidemark_rollup::change::{Fingerprint, diff, token};
use tidemark_rollup::query::SiteSelection;
use tidemark_rollup::time::BUCKET_SECONDS;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

/// How often an answer that lacks something is tried anew, at most.
const INCOMPLETE_AGAIN: Duration = Duration::from_secs(1);

/// What subscribers see.
#[derive(Clone)]
pub(super) enum Published {
    /// No answer yet.
    Pending,
    /// The newest one.
    State(Arc<State>),
    /// There will be none any more.
    Ended(WatchError),
}

/// An answer among those that an upstream had.
pub(crate) struct State {
    /// One more than that of the answer before.
    pub(crate) number: u64,
    pub(crate) answer: v1::Answer,
    pub(crate) answered_at: Instant,
    /// What the answer before lacked.
    pub(crate) step: Option<v1::Change>,
    /// Continues from this answer.
    pub(crate) token: String,
    /// `step` as server-sent events have it; written once for all who read it.
    step_event: OnceLock<Bytes>,
}

impl State {
    pub(crate) fn step_event(&self, step: &v1::Change) -> Bytes {
        self.step_event.get_or_init(|| change_event(step, &self.token)).clone()
    }

    /// The facts as they are now: the newest event has grown older since.
    pub(crate) fn facts_now(&self) -> Option<v1::Facts> {
        let age = |ms: u64| ms.saturating_add(self.answered_at.elapsed().as_millis() as u64);
        self.answer
            .facts
            .clone()
            .map(|facts| v1::Facts { freshness_ms: facts.freshness_ms.map(age), ..facts })
    }
}

/// The upstream of a question. Ends when the last of its subscribers drops it.
pub(super) struct Upstream {
    pub(super) question: Fingerprint,
    pub(super) states: watch::Receiver<Published>,
    _registered: Registered,
    _answering: AbortOnDropHandle<()>,
}

impl Upstream {
    pub(super) fn start(
        question: v1::Query,
        every: Duration,
        shared: Arc<Shared>,
        signals: Arc<Signals>,
        registered: Registered,
    ) -> Arc<Self> {
        let (publish, states) = watch::channel(Published::Pending);
        let fingerprint = Fingerprint::of(&question);
        // It was checked before.
        let sites = shared.queries.check(&question).map_or(SiteSelection::All, |query| query.site);
        let signal = signals.of(&sites);
        let slides = question.measures.iter().any(|measure| measure == ACTIVE);
        let answering = Answering {
            question,
            fingerprint,
            slides,
            pace: every * 4 / 5,
            every,
            shared,
            signal,
            kept: Kept::default(),
            publish,
            _signals: signals,
        };
        Arc::new(Self {
            question: fingerprint,
            states,
            _registered: registered,
            _answering: AbortOnDropHandle::new(tokio::spawn(answering.run())),
        })
    }
}

/// The task of an upstream.
struct Answering {
    question: v1::Query,
    fingerprint: Fingerprint,
    /// Whether it asks for what changes by time alone.
    slides: bool,
    every: Duration,
    pace: Duration,
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    kept: Kept,
    publish: watch::Sender<Published>,
    _signals: Arc<Signals>,
}

impl Answering {
    async fn run(mut self) {
        loop {
            let started = Instant::now();
            match self.answer().await {
                Ok(Some(answer)) => self.note(answer, started),
                Ok(None) => self.shared.metrics.answered_anew(false),
                Err(error) if is_passing(&error) => {
                    sleep(BUSY_RETRY).await;
                    continue;
                }
                Err(error) => {
                    self.publish.send_replace(Published::Ended(error.into()));
                    return;
                }
            }
            tokio::select! {
                biased;
                () = self.signal.changed() => {}
                () = sleep(self.until_time_changes_it()) => {}
                () = sleep(INCOMPLETE_AGAIN.max(self.every)), if !self.is_complete() => {}
            }
            sleep_until(started + self.pace).await;
        }
    }

    async fn answer(&mut self) -> Result<Option<v1::Answer>, AskError> {
        // The semaphore is never closed.
        let _turn = self.shared.answering.acquire().await;
        self.shared.queries.ask_again(&self.question, &mut self.kept).await
    }

    fn note(&self, answer: v1::Answer, answered_at: Instant) {
        let (number, step) = match &*self.publish.borrow() {
            Published::State(state) => {
                let step = diff(&state.answer, &answer);
                if !is_news(&step, &state.answer) {
                    self.shared.metrics.answered_anew(false);
                    return;
                }
                (state.number + 1, Some(step))
            }
            Published::Pending | Published::Ended(_) => (1, None),
        };
        self.shared.metrics.answered_anew(true);
        let token = token(self.fingerprint, &answer);
        let state = State { number, answer, answered_at, step, token, step_event: OnceLock::new() };
        self.publish.send_replace(Published::State(Arc::new(state)));
    }

    fn is_complete(&self) -> bool {
        match &*self.publish.borrow() {
            Published::State(state) => state.answer.facts.as_ref().is_some_and(|facts| facts.complete),
            Published::Pending | Published::Ended(_) => true,
        }
    }

    /// How long until the answer is another one although nothing happens.
    fn until_time_changes_it(&self) -> Duration {
        let seconds = if self.slides { SLICE.as_secs() } else { u64::from(BUCKET_SECONDS) };
        let period_ms = seconds * 1000;
        let now_ms = self.shared.queries.now().as_unix_ms().rem_euclid(period_ms as i64) as u64;
        Duration::from_millis(period_ms - now_ms)
    }
}

/// Whether asking again soon may help.
fn is_passing(error: &AskError) -> bool {
    matches!(error, AskError::Busy { .. } | AskError::Refused { code: Code::ResourceExhausted, .. })
}

/// Whether there is anything that subscribers have to be told: that time passes they know.
fn is_news(step: &v1::Change, before: &v1::Answer) -> bool {
    let still = |facts: &Option<v1::Facts>| {
        let facts = facts.clone().unwrap_or_default();
        v1::Facts { freshness_ms: None, from_memory: 0, from_history: 0, ..facts }
    };
    let rows = step.added.len() + step.changed.len() + step.gone.len();
    rows > 0 || still(&step.facts) != still(&before.facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_newest_event_grows_older_is_no_news_and_that_a_node_is_missing_is() {
        let facts = |freshness_ms, complete| v1::Facts { freshness_ms, complete, ..v1::Facts::default() };
        let answer = v1::Answer { facts: Some(facts(Some(7), true)), ..v1::Answer::default() };
        let step = |facts| v1::Change { facts: Some(facts), ..v1::Change::default() };
        assert!(!is_news(&step(facts(Some(900), true)), &answer));
        assert!(is_news(&step(facts(Some(7), false)), &answer));
    }
}
