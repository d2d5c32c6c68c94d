//! Learns the placement, and learns again when it changes.
//!
//! Owns: whom to ask, and asking the next one where that one does not answer.
//! Does not own: what follows from a placement (`routes`, `desk`).

use crate::backoff::Backoff;
use crate::error::{ClientError, root_cause};
use crate::routes::Routes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_rollup::sharding::ShardCount;
use tidemark_shell::link::Links;
use tokio::sync::watch;
use tonic::{Code, Streaming};

/// How often a node is asked that cannot say by itself when the placement changes.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Who watches, and how.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    pub(crate) links: Arc<Links>,
    pub(crate) configured: Vec<Arc<str>>,
    pub(crate) timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) seed: u64,
}

/// A node's changes of the placement; `None` where it has no such stream, and is asked now and then.
type Changes = Option<Streaming<v1::PlacementReply>>;

impl Watcher {
    /// Learns the placement from the first of the configured nodes that answers.
    pub(crate) async fn first(&self, ours: Option<ShardCount>) -> Result<Routes, ClientError> {
        let mut last = None;
        for address in &self.configured {
            let message = match self.ask(address).await {
                Ok((reply, _)) => match Routes::of(&reply, &self.configured, ours) {
                    Ok(routes) => return Ok(routes),
                    Err(error) => {
                        let code = Code::FailedPrecondition;
                        last = Some(ClientError::Other { code, message: error.to_string() });
                        continue;
                    }
                },
                Err(message) => message,
            };
            let address = format!("http://{address}");
            last.get_or_insert(ClientError::Unreachable { address, message });
        }
        Err(last.unwrap_or(ClientError::Address { address: String::new() }))
    }

    /// Keeps `routes` at the newest placement, until nobody wants to know.
    pub(crate) async fn run(self, ours: ShardCount, routes: watch::Sender<Arc<Routes>>) {
        let mut random = StdRng::seed_from_u64(self.seed);
        let (mut turn, mut failures) = (0, 0_u32);
        loop {
            let address = self.next(&routes.borrow(), turn);
            if let Some(address) = address {
                let learnt = tokio::select! {
                    biased;
                    () = routes.closed() => return,
                    learnt = self.follow(&address, ours, &routes) => learnt,
                };
                failures = if learnt { 1 } else { failures.saturating_add(1) };
            }
            turn += 1;
            let pause = self.backoff.delay(failures.max(1), &mut random);
            tokio::select! {
                biased;
                () = routes.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The configured nodes in turn, then those that were learnt of.
    fn next(&self, routes: &Routes, turn: usize) -> Option<Arc<str>> {
        let learnt = routes.addresses().iter().filter(|address| !self.configured.contains(address));
        let all: Vec<&Arc<str>> = self.configured.iter().chain(learnt).collect();
        (!all.is_empty()).then(|| Arc::clone(all[turn % all.len()]))
    }

    /// Follows one node's placement until it does not answer any more. Whether anything was learnt.
    async fn follow(&self, address: &str, ours: ShardCount, routes: &watch::Sender<Arc<Routes>>) -> bool {
        let Ok((reply, mut changes)) = self.ask(address).await else { return false };
        let mut newest = reply;
        loop {
            let Ok(learnt) = Routes::of(&newest, &self.configured, Some(ours)) else { return false };
            routes.send_if_modified(|routes| {
                let new = **routes != learnt;
                if new {
                    let addresses = learnt.addresses().iter().map(|address| &**address).collect();
                    self.links.keep(&addresses);
                    *routes = Arc::new(learnt);
                }
                new
            });
            newest = match &mut changes {
                Some(stream) => match stream.message().await {
                    Ok(Some(reply)) => reply,
                    Ok(None) | Err(_) => return true,
                },
                None => {
                    tokio::time::sleep(ASK_EVERY).await;
                    match self.ask(address).await {
                        Ok((reply, again)) => {
                            changes = again;
                            reply
                        }
                        Err(_) => return true,
                    }
                }
            };
        }
    }

    async fn ask(&self, address: &str) -> Result<(v1::PlacementReply, Changes), String> {
        let late = || "no answer came in time".to_owned();
        tokio::time::timeout(self.timeout, self.ask_in_time(address)).await.map_err(|_| late())?
    }

    async fn ask_in_time(&self, address: &str) -> Result<(v1::PlacementReply, Changes), String> {
        let link = self.links.to(address).map_err(|error| error.to_string())?;
        let mut client = AdminClient::new(link);
        let stream = match client.watch_placement(v1::PlacementRequest {}).await {
            Ok(stream) => Some(stream.into_inner()),
            Err(status) if status.code() == Code::Unimplemented => None,
            Err(status) => return Err(root_cause(&status)),
        };
        if let Some(mut stream) = stream {
            return match stream.message().await {
                Ok(Some(reply)) => Ok((reply, Some(stream))),
                Ok(None) => Err("the node ended the stream".to_owned()),
                Err(status) => Err(root_cause(&status)),
            };
        }
        let reply = client.placement(v1::PlacementRequest {}).await.map_err(|status| root_cause(&status))?;
        Ok((reply.into_inner(), None))
    }
}
