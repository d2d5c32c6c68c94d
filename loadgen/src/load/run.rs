//! A run: producers, queries and subscribers, side by side.
//!
//! Owns: starting all of them at one moment, what they noted together, and asking the cluster afterwards.
//! Does not own: what each of them does (`sender`, `asking`), how the result is shown (`report`).

use super::asking::{Asker, subscribe};
use super::check::{CheckError, Verdict, check};
use super::failures::Failures;
use super::measured::{Measured, Timeline};
use super::profile::{Profile, ProfileError};
use super::schedule::{Schedule, seconds};
use super::sender::{Sender, Shared};
use super::sent::Sent;
use super::traffic::Names;
use serde::Serialize;
use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_client::{ClientError, Dial, QueryClient};
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::Clock;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long an event may wait for others at most.
pub const LINGER: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);

/// How events travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// As blocks, made here.
    Blocks,
    /// As rows, which a node makes blocks of.
    Rows,
}

/// What a run is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunOptions {
    /// Nodes, `http://host:port`; at least one.
    pub nodes: Vec<String>,
    /// A coordinator, `http://host:port`: for queries, subscribers and the verdict.
    pub coordinator: Option<String>,
    /// How nodes and the coordinator are reached.
    #[serde(skip)]
    pub dial: Dial,
    /// What events are like.
    pub profile: Profile,
    /// When they are due.
    pub schedule: Schedule,
    /// The same seed makes the same events.
    pub seed: u64,
    /// In the name of each site, so that runs do not count into one another.
    pub run: String,
    /// Connections that events go over, at least one: their identities, which are new and random. As many are written.
    #[serde(serialize_with = "count")]
    pub producers: Vec<ProducerId>,
    /// How events travel.
    pub form: Form,
    /// How long an event waits for others, to be sent with them: as in the client's batches. Within [`LINGER`].
    #[serde(rename = "lingerS", serialize_with = "seconds")]
    pub linger: Duration,
    /// Queries that are due per second.
    pub queries_per_second: f64,
    /// Subscribers, of fifty questions.
    pub subscribers: u32,
    /// Whether what was sent is kept, to be verified: about 40 bytes for each event.
    #[serde(rename = "verify")]
    pub keeps_sent: bool,
    /// How long a block is sent again, and how long after the last event is due acknowledgements and answers are waited for.
    #[serde(skip)]
    pub retry_for: Duration,
}

impl RunOptions {
    /// Whether this can be run.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), ProfileError> {
        let wrong = |setting, value: &dyn Debug, bounds| {
            Err(ProfileError { setting, value: format!("{value:?}"), bounds })
        };
        if self.producers.is_empty() {
            return wrong("producers", &0, "at least 1");
        }
        match LINGER.contains(&self.linger) {
            true => self.profile.check(),
            false => wrong("linger", &self.linger, "1ms to 1s"),
        }
    }
}

fn count<S: serde::Serializer>(producers: &[ProducerId], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(producers.len() as u64)
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// What was run.
    pub options: RunOptions,
    /// What was measured.
    pub timeline: Timeline,
    /// Why things failed.
    pub failures: Failures,
    /// Blocks or batches that were sent again.
    pub retries: u64,
    /// From the first event until the end of the last was known.
    pub took: Duration,
    /// Whether the cluster counts what was sent; where that was asked for.
    pub verdict: Option<Verdict>,
}

