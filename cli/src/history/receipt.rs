//! `tidemark receipt`: what became of a site's events, bucket by bucket.

use super::Range;
use crate::members::DEFAULT_NODE;
use crate::output;
use crate::reach::ReachOptions;
use crate::settings::values;
use crate::show::grid::{Align, Grid};
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidemark_client::{Dial, Link, open};
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::admin_client::AdminClient;
use tidemark_rollup::time::BucketStart;

/// How long a node may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Whose events, and when.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReceiptOptions {
    /// Site, or * for all sites
    #[arg(long, value_name = "SITE")]
    site: String,

    #[command(flatten)]
    range: Range,

    /// Any node of the cluster; it tells the others
    #[arg(
        long = "node",
        value_name = "URL",
        value_parser = values::server,
        default_value = DEFAULT_NODE,
        env = "TIDEMARK_TO"
    )]
    node: String,

    #[command(flatten)]
    reach: ReachOptions,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What became of the events of one site and bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Receipt {
    counted: u64,
    duplicate: u64,
    late: u64,
    rejected: BTreeMap<String, u64>,
}

impl Receipt {
    fn received(&self) -> u64 {
        self.counted + self.duplicate + self.rejected.values().sum::<u64>()
    }

    fn add(&mut self, other: &Self) {
        self.counted += other.counted;
        self.duplicate += other.duplicate;
        self.late += other.late;
        other
            .rejected
            .iter()
            .for_each(|(reason, events)| *self.rejected.entry(reason.clone()).or_default() += events);
    }
}

type Receipts = BTreeMap<(u32, String), Receipt>;

/// Asks one owner of each shard, and prints what they say together.
pub(crate) async fn run(options: &ReceiptOptions) -> anyhow::Result<()> {
    let (from, to) = options.range.buckets()?;
    let dial = options.reach.dial([&options.node])?;
    // Nodes that are learnt of are reached as this one is.
    let scheme = if dial.tls.is_some() { "https://" } else { "http://" };
    let mut first = connect(&options.node, &dial).await?;
    let placement = first.placement(v1::PlacementRequest {}).await.map_err(|status| {
        anyhow::anyhow!(
            "{} does not tell who owns what: {}; a coordinator is no node",
            options.node,
            status.message()
        )
    })?;
    let (mut receipts, mut gaps) = (Receipts::new(), BTreeSet::new());
    for (node, shards) in tellers(placement.get_ref()) {
        let request = v1::ReceiptsRequest {
            site: options.site.clone(),
            from_s: from.as_unix_seconds(),
            to_s: to.as_unix_seconds(),
            shards,
        };
        let asked = async {
            let mut client = connect(&format!("{scheme}{}", node.address), &dial).await?;
            client.receipts(request).await.map_err(|status| anyhow::anyhow!("{}", status.message()))
        };
        match asked.await {
            Ok(reply) => {
                let reply = reply.into_inner();
                gaps.extend(reply.gaps);
                reply.receipts.iter().for_each(|receipt| add(&mut receipts, receipt));
            }
            Err(error) => _ = gaps.insert(format!("{}: {error:#}", node.id)),
        }
    }
    let text = match options.json {
        true => json_of(&receipts, &gaps),
        false => table(&receipts, &gaps, options.site == "*", output::terminal_width()),
    };
    output::print(&text)?;
    match gaps.is_empty() {
        true => Ok(()),
        false => anyhow::bail!("the receipts are not complete"),
    }
}

/// Which node is to tell of which shards: the first owner of each, so that each is told of once.
fn tellers(placement: &v1::PlacementReply) -> Vec<(v1::Member, Vec<u32>)> {
    let mut shards: Vec<Vec<u32>> = vec![Vec::new(); placement.nodes.len()];
    for (shard, owners) in (0..).zip(&placement.owners) {
        if let Some(shards) = owners.writers.first().and_then(|&first| shards.get_mut(first as usize)) {
            shards.push(shard);
        }
    }
    placement.nodes.iter().cloned().zip(shards).filter(|(_, shards)| !shards.is_empty()).collect()
}

async fn connect(node: &str, dial: &Dial) -> anyhow::Result<AdminClient<Link>> {
    let opened = tokio::time::timeout(TIMEOUT, open(node, dial)).await;
    let link = opened.map_err(|_| anyhow::anyhow!("no node answers at {node}"))??;
    Ok(AdminClient::new(link).max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES))
}

