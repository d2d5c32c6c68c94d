//! Who asks while events come in: queries by the clock, and subscribers.
//!
//! Owns: which questions, and noting when they are answered.
//! Does not own: events (`sender`), the clock (`ticks`).

use super::measured::QUESTIONS;
use super::run::{RunError, RunOptions};
use super::sender::Shared;
use super::ticks::{Alarm, Ticks};
use super::traffic::Names;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tidemark_client::{Dial, Event, QueryClient, Subscription};
use tidemark_proto::v1;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Queries under way at a time. Beyond it they wait here, and that is part of their latency.
const AT_A_TIME: usize = 256;
/// How often subscribers are updated.
const EVERY: Duration = Duration::from_secs(1);

/// A question about a site, and which of the [kinds](QUESTIONS) it is.
fn question(names: &Names, random: &mut StdRng) -> (usize, v1::Query) {
    let site = names.site(random.random_range(0..names.site_count())).to_owned();
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let query = v1::Query { site, from: "-30m".to_owned(), limit: 10, ..v1::Query::default() };
    let kind = random.random_range(0..QUESTIONS.len());
    let query = match QUESTIONS[kind] {
        "topUrls" => v1::Query { group_by: list(&["url"]), measures: list(&["views"]), ..query },
        "topReferrers" => {
            v1::Query { group_by: list(&["referrer"]), measures: list(&["views", "visitors"]), ..query }
        }
        _ => v1::Query {
            from: "-1h".to_owned(),
            granularity: "5m".to_owned(),
            measures: list(&["views", "visitors", "load_ms.p95"]),
            ..query
        },
    };
    (kind, query)
}

/// Asks by the clock, on a thread of its own: in the world it is somebody else's program. On threads that make events, an answer that
/// is there would wait for them, and how long that takes is nothing of the cluster's.
pub(super) struct Asker {
    apart: Apart,
    client: QueryClient,
    alarm: Alarm,
}

impl Asker {
    /// Connects to a coordinator.
    ///
    /// # Errors
    /// Where nobody is there, or the system has no thread or timer to give.
    pub(super) async fn connect(coordinator: &str, dial: &Dial) -> Result<Self, RunError> {
        let apart = Apart::new().map_err(RunError::NoThread)?;
        let (coordinator, dial) = (coordinator.to_owned(), dial.clone());
        let connecting = apart.run(async move { QueryClient::connect_with(&coordinator, &dial).await });
        let client = connecting.await.map_err(RunError::NoThread)??;
        let alarm =
            apart.run(async { Alarm::new() }).await.and_then(|made| made).map_err(RunError::NoThread)?;
        Ok(Self { apart, client, alarm })
    }

    /// Asks at each tick; returns when everything is answered.
    pub(super) async fn ask(
        self,
        options: Arc<RunOptions>,
        names: Arc<Names>,
        shared: Arc<Shared>,
        started: Instant,
        stop: CancellationToken,
    ) {
        let Self { apart, client, alarm } = self;
        let step = Duration::from_secs_f64(1.0 / options.queries_per_second);
        let ticks = Ticks::every(step, options.schedule.duration, started, alarm);
        let asked = apart.run(ask(options, client, names, shared, ticks, started, stop)).await;
        if let Err(error) = asked.and_then(|asked| asked) {
            tracing::error!(%error, "asking has ended early");
        }
    }
}

/// A runtime with one thread.
struct Apart(Option<Runtime>);

impl Apart {
    fn new() -> io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("asking").enable_all().build();
        Ok(Self(Some(runtime?)))
    }

    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        match &self.0 {
            Some(runtime) => Ok(runtime.spawn(work).await?),
            // Only while it is dropped.
            None => Err(io::Error::other("the thread has ended")),
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Whoever drops it may be a thread of another runtime, which must not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn ask(
    options: Arc<RunOptions>,
    client: QueryClient,
    names: Arc<Names>,
    shared: Arc<Shared>,
    mut ticks: Ticks,
    started: Instant,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut random = StdRng::seed_from_u64(options.seed ^ 0x51);
    let room = Arc::new(Semaphore::new(AT_A_TIME));
    let mut asked = JoinSet::new();
    while let Some(Some(due)) = stop.run_until_cancelled(ticks.next()).await.transpose()? {
        // The semaphore is never closed.
        let Ok(turn) = Arc::clone(&room).acquire_owned().await else { break };
        let (client, shared) = (client.clone(), Arc::clone(&shared));
        let (kind, query) = question(&names, &mut random);
        asked.spawn(async move {
            let answer = client.query(query).await;
            let latency = started.elapsed().saturating_sub(due);
            let mut notes = shared.notes();
            notes.timeline.note(due, |then| match &answer {
                Ok(answer) => {
                    then.answered[kind].add(latency);
                    let complete = answer.facts.as_ref().is_some_and(|facts| facts.complete);
                    then.partial_queries += u64::from(!complete);
                }
                Err(_) => then.failed_queries += 1,
            });
            if let Err(error) = &answer {
                notes.failures.queries.add(&error.to_string());
            }
            drop((notes, turn));
        });
        while asked.try_join_next().is_some() {}
    }
    while asked.join_next().await.is_some() {}
    Ok(())
}

/// Follows one question until `stop`, and counts its updates, and how often it was lost and came back.
pub(super) async fn subscribe(
    options: Arc<RunOptions>,
    coordinator: String,
    number: u32,
    names: Arc<Names>,
    shared: Arc<Shared>,
    started: Instant,
    stop: CancellationToken,
) {
    // Fifty different ones, so that some have the same, as readers of one dashboard do.
    let mut random = StdRng::seed_from_u64(options.seed ^ (u64::from(number % 50) << 8));
    let questions = vec![question(&names, &mut random).1];
    let seed = options.seed ^ u64::from(number);
    let lost = |because: &str| {
        let mut notes = shared.notes();
        notes.timeline.note(started.elapsed(), |now| now.lost_subscribers += 1);
        notes.failures.subscribers.add(because);
    };
    let mut subscription = match Subscription::new(vec![coordinator], questions, EVERY, seed) {
        Ok(subscription) => subscription.through(options.dial.clone()),
        Err(error) => return lost(&format!("gave up: {error}")),
    };
    let mut is_away = false;
    loop {
        match stop.run_until_cancelled(subscription.next()).await {
            None => return,
            Some(Ok(Event::Answer { .. })) => {
                shared.notes().timeline.note(started.elapsed(), |now| now.updates += 1);
            }
            Some(Ok(Event::Connected { .. })) => {
                if std::mem::replace(&mut is_away, false) {
                    shared.notes().timeline.note(started.elapsed(), |now| now.returned_subscribers += 1);
                }
            }
            // It asks again by itself; that this fails, too, is the same loss.
            Some(Ok(Event::Lost { because, .. })) => {
                if !std::mem::replace(&mut is_away, true) {
                    lost(&because);
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "a subscriber gives up");
                if !is_away {
                    lost(&format!("gave up: {error}"));
                }
                return;
            }
        }
    }
}
