//! Asking a cluster how it is doing.
//!
//! Owns: whom to ask what, twice with a pause between, and how long they may take.
//! Does not own: what the answers mean (`checks`).

use super::shown::certificates;
use futures::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use tidemark_client::{ClientError, Dial, Link, open};
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_rollup::time::{Clock, EventTime};

/// How long anybody may take to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What a node says of the cluster, at the beginning and at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeSays {
    pub(super) before: v1::MembersReply,
    pub(super) after: v1::MembersReply,
    pub(super) placement: v1::PlacementReply,
    /// Our own clock in the middle of the last question, and how far that may be off.
    pub(super) asked_at_ms: i64,
    pub(super) uncertainty: Duration,
}

/// What a coordinator says of the cluster.
#[derive(Clone, Debug)]
pub(super) struct CoordinatorSays {
    /// Its name where the node knows it, else where it is.
    pub(super) name: String,
    pub(super) report: Result<v1::Flow, String>,
}

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Whose it is.
    pub(super) subject: String,
    /// The last moment at which it is good.
    pub(super) not_after: EventTime,
}

/// All that was seen.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) now: EventTime,
    pub(super) watched_for: Duration,
    pub(super) to: String,
    pub(super) node: Result<NodeSays, String>,
    /// Whom other nodes see, those that could be asked.
    pub(super) views: Vec<(String, BTreeSet<String>)>,
    /// The one that was named is the first.
    pub(super) coordinators: Vec<CoordinatorSays>,
    /// The facts of an answer of the named coordinator about the last hour of all sites, and how many views there were.
    pub(super) answer: Option<Result<(v1::Facts, u64), String>>,
    pub(super) certificates: Vec<Certificate>,
}

impl Observed {
    /// Whether anybody answered at all.
    pub(super) fn is_answered(&self) -> bool {
        self.node.is_ok() || self.coordinators.iter().any(|seen| seen.report.is_ok())
    }

    fn report(&self) -> Option<&v1::Flow> {
        self.coordinators.iter().find_map(|seen| seen.report.as_ref().ok())
    }

    /// The members, as the node sees them, or else a coordinator.
    pub(super) fn members(&self) -> &[v1::Member] {
        match (&self.node, self.report()) {
            (Ok(says), _) => &says.after.members,
            (_, Some(report)) => &report.members,
            _ => &[],
        }
    }

    /// Nodes that went without leaving.
    pub(super) fn missing(&self) -> &[String] {
        match (&self.node, self.report()) {
            (Ok(says), _) => &says.after.missing,
            (_, Some(report)) => &report.missing,
            _ => &[],
        }
    }

    pub(super) fn placement(&self) -> Option<&v1::PlacementReply> {
        match &self.node {
            Ok(says) => Some(&says.placement),
            Err(_) => self.report()?.placement.as_ref(),
        }
    }

    /// The nodes with what they say of themselves.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&v1::Member, &v1::StatusReply)> {
        let nodes = self.members().iter().filter(|member| member.role == "node");
        nodes.filter_map(|member| Some((member, member.status.as_ref()?)))
    }

    /// The same with their health.
    pub(super) fn healths(&self) -> impl Iterator<Item = (&str, &v1::NodeHealth)> {
        self.nodes().filter_map(|(member, status)| Some((member.id.as_str(), status.health.as_ref()?)))
    }

    /// What a node said of itself at the beginning.
    pub(super) fn before(&self, id: &str) -> Option<&v1::StatusReply> {
        let says = self.node.as_ref().ok()?;
        says.before.members.iter().find(|member| member.id == id)?.status.as_ref()
    }
}

