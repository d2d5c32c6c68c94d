//! Members of a cluster as processes.
//!
//! Owns: their command lines, starting and stopping them, and what they say of one another.
//! Does not own: the programs (`processes`), namespaces.

use crate::http::Http;
use crate::processes::Process;
use crate::secured::{SECURED, dial, is_secured, url};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use tidemark_client::{Link, open};
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;

/// How long a member may take to say how it sees the others.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A node or a coordinator, whether it runs or not.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub id: String,
    /// Where it serves, `host:port`.
    pub address: String,
    by_way_of: Vec<String>,
    arguments: Vec<String>,
    ready: &'static str,
    process: Option<Process>,
}

impl Member {
    /// A node with its folder and the history of all in `folder`.
    pub fn node(id: &str, address: &str, seeds: &str, folder: &Path) -> Self {
        let (data, store) = (folder.join(id), folder.join("history"));
        let arguments = ["node", "--id", id, "--listen", address, "--seeds", seeds];
        let folders = ["--data", data.to_str().unwrap(), "--store", store.to_str().unwrap()];
        Self::of(id, address, arguments.into_iter().chain(folders), "the node serves")
    }

    /// A coordinator.
    pub fn coordinator(id: &str, address: &str, seeds: &str) -> Self {
        let arguments = ["coordinator", "--id", id, "--http", address, "--seeds", seeds];
        Self::of(id, address, arguments.into_iter(), "coordinator is listening")
    }

    fn of<'a>(
        id: &str,
        address: &str,
        arguments: impl Iterator<Item = &'a str>,
        ready: &'static str,
    ) -> Self {
        let secured = if is_secured(address) { SECURED.flags() } else { Vec::new() };
        Self {
            id: id.to_owned(),
            address: address.to_owned(),
            by_way_of: Vec::new(),
            arguments: arguments.map(str::to_owned).chain(secured).collect(),
            ready,
            process: None,
        }
    }

    /// The same, started by way of another command.
    pub fn by_way_of(self, command: Vec<String>) -> Self {
        Self { by_way_of: command, ..self }
    }

    /// The same with more on its command line.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.add(arguments);
        self
    }

    /// From its next start on, this is on its command line as well.
    pub fn add(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|&text| text.to_owned()));
    }

    /// Starts it and waits until it says that it serves.
    pub async fn start(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let started = Process::start_under(&self.by_way_of, &arguments, self.ready).await;
        self.process = Some(started.unwrap_or_else(|seen| panic!("{} does not start:\n{seen}", self.id)));
    }

    /// Sends it a signal, like `STOP`.
    pub async fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name).await;
    }

    /// Kills it at once.
    pub async fn kill(&mut self) {
        self.process.take().expect("it runs").kill().await;
    }

    /// Asks it to end, which it must do well.
    pub async fn terminate(&mut self) {
        self.signal("TERM").await;
        self.ended().await;
    }

    /// Waits until it has ended well.
    pub async fn ended(&mut self) {
        let code = self.process.take().expect("it runs").ended(Duration::from_secs(60)).await;
        assert_eq!(code, Some(0), "{}", self.id);
    }
}

async fn admin(address: &str) -> Result<AdminClient<Link>, String> {
    let opened = tokio::time::timeout(TIMEOUT, open(&url(address), &dial(address))).await;
    let link = opened.map_err(|_| format!("{address}: no answer"))?;
    Ok(AdminClient::new(link.map_err(|error| format!("{address}: {error:?}"))?))
}

/// How a node sees the members, with how each is doing.
///
/// # Errors
/// Why it does not tell.
pub async fn members(address: &str) -> Result<v1::MembersReply, String> {
    let reply = admin(address).await?.members(v1::MembersRequest { with_status: true }).await;
    Ok(reply.map_err(|status| format!("{address}: {status}"))?.into_inner())
}

/// Which nodes own something, as a node sees it.
///
/// # Errors
/// Why it does not tell.
pub async fn owners(address: &str) -> Result<BTreeSet<String>, String> {
    let reply = admin(address).await?.placement(v1::PlacementRequest {}).await;
    let placement = reply.map_err(|status| format!("{address}: {status}"))?.into_inner();
    let writers = placement.owners.iter().flat_map(|owners| &owners.writers);
    Ok(writers.map(|&at| placement.nodes[at as usize].id.clone()).collect())
}

/// Waits until a node sees these owners; returns how long that took since `from`.
pub async fn until_owners(address: &str, expected: &BTreeSet<String>, from: Instant) -> Duration {
    loop {
        let seen = owners(address).await;
        if seen.as_ref() == Ok(expected) {
            return from.elapsed();
        }
        assert!(from.elapsed() < crate::PATIENCE, "{address} sees {seen:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Why these nodes, each by its name, are not all at peace: each sees all of them active and none missing, and each answers for
/// what it owns.
pub async fn unrest(nodes: &BTreeMap<String, String>) -> Option<String> {
    for address in nodes.values() {
        let reply = match members(address).await {
            Ok(reply) => reply,
            Err(error) => return Some(error),
        };
        let seen: Vec<&v1::Member> = reply.members.iter().filter(|member| member.role == "node").collect();
        let is_at_peace = |member: &&v1::Member| {
            let status = member.status.as_ref();
            let is_ready = status
                .is_some_and(|status| status.shards_owned == status.shards_ready && status.shards_owned > 0);
            member.state == "active" && !member.doubtful && is_ready && nodes.contains_key(&member.id)
        };
        if seen.len() != nodes.len() || !seen.iter().all(is_at_peace) || !reply.missing.is_empty() {
            return Some(format!("{address} sees {reply:?}"));
        }
    }
    None
}

/// Waits until a condition holds, which tells why it does not yet.
pub async fn until<F: Future<Output = Option<String>>>(
    what: &str,
    within: Duration,
    why_not: impl Fn() -> F,
) {
    let begun = Instant::now();
    while let Some(why) = why_not().await {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}: {why}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Views of each URL, once the answer is complete.
pub async fn views(coordinator: &str) -> BTreeMap<String, u64> {
    let question = serde_json::json!({"site": super::load::SITE, "from": "-2h", "to": "now", "groupBy": ["url"], "limit": 10_000});
    let begun = Instant::now();
    loop {
        let (status, answer) = Http::new(coordinator).post("/v1/query", question.to_string()).await;
        if status == 200 && answer["facts"]["complete"] == true {
            let rows = crate::http::rows_of(&answer);
            return rows
                .iter()
                .map(|row| (row[0].as_str().unwrap().to_owned(), row[1].as_u64().unwrap()))
                .collect();
        }
        assert!(begun.elapsed() < crate::PATIENCE, "{coordinator}: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asserts that each URL has the views that it must have, and says where it has not.
pub fn assert_same(told: &BTreeMap<String, u64>, expected: &BTreeMap<String, u64>, by: &str) {
    let of = |views: &BTreeMap<String, u64>, url: &str| views.get(url).copied().unwrap_or(0);
    let urls: BTreeSet<&String> = told.keys().chain(expected.keys()).collect();
    let differ: Vec<_> = urls.into_iter().filter(|url| of(told, url) != of(expected, url)).collect();
    let sums = [told, expected].map(|views| views.values().sum::<u64>());
    let first: Vec<_> = differ.iter().take(5).map(|url| (url, of(told, url), of(expected, url))).collect();
    assert!(
        differ.is_empty(),
        "{by} tells {} views of {}; {} URLs of {} differ: {first:?}",
        sums[0],
        sums[1],
        differ.len(),
        expected.len()
    );
}
