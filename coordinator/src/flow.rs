//! The way of events through the cluster, as it is now.
//!
//! Owns: one upstream for all who watch, which asks all nodes how they are doing once per second; and a report of it.
//! Does not own: what the numbers say (`flow::judge`), how fast they change (`flow::window`), the forms on the wire (`service`,
//! `http::flow`).
//!
//! Nothing is asked while nobody watches. What was told last is kept for a minute, so that who asks for a single report now and
//! then is told how fast things go, too.

mod json;
mod judge;
mod window;

pub(crate) use json::FlowJson;

use crate::fanout::{Deadline, ask_all};
use crate::metrics::CoordinatorMetrics;
use crate::peers::Peers;
use crate::place::Place;
use crate::plan::Peer;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::member::{Role, View};
use tidemark_rollup::placement::{Placement, Replication};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::Clock;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use window::Window;

/// How often nodes are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a node may take to say how it is doing; it is a member without status then.
const STATUS_WITHIN: Duration = Duration::from_millis(900);
/// How often who watches is told, unless they say otherwise.
const DEFAULT_EVERY: Duration = Duration::from_secs(1);
const SHORTEST_EVERY: Duration = Duration::from_millis(200);
const LONGEST_EVERY: Duration = Duration::from_secs(60);
/// So many may watch at a time.
pub(crate) const MAX_WATCHERS: usize = 1_000;

/// Why there is no report, or no further one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlowError {
    /// Correct it.
    #[error("every_ms: {0} is not between 200 and 60000, nor 0 for 1000")]
    Every(u32),
    /// Come back later, or to another coordinator.
    #[error("{MAX_WATCHERS} watch the flow already: close some, or go to another coordinator")]
    Full,
    /// Reconnect, to another coordinator or later.
    #[error("the coordinator is stopping: reconnect")]
    Stopping,
}

/// A report, once there is one.
type Report = Option<Arc<v1::Flow>>;

/// Who watches the flow, and what they share.
pub(crate) struct Flows {
    shared: Arc<Shared>,
    /// Runs while somebody watches.
    upstream: Mutex<Weak<Upstream>>,
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

struct Shared {
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    shards: ShardCount,
    replication: Replication,
    window: Mutex<Window>,
    metrics: CoordinatorMetrics,
}

/// Asks the nodes until it is dropped.
struct Upstream {
    reports: watch::Receiver<Report>,
    _asking: AbortOnDropHandle<()>,
}

impl Flows {
    pub(crate) fn new(
        peers: Arc<Peers>,
        clock: Arc<dyn Clock>,
        (shards, replication): (ShardCount, Replication),
        metrics: CoordinatorMetrics,
        shutdown: CancellationToken,
    ) -> Self {
        let window = Mutex::default();
        Self {
            shared: Arc::new(Shared { peers, clock, shards, replication, window, metrics }),
            upstream: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_WATCHERS)),
            shutdown,
        }
    }

    /// Reports, the first one at once and then one every so many milliseconds; 0 means 1,000.
    ///
    /// # Errors
    /// Where that is too often or too seldom, or too many watch.
    pub(crate) fn watch(&self, every_ms: u32) -> Result<FlowFeed, FlowError> {
        let every = match every_ms {
            0 => DEFAULT_EVERY,
            ms => Duration::from_millis(ms.into()),
        };
        if !(SHORTEST_EVERY..=LONGEST_EVERY).contains(&every) {
            return Err(FlowError::Every(every_ms));
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| FlowError::Full)?;
        let upstream = self.upstream();
        Ok(FlowFeed {
            reports: upstream.reports.clone(),
            told: None,
            every,
            due: Instant::now(),
            shutdown: self.shutdown.clone(),
            _place: Place::new(place, self.shared.metrics.flow_watchers()),
            _upstream: upstream,
        })
    }

    fn upstream(&self) -> Arc<Upstream> {
        let mut upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        upstream.upgrade().unwrap_or_else(|| {
            let (publish, reports) = watch::channel(None);
            let asking = tokio::spawn(Arc::clone(&self.shared).run(publish));
            let started = Arc::new(Upstream { reports, _asking: AbortOnDropHandle::new(asking) });
            *upstream = Arc::downgrade(&started);
            started
        })
    }
}

impl Shared {
    async fn run(self: Arc<Self>, publish: watch::Sender<Report>) {
        let mut placed: Option<(Arc<View>, v1::PlacementReply)> = None;
        loop {
            let began = Instant::now();
            let flow = self.report(&mut placed).await;
            publish.send_replace(Some(Arc::new(flow)));
            sleep_until(began + ASK_EVERY).await;
        }
    }

    async fn report(&self, placed: &mut Option<(Arc<View>, v1::PlacementReply)>) -> v1::Flow {
        let view = Arc::clone(self.peers.plan().view());
        let placement = match placed {
            Some((of, placement)) if *of == view => placement.clone(),
            _ => {
                let placement = Placement::of(&view, self.shards, self.replication).to_wire();
                *placed = Some((Arc::clone(&view), placement.clone()));
                placement
            }
        };
        let mut statuses = self.ask(&view).await;
        let members = view.members().iter().map(|member| {
            let status = statuses.remove(member.id.as_str()).filter(|_| member.role == Role::Node);
            v1::Member { status, ..member.to_wire() }
        });
        let mut flow = v1::Flow {
            time_ms: self.clock.now().as_unix_ms(),
            stages: Vec::new(),
            members: members.collect(),
            missing: view.missing().iter().map(ToString::to_string).collect(),
            placement: Some(placement),
        };
        let lately = {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            window.push(Instant::now(), &flow.members);
            window.lately()
        };
        flow.stages = judge::stages(&flow, &lately);
        flow
    }

    /// How the nodes are doing that say so in time, by name.
    async fn ask(&self, view: &View) -> BTreeMap<String, v1::StatusReply> {
        let deadline = Deadline::after(STATUS_WITHIN);
        let nodes: Vec<Peer> = view.nodes().map(Peer::of).collect();
        let calls = nodes.iter().map(|node| {
            let (client, request) =
                (self.peers.cluster(&node.address), deadline.request(v1::StatusRequest {}));
            async move { Ok(client?.status(request).await?.into_inner()) }
        });
        let replies = ask_all(calls, deadline, |_| false).await;
        let names = view.nodes().map(|node| node.id.to_string());
        names.zip(replies).filter_map(|(name, reply)| Some((name, reply.ok()?))).collect()
    }
}

/// Reports for one who watches: the newest one whenever the next is due, never a queue of them.
pub(crate) struct FlowFeed {
    reports: watch::Receiver<Report>,
    told: Report,
    every: Duration,
    due: Instant,
    shutdown: CancellationToken,
    _place: Place,
    _upstream: Arc<Upstream>,
}

impl FlowFeed {
    /// The next report.
    ///
    /// # Errors
    /// Where the coordinator stops.
    pub(crate) async fn next(&mut self) -> Result<Arc<v1::Flow>, FlowError> {
        let (told, due) = (&self.told, self.due);
        let is_news = |report: &Report| match (report, told) {
            (Some(report), Some(told)) => !Arc::ptr_eq(report, told),
            (report, _) => report.is_some(),
        };
        let next = async {
            sleep_until(due).await;
            self.reports.wait_for(is_news).await.ok()?.clone()
        };
        let next = self.shutdown.run_until_cancelled(next).await.flatten();
        let next = next.ok_or(FlowError::Stopping)?;
        self.told = Some(Arc::clone(&next));
        // A little early rather than one report later.
        self.due = Instant::now() + self.every * 9 / 10;
        Ok(next)
    }
}
