//! When there may be something new.
//!
//! Owns: a stream of changes from each node in view, and waking those whom a change may be about.
//! Does not own: what the change is: who is woken asks (`subscriptions::upstream`).
//!
//! A change that is missed is never lost for good: whenever a stream breaks or the view changes, everybody is woken.

use crate::peers::Peers;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::query::SiteSelection;
use tidemark_rollup::site_mask::SiteMask;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

/// Pause before a node's changes are asked for again; also how often everybody is woken where a node cannot tell.
const AGAIN: Duration = Duration::from_secs(1);

/// Changes of all nodes. The streams go when this is dropped.
pub(super) struct Signals {
    waiting: Arc<Waiting>,
    _following: AbortOnDropHandle<()>,
}

impl Signals {
    /// Follows the nodes in view.
    pub(super) fn start(peers: Arc<Peers>) -> Arc<Self> {
        let waiting = Arc::new(Waiting::default());
        let following = tokio::spawn(follow(peers, Arc::clone(&waiting)));
        Arc::new(Self { waiting, _following: AbortOnDropHandle::new(following) })
    }

    /// Tells of changes to these sites from now on.
    pub(super) fn of(&self, sites: &SiteSelection) -> Arc<Signal> {
        let site = match sites {
            SiteSelection::One(site) => Some(site.clone()),
            SiteSelection::All => None,
        };
        let signal = Arc::new(Signal { site, notify: Notify::new() });
        let mut waiting = self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|signal| signal.strong_count() > 0);
        waiting.push(Arc::downgrade(&signal));
        signal
    }
}

/// Tells one upstream of changes.
pub(super) struct Signal {
    /// `None`: of all sites.
    site: Option<String>,
    notify: Notify,
}

impl Signal {
    /// Waits for a change since this was last waited for.
    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }
}

/// Those who want to be told.
#[derive(Default)]
struct Waiting(Mutex<Vec<Weak<Signal>>>);

impl Waiting {
    fn wake(&self, sites: &SiteMask) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for signal in waiting.iter().filter_map(Weak::upgrade) {
            if signal.site.as_ref().is_none_or(|site| sites.may_hold(site)) {
                signal.notify.notify_one();
            }
        }
    }
}

/// Keeps a stream to each node in view, without end.
async fn follow(peers: Arc<Peers>, waiting: Arc<Waiting>) {
    let mut changes = peers.changes();
    let mut followed: BTreeSet<String> = BTreeSet::new();
    let mut streams: FuturesUnordered<BoxFuture<'static, String>> = FuturesUnordered::new();
    loop {
        let addresses: BTreeSet<String> =
            peers.plan().view().nodes().map(|node| node.address.clone()).collect();
        for address in &addresses {
            if followed.insert(address.clone()) {
                streams.push(Box::pin(node_changes(
                    Arc::clone(&peers),
                    address.clone(),
                    Arc::clone(&waiting),
                )));
            }
        }
        tokio::select! {
            biased;
            () = changes.next() => waiting.wake(&SiteMask::ALL),
            // A node that is no longer in view, or whose stream broke: it is looked at anew.
            Some(address) = streams.next() => {
                followed.remove(&address);
            }
        }
    }
}

/// Wakes whom a node's changes may be about, until its stream breaks.
async fn node_changes(peers: Arc<Peers>, address: String, waiting: Arc<Waiting>) -> String {
    let broke = match open(&peers, &address).await {
        Ok(mut stream) => {
            // What came before the stream was not told.
            waiting.wake(&SiteMask::ALL);
            loop {
                match stream.message().await {
                    Ok(Some(change)) => waiting.wake(&SiteMask::from_wire(&change.sites)),
                    Ok(None) => break None,
                    Err(status) => break Some(status),
                }
            }
        }
        Err(status) => Some(status),
    };
    if let Some(status) = broke.filter(|status| status.code() != Code::Unimplemented) {
        tracing::debug!(%address, error = %status, "a node's changes are not told at the moment");
    }
    sleep(AGAIN).await;
    waiting.wake(&SiteMask::ALL);
    address
}

async fn open(peers: &Peers, address: &str) -> Result<Streaming<v1::ChangesReply>, Status> {
    let mut client = peers.cluster(address).map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(client.watch_changes(v1::ChangesRequest {}).await?.into_inner())
}
