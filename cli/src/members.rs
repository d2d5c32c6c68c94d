//! `tidemark members`, `tidemark placement` and `tidemark drain`: a cluster as one of its nodes sees it.
//!
//! Owns: asking a node, and the tables of its answers.
//! Does not own: membership and placement (the node's).

use crate::output;
use crate::reach::ReachOptions;
use crate::settings::values;
use crate::show::grid::{Align, Grid};
use clap::Args;
use std::time::Duration;
use tidemark_client::{ClientError, Link, open};
use tidemark_node::clock::SystemClock;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_rollup::time::{Clock as _, EventTime};

/// Where a node is unless one is named.
pub(crate) const DEFAULT_NODE: &str = "http://127.0.0.1:7100";
/// How long a node may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Which node to ask.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeOptions {
    /// Node to ask
    #[arg(
        long,
        value_name = "URL",
        value_parser = values::server,
        default_value = DEFAULT_NODE,
        env = "TIDEMARK_TO"
    )]
    to: String,

    #[command(flatten)]
    reach: ReachOptions,
}

impl NodeOptions {
    async fn connect(&self) -> anyhow::Result<AdminClient<Link>> {
        let dial = self.reach.dial([&self.to])?;
        let opened = tokio::time::timeout(TIMEOUT, open(&self.to, &dial)).await;
        let why = match opened {
            Ok(Ok(link)) => return Ok(AdminClient::new(link)),
            Ok(Err(ClientError::Unreachable { message, .. })) => message,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => "it takes too long".to_owned(),
        };
        Err(anyhow::anyhow!(
            "no node answers at {} ({why}): start one with `tidemark node`, or say where it is with --to",
            self.to
        ))
    }

    fn refused(&self, what: &str, status: &tonic::Status) -> anyhow::Error {
        anyhow::anyhow!("{} {what}: {}; a coordinator is no node", self.to, status.message())
    }
}

/// Asks, and prints the members.
pub(crate) async fn members(options: &NodeOptions) -> anyhow::Result<()> {
    let request = v1::MembersRequest { with_status: true };
    let reply = options.connect().await?.members(request).await;
    let reply = reply.map_err(|status| options.refused("does not tell its members", &status))?.into_inner();
    Ok(output::print(&members_table(&reply, SystemClock.now(), output::terminal_width()))?)
}

/// Asks, and prints who owns what.
pub(crate) async fn placement(options: &NodeOptions) -> anyhow::Result<()> {
    let reply = options.connect().await?.placement(v1::PlacementRequest {}).await;
    let reply = reply.map_err(|status| options.refused("does not tell the placement", &status))?.into_inner();
    Ok(output::print(&placement_table(&reply, output::terminal_width()))?)
}

/// Has a node hand over what it owns and stop.
pub(crate) async fn drain(options: &NodeOptions) -> anyhow::Result<()> {
    let reply = options.connect().await?.drain(v1::DrainRequest {}).await;
    reply.map_err(|status| options.refused("cannot be drained", &status))?;
    Ok(output::print(&format!(
        "{} hands over what is not committed, leaves the cluster, and stops. `tidemark members` at another node shows how far it is.\n",
        options.to
    ))?)
}

fn column(name: &str, align: Align) -> (String, Align) {
    (name.to_owned(), align)
}

fn members_table(reply: &v1::MembersReply, now: EventTime, max_width: Option<usize>) -> String {
    let has_zones = reply.members.iter().any(|member| !member.zone.is_empty());
    let mut columns =
        vec![column("member", Align::Left), column("role", Align::Left), column("state", Align::Left)];
    if has_zones {
        columns.push(column("zone", Align::Left));
    }
    columns.extend([
        column("address", Align::Left),
        column("shards", Align::Right),
        column("ready", Align::Right),
        column("behind", Align::Right),
        column("uncommitted", Align::Right),
        column("version", Align::Left),
    ]);
    let mut grid = Grid::new(columns);
    for member in &reply.members {
        let state =
            if member.doubtful { format!("{}, does not answer", member.state) } else { member.state.clone() };
        let mut row = vec![member.id.clone(), member.role.clone(), state];
        if has_zones {
            row.push(member.zone.clone());
        }
        row.push(member.address.clone());
        row.extend(match &member.status {
            Some(status) => status_cells(status, now),
            None => ["", "", "", ""].map(str::to_owned),
        });
        row.push(member.version.clone());
        grid.push(row);
    }
    let counted =
        |count: usize, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let missing = match &reply.missing[..] {
        [] => String::new(),
        missing => format!(
            "Missing, and not left: {}. They may hold events that nobody else has.\n",
            missing.join(", ")
        ),
    };
    format!("{}\n{}\n{missing}", grid.draw(max_width), counted(reply.members.len(), "member"))
}

