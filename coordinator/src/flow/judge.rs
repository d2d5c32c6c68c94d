//! What the numbers say: the stages of the way of events, their condition, and what to do about it.
//!
//! Owns: which number belongs to which stage, from when on it is questionable or on fire, and the words for it. Pure.
//! Does not own: asking the nodes (`flow`), how fast numbers change (`window`).

mod words;

#[cfg(test)]
mod tests;

use super::window::{Change, Lately};
use std::time::Duration;
use tidemark_proto::v1;
use v1::Condition::{Fine, OnFire, Questionable};
use words::{ago, names, number, percent};

/// Of what was received lately: from which share on it is questionable, and on fire, that events are rejected or refused.
const SHARES: (f64, f64) = (0.01, 0.10);
/// The same for repeated events, which cost no number.
const DUPLICATE_SHARE: f64 = 0.5;
/// How long a block may wait for the journal's disk.
const JOURNAL_LAG: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How long a bucket may be due.
const FLUSH_LAG: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(600));
/// How far nodes may be apart in what they know to be committed: two buckets.
const COMMITS_APART: Duration = Duration::from_secs(600);
/// How long a commit may wait to be verified. A node that starts verifies two days of commits within this at the default pause.
const VERIFY_LAG: Duration = Duration::from_secs(6 * 3600);

/// A condition and why it is so.
type Verdict = (v1::Condition, String);

/// The stages, left to right.
pub(super) fn stages(flow: &v1::Flow, lately: &Lately) -> Vec<v1::Stage> {
    let cluster = Cluster::of(flow);
    vec![
        cluster.received(lately),
        cluster.rejected(lately),
        cluster.duplicate(lately),
        cluster.counted(lately),
        cluster.journaled(lately),
        cluster.flushed(lately),
        cluster.committed(lately),
        cluster.verified(lately),
    ]
}

/// The cluster, sorted for judging.
struct Cluster<'a> {
    flow: &'a v1::Flow,
    now_ms: u64,
    nodes: Vec<(&'a str, &'a v1::StatusReply, &'a v1::NodeFlow)>,
    /// Nodes in view that do not answer.
    silent: Vec<&'a str>,
    /// Nodes that went without leaving, or were given up a moment ago.
    away: Vec<&'a str>,
}