/// Asks everybody, watching for so long.
pub(super) async fn gather(
    to: &str,
    at: &str,
    dial: &Dial,
    watch_for: Duration,
    clock: &dyn Clock,
) -> Observed {
    let asking = Asking { dial };
    let before = asking.members(to).await;
    let (named, ()) = tokio::join!(asking.watch(at, watch_for), tokio::time::sleep(watch_for));
    let node = match before {
        Ok(before) => asking.after(to, before, clock).await,
        Err(error) => Err(error),
    };
    let mut observed = Observed {
        now: clock.now(),
        watched_for: watch_for,
        to: to.to_owned(),
        node,
        views: Vec::new(),
        coordinators: Vec::new(),
        answer: None,
        certificates: Vec::new(),
    };
    if named.is_ok() {
        observed.answer = Some(asking.answer(at).await);
    }
    let members = observed.members().to_vec();
    let is_named = |member: &v1::Member| at.ends_with(&format!("//{}", member.address));
    let name = members.iter().find(|member| is_named(member)).map_or(at, |member| &member.id).to_owned();
    // Members speak TLS all or none.
    let scheme = if to.starts_with("https://") { "https" } else { "http" };
    let url = |member: &v1::Member| format!("{scheme}://{}", member.address);
    let others = members.iter().filter(|member| member.role == "coordinator" && !is_named(member));
    let others = others.filter(|member| !member.doubtful).map(|member| async {
        let report = asking.watch(&url(member), Duration::ZERO).await;
        CoordinatorSays { name: member.id.clone(), report }
    });
    let nodes = members.iter().filter(|member| member.role == "node" && !member.doubtful);
    let views = nodes.map(|member| async {
        let reply = asking.members(&url(member)).await;
        Some((member.id.clone(), names(&reply.ok()?.members)))
    });
    let (others, views) = tokio::join!(join_all(others), join_all(views));
    if let Some(tls) = &dial.tls {
        let address = |member: &v1::Member| (member.id.clone(), member.address.clone());
        observed.certificates = certificates(members.iter().map(address).collect(), tls).await;
    }
    observed.views = views.into_iter().flatten().collect();
    observed.coordinators.push(CoordinatorSays { name, report: named });
    observed.coordinators.extend(others);
    observed
}

/// Nodes that answer, by name.
pub(super) fn names(members: &[v1::Member]) -> BTreeSet<String> {
    let nodes = members.iter().filter(|member| member.role == "node" && !member.doubtful);
    nodes.map(|member| member.id.clone()).collect()
}

async fn within<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, String> {
    match tokio::time::timeout(WITHIN, call).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(status)) if status.message().is_empty() => Err(status.code().to_string()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("no answer within {WITHIN:?}")),
    }
}

/// How everybody is reached.
#[derive(Clone, Copy)]
struct Asking<'a> {
    dial: &'a Dial,
}

impl Asking<'_> {
    async fn connect(&self, url: &str) -> Result<Link, String> {
        match tokio::time::timeout(WITHIN, open(url, self.dial)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(ClientError::Unreachable { message, .. })) => Err(message),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no connection within {WITHIN:?}")),
        }
    }

    async fn members(&self, url: &str) -> Result<v1::MembersReply, String> {
        let mut client = AdminClient::new(self.connect(url).await?);
        let reply = within(client.members(v1::MembersRequest { with_status: true })).await?;
        Ok(reply.into_inner())
    }

    async fn after(&self, to: &str, before: v1::MembersReply, clock: &dyn Clock) -> Result<NodeSays, String> {
        let mut client =
            AdminClient::new(self.connect(to).await?).max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES);
        let placement = within(client.placement(v1::PlacementRequest {})).await?.into_inner();
        let began_ms = clock.now().as_unix_ms();
        let after = within(client.members(v1::MembersRequest { with_status: true })).await?.into_inner();
        let took_ms = clock.now().as_unix_ms() - began_ms;
        Ok(NodeSays {
            before,
            after,
            placement,
            asked_at_ms: began_ms + took_ms / 2,
            uncertainty: Duration::from_millis(u64::try_from(took_ms).unwrap_or(0)),
        })
    }

    /// The last report of a coordinator's after so long: how fast things go is told from the second one on.
    async fn watch(&self, url: &str, watch_for: Duration) -> Result<v1::Flow, String> {
        let mut client = AnalyticsClient::new(self.connect(url).await?)
            .max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES);
        let until = tokio::time::Instant::now() + watch_for;
        let mut reports = within(client.watch_flow(v1::FlowRequest { every_ms: 1000 })).await?.into_inner();
        loop {
            let report = within(reports.message()).await?.ok_or("it ended the report")?;
            if tokio::time::Instant::now() >= until {
                return Ok(report);
            }
        }
    }

    async fn answer(&self, url: &str) -> Result<(v1::Facts, u64), String> {
        let mut client = AnalyticsClient::new(self.connect(url).await?);
        let question = v1::Query {
            site: "*".into(),
            measures: vec!["views".into()],
            from: "-1h".into(),
            ..v1::Query::default()
        };
        let answer = within(client.query(question)).await?.into_inner();
        let views = answer.rows.first().and_then(|row| match row.values.first()?.kind.as_ref()? {
            v1::value::Kind::Integer(views) => Some(*views),
            v1::value::Kind::Text(_) | v1::value::Kind::Number(_) => None,
        });
        Ok((answer.facts.unwrap_or_default(), views.unwrap_or(0)))
    }
}