/// Shards owned, shards that it answers for, blocks that it lacks, and how old the oldest uncommitted five minutes are.
fn status_cells(status: &v1::StatusReply, now: EventTime) -> [String; 4] {
    let age = now.as_unix_ms() / 1000 - i64::from(status.oldest_uncommitted_s);
    let uncommitted = match status.oldest_uncommitted_s {
        0 => "nothing".to_owned(),
        _ => {
            let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
            let age = humantime::format_duration(age);
            let blocks = if status.journal_blocks == 1 { "block" } else { "blocks" };
            format!("{} {blocks}, {age}", status.journal_blocks)
        }
    };
    let behind = match status.blocks_behind {
        0 => "nothing".to_owned(),
        1 => "1 block".to_owned(),
        blocks => format!("{blocks} blocks"),
    };
    [status.shards_owned.to_string(), status.shards_ready.to_string(), behind, uncommitted]
}

fn placement_table(placement: &v1::PlacementReply, max_width: Option<usize>) -> String {
    let mut grid = Grid::new(vec![
        column("shard", Align::Right),
        column("asked, in this order", Align::Left),
        column("taking over", Align::Left),
    ]);
    let names = |positions: &[u32]| {
        let name = |&at: &u32| placement.nodes.get(at as usize).map(|node| node.id.as_str());
        positions.iter().filter_map(name).collect::<Vec<_>>().join(", ")
    };
    for (shard, owners) in placement.owners.iter().enumerate() {
        let settled = (owners.settled as usize).min(owners.writers.len());
        let (asked, joining) = owners.writers.split_at(settled);
        grid.push(vec![shard.to_string(), names(asked), names(joining)]);
    }
    let mut text = format!("{}\n", grid.draw(max_width));
    for (at, node) in placement.nodes.iter().enumerate() {
        let at = at as u32;
        let owned = placement.owners.iter().filter(|owners| owners.writers.contains(&at)).count();
        let first = placement.owners.iter().filter(|owners| owners.writers.first() == Some(&at)).count();
        text.push_str(&format!("{} owns {owned} shards, {first} of them as the first owner\n", node.id));
    }
    text.push_str(&format!(
        "{} shards, {} {} each\n",
        placement.shard_count,
        placement.replication,
        if placement.replication == 1 { "owner" } else { "owners" }
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, state: &str, status: Option<v1::StatusReply>) -> v1::Member {
        v1::Member {
            id: id.into(),
            role: "node".into(),
            state: state.into(),
            address: format!("10.0.0.1:{id}"),
            version: "0.1.0".into(),
            status,
            ..v1::Member::default()
        }
    }

    #[test]
    fn each_member_says_what_it_is_and_how_it_is_doing() {
        let status = v1::StatusReply {
            shards_owned: 3,
            shards_ready: 2,
            blocks_behind: 1,
            journal_blocks: 12,
            oldest_uncommitted_s: 600,
            ..v1::StatusReply::default()
        };
        let silent = v1::Member { doubtful: true, ..member("2", "active", None) };
        let reply = v1::MembersReply {
            members: vec![member("1", "joining", Some(status)), silent],
            missing: vec!["n9".into()],
        };
        let expected = "
 member  role  state                    address     shards  ready   behind       uncommitted  version
─────────────────────────────────────────────────────────────────────────────────────────────────────
 1       node  joining                  10.0.0.1:1       3      2  1 block  12 blocks, 5m 1s  0.1.0
 2       node  active, does not answer  10.0.0.1:2                                            0.1.0

2 members
Missing, and not left: n9. They may hold events that nobody else has.
";
        let table = members_table(&reply, EventTime::from_unix_ms(901_000), None);
        assert_eq!(table, expected[1..]);
    }

    #[test]
    fn a_placement_says_who_is_asked_and_who_takes_over() {
        let placement = v1::PlacementReply {
            shard_count: 2,
            replication: 1,
            nodes: vec![member("a", "active", None), member("b", "joining", None)],
            owners: vec![
                v1::Owners { writers: vec![0, 1], settled: 1 },
                v1::Owners { writers: vec![0], settled: 1 },
            ],
        };
        let expected = "
 shard  asked, in this order  taking over
─────────────────────────────────────────
     0  a                     b
     1  a

a owns 2 shards, 2 of them as the first owner
b owns 1 shards, 0 of them as the first owner
2 shards, 1 owner each
";
        assert_eq!(placement_table(&placement, None), expected[1..]);
    }
}
