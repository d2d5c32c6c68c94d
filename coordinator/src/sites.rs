//! Which sites there are.
//!
//! Owns: the union of what nodes hold, and when that is everything.
//! Does not own: asking (`fanout`), what a node holds.

use crate::fanout::{Deadline, Failure, ask_all};
use crate::peers::Peers;
use crate::plan::{Peer, Plan};
use std::collections::BTreeSet;
use tidemark_access::Caller;
use tidemark_access::token::Scope;
use tidemark_proto::v1;

/// The sites of the nodes that answer in time, by name, of those that the caller may see; whether that is all of them. Nodes whose shards others have told
/// everything about are not waited for.
pub(crate) async fn sites(peers: &Peers, caller: &Caller, deadline: Deadline) -> v1::SitesReply {
    let plan = peers.plan();
    let nodes: Vec<Peer> = plan.view().nodes().map(Peer::of).collect();
    let calls = nodes.iter().map(|node| {
        let (client, request) = (peers.cluster(&node.address), deadline.request(v1::SitesRequest {}));
        async move { Ok(client?.local_sites(request).await?.into_inner()) }
    });
    let enough = |replies: &[Option<Result<v1::SitesReply, Failure>>]| {
        let replies = replies.iter().map(|reply| reply.as_ref().and_then(|reply| reply.as_ref().ok()));
        all_told(&plan, &nodes, replies)
    };
    let replies = ask_all(calls, deadline, enough).await;
    let complete = all_told(&plan, &nodes, replies.iter().map(|reply| reply.as_ref().ok()));
    let sites: BTreeSet<String> = replies.into_iter().flatten().flat_map(|reply| reply.sites).collect();
    let may_see = |site: &String| caller.may(Scope::Query, site).is_ok();
    v1::SitesReply { sites: sites.into_iter().filter(may_see).collect(), complete }
}

/// Whether each shard has a reader that told everything it has.
fn all_told<'a>(
    plan: &Plan,
    nodes: &[Peer],
    replies: impl Iterator<Item = Option<&'a v1::SitesReply>>,
) -> bool {
    let told = nodes.iter().zip(replies).filter(|(_, reply)| reply.is_some_and(|reply| reply.complete));
    let told: BTreeSet<&Peer> = told.map(|(node, _)| node).collect();
    plan.shards().all(|shard| plan.readers(shard).iter().any(|reader| told.contains(&**reader)))
}
