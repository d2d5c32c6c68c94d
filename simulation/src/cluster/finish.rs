//! Everything has healed: now it has to add up.
//!
//! Owns: waiting until it can, and the checks at the end.
//! Does not own: healing (`faults`), checks meanwhile (`probe`).

use super::ask::{self, Views, admin};
use super::faults::Cluster;
use super::ledger::Counts;
use super::members::NODE_PORT;
use crate::context::HostContext;
use crate::net::HostId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::catalog::{Catalog, CatalogSettings};
use tidemark_history::compact::CompactorSettings;
use tidemark_history::verify::Verifier;
use tidemark_proto::v1;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::time::{BucketStart, EventTime};
use tokio_util::sync::CancellationToken;

/// How long load goes on after everything healed.
const GO_ON: Duration = Duration::from_secs(1);
/// How long each of the steps at the end may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether one is done.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Clocks are put forward so far that all buckets close.
const FORWARD: Duration = Duration::from_secs(400);
/// How long a call may take.
const CALL: Duration = Duration::from_secs(10);

/// What is not as it should be, yet.
type Check = Result<(), String>;

impl Cluster {
    /// Checks all that has to hold in the end. What does not is in the ledger.
    pub(crate) fn finish(&mut self, stop: &CancellationToken) {
        let result = self.adds_up(stop);
        let mut ledger = self.ledger.lock();
        if let Err(what) = result
            && ledger.violations.is_empty()
        {
            ledger.violated(what);
        }
    }

    /// The first thing that does not hold ends it: what follows would only follow from it.
    fn adds_up(&mut self, stop: &CancellationToken) -> Check {
        self.world.run_for(GO_ON);
        stop.cancel();
        self.until("nobody is leaving", |cluster| match cluster.is_anybody_leaving() {
            true => Err("somebody is".to_owned()),
            false => Ok(()),
        })?;
        self.start_crashed();
        self.until("all events are acknowledged", |cluster| {
            let finished = cluster.ledger.lock().finished;
            let all = cluster.setup.producers;
            (finished == all).then_some(()).ok_or_else(|| format!("{finished} of {all} producers are done"))
        })?;
        self.until("all nodes are active in everybody's eyes", Self::all_are_active)?;
        self.until("all owners have the same blocks", Self::coverage_is_equal)?;
        self.until("an answer is complete", |cluster| cluster.answers_add_up())?;
        self.put_clocks_forward();
        self.until("all journals are trimmed", Self::journals_are_empty)?;
        self.until("an answer is complete when all is committed", |cluster| cluster.answers_add_up())?;
        self.receipts_add_up()?;
        self.history_adds_up()?;
        (0..self.seats.len()).for_each(|node| self.crash(node, true));
        self.start_crashed();
        self.until("an answer from history alone is complete", |cluster| cluster.answers_add_up())
    }

    /// Waits until a check holds. A violation meanwhile ends it, too.
    fn until(&mut self, what: &str, check: impl Fn(&mut Self) -> Check) -> Check {
        let end = self.world.elapsed() + PATIENCE;
        loop {
            let last = check(self);
            if !self.ledger.lock().violations.is_empty() {
                return Err("something was violated meanwhile".to_owned());
            }
            if last.is_ok() {
                return Ok(());
            }
            if self.world.elapsed() >= end {
                return last
                    .map_err(|last| format!("{PATIENCE:?} after everything healed not yet: {what}: {last}"));
            }
            self.world.run_for(LOOK_EVERY);
        }
    }

    fn call<T: Send + 'static, F>(&mut self, what: impl FnOnce(HostContext) -> F) -> Result<T, String>
    where
        F: Future<Output = Result<T, tonic::Status>> + Send + 'static,
    {
        let reply = self.world.call(self.prober, CALL, what);
        reply.ok_or("no answer in time")?.map_err(|status| format!("{status:?}"))
    }

    fn address(&self, host: HostId) -> String {
        super::run::ip(host.0)
    }

    fn all_are_active(&mut self) -> Check {
        let expected = self.expected();
        let names: Vec<String> = expected.iter().map(|&host| self.world.name(host).to_owned()).collect();
        for &host in &expected {
            let members = self.members(host, false)?;
            let mut nodes: Vec<&v1::Member> =
                members.members.iter().filter(|member| member.role == "node").collect();
            nodes.sort_by_key(|member| &member.id);
            let are_all = nodes.iter().map(|node| &node.id).eq(&names);
            if !are_all || nodes.iter().any(|node| node.state != "active" || node.doubtful) {
                let seen: Vec<String> =
                    nodes.iter().map(|node| format!("{} {}", node.id, node.state)).collect();
                return Err(format!("{} sees {seen:?} instead of {names:?}", self.world.name(host)));
            }
        }
        Ok(())
    }