fn add(receipts: &mut Receipts, wire: &v1::Receipt) {
    let rejected = wire.rejected.iter().map(|rejected| (rejected.reason().name(), rejected.events));
    let receipt = Receipt {
        counted: wire.counted,
        duplicate: wire.duplicate,
        late: wire.late,
        rejected: rejected.collect(),
    };
    receipts.entry((wire.bucket_start_s, wire.site.clone())).or_default().add(&receipt);
}

fn total(receipts: &Receipts) -> Receipt {
    let mut total = Receipt::default();
    receipts.values().for_each(|receipt| total.add(receipt));
    total
}

fn time_of(seconds: u32) -> String {
    BucketStart::from_unix_seconds(seconds).map(|bucket| bucket.time().to_string()).unwrap_or_default()
}

fn json_of(receipts: &Receipts, gaps: &BTreeSet<String>) -> String {
    let one = |receipt: &Receipt| {
        json!({
            "received": receipt.received(),
            "counted": receipt.counted,
            "duplicate": receipt.duplicate,
            "late": receipt.late,
            "rejected": receipt.rejected,
        })
    };
    let rows: Vec<_> = receipts
        .iter()
        .map(|((seconds, site), receipt)| {
            let mut row = json!({"time": time_of(*seconds), "site": site});
            if let (Some(row), Some(numbers)) = (row.as_object_mut(), one(receipt).as_object()) {
                row.extend(numbers.clone());
            }
            row
        })
        .collect();
    let all = json!({"receipts": rows, "total": one(&total(receipts)), "complete": gaps.is_empty(), "missing": gaps});
    format!("{all:#}\n")
}

fn table(receipts: &Receipts, gaps: &BTreeSet<String>, with_site: bool, max_width: Option<usize>) -> String {
    let column = |name: &str, align| (name.to_owned(), align);
    let mut columns = vec![column("time", Align::Left)];
    if with_site {
        columns.push(column("site", Align::Left));
    }
    let numbers = ["received", "counted", "duplicate", "rejected", "late"];
    columns.extend(numbers.map(|name| column(name, Align::Right)));
    columns.push(column("reasons", Align::Left));
    let mut grid = Grid::new(columns);
    let mut push = |time: String, site: &str, receipt: &Receipt| {
        let mut row = vec![time];
        if with_site {
            row.push(site.to_owned());
        }
        let rejected: u64 = receipt.rejected.values().sum();
        let numbers = [receipt.received(), receipt.counted, receipt.duplicate, rejected, receipt.late];
        row.extend(numbers.map(|number| number.to_string()));
        let reasons: Vec<String> =
            receipt.rejected.iter().map(|(reason, events)| format!("{reason} {events}")).collect();
        row.push(reasons.join(", "));
        grid.push(row);
    };
    receipts.iter().for_each(|((seconds, site), receipt)| push(time_of(*seconds), site, receipt));
    push("total".to_owned(), "", &total(receipts));
    let mut text = format!(
        "{}\nreceived = counted + duplicate + rejected; late events are counted\n",
        grid.draw(max_width)
    );
    for gap in gaps {
        text += &format!("NOT COMPLETE: {gap}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_say_of_one_bucket_is_added_up() {
        let mut receipts = Receipts::new();
        let wire = v1::Receipt {
            site: "s.de".into(),
            bucket_start_s: 300,
            counted: 5,
            duplicate: 2,
            rejected: vec![v1::RejectedCount { reason: v1::Reason::TooLate.into(), events: 1 }],
            late: 3,
        };
        add(&mut receipts, &wire);
        add(&mut receipts, &v1::Receipt { rejected: vec![], ..wire });
        assert_eq!(total(&receipts).received(), 15);
        let expected = "
 time                  received  counted  duplicate  rejected  late  reasons
───────────────────────────────────────────────────────────────────────────────
 1970-01-01T00:05:00Z        15       10          4         1     6  too_late 1
 total                       15       10          4         1     6  too_late 1

received = counted + duplicate + rejected; late events are counted
";
        assert_eq!(table(&receipts, &BTreeSet::new(), false, None), expected[1..]);
    }
}
