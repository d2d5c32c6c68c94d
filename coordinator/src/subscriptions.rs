//! Questions left open.
//!
//! Owns: which questions are watched, one upstream for all who ask the same, and limits on both.
//! Does not own: answering anew (`subscriptions::upstream`), what a subscriber is sent (`subscriptions::feed`), when there is something new
//! (`subscriptions::signals`), the forms on the wire (`service`, `http::watch`).
//!
//! ```text
//! nodes -- changes --> signals ----> upstream (one per question) ----> feed (one per subscriber) ----> gRPC, SSE
//!       <-- partials, of what is new --'      newest answer, and           what this one lacks
//!                                             what changed in it
//! ```
//!
//! Nothing queues: an upstream holds its newest answer, and a feed takes that when its subscriber is ready for more.

mod feed;
mod signals;
mod upstream;

pub(crate) use feed::{Feed, News, Sent};

use crate::metrics::CoordinatorMetrics;
use crate::peers::Peers;
use crate::place::Place;
use crate::query::{AskError, Queries};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use prost::Message as _;
use signals::Signals;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tidemark_access::{Caller, Forbidden};
use tidemark_proto::v1;
use tidemark_rollup::query::QueryError;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use upstream::Upstream;

/// At most so many subscriptions share a stream.
pub(crate) const MAX_PER_STREAM: usize = 32;
/// How soon a change shows at the latest, unless a subscription says otherwise.
const DEFAULT_EVERY: Duration = Duration::from_secs(1);
const SHORTEST_EVERY: Duration = Duration::from_millis(100);
const LONGEST_EVERY: Duration = Duration::from_secs(60);
/// Questions that are answered anew at a time; others wait for their turn. They take nothing from those who ask once.
const ANSWERING: usize = 8;

/// Why there is no subscription, or no longer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// Give some.
    #[error("{0} subscriptions in one request: give 1 to {MAX_PER_STREAM}")]
    Count(usize),
    /// Correct the field of this subscription.
    #[error("subscriptions[{at}].{error}")]
    Invalid { at: usize, error: QueryError },
    /// Use a token that is for it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Come back later, or to another coordinator.
    #[error("{max} subscriptions are open already: close some, or go to another coordinator")]
    Full { max: NonZeroUsize },
    /// Do what the error says, then subscribe again.
    #[error(transparent)]
    Ended(#[from] AskError),
    /// Reconnect, to another coordinator or later.
    #[error("the coordinator is stopping: reconnect, and resume")]
    Stopping,
}

/// What makes two subscriptions the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The question as it was asked, encoded.
    question: Vec<u8>,
    every: Duration,
}

/// The registry of what is watched.
pub(crate) struct Subscriptions {
    shared: Arc<Shared>,
    upstreams: Arc<DashMap<Key, Weak<Upstream>>>,
    /// Runs while somebody watches.
    signals: Mutex<Weak<Signals>>,
    places: Arc<Semaphore>,
    max: NonZeroUsize,
    shutdown: CancellationToken,
}

/// What every upstream needs.
struct Shared {
    queries: Arc<Queries>,
    peers: Arc<Peers>,
    answering: Semaphore,
    metrics: CoordinatorMetrics,
}

impl Subscriptions {
    pub(crate) fn new(
        queries: Arc<Queries>,
        peers: Arc<Peers>,
        max: NonZeroUsize,
        metrics: CoordinatorMetrics,
        shutdown: CancellationToken,
    ) -> Self {
        let answering = Semaphore::new(ANSWERING);
        Self {
            shared: Arc::new(Shared { queries, peers, answering, metrics }),
            upstreams: Arc::default(),
            signals: Mutex::default(),
            places: Arc::new(Semaphore::new(max.get().min(Semaphore::MAX_PERMITS))),
            max,
            shutdown,
        }
    }

    /// A feed for each subscription, in their order.
    ///
    /// # Errors
    /// Where one of them cannot be; then there is none.
    pub(crate) fn open(
        &self,
        subscriptions: Vec<v1::Subscription>,
        caller: &Caller,
    ) -> Result<Vec<Feed>, WatchError> {
        if !(1..=MAX_PER_STREAM).contains(&subscriptions.len()) {
            return Err(WatchError::Count(subscriptions.len()));
        }
        let open = |(at, subscription)| {
            self.open_one(subscription, caller).map_err(|error| match error {
                OpenError::Invalid(error) => WatchError::Invalid { at, error },
                OpenError::Forbidden(forbidden) => WatchError::Forbidden(forbidden),
                OpenError::Full => WatchError::Full { max: self.max },
            })
        };
        subscriptions.into_iter().enumerate().map(open).collect()
    }

    fn open_one(&self, subscription: v1::Subscription, caller: &Caller) -> Result<Feed, OpenError> {
        let question = subscription.query.unwrap_or_default();
        let every = every(subscription.every_ms)?;
        // What can be answered now can be answered later, but for what it needs too much of.
        let query = self.shared.queries.check(&question)?;
        self.shared.queries.check_caller(&query, caller)?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| OpenError::Full)?;
        let upstream = self.upstream(question, every);
        Ok(Feed::new(
            upstream,
            subscription.resume,
            Place::new(place, self.shared.metrics.subscriptions()),
            &self.shutdown,
        ))
    }

    fn upstream(&self, question: v1::Query, every: Duration) -> Arc<Upstream> {
        let key = Key { question: question.encode_to_vec(), every };
        let start = || {
            let registered = Registered { key: key.clone(), upstreams: Arc::clone(&self.upstreams) };
            Upstream::start(question, every, Arc::clone(&self.shared), self.signals(), registered)
        };
        match self.upstreams.entry(key.clone()) {
            Entry::Occupied(mut known) => match known.get().upgrade() {
                Some(upstream) => upstream,
                None => {
                    let upstream = start();
                    known.insert(Arc::downgrade(&upstream));
                    upstream
                }
            },
            Entry::Vacant(vacant) => {
                let upstream = start();
                vacant.insert(Arc::downgrade(&upstream));
                upstream
            }
        }
    }

    fn signals(&self) -> Arc<Signals> {
        let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        signals.upgrade().unwrap_or_else(|| {
            let started = Signals::start(Arc::clone(&self.shared.peers));
            *signals = Arc::downgrade(&started);
            started
        })
    }
}

enum OpenError {
    Invalid(QueryError),
    Forbidden(Forbidden),
    Full,
}

impl From<QueryError> for OpenError {
    fn from(error: QueryError) -> Self {
        Self::Invalid(error)
    }
}

impl From<Forbidden> for OpenError {
    fn from(forbidden: Forbidden) -> Self {
        Self::Forbidden(forbidden)
    }
}

fn every(every_ms: u32) -> Result<Duration, QueryError> {
    let every = match every_ms {
        0 => DEFAULT_EVERY,
        ms => Duration::from_millis(ms.into()),
    };
    let possible = (SHORTEST_EVERY..=LONGEST_EVERY).contains(&every);
    possible.then_some(every).ok_or_else(|| {
        QueryError::new("every", format!("{every:?} is not between {SHORTEST_EVERY:?} and {LONGEST_EVERY:?}"))
    })
}

/// An upstream's entry in the registry, which goes with it.
struct Registered {
    key: Key,
    upstreams: Arc<DashMap<Key, Weak<Upstream>>>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Another one may have taken the place already.
        self.upstreams.remove_if(&self.key, |_, upstream| upstream.strong_count() == 0);
    }
}