    fn members(&mut self, host: HostId, with_status: bool) -> Result<v1::MembersReply, String> {
        let address = self.address(host);
        self.call(move |context| async move {
            let mut client = admin(&context, &address, NODE_PORT);
            Ok(client.members(v1::MembersRequest { with_status }).await?.into_inner())
        })
    }

    fn placement(&mut self) -> Result<v1::PlacementReply, String> {
        let address = self.expected().first().map(|&host| self.address(host)).ok_or("no node is left")?;
        self.call(move |context| async move {
            Ok(admin(&context, &address, NODE_PORT).placement(v1::PlacementRequest {}).await?.into_inner())
        })
    }

    /// What no commit covers is the same on all owners of each shard.
    fn coverage_is_equal(&mut self) -> Check {
        let placement = self.placement()?;
        let mut held: BTreeMap<u32, Vec<(String, Coverage)>> = BTreeMap::new();
        for (at, node) in (0..).zip(&placement.nodes) {
            let of_node = (0..).zip(&placement.owners).filter(|(_, owners)| owners.writers.contains(&at));
            for (shard, owners) in of_node {
                // Nodes tell owners what they have: one of the others asks, or it itself where it is alone.
                let asker = owners.writers.iter().find(|&&other| other != at).unwrap_or(&at);
                let request = v1::CompareRequest {
                    shard_count: self.setup.shards.get(),
                    asker: placement.nodes[*asker as usize].id.clone(),
                    shards: vec![shard],
                    life: 0,
                };
                let address = node.address.clone();
                let reply = self.call(move |context| async move {
                    let mut client = ClusterClient::new(context.connect().connect(&address).unwrap());
                    Ok(client.compare_coverage(request).await?.into_inner())
                })?;
                if !reply.not_yet.is_empty() {
                    return Err(format!("{} does not tell yet", node.id));
                }
                let coverage = reply.holds.first().and_then(|of| of.coverage.as_ref());
                let coverage = coverage.and_then(Coverage::from_wire).unwrap_or_default();
                held.entry(shard).or_default().push((node.id.clone(), coverage));
            }
        }
        let lacks = held.iter().flat_map(|(shard, of)| {
            let mut all = Coverage::default();
            of.iter().for_each(|(_, coverage)| all.merge(coverage));
            of.iter().map(move |(node, coverage)| (shard, node, all.without(coverage)))
        });
        let lacks: Vec<String> = lacks
            .filter(|(.., lacks)| !lacks.is_empty())
            .map(|(shard, node, lacks)| format!("{node} lacks of shard {shard} {lacks:?}"))
            .collect();
        lacks.is_empty().then_some(()).ok_or_else(|| lacks.join("; "))
    }

    /// Through each coordinator: everything once.
    fn answers_add_up(&mut self) -> Check {
        for one in 0..self.setup.coordinators.len() {
            let (coordinator, range) = (self.setup.coordinators[one].clone(), self.setup.range());
            let views = self.call(move |context| async move {
                ask::views(&context, &coordinator, range.0, range.1).await
            })?;
            if !views.facts.complete {
                return Err(format!("it lacks {:?}", views.facts.missing));
            }
            self.holds_everything(&views)?;
        }
        Ok(())
    }

    /// A complete answer when nothing is on its way: that it is not right does not change any more.
    fn holds_everything(&self, views: &Views) -> Check {
        let mut ledger = self.ledger.lock();
        let difference = between(&ledger.acknowledged, &views.views, &ledger.sent);
        let doubled = views.visitors.iter().find(|&(cell, visitors)| views.views[cell] != *visitors);
        let doubled = doubled.map(|(cell, visitors)| {
            format!("{cell:?} has {} views of {visitors} visitors", views.views[cell])
        });
        if let Some(what) = difference.or(doubled) {
            let when = super::probe::at(self.world.elapsed());
            ledger.violated(format!(
                "{when}, all is well: a complete answer is wrong: {what}: {:?}",
                views.facts
            ));
        }
        Ok(())
    }

    fn put_clocks_forward(&mut self) {
        let hosts: Vec<HostId> = self.world.hosts().collect();
        for host in hosts {
            self.world.skew(host, FORWARD.as_millis() as i64);
        }
    }

    fn journals_are_empty(&mut self) -> Check {
        let Some(&first) = self.expected().first() else { return Err("no node is left".to_owned()) };
        let members = self.members(first, true)?;
        for member in members.members.iter().filter(|member| member.role == "node") {
            match &member.status {
                Some(status) if status.journal_blocks == 0 => {}
                Some(status) => return Err(format!("{} has {} blocks", member.id, status.journal_blocks)),
                None => return Err(format!("{} does not answer", member.id)),
            }
        }
        Ok(())
    }

