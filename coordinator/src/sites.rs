//! Which sites there are.
//!
//! Owns: the union of what all nodes hold.
//! Does not own: asking (`fanout`), what a node holds.

use crate::fanout::{Deadline, ask_all};
use crate::peers::Peers;
use std::collections::BTreeSet;
use tidemark_proto::v1;

/// The sites of all nodes that answer in time, by name; whether all did.
pub(crate) async fn sites(peers: &Peers, deadline: Deadline) -> v1::SitesReply {
    let plan = peers.plan();
    let calls = plan.parts().iter().map(|part| async move {
        let request = deadline.request(v1::SitesRequest {});
        Ok(peers.cluster(&part.member.address)?.local_sites(request).await?.into_inner())
    });
    let replies = ask_all(calls, deadline).await;
    let complete =
        !replies.is_empty() && replies.iter().all(|reply| reply.as_ref().is_ok_and(|reply| reply.complete));
    let sites: BTreeSet<String> = replies.into_iter().flatten().flat_map(|reply| reply.sites).collect();
    v1::SitesReply { sites: sites.into_iter().collect(), complete }
}