/// Why there was no run, or no verdict.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Change the setting.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Start the member, or name another one.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Everything was sent, but the cluster did not answer what it counts.
    #[error("the run cannot be verified: {0}")]
    Check(#[from] CheckError),
    /// Name one.
    #[error("queries, subscribers and verifying need a coordinator")]
    NoCoordinator,
    /// Try again when less is running.
    #[error("the system has no thread or timer to give: {0}")]
    NoThread(#[source] std::io::Error),
}

/// A run under way, to look at.
#[derive(Clone)]
pub struct Watched {
    parts: Vec<Arc<Shared>>,
    started: Instant,
    duration: Duration,
}

impl Watched {
    /// What was measured so far.
    pub fn timeline(&self) -> Timeline {
        let mut all = Timeline::of(self.duration);
        self.parts.iter().for_each(|part| all.merge(&part.notes().timeline));
        all
    }

    /// Since the first event was due.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Runs, and waits until the end of every event is known. Nothing is due any more after `stop`. `on_start` gets what can be looked at
/// meanwhile.
///
/// # Errors
/// Where it cannot begin, or the cluster cannot be asked afterwards.
pub async fn run(
    options: RunOptions,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    on_start: impl FnOnce(Watched),
) -> Result<RunReport, RunError> {
    options.check()?;
    let names = Arc::new(Names::new(&options.profile, &options.run));
    let needs_coordinator = options.queries_per_second > 0.0 || options.subscribers > 0 || options.keeps_sent;
    let client = match (&options.coordinator, needs_coordinator) {
        (Some(coordinator), true) => Some(QueryClient::connect_with(coordinator, &options.dial).await?),
        (None, true) => return Err(RunError::NoCoordinator),
        (_, false) => None,
    };
    let asker = match &options.coordinator {
        Some(coordinator) if options.queries_per_second > 0.0 => {
            Some(Asker::connect(coordinator, &options.dial).await?)
        }
        _ => None,
    };
    let options = Arc::new(options);
    let (mut senders, mut parts) = (Vec::new(), Vec::new());
    for producer in (0_u32..).zip(options.producers.iter().copied()) {
        let shared = Arc::new(Shared::new(&options, Arc::clone(&names)));
        parts.push(Arc::clone(&shared));
        senders.push(
            Sender::connect(Arc::clone(&options), producer, Arc::clone(&clock), shared, stop.clone()).await?,
        );
    }
    // What is asked is noted apart from what is sent.
    let asked = Arc::new(Shared::new(&options, Arc::clone(&names)));
    parts.push(Arc::clone(&asked));

    let (started, over) = (Instant::now(), CancellationToken::new());
    on_start(Watched { parts: parts.clone(), started, duration: options.schedule.duration });
    let mut tasks = JoinSet::new();
    senders.into_iter().for_each(|sender| _ = tasks.spawn(sender.run(started)));
    if let Some(asker) = asker {
        let (options, names, asked) = (Arc::clone(&options), Arc::clone(&names), Arc::clone(&asked));
        tasks.spawn(asker.ask(options, names, asked, started, stop));
    }
    let mut subscribers = JoinSet::new();
    for number in 0..options.subscribers {
        let coordinator = options.coordinator.clone().unwrap_or_default();
        let (options, names) = (Arc::clone(&options), Arc::clone(&names));
        let (asked, over) = (Arc::clone(&asked), over.clone());
        subscribers.spawn(subscribe(options, coordinator, number, names, asked, started, over));
    }
    while tasks.join_next().await.is_some() {}
    let took = started.elapsed();
    over.cancel();
    while subscribers.join_next().await.is_some() {}

    let mut timeline = Timeline::of(options.schedule.duration);
    let (mut sent, mut failures, mut retries) = (Sent::default(), Failures::default(), 0);
    for part in &parts {
        let mut notes = part.notes();
        timeline.merge(&notes.timeline);
        failures.merge(&notes.failures);
        notes.sent.take().into_iter().for_each(|of_part| sent.merge(of_part));
        retries += part.retries.load(Ordering::Relaxed);
    }
    let verdict = match client.filter(|_| options.keeps_sent) {
        Some(client) => Some(check(&client, &names, &sent, options.retry_for).await?),
        None => None,
    };
    Ok(RunReport { options: Arc::unwrap_or_clone(options), timeline, failures, retries, took, verdict })
}

impl RunReport {
    /// What was measured in all.
    pub fn total(&self) -> &Measured {
        self.timeline.total()
    }

    /// Events that were due per second, until the end of the schedule or of the run.
    pub fn offered_per_second(&self) -> f64 {
        let lasted = self.options.schedule.duration.min(self.took);
        self.total().due as f64 / lasted.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Events that were acknowledged per second, until the last of them.
    pub fn achieved_per_second(&self) -> f64 {
        self.total().accepted as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Whether everything that was due is acknowledged, and, where that was asked for, counted as it was sent.
    pub fn is_good(&self) -> bool {
        let total = self.total();
        let all = total.accepted + total.rejected == total.due;
        all && self.verdict.as_ref().is_none_or(Verdict::is_equal)
    }
}