    /// The first owners' receipts, together.
    fn receipts_add_up(&mut self) -> Check {
        let mut counted: BTreeMap<u32, u64> = BTreeMap::new();
        let placement = self.placement()?;
        for (at, node) in (0..).zip(&placement.nodes) {
            let shards = (0..).zip(&placement.owners).filter(|(_, of)| of.writers.first() == Some(&at));
            let shards: Vec<u32> = shards.map(|(shard, _)| shard).collect();
            if shards.is_empty() {
                continue;
            }
            let seconds = |time| BucketStart::containing(time).as_unix_seconds();
            let (from, to) = self.setup.range();
            let request =
                v1::ReceiptsRequest { site: String::new(), from_s: seconds(from), to_s: seconds(to), shards };
            let address = node.address.clone();
            let reply = self.call(move |context| async move {
                let link = context.connect().connect(&address).unwrap();
                Ok(v1::admin_client::AdminClient::new(link).receipts(request).await?.into_inner())
            })?;
            if !reply.gaps.is_empty() {
                return Err(format!("receipts of {} lack {:?}", node.id, reply.gaps));
            }
            for receipt in reply.receipts {
                *counted.entry(receipt.bucket_start_s).or_default() += receipt.counted;
                if !receipt.rejected.is_empty() {
                    return Err(format!("a receipt tells of rejected events: {receipt:?}"));
                }
            }
        }
        let ledger = self.ledger.lock();
        let by_bucket = |counts: &Counts| {
            let mut by_bucket: BTreeMap<(u32, u32), u64> = BTreeMap::new();
            counts.iter().for_each(|(cell, count)| *by_bucket.entry((cell.0, 0)).or_default() += count);
            by_bucket
        };
        let counted: Counts = counted.into_iter().map(|(bucket, count)| ((bucket, 0), count)).collect();
        match between(&by_bucket(&ledger.acknowledged), &counted, &by_bucket(&ledger.sent)) {
            None => Ok(()),
            Some(what) => Err(format!("receipts do not add up: {what}")),
        }
    }

    /// What is stored: equal to its raw events, each block in one commit, and no event that was not sent.
    fn history_adds_up(&mut self) -> Check {
        let shards = self.setup.shards;
        let (events, covered_again) = self
            .world
            .call(self.prober, PATIENCE, move |context| async move {
                let store = context.store();
                let catalog = Catalog::load(store.clone(), CatalogSettings::new(1)).await;
                let catalog = Arc::new(catalog.map_err(|error| error.to_string())?);
                let writer = NodeId::new("verifier").unwrap();
                let limit = tidemark_rollup::census::DEFAULT_LIMIT;
                let settings = CompactorSettings::new(shards, limit, writer, 7);
                let verifier = Verifier::new(store, Arc::clone(&catalog), &settings);
                let (from, to) = (EventTime::EPOCH, EventTime::from_unix_ms(4_000_000_000_000));
                let report =
                    verifier.verify(BucketStart::containing(from), BucketStart::containing(to)).await;
                let report = report.map_err(|error| error.to_string())?;
                if !report.is_equal() {
                    return Err(format!("verify finds differences: {:?}", report.differences));
                }
                let mut covered_again = None;
                for day in catalog.current().all_days() {
                    for bucket in day.open_buckets() {
                        for shard in shards.shards() {
                            let mut covered = Coverage::default();
                            for commit in day.bucket(bucket).commits {
                                let more = commit.coverage(shard);
                                if !covered.is_disjoint(&more) {
                                    covered_again = Some(format!("{} covers blocks again", commit.path()));
                                }
                                covered.merge(&more);
                            }
                        }
                    }
                }
                Ok((report.events, covered_again))
            })
            .ok_or("verify takes too long")??;
        if let Some(what) = covered_again {
            return Err(what);
        }
        let ledger = self.ledger.lock();
        let (least, most): (u64, u64) = (ledger.acknowledged.values().sum(), ledger.sent.values().sum());
        match (least..=most).contains(&events) {
            true => Ok(()),
            false => Err(format!("history has {events} events; {least} were acknowledged and {most} sent")),
        }
    }
}

/// Where counts are less than the least or more than the most.
fn between(least: &Counts, counts: &Counts, most: &Counts) -> Option<String> {
    let of = |counts: &Counts, cell| counts.get(cell).copied().unwrap_or_default();
    let cells = least.keys().chain(counts.keys());
    let mut wrong = cells.filter(|cell| !(of(least, cell)..=of(most, cell)).contains(&of(counts, cell)));
    wrong.next().map(|cell| {
        format!(
            "{cell:?} has {} of {} acknowledged and {} sent events",
            of(counts, cell),
            of(least, cell),
            of(most, cell)
        )
    })
}