impl<'a> Cluster<'a> {
    fn of(flow: &'a v1::Flow) -> Self {
        let members = || flow.members.iter().filter(|member| member.role == "node");
        let told = |member: &'a v1::Member| {
            let status = member.status.as_ref()?;
            Some((member.id.as_str(), status, status.flow.as_ref()?))
        };
        let doubtful = members().filter(|member| member.doubtful).map(|member| member.id.as_str());
        let mut away: Vec<&str> = flow.missing.iter().map(String::as_str).chain(doubtful).collect();
        away.sort_unstable();
        away.dedup();
        Self {
            flow,
            now_ms: u64::try_from(flow.time_ms).unwrap_or_default(),
            nodes: members().filter_map(told).collect(),
            silent: members().filter(|&member| told(member).is_none()).map(|member| &*member.id).collect(),
            away,
        }
    }

    /// A stage of a counter, in parts by node.
    fn stage(
        &self,
        name: &str,
        unit: &str,
        change: Change,
        count: impl Fn(&v1::NodeFlow) -> u64,
    ) -> v1::Stage {
        let part = |(id, _, flow): &(&str, _, &v1::NodeFlow)| v1::StagePart {
            name: (*id).to_owned(),
            count: count(flow),
        };
        let parts: Vec<v1::StagePart> = self.nodes.iter().map(part).collect();
        v1::Stage {
            name: name.to_owned(),
            count: parts.iter().map(|part| part.count).sum(),
            unit: unit.to_owned(),
            per_second: change.per_second,
            parts,
            ..v1::Stage::default()
        }
    }

    fn since(&self, seconds: u32) -> Duration {
        Duration::from_millis(self.now_ms.saturating_sub(u64::from(seconds) * 1000))
    }

    /// The longest time since one of these, which are seconds since the epoch and 0 where there is none; and whose it is.
    fn longest(&self, since: impl Fn(&v1::NodeFlow) -> u32) -> Option<(Duration, &'a str)> {
        let set = self.nodes.iter().filter(|(.., flow)| since(flow) > 0);
        set.map(|(id, _, flow)| (self.since(since(flow)), *id)).max()
    }

    fn received(&self, lately: &Lately) -> v1::Stage {
        let stage = self.stage("received", "events", lately.received, |flow| flow.received_events);
        let mut verdicts = Vec::new();
        if self.nodes.is_empty() && self.silent.is_empty() {
            verdicts.push((OnFire, "No node is present, so nothing is taken in: start nodes, or see to it that this coordinator reaches them.".to_owned()));
        }
        let told = lately.counted.count + lately.duplicate.count + lately.rejected.count;
        let refused = lately.received.count.saturating_sub(told);
        verdicts.extend(graded(share(refused, lately.received), SHARES, |share| {
            format!(
                "{} of what is sent is refused as a whole, to be sent again: the cluster is short of memory, disk or owners, or \
                 batches are malformed. tidemark_batches_refused_total says which.",
                percent(share)
            )
        }));
        if !self.silent.is_empty() {
            let who = names(&self.silent);
            verdicts.push((Questionable, format!("{who} did not say in time how things are, and the numbers here lack it: see whether it runs, and its log.")));
        }
        let fine = format!("{} events were sent to the nodes since they started.", number(stage.count));
        judged(stage, None, verdicts, fine)
    }

    fn rejected(&self, lately: &Lately) -> v1::Stage {
        let mut stage = self.stage("rejected", "events", lately.rejected, rejected);
        stage.parts = self.by_reason();
        let most = stage.parts.iter().max_by_key(|part| part.count);
        let most = most.map_or(String::new(), |part| format!(", most of them as {}", part.name));
        let verdicts = graded(share(lately.rejected.count, lately.received), SHARES, |share| {
            format!(
                "{} of what is sent is rejected{most}: these events are not counted, and never will be. Correct what sends them.",
                percent(share)
            )
        });
        let fine = match stage.count {
            0 => "No event was rejected.".to_owned(),
            count => {
                format!("{} events were rejected{most}; lately less than 1 % of what is sent.", number(count))
            }
        };
        judged(stage, None, verdicts.into_iter().collect(), fine)
    }

    fn by_reason(&self) -> Vec<v1::StagePart> {
        let mut parts: Vec<v1::StagePart> = Vec::new();
        for part in self.nodes.iter().flat_map(|(.., flow)| &flow.rejected_events) {
            match parts.iter_mut().find(|known| known.name == part.name) {
                Some(known) => known.count += part.count,
                None => parts.push(part.clone()),
            }
        }
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        parts
    }

    fn duplicate(&self, lately: &Lately) -> v1::Stage {
        let stage = self.stage("duplicate", "events", lately.duplicate, |flow| flow.duplicate_events);
        let mut verdicts = Vec::new();
        let repeated = share(lately.duplicate.count, lately.received);
        if repeated > DUPLICATE_SHARE {
            verdicts.push((Questionable, format!("{} of what is sent had been counted before: harmless, but some producer does not get its acknowledgements, or begins its numbers anew.", percent(repeated))));
        }
        let fine =
            format!("{} events came again after they had been counted, and count once.", number(stage.count));
        judged(stage, None, verdicts, fine)
    }

    fn counted(&self, lately: &Lately) -> v1::Stage {
        let stage = self.stage("counted", "events", lately.counted, |flow| flow.counted_events);
        let mut verdicts = Vec::new();
        let replication = self.flow.placement.as_ref().map_or(1, |placement| placement.replication.max(1));
        if !self.away.is_empty() {
            let (who, owners) = (names(&self.away), number(replication.into()));
            verdicts.push(match self.away.len() >= replication as usize {
                true => (OnFire, format!("Without {who} events that are not committed may be nowhere, for each shard has {owners} owners: start what is missing again, with its journal. Answers say so until then.")),
                false => (Questionable, format!("{who} went without leaving. Others have what it has, but one more may be too many: start it again, or replace it.")),
            });
        }
        verdicts.extend(self.unready());
        let fine = format!(
            "{} events were counted, by every owner of their shard, before they were acknowledged.",
            number(stage.count)
        );
        judged(stage, None, verdicts, fine)
    }

    /// Nodes that do not answer for all they own.
    fn unready(&self) -> Option<Verdict> {
        let lacks = |status: &v1::StatusReply| status.shards_owned.saturating_sub(status.shards_ready);
        let unready = self.nodes.iter().filter(|(_, status, _)| lacks(status) > 0);
        let (ids, statuses): (Vec<&str>, Vec<&v1::StatusReply>) =
            unready.map(|(id, status, _)| (*id, *status)).unzip();
        let shards: u32 = statuses.iter().map(|status| lacks(status)).sum();
        let behind: u64 = statuses.iter().map(|status| status.blocks_behind).sum();
        (!ids.is_empty()).then(|| {
            let (who, shards, behind) = (names(&ids), number(shards.into()), number(behind));
            (Questionable, format!("{who} still compares {shards} shards with their other owners, and is {behind} blocks behind: others answer for these. It ends by itself; where it does not, see the log."))
        })
    }

    fn journaled(&self, lately: &Lately) -> v1::Stage {
        let stage = self.stage("journaled", "blocks", lately.journaled, |flow| flow.journaled_blocks);
        let slowest = self.nodes.iter().map(|(id, _, flow)| (flow.journal_lag_ms, *id)).max();
        let (lag_ms, slow) = slowest.unwrap_or_default();
        let mut verdicts: Vec<Verdict> = Vec::new();
        if let Some((id, _, flow)) = self.nodes.iter().find(|(.., flow)| !flow.journal_refuses.is_empty()) {
            let why = flow.journal_refuses.trim_end_matches('.');
            verdicts.push((OnFire, format!("The journal of {id} takes nothing ({why}), and senders are told to wait: make room on its disk, or see why buckets are not flushed.")));
        }
        verdicts.extend(timed(Duration::from_millis(lag_ms), JOURNAL_LAG, |lag| {
            format!(
                "Blocks wait {} for the disk of {slow}, and acknowledgements with them: see what slows that disk.",
                ago(lag)
            )
        }));
        let fine = format!(
            "{} blocks are or were in journals, once per owner; each was synced as its policy says.",
            number(stage.count)
        );
        judged(stage, (!self.nodes.is_empty()).then_some(lag_ms), verdicts, fine)
    }

    fn flushed(&self, lately: &Lately) -> v1::Stage {
        let stage = self.stage("flushed", "buckets", lately.flushed, |flow| flow.flushed_buckets);
        let (lag, who) = self.longest(|flow| flow.oldest_unflushed_s).unwrap_or_default();
        let mut verdicts: Vec<Verdict> = Vec::new();
        verdicts.extend(timed(lag, FLUSH_LAG, |lag| {
            format!(
                "A closed bucket has been due on {who} for {}: its events are safe in the journal, which fills. See whether the \
                 store can be reached, and tidemark_store_failures_total.",
                ago(lag)
            )
        }));
        if lately.flush_failures.count > 0 {
            let failed = number(lately.flush_failures.count);
            verdicts.push((
                Questionable,
                format!("{failed} flushes failed lately and are tried again: the log of the nodes says why."),
            ));
        }
        let fine =
            format!("{} commits were made of closed buckets; none is due for long.", number(stage.count));
        judged(stage, (!self.nodes.is_empty()).then_some(millis(lag)), verdicts, fine)
    }

    fn committed(&self, lately: &Lately) -> v1::Stage {
        let mut stage = self.stage("committed", "buckets", lately.committed, |flow| flow.committed_buckets);
        // All nodes know of the same ones.
        stage.count = stage.parts.iter().map(|part| part.count).max().unwrap_or_default();
        let newest = self.nodes.iter().map(|(id, _, flow)| (flow.newest_committed_s, *id));
        let (ahead, behind) = (newest.clone().max().unwrap_or_default(), newest.min().unwrap_or_default());
        let waits = self.nodes.iter().any(|(_, status, _)| status.journal_blocks > 0);
        let lag = (ahead.0 > 0 && waits).then(|| millis(self.since(ahead.0)));
        let mut verdicts = Vec::new();
        let apart = Duration::from_secs(ahead.0.saturating_sub(behind.0).into());
        if apart > COMMITS_APART {
            verdicts.push((
                Questionable,
                format!(
                    "{} lacks commits of the last {} that {} knows: see whether it can read the store.",
                    behind.1,
                    ago(apart),
                    ahead.1
                ),
            ));
        }
        let fine = match stage.count {
            0 => "Nothing is committed yet: five minutes are committed half a minute after they end."
                .to_owned(),
            count => {
                format!("{} buckets are in history for good; what came since is in journals.", number(count))
            }
        };
        judged(stage, lag, verdicts, fine)
    }

    fn verified(&self, lately: &Lately) -> v1::Stage {
        let stage = self.stage("verified", "buckets", lately.verified, |flow| flow.verified_buckets);
        let differing: u64 = self.nodes.iter().map(|(.., flow)| flow.differing_buckets).sum();
        let (lag, who) = self.longest(|flow| flow.oldest_unverified_s).unwrap_or_default();
        let is_off = !self.nodes.is_empty() && self.nodes.iter().all(|(.., flow)| !flow.verifies);
        let mut verdicts = Vec::new();
        if differing > 0 {
            let differing = number(differing);
            verdicts.push((OnFire, format!("{differing} committed buckets differ from their raw events: the log of the nodes names them, tidemark verify says how, and tidemark rebuild makes them anew.")));
        }
        if lag > VERIFY_LAG {
            verdicts.push((Questionable, format!("A commit of {who} has waited for {} to be verified: give verify_every a shorter time, or see whether its raw events can be read.", ago(lag))));
        }
        let fine = match (stage.count, is_off) {
            (0, true) => "Verifying in the background is switched off (verify_every): tidemark verify does it when asked.".to_owned(),
            (0, false) => "No commit was old enough to be verified yet.".to_owned(),
            (count, _) => format!("{} commits were counted anew from raw events, with equal results.", number(count)),
        };
        judged(stage, (!self.nodes.is_empty() && !is_off).then_some(millis(lag)), verdicts, fine)
    }
}

