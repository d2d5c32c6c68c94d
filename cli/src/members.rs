//! `tidemark members`: which nodes a cluster has, as one of them sees it.
//!
//! Owns: asking a node, and the table of the answer.
//! Does not own: membership and placement (the node's).

use crate::output;
use crate::settings::values;
use crate::show::grid::{Align, Grid};
use anyhow::Context as _;
use clap::Args;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tonic::transport::Endpoint;

/// Where a node is unless one is named.
pub(crate) const DEFAULT_NODE: &str = "http://127.0.0.1:7100";
/// How long a node may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Which node to ask.
#[derive(Clone, Debug, Args)]
pub(crate) struct MembersOptions {
    /// Node to ask
    #[arg(
        long,
        value_name = "URL",
        value_parser = values::server,
        default_value = DEFAULT_NODE,
        env = "TIDEMARK_TO"
    )]
    to: String,
}

/// Asks, and prints the members.
pub(crate) async fn run(options: &MembersOptions) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(options.to.clone())
        .with_context(|| format!("{:?} is no address: give http://host:port", options.to))?;
    let channel = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect().await.map_err(|_| {
        anyhow::anyhow!(
            "no node answers at {}: start one with `tidemark node`, or say where it is with --to",
            options.to
        )
    })?;
    let placement = AdminClient::new(channel).placement(v1::PlacementRequest {}).await.map_err(|status| {
        anyhow::anyhow!(
            "{} does not tell its members: {}; a coordinator is no node",
            options.to,
            status.message()
        )
    })?;
    Ok(output::print(&table(&placement.into_inner(), output::terminal_width()))?)
}

fn table(placement: &v1::PlacementReply, max_width: Option<usize>) -> String {
    let column = |name: &str, align| (name.to_owned(), align);
    let mut grid = Grid::new(vec![
        column("node", Align::Left),
        column("address", Align::Left),
        column("shards", Align::Right),
    ]);
    for (at, member) in placement.members.iter().enumerate() {
        let shards = placement.owners.iter().filter(|&&owner| owner as usize == at).count();
        grid.push(vec![member.id.clone(), member.address.clone(), shards.to_string()]);
    }
    let nodes = match placement.members.len() {
        1 => "1 node".to_owned(),
        nodes => format!("{nodes} nodes"),
    };
    format!("{}\n{nodes}, {} shards\n", grid.draw(max_width), placement.shard_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_its_number_of_shards() {
        let member = |id: &str, address: &str| v1::Member { id: id.into(), address: address.into() };
        let placement = v1::PlacementReply {
            shard_count: 4,
            owners: vec![1, 0, 1, 1],
            members: vec![member("n1", "10.0.0.1:7100"), member("n2", "10.0.0.2:7100")],
        };
        let expected = "
 node  address        shards
────────────────────────────
 n1    10.0.0.1:7100       1
 n2    10.0.0.2:7100       3

2 nodes, 4 shards
";
        assert_eq!(table(&placement, None), expected[1..]);
    }
}