fn rejected(flow: &v1::NodeFlow) -> u64 {
    flow.rejected_events.iter().map(|part| part.count).sum()
}

/// The stage in the worst of these conditions, of which the first one says why; fine where there is none.
fn judged(stage: v1::Stage, lag_ms: Option<u64>, verdicts: Vec<Verdict>, fine: String) -> v1::Stage {
    let first = verdicts.into_iter().reduce(|first, next| if next.0 > first.0 { next } else { first });
    let (condition, explanation) = first.unwrap_or((Fine, fine));
    v1::Stage { lag_ms, condition: condition.into(), explanation, ..stage }
}

/// How much of what was received lately this is.
fn share(count: u64, received: Change) -> f64 {
    if received.count == 0 { 0.0 } else { count as f64 / received.count as f64 }
}

/// A verdict where a share is over the limits.
fn graded(share: f64, limits: (f64, f64), words: impl FnOnce(f64) -> String) -> Option<Verdict> {
    let condition = match share {
        share if share > limits.1 => OnFire,
        share if share > limits.0 => Questionable,
        _ => return None,
    };
    Some((condition, words(share)))
}

/// The same for a time.
fn timed(
    time: Duration,
    limits: (Duration, Duration),
    words: impl FnOnce(Duration) -> String,
) -> Option<Verdict> {
    let condition = match time {
        time if time > limits.1 => OnFire,
        time if time > limits.0 => Questionable,
        _ => return None,
    };
    Some((condition, words(time)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
